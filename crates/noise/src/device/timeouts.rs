//! What happens when time passes, and what workers report.

use super::{Device, Output};
use crate::activity::{KEEPALIVE_TIMEOUT, NEW_HANDSHAKE_TIMEOUT};
use crate::clock::{Instant, Now};
use crate::link::Event;
use crate::timers::{Timer, jitter};
use rand_core::CryptoRng;
use std::time::Duration;
use tombolo_packet::PeerId;

impl Device {
    /// Takes what a worker reports. Events of peers that are gone are ignored.
    pub fn handle_event(&mut self, event: Event, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let id = event.peer();
        self.promote_if_confirmed(id, now);
        self.serve_move(id);
        self.serve_wish(id, now, rng);
        self.watch_activity(id, rng);
        self.watch_persistent_keepalive(id, now.boot);
        self.update_timers(id);
    }

    /// Does what is due. Costs nothing for peers of which nothing is due.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        while let Some(id) = self.timers.pop_due(now.boot) {
            self.promote_if_confirmed(id, now);
            self.expire_peer_timers(id, now, rng);
            self.watch_activity(id, rng);
            self.update_timers(id);
        }
    }

    fn expire_peer_timers(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        if self.take_due(id, Timer::Provisional, now.boot) {
            return self.drop_provisional(id);
        }
        if self.take_due(id, Timer::ZeroKeys, now.boot) {
            self.erase_keypairs(id);
        }
        if self.take_due(id, Timer::Retransmit, now.boot) {
            self.retransmit(id, now, rng);
        }
        if self.take_due(id, Timer::NewHandshake, now.boot) {
            self.expire_unanswered_send(id, now, rng);
        }
        if self.take_due(id, Timer::Keepalive, now.boot) {
            self.expire_unanswered_receive(id, now, rng);
        }
        if self.take_due(id, Timer::PersistentKeepalive, now.boot) {
            self.expire_persistent_keepalive(id, now, rng);
        }
    }

    /// Requirement 8 (`timers.c` `wg_expired_new_handshake`).
    fn expire_unanswered_send(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer_mut(id) else { return };
        let timer = peer.link.activity.unanswered_send();
        let Some(since) = timer.running_since().filter(|&since| since + NEW_HANDSHAKE_TIMEOUT <= now.boot)
        else {
            return;
        };
        timer.take(since);
        peer.link.forget_any_source();
        self.outputs.push_back(Output::ResolveEndpoint { peer: id });
        self.start_handshake(id, now, rng);
    }

    /// Requirement 7 (`timers.c` `wg_expired_send_keepalive`). What was received until now is answered by this
    /// one message, so that the kernel's second timer has no counterpart.
    fn expire_unanswered_receive(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer_mut(id) else { return };
        let timer = peer.link.activity.unanswered_receive();
        let Some(since) = timer.running_since().filter(|&since| since + KEEPALIVE_TIMEOUT <= now.boot) else {
            return;
        };
        timer.take(since);
        self.send_keepalive(id, now, rng);
    }

    /// Requirement 10.
    fn expire_persistent_keepalive(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer_mut(id) else { return };
        let Some(interval) = peer.persistent_keepalive.map(|seconds| Duration::from_secs(seconds.into()))
        else {
            return;
        };
        let due = peer.link.activity.last_traversal().map_or(now.boot, |last| last + interval);
        if due > now.boot {
            peer.timers.set(Timer::PersistentKeepalive, Some(due));
            return;
        }
        // Not from the last traversal: there may be none for long, without an endpoint.
        peer.timers.set(Timer::PersistentKeepalive, Some(now.boot + interval));
        self.send_keepalive(id, now, rng);
    }

    /// An empty message, or the handshake that it takes (`send.c` `wg_packet_send_keepalive`).
    pub(super) fn send_keepalive(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        if !self.is_ready() {
            return;
        }
        let Some(peer) = self.peer(id).filter(|peer| !peer.is_provisional()) else { return };
        if peer.link.session_keypair(now.boot).is_some() {
            self.outputs.push_back(Output::Keepalive { peer: id });
        } else {
            let _ = peer.link.want_handshake();
            self.start_handshake(id, now, rng);
        }
    }

    /// A worker saw the peer at another address.
    fn serve_move(&mut self, id: PeerId) {
        let Some(peer) = self.peer(id) else { return };
        let other = peer.link.other_source();
        if peer.link.take_moved() {
            self.outputs.push_back(Output::EndpointMoved { peer: id });
        }
        let Some(other) = other else { return };
        if let Some(peer) = self.peer_mut(id)
            && !std::mem::replace(&mut peer.past_mut().told_of_other_source, true)
        {
            self.outputs.push_back(Output::KeyInTwoPlaces { peer: id, other });
        }
    }

    /// A worker raised the flag on the link.
    fn serve_wish(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let ready = self.is_ready();
        let Some(peer) = self.peer(id) else { return };
        if !peer.link.is_handshake_wanted() || !ready {
            return;
        }
        match peer.link.session_keypair(now.boot) {
            // The wish is from before this session. Lowered first, then flushed: nothing is forgotten.
            Some(keypair) if !keypair.is_due_on_send(now.boot) => {
                peer.link.clear_handshake_wanted();
                self.outputs.push_back(Output::FlushStaged { peer: id });
            }
            _ => self.start_handshake(id, now, rng),
        }
    }

    /// Sets timers for what workers have started. A timer that is set stays as it is: it fires no later
    /// than what was started since, and then looks again.
    fn watch_activity(&mut self, id: PeerId, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer_mut(id).filter(|peer| !peer.is_provisional()) else { return };
        if peer.timers.deadline(Timer::NewHandshake).is_none() {
            let since = peer.link.activity.unanswered_send().watch();
            let deadline = since.map(|since| since + NEW_HANDSHAKE_TIMEOUT + jitter(rng));
            peer.timers.set(Timer::NewHandshake, deadline);
        }
        if peer.timers.deadline(Timer::Keepalive).is_none() {
            let since = peer.link.activity.unanswered_receive().watch();
            peer.timers.set(Timer::Keepalive, since.map(|since| since + KEEPALIVE_TIMEOUT));
        }
    }

    /// Sets the persistent keepalive unless it is set. Traffic moves it only when it fires (requirement 10).
    pub(super) fn watch_persistent_keepalive(&mut self, id: PeerId, now: Instant) {
        if !self.is_ready() {
            return;
        }
        let Some(peer) = self.peer_mut(id) else { return };
        if let Some(seconds) = peer.persistent_keepalive
            && peer.timers.deadline(Timer::PersistentKeepalive).is_none()
        {
            let deadline = now + Duration::from_secs(seconds.into());
            peer.timers.set(Timer::PersistentKeepalive, Some(deadline));
        }
    }

    fn take_due(&mut self, id: PeerId, timer: Timer, now: Instant) -> bool {
        self.peer_mut(id).is_some_and(|peer| peer.timers.take_due(timer, now))
    }
}
