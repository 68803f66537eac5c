//! Paths of any size between two whole engines, and what the machines behind them are told.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::time::Duration;

use support::{EAST, Machine, PATIENCE, WEST, two, udp, wait_until};
use tombolo_engine::{PathMtuOptions, PathMtuState, PeerChange, Transaction};
use tombolo_packet::checksum::{Sum, pseudo_header};
use tombolo_packet::{DropReason, GsoType, IpPacket, VnetHeader};
use tombolo_tun::Offloads;
use tombolo_udp::memory::{Faults, MemoryNetwork};

fn speak_frames(machine: &Machine, peer: &Machine) {
    let change = PeerChange { tombolo: Some(true), ..PeerChange::new(peer.public_key) };
    machine.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
}

/// Two engines that search the paths to each other, on a network where packets of `path_mtu` bytes pass.
fn searching(path_mtu: u16, offloads: Offloads) -> (MemoryNetwork, Machine, Machine) {
    let (network, east, west) = two(offloads);
    network.set_faults(Faults { path_mtu, drops_fragments: true, ..Faults::default() });
    speak_frames(&east, &west);
    speak_frames(&west, &east);
    (network, east, west)
}

fn mtu(machine: &Machine) -> (u16, PathMtuState) {
    let peer = &machine.handle.status().unwrap().peers[0];
    (peer.mtu, peer.mtu_state)
}

fn wait_confirmed(machine: &Machine, sizes: std::ops::RangeInclusive<u16>) {
    wait_until(&format!("a confirmed size of {sizes:?}"), || {
        let (size, state) = mtu(machine);
        state == PathMtuState::Confirmed && sizes.contains(&size)
    });
}

fn dont_fragment(mut packet: Vec<u8>, on: bool) -> Vec<u8> {
    packet[6] = if on { 0x40 } else { 0 };
    packet[10..12].fill(0);
    let sum = Sum::of(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A TCP segment over IPv4.
fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let transport_len = 20 + options.len() + payload.len();
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + transport_len).unwrap().to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(EAST);
    packet.extend(WEST);
    let sum = Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut transport = [4000_u16.to_be_bytes(), 5000_u16.to_be_bytes()].concat();
    transport.extend([
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        ((20 + options.len()) as u8 / 4) << 4,
        flags,
        1,
        0,
        0,
        0,
        0,
        0,
    ]);
    transport.extend(options);
    transport.extend(payload);
    let sum = pseudo_header(&EAST, &WEST, 6, transport_len).add_bytes(&transport).checksum();
    transport[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(transport);
    packet
}

#[test]
fn the_path_is_found_and_each_direction_has_its_own() {
    let (_network, east, west) = searching(1300, Offloads::NONE);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    // 1300 less IPv4, UDP, transport header and tag is 1240; known to within eight bytes.
    wait_confirmed(&east, 1232..=1240);
    wait_confirmed(&west, 1232..=1240);
}

#[test]
fn a_path_that_takes_everything_is_used_whole() {
    let (_network, east, west) = searching(0, Offloads::NONE);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    wait_confirmed(&east, 1420..=1420);
}

/// Control rule 11: frames go only to those who are configured for them.
#[test]
fn a_peer_that_is_no_tombolo_gets_no_frames_and_its_frames_are_counted_and_dropped() {
    let (_network, east, west) = two(Offloads::NONE);
    speak_frames(&east, &west);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    west.wait_dropped(DropReason::UnknownFrame, 3);
    wait_until("east to give up", || mtu(&east) == (1420, PathMtuState::Unanswered));
    assert_eq!(mtu(&west), (1420, PathMtuState::Interface));
    assert_eq!(east.dropped(DropReason::UnknownFrame), 0, "west sent none");
    assert!(west.host.try_receive().is_none(), "none came out of the TUN");
}

#[test]
fn tcp_goes_in_smaller_segments_and_nobody_is_told() {
    for offloads in [Offloads::NONE, Offloads::ALL] {
        let (_network, east, west) = searching(1300, offloads);
        east.send(&udp(EAST, WEST, b"hello"));
        west.receive();
        wait_confirmed(&east, 1232..=1240);
        let payload: Vec<u8> = (0..1360_u32).map(|number| (number * 7 % 251) as u8).collect();
        east.send(&tcp(0x18, &[], &payload));
        let mut arrived: Vec<u8> = Vec::new();
        while arrived.len() < payload.len() {
            let packet = west.receive();
            let ip = IpPacket::parse(&packet).unwrap();
            arrived.extend(&ip.payload()[20..]);
        }
        assert_eq!(arrived, payload);
        assert_eq!(east.dropped(DropReason::PacketTooBig), 0);
        assert!(east.host.try_receive().is_none());
    }
}

#[test]
fn a_tcp_super_packet_is_cut_to_the_path() {
    let (_network, east, west) = searching(1300, Offloads::ALL);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    wait_confirmed(&east, 1232..=1240);
    let payload: Vec<u8> = (0..30_000_u32).map(|number| (number * 7 % 251) as u8).collect();
    let mut packet = tcp(0x10, &[], &payload);
    let sum = pseudo_header(&EAST, &WEST, 6, packet.len() - 20).folded();
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::Tcp4,
        gso_size: 1380,
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    east.host.send(header, &packet).unwrap();
    let mut arrived: Vec<u8> = Vec::new();
    while arrived.len() < payload.len() {
        let (header, packet) = west.host.receive(PATIENCE).expect("the stream");
        assert!(usize::from(header.gso_size) <= 1200, "{header:?}");
        arrived.extend(&packet[40..]);
    }
    assert_eq!(arrived, payload);
}

#[test]
fn a_datagram_that_must_stay_whole_is_answered_and_the_answer_names_the_size() {
    let (_network, east, west) = searching(1300, Offloads::NONE);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    wait_confirmed(&east, 1232..=1240);
    let size = mtu(&east).0;
    let fits = dont_fragment(udp(EAST, WEST, &vec![1; usize::from(size) - 28]), true);
    east.send(&fits);
    assert_eq!(west.receive(), fits);
    let packet = dont_fragment(udp(EAST, WEST, &vec![1; usize::from(size) - 27]), true);
    east.send(&packet);
    let answer = east.receive();
    let ip = IpPacket::parse(&answer).unwrap();
    assert_eq!((ip.source(), ip.destination()), (WEST.into(), EAST.into()));
    assert_eq!(ip.payload()[..2], [3, 4]);
    assert_eq!(ip.payload()[6..8], size.to_be_bytes());
    assert_eq!(ip.payload()[8..28], packet[..20]);
    east.wait_dropped(DropReason::PacketTooBig, 1);
    // A flood is answered a little, and then less.
    for _ in 0..500 {
        east.send(&packet);
    }
    east.wait_dropped(DropReason::PacketTooBig, 501);
    let mut answers = 0;
    while east.host.receive(Duration::from_millis(50)).is_some() {
        answers += 1;
    }
    assert!((1..200).contains(&answers), "{answers} answers");
}

#[test]
fn a_datagram_that_may_be_fragmented_is_sent() {
    let (network, east, west) = searching(1300, Offloads::NONE);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    wait_confirmed(&east, 1232..=1240);
    network.set_faults(Faults { path_mtu: 1300, ..Faults::default() });
    let packet = dont_fragment(udp(EAST, WEST, &[1; 1380]), false);
    east.send(&packet);
    assert_eq!(west.receive(), packet);
}

#[test]
fn connections_are_told_what_the_path_carries_from_both_sides() {
    let (_network, east, west) = searching(1300, Offloads::NONE);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    wait_confirmed(&east, 1232..=1240);
    wait_confirmed(&west, 1232..=1240);
    east.send(&tcp(0x02, &[2, 4, 0x05, 0xb4], &[]));
    let syn = west.receive();
    let least = mtu(&east).0.min(mtu(&west).0);
    assert_eq!(syn, tcp(0x02, &[&[2, 4][..], &(least - 40).to_be_bytes()].concat(), &[]));
}

#[test]
fn connections_are_left_alone_where_that_is_switched_off() {
    let network = MemoryNetwork::new(1);
    let start = |number| {
        let options = PathMtuOptions { clamp_mss: false, ..PathMtuOptions::default() };
        Machine::start_with(&network, number, Offloads::NONE, 2, Duration::ZERO, options)
    };
    let (east, west) = (start(1), start(2));
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], true);
    let syn = tcp(0x02, &[2, 4, 0x22, 0xb8], &[]);
    east.send(&syn);
    assert_eq!(west.receive(), syn);
}

/// RFC 8899 §4.3: the data is lost, small packets are not, and nobody says why.
#[test]
fn a_path_that_shrinks_and_recovers_is_followed_both_ways() {
    let network = MemoryNetwork::new(1);
    let start = |number| {
        let options = PathMtuOptions {
            confirm_interval: Duration::from_millis(300),
            raise_interval: Duration::from_millis(600),
            ..PathMtuOptions::default()
        };
        Machine::start_with(&network, number, Offloads::NONE, 2, Duration::ZERO, options)
    };
    let (east, west) = (start(1), start(2));
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], true);
    speak_frames(&east, &west);
    speak_frames(&west, &east);
    let talk_until = |what: &str, holds: &dyn Fn(u16) -> bool| {
        wait_until(what, || {
            east.send(&udp(EAST, WEST, b"small"));
            let (size, state) = mtu(&east);
            state == PathMtuState::Confirmed && holds(size)
        });
    };
    talk_until("the whole path", &|size| size == 1420);
    network.set_faults(Faults { path_mtu: 1300, drops_fragments: true, ..Faults::default() });
    talk_until("the smaller path", &|size| (1232..=1240).contains(&size));
    network.set_faults(Faults::default());
    talk_until("the whole path again", &|size| size == 1420);
}
