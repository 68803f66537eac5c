//! Tokens: what nodes join with (control rules 15 and 20).

use std::time::Duration;

use tombolo_noise::clock::Now;

use super::{Outcome, page, refuse};
use crate::authority::audit::{Actor, Change, ChangeKind};
use crate::authority::mirror::Plan;
use crate::authority::register::{Key, Record, TokenRecord};
use crate::authority::{Authority, after};
use crate::document::Roles;
use crate::frame::AdminRefusal;
use crate::frame::admin::{Reply, TokenGrant, TokenInfo, TokenSpec};
use crate::{KeyId, NodeId};

/// How long a token is good where nothing else is said (control rule 15).
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Longest life of a token.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Most nodes that one token admits.
const USES_MAX: u32 = 100_000;

/// Shortest while after which an ephemeral node is gone: one that is there is heard every 25 s, and a few seconds later where
/// that was lost.
const EPHEMERAL_MIN: Duration = Duration::from_secs(40);

impl Authority {
    pub(super) fn token_new(
        &self,
        actor: Actor,
        spec: &TokenSpec,
        replaces: Option<NodeId>,
        now: Now,
    ) -> Outcome {
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
            return refuse(AdminRefusal::Invalid, "an ephemeral node is gone after 40 seconds or more");
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
        if let Some(old) = replaces
            && settings
                .servers
                .iter()
                .any(|server| server.node == old && server.roles.contains(Roles::AUTHORITY))
        {
            return refuse(
                AdminRefusal::Invalid,
                "this node is the server that has the register: move it with 'tombolo server restore'",
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

    pub(super) fn token_list(&self, after: Option<KeyId>) -> Reply {
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

    pub(super) fn token_revoke(&self, actor: Actor, token: KeyId, now: Now) -> Outcome {
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
}
