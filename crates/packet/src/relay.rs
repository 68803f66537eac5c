//! Relayed datagrams (control rule 14): what travels in a member's tunnel with a relay, beside IP packets and control
//! frames.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `0xE0` and the version, 1: neither an IP packet nor a control frame begins so |
//! | 1 | direction: 0 to the relay, 1 from the relay |
//! | 2 | length of the datagram in bytes, high byte first |
//! | 16 | node id: the destination's on the way to the relay, the source's on the way from it |
//! | n | the datagram: one WireGuard message, of any type |
//! | 0 to 15 | zeros, by which WireGuard fills messages up |
//!
//! The relay stamps the source over the destination, in place. It cannot see what the datagram contains, and whoever
//! receives it believes it as little as one from the underlay.

use crate::bucket::{Bucket, Rate};
use crate::message::MessageType;

/// Length of what comes before the datagram.
pub const HEADER_LEN: usize = 20;

/// Mark and version.
const FIRST: u8 = 0xe1;

/// WireGuard fills messages up to a multiple of 16 bytes (§5.4.6).
const PADDING_MAX: usize = 15;

/// Whether a decrypted message is a relayed datagram, of whatever version.
pub fn is_relayed(message: &[u8]) -> bool {
    message.first().is_some_and(|first| first & 0xf0 == 0xe0)
}

/// Which way a relayed datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the relay; the node id is the destination's.
    ToRelay,
    /// From the relay; the node id is the source's.
    FromRelay,
}

/// Why a relayed datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayDrop {
    /// Not a relayed datagram of this version, or of the wrong length.
    Malformed,
    /// What it contains is no WireGuard message.
    NotWireGuard,
    /// The pair has had its initiations for now.
    Initiations,
    /// The pair has had its bytes for now.
    Bytes,
}

/// A relayed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed<'a> {
    /// Which way.
    pub direction: Direction,
    /// Destination or source.
    pub node: [u8; 16],
    /// The WireGuard message.
    pub datagram: &'a [u8],
    /// What kind of message it is.
    pub kind: MessageType,
}

impl<'a> Relayed<'a> {
    /// Reads a decrypted message that [`is_relayed`].
    ///
    /// # Errors
    /// [`RelayDrop::Malformed`] and [`RelayDrop::NotWireGuard`]. Total: any bytes are met.
    pub fn parse(message: &'a [u8]) -> Result<Self, RelayDrop> {
        let (header, rest) = message.split_first_chunk::<HEADER_LEN>().ok_or(RelayDrop::Malformed)?;
        let [FIRST, direction, high, low, node @ ..] = *header else { return Err(RelayDrop::Malformed) };
        let direction = match direction {
            0 => Direction::ToRelay,
            1 => Direction::FromRelay,
            _ => return Err(RelayDrop::Malformed),
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (datagram, padding) = rest.split_at_checked(length).ok_or(RelayDrop::Malformed)?;
        if padding.len() > PADDING_MAX || padding.iter().any(|&byte| byte != 0) {
            return Err(RelayDrop::Malformed);
        }
        let kind = MessageType::classify(datagram).map_err(|_| RelayDrop::NotWireGuard)?;
        Ok(Self { direction, node, datagram, kind })
    }
}

/// Writes the header of a datagram of `length` bytes that follows it.
pub fn write_header(header: &mut [u8; HEADER_LEN], direction: Direction, node: &[u8; 16], length: u16) {
    header[0] = FIRST;
    header[1] = match direction {
        Direction::ToRelay => 0,
        Direction::FromRelay => 1,
    };
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[4..].copy_from_slice(node);
}

/// What the relay does with a message that was parsed as [`Direction::ToRelay`], in place: it stamps the source.
///
/// # Errors
/// [`RelayDrop::Malformed`] where there is no room for a header.
pub fn stamp_source(message: &mut [u8], source: &[u8; 16]) -> Result<(), RelayDrop> {
    let header = message.first_chunk_mut::<HEADER_LEN>().ok_or(RelayDrop::Malformed)?;
    header[1] = 1;
    header[4..].copy_from_slice(source);
    Ok(())
}

/// What one pair of nodes may send through a relay, each way by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairRates {
    /// Handshake initiations: what costs the receiver an X25519.
    pub initiations: Rate,
    /// Bytes of datagrams.
    pub bytes: Rate,
}

impl Default for PairRates {
    /// One initiation a second, ten at once; 625 MB (5 Gbit) a second, 16 MB at once.
    fn default() -> Self {
        Self {
            initiations: Rate { per_second: 1, burst: 10 },
            bytes: Rate { per_second: 625_000_000, burst: 16_000_000 },
        }
    }
}

/// Keeps a pair within its [`PairRates`]: 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairLimit {
    initiations: Bucket,
    bytes: Bucket,
}

impl PairLimit {
    /// Lets a datagram pass, or says why not. `now` in nanoseconds.
    ///
    /// # Errors
    /// [`RelayDrop::Initiations`] and [`RelayDrop::Bytes`].
    pub fn admit(&mut self, rates: PairRates, relayed: &Relayed<'_>, now: u64) -> Result<(), RelayDrop> {
        if relayed.kind == MessageType::Initiation && !self.initiations.take(rates.initiations, 1, now) {
            return Err(RelayDrop::Initiations);
        }
        let length = u64::try_from(relayed.datagram.len()).unwrap_or(u64::MAX);
        if !self.bytes.take(rates.bytes, length, now) {
            return Err(RelayDrop::Bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message of the type, with the length that the type has.
    fn datagram(kind: u8) -> Vec<u8> {
        let mut message = vec![0; [0, 148, 92, 64, 32][usize::from(kind)]];
        message[0] = kind;
        message
    }

    fn message(kind: u8) -> Vec<u8> {
        let (mut header, datagram) = ([0; HEADER_LEN], datagram(kind));
        write_header(&mut header, Direction::ToRelay, &[7; 16], datagram.len() as u16);
        [&header[..], &datagram].concat()
    }

    #[test]
    fn the_header_is_as_specified_control_rule_14() {
        let message = message(4);
        assert_eq!(message[..4], [0xe1, 0, 0, 32]);
        assert_eq!((&message[4..20], &message[20..24]), (&[7; 16][..], &[4, 0, 0, 0][..]));
        assert!(is_relayed(&message) && !is_relayed(&[0x45]) && !is_relayed(&[0xf1]) && !is_relayed(&[]));
        let padded = [&message[..], &[0; 12]].concat();
        for message in [&message, &padded] {
            let relayed = Relayed::parse(message).unwrap();
            assert_eq!((relayed.direction, relayed.node), (Direction::ToRelay, [7; 16]));
            assert_eq!(relayed.datagram, datagram(4));
        }
    }

    #[test]
    fn the_relay_stamps_the_source_control_rule_14() {
        let mut message = message(1);
        stamp_source(&mut message, &[9; 16]).unwrap();
        let relayed = Relayed::parse(&message).unwrap();
        assert_eq!((relayed.direction, relayed.node), (Direction::FromRelay, [9; 16]));
        assert_eq!(stamp_source(&mut [0xe1; 19], &[9; 16]), Err(RelayDrop::Malformed));
    }

    #[test]
    fn nothing_but_wireguard_is_relayed_and_nothing_relayed_twice_control_rule_14() {
        let inner = message(4);
        let mut header = [0; HEADER_LEN];
        write_header(&mut header, Direction::ToRelay, &[7; 16], inner.len() as u16);
        assert_eq!(Relayed::parse(&[&header[..], &inner].concat()), Err(RelayDrop::NotWireGuard));
        let good = message(2);
        for (index, value) in [(0, 0xe2), (1, 2), (3, 93), (3, 200)] {
            let mut bad = good.clone();
            bad[index] = value;
            assert_eq!(Relayed::parse(&bad), Err(RelayDrop::Malformed), "byte {index}");
        }
        assert_eq!(Relayed::parse(&[&good[..], &[0, 1]].concat()), Err(RelayDrop::Malformed));
        assert_eq!(Relayed::parse(&[&good[..], &[0; 16]].concat()), Err(RelayDrop::Malformed));
    }

    #[test]
    fn a_pair_is_limited_in_initiations_and_bytes_control_rule_14() {
        let rates = PairRates {
            initiations: Rate { per_second: 1, burst: 3 },
            bytes: Rate { per_second: 1000, burst: 1000 },
        };
        let mut limit = PairLimit::default();
        let (initiation, data) = (message(1), message(4));
        let admit = |limit: &mut PairLimit, bytes: &[u8], now| {
            limit.admit(rates, &Relayed::parse(bytes).unwrap(), now)
        };
        let admitted = (0..10).filter(|_| admit(&mut limit, &initiation, 0).is_ok()).count();
        assert_eq!(admitted, 3);
        assert_eq!(admit(&mut limit, &initiation, 0), Err(RelayDrop::Initiations));
        assert_eq!(admit(&mut limit, &data, 0), Ok(()), "data is not held back by them");
        let more = (0..100).filter(|_| admit(&mut limit, &data, 0).is_ok()).count();
        assert_eq!(more, 16, "what is left of 1000 bytes after 3 × 148 + 32");
        assert_eq!(admit(&mut limit, &data, 0), Err(RelayDrop::Bytes));
        assert_eq!(admit(&mut limit, &data, 1_000_000_000), Ok(()));
    }

    proptest! {
        #[test]
        fn any_message_is_met_without_a_panic(mut message in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Relayed::parse(&message);
            if let Some(first) = message.first_mut() {
                *first = FIRST;
            }
            let _ = Relayed::parse(&message);
        }
    }
}
