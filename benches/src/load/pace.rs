//! Datagrams at a given rate, in small bursts as a busy application sends them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tombolo_tests::wait::now;

const BURST_INTERVAL: Duration = Duration::from_micros(500);

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Datagrams.
    pub datagrams: u64,
    /// For how long.
    pub duration: Duration,
}

/// Calls `send` with the number of datagrams that are due, at most `largest_burst`, until the time is
/// over or `stop` is set; without a `rate` with `largest_burst` all the time. `send` gives how many
/// went.
pub fn paced(
    rate: Option<f64>,
    largest_burst: usize,
    duration: Duration,
    stop: &AtomicBool,
    mut send: impl FnMut(usize) -> u64,
) -> Sent {
    let start = now();
    let mut datagrams = 0;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= duration || stop.load(Ordering::Relaxed) {
            return Sent { datagrams, duration: elapsed };
        }
        let burst = match rate {
            Some(rate) => {
                let due = ((elapsed.as_secs_f64() * rate) as u64).saturating_sub(datagrams);
                usize::try_from(due).unwrap_or(largest_burst).min(largest_burst)
            }
            None => largest_burst,
        };
        if burst > 0 {
            datagrams += send(burst);
        }
        if rate.is_some() {
            thread::sleep(BURST_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_sent_than_is_due() {
        let stop = AtomicBool::new(false);
        let duration = Duration::from_millis(30);
        let sent = paced(Some(10_000.0), 64, duration, &stop, |burst| {
            assert!((1..=64).contains(&burst));
            burst as u64
        });
        assert!(sent.duration >= duration);
        assert!(sent.datagrams as f64 <= 10_000.0 * sent.duration.as_secs_f64());
        stop.store(true, Ordering::Relaxed);
        assert_eq!(paced(None, 64, duration, &stop, |_| 1).datagrams, 0);
    }
}
