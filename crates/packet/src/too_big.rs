//! The answers to packets that cannot go on. One too big for its path: ICMP "fragmentation needed and DF set" (RFC 792, RFC 1191
//! §4) and ICMPv6 "packet too big" (RFC 4443 §3.2). One for a machine that cannot be reached: ICMP "host unreachable" and ICMPv6
//! "address unreachable" (RFC 4443 §3.1).

use std::net::IpAddr;

use crate::checksum::{Sum, pseudo_header};
use crate::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, protocol};
use crate::{Fragment, IpPacket, IpVersion};

/// The smallest path MTU that IPv6 knows (RFC 8200 §5): an answer never tells less.
pub const IPV6_MINIMUM_MTU: usize = 1280;

/// Longest answer in bytes, the minimum MTU of IPv6; those over IPv4 have at most 576 (RFC 1812 §4.3.2.3).
pub const TOO_BIG_ANSWER_MAX: usize = IPV6_MINIMUM_MTU;

const IPV4_ANSWER_MAX: usize = 576;
const ICMP_HEADER_LEN: usize = 8;
const TTL: u8 = 64;

/// Longest answer of [`unreachable_answer`] in bytes.
pub const UNREACHABLE_ANSWER_MAX: usize = TOO_BIG_ANSWER_MAX;

/// What an ICMP error says, for both versions.
struct Message {
    v4: (u8, u8, [u8; 4]),
    v6: (u8, u8, [u8; 4]),
}

/// Writes the answer to the sender of `packet` to the front of `out`, and says how long it is in bytes; `mtu` is what
/// the path takes. `None`: such a packet is not answered (RFC 1812 §4.3.2.7, RFC 4443 §2.4): it is itself an ICMP
/// error, a later fragment, or goes to or comes from an address that is not one machine's.
///
/// The answer comes from the address that the packet was for. It enters the machine through the TUN, where the
/// kernel refuses a packet that comes from one of its own addresses, and where that one is the address that belongs there.
pub fn too_big_answer(
    packet: &IpPacket<'_>,
    mtu: usize,
    out: &mut [u8; TOO_BIG_ANSWER_MAX],
) -> Option<usize> {
    let [high, low] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
    let v6 = (mtu.max(IPV6_MINIMUM_MTU) as u32).to_be_bytes();
    answer(packet, &Message { v4: (3, 4, [0, 0, high, low]), v6: (2, 0, v6) }, out)
}

/// As [`too_big_answer`], for a packet whose destination cannot be reached.
pub fn unreachable_answer(packet: &IpPacket<'_>, out: &mut [u8; UNREACHABLE_ANSWER_MAX]) -> Option<usize> {
    answer(packet, &Message { v4: (3, 1, [0; 4]), v6: (1, 3, [0; 4]) }, out)
}

fn answer(packet: &IpPacket<'_>, message: &Message, out: &mut [u8; TOO_BIG_ANSWER_MAX]) -> Option<usize> {
    let (source, destination) = (packet.source(), packet.destination());
    if packet.fragment() == Fragment::Later
        || is_icmp_error(packet)
        || !is_one_machine(source)
        || !is_one_machine(destination)
    {
        return None;
    }
    match packet.version() {
        IpVersion::V4 => {
            let headers = IPV4_HEADER_LEN + ICMP_HEADER_LEN;
            let quoted = quote(packet, IPV4_ANSWER_MAX - headers);
            let len = headers + quoted.len();
            let answer = &mut out[..len];
            answer.fill(0);
            answer[0] = 0x45;
            answer[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            answer[8] = TTL;
            answer[9] = protocol::ICMP;
            answer[12..16].copy_from_slice(&packet.as_bytes()[16..20]);
            answer[16..20].copy_from_slice(&packet.as_bytes()[12..16]);
            let sum = Sum::of(&answer[..IPV4_HEADER_LEN]).checksum();
            answer[10..12].copy_from_slice(&sum.to_be_bytes());
            let icmp = &mut answer[IPV4_HEADER_LEN..];
            (icmp[0], icmp[1]) = (message.v4.0, message.v4.1);
            icmp[4..8].copy_from_slice(&message.v4.2);
            icmp[ICMP_HEADER_LEN..].copy_from_slice(quoted);
            let sum = Sum::of(icmp).checksum();
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(len)
        }
        IpVersion::V6 => {
            let headers = IPV6_HEADER_LEN + ICMP_HEADER_LEN;
            let quoted = quote(packet, TOO_BIG_ANSWER_MAX - headers);
            let len = headers + quoted.len();
            let answer = &mut out[..len];
            answer.fill(0);
            let icmp_len = ICMP_HEADER_LEN + quoted.len();
            answer[0] = 0x60;
            answer[4..6].copy_from_slice(&(icmp_len as u16).to_be_bytes());
            answer[6] = protocol::ICMP_V6;
            answer[7] = TTL;
            answer[8..24].copy_from_slice(&packet.as_bytes()[24..40]);
            answer[24..40].copy_from_slice(&packet.as_bytes()[8..24]);
            let (addresses, icmp) = answer.split_at_mut(IPV6_HEADER_LEN);
            (icmp[0], icmp[1]) = (message.v6.0, message.v6.1);
            icmp[4..8].copy_from_slice(&message.v6.2);
            icmp[ICMP_HEADER_LEN..].copy_from_slice(quoted);
            let sum = pseudo_header(&addresses[8..24], &addresses[24..40], protocol::ICMP_V6, icmp_len)
                .add_bytes(icmp)
                .checksum();
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            Some(len)
        }
    }
}

fn quote<'a>(packet: &IpPacket<'a>, most: usize) -> &'a [u8] {
    &packet.as_bytes()[..packet.total_len().min(most)]
}

fn is_icmp_error(packet: &IpPacket<'_>) -> bool {
    let kind = packet.payload().first();
    match packet.protocol() {
        // Unreachable, source quench, redirect, time exceeded, parameter problem. One whose type is cut off may be any.
        protocol::ICMP => kind.is_none_or(|kind| [3, 4, 5, 11, 12].contains(kind)),
        // Errors are below 128 (RFC 4443 §2.1); a redirect is not answered either (§2.4 e.2).
        protocol::ICMP_V6 => kind.is_none_or(|kind| *kind < 128 || *kind == 137),
        _ => false,
    }
}

fn is_one_machine(address: IpAddr) -> bool {
    let broadcast =
        matches!(address, IpAddr::V4(address) if address.is_broadcast() || address.octets()[0] == 0);
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}

impl IpPacket<'_> {
    /// Whether no router may fragment the packet: the bit of IPv4; IPv6 always.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.version() == IpVersion::V6 || self.as_bytes()[6] & 0x40 != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_packets::{Spec, slow_sum};

    fn answer(bytes: &[u8], mtu: usize) -> Option<Vec<u8>> {
        let mut out = [0xee; TOO_BIG_ANSWER_MAX];
        let len = too_big_answer(&IpPacket::parse(bytes).unwrap(), mtu, &mut out)?;
        assert!(out[len..].iter().all(|&byte| byte == 0xee), "nothing is written behind the answer");
        Some(out[..len].to_vec())
    }

    #[test]
    fn ipv4_is_told_the_mtu_and_shown_its_own_packet() {
        let packet = Spec::new(false, false, vec![7; 1400]).build();
        let answer = answer(&packet, 1200).unwrap();
        assert_eq!(answer.len(), 576);
        let ip = IpPacket::parse(&answer).unwrap();
        assert_eq!((ip.source(), ip.destination()), ([10, 0, 0, 2].into(), [10, 0, 0, 1].into()));
        assert_eq!((ip.protocol(), slow_sum(&answer[..20])), (1, 0xffff));
        let icmp = ip.payload();
        assert_eq!((icmp[0], icmp[1], &icmp[4..8]), (3, 4, &[0, 0, 4, 176][..]));
        assert_eq!(slow_sum(icmp), 0xffff);
        assert_eq!(icmp[8..], packet[..548]);
    }

    #[test]
    fn ipv6_is_told_no_less_than_1280() {
        let packet = Spec::new(true, false, vec![7; 1400]).build();
        for (mtu, told) in [(1200, 1280_u32), (1340, 1340)] {
            let answer = answer(&packet, mtu).unwrap();
            assert_eq!(answer.len(), 1280);
            let ip = IpPacket::parse(&answer).unwrap();
            assert_eq!(ip.source(), "fd00::2".parse::<IpAddr>().unwrap());
            assert_eq!(ip.destination(), "fd00::1".parse::<IpAddr>().unwrap());
            let icmp = ip.payload();
            assert_eq!((icmp[0], icmp[1]), (2, 0));
            assert_eq!(icmp[4..8], told.to_be_bytes());
            let mut whole = answer[8..40].to_vec();
            whole.extend((icmp.len() as u32).to_be_bytes());
            whole.extend([0, 0, 0, 58]);
            whole.extend(icmp);
            assert_eq!(slow_sum(&whole), 0xffff);
            assert_eq!(icmp[8..], packet[..1232]);
        }
    }

    #[test]
    fn who_cannot_be_reached_is_named() {
        for (ipv6, kind) in [(false, [3, 1]), (true, [1, 3])] {
            let packet = Spec::new(ipv6, false, vec![7; 100]).build();
            let mut out = [0; UNREACHABLE_ANSWER_MAX];
            let len = unreachable_answer(&IpPacket::parse(&packet).unwrap(), &mut out).unwrap();
            let answer = IpPacket::parse(&out[..len]).unwrap();
            let icmp = answer.payload();
            assert_eq!((&icmp[..2], &icmp[4..8]), (&kind[..], &[0; 4][..]));
            assert_eq!(icmp[8..], packet[..]);
        }
    }

    /// RFC 1812 §4.3.2.7, RFC 4443 §2.4.
    #[test]
    fn errors_fragments_and_groups_get_no_answer() {
        let mut v4 = Spec::new(false, false, vec![0; 1400]).build();
        v4[9] = protocol::ICMP;
        let mut v6 = Spec::new(true, false, vec![0; 1400]).build();
        v6[6] = protocol::ICMP_V6;
        for kind in 0..=255_u8 {
            v4[20] = kind;
            assert_eq!(answer(&v4, 1200).is_none(), [3, 4, 5, 11, 12].contains(&kind), "ICMP {kind}");
            v6[40] = kind;
            assert_eq!(answer(&v6, 1200).is_none(), kind < 128 || kind == 137, "ICMPv6 {kind}");
        }
        let good = Spec::new(false, false, vec![0; 1400]).build();
        for (at, value) in [(16, 224), (16, 239), (12, 224), (12, 127), (12, 0), (6, 0x1f)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(answer(&bad, 1200), None, "byte {at} = {value}");
        }
        let mut bad = good;
        bad[16..20].fill(255);
        assert_eq!(answer(&bad, 1200), None);
        let mut group = Spec::new(true, false, vec![0; 1400]).build();
        group[24] = 0xff;
        assert_eq!(answer(&group, 1200), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_met_and_no_answer_is_longer_than_it_and_headers(
            bytes in prop::collection::vec(any::<u8>(), 20..1500), ipv6 in any::<bool>(), mtu in any::<u16>(),
        ) {
            let mut bytes = bytes;
            bytes[0] = if ipv6 { 0x60 } else { 0x45 };
            let len = if ipv6 { bytes.len().saturating_sub(40) } else { bytes.len() };
            let at = if ipv6 { 4 } else { 2 };
            bytes[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
            if let Ok(packet) = IpPacket::parse(&bytes) {
                let mut out = [0; TOO_BIG_ANSWER_MAX];
                if let Some(written) = too_big_answer(&packet, mtu.into(), &mut out) {
                    prop_assert!(written <= bytes.len() + 48);
                    prop_assert_eq!(IpPacket::parse(&out[..written]).unwrap().total_len(), written);
                }
            }
        }
    }
}
