//! Noticing that the machine slept, or that this is a copy of it.

use std::time::Duration;

use tombolo_noise::clock::Now;

/// Growth of the time slept that counts as a suspend. The two clocks are read one after the other,
/// so that a preempted thread sees some microseconds.
const SUSPEND_THRESHOLD: Duration = Duration::from_millis(500);

/// Jump of the wall clock against boot time that counts as the resumption of a copy. Clocks that are
/// slewed move by half a millisecond a second.
const CLOCK_JUMP_THRESHOLD: Duration = Duration::from_secs(2);

/// Compares the clocks. A suspend shows in boot time, a resumed copy of the machine in the wall clock
/// once that is set right; a clock that was set by hand looks the same, and costs a handshake.
pub(crate) struct SuspendWatch {
    slept: Duration,
    /// Wall clock less boot time.
    offset: Duration,
}

impl SuspendWatch {
    /// `slept`: how long the machine has slept since it booted.
    pub(crate) fn new(slept: Duration, now: Now) -> Self {
        Self { slept, offset: offset(now) }
    }

    /// Whether something happened since the last look after which no old key may be used.
    pub(crate) fn observe(&mut self, slept: Duration, now: Now) -> bool {
        let offset = offset(now);
        let suspended = slept > self.slept + SUSPEND_THRESHOLD;
        let jumped = offset.abs_diff(self.offset) > CLOCK_JUMP_THRESHOLD;
        // Taken over each time, so that a clock that is slewed never adds up to a jump.
        *self = Self { slept, offset };
        suspended || jumped
    }
}

fn offset(now: Now) -> Duration {
    now.wall.0.saturating_sub(Duration::from_nanos(now.boot.as_nanos()))
}

#[cfg(test)]
mod tests {
    use tombolo_noise::clock::{Instant, UnixTime};

    use super::*;

    const HOUR: i64 = 3600;

    fn now(boot_seconds: u64, wall_seconds: i64) -> Now {
        Now {
            boot: Instant::from_nanos(boot_seconds * 1_000_000_000),
            wall: UnixTime(Duration::from_secs(u64::try_from(wall_seconds).unwrap_or(0))),
        }
    }

    fn watch() -> SuspendWatch {
        SuspendWatch::new(Duration::ZERO, now(100, 1_800_000_000))
    }

    #[test]
    fn time_that_passes_is_no_suspend_and_neither_is_a_slewed_clock() {
        let mut watch = watch();
        for minute in 1..10_000_u32 {
            // Half a millisecond a second, for a week: 5 minutes in all.
            let slewed = Duration::from_millis(30) * minute;
            let passed = Duration::from_secs(60) * minute;
            let now = Now {
                boot: Instant::from_nanos(100_000_000_000) + passed,
                wall: UnixTime(Duration::from_secs(1_800_000_000) + passed + slewed),
            };
            assert!(!watch.observe(Duration::ZERO, now), "minute {minute}");
        }
    }

    #[test]
    fn a_sleep_is_noticed_once() {
        let mut watch = watch();
        let slept = Duration::from_secs(40);
        assert!(watch.observe(slept, now(140, 1_800_000_040)));
        assert!(!watch.observe(slept, now(141, 1_800_000_041)));
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once_in_either_direction_and_to_1970() {
        for wall in [1_800_000_000 + HOUR, 1_800_000_000 - HOUR, 0] {
            let mut watch = watch();
            assert!(watch.observe(Duration::ZERO, now(100, wall)), "{wall}");
            assert!(!watch.observe(Duration::ZERO, now(101, wall + 1)), "{wall}");
        }
    }
}
