//! From the receiver index of a message to the keypair that opens it.
//!
//! The control thread writes, data workers read without waiting. The table is split into shards so
//! that a change copies a few dozen entries, not all of them.

use crate::keypair::Keypair;
use crate::link::Link;
use arc_swap::ArcSwap;
use std::fmt;
use std::sync::Arc;

/// 30 000 keypairs, three for each of 10 000 peers, make shards of about 120 entries.
const SHARDS: usize = 256;

/// A keypair and the peer it belongs to: what a receiver index stands for.
#[derive(Debug)]
pub struct IndexEntry {
    pub(crate) link: Arc<Link>,
    pub(crate) keypair: Arc<Keypair>,
}

impl IndexEntry {
    /// The peer.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The keys.
    pub fn keypair(&self) -> &Arc<Keypair> {
        &self.keypair
    }
}

type Shard = Vec<(u32, Arc<IndexEntry>)>;

/// Receiver indices in use (requirement 23: they are drawn at random, so any bits of them serve to
/// spread them over the shards).
pub struct IndexTable {
    shards: Box<[ArcSwap<Shard>]>,
}

impl IndexTable {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| ArcSwap::default()).collect() }
    }

    /// The keypair of a receiver index; `None` if nobody holds the index. Any thread, wait-free.
    pub fn lookup(&self, receiver_index: u32) -> Option<Arc<IndexEntry>> {
        let shard = self.shard(receiver_index).load();
        let position = shard.binary_search_by_key(&receiver_index, |entry| entry.0).ok()?;
        shard.get(position).map(|entry| Arc::clone(&entry.1))
    }

    /// Whether an index is in use.
    pub(crate) fn contains(&self, index: u32) -> bool {
        self.shard(index).load().binary_search_by_key(&index, |entry| entry.0).is_ok()
    }

    /// Control thread only. Replaces what the index stood for.
    pub(crate) fn insert(&self, index: u32, entry: IndexEntry) {
        let shard = self.shard(index);
        let mut entries = Shard::clone(&shard.load());
        let entry = Arc::new(entry);
        match entries.binary_search_by_key(&index, |entry| entry.0) {
            Ok(position) => entries[position].1 = entry,
            Err(position) => entries.insert(position, (index, entry)),
        }
        shard.store(Arc::new(entries));
    }

    /// Control thread only.
    pub(crate) fn remove(&self, index: u32) {
        let shard = self.shard(index);
        let mut entries = Shard::clone(&shard.load());
        entries.retain(|entry| entry.0 != index);
        shard.store(Arc::new(entries));
    }

    /// Number of indices in use.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.load().len()).sum()
    }

    /// Whether no index is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, index: u32) -> &ArcSwap<Shard> {
        &self.shards[index as usize % SHARDS]
    }
}

impl fmt::Debug for IndexTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("IndexTable").field("len", &self.len()).finish_non_exhaustive()
    }
}
