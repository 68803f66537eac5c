//! Looking again for a short while before going to sleep, for those who buy latency with processor
//! time: to be woken costs tens of microseconds.

use std::time::Duration;

use tombolo_noise::clock::Instant;

use crate::clock;

/// The least time that is worth looking for.
const SHORTEST: Duration = Duration::from_micros(5);

/// How long a thread looks again before it sleeps: grows where the sleep was so short that looking on would
/// have spared it, shrinks where it was long (as the kernel's halt polling does, Documentation/virt/kvm/halt-polling.rst).
/// An idle thread so sleeps at once, and one in the midst of questions and answers does not.
pub(crate) struct BusyPoll {
    longest: Duration,
    budget: Duration,
    since: Option<Instant>,
}

impl BusyPoll {
    /// Never longer than `longest`; zero switches it off, and no clock is read.
    pub(crate) fn new(longest: Duration) -> Self {
        Self { longest, budget: Duration::ZERO, since: None }
    }

    /// Something was found: the next search begins anew.
    pub(crate) fn found(&mut self) {
        self.since = None;
    }

    /// Nothing was found: whether to look once more.
    pub(crate) fn goes_on(&mut self) -> bool {
        if self.budget.is_zero() {
            return false;
        }
        let now = clock::boot();
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) < self.budget
    }

    /// The thread goes to sleep. What this returns goes into [`BusyPoll::woke`].
    pub(crate) fn parks(&mut self) -> Option<Instant> {
        let since = self.since.take();
        (!self.longest.is_zero()).then(|| since.unwrap_or_else(clock::boot))
    }

    /// The thread woke.
    pub(crate) fn woke(&mut self, idle_since: Option<Instant>) {
        if let Some(since) = idle_since {
            self.learn(clock::boot().saturating_duration_since(since));
        }
    }

    fn learn(&mut self, pause: Duration) {
        self.budget = if pause <= self.longest {
            (self.budget * 2).clamp(SHORTEST, self.longest.max(SHORTEST))
        } else {
            let half = self.budget / 2;
            if half < SHORTEST { Duration::ZERO } else { half }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(50);

    #[test]
    fn short_sleeps_make_it_look_longer_and_long_ones_stop_it() {
        let mut poll = BusyPoll::new(LONGEST);
        assert!(!poll.goes_on());
        for _ in 0..10 {
            poll.learn(Duration::from_micros(40));
        }
        assert_eq!(poll.budget, LONGEST);
        assert!(poll.goes_on());
        for _ in 0..10 {
            poll.learn(Duration::from_millis(2));
        }
        assert_eq!(poll.budget, Duration::ZERO);
        assert!(!poll.goes_on());
    }

    #[test]
    fn it_gives_up_after_its_time_and_begins_anew_when_something_came() {
        let mut poll = BusyPoll::new(LONGEST);
        poll.learn(Duration::ZERO);
        while poll.goes_on() {}
        assert!(!poll.goes_on());
        poll.found();
        assert!(poll.goes_on());
    }

    #[test]
    fn switched_off_it_never_looks_and_reads_no_clock() {
        let mut poll = BusyPoll::new(Duration::ZERO);
        assert!(!poll.goes_on());
        let parked = poll.parks();
        assert!(parked.is_none());
        poll.woke(parked);
        assert!(!poll.goes_on());
    }
}
