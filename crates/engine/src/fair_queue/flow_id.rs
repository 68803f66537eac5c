//! Which flow a packet belongs to.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use tombolo_packet::ip::IpPacket;
use tombolo_packet::{Fragment, PeerId};

/// A flow: its peer, and a keyed hash of peer, addresses, protocol and ports. Two flows that share all
/// 64 bits are one flow here, which nobody can bring about who does not know the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowId {
    pub(crate) peer: PeerId,
    pub(crate) hash: u64,
}

impl Hash for FlowId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The key of all flows of an engine.
#[derive(Clone, Copy)]
pub(crate) struct FlowHasher([u64; 2]);

impl FlowHasher {
    /// `key` is random, so that nobody can aim two flows at one hash.
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self(key)
    }

    /// The flow of a packet to `peer`. All fragments of a datagram are of one flow, with those of other
    /// ports between the same addresses, because only the first fragment has ports.
    pub(crate) fn flow(&self, peer: PeerId, packet: &IpPacket<'_>) -> FlowId {
        let ports = if packet.fragment() == Fragment::No { packet.ports() } else { None };
        let (source_port, destination_port) = ports.unwrap_or((0, 0));
        let transport = u64::from(source_port) << 48
            | u64::from(destination_port) << 32
            | u64::from(packet.protocol()) << 24;
        let mut hash = self.mix(transport, u64::from(peer.0));
        for address in [packet.source(), packet.destination()] {
            hash = match address {
                IpAddr::V4(address) => self.mix(hash, u64::from(address.to_bits())),
                IpAddr::V6(address) => {
                    let bits = address.to_bits();
                    self.mix(self.mix(hash, (bits >> 64) as u64), bits as u64)
                }
            };
        }
        FlowId { peer, hash }
    }

    /// Both halves of the product of two keyed words, folded.
    fn mix(&self, left: u64, right: u64) -> u64 {
        let product = u128::from(left ^ self.0[0]) * u128::from(right ^ self.0[1]);
        product as u64 ^ (product >> 64) as u64
    }
}
