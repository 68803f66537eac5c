//! Who may send through a relay to whom (control rule 14).
//!
//! Forwarding is the data path's: it parses [`tombolo_packet::relay`], asks here once for each pair, keeps the
//! [`Grant`] with a [`tombolo_packet::relay::PairLimit`], and drops what has no grant. [`Permission::retire`] takes
//! back what holds no more, after each new document and now and then.

use std::collections::{BTreeMap, HashMap};

use tombolo_noise::PublicKey;

use crate::NodeId;
use crate::path::Path;
use crate::verifier::{Times, Verifier};

/// One node may send to another, through this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who sends; stamped on what is forwarded.
    pub source: NodeId,
    /// Its key: the session that the datagrams come by.
    pub source_key: PublicKey,
    /// To whom.
    pub destination: NodeId,
    /// Its key: the session that they leave by.
    pub destination_key: PublicKey,
}

/// Why a pair has no grant. The sender is told nothing: denied looks like absent (control rule 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayRefusal {
    /// The sender is no member whose membership holds.
    Source,
    /// There is no such member here, or it is this relay or the sender itself.
    Destination,
    /// The policy does not let the two talk.
    Policy,
    /// One of the two is itself reached through a relay: relays do not nest.
    Nested,
}

/// One source has this part of all grants at most, so that none takes those of all others.
const SHARE: usize = 4;

/// The grants of a relay: a bounded number. For a new one the oldest goes; whose is still in use is asked for again.
#[derive(Debug)]
pub struct Permission {
    relay: NodeId,
    capacity: usize,
    /// With the number of the grant: later ones have greater numbers.
    grants: HashMap<(PublicKey, NodeId), (u64, Grant)>,
    /// Those of each source by their number, so that nobody looks through all of them for a new one.
    of_source: HashMap<PublicKey, BTreeMap<u64, NodeId>>,
    next: u64,
}

impl Permission {
    /// For this relay, with at most `capacity` pairs (each way counts).
    pub fn new(relay: NodeId, capacity: usize) -> Self {
        Self { relay, capacity, grants: HashMap::new(), of_source: HashMap::new(), next: 0 }
    }

    /// Whether the session of `source` may send to the node `destination`. The paths are those of the two
    /// sessions.
    ///
    /// # Errors
    /// Says why not.
    pub fn authorise(
        &mut self,
        verifier: &Verifier,
        (source, source_path): (&PublicKey, Path),
        (destination, destination_path): (&NodeId, Option<Path>),
        times: Times,
    ) -> Result<Grant, RelayRefusal> {
        let (from, _) = verifier.authorised(source, times).ok_or(RelayRefusal::Source)?;
        let to = verifier.member(destination).ok_or(RelayRefusal::Destination)?;
        let reachable = verifier.authorised(&to.key, times).is_some();
        let destination_path = destination_path.filter(|_| reachable).ok_or(RelayRefusal::Destination)?;
        if *destination == self.relay || to.node == from.node {
            return Err(RelayRefusal::Destination);
        }
        if !verifier.network().is_some_and(|network| network.policy.allows(from, to)) {
            return Err(RelayRefusal::Policy);
        }
        if source_path.is_relayed() || destination_path.is_relayed() {
            return Err(RelayRefusal::Nested);
        }
        let grant =
            Grant { source: from.node, source_key: *source, destination: to.node, destination_key: to.key };
        let pair = (*source, *destination);
        if !self.grants.contains_key(&pair) {
            self.make_room(source);
        }
        self.next += 1;
        let of_source = self.of_source.entry(*source).or_default();
        if let Some((number, _)) = self.grants.insert(pair, (self.next, grant)) {
            of_source.remove(&number);
        }
        of_source.insert(self.next, to.node);
        Ok(grant)
    }

    fn make_room(&mut self, source: &PublicKey) {
        let oldest_of = |key: &PublicKey| {
            let (number, node) = self.of_source.get(key)?.first_key_value()?;
            Some((*number, (*key, *node)))
        };
        let greedy = self.of_source.get(source).map_or(0, BTreeMap::len) >= (self.capacity / SHARE).max(1);
        let oldest = if greedy {
            oldest_of(source)
        } else if self.grants.len() >= self.capacity {
            self.of_source.keys().filter_map(oldest_of).min_by_key(|(number, _)| *number)
        } else {
            None
        };
        if let Some((number, pair)) = oldest {
            self.grants.remove(&pair);
            self.forget(&pair.0, number);
        }
    }

    fn forget(&mut self, source: &PublicKey, number: u64) {
        if let Some(of_source) = self.of_source.get_mut(source) {
            of_source.remove(&number);
            if of_source.is_empty() {
                self.of_source.remove(source);
            }
        }
    }

    /// Takes back the grants that hold no more, and gives them: one of the two was revoked, has expired, or has
    /// another key. `alive` says whether a key still has a session.
    pub fn retire(
        &mut self,
        verifier: &Verifier,
        times: Times,
        mut alive: impl FnMut(&PublicKey) -> bool,
    ) -> Vec<Grant> {
        let mut retired = Vec::new();
        self.grants.retain(|_, (number, grant)| {
            let mut holds = |key: &PublicKey, node: NodeId| {
                alive(key)
                    && verifier.authorised(key, times).is_some_and(|(member, _)| {
                        member.node == node && verifier.member(&node).is_some_and(|held| held.key == *key)
                    })
            };
            let keep = holds(&grant.source_key, grant.source)
                && holds(&grant.destination_key, grant.destination)
                && verifier.network().is_some_and(|network| {
                    let both = verifier.member(&grant.source).zip(verifier.member(&grant.destination));
                    both.is_some_and(|(from, to)| network.policy.allows(from, to))
                });
            if !keep {
                retired.push((*number, *grant));
            }
            keep
        });
        for (number, grant) in &retired {
            self.forget(&grant.source_key, *number);
        }
        retired.into_iter().map(|(_, grant)| grant).collect()
    }

    /// The grants there are, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values().map(|(_, grant)| grant)
    }

    /// How many pairs have a grant.
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether no pair has a grant.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }
}

#[cfg(test)]
mod tests;
