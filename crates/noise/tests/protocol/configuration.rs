//! What the configuration may hold: requirements 24 and 25. And removal, and many peers.

use crate::harness::{World, millis, seconds};
use tombolo_noise::{AddPeerError, Device, PrivateKey, PublicKey};
use tombolo_packet::message::MessageType;
use tombolo_packet::{DropReason, Endpoint};

#[test]
fn low_order_keys_are_accepted_and_never_answered_requirement_24() {
    let mut world = World::pair(1);
    let endpoint = Endpoint::new("198.51.100.1:1".parse().unwrap());
    for bytes in [[0; 32], {
        let mut one = [0; 32];
        one[0] = 1;
        one
    }] {
        let now = world.now_of(0);
        let id = world.nodes[0].device.add_peer(PublicKey::from_bytes(bytes)).unwrap();
        world.nodes[0].device.set_endpoint(id, Some(endpoint), now, &mut world.rng);
        world.nodes[0].device.set_persistent_keepalive(id, Some(5), now, &mut world.rng);
        world.nodes[0].device.initiate(id, now, &mut world.rng);
        world.run_outputs(0);
    }
    world.advance(seconds(300));
    assert_eq!(world.wire.len(), 0);
}

#[test]
fn ones_own_key_is_no_peer_requirement_25() {
    let mut world = World::pair(2);
    let own = world.nodes[0].public_key();
    assert_eq!(world.nodes[0].device.add_peer(own), Err(AddPeerError::OwnKey));
    // And a peer goes when its key becomes ours.
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    let link = world.link(0, 1);
    let theirs = world.nodes[1].private_key.clone();
    assert_eq!(world.nodes[0].device.set_private_key(Some(theirs), now, &mut world.rng), Some(id));
    assert!(world.nodes[0].device.link(id).is_none());
    assert_eq!(world.nodes[0].device.peers().count(), 0);
    assert_eq!(link.want_handshake(), None, "a worker that still holds the link says nothing");
}

#[test]
fn the_same_private_key_again_changes_nothing_requirement_25() {
    let mut world = World::established(3);
    let (private_key, now) = (world.nodes[0].private_key.clone(), world.now_of(0));
    world.nodes[0].device.set_private_key(Some(private_key), now, &mut world.rng);
    world.run_outputs(0);
    assert_eq!(world.wire.len(), 0);
    world.send(0, 1, b"same session");
    assert_eq!(world.sent(0, MessageType::Transport).len(), 1);
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut world = World::established(4);
    let id = world.peer(0, 1);
    world.nodes[0].device.remove_peer(id);
    assert!(world.nodes[0].device.index_table().is_empty());
    assert_eq!(world.nodes[0].device.poll_timeout(), None);
    assert_eq!(world.nodes[0].device.poll_output(), None);
    world.send(1, 0, b"nobody there");
    world.advance(millis(20));
    assert_eq!(world.nodes[0].dropped(DropReason::UnknownReceiverIndex), 1);
    // The slot is used again, by a peer that has none of it.
    let again = world.connect(0, 1);
    assert_eq!(again, id);
    assert_eq!(world.link(0, 1).sent_bytes(), 0);
}

#[test]
fn a_peer_is_added_once() {
    let mut world = World::pair(5);
    let (id, key) = (world.peer(0, 1), world.nodes[1].public_key());
    assert_eq!(world.nodes[0].device.add_peer(key), Err(AddPeerError::Known(id)));
}

#[test]
fn preshared_keys_must_agree() {
    let mut world = World::pair(6);
    let preshared_key = tombolo_noise::PresharedKey::generate(&mut world.rng);
    let (ours, theirs) = (world.peer(0, 1), world.peer(1, 0));
    world.nodes[0].device.set_preshared_key(ours, preshared_key.clone());
    world.send(0, 1, b"x");
    world.advance(seconds(1));
    assert_eq!(world.nodes[0].dropped(DropReason::HandshakeFailed), 1);
    world.nodes[1].device.set_preshared_key(theirs, preshared_key);
    world.advance(seconds(6));
    assert_eq!(world.nodes[1].delivered.len(), 1);
}

#[test]
fn ten_thousand_idle_peers_wait_for_nothing() {
    let mut world = World::new(7);
    let mut device = Device::new();
    for _ in 0..10_000 {
        // Any bytes are a public key.
        let mut bytes = [0; 32];
        rand_chacha::rand_core::Rng::fill_bytes(&mut world.rng, &mut bytes);
        device.add_peer(PublicKey::from_bytes(bytes)).unwrap();
    }
    assert_eq!(device.poll_timeout(), None);
    assert!(device.index_table().is_empty());
    let _ = PrivateKey::generate(&mut world.rng);
}
