//! What time it is, when no clock is to be trusted (control rule 18).

use std::time::Duration;

use tombolo_noise::clock::{Instant, Now, UnixTime};

/// How far the clocks of two members may differ without anything being refused.
pub const CLOCK_SKEW: Duration = Duration::from_secs(15 * 60);

/// The two times that decisions go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The best guess: the greatest of system clock, last saved and newest verified issue time. What is new is
    /// admitted by it.
    pub estimate: UnixTime,
    /// What has been confirmed: last saved or newest verified issue time, and the boot time since. What is
    /// known is cut by it alone, so that a clock set ten years ahead cuts nothing. To be saved.
    pub confirmed: UnixTime,
}

/// Keeps the time of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkTime {
    confirmed: UnixTime,
    /// When `confirmed` was so.
    at: Instant,
}

/// How the system's clock differs from what it cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockFault {
    /// Behind the newest signed document by this much.
    Behind(Duration),
    /// Ahead of what is confirmed by this much; not a fault if the machine was off for so long.
    Ahead(Duration),
}

impl NetworkTime {
    /// At the start of the process. `saved` is the last [`Times::confirmed`], the Unix epoch if there is none.
    pub fn start(boot: Instant, saved: UnixTime) -> Self {
        Self { confirmed: saved, at: boot }
    }

    /// A signed document that verified says when it was issued: it is at least that late.
    pub fn confirm(&mut self, issued: UnixTime, boot: Instant) {
        *self = Self { confirmed: issued.max(self.confirmed_at(boot)), at: self.at.max(boot) };
    }

    /// The times at `now`.
    pub fn times(&self, now: Now) -> Times {
        let confirmed = self.confirmed_at(now.boot);
        Times { estimate: now.wall.max(confirmed), confirmed }
    }

    /// Whether the system's clock is off by more than [`CLOCK_SKEW`].
    pub fn fault(&self, now: Now) -> Option<ClockFault> {
        let confirmed = self.confirmed_at(now.boot).0;
        let (behind, ahead) = (confirmed.saturating_sub(now.wall.0), now.wall.0.saturating_sub(confirmed));
        if behind > CLOCK_SKEW {
            Some(ClockFault::Behind(behind))
        } else if ahead > CLOCK_SKEW {
            Some(ClockFault::Ahead(ahead))
        } else {
            None
        }
    }

    fn confirmed_at(&self, boot: Instant) -> UnixTime {
        UnixTime(self.confirmed.0.saturating_add(boot.saturating_duration_since(self.at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{DAY, TODAY, day};

    fn now(boot_seconds: u64, wall: UnixTime) -> Now {
        Now { boot: Instant::from_nanos(boot_seconds * 1_000_000_000), wall }
    }

    #[test]
    fn time_is_the_greatest_of_clock_saved_and_signed_control_rule_18() {
        let mut time = NetworkTime::start(now(5, day(0)).boot, day(TODAY));
        assert_eq!(time.times(now(5, day(TODAY + 1))).estimate, day(TODAY + 1), "the clock");
        assert_eq!(time.times(now(5, day(TODAY - 1))).estimate, day(TODAY), "what was saved");
        time.confirm(day(TODAY + 2), now(5, day(0)).boot);
        assert_eq!(time.times(now(5, day(TODAY + 1))).estimate, day(TODAY + 2), "what was signed");
        time.confirm(day(TODAY), now(5, day(0)).boot);
        assert_eq!(
            time.times(now(5, day(0))).confirmed,
            day(TODAY + 2),
            "an older document takes nothing back"
        );
    }

    #[test]
    fn a_node_that_boots_in_1970_comes_up_control_rule_18() {
        let mut time = NetworkTime::start(now(1, day(0)).boot, day(TODAY));
        let later = UnixTime(day(TODAY).0 + Duration::from_secs(60));
        assert_eq!(
            time.times(now(61, UnixTime(Duration::from_secs(60)))),
            Times { estimate: later, confirmed: later }
        );
        assert_eq!(time.fault(now(1, day(0))), Some(ClockFault::Behind(DAY * u32::try_from(TODAY).unwrap())));
        // With nothing saved the first signed document says it.
        time = NetworkTime::start(now(1, day(0)).boot, day(0));
        time.confirm(day(TODAY), now(1, day(0)).boot);
        assert_eq!(time.times(now(1, day(0))).estimate, day(TODAY));
    }

    #[test]
    fn a_step_forward_confirms_nothing_until_it_is_signed_control_rule_18() {
        let mut time = NetworkTime::start(now(0, day(0)).boot, day(TODAY));
        let ten_years = day(TODAY + 3652);
        let times = time.times(now(86_400, ten_years));
        assert_eq!(
            times,
            Times { estimate: ten_years, confirmed: day(TODAY + 1) },
            "boot time counts, the step not"
        );
        assert_eq!(time.fault(now(0, ten_years)), Some(ClockFault::Ahead(DAY * 3652)));
        time.confirm(ten_years, now(86_400, ten_years).boot);
        assert_eq!(time.times(now(86_400, ten_years)).confirmed, ten_years);
        assert_eq!(time.fault(now(86_400, UnixTime(ten_years.0 - CLOCK_SKEW))), None);
    }

    #[test]
    fn a_boot_clock_that_goes_back_stops_the_time_and_no_more() {
        let mut time = NetworkTime::start(now(100, day(0)).boot, day(TODAY));
        time.confirm(day(TODAY), now(50, day(0)).boot);
        assert_eq!(time.times(now(50, day(0))).confirmed, day(TODAY));
        assert_eq!(time.times(now(101, day(0))).confirmed.0, day(TODAY).0 + Duration::from_secs(1));
    }
}
