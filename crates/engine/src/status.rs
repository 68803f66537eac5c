//! What a running engine says about itself.

use std::net::SocketAddr;
use std::time::Duration;

use crate::assist::AssistStatus;
use crate::options::Path;
use ipnet::IpNet;
use tombolo_noise::clock::{Instant, UnixTime};
use tombolo_noise::{PresharedKey, PrivateKey, PublicKey, Standing, Tai64n};
use tombolo_packet::{DropReason, Offload, OffloadState};
use tombolo_udp::{Capabilities, FallbackCounters};

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
    /// What the TUN and the sockets can do, and what each had to do without.
    pub offloads: OffloadStatus,
    /// What idle data threads did for busy ones.
    pub assist: AssistStatus,
}

/// Offloads and sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffloadStatus {
    /// Each offload of the TUN and of each socket.
    pub offloads: Vec<OffloadReport>,
    /// The sockets.
    pub sockets: Vec<SocketReport>,
}

impl OffloadStatus {
    /// Whether the offload is in use wherever there is one of that kind.
    pub fn is_on(&self, offload: Offload) -> bool {
        let mut reports = self.offloads.iter().filter(|report| report.offload == offload).peekable();
        reports.peek().is_some() && reports.all(|report| report.state.is_on())
    }
}

/// Where an offload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffloadPlace {
    /// The TUN device.
    Tun,
    /// The IPv4 socket.
    UdpIpv4,
    /// The IPv6 socket.
    UdpIpv6,
}

impl OffloadPlace {
    /// The place as it stands in `status` and in the metrics: `snake_case`, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tun => "tun",
            Self::UdpIpv4 => "udp_ipv4",
            Self::UdpIpv6 => "udp_ipv6",
        }
    }
}

/// What became of one offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadReport {
    /// Of the device or of which socket.
    pub place: OffloadPlace,
    /// Of which pair of data threads the socket is; 0 for the device, whose queues are alike.
    pub lane: usize,
    /// Which one.
    pub offload: Offload,
    /// Whether it is in use, and why not.
    pub state: OffloadState,
    /// How often the system refused it, or got it wrong, and something had to go without or was lost.
    pub fallbacks: u64,
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketReport {
    /// Which one.
    pub place: OffloadPlace,
    /// Of which pair of data threads it is.
    pub lane: usize,
    /// What it can do now.
    pub capabilities: Capabilities,
    /// What it had to do without.
    pub counters: FallbackCounters,
}

/// One peer.
pub struct PeerStatus {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The preshared key; all zeros for none.
    pub preshared_key: PresharedKey,
    /// Where the peer was last heard, or is configured to be.
    pub endpoint: Option<SocketAddr>,
    /// What the peer is to us.
    pub standing: Standing,
    /// Of a member: until when packets go either way, by the boot clock.
    pub not_after: Option<Instant>,
    /// The way to it: [`PeerStatus::endpoint`], or through a relay.
    pub path: Option<Path>,
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
    /// How fast is sent to the peer at most, in bits per second; 0: as fast as can be.
    pub rate_limit: u64,
    /// Whether packets can flow.
    pub state: PeerState,
    /// The last round trip measured, by a handshake that we began or by a probe.
    pub round_trip: Option<Duration>,
    /// Greatest TAI64N received, to be kept on disk.
    pub last_received_timestamp: Option<Tai64n>,
    /// Greatest TAI64N sent, to be kept on disk.
    pub last_sent_timestamp: Option<Tai64n>,
    /// Largest packet in bytes that is sent to it whole.
    pub mtu: u16,
    /// How [`PeerStatus::mtu`] is known.
    pub mtu_state: PathMtuState,
    /// When anything authenticated last came from the peer: time since, on the boot clock.
    pub last_received_age: Option<Duration>,
}

/// How it is known how large a packet to a peer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathMtuState {
    /// It is the interface's MTU: nothing is known of the way.
    Interface,
    /// From the route to the endpoint; the peer is not probed.
    Route,
    /// The path is being searched; this is the best guess.
    Searching,
    /// The peer has answered a probe of this size.
    Confirmed,
    /// The peer answers no probes; this is what the device takes.
    Unanswered,
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
