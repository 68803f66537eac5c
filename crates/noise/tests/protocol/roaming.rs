//! Roaming: requirement 19. And what is counted: `wg show transfer`.

use crate::harness::{World, millis, seconds};
use tombolo_packet::DropReason;
use tombolo_packet::message::MessageType;

#[test]
fn the_endpoint_follows_authenticated_data_requirement_19() {
    let mut world = World::established(1);
    world.nodes[0].address = "198.51.100.4:4444".parse().unwrap();
    world.send(0, 1, b"from elsewhere");
    world.advance(millis(20));
    assert_eq!(world.link(1, 0).endpoint().unwrap().remote, world.nodes[0].address);
    world.send(1, 0, b"found you");
    world.advance(millis(20));
    assert_eq!(&world.nodes[0].delivered.last().unwrap().1[..9], b"found you");
}

#[test]
fn the_endpoint_follows_keepalives_and_both_handshake_messages_requirement_19() {
    let mut world = World::established(2);
    // The responder's keepalive.
    world.send(0, 1, b"answered in 10 s");
    world.advance(millis(50));
    world.nodes[1].address = "198.51.100.5:5".parse().unwrap();
    world.advance(seconds(11));
    assert_eq!(world.link(0, 1).endpoint().unwrap().remote, world.nodes[1].address);
    // An initiation, and a response that comes from another address than the initiation went to.
    let (id, now) = (world.peer(0, 1), world.now_of(0));
    world.nodes[0].device.initiate(id, now, &mut world.rng);
    world.nodes[0].address = "198.51.100.6:6".parse().unwrap();
    world.run_outputs(0);
    world.advance(millis(10));
    assert_eq!(world.link(1, 0).endpoint().unwrap().remote, world.nodes[0].address);
    let response = world.sent(1, MessageType::Response).remove(0).contents;
    world.receive(0, "198.51.100.7:7".parse().unwrap(), response);
    assert_eq!(world.link(0, 1).endpoint().unwrap().remote, "198.51.100.7:7".parse().unwrap());
}

#[test]
fn replays_and_forgeries_move_nothing_requirements_16_and_19() {
    let mut world = World::established(3);
    world.send(0, 1, b"once");
    world.advance(millis(20));
    let data = world.sent(0, MessageType::Transport).remove(0).contents;
    let delivered = world.nodes[1].delivered.len();
    let attacker = "198.51.100.66:1".parse().unwrap();
    world.receive(1, attacker, data.clone());
    assert_eq!(world.nodes[1].dropped(DropReason::ReplayedCounter), 1);
    for position in 16..data.len() {
        let mut forged = data.clone();
        forged[position] ^= 0x80;
        world.receive(1, attacker, forged);
    }
    assert_eq!(world.nodes[1].dropped(DropReason::InvalidTag), data.len() - 16);
    let mut forged = data;
    forged[8] ^= 1;
    world.receive(1, attacker, forged);
    assert_eq!(world.nodes[1].dropped(DropReason::InvalidTag), 33);
    assert_eq!(world.nodes[1].delivered.len(), delivered);
    assert_eq!(world.link(1, 0).endpoint().unwrap().remote, world.nodes[0].address);
}

#[test]
fn whole_messages_are_counted_handshakes_and_keepalives_included() {
    let mut world = World::pair(4);
    world.send(0, 1, &[1; 20]);
    world.advance(seconds(11));
    // Initiation, 20 bytes padded to 32; response, keepalive.
    assert_eq!(world.link(0, 1).sent_bytes(), 148 + 64);
    assert_eq!(world.link(1, 0).received_bytes(), 148 + 64);
    assert_eq!(world.link(1, 0).sent_bytes(), 92 + 32);
    assert_eq!(world.link(0, 1).received_bytes(), 92 + 32);
    let wall = world.now_of(0).wall;
    for (node, of) in [(0, 1), (1, 0)] {
        let handshake = world.link(node, of).last_handshake().unwrap();
        assert!(wall.0 - handshake.0 < seconds(12), "wall-clock time (requirement 26)");
    }
}
