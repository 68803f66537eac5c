//! Members: what the control plane asks of the data plane, and what it is told (control rules 8 to 11).

use std::net::SocketAddr;
use std::sync::Arc;

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;
use tombolo_noise::handshake::Role;
use tombolo_noise::{Keypair, PublicKey, Standing, TRANSPORT_OVERHEAD, padded_len};
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::{DropReason, Endpoint, PeerId};

use super::Control;
use crate::frames::{FrameCredit, ReceivedFrame};
use crate::handle::MemberCommand;
use crate::options::{EngineEvent, Path, Session, SocketBinder};

/// Bytes of a control frame at most (control rule 11).
const MAX_FRAME_LEN: usize = 1024;

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    /// Says whether anything was changed.
    pub(super) fn member_command(&mut self, command: MemberCommand, now: Now) -> bool {
        match command {
            MemberCommand::SetMembership(options) => {
                self.device.set_membership(options, now);
                true
            }
            MemberCommand::SetTimeFloor(time) => {
                self.device.set_time_floor(time, now);
                true
            }
            MemberCommand::ExpireSessions => {
                self.device.expire_all(now, &mut self.random);
                true
            }
            MemberCommand::Reject(key) => self.end_membership(&key, |device, id| device.reject(id)),
            MemberCommand::Revoke(key) => self.end_membership(&key, |device, id| device.revoke(id)),
            MemberCommand::Handshake(key, paths) => self.handshake(&key, &paths, now),
            MemberCommand::SetPath(key, path) => self.set_path(&key, path, now),
            MemberCommand::PathValidated(key, remote) => {
                self.device.peer_by_key(&key).is_some_and(|id| self.device.path_validated(id, remote))
            }
        }
    }

    /// The members that were used since this was asked last.
    pub(super) fn take_used(&self) -> Vec<PublicKey> {
        let used = self.peers.values().filter(|record| record.peer.usage.take());
        used.map(|record| *record.peer.link.public_key()).collect()
    }

    /// The first packet for a while may be the one by which a dead path shows.
    pub(super) fn report_use(&mut self, id: PeerId) {
        if let Some(link) = self.device.link(id)
            && link.standing() == Standing::Member
        {
            self.news.push(EngineEvent::MemberUsed(*link.public_key()));
        }
    }

    fn end_membership(
        &mut self,
        key: &PublicKey,
        end: impl FnOnce(&mut tombolo_noise::Device, PeerId) -> bool,
    ) -> bool {
        let Some(id) = self.device.peer_by_key(key) else { return false };
        let ended = end(&mut self.device, id);
        if ended {
            self.forget_peer(id);
        }
        ended
    }

    /// Seals a control frame and sends it; nothing where that cannot be.
    pub(super) fn send_frame(
        &mut self,
        key: &PublicKey,
        frame: &[u8],
        path: Option<Path>,
        now: Now,
    ) -> Option<()> {
        if frame.len() > MAX_FRAME_LEN {
            return None;
        }
        let id = self.device.peer_by_key(key)?;
        let link = Arc::clone(self.device.link(id)?);
        let Some(keypair) = link.session_keypair(now.boot) else {
            if let Some(event) = link.want_handshake() {
                self.shared.raise(event);
            }
            return None;
        };
        let padded = padded_len(frame.len(), self.shared.mtu());
        let len = padded + TRANSPORT_OVERHEAD;
        let destination = match path {
            Some(path) => self.endpoint_of(key, path)?,
            None => match link.destination(len as u64) {
                Ok(destination) => destination,
                Err(DropReason::PathUnproven) => {
                    // Not lost for that: it goes when the path was shown.
                    self.unproven.push(*key, frame.to_vec(), now.boot);
                    return None;
                }
                Err(_) => return None,
            },
        };
        let counter = keypair.reserve(1).ok()?;
        let gathered = self.gather(Some(&link), destination, 0, len, |message| {
            let plaintext = &mut message[TRANSPORT_HEADER_LEN..len - TAG_LEN];
            plaintext[..frame.len()].copy_from_slice(frame);
            plaintext[frame.len()..].fill(0);
            keypair.seal(counter, message);
        });
        if let Err(reason) = gathered {
            self.shared.drops.count(reason);
        }
        if let Some(event) = link.note_sent(&keypair, now.boot, 1, len as u64, true) {
            self.shared.raise(event);
        }
        Some(())
    }

    /// Who is no static peer has a new session: its first frame may go out at once (control rule 9).
    pub(super) fn report_session(&mut self, id: PeerId, now: Now) {
        let Some(link) = self.device.link(id).filter(|link| link.standing() != Standing::Static) else {
            return;
        };
        let Some(keypair) = link.session_keypair(now.boot) else { return };
        // Where the handshake has shown it to be, and not where its first message seems to come from (control rule 10).
        let endpoint = keypair.proven_remote().map(Endpoint::new).or_else(|| link.endpoint());
        let event = EngineEvent::MemberSession {
            public_key: *link.public_key(),
            standing: link.standing(),
            session: session_of(&keypair),
            remote: endpoint.filter(|endpoint| !endpoint.is_relayed()).map(|endpoint| endpoint.remote),
            path: endpoint.and_then(|endpoint| self.path_of(endpoint)),
        };
        self.news.push(event);
    }

    /// A frame that is for the control plane. Of a peer that is gone by now, or is a static one, it is for nobody.
    pub(super) fn report_frame(&mut self, id: PeerId, frame: ReceivedFrame) {
        let Some(link) = self.device.link(id).filter(|link| link.standing() != Standing::Static) else {
            return self.shared.drops.count(DropReason::UnknownFrame);
        };
        let event = EngineEvent::ControlFrame {
            public_key: *link.public_key(),
            session: session_of(&frame.keypair),
            remote: link.endpoint().filter(|endpoint| !endpoint.is_relayed()).map(|endpoint| endpoint.remote),
            path: self.path_of(frame.from),
            bytes: frame.bytes,
            credit: FrameCredit::take(&self.shared),
        };
        self.news.push(event);
    }

    pub(super) fn report_move(&mut self, id: PeerId) {
        let Some(link) = self.device.link(id) else { return };
        let Some(endpoint) = link.endpoint().filter(|endpoint| !endpoint.is_relayed()) else { return };
        self.news.push(EngineEvent::MemberMoved {
            public_key: *link.public_key(),
            remote: endpoint.remote,
            challenge: link.is_path_limited(),
        });
    }

    pub(super) fn report_two_places(&mut self, id: PeerId, older: SocketAddr) {
        let Some(link) = self.device.link(id) else { return };
        let Some(endpoint) = link.endpoint().filter(|endpoint| !endpoint.is_relayed()) else { return };
        self.news.push(EngineEvent::KeyInTwoPlaces {
            public_key: *link.public_key(),
            newer: endpoint.remote,
            older,
        });
    }
}

/// What a join proof and a first frame need of a session.
pub(super) fn session_of(keypair: &Keypair) -> Session {
    Session {
        handshake_hash: *keypair.handshake_hash(),
        initiator: keypair.role() == Role::Initiator,
        epoch: keypair.epoch(),
    }
}
