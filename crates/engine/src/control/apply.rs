//! Transactions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ipnet::IpNet;
use rand_core::CryptoRng;
use tombolo_noise::clock::Now;
use tombolo_noise::{AddPeerError, Standing};
use tombolo_packet::{Endpoint, PeerId};

use super::path_mtu::PathRecord;
use super::{Control, PeerRecord};
use crate::options::SocketBinder;
use crate::shared::Peer;
use crate::transaction::{AllowedIpChange, ApplyError, MemberChange, PeerChange, Transaction};

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    /// What can fail comes first, so that a failure leaves everything as it was.
    pub(super) fn apply(&mut self, transaction: Transaction, now: Now) -> Result<(), ApplyError> {
        self.set_mark(transaction.firewall_mark)?;
        self.set_port(transaction.listen_port)?;
        if let Some(private_key) = transaction.private_key {
            self.device.set_private_key(private_key, now, &mut self.random);
            self.forget_removed_peers();
            self.update_ready();
        }
        if transaction.replace_peers {
            let kept: Vec<PeerId> = transaction
                .peers
                .iter()
                .filter(|change| !change.remove)
                .filter_map(|change| self.device.peer_by_key(&change.public_key))
                .collect();
            let is_static = |record: &PeerRecord| record.peer.link.standing() == Standing::Static;
            let removed: Vec<PeerId> = self
                .peers
                .iter()
                .filter(|(id, record)| !kept.contains(id) && is_static(record))
                .map(|(&id, _)| id)
                .collect();
            for id in removed {
                self.remove_peer(id);
            }
        }
        for change in transaction.peers {
            self.change_peer(change, now);
        }
        // Before whoever asked is answered.
        self.show_workers();
        Ok(())
    }

    fn set_mark(&mut self, mark: Option<u32>) -> Result<(), ApplyError> {
        let Some(mark) = mark else { return Ok(()) };
        let sockets = self.shared.sockets.load();
        for socket in sockets.all() {
            socket.set_mark(mark).map_err(|source| ApplyError::Mark { mark, source })?;
        }
        self.firewall_mark = mark;
        Ok(())
    }

    fn set_port(&mut self, port: Option<u16>) -> Result<(), ApplyError> {
        let Some(port) = port else { return Ok(()) };
        if port != 0 && port == self.shared.sockets.load().port {
            return Ok(());
        }
        let sockets = self
            .binder
            .bind(port, self.firewall_mark, self.steering)
            .map_err(|source| ApplyError::Bind { port, source })?;
        self.shared.sockets.store(Arc::new(sockets));
        self.shared.wake_workers();
        Ok(())
    }

    pub(super) fn change_peer(&mut self, change: PeerChange, now: Now) {
        let known = self.device.peer_by_key(&change.public_key);
        if change.remove {
            if let Some(id) = known {
                self.remove_peer(id);
            }
            return;
        }
        if known.is_none() && change.update_only {
            return;
        }
        let Some(id) = self.peer_for(&change, known) else { return };
        if let Some(preshared_key) = change.preshared_key {
            self.device.set_preshared_key(id, preshared_key);
        }
        if let Some(timestamp) = change.last_received_timestamp {
            self.device.set_last_timestamp(id, timestamp);
        }
        if let Some(timestamp) = change.last_sent_timestamp {
            self.device.set_last_sent_timestamp(id, timestamp);
        }
        if let Some(endpoint) = change.endpoint {
            self.device.set_endpoint(id, Some(Endpoint::new(endpoint)), now, &mut self.random);
        }
        self.change_routes(id, change.replace_allowed_ips, &change.allowed_ips);
        if let Some(seconds) = change.persistent_keepalive {
            let interval = (seconds != 0).then_some(seconds);
            self.device.set_persistent_keepalive(id, interval, now, &mut self.random);
        }
        if let Some(bits_per_second) = change.rate_limit
            && let Some(record) = self.peers.get(&id)
        {
            record.peer.rate_limit.set(bits_per_second);
        }
        // Last, so that what waits finds its routes.
        if let Some(MemberChange::Verified { not_after }) = change.member {
            self.device.promote(id, not_after, now);
        }
        if let (Some(tombolo), Some(record)) = (change.tombolo, self.peers.get_mut(&id)) {
            record.set_tombolo(tombolo);
        }
        if let (Some(relay), Some(record)) = (change.relay, self.peers.get(&id))
            && record.peer.relay.swap(relay, Ordering::Relaxed) != relay
            && !relay
        {
            self.forget_relay(id);
        }
        if let (Some(forward), Some(record)) = (change.forward, self.peers.get(&id)) {
            record.peer.forward.store(forward, Ordering::Relaxed);
        }
        self.go_on_with_path(id, now);
        let connected = || self.device.link(id).is_some_and(|link| link.session_keypair(now.boot).is_some());
        if change.initiate || (change.call && !connected()) {
            self.device.initiate(id, now, &mut self.random);
        }
    }

    /// Members are told again, with each handshake, what they have: that is no change for workers.
    fn change_routes(&mut self, id: PeerId, replace: bool, changes: &[AllowedIpChange]) {
        let held: BTreeSet<IpNet> = self.routes.peer_networks(id).collect();
        let mut wanted = if replace { BTreeSet::new() } else { held.clone() };
        for change in changes {
            let network = change.network.trunc();
            if change.remove {
                wanted.remove(&network);
            } else {
                wanted.insert(network);
            }
        }
        for &network in held.difference(&wanted) {
            self.routes.remove(network, id);
            self.publish();
        }
        for &network in wanted.difference(&held) {
            self.routes.insert(network, id);
            self.publish();
        }
    }

    /// The peer that a change is about, added or changed in standing as the change says. `None`: our own key, which is no peer
    /// (requirement 25).
    fn peer_for(&mut self, change: &PeerChange, known: Option<PeerId>) -> Option<PeerId> {
        let added = match change.member {
            Some(_) => self.device.add_unverified_peer(change.public_key),
            None if change.update_only => return known,
            None => self.device.add_peer(change.public_key),
        };
        let id = match added {
            Ok(id) | Err(AddPeerError::Known(id)) => id,
            Err(_) => return None,
        };
        if !self.peers.contains_key(&id) {
            self.add_record(id);
        }
        Some(id)
    }

    /// What workers and the status need of a peer of the device.
    pub(super) fn add_record(&mut self, id: PeerId) {
        let Some(link) = self.device.link(id) else { return };
        let peer = Peer::new(Arc::clone(link));
        // Whoever is, or wants to be, a member speaks in frames; of static peers the configuration says.
        peer.frames.set_open(link.standing() != Standing::Static);
        let record = PeerRecord {
            peer: Arc::new(peer),
            initiation_sent: None,
            round_trip: None,
            path: PathRecord::new(),
            order: self.next_order,
        };
        self.next_order += 1;
        self.peers.insert(id, Box::new(record));
        self.publish();
    }

    fn remove_peer(&mut self, id: PeerId) {
        self.device.remove_peer(id);
        self.forget_peer(id);
    }

    pub(super) fn forget_peer(&mut self, id: PeerId) {
        self.publish();
        self.routes.remove_peer(id);
        if let Some(mut record) = self.peers.remove(&id) {
            self.paths.forget(id, &mut record.path);
            record.peer.staging.clear(&self.shared.staging_budget);
            if record.peer.is_relay() {
                self.forget_relay(id);
            }
            record.peer.held.clear(&self.shared.held_budget, &self.shared.drops);
        }
    }

    /// A new private key removes the peer whose key it makes our own (requirement 25).
    fn forget_removed_peers(&mut self) {
        let gone: Vec<PeerId> =
            self.peers.keys().copied().filter(|&id| self.device.link(id).is_none()).collect();
        for id in gone {
            self.forget_peer(id);
        }
    }
}
