//! What this machine brings from one member to another, where it is a relay (control rule 14).

use tombolo_control::NodeId;
use tombolo_control::relay::Permission;
use tombolo_engine::{RelayGrant, RelayPermissions, now};
use tombolo_noise::PublicKey;
use tombolo_packet::relay::PairRates;

use super::super::Daemon;
use super::Member;

/// Pairs at most, each way by itself.
const PAIRS: usize = 16_384;

/// The grants of a relay.
pub(super) struct Relaying {
    permission: Permission,
    /// The engine is to be told.
    changed: bool,
}

impl Relaying {
    pub(super) fn new(relay: NodeId) -> Self {
        Self { permission: Permission::new(relay, PAIRS), changed: false }
    }

    fn permissions(&self) -> RelayPermissions {
        let grants = self.permission.grants().map(|grant| RelayGrant {
            source_key: grant.source_key,
            source: *grant.source.as_bytes(),
            destination: *grant.destination.as_bytes(),
            destination_key: grant.destination_key,
        });
        RelayPermissions { rates: PairRates::default(), grants: grants.collect() }
    }
}

impl Member {
    /// Somebody wants to send to a node through us; where it may, it gets its answers.
    fn grant(&mut self, source: PublicKey, destination: [u8; 16]) {
        let times = self.node.times(now());
        let verifier = self.node.verifier();
        let destination = NodeId::from_bytes(destination);
        let there = verifier.member(&destination).map(|member| member.key);
        let here = verifier.authorised(&source, times).map(|(member, _)| member.node);
        let granted = self.grant_one_way(source, destination);
        if let (true, Some(there), Some(here)) = (granted, there, here) {
            self.grant_one_way(there, here);
        }
    }

    fn grant_one_way(&mut self, source: PublicKey, node: NodeId) -> bool {
        let Some(relaying) = &mut self.relaying else { return false };
        let verifier = self.node.verifier();
        let key = verifier.member(&node).map(|member| member.key);
        let Some(path) = self.node.path_to(&source) else { return false };
        let to = (&node, key.and_then(|key| self.node.path_to(&key)));
        let times = self.node.times(now());
        match relaying.permission.authorise(verifier, (&source, path), to, times) {
            Ok(_) => {
                relaying.changed = true;
                true
            }
            Err(refusal) => {
                tracing::debug!("{source} may not send to node {node} through this relay: {refusal:?}");
                false
            }
        }
    }

    /// Takes back what holds no more.
    fn retire(&mut self) {
        let times = self.node.times(now());
        let Some(relaying) = &mut self.relaying else { return };
        let node = &self.node;
        let retired = relaying.permission.retire(node.verifier(), times, |key| node.path_to(key).is_some());
        relaying.changed |= !retired.is_empty();
    }
}

impl Daemon {
    /// Tells the engine what this machine relays.
    pub(in super::super) fn tell_relaying(&self) {
        if let Some(member) = &self.member {
            self.tell_relaying_of(member);
        }
    }

    pub(super) fn tell_relaying_of(&self, member: &Member) {
        if let (Some(relaying), Ok(handle)) = (&member.relaying, self.slot.handle()) {
            // It fails only when the engine has stopped.
            let _ = handle.set_relay(Some(relaying.permissions()));
        }
    }

    pub(in super::super) fn relay_wanted(&mut self, source: PublicKey, destination: [u8; 16]) {
        if let Some(member) = &mut self.member {
            member.grant(source, destination);
        }
    }

    /// After changes of documents, and now and then.
    pub(in super::super) fn retire_relaying(&mut self) {
        if let Some(member) = &mut self.member {
            member.retire();
        }
    }

    /// All that has changed at once, since it is one table for the engine.
    pub(in super::super) fn settle_relaying(&mut self) {
        let relaying = self.member.as_mut().and_then(|member| member.relaying.as_mut());
        if relaying.is_some_and(|relaying| std::mem::take(&mut relaying.changed)) {
            self.tell_relaying();
        }
    }
}
