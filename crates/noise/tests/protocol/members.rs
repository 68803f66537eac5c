//! What moves with a member and what does not: control rules 10, 18 and 19.

use crate::harness::{EXPLORING, World, millis, seconds};
use std::net::SocketAddr;
use std::time::Duration;
use tombolo_noise::clock::UnixTime;
use tombolo_noise::{Output, Tai64n};
use tombolo_packet::DropReason;
use tombolo_packet::message::MessageType;

fn received_timestamp(world: &World, node: usize, of: usize) -> Option<Tai64n> {
    let (id, now) = (world.peer(node, of), world.now_of(node));
    world.nodes[node].device.peer_status(id, now).unwrap().last_received_timestamp
}

fn remote(world: &World, node: usize, of: usize) -> SocketAddr {
    world.link(node, of).endpoint().unwrap().remote
}

/// A fresh initiation of node 1 that never reached the server.
fn captured_initiation(world: &mut World) -> Vec<u8> {
    world.advance(seconds(6));
    world.wire.clear();
    world.faults.loss = 1000;
    world.initiate(1, 0);
    world.faults.loss = 0;
    world.sent(1, MessageType::Initiation).remove(0).contents
}

#[test]
fn a_replayed_initiation_of_a_member_moves_nothing_control_rule_10() {
    let mut world = World::joined(1, 1);
    let initiation = captured_initiation(&mut world);
    let (before, home) = (received_timestamp(&world, 0, 1), remote(&world, 0, 1));
    let current = world.link(0, 1).session_keypair(world.now).unwrap().epoch();
    let received = world.link(0, 1).last_received();
    let attacker: SocketAddr = "198.51.100.66:1".parse().unwrap();
    let server = world.nodes[0].address;
    for _ in 0..3 {
        world.inject(attacker, server, initiation.clone(), Duration::ZERO);
        world.advance(millis(100));
    }
    assert_eq!(world.sent(0, MessageType::Response).len(), 1, "it is a good one, once");
    assert_eq!(world.nodes[0].dropped(DropReason::StaleTimestamp), 2);
    assert_eq!(received_timestamp(&world, 0, 1), before);
    assert_eq!(remote(&world, 0, 1), home);
    assert_eq!(world.link(0, 1).session_keypair(world.now).unwrap().epoch(), current);
    assert_eq!(world.link(0, 1).last_received(), received, "nor does the peer seem to be alive for it");
    // The live session goes on, both ways, and the member's next handshake is heard.
    world.send(0, 1, b"still there");
    world.send(1, 0, b"so am I");
    world.advance(millis(100));
    assert_eq!((world.nodes[0].delivered.len(), world.nodes[1].delivered.len()), (1, 1));
    world.advance(seconds(6));
    world.initiate(1, 0);
    world.advance(seconds(1));
    assert!(world.link(0, 1).session_keypair(world.now).unwrap().epoch() > current);
    assert!(received_timestamp(&world, 0, 1) > before);
}

#[test]
fn a_replay_does_not_put_out_the_session_that_the_member_is_about_to_use_control_rule_10() {
    let mut world = World::joined(2, 1);
    world.advance(seconds(6));
    world.wire.clear();
    world.initiate(1, 0);
    world.advance(millis(11));
    let initiation = world.sent(1, MessageType::Initiation).remove(0).contents;
    let (attacker, server) = ("198.51.100.66:1".parse().unwrap(), world.nodes[0].address);
    // After the response left, and before the member's first message under the new keys.
    world.inject(attacker, server, initiation, Duration::ZERO);
    world.advance(millis(100));
    world.send(1, 0, b"new keys");
    world.advance(millis(100));
    assert_eq!(world.nodes[0].delivered.len(), 1);
    assert_eq!(world.nodes[0].dropped(DropReason::UnknownReceiverIndex), 0);
    assert_eq!(world.sent(0, MessageType::Response).len(), 1);
}

#[test]
fn an_initiation_recorded_before_a_restart_is_refused_after_it_control_rule_10() {
    let mut world = World::server(5, 1);
    world.initiate(1, 0);
    world.advance(seconds(1));
    world.send_control(1, 0, b"show");
    world.advance(millis(100));
    assert!(world.promote(0, 1, seconds(100_000)) && world.promote(1, 0, seconds(100_000)));
    let (key, member) = (world.nodes[1].public_key(), world.nodes[1].address);
    let last = received_timestamp(&world, 0, 1).unwrap();
    // With the cookie that it was asked for, which is good for two minutes.
    let initiation = world.sent(1, MessageType::Initiation).pop().unwrap().contents;
    world.wire.clear();
    world.faults.loss = 1000;
    let forget = |world: &mut World| {
        let id = world.nodes[0].device.peer_by_key(&key).unwrap();
        world.nodes[0].device.remove_peer(id);
    };
    let replay = |world: &mut World| {
        world.receive(0, member, initiation.clone());
        world.run_outputs(0);
        world.sent(0, MessageType::Response).len()
    };
    // A member that was let go, as after a while without traffic.
    forget(&mut world);
    assert_eq!((replay(&mut world), world.nodes[0].dropped(DropReason::StaleTimestamp)), (0, 1));
    // A restart forgets everything: what the disk had makes the difference.
    let now = world.now_of(0);
    world.nodes[0].device.set_membership(None, now);
    world.set_membership(0, tombolo_noise::MembershipOptions::server());
    assert_eq!(replay(&mut world), 1, "it is a good one");
    forget(&mut world);
    world.nodes[0].device.remember_timestamp(key, last);
    assert_eq!((replay(&mut world), world.nodes[0].dropped(DropReason::StaleTimestamp)), (1, 2));
    assert!(world.nodes[0].device.peer_by_key(&key).is_none(), "nor has it a place of a stranger's");
    // The member itself comes in.
    world.faults.loss = 0;
    world.advance(seconds(10));
    world.initiate(1, 0);
    world.advance(seconds(1));
    assert_eq!(world.sent(0, MessageType::Response).len(), 2);
}

#[test]
fn the_timestamp_is_stored_with_the_first_transport_message_control_rule_10() {
    let mut world = World::joined(3, 1);
    let before = received_timestamp(&world, 0, 1);
    let announced = |output: &Output| matches!(output, Output::TimestampAdvanced { .. });
    let count = world.nodes[0].count_outputs(announced);
    let initiation = captured_initiation(&mut world);
    let (from, to) = (world.nodes[1].address, world.nodes[0].address);
    world.nodes[1].address.set_port(9); // the response is lost
    world.inject(from, to, initiation, Duration::ZERO);
    world.advance(seconds(1));
    assert_eq!(received_timestamp(&world, 0, 1), before);
    assert_eq!(world.nodes[0].count_outputs(announced), count);
    world.nodes[1].address = from;
    world.advance(seconds(6));
    assert!(received_timestamp(&world, 0, 1) > before, "the next attempt was completed");
    assert_eq!(world.nodes[0].count_outputs(announced), count + 1);
}

#[test]
fn static_peers_move_with_the_initiation_also_in_membership_mode_requirement_19() {
    let mut world = World::established(4);
    world.set_membership(1, tombolo_noise::MembershipOptions::server());
    world.advance(seconds(6));
    world.nodes[0].address = "198.51.100.4:4444".parse().unwrap();
    world.initiate(0, 1);
    world.advance(millis(10));
    assert_eq!(remote(&world, 1, 0), world.nodes[0].address);
}

#[test]
fn a_session_from_a_new_address_proves_it_control_rule_10() {
    let mut world = World::joined(5, 1);
    world.advance(seconds(6));
    world.nodes[1].address = "198.51.100.4:4444".parse().unwrap();
    world.initiate(1, 0);
    world.advance(millis(100));
    assert_eq!(remote(&world, 0, 1), world.nodes[1].address);
    assert!(!world.link(0, 1).is_path_limited(), "the response went there and was needed");
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::EndpointMoved { .. })), 1);
}

#[test]
fn after_a_roam_three_times_what_came_goes_out_until_the_challenge_is_answered_control_rule_10() {
    let mut world = World::joined(6, 1);
    let home = world.nodes[1].address;
    // Whoever carries a genuine message on from elsewhere can have us send there.
    world.nodes[1].address = "198.51.100.4:4444".parse().unwrap();
    world.send(1, 0, &[1; 84]);
    world.advance(millis(50));
    assert_eq!(remote(&world, 0, 1), world.nodes[1].address);
    assert!(world.link(0, 1).is_path_limited());
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::EndpointMoved { .. })), 1);
    world.wire.clear();
    for _ in 0..100 {
        world.send(0, 1, &[2; 84]);
    }
    let sent: usize = world.sent(0, MessageType::Transport).iter().map(|sent| sent.contents.len()).sum();
    assert_eq!(sent, 3 * 128);
    assert_eq!(world.nodes[0].dropped(DropReason::PathUnproven), 97);
    // The answer to a challenge that went elsewhere proves nothing.
    let id = world.peer(0, 1);
    assert!(!world.nodes[0].device.path_validated(id, home));
    assert!(world.link(0, 1).is_path_limited());
    let there = world.nodes[1].address;
    assert!(world.nodes[0].device.path_validated(id, there));
    world.wire.clear();
    for _ in 0..100 {
        world.send(0, 1, &[2; 84]);
    }
    assert_eq!(world.sent(0, MessageType::Transport).len(), 100);
}

#[test]
fn who_looks_for_another_path_moves_nothing_by_it_control_rule_14() {
    let mut world = World::joined(8, 1);
    let home = world.nodes[1].address;
    let elsewhere = "198.51.100.4:4444".parse().unwrap();
    world.nodes[1].address = elsewhere;
    world.send(1, 0, &[EXPLORING; 16]);
    world.advance(millis(50));
    assert_eq!(remote(&world, 0, 1), home);
    assert!(!world.link(0, 1).is_path_limited());
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::EndpointMoved { .. })), 0);
    // Whatever else it says from there it means.
    world.send(1, 0, &[]);
    world.advance(millis(50));
    assert_eq!(remote(&world, 0, 1), elsewhere);
}

#[test]
fn timestamps_of_members_are_refused_15_minutes_ahead_control_rule_10() {
    for (offset, refused) in [(14 * 60, 0), (16 * 60, 1)] {
        let mut world = World::joined(7, 1);
        world.advance(seconds(6));
        world.nodes[1].wall_offset = offset;
        world.initiate(1, 0);
        world.advance(seconds(1));
        assert_eq!(world.nodes[0].dropped(DropReason::TimestampAhead), refused, "{offset} s");
        // And of strangers.
        let mut world = World::server(8, 1);
        world.nodes[1].wall_offset = offset;
        world.initiate(1, 0);
        world.advance(seconds(1));
        assert_eq!(world.nodes[0].dropped(DropReason::TimestampAhead), refused, "{offset} s");
        assert_eq!(world.nodes[0].device.peers().count(), 1 - refused);
    }
}

#[test]
fn a_node_that_boots_in_1970_hears_and_is_heard_control_rule_18() {
    let in_1970 = -i64::try_from(crate::harness::WALL_AT_START.as_secs()).unwrap();
    let mut world = World::joined(9, 1);
    world.advance(seconds(6));
    // It saved the time an hour ago, and is told so: both what it sends and what it accepts goes by that.
    let saved = UnixTime(world.now_of(1).wall.0 - seconds(600));
    let sent = {
        let (id, now) = (world.peer(1, 0), world.now_of(1));
        world.nodes[1].device.peer_status(id, now).unwrap().last_sent_timestamp.unwrap()
    };
    world.nodes[1].wall_offset = in_1970;
    let key = world.nodes[0].public_key();
    let id = world.nodes[1].device.peer_by_key(&key).unwrap();
    world.nodes[1].device.remove_peer(id);
    let id = world.meet(1, 0);
    world.nodes[1].device.set_last_sent_timestamp(id, sent);
    // Without the floor, the server is from the future.
    world.initiate(0, 1);
    world.advance(millis(100));
    assert_eq!(world.nodes[1].dropped(DropReason::TimestampAhead), 1);
    let now = world.now_of(1);
    world.nodes[1].device.set_time_floor(saved, now);
    world.nodes[1].device.set_time_floor(UnixTime::default(), now);
    world.advance(seconds(6));
    assert!(world.link(1, 0).session_keypair(world.now).is_some(), "repeated, and heard now");
    world.advance(seconds(6));
    world.wire.clear();
    world.initiate(1, 0);
    world.advance(millis(100));
    assert_eq!(world.sent(0, MessageType::Response).len(), 1, "what was saved is behind what it sent last");
}

#[test]
fn a_clock_ten_years_ahead_is_not_told_to_others_control_rule_18() {
    let mut world = World::joined(9, 1);
    world.advance(seconds(6));
    let now = world.now_of(1);
    world.nodes[1].device.set_time_floor(now.wall, now);
    world.nodes[1].wall_offset = 10 * 365 * 86_400;
    world.advance(seconds(6));
    for _ in 0..2 {
        world.wire.clear();
        world.initiate(1, 0);
        world.advance(millis(100));
        assert_eq!(world.sent(0, MessageType::Response).len(), 1, "what it sends is of today");
        assert_eq!(world.nodes[0].dropped(DropReason::TimestampAhead), 0);
        // And once the clock was set back.
        world.nodes[1].wall_offset = 0;
        world.advance(seconds(6));
    }
}

#[test]
fn a_key_in_two_places_is_told_once_control_rule_19() {
    let mut world = World::joined(11, 1);
    // The clone has the key and what was last sent, from the disk.
    let (key, original) = (world.nodes[1].private_key.clone(), world.nodes[1].address);
    let clone = world.add_node();
    let now = world.now_of(clone);
    world.nodes[clone].device.set_private_key(Some(key), now, &mut world.rng);
    world.meet(clone, 0);
    world.advance(seconds(6));
    world.initiate(clone, 0);
    world.advance(millis(100));
    assert_eq!(remote(&world, 0, 1), world.nodes[clone].address);
    // A latecomer of the time before is no alarm.
    world.send(1, 0, b"under way");
    world.advance(seconds(6));
    let alarm =
        |output: &Output| matches!(output, Output::KeyInTwoPlaces { other, .. } if *other == original);
    assert_eq!(world.nodes[0].count_outputs(alarm), 0);
    for _ in 0..5 {
        world.send(1, 0, b"the original does not know");
        world.advance(millis(100));
    }
    assert_eq!(world.nodes[0].count_outputs(alarm), 1);
    assert_eq!(remote(&world, 0, 1), world.nodes[clone].address, "old keys move nothing");
}

#[test]
fn a_resumed_snapshot_keeps_no_keys_control_rule_19() {
    let mut world = World::joined(12, 2);
    let now = world.now_of(0);
    let keypairs = [1, 2].map(|node| world.link(0, node).session_keypair(world.now).unwrap());
    world.nodes[0].device.expire_all(now, &mut world.rng);
    for keypair in keypairs {
        assert_eq!(keypair.reserve(1), Err(DropReason::ExpiredKeypair));
    }
    world.run_outputs(0);
    world.advance(seconds(6));
    for node in [1, 2] {
        assert!(world.link(0, node).sending_keypair(world.now).is_some(), "made anew, and still a member");
    }
}
