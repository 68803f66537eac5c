//! Where live sessions come from: what tells the handshake messages of members from those of strangers
//! before any Diffie-Hellman (control rule 8).

use arc_swap::ArcSwap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// As in the table of receiver indices: a change copies one shard.
const SHARDS: usize = 256;

type Shard = Vec<(SocketAddr, u32)>;

/// The addresses and ports of peers with a live session, or with an initiation of ours under way. The control
/// thread writes, workers read without waiting.
///
/// An address can be forged: whoever knows a peer's address and port can send into the queue of the
/// known, where cookies and the rate of a source protect as they do in stock WireGuard.
pub struct SourceTable {
    shards: Box<[ArcSwap<Shard>]>,
}

impl SourceTable {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| ArcSwap::default()).collect() }
    }

    /// Whether a peer that we have a session with is at `source`. Any thread, wait-free, a few tens of nanoseconds.
    pub fn contains(&self, source: SocketAddr) -> bool {
        let source = canonical(source);
        self.shard(source).load().binary_search_by_key(&source, |entry| entry.0).is_ok()
    }

    /// Control thread only. Peers may share a source: each is counted.
    pub(crate) fn insert(&self, source: SocketAddr) {
        let source = canonical(source);
        let shard = self.shard(source);
        let mut entries = Shard::clone(&shard.load());
        match entries.binary_search_by_key(&source, |entry| entry.0) {
            Ok(position) => entries[position].1 += 1,
            Err(position) => entries.insert(position, (source, 1)),
        }
        shard.store(Arc::new(entries));
    }

    /// Control thread only: takes back one [`insert`](Self::insert).
    pub(crate) fn remove(&self, source: SocketAddr) {
        let source = canonical(source);
        let shard = self.shard(source);
        let mut entries = Shard::clone(&shard.load());
        if let Ok(position) = entries.binary_search_by_key(&source, |entry| entry.0) {
            entries[position].1 -= 1;
            if entries[position].1 == 0 {
                entries.remove(position);
            }
        }
        shard.store(Arc::new(entries));
    }

    /// How many sources there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, source: SocketAddr) -> &ArcSwap<Shard> {
        // Nobody but a peer puts an address in here, so there is nothing to aim at a shard.
        let last = match source.ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets().iter().fold(0, |sum, octet| sum ^ octet),
        };
        let [high, low] = source.port().to_be_bytes();
        &self.shards[usize::from(last ^ high ^ low) % SHARDS]
    }
}

fn canonical(source: SocketAddr) -> SocketAddr {
    SocketAddr::new(source.ip().to_canonical(), source.port())
}

impl fmt::Debug for SourceTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SourceTable").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_as_long_as_one_peer_is_there() {
        let table = SourceTable::new();
        let plain: SocketAddr = "192.0.2.1:8662".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:8662".parse().unwrap();
        table.insert(plain);
        table.insert(mapped);
        assert!(table.contains(plain) && table.contains(mapped), "one address, written in two ways");
        assert_eq!(table.len(), 1);
        table.remove(plain);
        assert!(table.contains(mapped));
        table.remove(mapped);
        assert!(table.is_empty() && !table.contains(plain));
        table.remove(plain);
        assert!(!table.contains("192.0.2.1:8663".parse().unwrap()));
    }

    #[test]
    fn ten_thousand_peers_fill_the_shards_evenly() {
        let table = SourceTable::new();
        for number in 0..10_000_u32 {
            table.insert(SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 8662)));
        }
        assert_eq!(table.len(), 10_000);
        assert!(table.shards.iter().all(|shard| shard.load().len() <= 80));
    }
}
