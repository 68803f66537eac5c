//! What a running engine says about itself.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::clock::UnixTime;
use tombolo_noise::{PresharedKey, PrivateKey, PublicKey, Tai64n};
use tombolo_packet::DropReason;

/// One consistent view of the engine.
pub struct EngineStatus {
    /// The private key, if one is set.
    pub private_key: Option<PrivateKey>,
    /// The public key that belongs to it.
    pub public_key: Option<PublicKey>,
    /// The UDP port the sockets are bound to.
    pub listen_port: u16,
    /// Firewall mark of the datagrams; 0 for none.
    pub firewall_mark: u32,
    /// Peers, in the order in which they were added.
    pub peers: Vec<PeerStatus>,
    /// Packets dropped, by reason.
    pub drops: Vec<(DropReason, u64)>,
    /// What the TUN and the sockets can do, and how often each fell back.
    pub offloads: OffloadStatus,
}

/// Offloads in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadStatus {
    /// Super-packets are read from the TUN.
    pub tun_segmentation: bool,
    /// Super-packets are written to the TUN.
    pub tun_coalescing: bool,
    /// UDP sends several datagrams by one call (`UDP_SEGMENT`).
    pub udp_segmentation: bool,
    /// UDP receives several datagrams by one call (`UDP_GRO`).
    pub udp_coalescing: bool,
}

/// One peer.
pub struct PeerStatus {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The preshared key; all zeros for none.
    pub preshared_key: PresharedKey,
    /// Where the peer was last heard, or is configured to be.
    pub endpoint: Option<SocketAddr>,
    /// The peer's networks, sorted.
    pub allowed_ips: Vec<IpNet>,
    /// When the last handshake was completed.
    pub last_handshake: Option<UnixTime>,
    /// Bytes of whole messages received, handshakes and keepalives included.
    pub received_bytes: u64,
    /// Bytes of whole messages sent, handshakes and keepalives included.
    pub sent_bytes: u64,
    /// Seconds between persistent keepalives, if switched on.
    pub persistent_keepalive: Option<u16>,
    /// Whether packets can flow.
    pub state: PeerState,
    /// The last round trip measured, by a handshake that we began or by a probe.
    pub round_trip: Option<Duration>,
    /// Greatest TAI64N received, to be kept on disk.
    pub last_received_timestamp: Option<Tai64n>,
    /// Greatest TAI64N sent, to be kept on disk.
    pub last_sent_timestamp: Option<Tai64n>,
    /// When anything authenticated last came from the peer: time since, on the boot clock.
    pub last_received_age: Option<Duration>,
}

/// Whether packets can flow to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerState {
    /// No session, and none is being made.
    Idle,
    /// A handshake is under way.
    Connecting,
    /// There is a session.
    Established,
}
