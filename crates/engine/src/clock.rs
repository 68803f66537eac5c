//! The engine is a shell: here is where time is read.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tombolo_noise::clock::{Instant, Now, UnixTime};

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Boot time: runs while the machine sleeps, so that a key does not look fresh after it.
pub(crate) fn boot() -> Instant {
    Instant::from_nanos(u64::try_from(read(ClockId::Boottime).as_nanos()).unwrap_or(u64::MAX))
}

/// Both clocks. A wall clock before 1970 reads as 1970.
pub fn now() -> Now {
    Now { boot: boot(), wall: UnixTime(wall(read(ClockId::Realtime))) }
}

/// A program that is built for tests can be told that its wall clock is wrong, by seconds in its environment: those of a whole
/// machine cannot be.
#[cfg(debug_assertions)]
fn wall(read: Duration) -> Duration {
    use std::sync::LazyLock;
    static AHEAD: LazyLock<i64> = LazyLock::new(|| {
        let told = std::env::var("TOMBOLO_TEST_CLOCK_AHEAD").ok();
        told.and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
    });
    let by = Duration::from_secs(AHEAD.unsigned_abs());
    if AHEAD.is_negative() { read.saturating_sub(by) } else { read.saturating_add(by) }
}

#[cfg(not(debug_assertions))]
fn wall(read: Duration) -> Duration {
    read
}

/// How long the machine has slept since it booted.
pub(crate) fn slept() -> Duration {
    read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
}
