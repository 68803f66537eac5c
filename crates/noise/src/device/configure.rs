//! What the shell sets: the private key, peers, and whether the link is up.

use super::{Device, Output};
use crate::clock::{Instant, Now};
use crate::keys::{PresharedKey, PrivateKey, PublicKey, RemoteStatic, StaticIdentity};
use crate::peer::Peer;
use crate::standing::Standing;
use crate::tai64n::Tai64n;
use crate::timers::Timer;
use rand_core::CryptoRng;
use std::sync::Arc;
use std::time::Duration;
use tombolo_packet::{Endpoint, PeerId, Steering};

/// Why a peer was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddPeerError {
    /// It is our own key (requirement 25).
    #[error("the public key is our own")]
    OwnKey,
    /// There is a peer with this key already.
    #[error("there is a peer with this public key already")]
    Known(PeerId),
    /// There are 2^32 peers.
    #[error("there are too many peers")]
    TooMany,
}

impl Device {
    /// Changes or removes the private key; the same key once more changes nothing.
    ///
    /// All sessions end, and handshakes start at once with peers that had one, were getting one, have
    /// packets staged or a persistent keepalive (requirements 10 and 25). Costs one X25519 for each peer. Returns the peer that was
    /// removed because its key is now our own (requirement 25).
    pub fn set_private_key(
        &mut self,
        private_key: Option<PrivateKey>,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Option<PeerId> {
        let identity = private_key.map(|private_key| Arc::new(StaticIdentity::new(private_key)));
        if identity.as_deref().map(StaticIdentity::public_key)
            == self.identity.as_deref().map(StaticIdentity::public_key)
        {
            return None;
        }
        self.drop_provisional_peers();
        let own = identity.as_deref().and_then(|identity| self.peer_by_key(identity.public_key()));
        if let Some(own) = own {
            self.remove_peer(own);
        }
        self.identity = identity;
        for id in self.peer_ids() {
            let identity = self.identity.clone();
            let wanted = self.is_session_wanted(id);
            self.end_sessions(id);
            let Some(peer) = self.peer_mut(id) else { continue };
            peer.cookie_jar.clear();
            peer.remote =
                identity.as_deref().map(|identity| RemoteStatic::new(identity, *peer.link.public_key()));
            self.watch_persistent_keepalive(id, now.boot);
            let Some(peer) = self.peer_mut(id) else { continue };
            if wanted {
                // Without a key this only remembers that a session is wanted.
                let _ = peer.link.want_handshake();
                self.start_handshake(id, now, rng);
            }
            self.update_timers(id);
        }
        own
    }

    /// Adds a static peer. A key of low order is accepted, and never answered (requirement 24). A peer of that key that is
    /// there by membership becomes a static one, whose sessions begin anew (control rule 9).
    ///
    /// # Errors
    /// See [`AddPeerError`].
    pub fn add_peer(&mut self, public_key: PublicKey) -> Result<PeerId, AddPeerError> {
        match self.peer_by_key(&public_key) {
            Some(known) if self.make_static(known) => Ok(known),
            _ => self.add_peer_of_standing(public_key, Standing::Static),
        }
    }

    pub(super) fn add_peer_of_standing(
        &mut self,
        public_key: PublicKey,
        standing: Standing,
    ) -> Result<PeerId, AddPeerError> {
        if self.public_key() == Some(public_key) {
            return Err(AddPeerError::OwnKey);
        }
        if let Some(&known) = self.by_key.get(&public_key) {
            return Err(AddPeerError::Known(known));
        }
        let id = match self.free_slots.pop() {
            Some(id) => id,
            None => {
                let slot = u32::try_from(self.peers.len()).map_err(|_| AddPeerError::TooMany)?;
                self.peers.push(None);
                PeerId(slot)
            }
        };
        let remote = self.identity.as_deref().map(|identity| RemoteStatic::new(identity, public_key));
        let mut peer = Peer::new(id, public_key, remote, standing);
        let membership = self.membership.as_mut();
        if let Some(last) = membership.and_then(|membership| membership.remembered.remove(&public_key)) {
            peer.past_mut().last_received_timestamp = last;
        }
        self.peers[id.0 as usize] = Some(Box::new(peer));
        self.by_key.insert(public_key, id);
        Ok(id)
    }

    /// Removes a peer with its keys, timers and outputs. The slot is used again.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.end_sessions(id);
        self.release_provisional(id);
        let Some(peer) = self.peers.get_mut(id.0 as usize).and_then(Option::take) else { return };
        peer.link.remove();
        let last = peer.past().last_received_timestamp;
        if let Some(membership) = self.membership.as_mut().filter(|_| last != Tai64n::NEVER) {
            membership.remember(*peer.link.public_key(), last);
        }
        if let Some(known) = peer.known_source.as_deref().copied() {
            self.sources.remove(known);
        }
        self.timers.remove(id, &peer.timers);
        self.by_key.remove(peer.link.public_key());
        self.outputs.retain(|output| output.peer() != Some(id));
        self.free_slots.push(id);
    }

    /// Sets the preshared key of handshakes to come (§5.2); zeros for none. Of a peer that is no static one, a session
    /// that was made without the new preshared key ends, and it is provisional no more (control rule 9).
    pub fn set_preshared_key(&mut self, id: PeerId, preshared_key: PresharedKey) {
        let Some(peer) = self.peer_mut(id) else { return };
        let changed = peer.preshared_key != preshared_key;
        peer.preshared_key = preshared_key;
        if !changed || peer.is_static() {
            return;
        }
        let was_provisional = peer.is_provisional();
        self.end_sessions(id);
        if was_provisional {
            self.set_standing(id, Standing::Unverified, Instant::default());
        }
        self.update_timers(id);
    }

    /// Sets the seconds between persistent keepalives; zero and `None` switch them off. Switching them on
    /// sends one at once (requirement 10; `netlink.c`).
    pub fn set_persistent_keepalive(
        &mut self,
        id: PeerId,
        seconds: Option<u16>,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) {
        let seconds = seconds.filter(|&seconds| seconds != 0);
        let Some(peer) = self.peer_mut(id) else { return };
        let was_off = peer.persistent_keepalive.is_none();
        peer.persistent_keepalive = seconds;
        peer.timers.set(Timer::PersistentKeepalive, None);
        self.watch_persistent_keepalive(id, now.boot);
        if was_off && seconds.is_some() {
            self.send_keepalive(id, now, rng);
        }
        self.update_timers(id);
    }

    /// Sets or forgets where the peer is. A handshake that waits for that goes out at once.
    pub fn set_endpoint(
        &mut self,
        id: PeerId,
        endpoint: Option<Endpoint>,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) {
        let Some(peer) = self.peer_mut(id) else { return };
        peer.link.set_endpoint(endpoint);
        let waits = peer.timers.deadline(Timer::Retransmit).is_some() && peer.pending.is_none();
        if endpoint.is_some() && waits {
            self.start_handshake(id, now, rng);
        }
        self.update_timers(id);
    }

    /// Raises the greatest timestamp received from the peer to what was kept on disk (requirement 11).
    pub fn set_last_timestamp(&mut self, id: PeerId, timestamp: Tai64n) {
        if let Some(peer) = self.peer_mut(id) {
            let past = peer.past_mut();
            past.last_received_timestamp = past.last_received_timestamp.max(timestamp);
        }
    }

    /// Raises the greatest timestamp sent to the peer to what was kept on disk: what is sent next is
    /// greater, whatever the clock says (requirement 11).
    pub fn set_last_sent_timestamp(&mut self, id: PeerId, timestamp: Tai64n) {
        if let Some(peer) = self.peer_mut(id) {
            let past = peer.past_mut();
            past.last_sent_timestamp = past.last_sent_timestamp.max(timestamp);
        }
    }

    /// How far ahead of our wall clock the timestamp of an initiation may be; what is further ahead is
    /// refused, so that a peer whose clock was wrong once is not locked out later (requirement 11, CVE-2021-46873).
    /// `None`, the default, sets no bound, as stock WireGuard: our own clock may be the wrong one. For all but static peers there is a bound of
    /// 15 minutes in any case ([`MEMBER_MAX_TIMESTAMP_AHEAD`](crate::MEMBER_MAX_TIMESTAMP_AHEAD)).
    pub fn set_max_timestamp_ahead(&mut self, bound: Option<Duration>) {
        self.max_timestamp_ahead = bound;
    }

    /// Chooses receiver indices from now on such that all sessions of a peer are steered to one socket.
    pub fn set_steering(&mut self, steering: Steering) {
        self.steering = Some(steering);
    }

    /// Says whether the link is up. While it is down nothing is sent and nothing received, and there are no keys
    /// (requirement 10; `device.c` `wg_stop`). When it comes up, persistent keepalives fire, and handshakes
    /// start for what was staged.
    pub fn set_link_up(&mut self, up: bool, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        if self.link_up == up {
            return;
        }
        self.link_up = up;
        self.drop_provisional_peers();
        for id in self.peer_ids() {
            if up {
                self.resume_peer(id, now, rng);
            } else {
                self.end_sessions(id);
                if let Some(peer) = self.peer_mut(id) {
                    peer.link.clear_handshake_wanted();
                }
                self.outputs.push_back(Output::DropStaged { peer: id });
            }
            self.update_timers(id);
        }
    }

    /// Forces a handshake with the peer, as after a restart, when it may still hold old keys. Not with a provisional one
    /// (control rule 8).
    pub fn initiate(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        if let Some(peer) = self.peer_mut(id) {
            let _ = peer.link.want_handshake();
            self.start_handshake(id, now, rng);
            self.update_timers(id);
        }
    }

    /// Ends all sessions, and starts handshakes with the peers that had one. To be called when the machine was
    /// suspended, or a snapshot of it resumed: a counter used twice under one key would be fatal (requirement 9).
    /// Provisional peers go. To be called as well when the generation id of the virtual machine has changed (control rule 19).
    pub fn expire_all(&mut self, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        self.drop_provisional_peers();
        for id in self.peer_ids() {
            let wanted = self.is_session_wanted(id);
            self.end_sessions(id);
            if wanted {
                self.initiate(id, now, rng);
            }
            self.update_timers(id);
        }
    }

    /// The link came up: `device.c` `wg_open`.
    fn resume_peer(&mut self, id: PeerId, now: Now, rng: &mut (impl CryptoRng + ?Sized)) {
        let Some(peer) = self.peer(id) else { return };
        if peer.persistent_keepalive.is_some() {
            self.watch_persistent_keepalive(id, now.boot);
            self.send_keepalive(id, now, rng);
        } else if peer.link.is_handshake_wanted() {
            self.start_handshake(id, now, rng);
        }
    }

    fn is_session_wanted(&self, id: PeerId) -> bool {
        self.peer(id).is_some_and(|peer| {
            peer.keypairs.current.is_some()
                || peer.keypairs.next.is_some()
                || peer.timers.deadline(Timer::Retransmit).is_some()
                || peer.link.is_handshake_wanted()
                || peer.persistent_keepalive.is_some()
        })
    }
}
