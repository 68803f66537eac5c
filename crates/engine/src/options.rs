//! What an engine needs from its surroundings.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_udp::Socket;

/// The sockets of one port, at most one per address family.
#[derive(Clone)]
pub struct Sockets {
    /// The IPv4 socket.
    pub v4: Option<Arc<dyn Socket>>,
    /// The IPv6 socket.
    pub v6: Option<Arc<dyn Socket>>,
    /// The port that both are bound to.
    pub port: u16,
}

/// Binds sockets, at start and whenever the port changes.
pub trait SocketBinder: Send + 'static {
    /// Binds both families to `port` (0: any), with `mark` as firewall mark (0: none).
    fn bind(&mut self, port: u16, mark: u32) -> io::Result<Sockets>;
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
    /// The machine slept, a clone of it was resumed, or its clock was set; all keys were thrown away.
    Resumed,
    /// The TUN device was deleted; packets no longer flow.
    TunGone,
    /// A thread ended for a reason that the engine cannot mend.
    Failed(String),
}
