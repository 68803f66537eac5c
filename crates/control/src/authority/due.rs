//! What is due without anybody asking: old keys, machines that are gone, memberships that expired for good.

use std::time::Duration;

use tombolo_noise::clock::Now;

use super::audit::{Actor, Change, ChangeKind};
use super::mirror::Plan;
use super::register::{Claim, Key, NodeRecord, Record};
use super::{Authority, Decision, after};
use crate::document::Revocation;

/// How often it is looked for.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// How many nodes are let go in one transaction: the rest waits for the next look.
const NODES_MAX: usize = 64;

impl Authority {
    pub(super) fn decide_due(&mut self, now: Now) -> Decision {
        let nothing = Decision::Answer(Vec::new());
        if self.end_recovery(now) {
            return self.decide_end_of_recovery(now);
        }
        // While nodes are gathered after a restore nothing is taken from anybody for being away.
        if self.is_recovering(now) {
            return nothing;
        }
        let time = self.time(now);
        let mut plan = Plan::default();
        let mut revokes = false;
        let mut room = self.room_for_revocations(now);
        let due = self.mirror.nodes().filter(|node| self.is_due(node, now)).filter(|node| {
            // Who waits for room is known as before, and comes later.
            let lasting = node.released_at > time;
            let fits = !lasting || room > 0;
            room -= usize::from(lasting && fits);
            fits
        });
        let nodes: Vec<NodeRecord> = due.take(NODES_MAX).cloned().collect();
        for mut node in nodes {
            let mut change = Change::new(time, Actor::Authority, ChangeKind::Gone);
            change.node = Some(node.node);
            if self.is_gone(&node, now) {
                self.end_node(&mut plan, &node, false);
                revokes = true;
            } else if let Some((key, _)) = node.former_key.take() {
                let until = node.released_at;
                let claim = Claim { node: node.node, until: Some(until), burned: true };
                plan.put(&self.mirror, Key::StaticKey(key), Record::Claim(claim));
                plan.put(&self.mirror, Key::Revoked(Revocation::Key(key)), Record::Revoked(until));
                change.kind = ChangeKind::Retire;
                change.key = Some(key);
                plan.put(&self.mirror, Key::Node(node.node), Record::Node(Box::new(node)));
                revokes = true;
            }
            plan.audit.push(change);
        }
        // Names that were given up, keys that were burned, tokens that are long worthless: known by nobody any more.
        let over: Vec<Key> = self
            .mirror
            .records()
            .filter(|(_, record)| match record {
                Record::Claim(claim) => claim.until.is_some_and(|until| until <= time),
                Record::Token(token) => after(token.expires, super::Settings::GRACE) <= time,
                _ => false,
            })
            .map(|(key, _)| key.clone())
            .filter(|key| plan.written(key).is_none())
            .take(NODES_MAX)
            .collect();
        over.into_iter().for_each(|key| plan.remove(&self.mirror, key));
        if plan.keys().next().is_none() {
            return nothing;
        }
        if revokes { self.commit_published(plan, now) } else { Decision::Commit(Box::new(plan)) }
    }

    fn is_due(&self, node: &NodeRecord, now: Now) -> bool {
        let time = self.time(now);
        node.former_key.is_some_and(|(_, at)| at <= time) || self.is_gone(node, now)
    }

    /// An ephemeral node that nobody has seen for its while, or a node whose membership expired with grace and skew.
    fn is_gone(&self, node: &NodeRecord, now: Now) -> bool {
        let time = self.time(now);
        // Servers go by the settings alone: one that was down for months is there again, and not gone.
        if self.mirror.settings().servers.iter().any(|server| server.node == node.node) {
            return false;
        }
        let seen = self.seen.get(&node.node).copied().unwrap_or(self.started).max(node.joined);
        node.released_at <= time || node.ephemeral.is_some_and(|limit| after(seen, limit) <= time)
    }
}
