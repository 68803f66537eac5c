//! When keys are renewed, refused and erased: requirements 2, 3, 4, 8, 9 and 12.

use crate::harness::{World, millis, seconds};
use tombolo_noise::{Output, SessionState};
use tombolo_packet::DropReason;
use tombolo_packet::message::MessageType;

#[test]
fn only_the_initiator_renews_after_120_s_on_send_requirement_3() {
    let mut world = World::established(1);
    let start = world.now;
    for _ in 0..119 {
        world.advance(seconds(1));
        world.send(0, 1, b"there");
        world.send(1, 0, b"and back");
    }
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 0, "not before 120 s");
    for _ in 0..3 {
        world.advance(seconds(1));
        world.send(1, 0, b"and back");
        world.send(0, 1, b"there");
    }
    let initiations = world.sent(0, MessageType::Initiation);
    assert_eq!(initiations.len(), 1, "once, though it goes on sending");
    let after = initiations[0].at.saturating_duration_since(start);
    assert!(after >= seconds(119) && after <= seconds(121), "{after:?}");
    assert_eq!(world.sent(1, MessageType::Initiation).len(), 0, "never by the responder");
}

#[test]
fn the_responder_alone_sending_does_not_renew_requirement_3() {
    let mut world = World::established(2);
    // The initiator answers with keepalives only until 115 s, and then not at all.
    for _ in 0..160 {
        world.advance(seconds(1));
        world.send(1, 0, b"one way");
        assert_eq!(world.sent(1, MessageType::Initiation).len(), 0);
    }
}

#[test]
fn the_initiator_renews_at_165_s_on_receive_requirement_3() {
    for (after, expected) in [(164, 0), (166, 1)] {
        let mut world = World::established(3);
        world.advance(seconds(after));
        world.send(1, 0, b"late");
        world.advance(seconds(1));
        assert_eq!(world.sent(0, MessageType::Initiation).len(), expected, "data received at {after} s");
        assert_eq!(world.sent(1, MessageType::Initiation).len(), 0);
    }
}

#[test]
fn nothing_is_sent_under_keys_of_180_s_requirement_4() {
    let mut world = World::established(4);
    world.advance(seconds(181));
    world.wire.clear();
    world.send(1, 0, b"too late for these keys");
    assert!(world.wire.iter().all(|sent| sent.kind == MessageType::Initiation));
    world.advance(seconds(1));
    assert_eq!(world.nodes[0].delivered.last().unwrap().1[..15], *b"too late for th", "under new keys");
}

#[test]
fn nothing_is_received_under_keys_of_180_s_requirement_4() {
    let mut world = World::established(5);
    world.advance(seconds(179));
    world.faults.delay = seconds(2);
    world.send(1, 0, b"slow");
    world.faults.delay = millis(10);
    let before = world.nodes[0].delivered.len();
    world.advance(seconds(3));
    assert_eq!(world.nodes[0].delivered.len(), before);
    assert_eq!(world.nodes[0].dropped(DropReason::ExpiredKeypair), 1);
}

#[test]
fn an_unanswered_send_brings_a_handshake_after_15_s_requirement_8() {
    let mut world = World::established(6);
    world.faults.loss = 1000;
    world.advance(seconds(3));
    let start = world.now;
    for _ in 0..14 {
        world.send(0, 1, b"anyone?");
        world.advance(seconds(1));
    }
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 0);
    world.advance(seconds(3));
    let initiations = World::times(&world.sent(0, MessageType::Initiation), start);
    assert_eq!(initiations.len(), 1);
    assert!((15.0..=15.334).contains(&initiations[0]), "counted from the first send: {initiations:?}");
}

#[test]
fn an_answer_restarts_the_15_s_requirement_8() {
    let mut world = World::established(7);
    for _ in 0..10 {
        world.send(0, 1, b"ping");
        world.advance(seconds(8));
        world.send(1, 0, b"pong");
        world.advance(seconds(1));
    }
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 0, "no spurious handshake in 90 s");
    // And a stream in one direction is answered by keepalives alone.
    for _ in 0..20 {
        world.send(0, 1, b"stream");
        world.advance(seconds(1));
    }
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 0);
}

#[test]
fn all_keys_are_erased_after_540_s_requirement_9() {
    let mut world = World::established(8);
    let keypair = {
        let link = world.link(0, 1);
        let keypair = link.sending_keypair(world.now).unwrap();
        std::sync::Arc::downgrade(&keypair)
    };
    world.advance(seconds(538));
    assert!(keypair.upgrade().is_some(), "kept until then");
    assert_eq!(world.nodes[0].device.index_table().len(), 1);
    world.advance(seconds(3));
    assert!(keypair.upgrade().is_none(), "nobody holds the keys any more");
    for node in 0..2 {
        assert!(world.nodes[node].device.index_table().is_empty());
        assert_eq!(world.nodes[node].device.poll_timeout(), None, "an idle peer wakes nobody up");
    }
}

#[test]
fn a_suspended_machine_starts_over_requirement_9() {
    let mut world = World::established(9);
    let old = world.link(0, 1).sending_keypair(world.now).unwrap();
    let now = world.now_of(0);
    world.nodes[0].device.expire_all(now, &mut world.rng);
    assert!(old.reserve(1).is_err(), "a worker that still holds the keypair gets no counter");
    world.run_outputs(0);
    world.advance(seconds(6));
    let new = world.link(0, 1).sending_keypair(world.now).unwrap();
    assert_ne!(old.local_index(), new.local_index());
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 1, "at once, since there was a session");
}

#[test]
fn the_responder_waits_for_confirmation_requirement_12() {
    let mut world = World::pair(10);
    let id = world.peer(0, 1);
    let now = world.now_of(0);
    world.nodes[0].device.initiate(id, now, &mut world.rng);
    world.run_outputs(0);
    world.advance(millis(10));
    // The response is out; the initiator has not seen it yet.
    assert_eq!(world.sent(1, MessageType::Response).len(), 1);
    world.send(1, 0, b"held back");
    assert_eq!(world.sent(1, MessageType::Transport).len(), 0);
    let responder = world.peer(1, 0);
    let now = world.now_of(1);
    assert_eq!(world.nodes[1].device.peer_status(responder, now).unwrap().state, SessionState::Connecting);
    world.advance(millis(100));
    assert_eq!(world.keepalives(0).len(), 1, "the initiator had nothing to say and confirms all the same");
    assert_eq!(world.nodes[0].delivered.len(), 1);
    assert_eq!(
        world.sent(1, MessageType::Initiation).len(),
        0,
        "the wish for a handshake was served by this one"
    );
    assert_eq!(world.nodes[1].device.peer_status(responder, now).unwrap().state, SessionState::Established);
}

#[test]
fn what_is_under_way_survives_the_change_of_keys_requirement_12() {
    let mut world = World::established(11);
    world.faults.delay = seconds(1);
    world.send(0, 1, b"old keys, to the responder");
    world.send(1, 0, b"old keys, to the initiator");
    world.faults.delay = millis(10);
    world.advance(millis(1));
    let old = world.link(0, 1).sending_keypair(world.now).unwrap().local_index();
    world.advance(seconds(0));
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    // Far enough from the first handshake.
    world.nodes[0].device.initiate(id, now, &mut world.rng);
    world.run_outputs(0);
    world.advance(millis(900));
    let (before_0, before_1) = (world.nodes[0].delivered.len(), world.nodes[1].delivered.len());
    world.advance(seconds(6));
    assert_ne!(world.link(0, 1).sending_keypair(world.now).unwrap().local_index(), old);
    assert_eq!(world.nodes[0].delivered.len(), before_0 + 1);
    assert_eq!(world.nodes[1].delivered.len(), before_1 + 1);
}

#[test]
fn a_confirmation_still_under_way_counts_when_a_new_initiation_arrives_requirement_12() {
    let mut world = World::pair(12);
    world.nodes[1].held_events = Some(Vec::new());
    world.send(0, 1, b"confirms");
    world.advance(millis(100));
    assert_eq!(world.nodes[1].delivered.len(), 1, "the worker delivered it");
    let confirmed = world.link(0, 1).sending_keypair(world.now).unwrap();
    assert!(world.link(1, 0).sending_keypair(world.now).is_none(), "the control thread has not heard of it");
    // The initiator restarts the handshake, as after a restart of its own.
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.expire_all(now, &mut world.rng);
    world.nodes[0].device.initiate(id, now, &mut world.rng);
    world.run_outputs(0);
    world.advance(millis(10));
    let current = world.link(1, 0).sending_keypair(world.now).unwrap();
    assert_eq!(current.remote_index(), confirmed.local_index(), "promoted by the initiation");
    world.release_events(1);
    world.advance(millis(100));
    world.send(1, 0, b"and the new one works");
    world.advance(millis(100));
    assert_eq!(world.nodes[0].delivered.len(), 1);
}

#[test]
fn a_wish_that_a_session_has_overtaken_only_flushes_requirement_12() {
    let mut world = World::established(13);
    // A worker found no keypair, staged, and was overtaken by the session.
    let id = world.peer(0, 1);
    world.nodes[0].staged.push_back((id, b"staged in between".to_vec()));
    let event = world.link(0, 1).want_handshake();
    assert!(event.is_some());
    world.report(0, event);
    world.advance(millis(100));
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 0);
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::FlushStaged { .. })), 1);
    assert_eq!(&world.nodes[1].delivered.last().unwrap().1[..17], b"staged in between");
}
