//! Waiting for an event, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;

use crate::{Result, interrupt};

/// The longest pause between two looks at a condition.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The clock of the tests. The tests are a shell: they may read it.
#[expect(clippy::disallowed_methods, reason = "tests are a shell and read the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks until `condition` gives a value, at most for `limit`. `what` completes "waited for …".
///
/// # Errors
/// When the time is over, when an interruption was requested, or with the first error of `condition`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        // Read before the condition: a late look after the deadline still counts.
        let over = now() >= deadline;
        if let Some(value) = condition()? {
            return Ok(value);
        }
        interrupt::check()?;
        if over {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Looks until `condition` is true, at most for `limit`.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result {
    wait_for(what, limit, || Ok(condition().then_some(())))
}

/// Waits in a cleanup, which goes on when everything else was asked to stop: at most for `limit`. Says
/// whether `condition` came true.
pub fn wait_in_cleanup(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = now() + limit;
    loop {
        if condition() {
            return true;
        }
        if now() >= deadline {
            return false;
        }
        thread::sleep(LONGEST_PAUSE);
    }
}

/// Watches that `condition` stays true for all of `span`: for what must not happen.
///
/// # Errors
/// As soon as the condition is false, or when an interruption was requested.
pub fn stays_true(what: &str, span: Duration, mut condition: impl FnMut() -> bool) -> Result {
    let deadline = now() + span;
    while now() < deadline {
        if !condition() {
            bail!("no longer true: {what}");
        }
        interrupt::check()?;
        thread::sleep(LONGEST_PAUSE);
    }
    Ok(())
}
