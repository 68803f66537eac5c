//! Joining: a token for a membership (control rule 15), or for the place of a node that it replaces (control rule 4).

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Now, UnixTime};

use super::audit::{Actor, Change, ChangeKind};
use super::issue::{blank, claim_all};
use super::mirror::Plan;
use super::nodes::{Stop, may_present};
use super::register::{Key, Record, TokenRecord};
use super::{Authority, Decision, Effect, Event, Session};
use crate::document::Roles;
use crate::frame::{Frame, JoinAnswer, JoinRefusal, JoinRequest};
use crate::{NodeId, NodeName};

/// How many generated names are tried.
const NAMES: usize = 16;

/// What came of a request to join.
enum Joined {
    /// Another has spent the token.
    Reused(Box<(Event, Change)>),
    Already(Vec<u8>),
    Read(Box<Plan>),
    Plan(Box<Plan>, Vec<u8>),
}

impl Authority {
    pub(super) fn decide_join(
        &mut self,
        session: &Session,
        request: &JoinRequest,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Decision {
        let time = self.time(now);
        let answer = |outcome| {
            let frame = Frame::JoinAnswer(JoinAnswer { time, outcome });
            Effect::Frame(session.id, Box::new(frame))
        };
        let outcome = self.join(session, request, now, rng);
        let refusal = match outcome {
            Ok(Joined::Reused(reused)) => {
                let (event, change) = *reused;
                return self.refuse_attempt(event, change, vec![answer(Err(JoinRefusal::Spent))]);
            }
            Ok(Joined::Already(membership)) => return Decision::Answer(vec![answer(Ok(membership))]),
            // Its condition does not hold, and what is there comes back.
            Ok(Joined::Read(plan)) => return Decision::Commit(plan),
            Ok(Joined::Plan(mut plan, membership)) => {
                plan.effects.push(answer(Ok(membership)));
                return Decision::Commit(plan);
            }
            Err(Stop::Wait(key)) => return Decision::Wait(key),
            Err(Stop::Refuse(refusal)) => refusal,
            Err(Stop::Sign(error)) => {
                self.events.push_back(Event::CannotSign(error.to_string()));
                JoinRefusal::Busy
            }
        };
        Decision::Answer(vec![answer(Err(refusal))])
    }

    fn join(
        &mut self,
        session: &Session,
        request: &JoinRequest,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Result<Joined, Stop<JoinRefusal>> {
        let time = self.time(now);
        let token_id = request.token.key_id();
        if self.mirror.is_busy(&Key::Token(token_id)) {
            return Err(Stop::Wait(Key::Token(token_id)));
        }
        if self.is_recovering(now) {
            return Err(Stop::Refuse(JoinRefusal::Busy));
        }
        if let Some(claim) = self.mirror.key(session.key) {
            if claim.burned {
                return Err(Stop::Refuse(JoinRefusal::Revoked));
            }
            // The key is a member's: the answer was lost, or the node has forgotten it. No token is spent.
            let Some(node) = self.mirror.node(claim.node) else {
                // Somebody else has written it: the store is asked.
                let mut plan = Plan::default();
                plan.require(&self.mirror, Key::Node(claim.node));
                return Ok(Joined::Read(Box::new(plan)));
            };
            if node.key != session.key {
                return Err(Stop::Refuse(JoinRefusal::Revoked));
            }
            if self.mirror.token(token_id).is_none_or(|token| token.key != request.token) {
                return Err(Stop::Refuse(JoinRefusal::UnknownToken));
            }
            if node.not_after > time {
                return Ok(Joined::Already(node.membership.clone()));
            }
            let (plan, membership) = self.plan_renewal(node.clone(), Actor::Token(token_id), now)?;
            return Ok(Joined::Plan(plan, membership));
        }
        let token = self
            .mirror
            .token(token_id)
            .filter(|token| token.key == request.token)
            .ok_or(Stop::Refuse(JoinRefusal::UnknownToken))?
            .clone();
        if token.uses_left == 0 {
            let Some((first_spender, first_key)) = token.first_spender else {
                return Err(Stop::Refuse(JoinRefusal::Spent));
            };
            let (token, key) = (token_id, session.key);
            let event = Event::TokenReused { token, first_spender, first_key, key };
            let mut change = Change::new(time, Actor::Token(token), ChangeKind::TokenReused);
            (change.node, change.token, change.key) = (Some(first_spender), Some(token), Some(key));
            change.text = Some(format!("spent before by node {first_spender} with the key {first_key}"));
            return Ok(Joined::Reused(Box::new((event, change))));
        }
        if token.expires <= time {
            return Err(Stop::Refuse(JoinRefusal::Expired));
        }
        self.plan_join(session, request, token, now, rng)
    }

    fn plan_join(
        &self,
        session: &Session,
        request: &JoinRequest,
        mut token: TokenRecord,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Result<Joined, Stop<JoinRefusal>> {
        let time = self.time(now);
        let token_id = request.token.key_id();
        let id = NodeId::generate(rng);
        let mut plan = Plan::default();
        let mut version = self.version();
        let mut presented = Vec::new();
        let mut node = match token.replaces {
            // The old node's place is taken in the transaction that revokes it (control rules 4 and 20).
            Some(old) => {
                if self.mirror.is_busy(&Key::Published) {
                    return Err(Stop::Wait(Key::Published));
                }
                let old = self.mirror.node(old).ok_or(Stop::Refuse(JoinRefusal::UnknownToken))?.clone();
                self.end_node(&mut plan, &old, true);
                self.hand_over(&mut plan, old.node, (id, session.key), token.roles);
                version = Some(self.publish_into(&mut plan, now)?);
                if may_present(token.roles) {
                    presented.extend(
                        self.mirror.nodes().filter(|node| node.presented_by == Some(old.node)).cloned(),
                    );
                }
                let mut change = Change::new(time, Actor::Token(token_id), ChangeKind::Replace);
                (change.node, change.key) = (Some(old.node), Some(old.key));
                plan.audit.push(change);
                blank(id, old.name, old.addresses, session.key, time)
            }
            None => {
                let name = self.choose_name(id, &token, request, time, rng)?;
                let addresses = self.find_addresses(rng).ok_or(Stop::Refuse(JoinRefusal::Full))?;
                blank(id, name, addresses, session.key, time)
            }
        };
        let Some(version) = version else { return Err(Stop::Refuse(JoinRefusal::Busy)) };
        node.groups = token.groups.clone();
        node.routes = token.routes.clone();
        node.roles = token.roles;
        node.token = Some(token_id);
        node.ephemeral = token.ephemeral;
        self.issue(&mut node, version, time)?;
        claim_all(&mut plan, &self.mirror, &node);
        token.uses_left -= 1;
        token.first_spender = token.first_spender.or(Some((id, session.key)));
        plan.put(&self.mirror, Key::Token(token_id), Record::Token(Box::new(token)));
        let mut change = Change::new(time, Actor::Token(token_id), ChangeKind::Join);
        (change.node, change.key, change.token) = (Some(id), Some(session.key), Some(token_id));
        change.text = Some(node.name.to_string());
        plan.audit.push(change);
        plan.effects.push(Effect::Event(Event::Issued {
            node: id,
            membership: node.membership.clone(),
            unasked: false,
        }));
        // What a gateway presented is presented by who takes its place.
        for mut stock in presented {
            stock.presented_by = Some(id);
            self.issue(&mut stock, version, time)?;
            let mut change = Change::new(time, Actor::Token(token_id), ChangeKind::NodeSet);
            change.node = Some(stock.node);
            change.text = Some(format!("presented by {id}"));
            plan.audit.push(change);
            let (node, membership) = (stock.node, stock.membership.clone());
            plan.effects.push(Effect::Event(Event::Issued { node, membership, unasked: true }));
            plan.put(&self.mirror, Key::Node(node), Record::Node(Box::new(stock)));
        }
        Ok(Joined::Plan(Box::new(plan), node.membership))
    }

    /// Who takes a node's place routes what it routed, and serves what it served, by the roles that it gets.
    fn hand_over(&self, plan: &mut Plan, old: NodeId, (id, key): (NodeId, PublicKey), roles: Roles) {
        let held = self.mirror.settings();
        let mut settings = held.clone();
        settings.routes = std::mem::take(&mut settings.routes)
            .into_iter()
            .map(|mut route| {
                if route.gateways.remove(&old) {
                    route.gateways.insert(id);
                }
                route
            })
            .collect();
        settings.servers.retain_mut(|server| {
            if server.node == old {
                let kept = [Roles::LIGHTHOUSE, Roles::RELAY].into_iter();
                let kept = kept.filter(|role| server.roles.contains(*role) && roles.contains(*role));
                server.roles = kept.fold(Roles::NONE, |all, role| all | role);
                (server.node, server.key) = (id, key);
            }
            server.roles != Roles::NONE
        });
        settings.servers.sort_by_key(|server| server.node);
        if settings != *held {
            plan.put(&self.mirror, Key::Settings, Record::Settings(Box::new(settings)));
        }
    }

    fn choose_name(
        &self,
        id: NodeId,
        token: &TokenRecord,
        request: &JoinRequest,
        time: UnixTime,
        rng: &mut dyn CryptoRng,
    ) -> Result<NodeName, Stop<JoinRefusal>> {
        if let Some(name) = token.name.clone().or_else(|| request.name.clone()) {
            let key = Key::Name(name.clone());
            if self.mirror.is_busy(&key) {
                return Err(Stop::Wait(key));
            }
            return if self.is_name_free(&name, time) {
                Ok(name)
            } else {
                Err(Stop::Refuse(JoinRefusal::NameTaken))
            };
        }
        let mut seed = id;
        for _ in 0..NAMES {
            let [a, b, c, ..] = seed.as_bytes();
            let name = format!("node-{a:02x}{b:02x}{c:02x}").parse::<NodeName>();
            if let Ok(name) = name
                && !self.mirror.is_busy(&Key::Name(name.clone()))
                && self.is_name_free(&name, time)
            {
                return Ok(name);
            }
            seed = NodeId::generate(rng);
        }
        Err(Stop::Refuse(JoinRefusal::NameTaken))
    }

    /// Whether nobody owns the name: nobody has it, or who gave it up is known by it no more (control rule 4).
    pub(super) fn is_name_free(&self, name: &NodeName, time: UnixTime) -> bool {
        self.mirror.name(name).is_none_or(|claim| claim.until.is_some_and(|until| until <= time))
    }
}
