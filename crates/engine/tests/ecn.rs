//! What the underlay says of congestion reaches the inner packet (RFC 6040, requirement 21), directly and through a relay.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use support::gate::Gates;
use support::{EAST, Machine, WEST, udp, wait_until};
use tombolo_engine::{Path, PeerChange, PeerState, RelayGrant, RelayPermissions, Transaction};
use tombolo_packet::DropReason;
use tombolo_packet::checksum::{Sum, pseudo_header};
use tombolo_packet::ip::ecn::{CAPABLE_0, CAPABLE_1, CONGESTION, NOT_CAPABLE};
use tombolo_packet::relay::PairRates;
use tombolo_tun::Offloads;
use tombolo_udp::memory::MemoryNetwork;

const DSCP_EXPEDITED: u8 = 46 << 2;

/// RFC 6040 §4.2, figure 4: for each inner field what becomes of it under the outer fields "not capable", ECT(0), ECT(1) and CE.
/// `None`: the packet is dropped.
const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
    (NOT_CAPABLE, [Some(NOT_CAPABLE), Some(NOT_CAPABLE), Some(NOT_CAPABLE), None]),
    (CAPABLE_0, [Some(CAPABLE_0), Some(CAPABLE_0), Some(CAPABLE_1), Some(CONGESTION)]),
    (CAPABLE_1, [Some(CAPABLE_1), Some(CAPABLE_1), Some(CAPABLE_1), Some(CONGESTION)]),
    (CONGESTION, [Some(CONGESTION), Some(CONGESTION), Some(CONGESTION), Some(CONGESTION)]),
];
const OUTER: [u8; 4] = [NOT_CAPABLE, CAPABLE_0, CAPABLE_1, CONGESTION];

/// A whole packet from east to west with this traffic class.
fn packet(ipv6: bool, traffic_class: u8) -> Vec<u8> {
    if !ipv6 {
        let mut packet = udp(EAST, WEST, b"marked");
        packet[1] = traffic_class;
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        return packet;
    }
    let address = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let mut datagram = [0x0f, 0xa0, 0x13, 0x88, 0, 14, 0, 0, b'm', b'a', b'r', b'k', b'e', b'd'];
    let sum = pseudo_header(&address(1), &address(2), 17, datagram.len()).add_bytes(&datagram);
    datagram[6..8].copy_from_slice(&sum.checksum_not_zero().to_be_bytes());
    let header = [0x60 | traffic_class >> 4, traffic_class << 4, 0, 0, 0, 14, 17, 64];
    [&header[..], &address(1), &address(2), &datagram].concat()
}

/// Sends every inner field from east to west under every mark that the network makes at `gates`.
fn all_marks(east: &Machine, west: &Machine, gates: &Gates) {
    let mut dropped = west.dropped(DropReason::CongestionMarked);
    for (inner, delivered) in FIGURE_4 {
        for (outer, expected) in OUTER.into_iter().zip(delivered) {
            gates.mark(outer);
            for (ipv6, dscp) in [(false, 0), (false, DSCP_EXPEDITED), (true, 0), (true, DSCP_EXPEDITED)] {
                east.send(&packet(ipv6, dscp | inner));
                match expected {
                    Some(expected) => {
                        let what = format!("inner {inner:02b}, outer {outer:02b}, IPv6 {ipv6}, {dscp:#x}");
                        assert_eq!(west.receive(), packet(ipv6, dscp | expected), "{what}");
                    }
                    None => {
                        dropped += 1;
                        west.wait_dropped(DropReason::CongestionMarked, dropped);
                    }
                }
            }
        }
    }
    assert_eq!(west.dropped(DropReason::CongestionMarked), dropped);
    assert!(west.host.try_receive().is_none());
}

fn start(network: &MemoryNetwork, number: u8, offloads: Offloads) -> (Machine, Gates) {
    let gates = Gates::new();
    (Machine::start_gated(network, number, offloads, &gates, |_| {}), gates)
}

#[test]
fn marks_of_the_outer_header_reach_the_tun_after_rfc_6040_requirement_21() {
    for offloads in [Offloads::ALL, Offloads::NONE] {
        let network = MemoryNetwork::new(6040);
        let ((east, _), (west, gates)) = (start(&network, 1, offloads), start(&network, 2, offloads));
        east.add_peer(&west, &["10.0.0.2/32", "fd00::2/128"], true);
        west.add_peer(&east, &["10.0.0.1/32", "fd00::1/128"], true);
        all_marks(&east, &west, &gates);
    }
}

#[test]
fn marks_on_either_side_of_a_relay_reach_the_tun_requirement_21() {
    const NODES: [[u8; 16]; 2] = [[0xea; 16], [0x3e; 16]];
    let network = MemoryNetwork::new(6040);
    let [(east, _), (west, at_west), (relay, at_relay)] =
        [1, 2, 3].map(|number| start(&network, number, Offloads::NONE));
    for (node, address) in [(&east, "10.0.0.1/32"), (&west, "10.0.0.2/32")] {
        relay.add_peer(node, &[address], false);
        node.add_peer(&relay, &["10.0.0.3/32"], true);
        let change = PeerChange { relay: Some(true), initiate: true, ..PeerChange::new(relay.public_key) };
        node.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
    }
    east.add_peer(&west, &["10.0.0.2/32", "fd00::2/128"], false);
    west.add_peer(&east, &["10.0.0.1/32", "fd00::1/128"], false);
    wait_until("the relay has sessions with both", || {
        let peers = relay.handle.status().unwrap().peers;
        peers.iter().all(|peer| peer.state == PeerState::Established && peer.endpoint.is_some())
    });
    let grant = |from: &Machine, source: usize, to: &Machine| RelayGrant {
        source_key: from.public_key,
        source: NODES[source],
        destination: NODES[1 - source],
        destination_key: to.public_key,
    };
    let grants = vec![grant(&east, 0, &west), grant(&west, 1, &east)];
    relay.handle.set_relay(Some(RelayPermissions { rates: PairRates::default(), grants })).unwrap();
    let path = Path::Relayed { relay: relay.public_key, node: NODES[1] };
    assert_eq!(east.handle.set_path(west.public_key, path), Ok(true));

    all_marks(&east, &west, &at_west);
    at_west.unmark();
    all_marks(&east, &west, &at_relay);
}
