//! Members and strangers through whole engines: control rules 8 to 10 and 16.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{EAST, Machine, PATIENCE, PORT, WEST, udp, wait_until};
use tombolo_engine::{
    AllowedIpChange, EngineEvent, Instruction, MemberChange, Path, PeerChange, Session, Stopped, Transaction,
};
use tombolo_noise::clock::Instant;
use tombolo_noise::{MembershipOptions, Standing};
use tombolo_packet::DropReason;
use tombolo_tun::Offloads;
use tombolo_udp::memory::{MemoryNetwork, MemorySocket};
use tombolo_udp::{RECEIVE_SLOT, SendOutcome, Socket, Transmit};

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
    // To nobody that it knows.
    server.say(node.public_key, vec![]);

    change(&node, &server, MemberChange::Unverified, "10.0.0.1/32");
    let (ours, theirs) = (session(&node), session(&server));
    assert_eq!((ours.0, theirs.0), (Standing::Unverified, Standing::Provisional));
    assert!(ours.1.initiator && !theirs.1.initiator);
    assert_eq!(ours.1.handshake_hash, theirs.1.handshake_hash, "what the join proof signs");
    // Longer than any frame: what is heard is what comes next.
    node.say(server.public_key, vec![0; 1025]);
    node.say(server.public_key, vec![0xf1, 3, 0, 1, 0xa0]);
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

/// How many frames the control plane of a machine has heard, and lets go of.
fn heard(machine: &Machine) -> usize {
    let events = machine.events.lock().unwrap();
    events.try_iter().filter(|event| matches!(event, EngineEvent::ControlFrame { .. })).count()
}

#[test]
fn a_stranger_says_a_bounded_number_of_frames_control_rule_8() {
    let network = MemoryNetwork::new(12);
    let server = Machine::start(&network, 1, Offloads::NONE);
    let node = Machine::start(&network, 2, Offloads::NONE);
    server.handle.set_membership(Some(MembershipOptions::server())).unwrap();
    change(&node, &server, MemberChange::Unverified, "10.0.0.1/32");
    session(&node);
    let began = tombolo_engine::now().boot;
    let elapsed = || tombolo_engine::now().boot.saturating_duration_since(began);
    let mut sent = 0;
    while server.dropped(DropReason::ProvisionalBudget) < 200 {
        assert!(elapsed() < PATIENCE, "a stranger may say all that it likes");
        node.say(server.public_key, vec![0xf1, 3, 0, 1, 0xa0]);
        sent += 1;
    }
    // A second session of the stranger has a burst of its own.
    let sessions = 1 + elapsed().as_secs() as usize / 5;
    let allowed = 64 * (sessions + elapsed().as_secs() as usize + 1);
    assert!(heard(&server) <= allowed && sent >= 200);
    // A member is heard.
    wait_until("the stranger is let in", || {
        change(&server, &node, FOREVER, "10.0.0.2/32");
        let before = server.dropped(DropReason::ProvisionalBudget);
        for _ in 0..100 {
            node.say(server.public_key, vec![0xf1, 3, 0, 1, 0xa0]);
        }
        heard(&server) > 0 && server.dropped(DropReason::ProvisionalBudget) == before
    });
}

/// Hands on what has come to `from`, with `by` for each message's first byte.
fn hand_on(from: &MemorySocket, by: impl Fn(u8) -> (SocketAddr, usize), out: &[&MemorySocket]) {
    let (mut arena, mut received) = (vec![0; 8 * RECEIVE_SLOT], Vec::new());
    from.receive(&mut arena, &mut received).unwrap();
    for read in &received {
        for message in read.segments(&arena) {
            let (to, socket) = by(message[0]);
            out[socket].send(&[Transmit::new(to, message)], &mut SendOutcome::default());
        }
    }
}

#[test]
fn a_session_is_where_its_handshake_was_and_not_where_its_first_message_seems_to_come_from_control_rule_10() {
    let network = MemoryNetwork::new(14);
    let server = Machine::start(&network, 1, Offloads::NONE);
    let node = Machine::start(&network, 2, Offloads::NONE);
    server.handle.set_membership(Some(MembershipOptions::server())).unwrap();
    // The node speaks to somebody who hands its handshakes on from one address, and its data from that of a victim.
    let [middle, own, victim] = [7, 8, 9].map(|number| network.socket(&[[192, 0, 2, number].into()], PORT));
    let place = |number: u8| SocketAddr::new([192, 0, 2, number].into(), PORT);
    change(&server, &node, FOREVER, "10.0.0.2/32");
    change(&node, &server, FOREVER, "10.0.0.1/32");
    let mut call = PeerChange::new(server.public_key);
    (call.endpoint, call.initiate) = (Some(place(7)), true);
    node.handle.apply(Transaction { peers: vec![call], ..Transaction::default() }).unwrap();
    let mut told = None;
    wait_until("the session is told", || {
        hand_on(&middle, |kind| (place(1), usize::from(kind == 4)), &[&own, &victim]);
        hand_on(&own, |_| (place(2), 0), &[&middle]);
        let events = server.events.lock().unwrap();
        told = told.or(events.try_iter().find_map(|event| match event {
            EngineEvent::MemberSession { path, .. } => Some(path),
            _ => None,
        }));
        told.is_some()
    });
    assert_eq!(told.flatten(), Some(Path::Direct(place(8))));
    // The engine has moved with the message, and no more than three times what came goes to the victim.
    let peers = server.handle.status().unwrap().peers;
    assert_eq!(peers[0].endpoint, Some(place(9)));
    wait_until("there is an end", || {
        server.send(&udp(EAST, WEST, &[7; 1000]));
        server.dropped(DropReason::PathUnproven) > 0
    });
    // A frame beyond that waits, and goes when the control plane knows who is there.
    let received = |long: usize| {
        let (mut arena, mut received) = (vec![0; 8 * RECEIVE_SLOT], Vec::new());
        victim.receive(&mut arena, &mut received).unwrap();
        received.iter().flat_map(|read| read.segments(&arena)).filter(|message| message.len() > long).count()
    };
    received(0);
    server.say(node.public_key, vec![0xf1; 1024]);
    assert_eq!(server.handle.status().unwrap().peers.len(), 1, "what was said before has been done");
    assert_eq!(received(0), 0);
    server.handle.instruct(vec![Instruction::PathValidated(node.public_key, place(9))]).unwrap();
    wait_until("the frame", || received(1024) == 1);
}

#[test]
fn frames_wait_where_they_are_bounded_while_the_control_plane_is_busy_control_rule_11() {
    let network = MemoryNetwork::new(13);
    let server = Machine::start(&network, 1, Offloads::NONE);
    let node = Machine::start(&network, 2, Offloads::NONE);
    change(&server, &node, FOREVER, "10.0.0.2/32");
    change(&node, &server, MemberChange::Unverified, "10.0.0.1/32");
    session(&node);
    // Nobody takes the events: a member that goes on fills 8192 and its own places, and not the memory.
    wait_until("there is an end", || {
        for _ in 0..200 {
            node.say(server.public_key, vec![0xf1, 3, 0, 1, 0xa0]);
        }
        server.dropped(DropReason::FrameQueueFull) > 0
    });
    assert!(heard(&server) <= 8192 + 1024);
    wait_until("it goes on when they are taken", || {
        node.say(server.public_key, vec![0xf1, 3, 0, 1, 0xa0]);
        heard(&server) > 0
    });
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

/// The next frames that the control plane of a machine hears of, without their headers.
fn frames(machine: &Machine, count: usize) -> Vec<u8> {
    let events = machine.events.lock().unwrap();
    let told = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok());
    let bodies = told.filter_map(|event| match event {
        EngineEvent::ControlFrame { bytes, .. } => bytes.last().copied(),
        _ => None,
    });
    bodies.take(count).collect()
}

#[test]
fn what_is_handed_over_together_is_done_in_order() {
    let network = MemoryNetwork::new(15);
    let server = Machine::start(&network, 1, Offloads::NONE);
    let node = Machine::start(&network, 2, Offloads::NONE);
    change(&node, &server, FOREVER, "10.0.0.1/32");
    change(&server, &node, MemberChange::Unverified, "10.0.0.2/32");
    session(&node);
    let frame = |number| Instruction::Frame {
        public_key: node.public_key,
        path: None,
        frame: vec![0xf1, 3, 0, 1, number],
    };
    let promoted = PeerChange { member: Some(FOREVER), ..PeerChange::new(node.public_key) };
    let together: Vec<Instruction> =
        std::iter::once(Instruction::Peer(Box::new(promoted))).chain((0..40).map(frame)).collect();
    server.handle.instruct(together).unwrap();
    assert_eq!(frames(&node, 40), Vec::from_iter(0..40));
    arrives(&server, &node, &udp(EAST, WEST, b"a member since"));
    // Of the two the first alone is sent.
    server.handle.instruct(vec![frame(50), Instruction::Revoke(node.public_key), frame(51)]).unwrap();
    assert_eq!(frames(&node, 1), [50]);
    wait_until("the peer is gone", || server.handle.status().unwrap().peers.is_empty());
    let events = node.events.lock().unwrap();
    assert!(!events.try_iter().any(|event| matches!(event, EngineEvent::ControlFrame { .. })));
}

#[test]
fn whoever_hands_over_without_end_waits_and_a_stopped_engine_says_so() {
    let network = MemoryNetwork::new(16);
    let server = Machine::start(&network, 1, Offloads::NONE);
    let (nobody, handle) = (tombolo_noise::PrivateKey::from_bytes([9; 32]).public(), server.handle.clone());
    let lost = || Instruction::Frame { public_key: nobody, path: None, frame: vec![0xf1, 3, 0, 0] };
    for _ in 0..100 {
        handle.instruct((0..64).map(|_| lost()).collect()).unwrap();
    }
    server.engine.stop();
    assert_eq!(handle.instruct(vec![lost()]), Err(Stopped));
}
