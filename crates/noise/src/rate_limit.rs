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
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

struct Bucket {
    tokens: u64,
    updated: Instant,
}

/// Token buckets per source: 20 messages a second, bursts of 5, in a table of bounded size (kernel
/// `ratelimiter.c`). Only sources that hold a valid cookie, so cannot be forged, should be put to it.
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
