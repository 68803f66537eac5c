//! Another static key (control rule 17): asked for over the old one, proven by a handshake from the new one with a ticket
//! that only the old one was given.
//!
//! The shell has both keys on its disk before the first frame goes out, and keeps both until the membership of the new
//! one is there. Whatever is lost in between, one of the two works: a new key that the authority does not answer is
//! given up for the old one, and an old one that the authority calls revoked was replaced by an answer that got lost.

use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now};

use super::event::Output;
use super::{Call, Node, Task};
use crate::document::Roles;
use crate::frame::{Frame, TICKET_LEN, Ticket};

/// What has no answer by then is asked for again, later each time.
const ASK_AGAIN: Duration = Duration::from_secs(3);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(120);
/// So long the new key has no tunnel but the authority's: then the old one is taken back.
const PATIENCE: Duration = Duration::from_secs(8);

/// How far a change of the static key is.
#[derive(Debug, Default)]
pub(super) enum Rotation {
    #[default]
    None,
    /// The ticket is asked for.
    Asked(Plan),
    /// The new key is in use, and shows the ticket.
    Showing { plan: Plan, ticket: [u8; TICKET_LEN], old: PublicKey },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    new: PublicKey,
    next: Instant,
    tries: u32,
    /// The authority has said that the new key is not ours, either.
    unknown: bool,
}

impl Node {
    /// Asks for a change of the static key to `new`, which is on the disk. Once the authority agrees, [`Output::ChangeKey`]
    /// comes; it may come again with the old key. [`Output::KeyChanged`] is the end, after the membership.
    pub fn rotate(&mut self, new: PublicKey, now: Now) {
        let plan = Plan { new, next: now.boot, tries: 0, unknown: false };
        self.life.rotation = Rotation::Asked(plan);
        self.deadlines.set(Task::Rotation, now.boot);
    }

    /// The key that is to come, while there is one.
    pub fn rotating_to(&self) -> Option<PublicKey> {
        match &self.life.rotation {
            Rotation::None => None,
            Rotation::Asked(plan) | Rotation::Showing { plan, .. } => Some(plan.new),
        }
    }

    pub(super) fn tick_rotation(&mut self, call: &mut Call<'_>) {
        match &mut self.life.rotation {
            Rotation::None => {}
            Rotation::Asked(plan) => {
                let wait = (ASK_AGAIN * (1 << plan.tries.min(6))).min(ASK_AGAIN_MAX);
                plan.tries += 1;
                plan.next = call.now.boot + wait;
                self.deadlines.set(Task::Rotation, plan.next);
                self.ask_authority(Frame::AskTicket);
            }
            Rotation::Showing { .. } => self.take_old_key_back(call),
        }
    }

    pub(super) fn handle_ticket(&mut self, from: PublicKey, ticket: &Ticket, call: &mut Call<'_>) {
        if self.peers.get(&from).is_some_and(|peer| peer.has_role(Roles::AUTHORITY)) {
            if let Rotation::Asked(plan) = &mut self.life.rotation {
                plan.unknown = false;
            }
            self.take_new_key(ticket.ticket, call);
        }
    }

    fn take_new_key(&mut self, ticket: [u8; TICKET_LEN], call: &Call<'_>) {
        let Rotation::Asked(plan) = self.life.rotation else { return };
        self.life.rotation = Rotation::Showing { plan, ticket, old: self.key };
        self.deadlines.set(Task::Rotation, call.now.boot + PATIENCE);
        self.outbox.push_back(Output::ChangeKey(plan.new));
    }

    /// The authority says that our key is revoked. While another was asked for, it is that one by now, and the answer was
    /// lost: a ticket names the node, and whoever has the new key needs no more of it.
    pub(super) fn note_key_revoked(&mut self, from: PublicKey, call: &Call<'_>) {
        let authority = self.peers.get(&from).is_some_and(|peer| peer.has_role(Roles::AUTHORITY));
        let Some(own) = self.own.as_ref().filter(|_| authority) else { return };
        if matches!(self.life.rotation, Rotation::Asked(Plan { unknown: false, .. })) {
            let mut ticket = [0; TICKET_LEN];
            ticket[..16].copy_from_slice(own.node.as_bytes());
            self.take_new_key(ticket, call);
        }
    }

    /// The authority does not take the new key, `unknown` because it knows nothing of the ticket: it may have restarted.
    pub(super) fn note_rotation_refused(&mut self, unknown: bool, call: &Call<'_>) {
        if let Rotation::Showing { plan, ticket, .. } = &mut self.life.rotation {
            // That was no ticket, but a guess.
            plan.unknown |= unknown && ticket[16..] == [0; 16];
            self.take_old_key_back(call);
        }
    }

    fn take_old_key_back(&mut self, call: &Call<'_>) {
        let Rotation::Showing { plan, old, .. } = &self.life.rotation else { return };
        let (mut plan, old) = (*plan, *old);
        let wait = (ASK_AGAIN * (1 << plan.tries.min(6))).min(ASK_AGAIN_MAX);
        plan.next = call.now.boot + wait;
        self.life.rotation = Rotation::Asked(plan);
        self.deadlines.set(Task::Rotation, plan.next);
        self.outbox.push_back(Output::ChangeKey(old));
    }

    /// What a session with the authority begins with, while the new key has no membership.
    pub(super) fn rotation_frame(&self) -> Option<Frame> {
        match self.life.rotation {
            Rotation::Showing { ticket, .. } => Some(Frame::Rotate(ticket)),
            _ => None,
        }
    }

    /// There is a membership for our key: if it is the new one, all peers are called with it.
    pub(super) fn note_own_membership(&mut self, call: &Call<'_>) {
        if !matches!(self.life.rotation, Rotation::Showing { plan, .. } if plan.new == self.key) {
            return;
        }
        self.life.rotation = Rotation::None;
        self.deadlines.clear(&Task::Rotation);
        self.outbox.push_back(Output::KeyChanged(self.key));
        self.call_all(Duration::ZERO, call);
    }

    /// The engine has another static key: all sessions are of the past.
    pub fn change_key(&mut self, key: PublicKey, now: Now, rng: &mut dyn CryptoRng) {
        let call = self.call(now, rng);
        self.key = key;
        for peer in self.peers.values_mut() {
            (peer.session, peer.showing, peer.attempt) = (None, None, None);
        }
        // Others know a new key once the authority has signed it, and an old one at once.
        let known = self.own.as_ref().is_some_and(|own| own.key == key);
        self.call_all(if known { Duration::ZERO } else { PATIENCE }, &call);
    }

    /// Begins a session with each peer that has none: with authorities now, with others after a while.
    fn call_all(&mut self, others: Duration, call: &Call<'_>) {
        let keys: Vec<PublicKey> =
            self.peers.iter().filter(|(_, peer)| peer.session.is_none()).map(|(key, _)| *key).collect();
        for key in keys {
            let authority = self.peers.get(&key).is_some_and(|peer| peer.has_role(Roles::AUTHORITY));
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.attempt = None;
            }
            self.begin_attempt(key, if authority { Duration::ZERO } else { others }, call);
        }
    }
}
