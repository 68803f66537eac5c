//! What holds in the network, and changes of it.

use tombolo_noise::clock::Now;

use super::{Outcome, refuse};
use crate::authority::Authority;
use crate::authority::audit::{Actor, Change, ChangeKind};
use crate::authority::genesis::LIFETIME_BOUNDS;
use crate::authority::mirror::Plan;
use crate::authority::register::{Key, Record, Settings};
use crate::document::{Membership, NetworkDocument, Roles, Server};
use crate::frame::AdminRefusal;
use crate::frame::admin::{NetworkChange, NetworkInfo, NodeSelector, Reply};

impl Authority {
    pub(super) fn network_show(&self) -> Outcome<Reply> {
        let settings = self.mirror.settings();
        let Some(document) = &self.document else {
            return refuse(AdminRefusal::Busy, "there is no network document yet; try again in a moment");
        };
        Ok(Reply::Network(Box::new(NetworkInfo {
            network: settings.network,
            root: settings.root,
            version: document.version,
            expires: document.expires,
            cidrs: settings.cidrs.clone(),
            domain: settings.domain.clone(),
            nodes: self.mirror.nodes().count() as u64,
            revocations: document.revocations.len() as u64,
            admin_groups: settings.admin_groups.iter().take(16).cloned().collect(),
            lifetime: settings.lifetime,
            grace: settings.grace,
            refuse_when_stale: settings.refuse_when_stale,
            recovering_until: settings.recovering_until,
            groups: settings.groups.iter().take(16).cloned().collect(),
            rotation: settings.rotation,
        })))
    }

    pub(super) fn network_set(&self, actor: Actor, change: &NetworkChange, now: Now) -> Outcome {
        self.check_recovered(now)?;
        self.check_idle()?;
        let mut settings = self.mirror.settings().clone();
        self.apply(&mut settings, change)?;
        let mut entry = Change::new(self.time(now), actor, ChangeKind::NetworkSet);
        entry.text = Some(describe(change));
        let mut plan = Plan::default();
        plan.audit.push(entry);
        plan.put(&self.mirror, Key::Settings, Record::Settings(Box::new(settings)));
        self.with_document(plan, now)
    }

    pub(super) fn apply(&self, settings: &mut Settings, change: &NetworkChange) -> Outcome<()> {
        let missing = |what: String| refuse(AdminRefusal::NotFound, format!("there is no {what}"));
        match change {
            NetworkChange::AddGroup(group) => drop(settings.groups.insert(group.clone())),
            NetworkChange::RemoveGroup(group) => {
                if let Some(node) = self.mirror.nodes().find(|node| node.groups.contains(group)) {
                    let detail = format!(
                        "{} is in the group {group}; take it out with 'tombolo node set {} --remove-group {group}' first",
                        node.name, node.name
                    );
                    return refuse(AdminRefusal::Invalid, detail);
                }
                if !settings.groups.remove(group) {
                    return missing(format!("group {group}"));
                }
                settings.admin_groups.remove(group);
            }
            NetworkChange::AddAdminGroup(group) => {
                if !settings.groups.contains(group) {
                    return missing(format!(
                        "group {group}; make it with 'tombolo network set --group {group}'"
                    ));
                }
                settings.admin_groups.insert(group.clone());
            }
            NetworkChange::RemoveAdminGroup(group) => {
                if !settings.admin_groups.remove(group) {
                    return missing(format!("admin group {group}"));
                }
            }
            NetworkChange::AddRoute(route) => {
                if let Some(node) = route.gateways.iter().find(|node| self.mirror.node(**node).is_none()) {
                    return missing(format!("node {node}"));
                }
                settings.routes.retain(|held| held.prefix != route.prefix);
                settings.routes.insert(route.clone());
            }
            NetworkChange::RemoveRoute(prefix) => {
                let before = settings.routes.len();
                settings.routes.retain(|held| held.prefix != *prefix);
                if settings.routes.len() == before {
                    return missing(format!("route {prefix}"));
                }
            }
            NetworkChange::AddServer(server) => self.add_server(settings, server)?,
            NetworkChange::RemoveServer(node) => {
                let before = settings.servers.len();
                settings.servers.retain(|held| held.node != *node);
                if settings.servers.len() == before {
                    return missing(format!("server {node}"));
                }
                if !settings.servers.iter().any(|server| server.roles.contains(Roles::AUTHORITY)) {
                    return refuse(AdminRefusal::Invalid, "this is the last server with the authority role");
                }
            }
            NetworkChange::RefuseWhenStale(refuse) => settings.refuse_when_stale = *refuse,
            NetworkChange::Lifetimes { membership, grace } => {
                let (shortest, longest) = LIFETIME_BOUNDS;
                if *membership < shortest || *membership > longest {
                    return refuse(AdminRefusal::Invalid, "a membership lives ten seconds to 90 days");
                }
                if *grace > Membership::GRACE_MAX {
                    return refuse(AdminRefusal::Invalid, "the grace is at most 90 days");
                }
                (settings.lifetime, settings.grace) = (*membership, *grace);
            }
            NetworkChange::RotateKeys(after) => {
                let (shortest, longest) = NetworkDocument::ROTATION_BOUNDS;
                if *after < shortest || *after > longest {
                    return refuse(AdminRefusal::Invalid, "a static key gets an hour to 3650 days old");
                }
                settings.rotation = Some(*after);
            }
        }
        Ok(())
    }

    pub(super) fn add_server(&self, settings: &mut Settings, server: &Server) -> Outcome<()> {
        let node = self.select(&NodeSelector::Node(server.node))?;
        if node.key != server.key {
            let detail = format!("the static key of {} is another one", node.name);
            return refuse(AdminRefusal::Invalid, detail);
        }
        if !node.roles.contains(server.roles) {
            let detail = format!("{} has only these roles: {}", node.name, node.roles);
            return refuse(AdminRefusal::Invalid, detail);
        }
        settings.servers.retain(|held| held.node != server.node);
        settings.servers.push(server.clone());
        settings.servers.sort_by_key(|server| server.node);
        Ok(())
    }
}

/// For the audit log.
fn describe(change: &NetworkChange) -> String {
    match change {
        NetworkChange::AddGroup(group) => format!("group {group} added"),
        NetworkChange::RemoveGroup(group) => format!("group {group} removed"),
        NetworkChange::AddAdminGroup(group) => format!("admin group {group} added"),
        NetworkChange::RemoveAdminGroup(group) => format!("admin group {group} removed"),
        NetworkChange::AddRoute(route) => format!("route {} added", route.prefix),
        NetworkChange::RemoveRoute(prefix) => format!("route {prefix} removed"),
        NetworkChange::AddServer(server) => format!("server {} added", server.node),
        NetworkChange::RemoveServer(node) => format!("server {node} removed"),
        NetworkChange::RefuseWhenStale(refuse) => format!("refuse_when_stale {refuse}"),
        NetworkChange::Lifetimes { membership, grace } => {
            format!("lifetime {} s, grace {} s", membership.as_secs(), grace.as_secs())
        }
        NetworkChange::RotateKeys(after) => format!("static keys for {} s", after.as_secs()),
    }
}
