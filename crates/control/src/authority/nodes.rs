//! What members ask for: to renew, to change their key, to leave (control rules 16 and 17).

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;

use super::audit::{Actor, Change, ChangeKind};
use super::mirror::Plan;
use super::register::{Claim, Key, NodeRecord, Record};
use super::{Authority, Decision, Effect, Event, OpenTicket, RETIRE_AFTER, Session, TICKET_LIFETIME, after};
use crate::NodeId;
use crate::document::{DocumentError, Revocation, Roles};
use crate::frame::{Frame, RenewAnswer, RenewRefusal, TICKET_LEN, Ticket};

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
    pub(super) fn plan_renewal<R>(
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
