//! The table of allowed IPs as it is looked up.
//!
//! Single addresses, which most peers have, are in a hash table. All other networks are flattened into
//! intervals that do not overlap, each with the owner of the longest prefix over it, so that one search finds
//! the answer, however many prefix lengths there are. Buckets of equal width over the span of the intervals say where
//! to search: where networks lie evenly, as those of one plan do, a bucket holds one or two, and where all lie in one bucket the
//! search is a binary one over all.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_packet::PeerId;

/// An immutable picture of [`AllowedIps`](crate::AllowedIps).
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    v4: Family<u32>,
    v6: Family<u128>,
}

impl RouteTable {
    /// The table of `networks`, none of which may be there twice.
    pub(crate) fn new(networks: impl Iterator<Item = (IpNet, PeerId)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, peer) in networks {
            match network {
                IpNet::V4(network) => v4.push(Prefix {
                    first: network.network().to_bits(),
                    last: network.broadcast().to_bits(),
                    peer,
                }),
                IpNet::V6(network) => v6.push(Prefix {
                    first: network.network().to_bits(),
                    last: network.broadcast().to_bits(),
                    peer,
                }),
            }
        }
        Self { v4: Family::new(v4), v6: Family::new(v6) }
    }

    /// The peer that has the longest prefix of `address`. An IPv4-mapped IPv6 address is an IPv6
    /// address.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        }
    }

    /// Whether no address has a peer.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// A network and its owner.
#[derive(Clone, Copy, Debug)]
struct Prefix<A> {
    first: A,
    last: A,
    peer: PeerId,
}

/// IPv4 or IPv6 addresses as numbers.
trait Address: Copy + Ord + std::hash::Hash + Default {
    /// The address after this one.
    fn next(self) -> Option<Self>;

    /// How far this address lies after `start`, in units of 2^`shift` addresses; `None` before it.
    fn buckets_after(self, start: Self, shift: u32) -> Option<usize>;

    /// The width of the address in bits.
    const BITS: u32;
}

macro_rules! impl_address {
    ($number:ty) => {
        impl Address for $number {
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline]
            fn buckets_after(self, start: Self, shift: u32) -> Option<usize> {
                // What does not fit lies past all buckets there are.
                self.checked_sub(start)
                    .map(|distance| usize::try_from(distance >> shift).unwrap_or(usize::MAX))
            }

            const BITS: u32 = <$number>::BITS;
        }
    };
}

impl_address!(u32);
impl_address!(u128);

/// The routes of one address family.
#[derive(Clone, Debug, Default)]
struct Family<A> {
    hosts: HashMap<A, PeerId, BuildHasherDefault<AddressHasher>>,
    /// Where each interval begins, ascending; it ends before the next one, the last at the greatest address.
    starts: Vec<A>,
    /// Whose each interval is.
    owners: Vec<Option<PeerId>>,
    /// The buckets, 2^`shift` addresses wide from the first start on: how many starts lie before each, and at the end how many
    /// there are.
    buckets: Vec<u32>,
    shift: u32,
}

impl<A: Address> Family<A> {
    fn new(mut prefixes: Vec<Prefix<A>>) -> Self {
        let hosts = prefixes
            .iter()
            .filter(|prefix| prefix.first == prefix.last)
            .map(|prefix| (prefix.first, prefix.peer))
            .collect();
        prefixes.retain(|prefix| prefix.first != prefix.last);
        // Two prefixes are disjoint, or one holds the other: the outer one goes first.
        prefixes.sort_by_key(|prefix| (prefix.first, std::cmp::Reverse(prefix.last)));
        let mut family = Self { hosts, ..Self::default() };
        let mut open: Vec<Prefix<A>> = Vec::new();
        for prefix in prefixes {
            family.close(&mut open, Some(prefix.first));
            family.begin(prefix.first, Some(prefix.peer));
            open.push(prefix);
        }
        family.close(&mut open, None);
        family.fill_buckets();
        family
    }

    /// As many buckets as there are starts, within a factor of two.
    fn fill_buckets(&mut self) {
        let (Some(&first), Some(&last)) = (self.starts.first(), self.starts.last()) else { return };
        let most = self.starts.len().next_power_of_two();
        let bucket_of_last = |shift| last.buckets_after(first, shift).unwrap_or(0);
        self.shift = (0..A::BITS).find(|&shift| bucket_of_last(shift) < most).unwrap_or(A::BITS - 1);
        let count = bucket_of_last(self.shift) + 1;
        self.buckets = (0..=count)
            .map(|bucket| {
                let before =
                    |start: &A| start.buckets_after(first, self.shift).is_some_and(|found| found < bucket);
                self.starts.partition_point(before) as u32
            })
            .collect();
    }

    /// Ends the open prefixes that lie wholly before `until`; each goes back to the one around it.
    fn close(&mut self, open: &mut Vec<Prefix<A>>, until: Option<A>) {
        while let Some(ended) = open.pop_if(|prefix| until.is_none_or(|until| prefix.last < until)) {
            if let Some(start) = ended.last.next() {
                self.begin(start, open.last().map(|prefix| prefix.peer));
            }
        }
    }

    /// Begins an interval; one that would be empty is replaced.
    fn begin(&mut self, start: A, owner: Option<PeerId>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.owners.pop();
        }
        if self.owners.last().copied().flatten() != owner {
            self.starts.push(start);
            self.owners.push(owner);
        }
    }

    #[inline]
    fn lookup(&self, address: A) -> Option<PeerId> {
        if let Some(&peer) = self.hosts.get(&address) {
            return Some(peer);
        }
        let bucket = address.buckets_after(*self.starts.first()?, self.shift)?;
        // Past the last bucket lies the last interval, which begins in it.
        let bucket = bucket.min(self.buckets.len().checked_sub(2)?);
        let (&from, &to) = (self.buckets.get(bucket)?, self.buckets.get(bucket + 1)?);
        let within = self.starts.get(from as usize..to as usize)?;
        let after = from as usize + within.partition_point(|&start| start <= address);
        self.owners.get(after.checked_sub(1)?).copied().flatten()
    }

    fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.starts.is_empty()
    }
}

/// Hashes one address. Who chooses the keys also chooses who may connect, so nobody gains by collisions.
#[derive(Clone, Copy, Debug, Default)]
struct AddressHasher(u64);

impl AddressHasher {
    #[inline]
    fn mix(&mut self, word: u64) {
        // Multiplied by the golden ratio as in Fibonacci hashing, and the halves of the product folded: the
        // hash table takes its index from the low bits and its tag from the high ones.
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.mix(u64::from(byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, address: u32) {
        self.mix(u64::from(address));
    }

    #[inline]
    fn write_u128(&mut self, address: u128) {
        self.mix(address as u64);
        self.mix((address >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;
    use crate::AllowedIps;

    /// The longest prefix, found by looking at all of them.
    fn slow_lookup(networks: &[(IpNet, PeerId)], address: IpAddr) -> Option<PeerId> {
        networks
            .iter()
            .filter(|(network, _)| network.contains(&address))
            .max_by_key(|(network, _)| network.prefix_len())
            .map(|&(_, peer)| peer)
    }

    fn table(networks: &[(&str, u32)]) -> RouteTable {
        let mut allowed = AllowedIps::default();
        for &(network, peer) in networks {
            allowed.insert(network.parse().unwrap(), PeerId(peer));
        }
        allowed.snapshot()
    }

    #[track_caller]
    fn assert_routes(table: &RouteTable, expected: &[(&str, Option<u32>)]) {
        for &(address, peer) in expected {
            assert_eq!(table.lookup(address.parse().unwrap()), peer.map(PeerId), "{address}");
        }
    }

    #[test]
    fn the_longest_prefix_wins_whoever_has_it_requirement_18() {
        let table = table(&[
            ("0.0.0.0/0", 0),
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("10.1.255.0/24", 3),
            ("10.1.255.255/32", 4),
            ("11.0.0.0/8", 1),
            ("255.255.255.254/31", 5),
        ]);
        assert_routes(
            &table,
            &[
                ("0.0.0.0", Some(0)),
                ("9.255.255.255", Some(0)),
                ("10.0.0.0", Some(1)),
                ("10.1.0.0", Some(2)),
                ("10.1.254.255", Some(2)),
                ("10.1.255.0", Some(3)),
                ("10.1.255.255", Some(4)),
                ("10.2.0.0", Some(1)),
                ("11.255.255.255", Some(1)),
                ("12.0.0.0", Some(0)),
                ("255.255.255.253", Some(0)),
                ("255.255.255.255", Some(5)),
                ("::", None),
            ],
        );
    }

    #[test]
    fn an_ipv4_mapped_address_meets_the_rules_of_ipv6() {
        let table = table(&[("10.0.0.0/8", 1), ("::ffff:10.0.0.0/104", 2), ("::/0", 3)]);
        assert_routes(
            &table,
            &[("10.0.0.1", Some(1)), ("::ffff:10.0.0.1", Some(2)), ("::ffff:11.0.0.1", Some(3))],
        );
    }

    #[test]
    fn an_empty_table_has_no_peer() {
        assert!(RouteTable::default().is_empty());
        assert_routes(&RouteTable::default(), &[("0.0.0.0", None), ("255.255.255.255", None), ("::1", None)]);
    }

    /// Few distinct bits, so that prefixes nest, touch and repeat.
    fn v4() -> impl Strategy<Value = IpNet> {
        let bits = prop::sample::select(vec![0_u32, 0x0a00_0000, 0x0aff_ffff, 0x8000_0000, u32::MAX]);
        (bits, any::<u32>(), prop::sample::select(vec![0_u32, 0xf, 0xff_00f0, u32::MAX]), 0..=32_u8).prop_map(
            |(base, noise, mask, len)| {
                IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(base ^ noise & mask), len))
            },
        )
    }

    fn v6() -> impl Strategy<Value = IpNet> {
        let bits = prop::sample::select(vec![0_u128, 0xfd00 << 112, 0xffff_0a00_0000, u128::MAX]);
        let mask = prop::sample::select(vec![0_u128, 0xf, 0xff << 64, u128::MAX]);
        (bits, any::<u128>(), mask, 0..=128_u8).prop_map(|(base, noise, mask, len)| {
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(base ^ noise & mask), len))
        })
    }

    proptest! {
        #[test]
        fn look_ups_equal_a_linear_scan(
            networks in prop::collection::vec((prop_oneof![v4(), v6()], 0..5_u32), 0..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            probes in prop::collection::vec(prop_oneof![v4(), v6()], 20),
        ) {
            let mut allowed = AllowedIps::default();
            let mut slow: Vec<(IpNet, PeerId)> = Vec::new();
            for &(network, peer) in &networks {
                allowed.insert(network, PeerId(peer));
                slow.retain(|(other, _)| *other != network.trunc());
                slow.push((network.trunc(), PeerId(peer)));
            }
            for index in removed {
                if slow.is_empty() { break }
                let (network, peer) = slow.swap_remove(index.index(slow.len()));
                prop_assert!(allowed.remove(network, peer));
            }
            let table = allowed.snapshot();
            let edges = networks.iter().flat_map(|(network, _)| [network.network(), network.broadcast()]);
            for address in probes.iter().map(|network| network.addr()).chain(edges) {
                prop_assert_eq!(table.lookup(address), slow_lookup(&slow, address), "{}", address);
            }
            for peer in (0..5).map(PeerId) {
                let mut expected: Vec<_> =
                    slow.iter().filter(|(_, owner)| *owner == peer).map(|&(network, _)| network).collect();
                expected.sort();
                prop_assert_eq!(allowed.peer_networks(peer).collect::<Vec<_>>(), expected);
            }
        }
    }
}
