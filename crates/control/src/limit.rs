//! Limits of which there is one for each of many: members, addresses, pairs.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tombolo_noise::clock::Instant;
use tombolo_packet::bucket::{Bucket, Rate};

/// A bounded table of token buckets with one rate.
#[derive(Debug)]
pub(crate) struct Limits<K> {
    rate: Rate,
    capacity: usize,
    buckets: HashMap<K, Bucket>,
    swept: Instant,
}

/// Between two looks for keys that are idle: whoever keeps the table full causes no more than these.
const SWEEP: Duration = Duration::from_secs(1);

impl<K: Eq + Hash> Limits<K> {
    pub(crate) fn new(rate: Rate, capacity: usize) -> Self {
        Self { rate, capacity, buckets: HashMap::new(), swept: Instant::from_nanos(0) }
    }

    /// Takes one unit of the key's. With the table full of keys that are in use, nothing passes for new ones.
    pub(crate) fn take(&mut self, key: K, now: Instant) -> bool {
        if self.buckets.len() >= self.capacity && !self.buckets.contains_key(&key) {
            if now.saturating_duration_since(self.swept) < SWEEP {
                return false;
            }
            self.swept = now;
            self.buckets.retain(|_, bucket| !bucket.is_full(now.as_nanos()));
            if self.buckets.len() >= self.capacity {
                return false;
            }
        }
        let now = now.as_nanos();
        self.buckets.entry(key).or_default().take(self.rate, 1, now)
    }
}

/// Deadlines of many things, and which is next.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    by_time: std::collections::BTreeSet<(Instant, K)>,
    by_key: HashMap<K, Instant>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self { by_time: std::collections::BTreeSet::new(), by_key: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord> Deadlines<K> {
    /// Sets the one deadline of a key.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        self.clear(&key);
        self.by_time.insert((at, key));
        self.by_key.insert(key, at);
    }

    pub(crate) fn clear(&mut self, key: &K) {
        if let Some(at) = self.by_key.remove(key) {
            self.by_time.remove(&(at, *key));
        }
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out one key that is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let &(at, key) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.clear(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_is_idle() {
        let mut limits = Limits::new(Rate { per_second: 1, burst: 2 }, 3);
        assert!(limits.take(1, at(0)) && limits.take(1, at(0)) && !limits.take(1, at(0)));
        assert!(limits.take(2, at(0)) && limits.take(3, at(0)));
        assert!(!limits.take(4, at(0)), "full of keys in use");
        assert!(limits.take(4, at(10)) && limits.buckets.len() == 1);
    }

    #[test]
    fn a_table_that_is_kept_full_is_not_gone_through_for_each_new_key() {
        let mut limits = Limits::new(Rate { per_second: 1, burst: 1 }, 2);
        assert!(limits.take(1, at(5)) && limits.take(2, at(5)) && !limits.take(3, at(5)));
        let half = at(5) + SWEEP / 2;
        assert!(!limits.take(4, half) && limits.swept == at(5), "it was just looked at");
        assert!(limits.take(5, at(7)) && limits.swept == at(7));
    }

    #[test]
    fn deadlines_come_in_order_and_one_for_each() {
        let mut deadlines = Deadlines::default();
        deadlines.set('a', at(3));
        deadlines.set('b', at(2));
        deadlines.set('a', at(1));
        assert_eq!(deadlines.next(), Some(at(1)));
        assert_eq!(deadlines.pop_due(at(0)), None);
        let due: Vec<char> = std::iter::from_fn(|| deadlines.pop_due(at(9))).collect();
        assert_eq!(due, ['a', 'b']);
        assert_eq!(deadlines.next(), None);
    }
}
