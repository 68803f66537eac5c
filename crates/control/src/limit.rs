//! Limits of which there is one for each of many: members, addresses, pairs.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
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

/// How many times as much goes to all addresses of an IPv6 /64 as to one: hosts of one site share it, and whoever has one has all of them.
const SITE: u64 = 8;

/// What goes to addresses that others have named, for each address, and for each IPv6 /64 (control rule 13).
#[derive(Debug)]
pub(crate) struct Destinations {
    addresses: Limits<IpAddr>,
    sites: Limits<Ipv6Addr>,
}

impl Destinations {
    pub(crate) fn new(rate: Rate, capacity: usize) -> Self {
        let site = Rate { per_second: rate.per_second * SITE, burst: rate.burst * SITE };
        Self { addresses: Limits::new(rate, capacity), sites: Limits::new(site, capacity) }
    }

    pub(crate) fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        if let IpAddr::V6(v6) = address {
            let site = Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX));
            if !self.sites.take(site, now) {
                return false;
            }
        }
        self.addresses.take(address, now)
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
    fn a_network_of_victims_gets_as_little_as_a_few_of_them_control_rule_13() {
        let mut destinations = Destinations::new(Rate { per_second: 1, burst: 4 }, 4096);
        let mut taken = |address: String| destinations.take(address.parse().unwrap(), at(0));
        assert_eq!((0..10).filter(|_| taken("192.0.2.1".to_owned())).count(), 4);
        assert!(!taken("::ffff:192.0.2.1".to_owned()), "the same, written in another way");
        let of_site = (0..1000).filter(|host| taken(format!("2001:db8::{host:x}"))).count();
        assert_eq!(of_site, 32);
        assert!(taken("2001:db8:0:1::1".to_owned()), "another network");
        assert_eq!((0..10).filter(|_| taken("2001:db8:0:1::1".to_owned())).count(), 3, "one address of it");
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
