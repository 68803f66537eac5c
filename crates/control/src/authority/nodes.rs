//! What nodes ask for: to join, to renew, to change their key, to leave (control rules 15 to 17).

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Now, UnixTime};

use super::audit::{Actor, Change, ChangeKind};
use super::issue::{blank, claim_all};
use super::mirror::Plan;
use super::register::{Claim, Key, NodeRecord, Record, TokenRecord};
use super::{Authority, Decision, Effect, Event, OpenTicket, RETIRE_AFTER, Session, TICKET_LIFETIME, after};
use crate::document::{DocumentError, Revocation, Roles};
use crate::frame::{
    Frame, JoinAnswer, JoinRefusal, JoinRequest, RenewAnswer, RenewRefusal, TICKET_LEN, Ticket,
};
use crate::{NodeId, NodeName};

/// How many generated names are tried.
const NAMES: usize = 16;

/// Why a node's request comes to nothing.
pub(super) enum Stop<R> {
    /// It is told so.
    Refuse(R),
    /// Somebody else is about to change what it depends on.
    Wait(Key),
    /// It cannot be signed; the node is told to come again.
    Sign(DocumentError),
}

impl<R> From<DocumentError> for Stop<R> {
    fn from(error: DocumentError) -> Self {
        Self::Sign(error)
    }
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
        let mut more = Vec::new();
        let answer = |outcome| {
            let frame = Frame::JoinAnswer(JoinAnswer { time, outcome });
            Effect::Frame(session.id, Box::new(frame))
        };
        let outcome = self.join(session, request, now, rng, &mut more);
        let refusal = match outcome {
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
                more.push(Effect::Event(Event::CannotSign(error.to_string())));
                JoinRefusal::Busy
            }
        };
        more.push(answer(Err(refusal)));
        Decision::Answer(more)
    }

    fn join(
        &mut self,
        session: &Session,
        request: &JoinRequest,
        now: Now,
        rng: &mut dyn CryptoRng,
        more: &mut Vec<Effect>,
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
            if let Some((first_spender, first_key)) = token.first_spender {
                let (token, key) = (token_id, session.key);
                let event = Event::TokenReused { token, first_spender, first_key, key };
                more.push(Effect::Event(event));
            }
            return Err(Stop::Refuse(JoinRefusal::Spent));
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

    /// Takes all from a node that it owns. With `revoke` its memberships are void from the network document on that is
    /// to be in the same plan, and its keys join no more until all that they had has expired.
    pub(super) fn end_node(&self, plan: &mut Plan, node: &NodeRecord, revoke: bool) {
        let mirror = &self.mirror;
        let until = node.released_at;
        let former = self
            .mirror
            .records()
            .filter(|(key, record)| {
                let owned = matches!(key, Key::Name(_) | Key::Address(_));
                owned && matches!(record, Record::Claim(claim) if claim.node == node.node)
            })
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>();
        former.into_iter().for_each(|key| plan.remove(mirror, key));
        for key in [Some(node.key), node.former_key.map(|(key, _)| key)].into_iter().flatten() {
            let key = Key::StaticKey(key);
            if revoke {
                let claim = Claim { node: node.node, until: Some(until), burned: true };
                plan.put(mirror, key, Record::Claim(claim));
            } else {
                plan.remove(mirror, key);
            }
        }
        plan.remove(mirror, Key::Node(node.node));
        plan.put(mirror, Key::Revoked(Revocation::Node(node.node)), Record::Revoked(until));
    }

    /// A plan that gives a node its next membership.
    fn plan_renewal<R>(
        &self,
        mut node: NodeRecord,
        actor: Actor,
        now: Now,
    ) -> Result<(Box<Plan>, Vec<u8>), Stop<R>> {
        let time = self.time(now);
        let id = node.node;
        let version = self.version().ok_or(DocumentError::Form)?;
        self.issue(&mut node, version, time)?;
        let mut plan = Plan::default();
        let membership = node.membership.clone();
        let mut change = Change::new(time, actor, ChangeKind::Renew);
        change.node = Some(id);
        plan.audit.push(change);
        plan.put(&self.mirror, Key::Node(id), Record::Node(Box::new(node)));
        plan.effects.push(Effect::Event(Event::Issued {
            node: id,
            membership: membership.clone(),
            unasked: false,
        }));
        Ok((Box::new(plan), membership))
    }

    /// The node whose live, authorised session this is.
    fn member(&self, session: &Session) -> Result<&NodeRecord, RenewRefusal> {
        if !session.authorised {
            return Err(RenewRefusal::NotAMember);
        }
        match self.mirror.key(session.key) {
            Some(claim) if claim.burned => Err(RenewRefusal::Revoked),
            Some(_) => self.mirror.node_of_key(session.key).ok_or(RenewRefusal::Revoked),
            None => Err(RenewRefusal::NotAMember),
        }
    }

    pub(super) fn decide_renew(&mut self, session: &Session, target: Option<NodeId>, now: Now) -> Decision {
        let outcome = self.renew(session, target, now);
        self.answer_renewal(session, target, outcome, now)
    }

    fn renew(
        &self,
        session: &Session,
        target: Option<NodeId>,
        now: Now,
    ) -> Result<(Box<Plan>, Vec<u8>), Stop<RenewRefusal>> {
        let asker = self.member(session).map_err(Stop::Refuse)?;
        if self.is_recovering(now) {
            return Err(Stop::Refuse(RenewRefusal::Busy));
        }
        let (actor, node) = match target {
            None => (asker, asker),
            Some(id) => {
                let node = self.mirror.node(id).filter(|node| node.presented_by == Some(asker.node));
                (asker, node.ok_or(Stop::Refuse(RenewRefusal::NotPresented))?)
            }
        };
        self.plan_renewal(node.clone(), Actor::Node(actor.node), now)
    }

    fn answer_renewal(
        &self,
        session: &Session,
        node: Option<NodeId>,
        outcome: Result<(Box<Plan>, Vec<u8>), Stop<RenewRefusal>>,
        now: Now,
    ) -> Decision {
        let time = self.time(now);
        let answer = |outcome| {
            let frame = Frame::RenewAnswer(RenewAnswer { time, node, outcome });
            Effect::Frame(session.id, Box::new(frame))
        };
        match outcome {
            Ok((mut plan, membership)) => {
                plan.effects.push(answer(Ok(membership)));
                Decision::Commit(plan)
            }
            Err(Stop::Wait(key)) => Decision::Wait(key),
            Err(Stop::Refuse(refusal)) => Decision::Answer(vec![answer(Err(refusal))]),
            Err(Stop::Sign(error)) => {
                let event = Effect::Event(Event::CannotSign(error.to_string()));
                Decision::Answer(vec![event, answer(Err(RenewRefusal::Busy))])
            }
        }
    }

    /// A ticket is 16 bytes that say for which node it is, and 16 that nobody guesses.
    pub(super) fn give_ticket(&mut self, session: Session, now: Now, rng: &mut dyn CryptoRng) {
        let time = self.time(now);
        let frame = match self.member(&session) {
            Ok(node) => {
                let node = node.node;
                let mut ticket = [0; TICKET_LEN];
                rng.fill_bytes(&mut ticket);
                ticket[..16].copy_from_slice(node.as_bytes());
                let expires = after(time, TICKET_LIFETIME);
                self.tickets.insert(node, OpenTicket { secret: ticket, expires, spent_by: None });
                Frame::Ticket(Ticket { ticket, expires })
            }
            Err(refusal) => Frame::RenewAnswer(RenewAnswer { time, node: None, outcome: Err(refusal) }),
        };
        self.frames.push_back((session.id, frame));
    }

    pub(super) fn decide_rotate(
        &mut self,
        session: &Session,
        ticket: &[u8; TICKET_LEN],
        now: Now,
    ) -> Decision {
        let outcome = self.rotate(session, ticket, now);
        self.answer_renewal(session, None, outcome, now)
    }

    fn rotate(
        &mut self,
        session: &Session,
        ticket: &[u8; TICKET_LEN],
        now: Now,
    ) -> Result<(Box<Plan>, Vec<u8>), Stop<RenewRefusal>> {
        let time = self.time(now);
        let mut id = [0; 16];
        id.copy_from_slice(&ticket[..16]);
        let id = NodeId::from_bytes(id);
        if self.mirror.is_busy(&Key::Node(id)) {
            return Err(Stop::Wait(Key::Node(id)));
        }
        if self.is_recovering(now) {
            return Err(Stop::Refuse(RenewRefusal::Busy));
        }
        let unknown = Stop::Refuse(RenewRefusal::UnknownTicket);
        let Some(mut node) = self.mirror.node(id).cloned() else { return Err(unknown) };
        // The answer was lost, and the ticket is shown again: the handshake has proven the key.
        if node.key == session.key {
            return self.plan_renewal(node, Actor::Node(id), now);
        }
        let taken = self.mirror.key(session.key).is_some();
        let Some(open) = self.tickets.get_mut(&id) else { return Err(unknown) };
        // Compared in time that depends on nothing of it.
        let difference = open.secret.iter().zip(ticket).fold(0, |difference, (a, b)| difference | (a ^ b));
        let spent = open.spent_by.is_some_and(|key| key != session.key);
        if difference != 0 || open.expires <= time || spent || taken {
            return Err(unknown);
        }
        open.spent_by = Some(session.key);
        // One rotation at a time: the former key is to be revoked first, for which there must be room.
        if node.former_key.is_some() || self.room_for_revocations(now) == 0 {
            return Err(Stop::Refuse(RenewRefusal::Busy));
        }
        let former = node.key;
        node.former_key = Some((former, after(time, RETIRE_AFTER)));
        node.key = session.key;
        let version = self.version().ok_or(DocumentError::Form)?;
        self.issue(&mut node, version, time)?;
        let membership = node.membership.clone();
        let mut plan = Plan::default();
        plan.put(&self.mirror, Key::StaticKey(session.key), Record::Claim(Claim::of(id)));
        plan.require(&self.mirror, Key::StaticKey(former));
        plan.put(&self.mirror, Key::Node(id), Record::Node(Box::new(node)));
        let mut change = Change::new(time, Actor::Node(id), ChangeKind::Rotate);
        (change.node, change.key) = (Some(id), Some(session.key));
        plan.audit.push(change);
        plan.effects.push(Effect::Event(Event::Issued {
            node: id,
            membership: membership.clone(),
            unasked: false,
        }));
        Ok((Box::new(plan), membership))
    }

    /// Answers a node that asks which stock WireGuard peers it presents.
    pub(super) fn present(&mut self, session: &Session) {
        let Ok(asker) = self.member(session).map(|asker| asker.node) else { return };
        let presented = self.mirror.nodes().filter(|node| node.presented_by == Some(asker));
        let frames = presented.map(|node| (session.id, Frame::Present(node.membership.clone())));
        self.frames.extend(frames.collect::<Vec<_>>());
    }

    pub(super) fn decide_leave(&mut self, session: &Session, now: Now) -> Decision {
        let time = self.time(now);
        let left = Effect::Frame(session.id, Box::new(Frame::Left(time)));
        let Ok(node) = self.member(session) else { return Decision::Answer(vec![left]) };
        let node = node.clone();
        if self.mirror.is_busy(&Key::Published) {
            return Decision::Wait(Key::Published);
        }
        let mut plan = Plan::default();
        self.end_node(&mut plan, &node, false);
        let mut change = Change::new(time, Actor::Node(node.node), ChangeKind::Leave);
        change.node = Some(node.node);
        plan.audit.push(change);
        plan.effects.push(left);
        self.commit_published(plan, now)
    }

    /// Adds a network document to a plan that revokes something.
    pub(super) fn commit_published(&self, mut plan: Plan, now: Now) -> Decision {
        if !self.is_recovering(now)
            && let Err(error) = self.publish_into(&mut plan, now)
        {
            return Decision::Answer(vec![Effect::Event(Event::CannotSign(error.to_string()))]);
        }
        Decision::Commit(Box::new(plan))
    }
}

/// Whether a node of these roles may present stock WireGuard peers (control rule 20).
pub(super) fn may_present(roles: Roles) -> bool {
    roles.contains(Roles::GATEWAY) || roles.contains(Roles::LIGHTHOUSE)
}

/// What came of a request to join.
enum Joined {
    Already(Vec<u8>),
    Read(Box<Plan>),
    Plan(Box<Plan>, Vec<u8>),
}
