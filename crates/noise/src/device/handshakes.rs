//! Handshakes that we begin: when, how often, and when to give up.

use super::{Device, HANDSHAKE_TRAFFIC_CLASS, MAX_UNVERIFIED_ATTEMPTS, Output};
use crate::clock::Now;
use crate::handshake::create_initiation;
use crate::peer::MAX_WAYS;
use crate::standing::Standing;
use crate::tai64n::Tai64n;
use crate::timers::{MAX_HANDSHAKE_ATTEMPTS, REKEY_TIMEOUT, Timer, ZERO_KEYS_AFTER_TIME, jitter};
use arrayvec::ArrayVec;
use rand_core::CryptoRng;
use std::sync::Arc;
use tombolo_packet::{Endpoint, PeerId};

impl Device {
    /// A handshake is wanted, now: by a packet, by a timer or by the shell (`send.c`
    /// `wg_packet_send_queued_handshake_initiation`, not a retry). The attempts count anew from here (requirement 6).
    /// While we are not ready, the flag on the link keeps the wish.
    pub(super) fn start_handshake(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        if !self.is_ready() {
            return;
        }
        // Control rule 8: with a provisional peer we begin nothing.
        let Some(peer) = self.peer_mut(id).filter(|peer| !peer.is_provisional()) else { return };
        let past = peer.past_mut();
        past.attempts = 0;
        past.resent_for_cookie = false;
        // Requirement 5: one initiation in Rekey-Timeout at most, and none shortly after a response of ours, which the peer is
        // about to confirm. The kernel forgets such a wish; here it is put off.
        match peer
            .past()
            .last_handshake_sent
            .map(|sent| sent + REKEY_TIMEOUT)
            .filter(|&earliest| earliest > now.boot)
        {
            Some(earliest) => {
                if peer.timers.deadline(Timer::Retransmit).is_none() {
                    peer.timers.set(Timer::Retransmit, Some(earliest + jitter(rng)));
                }
            }
            None => self.send_initiation(id, now, rng),
        }
    }

    /// The retransmission timer fired (`timers.c` `wg_expired_retransmit_handshake`).
    pub(super) fn retransmit(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let ready = self.is_ready();
        let Some(peer) = self.peer_mut(id) else { return };
        // From here a packet that finds no key asks anew, and so keeps the attempts going (requirement 6).
        peer.link.clear_handshake_wanted();
        if !ready {
            return;
        }
        let max_attempts = match peer.link.standing() {
            Standing::Unverified => MAX_UNVERIFIED_ATTEMPTS,
            _ => MAX_HANDSHAKE_ATTEMPTS,
        };
        if peer.past().attempts >= max_attempts {
            return self.give_up(id, now);
        }
        peer.past_mut().resent_for_cookie = false;
        if peer.pending.is_some() {
            // Requirement 20: perhaps it is our side of the path that does not work.
            peer.link.forget_any_source();
            self.outputs.push_back(Output::ResolveEndpoint { peer: id });
        }
        let Some(peer) = self.peer_mut(id) else { return };
        match peer
            .past()
            .last_handshake_sent
            .map(|sent| sent + REKEY_TIMEOUT)
            .filter(|&earliest| earliest > now.boot)
        {
            // A response of ours went out in between.
            Some(earliest) => peer.timers.set(Timer::Retransmit, Some(earliest + jitter(rng))),
            None => self.send_initiation(id, now, rng),
        }
    }

    /// A cookie has come for the initiation under way. Who is no static peer asks everybody for one, and so is given the message again at once, once for
    /// each attempt (control rule 8).
    pub(super) fn resend_for_cookie(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer_mut(id) else { return };
        if peer.is_static() || peer.pending.is_none() || peer.past().resent_for_cookie {
            return;
        }
        let past = peer.past_mut();
        past.resent_for_cookie = true;
        past.attempts = past.attempts.saturating_sub(1);
        self.send_initiation(id, now, rng);
        self.update_timers(id);
    }

    /// Sends an initiation and waits for its response. An attempt that cannot be sent, for want of an
    /// endpoint or because the peer's key is of low order (requirement 24), counts as one that was not answered.
    fn send_initiation(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        self.drop_pending(id);
        let deadline = now.boot + REKEY_TIMEOUT + jitter(rng);
        let index = self.unused_index(id, rng);
        let identity = self.identity.clone();
        let wall = self.sending_time(now);
        let Some(peer) = self.peer_mut(id) else { return };
        let past = peer.past_mut();
        past.attempts = past.attempts.saturating_add(1);
        peer.timers.set(Timer::Retransmit, Some(deadline));
        let Some(destination) = peer.link.endpoint() else {
            self.outputs.push_back(Output::ResolveEndpoint { peer: id });
            return;
        };
        let (Some(identity), Some(remote)) = (identity, &peer.remote) else { return };
        // Requirement 11: greater than every one before, also when the clock was set back.
        let timestamp = Tai64n::from_unix(wall).max(peer.past().last_sent_timestamp.next_after());
        let Some((initiator, mut message)) = create_initiation(&identity, remote, timestamp, index, rng)
        else {
            return;
        };
        peer.cookie_jar.write_macs(&mut message, remote, now.boot);
        peer.past_mut().last_sent_timestamp = timestamp;
        peer.past_mut().last_handshake_sent = Some(now.boot);
        peer.pending = Some(initiator);
        peer.link.note_handshake_sent(now.boot, message.len());
        self.pending.insert(index, id);
        self.watch_persistent_keepalive(id, now.boot);
        // First, so that a shell that writes it down does so before the message is on its way.
        self.outputs.push_back(Output::TimestampAdvanced { peer: id });
        self.push_datagram(Some(id), destination, &message);
        let Some(peer) = self.peer_mut(id) else { return };
        peer.past_mut().initiation = Some(Box::new(message));
        let ways = peer.past().ways.clone();
        self.copy_initiation(
            id,
            &message,
            ways.into_iter().filter(|way| way.remote != destination.remote),
            now,
        );
    }

    /// Begins a handshake by several ways at once: copies of one initiation go by all of them, and by the endpoint's if there is one. While an
    /// initiation is under way, it is that one that goes by them once more: a firewall may have opened meanwhile, or a relay been allowed
    /// to. How often is the caller's concern. The way by which the first response comes is the peer's
    /// endpoint from then on. Of more than 12 ways the last are left out.
    pub fn initiate_by(
        &mut self,
        id: PeerId,
        ways: impl IntoIterator<Item = Endpoint>,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) {
        let Some(peer) = self.peer_mut(id).filter(|peer| !peer.is_provisional()) else { return };
        let mut given = ArrayVec::<Endpoint, MAX_WAYS>::new();
        let known = &mut peer.past_mut().ways;
        for way in ways {
            if given.iter().any(|given| given.remote == way.remote) {
                continue;
            }
            if known.iter().all(|known| known.remote != way.remote) {
                if known.len() == MAX_WAYS {
                    continue;
                }
                known.push(way);
            }
            // It has room for all that are known.
            let _ = given.try_push(way);
        }
        if peer.link.endpoint().is_none() {
            peer.link.set_endpoint(peer.past().ways.first().copied());
        }
        let under_way = peer.pending.is_some().then(|| peer.past().initiation.clone()).flatten();
        match under_way {
            Some(message) => self.copy_initiation(id, &message[..], given, now),
            None => self.initiate(id, now, rng),
        }
        self.update_timers(id);
    }

    fn copy_initiation(
        &mut self,
        id: PeerId,
        message: &[u8],
        ways: impl IntoIterator<Item = Endpoint>,
        now: Now,
    ) {
        for way in ways {
            if let Some(peer) = self.peer(id) {
                peer.link.note_handshake_sent(now.boot, message.len());
            }
            self.push_datagram(Some(id), way, message);
        }
    }

    /// After Rekey-Attempt-Time (requirement 6). A later packet starts anew.
    fn give_up(&mut self, id: PeerId, now: Now) {
        self.drop_pending(id);
        let Some(peer) = self.peer_mut(id) else { return };
        let link = Arc::clone(&peer.link);
        let past = peer.past_mut();
        past.attempts = 0;
        past.ways = Vec::new();
        past.initiation = None;
        peer.timers.set(Timer::Retransmit, None);
        // A keepalive would only ask for the next handshake (`timers.c`).
        link.activity.unanswered_receive().stop();
        if peer.timers.deadline(Timer::ZeroKeys).is_none() {
            peer.timers.set(Timer::ZeroKeys, Some(now.boot + ZERO_KEYS_AFTER_TIME));
        }
        self.outputs.push_back(Output::DropStaged { peer: id });
    }

    pub(super) fn push_datagram(&mut self, peer: Option<PeerId>, destination: Endpoint, message: &[u8]) {
        // Handshake messages are no longer than the initiation; a longer one would be a mistake of ours.
        let contents = ArrayVec::try_from(message).unwrap_or_default();
        self.outputs.push_back(Output::Datagram {
            peer,
            destination,
            contents,
            traffic_class: HANDSHAKE_TRAFFIC_CLASS,
        });
    }
}
