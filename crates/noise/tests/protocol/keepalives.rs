//! Keepalives, passive and persistent: requirements 7 and 10.

use crate::harness::{World, millis, seconds};
use tombolo_noise::PrivateKey;
use tombolo_packet::Endpoint;
use tombolo_packet::message::MessageType;

#[test]
fn unanswered_data_is_answered_by_one_keepalive_after_10_s_requirement_7() {
    let mut world = World::established(1);
    world.advance(seconds(12));
    world.wire.clear();
    let start = world.now;
    world.send(0, 1, b"one");
    world.advance(seconds(2));
    world.send(0, 1, b"two");
    world.advance(seconds(90));
    let keepalives = World::times(&world.keepalives(1), start);
    assert_eq!(keepalives.len(), 1, "one answers both: {keepalives:?}");
    assert!((10.0..10.1).contains(&keepalives[0]), "10 s after the first: {keepalives:?}");
    assert_eq!(world.keepalives(0).len(), 0, "a keepalive is not answered");
    assert_eq!(world.wire.len(), 3, "and nothing else is said");
}

#[test]
fn answered_data_needs_no_keepalive_requirement_7() {
    let mut world = World::established(2);
    world.advance(seconds(12));
    world.wire.clear();
    world.send(0, 1, b"question");
    world.advance(seconds(9));
    world.send(1, 0, b"answer");
    world.advance(seconds(9));
    assert_eq!(world.keepalives(1).len(), 0);
    world.advance(seconds(2));
    assert_eq!(world.keepalives(0).len(), 1, "the answer in turn");
}

#[test]
fn a_stream_is_answered_every_10_s_requirement_7() {
    let mut world = World::established(3);
    world.advance(seconds(12));
    world.wire.clear();
    for _ in 0..60 {
        world.send(0, 1, b"stream");
        world.advance(millis(1000));
    }
    assert_eq!(world.keepalives(1).len(), 5);
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 0);
}

#[test]
fn persistent_keepalives_come_in_their_interval_requirement_10() {
    let mut world = World::established(4);
    world.advance(seconds(12));
    world.wire.clear();
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    let start = world.now;
    world.nodes[0].device.set_persistent_keepalive(id, Some(25), now, &mut world.rng);
    world.run_outputs(0);
    world.advance(seconds(80));
    let times = World::times(&world.keepalives(0), start);
    assert_eq!(times.len(), 4, "at once, and every 25 s: {times:?}");
    for (count, time) in times.iter().enumerate() {
        assert!((time - 25.0 * count as f64).abs() < 0.1, "{times:?}");
    }
}

#[test]
fn any_traffic_puts_the_persistent_keepalive_off_requirement_10() {
    let mut world = World::established(5);
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_persistent_keepalive(id, Some(5), now, &mut world.rng);
    world.run_outputs(0);
    world.wire.clear();
    for _ in 0..20 {
        world.advance(seconds(2));
        world.send(0, 1, b"sent");
        world.advance(seconds(2));
        world.send(1, 0, b"received");
    }
    assert_eq!(world.keepalives(0).len(), 0, "never 5 s without traffic");
    let start = world.now;
    world.advance(seconds(6));
    let times = World::times(&world.keepalives(0), start);
    assert_eq!(times.len(), 1, "5 s after the last: {times:?}");
    assert!((5.0..5.1).contains(&times[0]), "{times:?}");
}

#[test]
fn a_persistent_keepalive_makes_the_session_it_needs_requirement_10() {
    let mut world = World::pair(6);
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_persistent_keepalive(id, Some(25), now, &mut world.rng);
    world.run_outputs(0);
    world.advance(seconds(1));
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 1);
    assert_eq!(world.keepalives(0).len(), 1);
    // And keeps it over days.
    world.advance(seconds(24 * 3600));
    let now = world.now;
    assert!(world.link(0, 1).sending_keypair(now).is_some());
    assert!(world.link(0, 1).last_received().unwrap().saturating_duration_since(now) <= seconds(200));
}

#[test]
fn it_comes_back_after_the_handshake_was_given_up_requirement_10() {
    let mut world = World::pair(7);
    world.faults.loss = 1000;
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_persistent_keepalive(id, Some(25), now, &mut world.rng);
    world.run_outputs(0);
    world.advance(seconds(600));
    world.faults.loss = 0;
    world.advance(seconds(31));
    let now = world.now;
    assert!(world.link(0, 1).sending_keypair(now).is_some());
}

#[test]
fn nothing_is_sent_while_the_link_is_down_requirement_10() {
    let mut world = World::established(8);
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_persistent_keepalive(id, Some(25), now, &mut world.rng);
    world.run_outputs(0);
    world.advance(seconds(1));
    world.nodes[0].device.set_link_up(false, now, &mut world.rng);
    world.run_outputs(0);
    world.wire.clear();
    for _ in 0..50 {
        // The other side tries to reach it, too.
        world.send(1, 0, b"are you there?");
        world.advance(seconds(4));
    }
    assert_eq!(world.wire.iter().filter(|sent| sent.from == 0).count(), 0);
    let start = world.now;
    let now = world.now_of(0);
    world.nodes[0].device.set_link_up(true, now, &mut world.rng);
    world.run_outputs(0);
    world.advance(millis(200));
    assert_eq!(
        World::times(&world.sent(0, MessageType::Initiation), start),
        [0.0],
        "fires when the link comes up"
    );
    assert_eq!(world.keepalives(0).len(), 1);
}

#[test]
fn nothing_is_sent_without_a_private_key_and_all_at_once_with_it_requirement_10() {
    let mut world = World::pair(9);
    let private_key = world.nodes[0].private_key.clone();
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_private_key(None, now, &mut world.rng);
    world.nodes[0].device.set_persistent_keepalive(id, Some(25), now, &mut world.rng);
    world.send(0, 1, b"waits for the key");
    world.send(1, 0, b"is met with silence");
    world.advance(seconds(100));
    assert_eq!(world.wire.iter().filter(|sent| sent.from == 0).count(), 0);
    let now = world.now_of(0);
    world.nodes[0].device.set_private_key(Some(private_key), now, &mut world.rng);
    world.run_outputs(0);
    world.advance(millis(200));
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 1);
    assert_eq!(world.nodes[1].delivered.len(), 1, "what was staged went out");
}

#[test]
fn a_persistent_keepalive_does_not_end_for_want_of_an_endpoint_requirement_10() {
    let mut world = World::pair(11);
    let private_key = world.nodes[0].private_key.clone();
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_private_key(None, now, &mut world.rng);
    world.nodes[0].device.set_endpoint(id, None, now, &mut world.rng);
    world.nodes[0].device.set_persistent_keepalive(id, Some(25), now, &mut world.rng);
    world.nodes[0].device.set_private_key(Some(private_key), now, &mut world.rng);
    world.run_outputs(0);
    // Long past the first attempts.
    world.advance(seconds(1_000));
    assert_eq!(world.wire.len(), 0);
    let (endpoint, now) = (Endpoint::new(world.nodes[1].address), world.now_of(0));
    world.nodes[0].device.set_endpoint(id, Some(endpoint), now, &mut world.rng);
    world.run_outputs(0);
    world.advance(seconds(26));
    let now = world.now;
    assert!(world.link(0, 1).sending_keypair(now).is_some());
}

#[test]
fn a_changed_private_key_starts_handshakes_at_once_requirement_25() {
    let mut world = World::established(10);
    let changed = PrivateKey::generate(&mut world.rng);
    let public_key = changed.public();
    let now = world.now_of(0);
    let old = world.link(0, 1).sending_keypair(world.now).unwrap();
    world.nodes[0].device.set_private_key(Some(changed.clone()), now, &mut world.rng);
    assert!(!old.can_send(world.now) && !old.can_receive(world.now));
    world.nodes[0].private_key = changed;
    world.run_outputs(0);
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 1);
    // The other side is told of the new key before the next attempt.
    world.nodes[1].device.add_peer(public_key).unwrap();
    world.advance(seconds(6));
    let now = world.now;
    assert!(world.link(0, 1).sending_keypair(now).is_some());
}
