//! Members and strangers through whole engines: control rules 8 to 10 and 16.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{EAST, Machine, PATIENCE, PORT, WEST, udp, wait_until};
use tombolo_engine::{
    AllowedIpChange, EngineEvent, MemberChange, Path, PeerChange, SendFrameError, Session, Transaction,
};
use tombolo_noise::clock::Instant;
use tombolo_noise::{MembershipOptions, Standing};
use tombolo_packet::DropReason;
use tombolo_tun::Offloads;
use tombolo_udp::memory::MemoryNetwork;

/// The next session that the control plane of a machine hears of.
fn session(machine: &Machine) -> (Standing, Session) {
    let events = machine.events.lock().unwrap();
    loop {
        match events.recv_timeout(PATIENCE).expect("a session") {
            EngineEvent::MemberSession { standing, session, .. } => return (standing, session),
            _ => continue,
        }
    }
}

fn change(machine: &Machine, other: &Machine, member: MemberChange, network: &str) {
    let mut change = PeerChange::new(other.public_key);
    change.member = Some(member);
    change.allowed_ips = vec![AllowedIpChange { network: network.parse().unwrap(), remove: false }];
    change.initiate = member == MemberChange::Unverified;
    change.endpoint = change.initiate.then(|| SocketAddr::new(other.outer, PORT));
    machine.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
}

const FOREVER: MemberChange = MemberChange::Verified { not_after: Instant::from_nanos(u64::MAX) };

/// Sends until it arrives: a slow machine may outlast a provisional tunnel, and then takes a handshake more.
fn arrives(from: &Machine, to: &Machine, packet: &[u8]) {
    wait_until("a packet arrives", || {
        from.send(packet);
        to.host.receive(Duration::from_millis(200)).is_some_and(|received| received.1 == packet)
    });
}

#[test]
fn a_stranger_is_heard_promoted_and_cut_off_control_rules_8_9_and_16() {
    let network = MemoryNetwork::new(7);
    let server = Machine::start(&network, 1, Offloads::NONE);
    let node = Machine::start(&network, 2, Offloads::NONE);
    server.handle.set_membership(Some(MembershipOptions::server())).unwrap();
    node.handle.set_membership(Some(MembershipOptions::node())).unwrap();
    assert_eq!(server.handle.send_control(node.public_key, vec![]), Err(SendFrameError::UnknownPeer));

    change(&node, &server, MemberChange::Unverified, "10.0.0.1/32");
    let (ours, theirs) = (session(&node), session(&server));
    assert_eq!((ours.0, theirs.0), (Standing::Unverified, Standing::Provisional));
    assert!(ours.1.initiator && !theirs.1.initiator);
    assert_eq!(ours.1.handshake_hash, theirs.1.handshake_hash, "what the join proof signs");
    assert_eq!(node.handle.send_control(server.public_key, vec![0; 1025]), Err(SendFrameError::TooLong));
    assert_eq!(node.handle.send_control(server.public_key, vec![0xf1, 3, 0, 1, 0xa0]), Ok(()));
    assert!(server.dropped(DropReason::CookieRequired) >= 1);
    let heard = {
        let events = server.events.lock().unwrap();
        std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok()).find_map(|event| match event {
            EngineEvent::ControlFrame { public_key, path, bytes, .. } => Some((public_key, path, bytes)),
            _ => None,
        })
    };
    let way = Some(Path::Direct(SocketAddr::new(node.outer, PORT)));
    assert_eq!(heard, Some((node.public_key, way, [0xf1, 3, 0, 1, 0xa0].into())));

    // The node trusts the server, and sends more than the server keeps of a stranger.
    change(&node, &server, FOREVER, "10.0.0.1/32");
    let packet = udp(WEST, EAST, b"too early");
    wait_until("packets of a stranger are held or refused", || {
        node.send(&packet);
        server.dropped(DropReason::TooManyHeld) + server.dropped(DropReason::UnknownReceiverIndex) > 0
    });
    assert!(server.host.receive(Duration::ZERO).is_none());

    change(&server, &node, FOREVER, "10.0.0.2/32");
    arrives(&node, &server, &udp(WEST, EAST, b"let in"));
    arrives(&server, &node, &udp(EAST, WEST, b"welcome"));

    assert_eq!(server.handle.revoke(node.public_key), Ok(true));
    assert_eq!(server.handle.revoke(node.public_key), Ok(false));
    assert!(server.handle.status().unwrap().peers.is_empty());
    let before = server.dropped(DropReason::UnknownReceiverIndex);
    node.send(&udp(WEST, EAST, b"cut off"));
    server.wait_dropped(DropReason::UnknownReceiverIndex, before + 1);
}

#[test]
fn what_comes_before_the_promotion_is_delivered_with_it_or_dropped_control_rule_9() {
    for verified in [true, false] {
        let network = MemoryNetwork::new(9);
        let server = Machine::start(&network, 1, Offloads::NONE);
        let node = Machine::start(&network, 2, Offloads::NONE);
        // Unverified peers, as nodes are to each other at first, live as long as the test takes.
        change(&node, &server, FOREVER, "10.0.0.1/32");
        change(&server, &node, MemberChange::Unverified, "10.0.0.2/32");
        session(&node);
        for number in 0..12 {
            node.send(&udp(WEST, EAST, &[number]));
        }
        server.wait_dropped(DropReason::TooManyHeld, 4);
        assert!(server.host.receive(Duration::ZERO).is_none());
        if verified {
            change(&server, &node, FOREVER, "10.0.0.2/32");
            let first = server.receive();
            for number in 1..8 {
                assert_eq!(server.receive(), udp(WEST, EAST, &[number]));
            }
            assert_eq!(first, udp(WEST, EAST, &[0]));
            arrives(&node, &server, &udp(WEST, EAST, b"at once"));
        } else {
            assert_eq!(server.handle.reject(node.public_key), Ok(true));
            assert_eq!(server.dropped(DropReason::NotAuthorised), 8);
            assert!(server.host.receive(Duration::ZERO).is_none());
        }
    }
}

#[test]
fn the_status_says_what_a_peer_is_and_until_when_control_rule_9() {
    let network = MemoryNetwork::new(10);
    let [server, node] = [1, 2].map(|number| Machine::start(&network, number, Offloads::NONE));
    let standing = || {
        let peers = server.handle.status().unwrap().peers;
        (peers[0].standing, peers[0].not_after)
    };
    change(&server, &node, MemberChange::Unverified, "10.0.0.2/32");
    assert_eq!(standing(), (Standing::Unverified, None));
    let not_after = Instant::from_nanos(7);
    change(&server, &node, MemberChange::Verified { not_after }, "10.0.0.2/32");
    assert_eq!(standing(), (Standing::Member, Some(not_after)));
    server.add_peer(&node, &[], false);
    assert_eq!(standing(), (Standing::Static, None));
}

#[test]
fn a_replaced_configuration_keeps_members_and_a_configured_key_is_static_control_rule_9() {
    let network = MemoryNetwork::new(8);
    let server = Machine::start(&network, 1, Offloads::NONE);
    let node = Machine::start(&network, 2, Offloads::NONE);
    change(&server, &node, FOREVER, "10.0.0.2/32");
    server.handle.apply(Transaction { replace_peers: true, ..Transaction::default() }).unwrap();
    assert_eq!(server.handle.status().unwrap().peers.len(), 1);
    server.add_peer(&node, &["10.0.0.2/32"], true);
    assert_eq!(server.handle.revoke(node.public_key), Ok(false), "static peers outrank memberships");
    server.handle.apply(Transaction { replace_peers: true, ..Transaction::default() }).unwrap();
    assert!(server.handle.status().unwrap().peers.is_empty());
}
