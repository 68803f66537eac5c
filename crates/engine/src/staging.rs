//! Packets that wait for a session (requirement 22).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tombolo_packet::{DropCounters, DropReason};

/// Packets staged per peer at most, as in the kernel's module.
const MAX_PACKETS: usize = 128;

/// Bytes staged over all peers at most, so that ten thousand unreachable peers do not fill the memory.
const MAX_TOTAL_BYTES: usize = 8 << 20;

/// The bytes that all peers' queues hold together.
#[derive(Default)]
pub(crate) struct StagingBudget(AtomicUsize);

type Packets = VecDeque<Box<[u8]>>;

/// One peer's queue of whole IP packets, oldest first.
#[derive(Default)]
pub(crate) struct Staging {
    /// Only while there are any.
    packets: Mutex<Option<Box<Packets>>>,
    occupied: AtomicBool,
}

impl Staging {
    /// Whether a flush would find something. Racy by nature; the lock decides.
    pub(crate) fn is_occupied(&self) -> bool {
        self.occupied.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Packets>>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a packet; the oldest goes where the queue is full.
    pub(crate) fn push(&self, packet: &[u8], budget: &StagingBudget, drops: &DropCounters) {
        let mut packets = self.lock();
        let packets = packets.get_or_insert_default();
        if packets.len() >= MAX_PACKETS {
            if let Some(oldest) = packets.pop_front() {
                budget.0.fetch_sub(oldest.len(), Ordering::Relaxed);
            }
            drops.count(DropReason::StagingQueueFull);
        }
        if budget.0.load(Ordering::Relaxed) + packet.len() > MAX_TOTAL_BYTES {
            drops.count(DropReason::StagingQueueFull);
            return;
        }
        budget.0.fetch_add(packet.len(), Ordering::Relaxed);
        packets.push_back(packet.into());
        self.occupied.store(true, Ordering::SeqCst);
    }

    /// Takes all packets and hands them on in order while the queue stays locked, so that a second
    /// thread which flushes as well cannot overtake. `take` says whether the packet was taken.
    pub(crate) fn flush(&self, budget: &StagingBudget, mut take: impl FnMut(&[u8]) -> bool) -> usize {
        let mut locked = self.lock();
        let Some(packets) = locked.as_deref_mut() else { return 0 };
        let mut taken = 0;
        while let Some(packet) = packets.front() {
            if !take(packet) {
                break;
            }
            budget.0.fetch_sub(packet.len(), Ordering::Relaxed);
            packets.pop_front();
            taken += 1;
        }
        let occupied = !packets.is_empty();
        if !occupied {
            *locked = None;
        }
        self.occupied.store(occupied, Ordering::SeqCst);
        taken
    }

    /// Throws all packets away and says how many there were.
    pub(crate) fn clear(&self, budget: &StagingBudget) -> usize {
        self.flush(budget, |_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_128_packets_wait() {
        let (staging, budget, drops) =
            (Staging::default(), StagingBudget::default(), DropCounters::default());
        for number in 0..130u8 {
            staging.push(&[number], &budget, &drops);
        }
        let mut seen = Vec::new();
        assert_eq!(
            staging.flush(&budget, |packet| {
                seen.push(packet[0]);
                true
            }),
            128
        );
        assert_eq!(seen, (2..130).collect::<Vec<u8>>());
        assert_eq!(drops.get(DropReason::StagingQueueFull), 2);
        assert!(!staging.is_occupied());
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_queues_together_are_bounded_in_bytes() {
        let (budget, drops) = (StagingBudget::default(), DropCounters::default());
        let packet = vec![0; 65_000];
        let queues: Vec<Staging> = (0..4).map(|_| Staging::default()).collect();
        for queue in &queues {
            for _ in 0..128 {
                queue.push(&packet, &budget, &drops);
            }
        }
        assert!(budget.0.load(Ordering::Relaxed) <= MAX_TOTAL_BYTES);
        assert!(drops.get(DropReason::StagingQueueFull) > 0);
        let kept: usize = queues.iter().map(|queue| queue.clear(&budget)).sum();
        assert_eq!(kept, MAX_TOTAL_BYTES / packet.len());
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_not_taken_stays_in_order() {
        let (staging, budget, drops) =
            (Staging::default(), StagingBudget::default(), DropCounters::default());
        staging.push(&[1], &budget, &drops);
        staging.push(&[2], &budget, &drops);
        let mut room = 1;
        assert_eq!(
            staging.flush(&budget, |_| {
                room -= 1;
                room >= 0
            }),
            1
        );
        assert!(staging.is_occupied());
        assert_eq!(staging.clear(&budget), 1);
    }
}
