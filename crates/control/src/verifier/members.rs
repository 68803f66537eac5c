//! Who is who: one membership of each node, and one owner of each address, name and key (control rule 4).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::alarm::Owned;
use super::time::CLOCK_SKEW;
use crate::document::{Membership, NetworkDocument, Verified};
use crate::{KeyId, NodeId, NodeName};

/// Who owns something, by which membership, until when at the latest.
#[derive(Clone, Debug)]
struct Claim {
    node: NodeId,
    serial: u64,
    key: PublicKey,
    signer: KeyId,
    until: UnixTime,
}

/// A claim that another node's claim stands against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) owned: Owned,
    pub(super) holder: NodeId,
}

/// Grows with the peers that the node has met, and shrinks by [`Members::prune`].
#[derive(Debug, Default)]
pub(super) struct Members {
    by_node: HashMap<NodeId, Verified<Membership>>,
    /// Stock WireGuard peers by who presents them.
    presented: HashMap<NodeId, BTreeSet<NodeId>>,
    claims: HashMap<Owned, Claim>,
}

/// All that a membership claims.
fn claimed(membership: &Membership) -> impl Iterator<Item = Owned> {
    let addresses = membership.addresses.iter().copied().map(Owned::Address);
    addresses.chain([Owned::Name(membership.name.clone()), Owned::Key(membership.key)])
}

impl Members {
    pub(super) fn get(&self, node: &NodeId) -> Option<&Verified<Membership>> {
        self.by_node.get(node)
    }

    pub(super) fn presented_by(&self, presenter: &NodeId) -> impl Iterator<Item = &Verified<Membership>> {
        self.presented.get(presenter).into_iter().flatten().filter_map(|node| self.by_node.get(node))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Verified<Membership>> {
        self.by_node.values()
    }

    pub(super) fn by_key(&self, key: &PublicKey) -> Option<&Verified<Membership>> {
        self.owner(&Owned::Key(*key)).filter(|membership| membership.key == *key)
    }

    pub(super) fn by_address(&self, address: IpAddr) -> Option<&Verified<Membership>> {
        self.owner(&Owned::Address(address)).filter(|membership| membership.addresses.contains(&address))
    }

    pub(super) fn by_name(&self, name: &NodeName) -> Option<&Verified<Membership>> {
        self.owner(&Owned::Name(name.clone())).filter(|membership| membership.name == *name)
    }

    /// An owner's newest membership need not have what an older one, which has not expired, still holds.
    fn owner(&self, owned: &Owned) -> Option<&Verified<Membership>> {
        self.by_node.get(&self.claims.get(owned)?.node)
    }

    /// Whether another node owns what the membership claims. It owns no more what was revoked, or what has
    /// expired with grace and skew at the confirmed time.
    pub(super) fn conflict(
        &self,
        membership: &Membership,
        network: &NetworkDocument,
        confirmed: UnixTime,
    ) -> Option<Conflict> {
        claimed(membership).find_map(|owned| {
            let claim = self.claims.get(&owned)?;
            let free = claim.node == membership.node
                || confirmed >= claim.until
                || network.revokes(&claim.node, &claim.key, claim.serial);
            (!free).then_some(Conflict { owned, holder: claim.node })
        })
    }

    /// Takes a membership, whose claims must be free. Gives the key that it replaces, if it is another one.
    pub(super) fn insert(&mut self, membership: Verified<Membership>) -> Option<PublicKey> {
        let until = membership.released_at(CLOCK_SKEW);
        for owned in claimed(&membership) {
            let (node, serial, key) = (membership.node, membership.serial, membership.key);
            self.claims.insert(owned, Claim { node, serial, key, signer: membership.signer(), until });
        }
        let key = membership.key;
        if let Some(presenter) = membership.presenter {
            self.presented.entry(presenter).or_default().insert(membership.node);
        }
        let replaced = self.by_node.insert(membership.node, membership)?;
        if let Some(former) = replaced.presenter {
            self.forget_presented(&former, &replaced.node);
        }
        (replaced.key != key).then_some(replaced.key)
    }

    /// Drops the memberships that `keep` does not want, and gives their keys. What they owned stays theirs until
    /// it is released.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Verified<Membership>) -> bool) -> Vec<PublicKey> {
        let mut dropped = Vec::new();
        let mut presented = Vec::new();
        self.by_node.retain(|_, membership| {
            let kept = keep(membership);
            if !kept {
                dropped.push(membership.key);
                presented.extend(membership.presenter.map(|presenter| (presenter, membership.node)));
            }
            kept
        });
        presented.iter().for_each(|(presenter, node)| self.forget_presented(presenter, node));
        dropped
    }

    /// Unless the node's newest membership still has it so.
    fn forget_presented(&mut self, presenter: &NodeId, node: &NodeId) {
        if self.by_node.get(node).is_some_and(|held| held.presenter == Some(*presenter)) {
            return;
        }
        if let Some(nodes) = self.presented.get_mut(presenter) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.presented.remove(presenter);
            }
        }
    }

    /// Releases what was claimed by memberships of issuers that are dead: with all that they signed, so that a
    /// taken issuer key holds no address hostage.
    pub(super) fn release_of_dead(&mut self, alive: impl Fn(KeyId) -> bool) {
        self.claims.retain(|_, claim| alive(claim.signer));
    }

    #[cfg(test)]
    pub(super) fn claims_held(&self) -> usize {
        self.claims.len()
    }

    /// Forgets what has been released.
    pub(super) fn prune(&mut self, confirmed: UnixTime) -> Vec<PublicKey> {
        self.claims.retain(|_, claim| confirmed < claim.until);
        self.retain(|membership| confirmed < membership.released_at(CLOCK_SKEW))
    }
}
