//! Packets of peers that have not been verified yet: they wait for the promotion, and are delivered with it
//! or dropped with the peer (control rule 9).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrayvec::ArrayVec;
use tombolo_noise::clock::Instant;
use tombolo_packet::ip::{IpPacket, ecn_decapsulate};
use tombolo_packet::{DropCounters, DropReason};

/// Packets of one peer at most (control rule 9).
const MAX_PACKETS: usize = 8;
/// Bytes of all peers at most: what 256 provisional peers send with packets of 1500 bytes fits.
const MAX_TOTAL_BYTES: usize = 4 << 20;
/// Whoever sent a packet so long ago has sent it again, or given up. As long as a provisional peer lives.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The bytes that are held of all peers together.
#[derive(Default)]
pub(crate) struct HeldBudget(AtomicUsize);

struct HeldPacket {
    bytes: Box<[u8]>,
    received: Instant,
}

type Packets = ArrayVec<HeldPacket, MAX_PACKETS>;

/// What is held of one peer, oldest first. Most peers never have any: boxed, so that they are small.
#[derive(Default)]
pub(crate) struct Held(Mutex<Option<Box<Packets>>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, Option<Box<Packets>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Packets {
        self.lock().take().map(|packets| *packets).unwrap_or_default()
    }

    /// Keeps the packet of a decrypted message that came with this outer ECN field. Where there are enough, the first ones
    /// stay: with them the peer begins.
    ///
    /// # Errors
    /// [`DropReason::TooManyHeld`], and those of packets that would never be delivered.
    pub(crate) fn push(
        &self,
        message: &[u8],
        ecn: u8,
        now: Instant,
        budget: &HeldBudget,
    ) -> Result<(), DropReason> {
        let len = IpPacket::parse(message)?.total_len();
        let mut packets = self.lock();
        let packets = packets.get_or_insert_default();
        packets.retain(|packet| {
            let keep = now.saturating_duration_since(packet.received) < MAX_AGE;
            budget.release(if keep { 0 } else { packet.bytes.len() });
            keep
        });
        if packets.is_full() || budget.0.load(Ordering::Relaxed) + len > MAX_TOTAL_BYTES {
            return Err(DropReason::TooManyHeld);
        }
        let mut bytes: Box<[u8]> = message[..len].into();
        ecn_decapsulate(&mut bytes, ecn)?;
        budget.0.fetch_add(len, Ordering::Relaxed);
        packets.push(HeldPacket { bytes, received: now });
        Ok(())
    }

    /// Hands on, in order, what is not too old.
    pub(crate) fn deliver(
        &self,
        now: Instant,
        budget: &HeldBudget,
        drops: &DropCounters,
        mut deliver: impl FnMut(&[u8]),
    ) {
        for packet in self.take() {
            budget.release(packet.bytes.len());
            if now.saturating_duration_since(packet.received) < MAX_AGE {
                deliver(&packet.bytes);
            } else {
                drops.count(DropReason::NotAuthorised);
            }
        }
    }

    /// Throws all packets away.
    pub(crate) fn clear(&self, budget: &HeldBudget, drops: &DropCounters) {
        for packet in self.take() {
            budget.release(packet.bytes.len());
            drops.count(DropReason::NotAuthorised);
        }
    }
}

impl HeldBudget {
    fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(number: u8, len: u16) -> Vec<u8> {
        let mut packet = vec![0; len.into()];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[19] = number;
        packet
    }

    fn delivered(held: &Held, budget: &HeldBudget, drops: &DropCounters, now: Instant) -> Vec<u8> {
        let mut seen = Vec::new();
        held.deliver(now, budget, drops, |packet| seen.push(packet[19]));
        seen
    }

    #[test]
    fn eight_are_held_and_delivered_in_order_control_rule_9() {
        let (held, budget, drops, now) =
            (Held::default(), HeldBudget::default(), DropCounters::default(), Instant::default());
        for number in 0..20 {
            // With the filling that messages have.
            let message = [packet(number, 20), vec![0; 12]].concat();
            let kept = held.push(&message, 0, now, &budget);
            assert_eq!(kept, if number < 8 { Ok(()) } else { Err(DropReason::TooManyHeld) });
        }
        assert_eq!(held.push(&[1, 2, 3], 0, now, &budget), Err(DropReason::MalformedPacket));
        assert_eq!(budget.0.load(Ordering::Relaxed), 8 * 20);
        assert_eq!(delivered(&held, &budget, &drops, now), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    /// RFC 6040 §4.2, as for packets that need not wait.
    #[test]
    fn what_is_held_has_the_mark_of_its_outer_header() {
        use tombolo_packet::ip::ecn::{CAPABLE_0, CAPABLE_1, CONGESTION, NOT_CAPABLE};
        let (held, budget, drops, now) =
            (Held::default(), HeldBudget::default(), DropCounters::default(), Instant::default());
        let mut expected = Vec::new();
        for (inner, outer, delivered) in [
            (NOT_CAPABLE, CAPABLE_0, Some(NOT_CAPABLE)),
            (NOT_CAPABLE, CONGESTION, None),
            (CAPABLE_0, CAPABLE_1, Some(CAPABLE_1)),
            (CAPABLE_0, CONGESTION, Some(CONGESTION)),
            (CAPABLE_1, CAPABLE_0, Some(CAPABLE_1)),
            (CAPABLE_1, CONGESTION, Some(CONGESTION)),
            (CONGESTION, NOT_CAPABLE, Some(CONGESTION)),
        ] {
            let mut bytes = packet(0, 20);
            bytes[1] = inner;
            let kept = held.push(&bytes, outer, now, &budget);
            assert_eq!(kept, delivered.map(drop).ok_or(DropReason::CongestionMarked));
            expected.extend(delivered);
        }
        let mut seen = Vec::new();
        held.deliver(now, &budget, &drops, |packet| seen.push(packet[1]));
        assert_eq!(seen, expected);
    }

    #[test]
    fn all_together_are_bounded_and_old_ones_go_control_rule_9() {
        let (budget, drops, now) = (HeldBudget::default(), DropCounters::default(), Instant::default());
        let peers: Vec<Held> = (0..20).map(|_| Held::default()).collect();
        for held in &peers {
            for _ in 0..8 {
                let _ = held.push(&packet(1, 60_000), 0, now, &budget);
            }
        }
        assert!(budget.0.load(Ordering::Relaxed) <= MAX_TOTAL_BYTES);
        let later = now + MAX_AGE;
        peers[0].push(&packet(2, 20), 0, later, &budget).unwrap();
        assert_eq!(delivered(&peers[0], &budget, &drops, later), [2], "the old ones made room");
        assert!(delivered(&peers[1], &budget, &drops, later).is_empty());
        assert_eq!(drops.get(DropReason::NotAuthorised), 8);
        peers.iter().for_each(|held| held.clear(&budget, &drops));
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
