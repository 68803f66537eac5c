//! Relays: paths by way of them, and what this machine brings from one to another (control rule 14).

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Now;
use tombolo_packet::{DropReason, Endpoint, PeerId};

use super::Control;
use crate::clock;
use crate::options::{EngineEvent, Path, SocketBinder};
use crate::relay::{RELAY_OVERHEAD, RelayPermissions, RelayTable, Via};

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    /// Sessions stay as they are. `false`: there is no such peer, or no such relay, or it is reached by one itself. A relay may be
    /// reached by another, and brings nothing then: relays do not nest.
    pub(super) fn set_path(&mut self, key: &PublicKey, path: Path, now: Now) -> bool {
        let endpoint = self.endpoint_of(key, path);
        let Some((id, endpoint)) = self.device.peer_by_key(key).zip(endpoint) else { return false };
        self.device.set_endpoint(id, Some(endpoint), now, &mut self.random);
        self.go_on_with_path(id, now);
        true
    }

    /// `false`: there is no such peer.
    pub(super) fn handshake(&mut self, key: &PublicKey, paths: &[Path], now: Now) -> bool {
        let Some(id) = self.device.peer_by_key(key) else { return false };
        let ways: Vec<Endpoint> = paths.iter().filter_map(|path| self.endpoint_of(key, *path)).collect();
        self.device.initiate_by(id, ways, now, &mut self.random);
        true
    }

    /// A path as an endpoint of the peer with this key; `None`: it is none.
    pub(super) fn endpoint_of(&self, key: &PublicKey, path: Path) -> Option<Endpoint> {
        match path {
            Path::Direct(remote) => Some(Endpoint::new(remote)).filter(|endpoint| !endpoint.is_relayed()),
            Path::Relayed { relay, node } => self.relay_endpoint(&relay, node).filter(|_| relay != *key),
        }
    }

    fn relay_endpoint(&self, relay: &PublicKey, node: [u8; 16]) -> Option<Endpoint> {
        let id = self.device.peer_by_key(relay)?;
        let peer = &self.peers.get(&id)?.peer;
        let nested = peer.link.endpoint().is_some_and(|endpoint| endpoint.is_relayed());
        (peer.is_relay() && !nested).then(|| Endpoint::relayed(id, node))
    }

    /// An endpoint as the owner knows it.
    pub(super) fn path_of(&self, endpoint: Endpoint) -> Option<Path> {
        match endpoint.relay() {
            None => Some(Path::Direct(endpoint.remote)),
            Some((relay, node)) => {
                let relay = *self.device.link(relay)?.public_key();
                Some(Path::Relayed { relay, node })
            }
        }
    }

    /// Who was reached by a peer that is gone is nowhere until the owner says where.
    pub(super) fn forget_relay(&mut self, relay: PeerId) {
        let by_it = |endpoint: Endpoint| endpoint.relay().is_some_and(|(by, _)| by == relay);
        let stranded: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, record)| record.peer.link.endpoint().is_some_and(by_it))
            .map(|(&id, _)| id)
            .collect();
        for id in stranded {
            self.device.set_endpoint(id, None, clock::now(), &mut self.random);
        }
    }

    pub(super) fn set_relay(&self, permissions: Option<RelayPermissions>) {
        let relays = &self.shared.relays;
        let former = relays.table.load_full();
        relays.set(permissions.map(|permissions| {
            RelayTable::new(permissions, former.as_deref(), |key| self.device.peer_by_key(key))
        }));
    }

    /// Pairs that workers have no grant for. `false`: there were none.
    pub(super) fn poll_relays(&mut self) -> bool {
        let wanted = self.shared.relays.take_wanted();
        for &(source, destination) in &wanted {
            self.news.push(EngineEvent::RelayWanted { source, destination });
        }
        !wanted.is_empty()
    }

    /// Pairs that talk through this gateway. `false`: none has begun to.
    pub(super) fn poll_gateway(&mut self) -> bool {
        let mut worked = false;
        while let Some((source, destination)) = self.shared.gateway.next_news() {
            worked = true;
            let key = |id| self.device.link(id).map(|link| *link.public_key());
            if let (Some(source), Some(destination)) = (key(source), key(destination)) {
                self.news.push(EngineEvent::Forwarded { source, destination });
            }
        }
        worked
    }

    /// Sends a message by way of a relay.
    ///
    /// # Errors
    /// Why it was not.
    pub(super) fn send_by_relay(
        &mut self,
        destination: &Endpoint,
        contents: &[u8],
        traffic_class: u8,
    ) -> Result<(), DropReason> {
        let (now, shared) = (clock::boot(), &self.shared);
        let snapshot = shared.snapshot.load();
        let mut via = Via::of(destination, &snapshot, shared, now)?.ok_or(DropReason::RelayUnreachable)?;
        let len = via.wrapped_len(contents.len());
        let sockets = shared.sockets.load();
        self.batch.flush(&sockets, shared);
        self.batch.grow(len);
        let message = self.batch.room(len).ok_or(DropReason::PacketTooBig)?;
        via.datagram(message, contents.len()).copy_from_slice(contents);
        via.commit(&mut self.batch, contents.len(), traffic_class)?;
        via.finish(shared, now);
        self.batch.flush(&sockets, shared);
        Ok(())
    }

    /// Largest inner packet in bytes to a peer that is reached by `relay`.
    pub(super) fn relayed_limit(&self, relay: PeerId) -> Option<u16> {
        let limit = self.peers.get(&relay)?.peer.path.limit().min(self.shared.mtu());
        u16::try_from(limit.saturating_sub(RELAY_OVERHEAD)).ok()
    }
}
