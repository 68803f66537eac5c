//! Whole engines with real threads, joined in memory: `host - TUN - engine - UDP - engine - TUN - host`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::time::Duration;

use support::{EAST, Machine, PATIENCE, PORT, WEST, two, udp, udp_ports, wait_until};
use tombolo_engine::{PeerChange, PeerState, ProbeError, Transaction};
use tombolo_packet::{DropReason, VnetHeader};
use tombolo_tun::Offloads;
use tombolo_udp::memory::{Faults, MemoryNetwork};
use tombolo_udp::{SendOutcome, Socket, Transmit};

#[test]
fn the_packet_that_starts_the_handshake_arrives_and_so_does_the_answer() {
    for offloads in [Offloads::ALL, Offloads::NONE] {
        let (_network, east, west) = two(offloads);
        let request = udp(EAST, WEST, b"request");
        east.send(&request);
        assert_eq!(west.receive(), request);
        let answer = udp(WEST, EAST, b"answer");
        west.send(&answer);
        assert_eq!(east.receive(), answer);
        let status = east.handle.status().unwrap();
        assert_eq!(status.peers[0].state, PeerState::Established);
        assert!(status.peers[0].last_handshake.is_some());
        assert!(status.peers[0].round_trip.is_some());
    }
}

#[test]
fn what_is_staged_during_the_handshake_leaves_in_order() {
    let (_network, east, west) = two(Offloads::NONE);
    let packets: Vec<Vec<u8>> = (0..100u8).map(|number| udp(EAST, WEST, &[number])).collect();
    for packet in &packets {
        east.send(packet);
    }
    for packet in &packets {
        assert_eq!(&west.receive(), packet);
    }
}

#[test]
fn a_side_without_an_endpoint_answers_where_it_was_spoken_to_from() {
    let network = MemoryNetwork::new(2);
    let (east, west) =
        (Machine::start(&network, 1, Offloads::NONE), Machine::start(&network, 2, Offloads::NONE));
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], false);
    west.send(&udp(WEST, EAST, b"too early"));
    west.wait_dropped(DropReason::NoEndpoint, 1);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    west.send(&udp(WEST, EAST, b"now"));
    assert_eq!(east.receive(), udp(WEST, EAST, b"now"));
}

/// Requirement 19.
#[test]
fn a_peer_that_moves_is_followed() {
    let (_network, east, west) = two(Offloads::NONE);
    east.send(&udp(EAST, WEST, b"from home"));
    west.receive();
    east.sockets[0].move_to(&[[203, 0, 113, 9].into()], 40_000);
    east.send(&udp(EAST, WEST, b"from a train"));
    west.receive();
    west.send(&udp(WEST, EAST, b"still there?"));
    assert_eq!(east.receive(), udp(WEST, EAST, b"still there?"));
    let endpoint = west.handle.status().unwrap().peers[0].endpoint.unwrap();
    assert_eq!(endpoint, "203.0.113.9:40000".parse().unwrap());
}

/// Requirement 16.
#[test]
fn a_datagram_that_comes_twice_is_delivered_once() {
    let (network, east, west) = two(Offloads::NONE);
    east.send(&udp(EAST, WEST, b"first"));
    west.receive();
    network.set_faults(Faults { duplication_per_mille: 1000, ..Faults::default() });
    for number in 0..50u8 {
        east.send(&udp(EAST, WEST, &[number]));
    }
    west.wait_dropped(DropReason::ReplayedCounter, 50);
    for number in 0..50u8 {
        assert_eq!(west.receive(), udp(EAST, WEST, &[number]));
    }
    assert!(west.host.try_receive().is_none());
}

/// Control rule 11: what begins like a control frame comes from nobody's TUN, and neither does anything else that is no IP packet.
#[test]
fn what_is_no_ip_packet_is_never_sealed_control_rule_11() {
    for offloads in [Offloads::ALL, Offloads::NONE] {
        let (_network, east, west) = two(offloads);
        east.send(&udp(EAST, WEST, b"before"));
        west.receive();
        let sent = || east.handle.status().unwrap().peers[0].sent_bytes;
        let before = sent();
        // A packet that has a route but for its first byte, and frames.
        let mut disguised = udp(EAST, WEST, &[7; 100]);
        let mut dropped = 0;
        for first in [0xf0, 0xf1, 0xff, 0x00, 0x15, 0x55, 0x75] {
            disguised[0] = first;
            for bytes in [&disguised[..], &[first, 3, 0, 1, 0xa0], &[first]] {
                east.send(bytes);
                dropped += 1;
            }
        }
        east.wait_dropped(DropReason::MalformedPacket, dropped);
        assert_eq!(sent(), before, "something was sealed");
        east.send(&udp(EAST, WEST, b"after"));
        assert_eq!(west.receive(), udp(EAST, WEST, b"after"));
        assert_eq!(east.dropped(DropReason::MalformedPacket), dropped);
        assert_eq!(west.dropped(DropReason::MalformedPacket), 0);
    }
}

/// Requirement 18.
#[test]
fn a_peer_cannot_speak_for_another() {
    let network = MemoryNetwork::new(3);
    let hub = Machine::start(&network, 1, Offloads::NONE);
    let (honest, liar) =
        (Machine::start(&network, 2, Offloads::NONE), Machine::start(&network, 3, Offloads::NONE));
    hub.add_peer(&liar, &["10.0.0.0/24"], true);
    // Longer than the liar's: the whole table decides, not the peer's own list.
    hub.add_peer(&honest, &["10.0.0.2/32"], true);
    liar.add_peer(&hub, &["10.0.0.1/32"], true);
    liar.send(&udp([10, 0, 0, 2], EAST, b"I am the honest one"));
    hub.wait_dropped(DropReason::SourceNotAllowed, 1);
    liar.send(&udp([10, 0, 0, 3], EAST, b"I am myself"));
    assert_eq!(hub.receive(), udp([10, 0, 0, 3], EAST, b"I am myself"));
}

/// Requirement 15, and no panic is reachable from the network.
#[test]
fn strangers_get_no_answer_whatever_they_send() {
    let (network, east, west) = two(Offloads::NONE);
    east.send(&udp(EAST, WEST, b"before"));
    west.receive();
    let stranger = network.socket(&["198.51.100.66".parse().unwrap()], 1);
    let mut outcome = SendOutcome::default();
    let mut datagram = vec![0; 65_507];
    for (number, byte) in datagram.iter_mut().enumerate() {
        *byte = (number * 31 % 251) as u8;
    }
    for message_type in [0, 1, 2, 3, 4, 5, 255] {
        for len in [0, 1, 3, 4, 16, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1500, 9000, 65_507] {
            if len >= 4 {
                datagram[..4].copy_from_slice(&[message_type, 0, 0, 0]);
            }
            stranger.send(&[Transmit::new((west.outer, PORT).into(), &datagram[..len])], &mut outcome);
        }
    }
    west.wait_dropped(DropReason::UnknownReceiverIndex, 10);
    west.wait_dropped(DropReason::InvalidMac1, 2);
    let (mut arena, mut received) = (vec![0; 1 << 20], Vec::new());
    assert_eq!(stranger.receive(&mut arena, &mut received).unwrap(), 0);
    east.send(&udp(EAST, WEST, b"after"));
    assert_eq!(west.receive(), udp(EAST, WEST, b"after"));
}

#[test]
fn nothing_is_lost_to_us_on_a_network_that_reorders_and_nothing_comes_twice_on_one_that_loses() {
    let (network, east, west) = two(Offloads::NONE);
    east.send(&udp(EAST, WEST, b"first"));
    west.receive();
    network.set_faults(Faults { reordering_per_mille: 300, ..Faults::default() });
    for number in 0..1000u16 {
        east.send(&udp_ports(EAST, WEST, number, 1, &number.to_be_bytes()));
    }
    let mut seen: Vec<Vec<u8>> = (0..1000).map(|_| west.receive()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1000);
    network.set_faults(Faults {
        loss_per_mille: 200,
        duplication_per_mille: 200,
        reordering_per_mille: 200,
        ..Faults::default()
    });
    for number in 0..1000u16 {
        east.send(&udp_ports(EAST, WEST, number, 2, &number.to_be_bytes()));
    }
    let last = udp_ports(EAST, WEST, 9, 9, b"the end");
    let mut seen = Vec::new();
    wait_until("the last packet comes through", || {
        // The network loses this one as well, now and then.
        east.send(&last);
        while let Some((_, packet)) = west.host.receive(Duration::from_millis(20)) {
            seen.push(packet);
        }
        seen.contains(&last)
    });
    seen.retain(|packet| packet != &last);
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "a packet came twice");
    assert!((500..1000).contains(&all), "{all} of 1000 came over a network that loses every fifth");
}

#[test]
fn a_super_packet_arrives_as_the_same_bytes() {
    let (_network, east, west) = two(Offloads::ALL);
    let payload: Vec<u8> = (0..20_000u32).map(|number| number as u8).collect();
    // A UDP super-packet whose segments carry 1000 bytes each; the checksum is the pseudo-header's.
    let mut packet = udp(EAST, WEST, &payload);
    let sum = pseudo_header_sum(&packet);
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: tombolo_packet::GsoType::Udp,
        header_len: 28,
        gso_size: 1000,
        checksum_start: 20,
        checksum_offset: 6,
        ..VnetHeader::default()
    };
    east.host.send(header, &packet).unwrap();
    let mut arrived = Vec::new();
    while arrived.len() < payload.len() {
        let (_, packet) = west.host.receive(PATIENCE).expect("more of the super-packet");
        arrived.extend_from_slice(&packet[28..]);
    }
    assert_eq!(arrived, payload);
}

fn pseudo_header_sum(packet: &[u8]) -> u16 {
    tombolo_packet::checksum::pseudo_header(&packet[12..16], &packet[16..20], 17, packet.len() - 20).folded()
}

#[test]
fn a_probe_measures_the_way_through_the_tunnel() {
    let (_network, east, west) = two(Offloads::NONE);
    let handle = east.handle.clone();
    let public_key = west.public_key;
    let probe = std::thread::spawn(move || handle.probe(public_key, EAST.into(), WEST.into(), PATIENCE));
    let mut request = west.receive();
    assert_eq!((request[9], request[20]), (1, 8), "an ICMP echo request");
    request[20] = 0;
    request.swap(12, 16);
    request.swap(13, 17);
    request.swap(14, 18);
    request.swap(15, 19);
    west.send(&request);
    assert!(probe.join().unwrap().is_ok());
    assert!(east.host.try_receive().is_none(), "the answer is for the probe alone");
    let unanswered = east.handle.probe(public_key, EAST.into(), WEST.into(), Duration::from_millis(50));
    assert_eq!(unanswered, Err(ProbeError::TimedOut));
    let unknown = east.handle.probe(east.public_key, EAST.into(), WEST.into(), PATIENCE);
    assert_eq!(unknown, Err(ProbeError::UnknownPeer));
}

#[test]
fn a_removed_peer_is_heard_no_more() {
    let (_network, east, west) = two(Offloads::NONE);
    east.send(&udp(EAST, WEST, b"before"));
    west.receive();
    let mut change = PeerChange::new(east.public_key);
    change.remove = true;
    west.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
    assert!(west.handle.status().unwrap().peers.is_empty());
    east.send(&udp(EAST, WEST, b"after"));
    west.wait_dropped(DropReason::UnknownReceiverIndex, 1);
    west.send(&udp(WEST, EAST, b"nobody there"));
    west.wait_dropped(DropReason::NoRoute, 1);
    assert!(west.host.try_receive().is_none());
}

/// Requirement 10.
#[test]
fn nothing_is_sent_while_the_link_is_down() {
    let (_network, east, west) = two(Offloads::NONE);
    east.handle.set_link_up(false).unwrap();
    // Commands are carried out in order: once this one was answered the link is down.
    east.handle.status().unwrap();
    east.send(&udp(EAST, WEST, b"down"));
    east.wait_dropped(DropReason::NotReady, 1);
    assert_eq!(east.handle.status().unwrap().peers[0].sent_bytes, 0);
    east.handle.set_link_up(true).unwrap();
    east.handle.status().unwrap();
    east.send(&udp(EAST, WEST, b"up"));
    assert_eq!(west.receive(), udp(EAST, WEST, b"up"));
}

#[test]
fn keys_that_were_thrown_away_are_replaced_at_once() {
    let (_network, east, west) = two(Offloads::NONE);
    east.send(&udp(EAST, WEST, b"before"));
    west.receive();
    east.handle.expire_sessions().unwrap();
    east.send(&udp(EAST, WEST, b"after"));
    assert_eq!(west.receive(), udp(EAST, WEST, b"after"));
}

#[test]
fn a_stopped_engine_says_so() {
    let (_network, east, west) = two(Offloads::NONE);
    east.engine.stop();
    assert!(east.handle.status().is_err());
    assert_eq!(
        east.handle.probe(west.public_key, EAST.into(), WEST.into(), PATIENCE),
        Err(ProbeError::Stopped)
    );
}
