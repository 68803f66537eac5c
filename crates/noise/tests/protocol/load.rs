//! Under load: requirements 13 and 14.

use crate::harness::{World, millis, seconds};
use std::time::Duration;
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::keys::{RemoteStatic, StaticIdentity};
use tombolo_packet::DropReason;
use tombolo_packet::message::MessageType;

#[test]
fn a_loaded_responder_asks_for_a_cookie_and_then_answers_requirements_13_and_14() {
    let mut world = World::pair(1);
    world.nodes[1].queue_depth = 128;
    world.send(0, 1, b"x");
    world.advance(seconds(1));
    assert_eq!(world.sent(1, MessageType::CookieReply).len(), 1);
    assert_eq!(world.sent(1, MessageType::Response).len(), 0);
    assert_eq!(world.nodes[1].dropped(DropReason::CookieRequired), 1);
    assert_eq!(world.sent(0, MessageType::Initiation).len(), 1, "repeated in its own time");
    world.advance(seconds(5));
    assert_eq!(world.sent(1, MessageType::CookieReply).len(), 1);
    assert_eq!(world.sent(1, MessageType::Response).len(), 1);
    assert_eq!(world.nodes[1].delivered.len(), 1);
}

#[test]
fn load_begins_at_an_eighth_of_the_queue_and_lasts_a_second_requirement_13() {
    let mut world = World::pair(2);
    world.nodes[1].queue_depth = 127;
    world.send(0, 1, b"x");
    world.advance(seconds(1));
    assert_eq!(world.sent(1, MessageType::CookieReply).len(), 0);

    for (pause, cookies) in [(millis(900), 2), (millis(1_100), 1)] {
        let mut world = World::new(3);
        for _ in 0..3 {
            world.add_node();
        }
        for other in 1..3 {
            world.connect(0, other);
            world.connect(other, 0);
        }
        world.nodes[0].queue_depth = 128;
        world.send(1, 0, b"x");
        world.advance(millis(20));
        world.nodes[0].queue_depth = 0;
        world.advance(pause - millis(20));
        world.send(2, 0, b"x");
        world.advance(millis(100));
        assert_eq!(world.sent(0, MessageType::CookieReply).len(), cookies, "{pause:?} later");
    }
}

#[test]
fn mac1_comes_first_and_a_wrong_one_gets_no_cookie_requirement_13() {
    let mut world = World::pair(4);
    world.nodes[1].queue_depth = 1024;
    world.faults.loss = 1000;
    world.send(0, 1, b"x");
    world.faults.loss = 0;
    let mut initiation = world.sent(0, MessageType::Initiation).remove(0).contents;
    initiation[40] ^= 1;
    let (source, target) = (world.nodes[0].address, world.nodes[1].address);
    world.inject(source, target, initiation, Duration::ZERO);
    world.advance(millis(100));
    assert_eq!(world.nodes[1].dropped(DropReason::InvalidMac1), 1);
    assert_eq!(world.sent(1, MessageType::CookieReply).len(), 0);
}

#[test]
fn a_cookie_holds_for_its_address_and_port_alone_requirement_14() {
    let mut world = World::pair(5);
    world.nodes[1].queue_depth = 128;
    world.send(0, 1, b"x");
    world.advance(seconds(1));
    world.nodes[0].address.set_port(51_821);
    world.advance(seconds(5));
    assert_eq!(world.sent(1, MessageType::CookieReply).len(), 2, "asked again from the other port");
    assert_eq!(world.sent(1, MessageType::Response).len(), 0);
}

#[test]
fn a_cookie_reply_does_not_move_the_endpoint_requirement_14() {
    let mut world = World::pair(6);
    world.nodes[1].queue_depth = 128;
    world.faults.loss = 1000;
    world.send(0, 1, b"x");
    let initiation = world.sent(0, MessageType::Initiation).remove(0).contents;
    let (ours, theirs) = (world.nodes[0].address, world.nodes[1].address);
    world.receive(1, ours, initiation);
    let reply = world.sent(1, MessageType::CookieReply).remove(0).contents;
    world.receive(0, "198.51.100.66:1".parse().unwrap(), reply.clone());
    assert_eq!(world.link(0, 1).endpoint().unwrap().remote, theirs);
    assert_eq!(world.nodes[0].drops.len(), 0, "it is a good cookie all the same");
    world.receive(0, theirs, reply);
    assert_eq!(world.nodes[0].dropped(DropReason::UnexpectedResponse), 1, "once");
}

#[test]
fn a_valid_mac2_is_limited_to_a_burst_of_5_and_20_a_second_requirement_13() {
    let mut world = World::pair(7);
    world.nodes[1].queue_depth = 128;
    let (id, source, target) = (world.peer(0, 1), world.nodes[0].address, world.nodes[1].address);
    world.send(0, 1, b"x");
    world.advance(seconds(1));
    assert_eq!(world.sent(1, MessageType::CookieReply).len(), 1);
    world.faults.loss = 1000;
    world.advance(seconds(5));
    world.wire.clear();
    let now = world.now_of(0);
    world.nodes[0].device.expire_all(now, &mut world.rng);
    world.nodes[0].device.initiate(id, now, &mut world.rng);
    world.run_outputs(0);
    let initiation = world.sent(0, MessageType::Initiation).remove(0).contents;
    for _ in 0..50 {
        world.receive(1, source, initiation.clone());
    }
    assert_eq!(world.nodes[1].dropped(DropReason::RateLimited), 45);
    let _ = target;
}

/// Junk that is worked off as it comes: nothing waits in the queue.
#[test]
fn two_thousand_junk_initiations_a_second_are_load_requirement_13() {
    let mut world = World::pair(8);
    world.nodes[1].queue_depth = 1;
    world.faults.loss = 1000;
    world.send(0, 1, b"x");
    world.faults.loss = 0;
    // The key is right, and so is mac1; the timestamp is not sealed for anybody.
    let mut jar = CookieJar::new();
    let identity = StaticIdentity::new(world.nodes[0].private_key.clone());
    let remote = RemoteStatic::new(&identity, world.nodes[1].public_key());
    let mut junk = world.sent(0, MessageType::Initiation).remove(0).contents;
    junk[50] ^= 1;
    jar.write_macs(&mut junk, &remote, world.now_of(0).boot);
    for (a_second, asked) in [(1_000, 0), (10_000, 9_000)] {
        let before = world.nodes[1].dropped(DropReason::HandshakeFailed);
        for _ in 0..a_second {
            world.receive(1, "198.51.100.66:1".parse().unwrap(), junk.clone());
            world.advance(seconds(1) / a_second);
        }
        let cookies = world.nodes[1].dropped(DropReason::CookieRequired);
        let failed = world.nodes[1].dropped(DropReason::HandshakeFailed) - before;
        assert!(
            cookies >= asked && failed <= a_second as usize - asked,
            "{cookies} asked, {failed} worked on"
        );
    }
    // A peer that we have a session with is not asked meanwhile.
    world.advance(seconds(6));
    assert_eq!(world.nodes[1].delivered.len(), 1);
}
