//! What an engine needs from its surroundings.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tombolo_noise::{PublicKey, Standing};
use tombolo_packet::Steering;
use tombolo_udp::Socket;

use crate::assist::Assist;
use crate::frames::FrameCredit;

/// The sockets of one port, for each lane at most one per address family.
#[derive(Clone, Default)]
pub struct Sockets {
    /// The IPv4 socket.
    pub v4: Option<Arc<dyn Socket>>,
    /// The IPv6 socket.
    pub v6: Option<Arc<dyn Socket>>,
    /// The port that all are bound to.
    pub port: u16,
    /// Those of the further lanes.
    pub more: Vec<Sockets>,
    /// Where handshakes come and nothing else, at most one per address family: read by the control thread. Where there are none, handshakes come to
    /// the lanes. Nothing is sent from these.
    pub handshakes: Vec<Arc<dyn Socket>>,
}

impl Sockets {
    /// Those of a lane; where there are fewer, those of the first one.
    pub(crate) fn lane(&self, lane: usize) -> &Sockets {
        lane.checked_sub(1).and_then(|further| self.more.get(further)).unwrap_or(self)
    }

    /// All sockets that are sent from, of all lanes.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<dyn Socket>> {
        std::iter::once(self).chain(&self.more).flat_map(|lane| [&lane.v4, &lane.v6]).flatten()
    }
}

/// Binds sockets, at start and whenever the port changes.
pub trait SocketBinder: Send + 'static {
    /// Binds both families to `port` (0: any), with `mark` as firewall mark (0: none), once for each lane.
    /// `steering` says how many lanes there are, and to which one a datagram had best come.
    fn bind(&mut self, port: u16, mark: u32, steering: Steering) -> io::Result<Sockets>;

    /// The way that packets to `destination` with that mark leave by. `None`, as here: it is not known, and
    /// the interface's MTU holds.
    fn route(&mut self, destination: IpAddr, mark: u32) -> Option<Route> {
        let _ = (destination, mark);
        None
    }
}

/// A way out of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Number of the device.
    pub interface: u32,
    /// Largest IP packet in bytes that the device takes.
    pub interface_mtu: u32,
    /// Largest IP packet in bytes on the whole route, by its configuration or by what the kernel was told of it.
    pub mtu: u32,
}

/// How the size of packets is found out and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtuOptions {
    /// The paths to peers that know probes are searched for the largest packet that they carry.
    pub discover: bool,
    /// TCP connections are told what the path carries: the segment size in a SYN is made smaller.
    pub clamp_mss: bool,
    /// While packets go to a peer: time between two confirmations of the size in use.
    pub confirm_interval: Duration,
    /// While packets go to a peer: time between two attempts to find a larger size.
    pub raise_interval: Duration,
}

impl Default for PathMtuOptions {
    fn default() -> Self {
        Self {
            discover: true,
            clamp_mss: true,
            confirm_interval: Duration::from_secs(5),
            raise_interval: Duration::from_secs(60),
        }
    }
}

impl PathMtuOptions {
    /// All of it off: sizes are somebody else's affair.
    pub fn off() -> Self {
        Self { discover: false, clamp_mss: false, ..Self::default() }
    }
}

/// Settings of an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// MTU of the TUN in bytes; padding never goes past it (requirement 17).
    pub mtu: u16,
    /// UDP port at start; 0 lets the system pick one.
    pub listen_port: u16,
    /// Firewall mark at start; 0 for none.
    pub firewall_mark: u32,
    /// Whether the interface is up at start; nothing is sent while it is down (requirement 10).
    pub link_up: bool,
    /// How far ahead of our clock a peer's timestamp may be; `None`: any distance (requirement 11).
    pub max_clock_ahead: Option<Duration>,
    /// Copies the DSCP of inner packets to the outer header, so that the path can tell what is urgent, and an
    /// observer too.
    pub copy_dscp: bool,
    /// Data threads, at least one: see [`queues_for`].
    pub workers: usize,
    /// How long an idle data thread looks for more before it sleeps, while that pays; zero: not at all.
    pub busy_poll: Duration,
    /// When idle data threads help a busy one.
    pub assist: Assist,
    /// How large packets are.
    pub path_mtu: PathMtuOptions,
}

/// The most data threads that make sense: each further pair has a TUN queue and sockets of its own.
pub const MAX_WORKERS: usize = 64;

/// The TUN queues that so many data threads use. One thread alternates between out and in; two share
/// the work, one out, one in; of more, each pair has a queue and sockets of its own, a *lane*, and the last one
/// of an odd number alternates in its lane.
pub fn queues_for(workers: usize) -> usize {
    workers.clamp(1, MAX_WORKERS).div_ceil(2)
}

/// One session with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The Noise handshake hash: what a join proof signs.
    pub handshake_hash: [u8; 32],
    /// Whether we sent the initiation.
    pub initiator: bool,
    /// The number of the session among all of this engine's: later ones have greater numbers.
    pub epoch: u64,
}

/// The way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// To its own address.
    Direct(SocketAddr),
    /// Through the tunnel with a relay, which knows it by a node id (control rule 14).
    Relayed {
        /// The relay's key.
        relay: PublicKey,
        /// The peer's node id.
        node: [u8; 16],
    },
}

/// Something that the owner of the engine may have to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineEvent {
    /// A retry cycle begins: the peer's endpoint name should be resolved anew.
    ResolveEndpoint(PublicKey),
    /// A session with the peer was established.
    SessionEstablished(PublicKey),
    /// The peer's TAI64N or endpoint changed: what is on disk should be written anew.
    PeerChanged(PublicKey),
    /// A session with a peer that is no static one: a provisional peer that may show who it is, or one whose key we know from a membership or a
    /// token, or a member. The initiator sends its first frame now (control rule 9).
    MemberSession {
        /// The peer.
        public_key: PublicKey,
        /// What it is to us.
        standing: Standing,
        /// The session.
        session: Session,
        /// Where the peer is: where its handshake came from, and the answer was received.
        remote: Option<SocketAddr>,
        /// The way there: the address again, or through a relay.
        path: Option<Path>,
    },
    /// A control frame that is none of the engine's own, from a peer that is no static one (control rule 11).
    ControlFrame {
        /// The peer.
        public_key: PublicKey,
        /// The session that it came in.
        session: Session,
        /// Where the peer is.
        remote: Option<SocketAddr>,
        /// How the frame came, which may be another way than the one in use.
        path: Option<Path>,
        /// Header and body.
        bytes: Box<[u8]>,
        /// To be dropped when the frame was dealt with.
        credit: FrameCredit,
    },
    /// There are packets for this address of the overlay ([`EngineHandle::set_overlay`](crate::EngineHandle::set_overlay)), and no peer has it. They
    /// wait, up to five seconds, for a peer that does; [`EngineHandle::refuse_tunnel`](crate::EngineHandle::refuse_tunnel) says that
    /// there is none. Not said again while they wait.
    TunnelWanted(IpAddr),
    /// A peer has sent a datagram to be relayed to this node, and the pair has no grant: four times a second at most while it goes on. The answer is
    /// [`EngineHandle::set_relay`](crate::EngineHandle::set_relay).
    RelayWanted {
        /// Who sends.
        source: PublicKey,
        /// The node id.
        destination: [u8; 16],
    },
    /// Packets go to or come from a member, after a while without any. Whether they go on is for
    /// [`EngineHandle::take_used`](crate::EngineHandle::take_used) to say.
    MemberUsed(PublicKey),
    /// A packet of a peer that this machine is the gateway of was brought on to another peer: once, and again now and then while it
    /// goes on ([`PeerChange::forward`](crate::PeerChange::forward)).
    Forwarded {
        /// Whose packet.
        source: PublicKey,
        /// Into whose tunnel.
        destination: PublicKey,
    },
    /// A provisional peer's time was up; it is gone with its session.
    PeerGone(PublicKey),
    /// A peer that is no static one was heard from another address (control rule 10).
    MemberMoved {
        /// The peer.
        public_key: PublicKey,
        /// Where it is now.
        remote: SocketAddr,
        /// Whether only three times of what comes from there goes out until the answer to a challenge was told to
        /// [`EngineHandle::path_validated`](crate::EngineHandle::path_validated).
        challenge: bool,
    },
    /// One key is in use at two addresses: a cloned machine, or a stolen key (control rule 19).
    KeyInTwoPlaces {
        /// The key.
        public_key: PublicKey,
        /// Where its latest session is from.
        newer: SocketAddr,
        /// Where older keys are still in use from.
        older: SocketAddr,
    },
    /// The machine slept, a clone of it was resumed, or its clock was set; all keys were thrown away.
    Resumed,
    /// The TUN device was deleted; packets no longer flow.
    TunGone,
    /// A thread ended for a reason that the engine cannot mend.
    Failed(String),
}
