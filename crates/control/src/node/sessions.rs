//! The first frames of a tunnel (control rules 2 and 9), and who may say what in it.

use std::time::Duration;

use tombolo_noise::PublicKey;

use super::event::{EngineChange, NodeAlarm, Output};
use super::peer::{Peer, Session, Showing};
use super::{Call, Node, Task};
use crate::document::{Membership, Roles, Verified};
use crate::frame::{Frame, RenewAnswer, Show, ShowRefusal, ShowRefused};
use crate::path::Path;
use crate::verifier::{Accepted, Refusal};

/// A first frame is sent so often before the next handshake has to bring it.
const SHOW_TRIES: u8 = 8;

impl Node {
    pub(super) fn handle_established(
        &mut self,
        key: PublicKey,
        path: Path,
        initiator: bool,
        handshake_hash: [u8; 32],
        call: &mut Call<'_>,
    ) {
        if !self.peers.contains_key(&key) && !self.make_room() {
            return;
        }
        let verified = self.verifier.authorised(&key, call.times).is_some();
        let now = call.boot();
        let peer = self.peers.entry(key).or_insert_with(|| Peer::new(now));
        let answered = peer.session.is_some_and(|session| session.answered);
        peer.session = Some(Session { handshake_hash, verified, answered, since: now });
        peer.attempt = None;
        if let Some(address) = path.direct() {
            peer.add_candidate(address, true);
        }
        if let Some(state) = peer.path(path) {
            (state.misses, state.answered) = (0, Some(now));
        }
        // The handshake is as good a proof as a challenge; a relayed one moves no direct path (control rule 14).
        let keep = peer.current.is_some_and(|held| !held.is_relayed()) && peer.failing.is_none();
        let used = peer.current.filter(|_| keep && path.is_relayed()).unwrap_or(path);
        peer.set_current(used, now);
        // Also where nothing changes: the data path may have moved with the handshake, or not.
        self.outbox.push_back(Output::Engine(EngineChange::Use { key, path: used }));
        let suspect = used != path && !initiator;
        peer.failing = None;
        peer.next_probe = Some(now + Duration::from_millis(200));
        if let Some(server) = &mut peer.server {
            (server.next_keepalive, server.unanswered, server.asked) = (now, 0, None);
        }
        if initiator {
            peer.showing = Some(Showing { next: now, tries: 0 });
        }
        if verified {
            self.install_peer(&key, call);
            // Also where it is: after a restart it is called there, without any server.
            self.save_peer(&key);
        }
        if suspect {
            self.suspect(key, call);
        }
        self.tick_peer(key, call);
        self.note_relay(key, call);
    }

    pub(super) fn handle_ended(&mut self, key: PublicKey, call: &mut Call<'_>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        (peer.session, peer.showing, peer.next_probe) = (None, None, None);
        let known = self.verifier.authorised(&key, call.times).is_some();
        let peer = self.peers.get(&key);
        if peer.is_some_and(|peer| peer.server.is_some()) || self.life.is_joining_with(&key) {
            self.begin_attempt(key, Duration::ZERO, call);
        } else if !known {
            self.peers.remove(&key);
            self.deadlines.clear(&Task::Peer(key));
        }
    }

    /// Sends, or sends again, what a session begins with.
    pub(super) fn show(&mut self, key: PublicKey, peer: &mut Peer, call: &mut Call<'_>) {
        let (Some(showing), Some(session)) = (peer.showing, peer.session) else {
            peer.showing = None;
            return;
        };
        if showing.next > call.boot() {
            return;
        }
        if showing.tries >= SHOW_TRIES {
            peer.showing = None;
            return;
        }
        let wait = Duration::from_millis(250) * (1 << showing.tries.min(4));
        peer.showing = Some(Showing { next: call.boot() + wait, tries: showing.tries + 1 });
        if let Some(frame) = self.life_frame(&key, &session, peer) {
            self.push(key, None, frame);
        } else if let Some(frame) = self.show_frame(false) {
            self.push(key, None, frame);
        }
    }

    fn show_frame(&mut self, answer: bool) -> Option<Frame> {
        // While the key is being changed there is nothing that fits the session.
        let own = self.own.as_ref().filter(|own| own.key == self.key)?;
        let membership = own.encoded().to_vec();
        let versions = self.versions()?;
        Some(Frame::Show(Show { membership, versions, answer }))
    }

    pub(super) fn handle_frame(&mut self, from: PublicKey, path: Path, frame: Frame, call: &mut Call<'_>) {
        let Some(peer) = self.peers.get(&from) else {
            self.dropped += 1;
            return;
        };
        let Some(session) = peer.session else {
            self.dropped += 1;
            return;
        };
        if self.options.authority && is_for_authority(&frame) {
            let handshake_hash = session.handshake_hash;
            self.outbox.push_back(Output::Authority { from, handshake_hash, frame });
            return;
        }
        // After a restore the authority learns from what nodes show (control rule 21).
        if self.options.authority && matches!(frame, Frame::Show(_)) {
            let (handshake_hash, frame) = (session.handshake_hash, frame.clone());
            self.outbox.push_back(Output::Authority { from, handshake_hash, frame });
        }
        match frame {
            Frame::Show(show) => self.handle_show(from, &show, call),
            Frame::ShowRefused(refused) => self.handle_show_refused(from, &refused, call),
            Frame::JoinAnswer(answer) => self.handle_join_answer(from, answer, call),
            Frame::RenewAnswer(answer) => self.handle_renew_answer(from, answer, call),
            Frame::Trust(bytes) => self.handle_trust(from, &bytes, call),
            Frame::Block(block) => self.handle_block(from, &block, call),
            Frame::Versions(versions) if session.verified || self.life.is_joining_with(&from) => {
                self.handle_versions(from, &versions, call);
            }
            frame if session.verified => self.handle_member_frame(from, path, frame, call),
            _ => self.dropped += 1,
        }
        self.note_path(from, path, call);
    }

    /// Frames that only members may send.
    fn handle_member_frame(&mut self, from: PublicKey, path: Path, frame: Frame, call: &mut Call<'_>) {
        let Some((member, _)) = self.verifier.authorised(&from, call.times) else {
            self.dropped += 1;
            return;
        };
        let member: Verified<Membership> = member.clone();
        let lighthouse = member.roles.contains(Roles::LIGHTHOUSE);
        match frame {
            Frame::PullTrust => self.answer_trust(from),
            Frame::PullBlock(request) => self.answer_block(from, request),
            Frame::Challenge(nonce) | Frame::Explore(nonce) => {
                self.push(from, Some(path), Frame::ChallengeAnswer(nonce));
            }
            Frame::ChallengeAnswer(nonce) => self.handle_challenge_answer(from, &nonce, call),
            Frame::Keepalive(keepalive) => self.handle_keepalive(&member, path, &keepalive, call),
            Frame::KeepaliveAnswer(answer) => self.handle_keepalive_answer(from, &answer, call),
            Frame::LookUp(look_up) => {
                if let Some(ours) = &mut self.lighthouse {
                    let verifier = &self.verifier;
                    ours.handle_look_up(&member, path, &look_up, verifier, call.times, call.now.boot);
                }
            }
            Frame::AskNames(ask) => {
                if let Some(ours) = &mut self.lighthouse {
                    ours.handle_ask_names(&member, ask, &self.verifier, call.times, call.now.boot);
                }
            }
            Frame::AskMembers(tags) => {
                if let Some(ours) = &mut self.lighthouse {
                    ours.handle_ask_members(&member, &tags, &self.verifier, call.times, call.now.boot);
                }
            }
            Frame::Names(list) if lighthouse => self.handle_names(from, &list, call),
            Frame::Member(membership) if lighthouse => self.handle_member(from, &membership, call),
            // Obeyed only from members with the role (control rule 13).
            Frame::LookUpAnswer(answer) if lighthouse => self.handle_look_up_answer(from, answer, call),
            Frame::Introduce(introduce) if lighthouse => self.handle_introduce(from, &introduce, call),
            Frame::Ticket(ticket) => self.handle_ticket(from, &ticket, call),
            Frame::Present(membership) => self.handle_present(from, &membership, call),
            Frame::Left(_) => self.handle_left(from),
            _ => self.dropped += 1,
        }
    }

    fn handle_show(&mut self, from: PublicKey, show: &Show, call: &mut Call<'_>) {
        // At each handshake the same paper: it was verified once.
        let held = self.verifier.authorised(&from, call.times).map(|(held, _)| held.encoded().clone());
        if held.is_some_and(|held| *held == *show.membership) {
            self.verified(from, call);
        } else {
            match self.verifier.accept_shown(&show.membership, &from, call.times) {
                Ok(Accepted { replaced, membership, .. }) => {
                    if let Some(replaced) = replaced {
                        self.cut(replaced);
                    }
                    self.verified(from, call);
                    self.tell_newer(from, &membership, show, call);
                }
                Err(refusal) => {
                    self.refuse(from, show, &refusal, call);
                    return;
                }
            }
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if let Some(session) = &mut peer.session {
            session.answered = true;
        }
        let was_showing = peer.showing.take().is_some();
        // Where both began, each has the other's.
        if !was_showing
            && !show.answer
            && let Some(frame) = self.show_frame(true)
        {
            self.push(from, None, frame);
        }
        self.handle_versions(from, &show.versions, call);
    }

    /// Who has an older membership than the authority of this machine has issued gets the newer one: it was away when it was
    /// changed.
    fn tell_newer(&mut self, from: PublicKey, held: &Verified<Membership>, show: &Show, call: &Call<'_>) {
        if self.options.authority && **held.encoded() != *show.membership {
            let newer = held.encoded().to_vec();
            self.tell_membership(from, newer, call.now);
        }
    }

    pub(super) fn tell_membership(
        &mut self,
        to: PublicKey,
        membership: Vec<u8>,
        now: tombolo_noise::clock::Now,
    ) {
        let answer = RenewAnswer { time: now.wall, node: None, outcome: Ok(membership) };
        self.push(to, None, Frame::RenewAnswer(answer));
    }

    fn refuse(&mut self, from: PublicKey, show: &Show, refusal: &Refusal, call: &mut Call<'_>) {
        if let Some((held, _)) = self.verifier.authorised(&from, call.times) {
            let held = held.clone();
            self.tell_newer(from, &held, show, call);
        }
        let reason = refusal.told();
        let frame = Frame::ShowRefused(ShowRefused { reason, time: call.now.wall });
        self.push(from, None, frame);
        if reason == ShowRefusal::Later {
            // It is well signed but for what we lack: documents prove themselves.
            self.handle_versions(from, &show.versions, call);
        } else if self.verifier.authorised(&from, call.times).is_none() {
            self.cut(from);
        }
    }

    /// The session's key is a member's.
    pub(super) fn verified(&mut self, key: PublicKey, call: &mut Call<'_>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(session) = &mut peer.session {
            session.verified = true;
        }
        peer.next_probe.get_or_insert(call.now.boot + Duration::from_millis(200));
        self.install_peer(&key, call);
        self.present_to(key);
        self.schedule(key);
        self.note_relay(key, call);
        self.note_member(&key, call);
        self.renew_if_awaited(&key, call);
        self.leave_if_wanted();
    }

    fn handle_show_refused(&mut self, from: PublicKey, refused: &ShowRefused, call: &mut Call<'_>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(showing) = &mut peer.showing else { return };
        if refused.reason == ShowRefusal::Later {
            showing.next = call.now.boot + Duration::from_millis(300);
            self.schedule(from);
            return;
        }
        peer.showing = None;
        if refused.reason == ShowRefusal::Revoked {
            self.note_key_revoked(from, call);
        }
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let clock_difference = seconds(refused.time.0).saturating_sub(seconds(call.now.wall.0));
        let alarm = NodeAlarm::Refused { peer: from, reason: refused.reason, clock_difference };
        self.outbox.push_back(Output::Alarm(alarm));
    }

    /// A key is nobody's any more.
    pub(super) fn cut(&mut self, key: PublicKey) {
        self.peers.remove(&key);
        self.deadlines.clear(&Task::Peer(key));
        if let Some(lighthouse) = &mut self.lighthouse {
            lighthouse.forget(&key);
        }
        self.engine(EngineChange::Remove { key });
    }
}

fn is_for_authority(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::JoinRequest(_)
            | Frame::Renew(_)
            | Frame::AskTicket
            | Frame::Rotate(_)
            | Frame::Leave
            | Frame::AskPresented
            | Frame::AdminRequest(_)
    )
}
