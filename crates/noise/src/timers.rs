//! The timers of a peer, and the queue of those of all peers (§6, kernel `timers.c`).
//!
//! The queue holds one entry for each peer that waits for something: its earliest deadline. Ten
//! thousand idle peers cost nothing, and what is due is found without looking at the rest.

use crate::clock::Instant;
use rand_core::CryptoRng;
use std::collections::BTreeSet;
use std::time::Duration;
use tombolo_packet::PeerId;

/// Between two initiations to the same peer at least, and until one is repeated (requirement 5, §6.4).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Added to [`REKEY_TIMEOUT`], so that two peers that began at the same time do not go on so (requirement 5).
pub const REKEY_TIMEOUT_JITTER_MAX: Duration = Duration::from_millis(333);
/// How many initiations go unanswered before a handshake is given up: Rekey-Attempt-Time of 90 s over
/// Rekey-Timeout (requirement 6, §6.4).
pub const MAX_HANDSHAKE_ATTEMPTS: u8 = 18;
/// All keys of a peer are erased this long after the last session began: three times
/// Reject-After-Time (requirement 9, §6.3).
pub const ZERO_KEYS_AFTER_TIME: Duration = Duration::from_secs(540);

/// What a peer may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// An initiation is repeated, or sent late because the last one was less than Rekey-Timeout ago.
    Retransmit,
    /// A new handshake, because what was sent was not answered (requirement 8).
    NewHandshake,
    /// A passive keepalive (requirement 7).
    Keepalive,
    /// A persistent keepalive (requirement 10).
    PersistentKeepalive,
    /// The keys are erased (requirement 9).
    ZeroKeys,
    /// A provisional peer is forgotten (control rule 8).
    Provisional,
}

#[derive(Debug, Default)]
struct Waiting {
    deadlines: [Option<Instant>; 6],
    /// The entry in the queue.
    queued: Option<Instant>,
}

/// The deadlines of one peer.
#[derive(Debug, Default)]
pub(crate) struct PeerTimers {
    /// None: the peer waits for nothing.
    waiting: Option<Box<Waiting>>,
}

impl PeerTimers {
    pub(crate) fn deadline(&self, timer: Timer) -> Option<Instant> {
        self.waiting.as_ref()?.deadlines[timer as usize]
    }

    pub(crate) fn set(&mut self, timer: Timer, deadline: Option<Instant>) {
        if deadline.is_some() || self.waiting.is_some() {
            self.waiting.get_or_insert_default().deadlines[timer as usize] = deadline;
        }
    }

    /// Whether the timer is due; if so it is no longer set.
    pub(crate) fn take_due(&mut self, timer: Timer, now: Instant) -> bool {
        let waiting = self.waiting.as_mut();
        waiting
            .and_then(|waiting| waiting.deadlines[timer as usize].take_if(|deadline| *deadline <= now))
            .is_some()
    }

    fn earliest(&self) -> Option<Instant> {
        self.waiting.as_ref()?.deadlines.iter().flatten().min().copied()
    }
}

/// The earliest deadlines of all peers.
#[derive(Debug, Default)]
pub(crate) struct TimerQueue(BTreeSet<(Instant, PeerId)>);

impl TimerQueue {
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.first().map(|&(deadline, _)| deadline)
    }

    /// Takes a peer with a timer that is due. The caller serves it and calls [`update`](Self::update).
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<PeerId> {
        let (deadline, _) = self.0.first()?;
        if *deadline > now {
            return None;
        }
        self.0.pop_first().map(|(_, peer)| peer)
    }

    /// Brings the queue up to date with the peer's deadlines.
    pub(crate) fn update(&mut self, peer: PeerId, timers: &mut PeerTimers) {
        let earliest = timers.earliest();
        let Some(waiting) = &mut timers.waiting else { return };
        if let Some(queued) = waiting.queued
            && waiting.queued != earliest
        {
            self.0.remove(&(queued, peer));
        }
        waiting.queued = earliest;
        match earliest {
            Some(earliest) => {
                self.0.insert((earliest, peer));
            }
            None => timers.waiting = None,
        }
    }

    /// Forgets a peer that is removed.
    pub(crate) fn remove(&mut self, peer: PeerId, timers: &PeerTimers) {
        if let Some(queued) = timers.waiting.as_ref().and_then(|waiting| waiting.queued) {
            self.0.remove(&(queued, peer));
        }
    }
}

/// Up to [`REKEY_TIMEOUT_JITTER_MAX`], at random.
pub(crate) fn jitter(rng: &mut (impl CryptoRng + ?Sized)) -> Duration {
    let range = REKEY_TIMEOUT_JITTER_MAX.as_micros() as u32 + 1;
    Duration::from_micros(u64::from(rng.next_u32() % range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn peers_come_out_when_due_in_the_order_of_their_deadlines() {
        let mut queue = TimerQueue::default();
        let (mut first, mut second) = (PeerTimers::default(), PeerTimers::default());
        first.set(Timer::Keepalive, Some(at(7)));
        first.set(Timer::Retransmit, Some(at(5)));
        second.set(Timer::ZeroKeys, Some(at(4)));
        queue.update(PeerId(1), &mut first);
        queue.update(PeerId(2), &mut second);
        assert_eq!(queue.next_deadline(), Some(at(4)));
        assert_eq!(queue.pop_due(at(3)), None);
        assert_eq!(queue.pop_due(at(6)), Some(PeerId(2)));
        assert_eq!(queue.pop_due(at(6)), Some(PeerId(1)));
        assert!(first.take_due(Timer::Retransmit, at(6)));
        assert!(!first.take_due(Timer::Retransmit, at(6)), "due once");
        queue.update(PeerId(1), &mut first);
        assert_eq!(queue.next_deadline(), Some(at(7)));
        queue.remove(PeerId(1), &first);
        assert_eq!(queue.next_deadline(), None);
    }

    #[test]
    fn a_deadline_that_moves_leaves_no_entry_behind() {
        let mut queue = TimerQueue::default();
        let mut timers = PeerTimers::default();
        for seconds in [9, 3, 6] {
            timers.set(Timer::Retransmit, Some(at(seconds)));
            queue.update(PeerId(0), &mut timers);
            assert_eq!(queue.next_deadline(), Some(at(seconds)));
        }
        timers.set(Timer::Retransmit, None);
        queue.update(PeerId(0), &mut timers);
        assert_eq!(queue.next_deadline(), None);
    }
}
