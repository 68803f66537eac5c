//! Joining, renewing, leaving (control rules 15, 16 and 18).

use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now};

use super::event::{NodeAlarm, Output, Save, Saved};
use super::peer::{Peer, Session, Showing};
use super::rotation::Rotation;
use super::{Call, Node, Task};
use crate::document::{DocumentError, Roles};
use crate::frame::{Frame, JoinAnswer, JoinRequest, RenewAnswer, RenewRefusal};
use crate::token::Token;
use crate::verifier::{Accepted, Refusal};
use crate::{NodeId, NodeName};

/// Where a node is in its life.
#[derive(Debug, Default)]
pub(super) struct Life {
    joining: Option<Joining>,
    /// A membership that was given, and waits for documents to be verified by.
    pending: Option<Vec<u8>>,
    next_renewal: Option<Instant>,
    /// It was asked for, and there is no answer.
    awaited: bool,
    pub(super) rotation: Rotation,
    leaving: bool,
    stale: bool,
    fault: bool,
    warned: bool,
}

#[derive(Debug)]
struct Joining {
    token: Token,
    name: Option<NodeName>,
    /// Whether the answer has come.
    answered: bool,
}

/// A renewal that is not answered is asked for again after this, or a sixth of a membership's life where that is shorter.
const RETRY: Duration = Duration::from_secs(120);
/// How many members are called by relays after a restart; others are when there is a packet for them.
const RELAYED_CALLS: usize = 256;
/// After a restart it is not known when the last renewal was: it is asked for within this, and not by all at once.
const AFTER_START: Duration = Duration::from_secs(60);
/// Within this all nodes ask an authority that is there again, or within a twelfth of a membership's life.
const AFTER_RETURN: Duration = Duration::from_secs(30);

impl Life {
    pub(super) fn is_joining_with(&self, key: &PublicKey) -> bool {
        self.joining.as_ref().is_some_and(|joining| joining.token.server_key() == key)
    }

    /// Whether it has just become so.
    pub(super) fn note_stale(&mut self, stale: bool) -> bool {
        !std::mem::replace(&mut self.stale, stale) && stale
    }

    pub(super) fn note_fault(&mut self, fault: bool) -> bool {
        !std::mem::replace(&mut self.fault, fault) && fault
    }
}

impl Node {
    pub(super) fn begin_join(&mut self, token: Token, name: Option<NodeName>, call: &mut Call<'_>) {
        let (key, endpoints) = (*token.server_key(), token.endpoints().to_vec());
        self.life.joining = Some(Joining { token, name, answered: false });
        // Which node it is stands in the network document, which comes later.
        self.be_server(key, NodeId::from_bytes([0; 16]), Roles::AUTHORITY, &endpoints, call);
    }

    pub(super) fn restore_members(&mut self, saved: &Saved, call: &mut Call<'_>) {
        match self.verifier.accept_saved(&saved.membership, call.times) {
            Ok(accepted) if accepted.membership.key == self.key => self.own = Some(accepted.membership),
            // Perhaps a document of the disk is lacking: a server's will do.
            _ => self.life.pending = Some(saved.membership.clone()),
        }
        self.tend_servers(call);
        // All are known before the first is a peer: what somebody presents goes with it.
        let accepted: Vec<_> = saved
            .peers
            .iter()
            .filter_map(|peer| {
                let accepted = self.verifier.accept_saved(&peer.membership, call.times).ok()?;
                Some((peer, accepted.membership))
            })
            .collect();
        let mut by_relays = 0;
        for (peer, member) in accepted {
            self.take_presented(&member, call);
            let key = member.key;
            // Whoever was never reached directly is called by the relays, as soon as there is one.
            let relayed = usize::from(peer.endpoint.is_none());
            if member.presenter.is_some() || (relayed == 1 && by_relays == RELAYED_CALLS) {
                continue;
            }
            by_relays += relayed;
            if key == self.key || (!self.peers.contains_key(&key) && !self.make_room()) {
                continue;
            }
            let now = call.now.boot;
            // Where it was once may be behind a gateway by now.
            let endpoint = peer
                .endpoint
                .filter(|endpoint| !self.tunnelled().any(|prefix| prefix.contains(&endpoint.ip())));
            let held = self.peers.entry(key).or_insert_with(|| Peer::new(now));
            // Of a lighthouse: it was so before the restart.
            held.saved = true;
            if let Some(endpoint) = endpoint {
                held.add_candidate(endpoint, true);
            }
            self.install_peer(&key, call);
            let jitter = Duration::from_millis(call.below(500));
            self.begin_attempt(key, jitter, call);
        }
    }

    /// What a session with the authority begins with, where that is not our membership.
    pub(super) fn life_frame(&mut self, key: &PublicKey, session: &Session, peer: &Peer) -> Option<Frame> {
        if let Some(joining) = self.life.joining.as_ref().filter(|joining| joining.token.server_key() == key)
        {
            if joining.answered {
                return Some(Frame::PullTrust).filter(|_| self.verifier.trust().is_none());
            }
            let proof = joining.token.prove(&session.handshake_hash, &self.key);
            let (token, name) = (joining.token.public_key(), joining.name.clone());
            return Some(Frame::JoinRequest(JoinRequest { token, proof, name }));
        }
        self.rotation_frame().filter(|_| peer.has_role(Roles::AUTHORITY))
    }

    pub(super) fn handle_join_answer(&mut self, from: PublicKey, answer: JoinAnswer, call: &mut Call<'_>) {
        if !self.life.is_joining_with(&from) {
            self.dropped += 1;
            return;
        }
        let Some(joining) = &mut self.life.joining else { return };
        match answer.outcome {
            Ok(membership) => {
                joining.answered = true;
                self.life.pending = Some(membership);
                if let Some(peer) = self.peers.get_mut(&from) {
                    // From now on what is lacking is asked for, until it is there.
                    peer.showing = Some(Showing { next: call.now.boot, tries: 0 });
                    peer.last_pull = None;
                }
                self.retry_membership(call);
                self.schedule(from);
            }
            // To be tried again, with the next round.
            Err(crate::frame::JoinRefusal::Busy) => {}
            Err(refusal) => {
                self.life.joining = None;
                self.outbox.push_back(Output::Joined(Err(refusal)));
            }
        }
    }

    /// Verifies a membership of our own that waits for documents.
    pub(super) fn retry_membership(&mut self, call: &mut Call<'_>) {
        let Some(bytes) = self.life.pending.take() else { return };
        match self.verifier.accept_shown(&bytes, &self.key, call.times) {
            Ok(accepted) => self.become_member(accepted, call),
            Err(
                Refusal::NoTrust
                | Refusal::NeedsNetwork(_)
                | Refusal::Document(DocumentError::UnknownIssuer(_)),
            ) => self.life.pending = Some(bytes),
            Err(_) => self.dropped += 1,
        }
    }

    fn become_member(&mut self, accepted: Accepted, call: &mut Call<'_>) {
        let member = accepted.membership;
        let member_life = member.lifetime();
        self.outbox.push_back(Output::Save(Save::Membership(member.encoded().to_vec())));
        self.own = Some(member);
        (self.life.warned, self.life.awaited) = (false, false);
        let every = self.options.renewal.min(member_life / 3);
        let jitter = Duration::from_secs(call.below((every.as_secs() / 6).max(1)));
        self.renew_at(call.now.boot + every.saturating_sub(jitter));
        if self.life.joining.take().is_some() {
            self.outbox.push_back(Output::Joined(Ok(())));
        }
        // Whoever has a session with us sees at once who we are.
        let keys: Vec<PublicKey> = self
            .peers
            .iter_mut()
            .filter(|(_, peer)| peer.session.is_some())
            .map(|(key, peer)| {
                peer.showing = Some(Showing { next: call.now.boot, tries: 0 });
                *key
            })
            .collect();
        for key in keys {
            self.schedule(key);
        }
        self.note_own_membership(call);
        self.tend_servers(call);
    }

    /// Renews in time, and warns where that does not succeed (control rule 16).
    pub(super) fn tend_membership(&mut self, call: &mut Call<'_>) {
        self.retry_membership(call);
        let Some(own) = &self.own else {
            // A server that was restored, or was down for longer than its membership lived.
            if self.options.authority {
                self.renew_here();
            }
            return;
        };
        let life = own.lifetime();
        let half = own.not_before.0 + life / 2;
        let not_after = own.not_after;
        if call.times.confirmed.0 > half && !std::mem::replace(&mut self.life.warned, true) {
            self.outbox.push_back(Output::Alarm(NodeAlarm::NotRenewed { not_after }));
        }
        // A key that has no membership yet cannot renew one.
        let changing = own.key != self.key;
        let Some(due) = self.life.next_renewal else {
            return self.renew_at(call.now.boot + AFTER_START.min(life / 6));
        };
        if changing || (due > call.now.boot && !self.life.leaving) {
            return;
        }
        self.life.awaited = true;
        self.renew_at(call.now.boot + RETRY.min(life / 6).max(Duration::from_secs(1)));
        if self.options.authority {
            return self.renew_here();
        }
        let frame = if self.life.leaving { Frame::Leave } else { Frame::Renew(None) };
        self.ask_authority(frame);
    }

    fn renew_at(&mut self, due: Instant) {
        self.life.next_renewal = Some(due);
        self.deadlines.set(Task::Renewal, due);
    }

    /// A member is there: if it is an authority, which could not be asked, or did not answer, it is asked now.
    pub(super) fn renew_if_awaited(&mut self, key: &PublicKey, call: &mut Call<'_>) {
        let is_authority = self.peers.get(key).is_some_and(|peer| peer.has_role(Roles::AUTHORITY));
        let Some(own) = self.own.as_ref().filter(|_| self.life.awaited && is_authority) else { return };
        self.life.awaited = false;
        let spread = AFTER_RETURN.min(own.lifetime() / 12).as_millis();
        let wait = call.below(u64::try_from(spread).unwrap_or(u64::MAX).max(1));
        let due = call.now.boot + Duration::from_millis(wait);
        if self.life.next_renewal.is_none_or(|next| due < next) {
            self.renew_at(due);
        }
    }

    /// The authority is on this machine: the answer comes through [`Node::admit`].
    fn renew_here(&mut self) {
        let from = self.key;
        let frame = Frame::Renew(None);
        self.outbox.push_back(Output::Authority { from, handshake_hash: [0; 32], frame });
    }

    fn authority(&self) -> Option<PublicKey> {
        let authority = |peer: &Peer| peer.is_verified() && peer.has_role(Roles::AUTHORITY);
        self.peers.iter().find(|(_, peer)| authority(peer)).map(|(key, _)| *key)
    }

    /// `false`: there is none to be had.
    pub(super) fn ask_authority(&mut self, frame: Frame) -> bool {
        if self.options.authority && self.own.as_ref().is_some_and(|own| own.roles.contains(Roles::AUTHORITY))
        {
            // The one of this machine hears us without a tunnel. What it issues comes by `admit`.
            self.outbox.push_back(Output::Authority { from: self.key, handshake_hash: [0; 32], frame });
            return true;
        }
        let Some(authority) = self.authority() else { return false };
        self.push(authority, None, frame);
        true
    }

    pub(super) fn handle_renew_answer(&mut self, from: PublicKey, answer: RenewAnswer, call: &mut Call<'_>) {
        if !self.peers.get(&from).is_some_and(|peer| peer.has_role(Roles::AUTHORITY)) {
            self.dropped += 1;
            return;
        }
        if let Some(node) = answer.node {
            return self.handle_presented_renewal(node, answer.outcome, call);
        }
        match answer.outcome {
            Ok(membership) => {
                self.life.pending = Some(membership);
                self.retry_membership(call);
                if self.life.pending.is_some() {
                    self.send_versions(from, call);
                }
            }
            Err(RenewRefusal::Busy) => self.note_rotation_refused(false, call),
            Err(RenewRefusal::UnknownTicket) => self.note_rotation_refused(true, call),
            Err(RenewRefusal::Revoked) if self.rotating_to().is_some() => self.note_key_revoked(from, call),
            Err(refusal) => self.outbox.push_back(Output::Alarm(NodeAlarm::RenewalRefused(refusal))),
        }
    }

    /// Ends the membership. [`Output::Left`] comes when the authority has heard of it.
    pub fn leave(&mut self) {
        self.life.leaving = true;
        self.leave_if_wanted();
    }

    /// Says that we leave, to an authority that may just have been reached.
    pub(super) fn leave_if_wanted(&mut self) {
        if self.life.leaving {
            self.ask_authority(Frame::Leave);
        }
    }

    pub(super) fn handle_left(&mut self, from: PublicKey) {
        if self.life.leaving && self.peers.get(&from).is_some_and(|peer| peer.has_role(Roles::AUTHORITY)) {
            self.outbox.push_back(Output::Left);
        }
    }

    /// The authority of this machine has let somebody in, or renewed: its membership is known here at once, and the
    /// session with its key, if there is one, is a member's.
    ///
    /// # Errors
    /// Says why the membership is not taken.
    pub fn admit(&mut self, membership: &[u8], now: Now, rng: &mut dyn CryptoRng) -> Result<(), Refusal> {
        let mut call = self.call(now, rng);
        let accepted = self.verifier.accept_told(membership, call.times)?;
        if let Some(replaced) = accepted.replaced {
            self.cut(replaced);
        }
        let key = accepted.membership.key;
        if let Some(presenter) = accepted.membership.presenter {
            let presenter = self.verifier.member(&presenter).map(|presenter| presenter.key);
            if let Some(presenter) = presenter.filter(|key| *key != self.key) {
                self.push(presenter, None, Frame::Present(membership.to_vec()));
            }
            self.take_presented(&accepted.membership, &mut call);
        } else if key == self.key {
            self.become_member(accepted, &mut call);
        } else {
            self.verified(key, &mut call);
        }
        self.note_member(&key, &call);
        self.collect(&mut call);
        Ok(())
    }
}
