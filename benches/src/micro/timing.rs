//! Timing of short things: many at a time, several times.

use std::time::Duration;

use tombolo_tests::wait::now;

use super::Step;
use crate::Result;
use crate::statistics::{median, minimum};

/// How long `job` takes.
pub(super) fn time<T>(job: impl FnOnce() -> T) -> (Duration, T) {
    let start = now();
    let result = job();
    (start.elapsed(), result)
}

/// Runs `once` `runs` times after one that does not count; it returns what it took, and for how many
/// packets.
pub(super) fn sample(
    name: &'static str,
    variant: &'static str,
    runs: usize,
    mut once: impl FnMut() -> Result<(Duration, usize)>,
) -> Result<Step> {
    once()?;
    let mut values = Vec::with_capacity(runs);
    for _ in 0..runs {
        let (duration, packets) = once()?;
        anyhow::ensure!(packets > 0, "{name}, {variant}: nothing came through");
        values.push(duration.as_secs_f64() * 1e9 / packets as f64);
    }
    Ok(Step { name, variant, minimum_nanoseconds: minimum(&values), median_nanoseconds: median(&values) })
}
