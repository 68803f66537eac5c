//! The slots of keypairs, and the indices that name them.

use super::{Device, Output};
use crate::clock::Now;
use crate::handshake::{Role, SessionSecrets};
use crate::index_table::IndexEntry;
use crate::keypair::Keypair;
use crate::timers::{Timer, ZERO_KEYS_AFTER_TIME};
use rand_core::CryptoRng;
use std::net::SocketAddr;
use std::sync::Arc;
use tombolo_packet::PeerId;

impl Device {
    /// An index that nothing of ours has: neither a keypair nor a handshake (requirement 23). Where messages are
    /// steered by it, it is one of those that lead to the socket of the peer, so that the peer stays there
    /// from session to session.
    pub(super) fn unused_index(&self, id: PeerId, rng: &mut (impl CryptoRng + ?Sized)) -> u32 {
        loop {
            let index = rng.next_u32();
            let leads_there = self
                .steering
                .is_none_or(|steering| steering.socket_of(index) == steering.socket_of_peer(id.0));
            if leads_there && !self.pending.contains_key(&index) && !self.index_table.contains(index) {
                return index;
            }
        }
    }

    /// Installs what a handshake gave (requirement 12; `noise.c` `add_new_keypair`). Whoever uses the keys has received at
    /// `proven_remote`.
    pub(super) fn add_session(
        &mut self,
        id: PeerId,
        secrets: &SessionSecrets,
        proven_remote: Option<SocketAddr>,
        now: Now,
    ) {
        // A worker may have seen `next` confirmed while this handshake was being made; its event is
        // still under way, and the keypair is the current one all the same.
        self.promote_if_confirmed(id, now);
        self.epochs += 1;
        let epoch = self.epochs;
        let Some(peer) = self.peer_mut(id) else { return };
        let keypair = Arc::new(Keypair::new(secrets, epoch, proven_remote, now.boot));
        let is_static = peer.is_static();
        let link = Arc::clone(&peer.link);
        let slots = &mut peer.keypairs;
        let dropped = match secrets.role {
            // We hold the response, so the peer has the keys. If the peer began a handshake at the same time, `next` is what
            // it may be sending with, so it is what is kept to receive with.
            Role::Initiator => {
                let next = slots.next.take();
                let current = slots.current.replace(Arc::clone(&keypair));
                let (kept, dropped) = if next.is_some() { (next, current) } else { (current, None) };
                [std::mem::replace(&mut slots.previous, kept), dropped]
            }
            // Control rule 10: the initiation of a member may be a replay, so what it costs the true session is nothing.
            Role::Responder if !is_static => [slots.next.replace(Arc::clone(&keypair)), None],
            Role::Responder => [slots.next.replace(Arc::clone(&keypair)), slots.previous.take()],
        };
        peer.timers.set(Timer::ZeroKeys, Some(now.boot + ZERO_KEYS_AFTER_TIME));
        // Known to the receiving side before anything is sent with it.
        self.index_table.insert(
            keypair.local_index(),
            IndexEntry { link: Arc::clone(&link), keypair: Arc::clone(&keypair) },
        );
        if secrets.role == Role::Initiator {
            link.set_sending(Some(keypair));
        }
        self.drop_keypairs(dropped);
    }

    /// Makes `next` the current keypair once the peer has used it (requirement 12; `noise.c`
    /// `wg_noise_received_with_keypair`).
    pub(super) fn promote_if_confirmed(&mut self, id: PeerId, now: Now) {
        let Some(peer) = self.peer_mut(id) else { return };
        let Some(confirmed) = peer.keypairs.next.take_if(|next| next.is_confirmed()) else { return };
        let current = peer.keypairs.current.replace(Arc::clone(&confirmed));
        let dropped = std::mem::replace(&mut peer.keypairs.previous, current);
        peer.link.set_sending(Some(confirmed));
        peer.link.forget_other_source();
        let past = peer.past_mut();
        past.told_of_other_source = false;
        // Control rule 10: only now is it certain that the initiation was no replay.
        let claim = past.claim.take();
        if let Some(claim) = &claim {
            past.last_received_timestamp = past.last_received_timestamp.max(claim.timestamp);
            past.timestamp_ahead = claim.ahead;
        }
        // Of a provisional peer nothing is kept on disk.
        if claim.is_some() && !peer.is_provisional() {
            self.outputs.push_back(Output::TimestampAdvanced { peer: id });
        }
        self.drop_keypairs([dropped]);
        self.complete_handshake(id, now);
        self.outputs.push_back(Output::SessionReady { peer: id, initiator: false });
    }

    /// There is a session: nothing is left to retransmit (`timers.c` `wg_timers_handshake_complete`).
    pub(super) fn complete_handshake(&mut self, id: PeerId, now: Now) {
        self.drop_pending(id);
        let Some(peer) = self.peer_mut(id) else { return };
        peer.past_mut().attempts = 0;
        peer.timers.set(Timer::Retransmit, None);
        peer.link.set_last_handshake(now.wall);
        // Before what is staged is flushed: what is staged later raises the flag anew.
        peer.link.clear_handshake_wanted();
    }

    /// Forgets our initiation. A response to it that comes later answers nothing (requirement 27).
    pub(super) fn drop_pending(&mut self, id: PeerId) {
        if let Some(pending) = self.peer_mut(id).and_then(|peer| peer.pending.take()) {
            self.pending.remove(&pending.local_index());
        }
    }

    /// Erases the keys of a peer: its keypairs and the handshake that is under way, if any.
    pub(super) fn end_sessions(&mut self, id: PeerId) {
        self.drop_pending(id);
        let Some(peer) = self.peer_mut(id) else { return };
        if let Some(past) = peer.past_if_any() {
            past.attempts = 0;
            past.last_handshake_sent = None;
        }
        peer.timers.set(Timer::Retransmit, None);
        peer.link.activity.stop();
        self.erase_keypairs(id);
    }

    /// Erases the keypairs of a peer (requirement 9).
    pub(super) fn erase_keypairs(&mut self, id: PeerId) {
        let Some(peer) = self.peer_mut(id) else { return };
        peer.timers.set(Timer::ZeroKeys, None);
        peer.link.set_sending(None);
        if let Some(past) = peer.past_if_any() {
            past.claim = None;
        }
        let slots = std::mem::take(&mut peer.keypairs);
        self.drop_keypairs([slots.previous, slots.current, slots.next]);
    }

    /// Takes keypairs out of service. The last worker that holds one erases it.
    fn drop_keypairs<const COUNT: usize>(&self, keypairs: [Option<Arc<Keypair>>; COUNT]) {
        for keypair in keypairs.into_iter().flatten() {
            self.index_table.remove(keypair.local_index());
            keypair.retire();
        }
    }
}
