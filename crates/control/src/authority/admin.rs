//! What administrators ask for: at the local socket, or from a group through their tunnel (control rule 22).

mod nearest;
mod network;
mod nodes;
mod tokens;

use std::collections::BTreeSet;

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;

use super::audit::Actor;
use super::mirror::Plan;
use super::register::{Key, NodeRecord};
use super::{Authority, Caller, Decision, Effect};
use crate::GroupName;
use crate::document::{DocumentError, GroupLimit};
use crate::frame::admin::{AdminAnswer, AdminRequest, NodeSelector, Operation, PAGE_MAX, Page, Reply};
use crate::frame::{AdminRefusal, Frame};

use nearest::nearest;
pub use tokens::TOKEN_LIFETIME;

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
        if matches!(error, DocumentError::Revocations(_)) {
            return Self::Refuse(AdminRefusal::Limit, error.to_string());
        }
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
            Some(node) => Ok(Actor::Administrator(node.node, node.name.clone())),
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
            Operation::NodeSet(selector, change) => self.node_set(actor, selector, change, now),
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
            let names = self.mirror.names_after(None).filter(|(_, claim)| claim.until.is_none());
            let like = match selector {
                NodeSelector::Name(name) => nearest(name.as_str(), names.map(|(name, _)| name.as_str())),
                NodeSelector::Node(_) => Vec::new(),
            };
            let hint = match &like[..] {
                [] => "'tombolo node list' shows all of them".to_owned(),
                like => format!("did you mean {}?", like.join(" or ")),
            };
            Stop::Refuse(AdminRefusal::NotFound, format!("there is no node {}; {hint}", shown(selector)))
        };
        found.ok_or_else(missing)
    }

    /// Nothing is issued while a restored register is not whole.
    fn check_recovered(&self, now: Now) -> Outcome<()> {
        if self.is_clock_settling(now) {
            return refuse(
                AdminRefusal::Busy,
                "this server's clock is far ahead of the last document that it signed: if that is wrong, set it now; \
                 in two minutes it is believed",
            );
        }
        if self.is_recovering(now) {
            return refuse(
                AdminRefusal::Busy,
                "the register was restored, and what it does not know is being gathered from the nodes; \
                 'tombolo status' on the server says until when",
            );
        }
        Ok(())
    }

    fn check_groups(&self, groups: &BTreeSet<GroupName>, admin: bool) -> Outcome<()> {
        let settings = self.mirror.settings();
        if let Some(group) = groups.difference(&settings.groups).next() {
            let like = nearest(group.as_str(), settings.groups.iter().map(GroupName::as_str));
            let hint = match &like[..] {
                [] => String::new(),
                like => format!("did you mean {}? Else ", like.join(" or ")),
            };
            let detail = format!(
                "there is no group {group}; {hint}make it with 'tombolo network set --group {group}'"
            );
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
