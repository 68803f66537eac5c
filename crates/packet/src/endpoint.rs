//! Where a peer is, on the underlay.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

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

/// The first byte of the address of an endpoint behind a relay: an IPv6 multicast address, which no datagram can come from (RFC 4291 §2.7;
/// Linux drops those that claim to).
const RELAYED: u8 = 0xff;

impl Endpoint {
    /// An endpoint that is reached through the tunnel with a peer, the relay, where it is the node with that id. Like an address it can be
    /// compared, limited and asked for a cookie, for itself in its relay's name: the first 32 bits of the address are the relay's.
    /// Never on the wire.
    pub fn relayed(relay: PeerId, node: [u8; 16]) -> Self {
        let [_, slot @ ..] = relay.0.to_be_bytes();
        let mut octets = [RELAYED; 16];
        octets[1..4].copy_from_slice(&slot);
        octets[4..].copy_from_slice(&node[..12]);
        let port = u16::from_be_bytes([node[12], node[13]]);
        let rest = u32::from(u16::from_be_bytes([node[14], node[15]]));
        Self::new(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(octets), port, relay.0, rest)))
    }

    /// The relay and the node id of a relayed endpoint; `None`: it is a direct one.
    pub fn relay(&self) -> Option<(PeerId, [u8; 16])> {
        let SocketAddr::V6(remote) = self.remote else { return None };
        let octets = remote.ip().octets();
        if octets[0] != RELAYED {
            return None;
        }
        let mut node = [0; 16];
        node[..12].copy_from_slice(&octets[4..]);
        node[12..14].copy_from_slice(&remote.port().to_be_bytes());
        node[14..].copy_from_slice(&remote.scope_id().to_be_bytes()[2..]);
        Some((PeerId(remote.flowinfo()), node))
    }

    /// Whether it is reached through a relay.
    pub fn is_relayed(&self) -> bool {
        matches!(self.remote.ip(), IpAddr::V6(address) if address.octets()[0] == RELAYED)
    }

    /// An endpoint whose source address is left to the kernel.
    pub const fn new(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// A peer's slot in the tables of a running device: dense, reused after removal, never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relayed_endpoint_names_relay_and_node_control_rule_14() {
        for slot in [0, 1, 0x0102_0304, u32::MAX] {
            let node: [u8; 16] = std::array::from_fn(|index| 0xa0 + index as u8);
            let endpoint = Endpoint::relayed(PeerId(slot), node);
            assert!(endpoint.is_relayed() && endpoint.remote.ip().is_multicast());
            assert_eq!(endpoint.relay(), Some((PeerId(slot), node)));
            assert_ne!(endpoint, Endpoint::relayed(PeerId(slot ^ 1), node));
        }
        for direct in ["192.0.2.1:1", "[2001:db8::1]:1"] {
            let direct = Endpoint::new(direct.parse().unwrap());
            assert!(!direct.is_relayed() && direct.relay().is_none());
        }
    }
}
