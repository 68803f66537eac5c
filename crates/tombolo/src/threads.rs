//! How many threads carry packets, whether they look before they sleep, and whether idle ones help busy ones: `workers`, `busy_poll` and
//! `assist` of the configuration, `TOMBOLO_WORKERS`, `TOMBOLO_BUSY_POLL` and `TOMBOLO_ASSIST` of the environment, which comes first.

use std::ffi::OsString;
use std::thread::available_parallelism;
use std::time::Duration;

use tombolo_engine::{Assist, MAX_WORKERS};

/// The most threads that `auto` gives: four pairs carry more than 40 Gbit/s.
const MAX_AUTOMATIC: usize = 8;
/// Bounds of `busy_poll`: less finds nothing, more is no longer a short while.
const BUSY_POLL_MICROSECONDS: std::ops::RangeInclusive<u64> = 5..=10_000;

/// What is set of the threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadConfig {
    /// How many threads carry packets. `None`: as many as there are processors for us, up to eight.
    pub workers: Option<usize>,
    /// How long an idle thread looks for more before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// When idle threads help a busy one.
    pub assist: Assist,
}

impl ThreadConfig {
    /// The number of threads that carry packets. `auto` heeds the processors that a container or a unit was
    /// given, by their set and by their quota.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.unwrap_or_else(|| available_parallelism().map_or(1, usize::from).min(MAX_AUTOMATIC))
    }

    /// What the environment says instead.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn overridden(mut self, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, String> {
        let text = |name| environment(name).filter(|text| !text.is_empty());
        let utf8 = |name, text: OsString| text.into_string().map_err(|_| format!("{name} is not UTF-8"));
        if let Some(value) = text("TOMBOLO_WORKERS") {
            let value = utf8("TOMBOLO_WORKERS", value)?;
            self.workers = parse_workers(&value).map_err(|error| format!("TOMBOLO_WORKERS {error}"))?;
        }
        if let Some(value) = text("TOMBOLO_BUSY_POLL") {
            let value = utf8("TOMBOLO_BUSY_POLL", value)?;
            self.busy_poll = parse_busy_poll(&value).map_err(|error| format!("TOMBOLO_BUSY_POLL {error}"))?;
        }
        if let Some(value) = text("TOMBOLO_ASSIST") {
            let value = utf8("TOMBOLO_ASSIST", value)?;
            self.assist = parse_assist(&value).map_err(|error| format!("TOMBOLO_ASSIST {error}"))?;
        }
        Ok(self)
    }
}

/// `auto`, which is `None`, or a number.
///
/// # Errors
/// What it must be.
pub fn parse_workers(text: &str) -> Result<Option<usize>, String> {
    if text == "auto" {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if (1..=MAX_WORKERS).contains(&number) => Ok(Some(number)),
        _ => Err(format!("must be \"auto\" or a number from 1 to {MAX_WORKERS}, not `{text}`")),
    }
}

/// A time such as `50us` or `1ms`, or `0`.
///
/// # Errors
/// What it must be.
pub fn parse_busy_poll(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let microseconds = [("us", 1), ("ms", 1000)].into_iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(factor)
    });
    match microseconds {
        Some(time) if BUSY_POLL_MICROSECONDS.contains(&time) => Ok(Duration::from_micros(time)),
        _ => Err(format!("must be \"0\" or a time from \"5us\" to \"10ms\", not `{text}`")),
    }
}

/// `auto`, `off` or `always`.
///
/// # Errors
/// What it must be.
pub fn parse_assist(text: &str) -> Result<Assist, String> {
    match text {
        "auto" => Ok(Assist::WhenIdle),
        "off" => Ok(Assist::Never),
        "always" => Ok(Assist::Always),
        _ => Err(format!("must be \"auto\", \"off\" or \"always\", not `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_read_and_everything_else_is_refused() {
        assert_eq!(parse_workers("auto"), Ok(None));
        assert_eq!(parse_workers("1"), Ok(Some(1)));
        assert_eq!(parse_workers("64"), Ok(Some(64)));
        for wrong in ["0", "65", "-1", "", "two", "1.5"] {
            assert!(parse_workers(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_busy_poll("0"), Ok(Duration::ZERO));
        assert_eq!(parse_busy_poll("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_busy_poll("2 ms"), Ok(Duration::from_millis(2)));
        for wrong in ["", "50", "us", "4us", "11ms", "1s", "-5us", "18446744073709551615ms"] {
            assert!(parse_busy_poll(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_assist("auto"), Ok(Assist::default()));
        assert_eq!(parse_assist("off"), Ok(Assist::Never));
        assert_eq!(parse_assist("always"), Ok(Assist::Always));
        assert!(parse_assist("never").is_err() && parse_assist("").is_err());
    }

    #[test]
    fn the_environment_comes_first_and_empty_says_nothing() {
        let file =
            ThreadConfig { workers: Some(3), busy_poll: Duration::from_micros(7), assist: Assist::default() };
        let with = |workers: &'static str, poll: &'static str| {
            file.overridden(move |name| match name {
                "TOMBOLO_WORKERS" => Some(workers.into()),
                "TOMBOLO_BUSY_POLL" => Some(poll.into()),
                _ => None,
            })
        };
        assert_eq!(file.overridden(|_| None), Ok(file));
        assert_eq!(with("", ""), Ok(file));
        assert_eq!(with("auto", "0"), Ok(ThreadConfig::default()));
        assert_eq!(with("4", "").unwrap().workers(), 4);
        assert!(with("many", "").unwrap_err().starts_with("TOMBOLO_WORKERS must"));
        let off = file.overridden(|name| (name == "TOMBOLO_ASSIST").then(|| "off".into()));
        assert_eq!(off, Ok(ThreadConfig { assist: Assist::Never, ..file }));
        let wrong = file.overridden(|name| (name == "TOMBOLO_ASSIST").then(|| "on".into()));
        assert!(wrong.unwrap_err().starts_with("TOMBOLO_ASSIST must"));
        assert!(with("", "long").unwrap_err().starts_with("TOMBOLO_BUSY_POLL must"));
    }

    #[test]
    fn automatic_is_at_least_one_and_bounded() {
        assert!((1..=MAX_AUTOMATIC).contains(&ThreadConfig::default().workers()));
    }
}
