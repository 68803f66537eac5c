//! What administrators ask for: at the local socket, or from a group through their tunnel (control rule 22).

use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;

use super::audit::{Actor, Change, ChangeKind};
use super::genesis::LIFETIME_BOUNDS;
use super::issue::{blank, claim_all};
use super::mirror::Plan;
use super::register::{Claim, Key, NodeRecord, Record, Settings, TokenRecord};
use super::{Authority, Caller, Decision, Effect, Event, after};
use crate::document::{DocumentError, GroupLimit, Membership, Revocation, Roles, Server};
use crate::frame::admin::{
    AdminAnswer, AdminRequest, NetworkChange, NetworkInfo, NodeDetail, NodeInfo, NodeSelector, NodeSpec,
    Operation, PAGE_MAX, Page, Reply, RevokeTarget, TokenGrant, TokenInfo, TokenSpec,
};
use crate::frame::{AdminRefusal, Frame};
use crate::{GroupName, KeyId, NodeId, NodeName};

/// How long a token is good where nothing else is said (control rule 15).
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Longest life of a token.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Most nodes that one token admits.
const USES_MAX: u32 = 100_000;

/// Shortest while after which an ephemeral node is gone.
const EPHEMERAL_MIN: Duration = Duration::from_secs(60);

/// Why a request comes to nothing.
enum Stop {
    Refuse(AdminRefusal, String),
    Wait(Key),
}

type Outcome<T = (Plan, Reply)> = Result<T, Stop>;

fn refuse<T>(reason: AdminRefusal, detail: impl Into<String>) -> Outcome<T> {
    Err(Stop::Refuse(reason, detail.into()))
}

impl From<DocumentError> for Stop {
    fn from(error: DocumentError) -> Self {
        let detail = format!("{error}; the root key sets what the issuer may sign: see 'tombolo trust'");
        Self::Refuse(AdminRefusal::Limit, detail)
    }
}

fn shown(selector: &NodeSelector) -> String {
    match selector {
        NodeSelector::Name(name) => name.to_string(),
        NodeSelector::Node(node) => node.to_string(),
    }
}

impl Authority {
    pub(super) fn decide_admin(
        &mut self,
        caller: &Caller,
        request: &AdminRequest,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Decision {
        let answer = |reply| {
            let frame = Frame::AdminAnswer(AdminAnswer { id: request.id, reply });
            Effect::Frame(caller.id(), Box::new(frame))
        };
        let outcome =
            self.actor(caller).and_then(|actor| self.administer(actor, &request.operation, now, rng));
        match outcome {
            Ok((mut plan, reply)) => {
                plan.effects.push(answer(reply));
                if plan.keys().next().is_none() {
                    return Decision::Answer(plan.effects);
                }
                Decision::Commit(Box::new(plan))
            }
            Err(Stop::Wait(key)) => Decision::Wait(key),
            Err(Stop::Refuse(reason, detail)) => {
                Decision::Answer(vec![answer(Reply::Refused { reason, detail })])
            }
        }
    }

    fn actor(&self, caller: &Caller) -> Outcome<Actor> {
        let session = match caller {
            Caller::Local { who, .. } => return Ok(Actor::Local(who.clone())),
            Caller::Session(session) => session,
        };
        let groups = &self.mirror.settings().admin_groups;
        let node = self.mirror.node_of_key(session.key).filter(|_| session.authorised);
        match node.filter(|node| !node.groups.is_disjoint(groups)) {
            Some(node) => Ok(Actor::Node(node.node)),
            None => refuse(
                AdminRefusal::NotAllowed,
                "this machine is in no admin group; ask an administrator for a token with one \
                 (tombolo token new --group GROUP --admin), or run the command on the server",
            ),
        }
    }

    fn administer(
        &mut self,
        actor: Actor,
        operation: &Operation,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Outcome {
        let answered = |reply| Ok((Plan::default(), reply));
        match operation {
            Operation::TokenNew(spec) => self.token_new(actor, spec, None, now),
            Operation::TokenList(after) => answered(self.token_list(*after)),
            Operation::TokenRevoke(token) => self.token_revoke(actor, *token, now),
            Operation::NodeList(after) => answered(self.node_list(after.as_ref())),
            Operation::NodeShow(selector) => {
                answered(Reply::Node(Box::new(self.detail(self.select(selector)?))))
            }
            Operation::NodeAdd(spec) => self.node_add(actor, spec, now, rng),
            Operation::NodeReplace(selector, spec) => {
                let node = self.select(selector)?.node;
                self.token_new(actor, spec, Some(node), now)
            }
            Operation::NodeRevoke(target) => self.node_revoke(actor, target, now),
            Operation::NodeRename(selector, name) => self.node_rename(actor, selector, name, now),
            Operation::NetworkShow => self.network_show().and_then(answered),
            Operation::NetworkSet(change) => self.network_set(actor, change, now),
        }
    }

    fn select(&self, selector: &NodeSelector) -> Outcome<&NodeRecord> {
        let found = match selector {
            NodeSelector::Node(node) => self.mirror.node(*node),
            NodeSelector::Name(name) => {
                let claim = self.mirror.name(name).filter(|claim| claim.until.is_none());
                claim.and_then(|claim| self.mirror.node(claim.node))
            }
        };
        let missing = || {
            let detail =
                format!("there is no node {}; 'tombolo node list' shows all of them", shown(selector));
            Stop::Refuse(AdminRefusal::NotFound, detail)
        };
        found.ok_or_else(missing)
    }

    /// Nothing is issued while a restored register is not whole.
    fn check_recovered(&self, now: Now) -> Outcome<()> {
        if self.is_recovering(now) {
            return refuse(
                AdminRefusal::Busy,
                "the register was restored, and what it does not know is being gathered from the nodes; \
                 'tombolo network show' says until when",
            );
        }
        Ok(())
    }

    fn check_groups(&self, groups: &std::collections::BTreeSet<GroupName>, admin: bool) -> Outcome<()> {
        let settings = self.mirror.settings();
        if let Some(group) = groups.difference(&settings.groups).next() {
            let detail =
                format!("there is no group {group}; make it with 'tombolo network set --group {group}'");
            return refuse(AdminRefusal::NotFound, detail);
        }
        if let Some(group) = groups.intersection(&settings.admin_groups).next()
            && !admin
        {
            let detail = format!("members of {group} administer the network; say --admin if that is meant");
            return refuse(AdminRefusal::Invalid, detail);
        }
        if let Some(GroupLimit::Only(allowed)) = self.limits().map(|limits| &limits.groups)
            && let Some(group) = groups.difference(allowed).next()
        {
            return refuse(
                AdminRefusal::Limit,
                format!("this issuer may not put a node into the group {group}"),
            );
        }
        Ok(())
    }

    fn token_new(&self, actor: Actor, spec: &TokenSpec, replaces: Option<NodeId>, now: Now) -> Outcome {
        self.check_recovered(now)?;
        self.check_groups(&spec.groups, spec.admin)?;
        let time = self.time(now);
        let settings = self.mirror.settings();
        let (lifetime, uses) = (spec.lifetime.unwrap_or(TOKEN_LIFETIME), spec.uses.unwrap_or(1));
        if lifetime.is_zero() || lifetime > TOKEN_LIFETIME_MAX {
            return refuse(AdminRefusal::Invalid, "a token is good for a second to 366 days");
        }
        if uses == 0 || uses > USES_MAX {
            return refuse(AdminRefusal::Invalid, format!("a token admits 1 to {USES_MAX} nodes"));
        }
        if uses > 1 && (spec.name.is_some() || replaces.is_some()) {
            return refuse(
                AdminRefusal::Invalid,
                "a name and a node's place are one node's: leave out --uses",
            );
        }
        if replaces.is_some() && spec.name.is_some() {
            return refuse(AdminRefusal::Invalid, "who replaces a node has its name: leave out --name");
        }
        if spec.ephemeral.is_some_and(|limit| limit < EPHEMERAL_MIN) {
            return refuse(AdminRefusal::Invalid, "an ephemeral node is gone after a minute or more");
        }
        if let Some(name) = &spec.name
            && !self.is_name_free(name, time)
        {
            return refuse(
                AdminRefusal::NameTaken,
                format!("the name {name} is another node's; choose another"),
            );
        }
        let Some(limits) = self.limits() else {
            return refuse(AdminRefusal::Limit, "this server's issuer key is not in the trust document");
        };
        if let Some(route) =
            spec.routes.iter().find(|route| !limits.routes.iter().any(|allowed| allowed.contains(*route)))
        {
            return refuse(AdminRefusal::Limit, format!("this issuer may not give the route {route}"));
        }
        if !limits.roles.contains(spec.roles) {
            return refuse(
                AdminRefusal::Limit,
                format!("this issuer may not give these roles: {}", spec.roles),
            );
        }
        let Some(server) = settings.servers.iter().find(|server| server.roles.contains(Roles::AUTHORITY))
        else {
            return refuse(AdminRefusal::NotFound, "no server of the network has the authority role");
        };
        let id = spec.key.key_id();
        if self.mirror.token(id).is_some() {
            return refuse(AdminRefusal::Exists, "there is a token with this key already");
        }
        let expires = after(time, lifetime);
        let mut token = TokenRecord {
            key: spec.key,
            expires,
            uses_left: uses,
            first_spender: None,
            name: spec.name.clone(),
            groups: spec.groups.clone(),
            routes: spec.routes.clone(),
            roles: spec.roles,
            ephemeral: spec.ephemeral,
            replaces,
        };
        // Who takes a node's place is what it was, unless something else is said.
        if let Some(old) = replaces.and_then(|old| self.mirror.node(old)) {
            if token.groups.is_empty() {
                token.groups = old.groups.clone();
            }
            if token.routes.is_empty() {
                token.routes = old.routes.clone();
            }
            if token.roles == Roles::NONE {
                token.roles = old.roles;
            }
            token.ephemeral = token.ephemeral.or(old.ephemeral);
        }
        let mut plan = Plan::default();
        plan.put(&self.mirror, Key::Token(id), Record::Token(Box::new(token)));
        let mut change = Change::new(time, actor, ChangeKind::TokenNew);
        (change.token, change.node) = (Some(id), replaces);
        plan.audit.push(change);
        let grant = TokenGrant {
            network: settings.network,
            server_key: server.key,
            root: settings.root,
            endpoints: server.endpoints.clone(),
            expires,
        };
        Ok((plan, Reply::Granted(grant)))
    }

    fn token_list(&self, after: Option<KeyId>) -> Reply {
        let infos = self.mirror.tokens_after(after).map(|(id, token)| TokenInfo {
            id,
            expires: token.expires,
            uses_left: token.uses_left,
            first_spender: token.first_spender.map(|(node, _)| node),
            name: token.name.clone(),
            replaces: token.replaces,
            ephemeral: token.ephemeral.is_some(),
        });
        page(infos, Reply::Tokens)
    }

    fn token_revoke(&self, actor: Actor, token: KeyId, now: Now) -> Outcome {
        if self.mirror.token(token).is_none() {
            let detail = format!("there is no token {token}; 'tombolo token list' shows all of them");
            return refuse(AdminRefusal::NotFound, detail);
        }
        let mut plan = Plan::default();
        plan.remove(&self.mirror, Key::Token(token));
        let mut change = Change::new(self.time(now), actor, ChangeKind::TokenRevoke);
        change.token = Some(token);
        plan.audit.push(change);
        Ok((plan, Reply::Done))
    }

    fn node_list(&self, after: Option<&NodeName>) -> Reply {
        let named = self.mirror.names_after(after).filter(|(_, claim)| claim.until.is_none());
        let nodes = named.filter_map(|(_, claim)| self.mirror.node(claim.node));
        page(nodes.map(|node| self.info(node)), Reply::Nodes)
    }

    fn info(&self, node: &NodeRecord) -> NodeInfo {
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

    fn detail(&self, node: &NodeRecord) -> NodeDetail {
        NodeDetail {
            info: self.info(node),
            key: node.key,
            serial: node.serial,
            groups: node.groups.clone(),
            routes: node.routes.clone(),
            joined: node.joined,
            token: node.token,
            presented_by: node.presented_by,
        }
    }

    fn node_add(&self, actor: Actor, spec: &NodeSpec, now: Now, rng: &mut dyn CryptoRng) -> Outcome {
        self.check_recovered(now)?;
        self.check_groups(&spec.groups, false)?;
        let time = self.time(now);
        let presenter = self.select(&spec.presented_by)?;
        let can = [Roles::GATEWAY, Roles::LIGHTHOUSE].iter().any(|role| presenter.roles.contains(*role));
        if !can {
            let detail = format!(
                "{} is neither gateway nor lighthouse, and cannot present a stock WireGuard peer; choose one that is",
                presenter.name
            );
            return refuse(AdminRefusal::Invalid, detail);
        }
        if self.mirror.key(spec.key).is_some() {
            return refuse(AdminRefusal::Exists, "this public key is a node's already, or was revoked");
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
        plan.audit.push(change);
        let (id, membership) = (node.node, node.membership.clone());
        plan.effects.push(Effect::Event(Event::Issued { node: id, membership }));
        let detail = self.detail(&node);
        Ok((plan, Reply::Node(Box::new(detail))))
    }

    /// A plan that is to have a network document too waits for one that is on its way.
    fn with_document(&self, mut plan: Plan, now: Now) -> Outcome {
        if !self.is_recovering(now) {
            self.publish_into(&mut plan, now)?;
        }
        Ok((plan, Reply::Done))
    }

    fn check_idle(&self) -> Outcome<()> {
        let key = Key::Published;
        if self.mirror.is_busy(&key) { Err(Stop::Wait(key)) } else { Ok(()) }
    }

    fn node_revoke(&self, actor: Actor, target: &RevokeTarget, now: Now) -> Outcome {
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
                        "{} is a server of the network: take it out first, with 'tombolo network set --remove-server'",
                        node.name
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

    fn node_rename(&self, actor: Actor, selector: &NodeSelector, name: &NodeName, now: Now) -> Outcome {
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
        plan.effects.push(Effect::Event(Event::Issued { node: id, membership }));
        Ok((plan, Reply::Done))
    }

    fn network_show(&self) -> Outcome<Reply> {
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
        })))
    }

    fn network_set(&self, actor: Actor, change: &NetworkChange, now: Now) -> Outcome {
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

    fn apply(&self, settings: &mut Settings, change: &NetworkChange) -> Outcome<()> {
        let missing = |what: String| refuse(AdminRefusal::NotFound, format!("there is no {what}"));
        match change {
            NetworkChange::AddGroup(group) => drop(settings.groups.insert(group.clone())),
            NetworkChange::RemoveGroup(group) => {
                if let Some(node) = self.mirror.nodes().find(|node| node.groups.contains(group)) {
                    let detail = format!("{} is in the group {group}; revoke or replace it first", node.name);
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
                    return refuse(AdminRefusal::Invalid, "a membership lives a minute to 90 days");
                }
                if *grace > Membership::GRACE_MAX {
                    return refuse(AdminRefusal::Invalid, "the grace is at most 90 days");
                }
                (settings.lifetime, settings.grace) = (*membership, *grace);
            }
        }
        Ok(())
    }

    fn add_server(&self, settings: &mut Settings, server: &Server) -> Outcome<()> {
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

/// As many items as fit into one frame.
fn page<T: Clone>(mut items: impl Iterator<Item = T>, reply: impl Fn(Page<T>) -> Reply) -> Reply {
    let mut taken = Vec::new();
    let fits = |taken: &[T]| {
        let page = Page { items: taken.to_vec(), more: true };
        // The id is at its longest.
        Frame::AdminAnswer(AdminAnswer { id: u64::MAX, reply: reply(page) }).to_bytes().is_ok()
    };
    let more = loop {
        let Some(item) = items.next() else { break false };
        taken.push(item);
        if taken.len() > PAGE_MAX || !fits(&taken) {
            taken.pop();
            break true;
        }
    };
    reply(Page { items: taken, more })
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
    }
}
