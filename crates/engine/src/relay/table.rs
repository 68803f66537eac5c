//! Who may send to whom through this relay, as the control plane says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;
use tombolo_packet::PeerId;
use tombolo_packet::relay::{PairLimit, PairRates};

/// Pairs that wait for an answer of the control plane.
const MAX_WANTED: usize = 1024;
/// And of one source, so that none takes the room of all others.
const MAX_WANTED_BY_ONE: usize = 32;
/// How long a pair that was asked for is not asked for again.
const WANTED_AGAIN: Duration = Duration::from_millis(250);

/// One node may send to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayGrant {
    /// The key whose session the datagrams come by.
    pub source_key: PublicKey,
    /// The node id that is stamped on them.
    pub source: [u8; 16],
    /// The node id that they name.
    pub destination: [u8; 16],
    /// The key whose session they leave by.
    pub destination_key: PublicKey,
}

/// All that a relay may bring from one to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayPermissions {
    /// What each pair may send.
    pub rates: PairRates,
    /// The pairs, each way by itself.
    pub grants: Vec<RelayGrant>,
}

/// A grant, with what it has used.
pub(crate) struct Pair {
    pub(crate) source: [u8; 16],
    pub(crate) destination_key: PublicKey,
    /// Its slot when the grant was given; the key decides whether it is still the same.
    pub(crate) destination: PeerId,
    pub(crate) limit: Arc<Mutex<PairLimit>>,
}

pub(crate) struct RelayTable {
    pub(crate) rates: PairRates,
    pairs: HashMap<(PublicKey, [u8; 16]), Arc<Pair>>,
}

impl RelayTable {
    /// Pairs of which one end is not there are left out: when it comes, they are asked for. What a pair has used, it has used
    /// also under a new table.
    pub(crate) fn new(
        permissions: RelayPermissions,
        former: Option<&RelayTable>,
        peer: impl Fn(&PublicKey) -> Option<PeerId>,
    ) -> Self {
        let pairs = permissions.grants.into_iter().filter_map(|grant| {
            let key = (grant.source_key, grant.destination);
            let pair = Pair {
                source: grant.source,
                destination_key: grant.destination_key,
                destination: peer(&grant.destination_key)?,
                limit: former
                    .and_then(|former| former.pairs.get(&key))
                    .map_or_else(Arc::default, |pair| Arc::clone(&pair.limit)),
            };
            Some((key, Arc::new(pair)))
        });
        Self { rates: permissions.rates, pairs: pairs.collect() }
    }

    pub(crate) fn pair(&self, source: &PublicKey, destination: &[u8; 16]) -> Option<&Arc<Pair>> {
        self.pairs.get(&(*source, *destination))
    }
}

/// What this machine relays: nothing, without a table.
#[derive(Default)]
pub(crate) struct Relays {
    pub(crate) table: ArcSwapOption<RelayTable>,
    wanted: Mutex<Wanted>,
}

#[derive(Default)]
struct Wanted {
    asked: HashMap<PublicKey, Vec<([u8; 16], Instant)>>,
    /// In all of `asked`.
    count: usize,
    new: Vec<(PublicKey, [u8; 16])>,
}

impl Relays {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Worker: a pair has no grant. `true`: the control thread is to be woken.
    pub(crate) fn want(&self, source: &PublicKey, destination: &[u8; 16], now: Instant) -> bool {
        let mut wanted = self.lock();
        let wanted = &mut *wanted;
        let recent = |asked: &Instant| now.saturating_duration_since(*asked) < WANTED_AGAIN;
        if wanted.count >= MAX_WANTED {
            wanted.asked.values_mut().for_each(|pairs| pairs.retain(|(_, asked)| recent(asked)));
            wanted.asked.retain(|_, pairs| !pairs.is_empty());
            wanted.count = wanted.asked.values().map(Vec::len).sum();
        }
        let pairs = wanted.asked.entry(*source).or_default();
        let before = pairs.len();
        pairs.retain(|(_, asked)| recent(asked));
        wanted.count -= before - pairs.len();
        let known = pairs.iter().any(|(node, _)| node == destination);
        if known || pairs.len() >= MAX_WANTED_BY_ONE || wanted.count >= MAX_WANTED {
            return false;
        }
        pairs.push((*destination, now));
        wanted.count += 1;
        wanted.new.push((*source, *destination));
        true
    }

    /// Control thread: the pairs to ask for.
    pub(crate) fn take_wanted(&self) -> Vec<(PublicKey, [u8; 16])> {
        if self.table.load().is_none() {
            return Vec::new();
        }
        std::mem::take(&mut self.lock().new)
    }

    /// Control thread: a new table, and what was asked for may be asked for again.
    pub(crate) fn set(&self, table: Option<RelayTable>) {
        self.table.store(table.map(Arc::new));
        *self.lock() = Wanted::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn permissions() -> RelayPermissions {
        let grant = |destination: u8| RelayGrant {
            source_key: key(1),
            source: [1; 16],
            destination: [destination; 16],
            destination_key: key(destination),
        };
        RelayPermissions { rates: PairRates::default(), grants: vec![grant(2), grant(3)] }
    }

    #[test]
    fn a_new_table_forgets_no_pairs_use_and_has_none_whose_end_is_not_there() {
        let peer = |sought: &PublicKey| (*sought == key(2)).then_some(PeerId(7));
        let first = RelayTable::new(permissions(), None, peer);
        assert!(first.pair(&key(1), &[3; 16]).is_none() && first.pair(&key(2), &[2; 16]).is_none());
        let limit = Arc::clone(&first.pair(&key(1), &[2; 16]).unwrap().limit);
        let second = RelayTable::new(permissions(), Some(&first), peer);
        let pair = second.pair(&key(1), &[2; 16]).unwrap();
        assert!(Arc::ptr_eq(&limit, &pair.limit) && pair.destination == PeerId(7));
    }

    #[test]
    fn a_pair_is_asked_for_four_times_a_second_and_of_many_a_bounded_number() {
        let (relays, now) = (Relays::default(), Instant::default());
        relays.set(Some(RelayTable::new(permissions(), None, |_| None)));
        assert!(relays.want(&key(1), &[2; 16], now) && !relays.want(&key(1), &[2; 16], now));
        assert_eq!(relays.take_wanted(), [(key(1), [2; 16])]);
        assert!(relays.want(&key(1), &[2; 16], now + WANTED_AGAIN));
        let asked = |source, now| {
            (0..2000_u16)
                .filter(|number| {
                    let mut node = [0; 16];
                    node[..2].copy_from_slice(&number.to_be_bytes());
                    relays.want(&key(source), &node, now)
                })
                .count()
        };
        assert_eq!(asked(1, now + WANTED_AGAIN), MAX_WANTED_BY_ONE - 1);
        assert_eq!(asked(1, now + 2 * WANTED_AGAIN), MAX_WANTED_BY_ONE);
        let others: usize = (2..200).map(|source| asked(source, now + 2 * WANTED_AGAIN)).sum();
        assert_eq!(
            others,
            MAX_WANTED - MAX_WANTED_BY_ONE,
            "others are heard beside it, and all together are bounded"
        );
    }
}
