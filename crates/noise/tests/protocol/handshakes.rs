//! Handshakes: requirements 5, 6, 11, 15, 20, 21, 23 and 27.

use crate::harness::{Faults, WALL_AT_START, World, millis, seconds};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::keys::{RemoteStatic, StaticIdentity};
use tombolo_noise::{Output, SessionState, Tai64n};
use tombolo_packet::message::{Initiation, MessageType};
use tombolo_packet::{DropReason, Endpoint, LocalAddress};

#[test]
fn initiations_are_repeated_after_5_s_and_some_jitter_requirement_5() {
    let mut world = World::pair(1);
    world.faults.loss = 1000;
    let start = world.now;
    world.send(0, 1, b"anyone?");
    world.advance(seconds(60));
    let times = World::times(&world.sent(0, MessageType::Initiation), start);
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 10);
    assert!(gaps.iter().all(|gap| (5.0..5.334).contains(gap)), "{gaps:?}");
    let distinct: BTreeSet<u64> = gaps.iter().map(|gap| (gap * 1000.0) as u64).collect();
    assert!(distinct.len() > 3, "{gaps:?}");
}

#[test]
fn a_handshake_is_given_up_after_18_attempts_and_started_anew_later_requirement_6() {
    let mut world = World::pair(2);
    world.faults.loss = 1000;
    let start = world.now;
    world.send(0, 1, b"dropped in the end");
    world.advance(seconds(400));
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 18);
    let given_up =
        world.nodes[0].outputs.iter().find(|output| matches!(output.1, Output::DropStaged { .. })).unwrap().0;
    let after = given_up.saturating_duration_since(start);
    assert!(after >= seconds(90) && after <= seconds(96), "{after:?}");
    assert!(world.nodes[0].staged.is_empty());
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    assert_eq!(world.nodes[0].device.peer_status(id, now).unwrap().state, SessionState::Idle);
    world.faults.loss = 0;
    world.send(0, 1, b"starts anew");
    world.advance(seconds(1));
    assert_eq!(world.nodes[1].delivered.len(), 1);
    assert_eq!(&world.nodes[1].delivered[0].1[..11], b"starts anew");
}

#[test]
fn packets_keep_the_attempts_going_requirement_6() {
    let mut world = World::pair(3);
    world.faults.loss = 1000;
    for _ in 0..200 {
        world.send(0, 1, b"still there");
        world.advance(seconds(1));
    }
    let initiations = world.sent(0, MessageType::Initiation).len();
    assert!((37..=40).contains(&initiations), "{initiations}");
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::DropStaged { .. })), 0);
}

#[test]
fn a_peer_without_an_endpoint_is_given_up_too_and_served_when_it_gets_one_requirement_6() {
    let mut world = World::pair(4);
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_endpoint(id, None, now, &mut world.rng);
    world.send(0, 1, b"nowhere to");
    world.advance(seconds(200));
    assert_eq!(world.wire.len(), 0);
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::DropStaged { .. })), 1);
    world.send(0, 1, b"somewhere soon");
    world.advance(seconds(1));
    let (endpoint, now) = (Endpoint::new(world.nodes[1].address), world.now_of(0));
    world.nodes[0].device.set_endpoint(id, Some(endpoint), now, &mut world.rng);
    world.run_outputs(0);
    world.advance(millis(100));
    assert_eq!(world.nodes[1].delivered.len(), 1, "at once, not with the next attempt");
}

#[test]
fn a_replayed_initiation_is_refused_requirement_11() {
    let mut world = World::established(5);
    world.advance(seconds(1));
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.expire_all(now, &mut world.rng);
    world.nodes[0].device.initiate(id, now, &mut world.rng);
    world.run_outputs(0);
    world.advance(millis(200));
    let initiation = world.sent(0, MessageType::Initiation).remove(0).contents;
    let current = world.link(1, 0).sending_keypair(world.now).unwrap().local_index();
    let (attacker, target) = ("198.51.100.66:1".parse().unwrap(), world.nodes[1].address);
    for _ in 0..3 {
        world.inject(attacker, target, initiation.clone(), Duration::ZERO);
        world.advance(seconds(1));
    }
    assert_eq!(world.nodes[1].dropped(DropReason::StaleTimestamp), 3);
    assert_eq!(world.link(1, 0).sending_keypair(world.now).unwrap().local_index(), current);
    assert_eq!(world.link(1, 0).endpoint().unwrap().remote, world.nodes[0].address, "and moves nothing");
}

#[test]
fn timestamps_grow_when_the_clock_is_set_back_requirement_11() {
    let mut world = World::established(6);
    for offset in [-3600, -3600, -i64::try_from(WALL_AT_START.as_secs()).unwrap()] {
        world.nodes[0].wall_offset = offset;
        world.advance(seconds(30));
        let now = world.now_of(0);
        world.nodes[0].device.expire_all(now, &mut world.rng);
        world.run_outputs(0);
        world.advance(seconds(1));
        let now = world.now;
        assert!(world.link(0, 1).sending_keypair(now).is_some(), "clock set back by {offset} s");
    }
    assert_eq!(world.nodes[1].dropped(DropReason::StaleTimestamp), 0);
}

#[test]
fn timestamps_outlive_a_restart_with_a_wrong_clock_requirement_11() {
    let mut world = World::established(7);
    let (ours, theirs) = (world.peer(0, 1), world.peer(1, 0));
    let now = world.now_of(0);
    let sent = world.nodes[0].device.peer_status(ours, now).unwrap().last_sent_timestamp.unwrap();
    let received = world.nodes[1].device.peer_status(theirs, now).unwrap().last_received_timestamp.unwrap();
    assert_eq!(sent, received);
    world.nodes[0].wall_offset = -1_000_000;
    world.nodes[0].device.remove_peer(ours);
    let ours = world.connect(0, 1);
    world.nodes[0].device.set_last_sent_timestamp(ours, sent);
    world.advance(seconds(6));
    let now = world.now_of(0);
    world.nodes[0].device.initiate(ours, now, &mut world.rng);
    world.run_outputs(0);
    world.advance(seconds(1));
    let now = world.now;
    assert!(world.link(0, 1).sending_keypair(now).is_some());
    // And the receiver's side of it.
    let mut world = World::pair(8);
    let (theirs, later) = (world.peer(1, 0), world.now_of(0).wall.0 + seconds(100));
    world.nodes[1]
        .device
        .set_last_timestamp(theirs, Tai64n::from_unix(tombolo_noise::clock::UnixTime(later)));
    world.send(0, 1, b"from before");
    world.advance(seconds(1));
    assert_eq!(world.nodes[1].dropped(DropReason::StaleTimestamp), 1);
}

#[test]
fn one_initiation_in_20_ms_is_consumed_requirement_11() {
    let mut world = World::pair(9);
    let (id, target) = (world.peer(0, 1), world.nodes[1].address);
    let source = world.nodes[0].address;
    for _ in 0..2 {
        world.advance(millis(20));
        let now = world.now_of(0);
        world.nodes[0].device.expire_all(now, &mut world.rng);
        world.faults.loss = 1000;
        world.nodes[0].device.initiate(id, now, &mut world.rng);
        world.run_outputs(0);
        world.faults.loss = 0;
    }
    let initiations = world.sent(0, MessageType::Initiation);
    assert_eq!(initiations.len(), 2);
    world.inject(source, target, initiations[0].contents.clone(), Duration::ZERO);
    world.inject(source, target, initiations[1].contents.clone(), millis(19));
    world.inject(source, target, initiations[1].contents.clone(), millis(21));
    world.advance(millis(50));
    assert_eq!(world.nodes[1].dropped(DropReason::InitiationFlood), 1);
    assert_eq!(world.sent(1, MessageType::Response).len(), 2, "the flooding one is as good as new later");
}

#[test]
fn a_clock_far_ahead_is_shown_and_can_be_refused_requirement_11() {
    let mut world = World::pair(10);
    world.nodes[0].wall_offset = 3600;
    world.send(0, 1, b"from the future");
    world.advance(seconds(1));
    let (id, now) = (world.peer(1, 0), world.now_of(1));
    let ahead = world.nodes[1].device.peer_status(id, now).unwrap().timestamp_ahead;
    assert!(ahead > seconds(3598) && ahead <= seconds(3600), "{ahead:?}");

    let mut world = World::pair(10);
    world.nodes[0].wall_offset = 3600;
    world.nodes[1].device.set_max_timestamp_ahead(Some(seconds(600)));
    world.send(0, 1, b"from the future");
    world.advance(seconds(4));
    assert_eq!(world.nodes[1].dropped(DropReason::TimestampAhead), 1);
    let (id, now) = (world.peer(1, 0), world.now_of(1));
    assert_eq!(
        world.nodes[1].device.peer_status(id, now).unwrap().last_received_timestamp,
        None,
        "nothing is burnt"
    );
}

#[test]
fn strangers_and_noise_are_met_with_silence_requirement_15() {
    let mut world = World::pair(11);
    let stranger = world.add_node();
    world.connect(stranger, 1);
    world.send(stranger, 1, b"let me in");
    world.advance(seconds(20));
    assert!(world.nodes[1].dropped(DropReason::UnknownPeer) >= 4);
    // Every length and every type of message, and real messages with a byte changed.
    let target = world.nodes[1].address;
    world.send(0, 1, b"real");
    world.advance(seconds(1));
    let real: Vec<Vec<u8>> = world.wire.iter().map(|sent| sent.contents.clone()).collect();
    let answers = world.wire.iter().filter(|sent| sent.from == 1).count();
    let source = "198.51.100.7:7".parse().unwrap();
    for kind in 0..=255_u8 {
        for len in [0, 1, 3, 4, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1500, 65_507] {
            let mut message = vec![kind; len];
            if len >= 4 {
                message[1..4].fill(0);
            }
            world.inject(source, target, message, Duration::ZERO);
        }
    }
    for message in real {
        for position in 0..message.len() {
            let mut changed = message.clone();
            changed[position] ^= 1 << world.random(8);
            world.inject(source, target, changed, Duration::ZERO);
        }
    }
    let delivered = world.nodes[1].delivered.len();
    world.advance(millis(1));
    assert_eq!(world.wire.iter().filter(|sent| sent.from == 1).count(), answers);
    assert_eq!(world.nodes[1].delivered.len(), delivered);
    assert_eq!(world.link(1, 0).endpoint().unwrap().remote, world.nodes[0].address);
}

#[test]
fn retries_forget_the_sticky_source_and_resolve_anew_requirement_20() {
    let mut world = World::pair(12);
    world.faults.loss = 1000;
    let local = LocalAddress { address: "192.0.2.1".parse().unwrap(), interface: 3 };
    let endpoint = Endpoint { remote: world.nodes[1].address, local: Some(local) };
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_endpoint(id, Some(endpoint), now, &mut world.rng);
    world.send(0, 1, b"anyone?");
    assert_eq!(world.link(0, 1).endpoint(), Some(endpoint));
    world.advance(seconds(6));
    assert_eq!(world.link(0, 1).endpoint(), Some(Endpoint::new(endpoint.remote)));
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::ResolveEndpoint { .. })), 1);
}

#[test]
fn a_failed_source_is_forgotten_unless_the_peer_moved_requirement_20() {
    let mut world = World::pair(13);
    let local = LocalAddress { address: "192.0.2.1".parse().unwrap(), interface: 0 };
    let failed = Endpoint { remote: world.nodes[1].address, local: Some(local) };
    let moved = Endpoint { remote: "198.51.100.1:9".parse().unwrap(), local: Some(local) };
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_endpoint(id, Some(moved), now, &mut world.rng);
    world.link(0, 1).forget_source(failed);
    assert_eq!(world.link(0, 1).endpoint(), Some(moved));
    world.link(0, 1).forget_source(moved);
    assert_eq!(world.link(0, 1).endpoint(), Some(Endpoint::new(moved.remote)));
}

#[test]
fn handshakes_are_marked_af41_requirement_21() {
    let mut world = World::pair(14);
    world.send(0, 1, b"x");
    world.advance(seconds(1));
    let marked: Vec<_> =
        world.wire.iter().filter(|sent| sent.traffic_class == 0x88).map(|sent| sent.kind).collect();
    assert_eq!(marked, [MessageType::Initiation, MessageType::Response]);
}

#[test]
fn indices_are_unique_and_look_random_requirement_23() {
    let mut world = World::pair(15);
    let mut indices = BTreeSet::new();
    for _ in 0..200 {
        let (id, now) = (world.peer(0, 1), world.now_of(0));
        world.nodes[0].device.expire_all(now, &mut world.rng);
        world.nodes[0].device.initiate(id, now, &mut world.rng);
        world.run_outputs(0);
        world.advance(millis(50));
    }
    for sent in world.sent(0, MessageType::Initiation) {
        indices.insert(Initiation::parse(&sent.contents).unwrap().sender_index());
    }
    assert!(indices.len() >= 200);
    // Each bit is set in about half of them.
    for bit in 0..32 {
        let set = indices.iter().filter(|index| **index >> bit & 1 == 1).count();
        assert!((50..=150).contains(&(set * 200 / indices.len())), "bit {bit}");
    }
    assert_eq!(world.nodes[0].device.index_table().len(), 1, "and are given back");
}

#[test]
fn a_response_is_consumed_once_requirement_27() {
    let mut world = World::pair(16);
    world.faults = Faults { duplication: 1000, ..Faults::NONE };
    world.send(0, 1, b"x");
    world.advance(seconds(1));
    let sessions = world.nodes[0].count_outputs(|output| matches!(output, Output::SessionReady { .. }));
    assert_eq!(sessions, 1);
    assert_eq!(world.nodes[0].dropped(DropReason::UnexpectedResponse), 1);
    assert_eq!(world.nodes[1].dropped(DropReason::StaleTimestamp), 1, "and so is an initiation");
    assert_eq!(world.nodes[1].delivered.len(), 1);
}

#[test]
fn a_response_to_a_replaced_initiation_answers_nothing_requirement_27() {
    let mut world = World::pair(17);
    world.faults.delay = seconds(3);
    world.send(0, 1, b"x");
    world.advance(millis(5_900));
    // The second initiation is out, and the response to the first arrives.
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 2);
    world.advance(millis(200));
    assert_eq!(world.nodes[0].dropped(DropReason::UnexpectedResponse), 1);
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::SessionReady { .. })), 0);
    world.faults.delay = millis(10);
    world.advance(seconds(20));
    let now = world.now;
    assert!(world.link(0, 1).sending_keypair(now).is_some());
    assert_eq!(world.nodes[1].delivered.len(), 1);
}

#[test]
fn a_forged_response_does_not_spoil_the_true_one_requirement_27() {
    let mut world = World::pair(18);
    world.send(0, 1, b"x");
    world.advance(millis(10));
    let response = world.sent(1, MessageType::Response).remove(0).contents;
    let (target, attacker) = (world.nodes[0].address, "198.51.100.66:1".parse().unwrap());
    // Whoever knows the public key can make a mac1.
    let victim = StaticIdentity::new(world.nodes[0].private_key.clone());
    let victim = RemoteStatic::new(&victim, world.nodes[0].public_key());
    for position in 12..60 {
        let mut forged = response.clone();
        forged[position] ^= 1;
        CookieJar::new().write_macs(&mut forged, &victim, world.now);
        world.inject(attacker, target, forged, Duration::ZERO);
    }
    world.advance(millis(5));
    assert_eq!(world.nodes[0].dropped(DropReason::HandshakeFailed), 48);
    world.advance(seconds(1));
    assert_eq!(world.nodes[1].delivered.len(), 1);
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 1);
}

#[test]
fn initiations_that_cross_take_one_round_trip_requirement_12() {
    let mut world = World::pair(19);
    world.send(0, 1, b"from 0");
    world.send(1, 0, b"from 1");
    world.advance(millis(50));
    assert_eq!(world.nodes[0].delivered.len(), 1);
    assert_eq!(world.nodes[1].delivered.len(), 1);
    for _ in 0..100 {
        world.send(0, 1, b"more from 0");
        world.send(1, 0, b"more from 1");
        world.advance(seconds(1));
    }
    assert_eq!(world.nodes[0].delivered.len(), 101);
    assert_eq!(world.nodes[1].delivered.len(), 101);
    assert_eq!(
        world.sent(0, MessageType::Initiation).len() + world.sent(1, MessageType::Initiation).len(),
        2
    );
}

#[test]
fn an_initiation_under_way_goes_once_more_by_the_ways_that_are_given_again() {
    let mut world = World::pair(31);
    world.faults.loss = 1000;
    let [closed, opens] = ["203.0.113.7:1", "203.0.113.8:2"].map(|way| way.parse::<SocketAddr>().unwrap());
    world.initiate_by(0, 1, &[closed, opens]);
    world.advance(millis(400));
    let before = world.sent(0, MessageType::Initiation);
    world.initiate_by(0, 1, &[opens]);
    let after = world.sent(0, MessageType::Initiation);
    assert_eq!(after.len(), before.len() + 1);
    let last = after.last().unwrap();
    assert_eq!(last.contents, before[0].contents, "no new one: that comes when the old one has had its time");
}
