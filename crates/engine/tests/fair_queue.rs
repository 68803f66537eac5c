//! What waits between TUN and encryption: order, rate limits, and what the outer header tells.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::collections::HashMap;

use support::gate::Gates;
use support::{EAST, Machine, PATIENCE, PORT, WEST, tcp_port, udp, udp_ports, wait_until};
use tombolo_engine::{Assist, PeerChange, Transaction};
use tombolo_packet::checksum::pseudo_header;
use tombolo_packet::{DropReason, GsoType, VnetHeader};
use tombolo_tun::Offloads;
use tombolo_udp::memory::{MemoryNetwork, MemorySocket};
use tombolo_udp::{RECEIVE_SLOT, Socket};

const SEGMENT: u16 = 1300;

/// As it comes out of the TUN.
type Packet = (VnetHeader, Vec<u8>);

/// East with so many workers and west, who know each other and have a session.
fn pair(workers: usize, copy_dscp: bool) -> (MemoryNetwork, Machine, Machine) {
    let network = MemoryNetwork::new(8290);
    let east = Machine::start_adjusted(&network, 1, Offloads::ALL, |options| {
        (options.workers, options.copy_dscp) = (workers, copy_dscp);
    });
    let west = Machine::start(&network, 2, Offloads::NONE);
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], true);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    (network, east, west)
}

/// Takes west's place on the network and sees what is sent to it.
fn tap(network: &MemoryNetwork, west: &Machine) -> MemorySocket {
    network.socket(&[west.outer], PORT)
}

/// Counter and traffic class of the transport messages that come, `count` of them.
fn messages(tap: &MemorySocket, count: usize) -> Vec<(u64, u8)> {
    let (mut arena, mut received, mut seen) = (vec![0; 8 * RECEIVE_SLOT], Vec::new(), Vec::new());
    wait_until("all messages", || {
        tap.receive(&mut arena, &mut received).unwrap();
        for read in &received {
            for message in read.segments(&arena).filter(|message| message[0] == 4) {
                seen.push((u64::from_le_bytes(*message[8..].first_chunk().unwrap()), read.traffic_class));
            }
        }
        seen.len() >= count
    });
    seen
}

/// A UDP super-packet, as a kernel with segmentation offload hands it out.
fn super_packet(port: u16, payload: &[u8]) -> Packet {
    let mut packet = udp_ports(EAST, WEST, port, 5000, payload);
    let sum = !pseudo_header(&EAST, &WEST, 17, 8 + payload.len()).checksum();
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::Udp,
        header_len: 28,
        gso_size: SEGMENT,
        checksum_start: 20,
        checksum_offset: 6,
        ..VnetHeader::default()
    };
    (header, packet)
}

#[test]
fn flows_of_super_packets_arrive_whole_and_in_order_with_one_worker_and_with_four() {
    for workers in [1, 4] {
        let (_network, east, west) = pair(workers, false);
        let mut expected: HashMap<u16, Vec<u8>> = HashMap::new();
        for round in 0..12_u32 {
            for port in 1..=4_u16 {
                let len = if port == 4 { 40 } else { 20_000 + usize::from(port) * 7001 };
                let payload: Vec<u8> =
                    (0..len as u32).map(|at| (at * 31 + round * 7 + u32::from(port)) as u8).collect();
                let (header, packet) = super_packet(port, &payload);
                east.host.send(header, &packet).unwrap();
                expected.entry(port).or_default().extend(payload);
            }
        }
        let total: usize = expected.values().map(Vec::len).sum();
        let mut seen: HashMap<u16, Vec<u8>> = HashMap::new();
        while seen.values().map(Vec::len).sum::<usize>() < total {
            let packet = west.receive();
            let port = u16::from_be_bytes([packet[20], packet[21]]);
            seen.entry(port).or_default().extend(&packet[28..]);
        }
        assert!(seen == expected, "{workers} workers");
        assert_eq!(east.dropped(DropReason::OutboundQueueFull), 0);
    }
}

/// How many packets come of one out of the TUN.
fn segments((header, packet): &Packet) -> usize {
    match header.gso_type {
        GsoType::None => 1,
        GsoType::Udp => (packet.len() - 28).div_ceil(header.gso_size.into()),
        GsoType::Tcp4 | GsoType::Tcp6 => (packet.len() - 40).div_ceil(header.gso_size.into()),
    }
}

/// The ports of the packets, in the order in which west gets them, after the TUN has given all of them to the engine at once: all but the
/// first, which makes the session.
fn order_of(packets: &[Packet]) -> Vec<u16> {
    let network = MemoryNetwork::new(8290);
    let gates = Gates::new();
    let east = Machine::start_gated(&network, 1, Offloads::ALL, &gates, |options| {
        options.assist = Assist::Never;
    });
    let west = Machine::start(&network, 2, Offloads::NONE);
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], true);
    let ports = |packets: &[Packet]| -> Vec<u16> {
        let closed = gates.tun.close();
        packets.iter().for_each(|(header, packet)| east.host.send(*header, packet).unwrap());
        drop(closed);
        let received = (0..packets.iter().map(segments).sum()).map(|_| west.receive());
        received.map(|packet| u16::from_be_bytes([packet[20], packet[21]])).collect()
    };
    let (first, rest) = packets.split_at(1);
    ports(first);
    let order = ports(rest);
    assert_eq!(east.dropped(DropReason::OutboundQueueFull), 0);
    order
}

/// The port of the sparse flow.
const HEARTBEAT: u16 = 7;

fn heartbeat() -> Packet {
    (VnetHeader::default(), udp_ports(EAST, WEST, HEARTBEAT, 5000, b"alive"))
}

/// How many packets of others come after the last heartbeat.
fn overtaken(ports: &[u16]) -> usize {
    ports.len() - 1 - ports.iter().rposition(|&port| port == HEARTBEAT).unwrap()
}

#[test]
fn a_heartbeat_overtakes_bulk_that_was_read_before_it_whatever_the_bulk_consists_of() {
    let plain_udp = || (VnetHeader::default(), udp_ports(EAST, WEST, 1, 5000, &[1; 1392]));
    let plain_tcp = |number: u32| tcp_port(1, number * 1380, 1380, 1380);
    let long_tcp = |number: u32| tcp_port(1, number * 41_400, 41_400, 1380);
    let long_udp = || super_packet(1, &[1; 31 * SEGMENT as usize]);
    let bulks: [(&str, Vec<Packet>); 4] = [
        ("UDP of 1420 bytes", (0..300).map(|_| plain_udp()).collect()),
        ("TCP of 1420 bytes", (0..300).map(plain_tcp).collect()),
        ("UDP super-packets", (0..20).map(|_| long_udp()).collect()),
        ("TCP super-packets", (0..20).map(long_tcp).collect()),
    ];
    for (what, bulk) in bulks {
        let packets: Vec<_> =
            [heartbeat(), heartbeat()].into_iter().chain(bulk).chain([heartbeat()]).collect();
        // A thread that is not let run for so long that both count as alone finds nobody to be fair to.
        let overtaken = (0..5).map(|_| overtaken(&order_of(&packets))).find(|&overtaken| overtaken >= 100);
        assert!(overtaken.is_some(), "{what}: the heartbeat came last");
    }
}

/// They are not worth the queue: each finds its share by congestion control.
#[test]
fn connections_in_bulk_alone_leave_in_the_order_in_which_they_were_read() {
    let packets: Vec<_> =
        (0..40_u32).map(|number| tcp_port(1 + (number / 10) as u16, number * 41_400, 41_400, 1380)).collect();
    assert!(order_of(&packets).is_sorted());
}

#[test]
fn packets_that_are_sealed_as_fast_as_read_do_not_wait() {
    let packets: Vec<_> = (0..300)
        .map(|_| (VnetHeader::default(), udp_ports(EAST, WEST, 1, 5000, &[1; 200])))
        .chain([heartbeat()])
        .collect();
    assert_eq!(overtaken(&order_of(&packets)), 0);
}

#[test]
fn counters_on_the_wire_only_grow() {
    let (network, east, west) = pair(1, false);
    let tap = tap(&network, &west);
    for number in 0..40_u16 {
        let payload = vec![1; if number % 3 == 0 { 60 } else { 30_000 }];
        let (header, packet) = super_packet(number % 5, &payload);
        east.host.send(header, &packet).unwrap();
    }
    let segments: usize = (0..40).map(|number| if number % 3 == 0 { 1 } else { 24 }).sum();
    let seen = messages(&tap, segments);
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn the_outer_header_tells_the_dscp_only_where_asked_and_ecn_always() {
    const EXPEDITED: u8 = 46 << 2;
    for (copy_dscp, expected) in [(false, 0b10), (true, EXPEDITED | 0b10)] {
        let (network, east, west) = pair(2, copy_dscp);
        let tap = tap(&network, &west);
        let mut packet = udp(EAST, WEST, b"voice");
        packet[1] = EXPEDITED | 0b10;
        east.send(&packet);
        assert!(messages(&tap, 1).iter().any(|message| message.1 == expected), "{copy_dscp}");
    }
}

#[test]
fn a_rate_limit_holds_one_peer_back_and_nobody_else() {
    let (network, east, west) = pair(2, false);
    let south = Machine::start(&network, 3, Offloads::NONE);
    east.add_peer(&south, &["10.0.0.3/32"], true);
    south.add_peer(&east, &["10.0.0.1/32"], true);
    let limit = |bits_per_second| {
        let change = PeerChange {
            update_only: true,
            rate_limit: Some(bits_per_second),
            ..PeerChange::new(west.public_key)
        };
        east.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
    };
    limit(64_000);
    assert_eq!(east.handle.status().unwrap().peers[0].rate_limit, 64_000);
    // Twenty seconds' worth beyond the burst.
    let packets: Vec<_> = (0..180_u8).map(|number| udp(EAST, WEST, &[number; 1000])).collect();
    packets.iter().for_each(|packet| east.send(packet));
    let to_south = udp(EAST, [10, 0, 0, 3], b"not held up");
    east.send(&to_south);
    assert_eq!(south.receive(), to_south);
    let early: Vec<_> = std::iter::from_fn(|| west.host.try_receive()).map(|packet| packet.1).collect();
    assert!(early.len() < packets.len(), "nothing was held back");
    // Set free, all the rest comes, and in order.
    limit(0);
    let rest = (early.len()..packets.len()).map(|_| west.host.receive(PATIENCE).expect("the rest").1);
    assert!(early.iter().cloned().chain(rest).eq(packets.iter().cloned()));
    assert_eq!(east.dropped(DropReason::OutboundQueueFull), 0);
}
