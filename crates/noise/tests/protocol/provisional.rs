//! Keys that nobody here knows, in membership mode: control rules 8 and 9.

use crate::harness::{World, millis, seconds};
use std::net::SocketAddr;
use tombolo_noise::handshake::Role;
use tombolo_noise::{AddPeerError, Device, MembershipOptions, Output, PresharedKey, Standing};
use tombolo_packet::DropReason;
use tombolo_packet::message::MessageType;

/// Node 1 has completed a handshake that the server, node 0, knows nothing else of.
fn provisional(seed: u64) -> World {
    let mut world = World::server(seed, 1);
    world.initiate(1, 0);
    world.advance(millis(100));
    assert_eq!(world.link(0, 1).standing(), Standing::Provisional);
    world
}

fn is_there(world: &World, node: usize, of: usize) -> bool {
    world.nodes[node].device.peer_by_key(&world.nodes[of].public_key()).is_some()
}

#[test]
fn an_unknown_key_is_asked_for_a_cookie_first_and_comes_again_at_once_control_rule_8() {
    let mut world = World::server(1, 1);
    world.initiate(1, 0);
    world.advance(millis(15));
    assert_eq!(world.nodes[0].dropped(DropReason::CookieRequired), 1, "there is no load");
    assert_eq!(world.sent(0, MessageType::Response).len(), 0);
    assert!(!is_there(&world, 0, 1), "and nothing is remembered");
    world.advance(millis(45));
    assert_eq!(world.sent(1, MessageType::Initiation).len(), 2, "not five seconds later");
    assert_eq!(world.sent(0, MessageType::Response).len(), 1);
    world.send_control(1, 0, b"join");
    world.advance(millis(20));
    let frame = world.nodes[0].frames[0].clone();
    assert_eq!((frame.from, &frame.contents[1..5]), (world.nodes[1].public_key(), &b"join"[..]));
    let ours = world.link(1, 0).session_keypair(world.now).unwrap();
    let theirs = world.link(0, 1).session_keypair(world.now).unwrap();
    assert_eq!((&frame.handshake_hash, frame.epoch), (ours.handshake_hash(), theirs.epoch()));
    assert_eq!((ours.role(), theirs.role()), (Role::Initiator, Role::Responder));
}

#[test]
fn a_cookie_is_answered_at_once_no_more_than_once_an_attempt_control_rule_8() {
    let mut world = World::server(2, 1);
    world.initiate(1, 0);
    // A server that forgets its secret each time, and so asks again and again.
    for _ in 0..40 {
        world.advance(millis(19));
        let (key, now) = (world.nodes[0].private_key.clone(), world.now_of(0));
        world.nodes[0].device = Device::new();
        world.nodes[0].device.set_private_key(Some(key), now, &mut world.rng);
        world.set_membership(0, MembershipOptions::server());
    }
    assert_eq!(world.nodes[0].dropped(DropReason::CookieRequired), 2);
    assert_eq!(world.sent(1, MessageType::Initiation).len(), 2);
}

#[test]
fn outside_of_membership_mode_unknown_keys_meet_silence_requirement_15() {
    let mut world = World::server(3, 1);
    let now = world.now_of(0);
    world.nodes[0].device.set_membership(None, now);
    world.initiate(1, 0);
    world.advance(seconds(20));
    assert!(world.nodes[0].dropped(DropReason::UnknownPeer) >= 3);
    assert!(world.wire.iter().all(|sent| sent.from == 1));
}

#[test]
fn a_provisional_tunnel_lives_five_seconds_and_leaves_nothing_control_rule_8() {
    let mut world = provisional(4);
    world.advance(millis(4_800));
    assert!(is_there(&world, 0, 1));
    world.advance(millis(200));
    assert!(!is_there(&world, 0, 1));
    assert!(world.nodes[0].device.index_table().is_empty());
    assert_eq!(world.nodes[0].device.poll_timeout(), None);
    let key = world.nodes[1].public_key();
    let gone = |output: &Output| matches!(output, Output::PeerGone { public_key, .. } if *public_key == key);
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::PeerAppeared { .. })), 1);
    assert_eq!(world.nodes[0].count_outputs(gone), 1);
}

#[test]
fn a_provisional_tunnel_carries_control_frames_only_control_rule_8() {
    let mut world = provisional(5);
    assert!(world.link(0, 1).sending_keypair(world.now).is_none());
    assert!(world.link(0, 1).session_keypair(world.now).is_some());
    // An initiator that is no honest one sends a packet all the same.
    let now = world.now_of(1);
    let id = world.peer(1, 0);
    assert!(world.nodes[1].device.promote(id, now.boot + seconds(100), now));
    world.run_outputs(1);
    world.send(1, 0, &[0x45; 20]);
    world.advance(millis(20));
    assert_eq!(world.nodes[0].dropped(DropReason::NotAuthorised), 1);
    assert!(world.nodes[0].delivered.is_empty());
    // And nothing of ours is sealed for it.
    world.wire.clear();
    world.send(0, 1, &[0x45; 20]);
    world.advance(millis(20));
    assert!(world.wire.is_empty());
}

#[test]
fn with_a_provisional_peer_nothing_is_begun_kept_alive_or_renewed_control_rule_8() {
    let mut world = provisional(6);
    world.send_control(1, 0, b"join");
    world.advance(millis(50));
    world.wire.clear();
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.set_persistent_keepalive(id, Some(1), now, &mut world.rng);
    world.initiate(0, 1);
    assert_eq!(world.link(0, 1).want_handshake(), None);
    world.advance(millis(4_500));
    assert!(world.wire.iter().all(|sent| sent.from == 1), "{:?}", world.wire);
    // Nor is its own handshake taken a second time.
    let mut world = provisional(7);
    let (id, now) = (world.peer(1, 0), world.now_of(1));
    world.nodes[1].device.expire_all(now, &mut world.rng);
    world.nodes[1].device.initiate(id, now, &mut world.rng);
    world.run_outputs(1);
    world.advance(millis(100));
    assert_eq!(world.nodes[0].dropped(DropReason::ProvisionalLimit), 1);
}

#[test]
fn a_provisional_peer_never_roams_control_rule_8() {
    let mut world = provisional(8);
    let home = world.nodes[1].address;
    world.nodes[1].address = "198.51.100.4:4444".parse().unwrap();
    world.send_control(1, 0, b"from elsewhere");
    world.advance(millis(50));
    assert_eq!(world.link(0, 1).endpoint().unwrap().remote, home);
    assert_eq!(world.nodes[0].count_outputs(|output| matches!(output, Output::EndpointMoved { .. })), 0);
}

#[test]
fn replies_are_at_most_three_times_what_came_in_control_rule_8() {
    let mut world = provisional(9);
    let bytes = |world: &mut World| {
        while world.send_control(0, 1, &[7; 100]) {}
        let sent: usize =
            world.wire.iter().filter(|sent| sent.from == 0).map(|sent| sent.contents.len()).sum();
        let received: usize =
            world.wire.iter().filter(|sent| sent.from == 1).map(|sent| sent.contents.len()).sum();
        assert!(sent <= 3 * received, "{sent} for {received}");
        (sent, world.nodes[0].dropped(DropReason::PathUnproven))
    };
    let (before, refused) = bytes(&mut world);
    assert!(before > 92 && refused > 0);
    world.send_control(1, 0, &[1; 200]);
    world.advance(millis(20));
    let (after, _) = bytes(&mut world);
    assert!(after > before + 500, "more came in, so more may go out: {before}, {after}");
    // Promoted, its address is proven: it has used what we sent there.
    assert!(world.promote(0, 1, seconds(100)));
    for _ in 0..100 {
        assert!(world.send_control(0, 1, &[7; 100]));
    }
}

#[test]
fn four_of_one_address_and_so_many_in_all_control_rule_8() {
    let mut world = World::server(10, 9);
    let options = MembershipOptions { max_provisional: 6, ..MembershipOptions::server() };
    world.set_membership(0, options);
    let provisional = |world: &World| world.nodes[0].device.peers().count();
    for node in 1..=5 {
        world.nodes[node].address = SocketAddr::from(([198, 51, 100, 7], 1000 + node as u16));
        world.initiate(node, 0);
    }
    world.advance(millis(100));
    assert_eq!((provisional(&world), world.nodes[0].dropped(DropReason::ProvisionalLimit)), (4, 1));
    // The /64 is one source of IPv6.
    for node in 6..=9 {
        world.nodes[node].address = format!("[2001:db8::{node}:1]:1000").parse().unwrap();
        world.initiate(node, 0);
    }
    world.advance(millis(100));
    assert_eq!((provisional(&world), world.nodes[0].dropped(DropReason::ProvisionalLimit)), (6, 3));
    // Five seconds later there is room, and more for one source where the network says so.
    world.set_membership(0, MembershipOptions { max_provisional_per_source: 5, ..options });
    world.advance(seconds(6));
    assert_eq!(provisional(&world), 3, "those who were refused came again");
}

#[test]
fn a_node_that_is_no_server_has_room_for_32_strangers_control_rule_8() {
    let mut world = World::server(12, 34);
    world.set_membership(0, MembershipOptions::node());
    for node in 1..=34 {
        world.nodes[node].address = SocketAddr::from(([198, 51, 100, node as u8], 1000));
        world.initiate(node, 0);
    }
    world.advance(millis(100));
    let limited = world.nodes[0].dropped(DropReason::ProvisionalLimit);
    assert_eq!((world.nodes[0].device.peers().count(), limited), (32, 2));
}

#[test]
fn a_promotion_opens_the_tunnel_and_later_sessions_inherit_it_control_rule_9() {
    let mut world = provisional(11);
    world.send_control(1, 0, b"show");
    world.advance(millis(20));
    assert!(world.promote(0, 1, seconds(1000)));
    assert!(world.promote(1, 0, seconds(1000)));
    let flushed = |output: &Output| matches!(output, Output::FlushStaged { .. });
    assert_eq!(world.nodes[0].count_outputs(flushed), 1, "what was held is to be delivered");
    for _ in 0..50 {
        world.send(1, 0, b"there");
        world.send(0, 1, b"and back");
        world.advance(seconds(10));
    }
    assert!(world.sent(1, MessageType::Initiation).len() >= 4, "keys were renewed");
    assert_eq!(world.nodes[0].delivered.len(), 50);
    assert_eq!(world.nodes[1].delivered.len(), 50);
    assert_eq!(world.nodes[0].dropped(DropReason::CookieRequired), 1, "asked for as a stranger only");
}

#[test]
fn who_shows_its_membership_at_the_address_of_its_handshake_is_not_limited_there_control_rule_10() {
    let mut world = provisional(24);
    world.send_control(1, 0, b"show");
    world.advance(millis(20));
    assert!(world.link(0, 1).is_path_limited());
    // As an owner does that adds its own record of the key first.
    let key = *world.link(0, 1).public_key();
    let id = world.peer(0, 1);
    assert_eq!(world.nodes[0].device.add_unverified_peer(key), Ok(id));
    assert!(!world.link(0, 1).is_path_limited());
}

#[test]
fn packets_stop_when_the_authorisation_ends_and_frames_do_not_control_rule_9() {
    let mut world = provisional(12);
    world.send_control(1, 0, b"show");
    world.advance(millis(20));
    assert!(world.promote(1, 0, seconds(1000)) && world.promote(0, 1, seconds(10)));
    let end = world.now + seconds(10);
    assert!(
        world.link(0, 1).may_carry_packets(tombolo_noise::clock::Instant::from_nanos(end.as_nanos() - 1))
    );
    assert!(!world.link(0, 1).may_carry_packets(end));
    world.advance(seconds(11));
    world.send(1, 0, b"too late");
    world.send(0, 1, b"not sealed");
    assert!(world.send_control(1, 0, b"renewed"));
    world.advance(millis(20));
    assert_eq!(world.nodes[0].dropped(DropReason::NotAuthorised), 1);
    assert!(world.nodes[1].delivered.is_empty());
    assert_eq!(&world.nodes[0].frames[1].contents[1..8], b"renewed");
    // A renewal moves the end, and what was staged goes out.
    assert!(world.promote(0, 1, seconds(100)));
    world.advance(millis(20));
    assert_eq!(world.nodes[1].delivered.len(), 1);
}

#[test]
fn a_rejected_peer_goes_with_its_session_control_rule_9() {
    let mut world = provisional(13);
    world.send_control(1, 0, b"show");
    world.advance(millis(20));
    let (id, link) = (world.peer(0, 1), world.link(0, 1));
    assert!(world.nodes[0].device.reject(id));
    assert!(!is_there(&world, 0, 1) && world.nodes[0].device.index_table().is_empty());
    assert!(link.session_keypair(world.now).is_none(), "also for a worker that holds the link");
    assert!(!world.nodes[0].device.reject(id), "once");
}

#[test]
fn a_revocation_cuts_at_once_control_rule_16() {
    let mut world = World::joined(14, 1);
    let (id, link) = (world.peer(0, 1), world.link(0, 1));
    let keypair = link.sending_keypair(world.now).unwrap();
    assert!(!world.nodes[0].device.reject(id), "a member is not rejected");
    assert!(link.may_carry_packets(world.now));
    assert!(world.nodes[0].device.revoke(id));
    // A worker in the middle of a batch holds both.
    assert!(!link.may_carry_packets(world.now) && link.sending_keypair(world.now).is_none());
    assert_eq!(keypair.reserve(1), Err(DropReason::ExpiredKeypair));
    world.send(1, 0, b"cut");
    world.advance(millis(20));
    assert!(world.nodes[0].delivered.is_empty());
    assert!(world.nodes[0].device.source_table().is_empty());
}

#[test]
fn static_peers_outrank_memberships_control_rule_9() {
    let mut world = World::established(15);
    let options = MembershipOptions::server();
    world.set_membership(0, options);
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    assert!(!world.nodes[0].device.promote(id, now.boot, now));
    assert!(!world.nodes[0].device.reject(id) && !world.nodes[0].device.revoke(id));
    let key = world.nodes[1].public_key();
    assert_eq!(world.nodes[0].device.add_unverified_peer(key), Err(AddPeerError::Known(id)));
    world.advance(seconds(100_000));
    assert!(world.link(0, 1).may_carry_packets(world.now), "it never expires");
    // Configured while it is provisional, it is static from then on, with a session of its own.
    let mut world = provisional(16);
    let key = world.nodes[1].public_key();
    let provisional = world.peer(0, 1);
    assert_eq!(world.nodes[0].device.add_peer(key), Ok(provisional));
    assert_eq!(world.link(0, 1).standing(), Standing::Static);
    assert!(world.link(0, 1).session_keypair(world.now).is_none());
    world.advance(seconds(60));
    assert!(is_there(&world, 0, 1));
}

#[test]
fn a_key_with_a_preshared_key_is_never_provisional_control_rule_9() {
    let mut world = provisional(17);
    let id = world.peer(0, 1);
    let preshared_key = PresharedKey::generate(&mut world.rng);
    world.nodes[0].device.set_preshared_key(id, preshared_key);
    assert_eq!(world.link(0, 1).standing(), Standing::Unverified);
    assert!(world.link(0, 1).session_keypair(world.now).is_none(), "the session was made without it");
    world.advance(seconds(6));
    assert!(is_there(&world, 0, 1));
}

#[test]
fn the_initiator_sends_frames_at_once_and_packets_when_the_other_side_is_verified_control_rule_9() {
    let mut world = World::server(18, 1);
    world.send(1, 0, b"waits");
    world.advance(millis(100));
    assert_eq!(world.link(1, 0).standing(), Standing::Unverified);
    assert!(world.link(1, 0).session_keypair(world.now).is_some());
    let data = world.sent(1, MessageType::Transport);
    assert!(data.iter().all(|sent| sent.is_keepalive()), "nothing but the confirmation");
    assert!(world.send_control(1, 0, b"show"));
    world.advance(millis(100));
    assert!(world.promote(0, 1, seconds(60)) && world.promote(1, 0, seconds(60)));
    world.advance(millis(100));
    assert_eq!(world.nodes[0].delivered.len(), 1);
}

#[test]
fn an_unverified_peer_that_is_silent_gets_three_initiations_control_rule_13() {
    let mut world = World::server(19, 1);
    world.faults.loss = 1000;
    world.send(1, 0, b"anybody there?");
    world.advance(seconds(100));
    assert_eq!(world.sent(1, MessageType::Initiation).len(), 3);
    assert!(world.nodes[1].staged.is_empty(), "and what was staged is dropped");
}
