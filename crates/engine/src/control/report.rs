//! Status.

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;
use tombolo_noise::{SessionState, Standing};
use tombolo_packet::PeerId;

use super::{Control, PeerRecord};
use crate::offload;
use crate::options::SocketBinder;
use crate::status::{EngineStatus, PeerState, PeerStatus};

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    pub(super) fn status(&self, now: Now) -> EngineStatus {
        let mut records: Vec<(&PeerId, &Box<PeerRecord>)> = self.peers.iter().collect();
        records.sort_by_key(|(_, record)| record.order);
        EngineStatus {
            private_key: self.device.private_key().cloned(),
            public_key: self.device.public_key(),
            listen_port: self.shared.sockets.load().port,
            firewall_mark: self.firewall_mark,
            peers: records
                .into_iter()
                .filter_map(|(id, record)| self.peer_status(*id, record, now))
                .collect(),
            drops: self.shared.drops.iter().collect(),
            offloads: offload::status(&self.shared.tun_offloads, &self.shared.sockets.load()),
            assist: self.shared.assisted.status(),
        }
    }

    fn peer_status(&self, id: PeerId, record: &PeerRecord, now: Now) -> Option<PeerStatus> {
        let status = self.device.peer_status(id, now)?;
        let link = &record.peer.link;
        let endpoint = link.endpoint();
        let (mtu, mtu_state) = self.path_status(record);
        Some(PeerStatus {
            public_key: *link.public_key(),
            preshared_key: status.preshared_key,
            endpoint: endpoint.filter(|endpoint| !endpoint.is_relayed()).map(|endpoint| endpoint.remote),
            path: endpoint.and_then(|endpoint| self.path_of(endpoint)),
            standing: status.standing,
            not_after: (status.standing == Standing::Member).then(|| link.packets_until()),
            allowed_ips: self.routes.peer_networks(id).collect(),
            last_handshake: status.last_handshake,
            received_bytes: link.received_bytes(),
            sent_bytes: link.sent_bytes(),
            persistent_keepalive: status.persistent_keepalive,
            rate_limit: record.peer.rate_limit.get(),
            state: match status.state {
                SessionState::Idle => PeerState::Idle,
                SessionState::Connecting => PeerState::Connecting,
                SessionState::Established => PeerState::Established,
            },
            round_trip: record.round_trip,
            last_received_timestamp: status.last_received_timestamp,
            last_sent_timestamp: status.last_sent_timestamp,
            mtu,
            mtu_state,
            last_received_age: status.last_received_age,
        })
    }
}
