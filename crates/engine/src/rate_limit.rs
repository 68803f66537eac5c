//! How fast a peer may be sent to: a leaky bucket that several workers share without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tombolo_noise::clock::Instant;

/// What may be sent at once after a pause, at least: this long at the full rate, …
const BURST_TIME: Duration = Duration::from_millis(2);
/// … and this many bytes.
const BURST_BYTES: u64 = 16 * 1024;

/// The virtual scheduling algorithm of ITU-T I.371 (GCRA), but with debt: a packet may be sent as long as what was
/// sent before it stays within the burst, and a super-packet may overdraw. What follows waits until that is paid.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    /// Zero: no limit.
    bits_per_second: AtomicU64,
    /// When everything sent so far would have left at the rate, on the boot clock.
    sent_until: AtomicU64,
}

impl RateLimit {
    /// Bits per second; 0: no limit.
    pub(crate) fn set(&self, bits_per_second: u64) {
        self.bits_per_second.store(bits_per_second, Ordering::Relaxed);
        self.sent_until.store(0, Ordering::Relaxed);
    }

    /// Bits per second; 0: no limit.
    pub(crate) fn get(&self) -> u64 {
        self.bits_per_second.load(Ordering::Relaxed)
    }

    /// Until when nothing may be sent; `None`: it may.
    pub(crate) fn wait(&self, now: Instant) -> Option<Instant> {
        let rate = self.get();
        if rate == 0 {
            return None;
        }
        let burst = nanos(BURST_BYTES, rate).max(BURST_TIME.as_nanos() as u64);
        let until = self.sent_until.load(Ordering::Relaxed).saturating_sub(burst);
        (until > now.as_nanos()).then_some(Instant::from_nanos(until))
    }

    /// So many bytes are sent.
    pub(crate) fn charge(&self, now: Instant, bytes: u64) {
        let rate = self.get();
        if rate == 0 {
            return;
        }
        let (now, time) = (now.as_nanos(), nanos(bytes, rate));
        let _ = self.sent_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            Some(until.max(now).saturating_add(time))
        });
    }
}

/// Nanoseconds that `bytes` take.
fn nanos(bytes: u64, bits_per_second: u64) -> u64 {
    let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(bits_per_second.max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Sends packets of `len` bytes whenever it may, for a virtual time; gives bytes sent.
    fn send(limit: &RateLimit, len: u64, from: u64, until: u64) -> u64 {
        let (mut now, mut sent) = (from, 0);
        while now < until {
            match limit.wait(Instant::from_nanos(now)) {
                Some(next) => {
                    assert!(next.as_nanos() > now);
                    now = next.as_nanos();
                }
                None => {
                    limit.charge(Instant::from_nanos(now), len);
                    sent += len;
                }
            }
        }
        sent
    }

    #[test]
    fn over_time_the_rate_is_kept_for_packets_of_every_size() {
        for rate in [64_000, 1_000_000, 200_000_000, 10_000_000_000] {
            for len in [60, 1500, 65_535] {
                let limit = RateLimit::default();
                limit.set(rate);
                // A thousand packets beyond the burst, or a second, whichever is longer for this rate and size.
                let (bytes, second) = (len * 1000 + BURST_BYTES, rate / 8);
                let time = nanos(bytes, rate).min(nanos(second, rate).max(nanos(len * 100, rate)));
                let sent = send(&limit, len, SECOND, SECOND + time);
                let fair = (u128::from(rate) * u128::from(time) / 8_000_000_000) as u64;
                let burst = BURST_BYTES.max(rate / 8 / 500);
                assert!(sent >= fair, "{rate} {len}: {sent} < {fair}");
                assert!(sent <= fair + burst + 2 * len, "{rate} {len}: {sent} > {fair}");
            }
        }
    }

    #[test]
    fn a_pause_saves_up_one_burst_and_no_more() {
        let limit = RateLimit::default();
        limit.set(8_000_000);
        send(&limit, 1000, SECOND, 2 * SECOND);
        let sent = send(&limit, 1000, 100 * SECOND, 100 * SECOND + 1);
        assert_eq!(sent, BURST_BYTES / 1000 * 1000 + 1000);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let limit = RateLimit::default();
        limit.charge(Instant::from_nanos(1), u64::MAX);
        assert_eq!(limit.wait(Instant::from_nanos(1)), None);
        limit.set(1);
        limit.charge(Instant::from_nanos(1), u64::MAX);
        assert!(limit.wait(Instant::from_nanos(1)).is_some());
        limit.set(0);
        assert_eq!(limit.wait(Instant::from_nanos(1)), None);
    }
}
