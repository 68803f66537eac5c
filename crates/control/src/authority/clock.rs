//! What time an authority takes it to be (control rule 18): everybody believes what it signs, so that a clock which jumps must not end
//! the memberships of a whole network.

use std::time::Duration;

use tombolo_noise::clock::{Instant, Now, UnixTime};

/// For so long after the start a clock that is far ahead is given time to be set. One that is still ahead then is right: the
/// machine was off.
const SETTLING: Duration = Duration::from_secs(120);

/// How the system's clock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// It is believed.
    Followed,
    /// It was far ahead of what was signed when the process began: it may have yet to be set.
    Settling,
    /// It has jumped ahead since: boot time counts on.
    Jumped,
}

/// The system's clock, as far as it can be believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignedClock {
    /// What was believed last, and when by the boot clock.
    believed: UnixTime,
    at: Instant,
    started: Instant,
    /// The system's clock was followed at some time since the start.
    followed: bool,
}

impl SignedClock {
    /// `signed` is when the newest document was issued, or when somebody last said what time it is.
    pub(super) fn start(signed: UnixTime, now: Now) -> Self {
        Self { believed: signed, at: now.boot, started: now.boot, followed: false }
    }

    /// The time: the system's clock, unless that is ahead of what was believed by more than `bound`.
    pub(super) fn time(&self, bound: Duration, now: Now) -> UnixTime {
        if self.trust(bound, now) == Trust::Followed { now.wall } else { self.running(now.boot) }
    }

    pub(super) fn trust(&self, bound: Duration, now: Now) -> Trust {
        if self.ahead(now) <= bound {
            Trust::Followed
        } else if self.followed {
            Trust::Jumped
        } else if now.boot.saturating_duration_since(self.started) < SETTLING {
            Trust::Settling
        } else {
            Trust::Followed
        }
    }

    /// By how much the system's clock is ahead of what was believed.
    pub(super) fn ahead(&self, now: Now) -> Duration {
        now.wall.0.saturating_sub(self.running(now.boot).0)
    }

    /// Small steps are followed as they come.
    pub(super) fn follow(&mut self, bound: Duration, now: Now) {
        if self.trust(bound, now) == Trust::Followed {
            // One that is behind what was signed is none to measure others by.
            self.followed |= now.wall >= self.believed;
            (self.believed, self.at) = (now.wall.max(self.believed), now.boot);
        }
    }

    fn running(&self, boot: Instant) -> UnixTime {
        UnixTime(self.believed.0.saturating_add(boot.saturating_duration_since(self.at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{DAY, TODAY, day};

    const BOUND: Duration = Duration::from_secs(7 * 86_400);

    fn now(boot_seconds: u64, wall: UnixTime) -> Now {
        Now { boot: Instant::from_nanos(boot_seconds * 1_000_000_000), wall }
    }

    fn later(wall: UnixTime, by: Duration) -> UnixTime {
        UnixTime(wall.0 + by)
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_not_signed_control_rule_18() {
        let mut clock = SignedClock::start(day(TODAY), now(0, day(TODAY)));
        clock.follow(BOUND, now(5, later(day(TODAY), Duration::from_secs(5))));
        for ahead in [8, 100, 3652] {
            let jumped = now(3605, later(day(TODAY + ahead), Duration::from_secs(3605)));
            assert_eq!(clock.trust(BOUND, jumped), Trust::Jumped);
            clock.follow(BOUND, jumped);
            assert_eq!(clock.time(BOUND, jumped), later(day(TODAY), Duration::from_secs(3605)));
        }
        let back = now(7200, later(day(TODAY), Duration::from_secs(7210)));
        assert_eq!((clock.trust(BOUND, back), clock.time(BOUND, back)), (Trust::Followed, back.wall));
        // What costs nobody a membership is followed: a machine that was paused, a clock that was days behind.
        let step = now(7205, later(day(TODAY + 6), Duration::ZERO));
        clock.follow(BOUND, step);
        assert_eq!(clock.time(BOUND, step), step.wall);
    }

    #[test]
    fn a_server_that_was_off_for_long_waits_for_its_clock_to_be_set_control_rule_18() {
        let mut clock = SignedClock::start(day(TODAY), now(0, day(TODAY + 90)));
        let early = now(60, later(day(TODAY + 90), Duration::from_secs(60)));
        assert_eq!(clock.trust(BOUND, early), Trust::Settling);
        clock.follow(BOUND, early);
        // The clock is set meanwhile …
        let mut set = clock;
        let right = now(61, later(day(TODAY), DAY));
        set.follow(BOUND, right);
        assert_eq!(set.time(BOUND, right), right.wall);
        // … or was right.
        let late = now(120, later(day(TODAY + 90), Duration::from_secs(120)));
        assert_eq!(clock.time(BOUND, late), late.wall);
    }

    #[test]
    fn a_server_that_boots_in_1970_follows_its_clock_once_it_is_set_control_rule_18() {
        let mut clock = SignedClock::start(day(TODAY), now(0, day(0)));
        for second in 0..200 {
            clock.follow(BOUND, now(second, later(day(0), Duration::from_secs(second))));
        }
        let set = now(200, day(TODAY + 90));
        assert_eq!((clock.trust(BOUND, set), clock.time(BOUND, set)), (Trust::Followed, set.wall));
    }
}
