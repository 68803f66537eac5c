//! Nodes, as administrators see and change them.

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;

use super::{Outcome, Stop, page, refuse};
use crate::authority::audit::{Actor, Change, ChangeKind};
use crate::authority::issue::{blank, claim_all};
use crate::authority::mirror::Plan;
use crate::authority::nodes::may_present;
use crate::authority::register::{Claim, Key, NodeRecord, Record, Settings};
use crate::authority::{Authority, Effect, Event, after};
use crate::document::{Revocation, Roles};
use crate::frame::AdminRefusal;
use crate::frame::admin::{NodeChange, NodeDetail, NodeInfo, NodeSelector, NodeSpec, Reply, RevokeTarget};
use crate::{NodeId, NodeName};

impl Authority {
    pub(super) fn node_list(&self, after: Option<&NodeName>) -> Reply {
        let named = self.mirror.names_after(after).filter(|(_, claim)| claim.until.is_none());
        let nodes = named.filter_map(|(_, claim)| self.mirror.node(claim.node));
        page(nodes.map(|node| self.info(node)), Reply::Nodes)
    }

    pub(super) fn info(&self, node: &NodeRecord) -> NodeInfo {
        NodeInfo {
            node: node.node,
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            roles: node.roles,
            not_after: node.not_after,
            last_seen: self.seen.get(&node.node).copied(),
            ephemeral: node.ephemeral.is_some(),
        }
    }

    pub(super) fn detail(&self, node: &NodeRecord) -> NodeDetail {
        let mut servers = self.mirror.settings().servers.iter();
        NodeDetail {
            info: self.info(node),
            key: node.key,
            serial: node.serial,
            groups: node.groups.clone(),
            routes: node.routes.clone(),
            joined: node.joined,
            token: node.token,
            presented_by: node.presented_by,
            endpoints: servers
                .find(|server| server.node == node.node)
                .map_or(Vec::new(), |server| server.endpoints.clone()),
        }
    }

    /// Who is to present a stock WireGuard peer: who is named, or the first server that may.
    fn presenter(&self, selector: Option<&NodeSelector>) -> Outcome<&NodeRecord> {
        let may = |node: &&NodeRecord| may_present(node.roles);
        let Some(selector) = selector else {
            let servers = self.mirror.settings().servers.iter();
            let first = servers.filter_map(|server| self.mirror.node(server.node)).find(may);
            let detail = "no server of the network is a gateway or lighthouse: name a gateway with --gateway";
            return first.map_or_else(|| refuse(AdminRefusal::NotFound, detail), Ok);
        };
        let presenter = self.select(selector)?;
        if may(&presenter) {
            return Ok(presenter);
        }
        let name = &presenter.name;
        let detail = format!(
            "{name} is neither gateway nor lighthouse, and cannot present a stock WireGuard peer; make it a gateway with \
             'tombolo node set {name} --role gateway', or choose another"
        );
        refuse(AdminRefusal::Invalid, detail)
    }

    pub(super) fn node_add(
        &self,
        actor: Actor,
        spec: &NodeSpec,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Outcome {
        self.check_recovered(now)?;
        self.check_groups(&spec.groups, false)?;
        let time = self.time(now);
        let presenter = self.presenter(spec.presented_by.as_ref())?;
        if self.mirror.key(spec.key).is_some() {
            return refuse(
                AdminRefusal::Exists,
                "this public key is a node's already, or was revoked: make another key pair for this node",
            );
        }
        if self.mirror.is_busy(&Key::Name(spec.name.clone())) {
            return Err(Stop::Wait(Key::Name(spec.name.clone())));
        }
        if !self.is_name_free(&spec.name, time) {
            let detail = format!("the name {} is another node's; choose another", spec.name);
            return refuse(AdminRefusal::NameTaken, detail);
        }
        let Some(addresses) = self.find_addresses(rng) else {
            return refuse(
                AdminRefusal::Full,
                "no address is left in the overlay; revoke nodes that are gone",
            );
        };
        let mut node = blank(NodeId::generate(rng), spec.name.clone(), addresses, spec.key, time);
        node.groups = spec.groups.clone();
        node.presented_by = Some(presenter.node);
        let Some(version) = self.version() else {
            return refuse(AdminRefusal::Busy, "there is no network document yet; try again in a moment");
        };
        self.issue(&mut node, version, time)?;
        let mut plan = Plan::default();
        claim_all(&mut plan, &self.mirror, &node);
        plan.require(&self.mirror, Key::Node(presenter.node));
        let mut change = Change::new(time, actor, ChangeKind::NodeAdd);
        (change.node, change.key) = (Some(node.node), Some(node.key));
        change.text = Some(node.name.to_string());
        plan.audit.push(change);
        let (id, membership) = (node.node, node.membership.clone());
        plan.effects.push(Effect::Event(Event::Issued { node: id, membership, unasked: true }));
        let detail = self.detail(&node);
        Ok((plan, Reply::Node(Box::new(detail))))
    }

    pub(super) fn node_revoke(&self, actor: Actor, target: &RevokeTarget, now: Now) -> Outcome {
        self.check_idle()?;
        let time = self.time(now);
        let mut plan = Plan::default();
        let longest = |settings: &Settings| after(time, settings.lifetime + settings.grace);
        let mut change = Change::new(time, actor, ChangeKind::RevokeNode);
        match target {
            RevokeTarget::Node(selector) => {
                let node = self.select(selector)?.clone();
                if self.mirror.settings().servers.iter().any(|server| server.node == node.node) {
                    let detail = format!(
                        "{} is a server of the network: take it out first, with 'tombolo network server remove {}'",
                        node.name, node.name
                    );
                    return refuse(AdminRefusal::Invalid, detail);
                }
                self.end_node(&mut plan, &node, true);
                change.node = Some(node.node);
            }
            RevokeTarget::Key(key) => {
                change.kind = ChangeKind::RevokeKey;
                change.key = Some(*key);
                match self.mirror.node_of_key(*key).cloned() {
                    // A node without its key is none.
                    Some(node) => self.end_node(&mut plan, &node, true),
                    None => {
                        let until = after(longest(self.mirror.settings()), crate::verifier::CLOCK_SKEW);
                        let held = self.mirror.key(*key);
                        let node = held.map_or(NodeId::from_bytes([0; 16]), |claim| claim.node);
                        let claim = Claim { node, until: Some(until), burned: true };
                        plan.put(&self.mirror, Key::StaticKey(*key), Record::Claim(claim));
                    }
                }
                let until = after(longest(self.mirror.settings()), crate::verifier::CLOCK_SKEW);
                plan.put(&self.mirror, Key::Revoked(Revocation::Key(*key)), Record::Revoked(until));
            }
            RevokeTarget::Serial(id, serial) => {
                change.kind = ChangeKind::RevokeSerial;
                let node = self.select(&NodeSelector::Node(*id))?;
                if *serial > node.serial {
                    let detail = format!("the newest serial of {} is {}", node.name, node.serial);
                    return refuse(AdminRefusal::Invalid, detail);
                }
                let until = node.released_at;
                change.node = Some(*id);
                plan.put(
                    &self.mirror,
                    Key::Revoked(Revocation::Serial(*id, *serial)),
                    Record::Revoked(until),
                );
            }
        }
        plan.audit.push(change);
        self.with_document(plan, now)
    }

    pub(super) fn node_rename(
        &self,
        actor: Actor,
        selector: &NodeSelector,
        name: &NodeName,
        now: Now,
    ) -> Outcome {
        self.check_recovered(now)?;
        let time = self.time(now);
        let mut node = self.select(selector)?.clone();
        if node.name == *name {
            return Ok((Plan::default(), Reply::Done));
        }
        let own = self.mirror.name(name).is_some_and(|claim| claim.node == node.node);
        if !own && !self.is_name_free(name, time) {
            let until = self.mirror.name(name).and_then(|claim| claim.until);
            let detail = match until {
                Some(until) => format!(
                    "the name {name} was given up, and stays with its former owner until {} (Unix time)",
                    until.0.as_secs()
                ),
                None => format!("the name {name} is another node's; choose another"),
            };
            return refuse(AdminRefusal::NameTaken, detail);
        }
        let Some(version) = self.version() else {
            return refuse(AdminRefusal::Busy, "there is no network document yet; try again in a moment");
        };
        let mut plan = Plan::default();
        // Who holds an older membership knows the node by its old name until that is over (control rule 4).
        let former = Claim { node: node.node, until: Some(node.released_at), burned: false };
        plan.put(&self.mirror, Key::Name(node.name.clone()), Record::Claim(former));
        plan.put(&self.mirror, Key::Name(name.clone()), Record::Claim(Claim::of(node.node)));
        let mut change = Change::new(time, actor, ChangeKind::Rename);
        change.node = Some(node.node);
        change.text = Some(format!("{} to {name}", node.name));
        plan.audit.push(change);
        node.name = name.clone();
        self.issue(&mut node, version, time)?;
        let (id, membership) = (node.node, node.membership.clone());
        plan.put(&self.mirror, Key::Node(id), Record::Node(Box::new(node)));
        plan.effects.push(Effect::Event(Event::Issued { node: id, membership, unasked: true }));
        Ok((plan, Reply::Done))
    }

    /// The node is told its new membership at once. What was taken from it is void from now on for everybody: the memberships
    /// that have it are revoked.
    pub(super) fn node_set(
        &self,
        actor: Actor,
        selector: &NodeSelector,
        change: &NodeChange,
        now: Now,
    ) -> Outcome {
        self.check_recovered(now)?;
        self.check_idle()?;
        self.check_groups(&change.add_groups, change.admin)?;
        let time = self.time(now);
        let mut node = self.select(selector)?.clone();
        if let Some(group) = change.remove_groups.difference(&node.groups).next() {
            return refuse(AdminRefusal::NotFound, format!("{} is not in the group {group}", node.name));
        }
        if let Some(route) = change.remove_routes.difference(&node.routes).next() {
            return refuse(AdminRefusal::NotFound, format!("{} has no route {route}", node.name));
        }
        let before = node.clone();
        let kept = |roles: Roles| roles.without(change.remove_roles) | change.add_roles;
        node.groups.retain(|group| !change.remove_groups.contains(group));
        node.groups.extend(change.add_groups.iter().cloned());
        node.routes.retain(|route| !change.remove_routes.contains(route));
        node.routes.extend(&change.add_routes);
        node.roles = kept(node.roles);
        if (&node.groups, &node.routes, node.roles) == (&before.groups, &before.routes, before.roles) {
            return Ok((Plan::default(), Reply::Done));
        }
        let servers = &self.mirror.settings().servers;
        if let Some(server) = servers.iter().find(|server| server.node == node.node)
            && !node.roles.contains(server.roles)
        {
            let detail = format!(
                "{} is a server with these roles: {}; change that first, with 'tombolo network server'",
                node.name, server.roles
            );
            return refuse(AdminRefusal::Invalid, detail);
        }
        let Some(version) = self.version() else {
            return refuse(AdminRefusal::Busy, "there is no network document yet; try again in a moment");
        };
        let mut plan = Plan::default();
        let mut entry = Change::new(time, actor, ChangeKind::NodeSet);
        entry.node = Some(node.node);
        entry.text = Some(describe(change));
        plan.audit.push(entry);
        let taken = !before.groups.is_subset(&node.groups)
            || !before.routes.is_subset(&node.routes)
            || !node.roles.contains(before.roles);
        let (id, serial) = (node.node, node.serial);
        // It builds on the document that holds now, and goes out first: with it in hand the node loses no tunnel by the
        // revocation of what it had.
        self.issue(&mut node, version, time)?;
        let membership = node.membership.clone();
        plan.effects.push(Effect::Event(Event::Issued { node: id, membership, unasked: true }));
        let until = node.released_at;
        plan.put(&self.mirror, Key::Node(id), Record::Node(Box::new(node)));
        if taken {
            // Contained in the one that follows.
            let former = self.mirror.revocations().map(|(revocation, _)| revocation.clone());
            for former in former.filter(|former| matches!(former, Revocation::Serial(held, _) if *held == id))
            {
                plan.remove(&self.mirror, Key::Revoked(former));
            }
            plan.put(&self.mirror, Key::Revoked(Revocation::Serial(id, serial)), Record::Revoked(until));
            self.publish_into(&mut plan, now)?;
        }
        Ok((plan, Reply::Done))
    }
}

/// For the audit log.
fn describe(change: &NodeChange) -> String {
    let mut parts = Vec::new();
    let NodeChange { add_groups, remove_groups, add_roles, remove_roles, add_routes, remove_routes, .. } =
        change;
    parts.extend(add_groups.iter().map(|group| format!("group {group} added")));
    parts.extend(remove_groups.iter().map(|group| format!("group {group} removed")));
    parts.extend(add_routes.iter().map(|route| format!("route {route} added")));
    parts.extend(remove_routes.iter().map(|route| format!("route {route} removed")));
    let roles = [(add_roles, "added"), (remove_roles, "removed")];
    let roles = roles.into_iter().filter(|(roles, _)| **roles != Roles::NONE);
    parts.extend(roles.map(|(roles, word)| format!("roles {roles} {word}")));
    parts.join(", ")
}
