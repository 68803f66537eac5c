//! What the data workers tell the timers: times, stored once per batch.
//!
//! The kernel re-arms a timer for every packet (`timers.c`). Here the workers only store when
//! something happened, and the control thread computes deadlines from that when a timer it had set
//! earlier fires. A timer that nobody is waiting for must be announced, once: that is what the
//! *armed* flags are for. The rule that loses no wake-up: a worker stores the time, then raises the
//! flag; the control thread lowers the flag, then reads the time again. Both in one total order.

use crate::clock::Instant;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A new handshake is due this long after the first send that nothing answered: Keepalive-Timeout
/// plus Rekey-Timeout (requirement 8, §6.5).
pub const NEW_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// A passive keepalive is due this long after the first data that was not answered (requirement 7, §6.5).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A point in time, or never, in one atomic.
#[derive(Debug, Default)]
struct AtomicInstant(AtomicU64);

impl AtomicInstant {
    const NEVER: u64 = 0;

    fn encode(instant: Instant) -> u64 {
        instant.as_nanos().max(1)
    }

    fn get(&self) -> Option<Instant> {
        match self.0.load(Ordering::SeqCst) {
            Self::NEVER => None,
            nanos => Some(Instant::from_nanos(nanos)),
        }
    }

    /// Stores `now` if there is no time yet. True if it was stored.
    fn set_if_never(&self, now: Instant) -> bool {
        self.0.load(Ordering::Relaxed) == Self::NEVER
            && self
                .0
                .compare_exchange(Self::NEVER, Self::encode(now), Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    fn advance(&self, now: Instant) {
        let now = Self::encode(now);
        if self.0.load(Ordering::Relaxed) < now {
            self.0.fetch_max(now, Ordering::SeqCst);
        }
    }

    fn clear(&self) {
        // Reading first keeps the cache line shared between the threads in the common case.
        if self.0.load(Ordering::Relaxed) != Self::NEVER {
            self.0.store(Self::NEVER, Ordering::SeqCst);
        }
    }

    /// Clears the time if it is still `seen`.
    fn clear_if(&self, seen: Instant) {
        let _ = self.0.compare_exchange(Self::encode(seen), Self::NEVER, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// A timer that starts with the first of some events, stops with an opposite one, and is watched
/// lazily by the control thread. Its two halves lie in [`Activity`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct LazyTimer<'a> {
    since: &'a AtomicInstant,
    armed: &'a AtomicBool,
}

impl LazyTimer<'_> {
    /// Starts the timer unless it runs. True if the control thread is not watching it and must be told.
    pub(crate) fn start(self, now: Instant) -> bool {
        self.since.set_if_never(now) && !self.armed.swap(true, Ordering::SeqCst)
    }

    /// Stops the timer. The control thread finds out when it looks.
    pub(crate) fn stop(self) {
        self.since.clear();
    }

    /// When the timer started, if it runs.
    pub(crate) fn running_since(self) -> Option<Instant> {
        self.since.get()
    }

    /// Control thread: takes the expiry that began at `seen`, so that it fires once.
    pub(crate) fn take(self, seen: Instant) {
        self.since.clear_if(seen);
    }

    /// Control thread: what to wait for next. `None` hands the watch back: the next start is announced.
    pub(crate) fn watch(self) -> Option<Instant> {
        loop {
            if let Some(since) = self.since.get() {
                self.armed.store(true, Ordering::SeqCst);
                return Some(since);
            }
            self.armed.store(false, Ordering::SeqCst);
            // A worker may have started the timer between the look and the lowering, and have found
            // the flag raised: look again.
            self.since.get()?;
        }
    }
}

/// The times of one peer that its timers depend on. There are as many as peers: the flags lie side by side, so that there is little padding.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    unanswered_send_since: AtomicInstant,
    unanswered_receive_since: AtomicInstant,
    last_sent: AtomicInstant,
    last_received: AtomicInstant,
    unanswered_send_armed: AtomicBool,
    unanswered_receive_armed: AtomicBool,
}

impl Activity {
    /// Runs from the first data sent since anything was received.
    pub(crate) fn unanswered_send(&self) -> LazyTimer<'_> {
        LazyTimer { since: &self.unanswered_send_since, armed: &self.unanswered_send_armed }
    }

    /// Runs from the first data received since anything was sent.
    pub(crate) fn unanswered_receive(&self) -> LazyTimer<'_> {
        LazyTimer { since: &self.unanswered_receive_since, armed: &self.unanswered_receive_armed }
    }

    /// An authenticated message of any kind was sent, keepalives and handshakes included.
    pub(crate) fn sent(&self, now: Instant) {
        self.last_sent.advance(now);
        self.unanswered_receive().stop();
    }

    /// An authenticated message of any kind was received.
    pub(crate) fn received(&self, now: Instant) {
        self.last_received.advance(now);
        self.unanswered_send().stop();
    }

    /// When the last authenticated message was sent.
    pub(crate) fn last_sent(&self) -> Option<Instant> {
        self.last_sent.get()
    }

    /// When the last authenticated message was received.
    pub(crate) fn last_received(&self) -> Option<Instant> {
        self.last_received.get()
    }

    /// When an authenticated message last went either way (requirement 10).
    pub(crate) fn last_traversal(&self) -> Option<Instant> {
        self.last_sent().max(self.last_received())
    }

    /// Stops what runs. Times of the past stay.
    pub(crate) fn stop(&self) {
        self.unanswered_send().stop();
        self.unanswered_receive().stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn only_the_first_start_is_announced_and_counts() {
        let activity = Activity::default();
        let timer = activity.unanswered_send();
        assert!(timer.start(at(1)));
        assert!(!timer.start(at(2)));
        assert_eq!(timer.running_since(), Some(at(1)));
        timer.stop();
        assert!(!timer.start(at(3)), "the control thread still watches");
        assert_eq!(timer.watch(), Some(at(3)));
    }

    #[test]
    fn the_watch_is_handed_back_when_nothing_runs() {
        let activity = Activity::default();
        let timer = activity.unanswered_send();
        assert!(timer.start(at(1)));
        timer.stop();
        assert_eq!(timer.watch(), None);
        assert!(timer.start(at(5)), "announced anew");
    }

    #[test]
    fn an_expiry_is_taken_once_and_not_from_a_later_start() {
        let activity = Activity::default();
        let timer = activity.unanswered_send();
        timer.start(at(1));
        timer.stop();
        timer.start(at(2));
        timer.take(at(1));
        assert_eq!(timer.running_since(), Some(at(2)));
        timer.take(at(2));
        assert_eq!(timer.running_since(), None);
    }

    #[test]
    fn no_start_is_lost_between_threads() {
        // One thread starts and stops, the other watches: whenever the timer ends up running, either
        // the watcher saw it or the starter was told to announce it.
        for _ in 0..2_000 {
            let activity = Activity::default();
            let timer = activity.unanswered_send();
            assert!(timer.start(at(1)));
            timer.stop();
            let (announced, watched) = std::thread::scope(|scope| {
                let worker = scope.spawn(|| timer.start(at(2)));
                let control = scope.spawn(|| timer.watch().is_some());
                (worker.join().unwrap(), control.join().unwrap())
            });
            assert!(announced || watched);
        }
    }

    #[test]
    fn any_message_stops_the_opposite_timer_requirements_7_and_8() {
        let activity = Activity::default();
        activity.unanswered_send().start(at(1));
        activity.unanswered_receive().start(at(1));
        activity.sent(at(2));
        assert_eq!(activity.unanswered_receive().running_since(), None);
        assert_eq!(activity.unanswered_send().running_since(), Some(at(1)));
        activity.received(at(3));
        assert_eq!(activity.unanswered_send().running_since(), None);
        assert_eq!(activity.last_traversal(), Some(at(3)));
    }
}
