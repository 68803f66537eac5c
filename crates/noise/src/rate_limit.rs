//! How many handshake messages one source may make us work on while we are under load (requirement 13).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Instant;

const MESSAGES_PER_SECOND: u64 = 20;
const BURST: u64 = 5;

/// Tokens are nanoseconds: a message costs as many as pass until the next is allowed.
const COST: u64 = 1_000_000_000 / MESSAGES_PER_SECOND;
const FULL: u64 = COST * BURST;

/// After this time a bucket is full again and need not be remembered. (Nanoseconds: `FULL`.)
const SWEEP_INTERVAL: Duration = Duration::from_nanos(FULL);

/// How many sources are remembered at most.
const MAX_SOURCES: usize = 65_536;

/// A source: an IPv4 address, or the /64 of an IPv6 address, since a /64 is what one host is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: u64,
    updated: Instant,
}

/// Token buckets per source: 20 messages a second, bursts of 5, in a table of bounded size (kernel
/// `ratelimiter.c`). Only sources that hold a valid cookie, so cannot be forged, should be put to it.
#[derive(Debug)]
pub struct RateLimiter {
    /// Ordered rather than hashed: there is no hash that an attacker could aim at, and no seed to draw.
    buckets: BTreeMap<Source, Bucket>,
    max_sources: usize,
    swept: Instant,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl RateLimiter {
    /// For up to 65 536 sources, about 3 MB when it is full and next to nothing while it is empty.
    pub const fn new() -> Self {
        Self::with_max_sources(MAX_SOURCES)
    }

    /// For up to `max_sources` sources.
    pub const fn with_max_sources(max_sources: usize) -> Self {
        Self { buckets: BTreeMap::new(), max_sources, swept: Instant::from_nanos(0) }
    }

    /// Whether one more message from `address` is to be worked on; if so it is counted. A new source
    /// that finds the table full is refused.
    pub fn allow(&mut self, address: IpAddr, now: Instant) -> bool {
        self.sweep(now);
        let source = Source::of(address);
        if let Some(bucket) = self.buckets.get_mut(&source) {
            let idle = now.saturating_duration_since(bucket.updated).as_nanos();
            let refill = u64::try_from(idle).unwrap_or(FULL).min(FULL);
            bucket.updated = bucket.updated.max(now);
            bucket.tokens = (bucket.tokens + refill).min(FULL);
            let allowed = bucket.tokens >= COST;
            if allowed {
                bucket.tokens -= COST;
            }
            return allowed;
        }
        if self.buckets.len() >= self.max_sources {
            return false;
        }
        self.buckets.insert(source, Bucket { tokens: FULL - COST, updated: now });
        true
    }

    /// How many sources are remembered now.
    pub fn sources(&self) -> usize {
        self.buckets.len()
    }

    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) >= SWEEP_INTERVAL {
            self.swept = now;
            self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.updated) < SWEEP_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn millis(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn allowed(limiter: &mut RateLimiter, text: &str, now: Instant, attempts: usize) -> usize {
        (0..attempts).filter(|_| limiter.allow(address(text), now)).count()
    }

    #[test]
    fn a_source_has_a_burst_of_5_and_20_a_second_requirement_13() {
        let mut limiter = RateLimiter::new();
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(1000), 100), 5);
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(1049), 100), 0);
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(1050), 100), 1);
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(1250), 100), 4);
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(9000), 100), 5);
        let in_ten_seconds: usize =
            (1..=10_000).map(|at| allowed(&mut limiter, "192.0.2.1", millis(9000 + at), 3)).sum();
        assert_eq!(in_ten_seconds, 200);
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64_requirement_13() {
        let mut limiter = RateLimiter::new();
        let now = millis(1);
        assert_eq!(allowed(&mut limiter, "192.0.2.1", now, 9), 5);
        assert_eq!(allowed(&mut limiter, "::ffff:192.0.2.1", now, 9), 0, "the same address");
        assert_eq!(allowed(&mut limiter, "192.0.2.2", now, 9), 5);
        assert_eq!(allowed(&mut limiter, "2001:db8:0:1::1", now, 9), 5);
        assert_eq!(allowed(&mut limiter, "2001:db8:0:1:ffff::2", now, 9), 0, "the same /64");
        assert_eq!(allowed(&mut limiter, "2001:db8:0:2::1", now, 9), 5);
        // Numbers that are equal in the two families are not one source.
        assert_eq!(allowed(&mut limiter, "::1:0:0:0:0", now, 9), 5);
        assert_eq!(allowed(&mut limiter, "0.0.0.1", now, 9), 5);
    }

    #[test]
    fn the_table_is_bounded_requirement_13() {
        let mut limiter = RateLimiter::with_max_sources(3);
        for host in 1..=3 {
            assert!(limiter.allow(IpAddr::from([192, 0, 2, host]), millis(1000)));
        }
        assert!(!limiter.allow(address("192.0.2.4"), millis(1000)), "full: new sources are refused");
        assert!(limiter.allow(address("192.0.2.3"), millis(1000)), "known ones are not");
        assert_eq!(limiter.sources(), 3);
        // Those who have been silent make room.
        assert!(limiter.allow(address("192.0.2.4"), millis(1600)));
        assert_eq!(limiter.sources(), 1);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut limiter = RateLimiter::new();
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(5000), 9), 5);
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(10), 9), 0);
        assert_eq!(allowed(&mut limiter, "192.0.2.1", millis(5000), 9), 0);
    }

    proptest! {
        /// Against buckets that are never forgotten, in exact arithmetic.
        #[test]
        fn forgetting_is_not_noticed(steps in prop::collection::vec((0_u8..4, 0_u64..120_000_000), 1..400)) {
            let mut limiter = RateLimiter::new();
            let mut oracle: HashMap<u8, (u64, u64)> = HashMap::new();
            let mut now = 0;
            for (host, passed) in steps {
                now += passed;
                let (tokens, updated) = oracle.entry(host).or_insert((FULL, now));
                *tokens = (*tokens + now - *updated).min(FULL);
                *updated = now;
                let expected = *tokens >= COST;
                *tokens -= if expected { COST } else { 0 };
                let source = IpAddr::from([192, 0, 2, host]);
                prop_assert_eq!(limiter.allow(source, Instant::from_nanos(now)), expected);
            }
        }
    }
}
