//! Where a peer is, on the underlay.

use std::net::{IpAddr, SocketAddr};

/// Our own side of a path: the address, and for IPv6 link-local and multi-homed hosts the
/// interface, that a datagram came in on and that replies leave from (requirement 20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddress {
    /// Our address, as the peer sees it before any NAT.
    pub address: IpAddr,
    /// Index of the interface; 0 leaves the choice to the kernel.
    pub interface: u32,
}

/// A peer's address and port on the underlay, and the sticky source to reach it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// The source to send from, where one is known.
    pub local: Option<LocalAddress>,
}

impl Endpoint {
    /// An endpoint whose source address is left to the kernel.
    pub const fn new(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// A peer's slot in the tables of a running device: dense, reused after removal, never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);
