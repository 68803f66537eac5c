//! Two engines that reach each other through a third: control rule 14.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{EAST, Machine, PATIENCE, PORT, WEST, udp, udp_ports, wait_until};
use tombolo_engine::{EngineEvent, Path, PeerChange, PeerState, RelayGrant, RelayPermissions, Transaction};
use tombolo_packet::DropReason;
use tombolo_packet::relay::{Direction, HEADER_LEN, PairRates, write_header};
use tombolo_tun::Offloads;
use tombolo_udp::memory::MemoryNetwork;

const NODE_EAST: [u8; 16] = [0xea; 16];
const NODE_WEST: [u8; 16] = [0x3e; 16];

struct World {
    _network: MemoryNetwork,
    east: Machine,
    west: Machine,
    relay: Machine,
}

impl World {
    /// East and west, with a path by the relay.
    fn start() -> Self {
        let world = Self::start_without_path();
        assert_eq!(world.east.handle.set_path(world.west.public_key, world.by_relay()), Ok(true));
        world
    }

    /// East's path to west.
    fn by_relay(&self) -> Path {
        Path::Relayed { relay: self.relay.public_key, node: NODE_WEST }
    }

    /// East and west know each other's keys, and where the relay is; it grants both ways.
    fn start_without_path() -> Self {
        let network = MemoryNetwork::new(5);
        let [east, west, relay] = [1, 2, 3].map(|number| Machine::start(&network, number, Offloads::NONE));
        for (node, address) in [(&east, "10.0.0.1/32"), (&west, "10.0.0.2/32")] {
            relay.add_peer(node, &[address], false);
            node.add_peer(&relay, &["10.0.0.3/32"], true);
            let mut change = PeerChange::new(relay.public_key);
            change.relay = Some(true);
            change.initiate = true;
            node.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
        }
        east.add_peer(&west, &["10.0.0.2/32"], false);
        west.add_peer(&east, &["10.0.0.1/32"], false);
        let world = Self { _network: network, east, west, relay };
        wait_until("the relay has sessions with both", || {
            let peers = world.relay.handle.status().unwrap().peers;
            peers.iter().all(|peer| peer.state == PeerState::Established && peer.endpoint.is_some())
        });
        world.grant(PairRates::default());
        world
    }

    fn grant(&self, rates: PairRates) {
        let grant = |from: &Machine, source, to: &Machine, destination| RelayGrant {
            source_key: from.public_key,
            source,
            destination,
            destination_key: to.public_key,
        };
        let grants = vec![
            grant(&self.east, NODE_EAST, &self.west, NODE_WEST),
            grant(&self.west, NODE_WEST, &self.east, NODE_EAST),
        ];
        self.relay.handle.set_relay(Some(RelayPermissions { rates, grants })).unwrap();
    }
}

/// Sends `count` packets, never more than `window` ahead of what has arrived, and again what is lost: the receiver has every byte in
/// order at the end.
fn transfer(from: &Machine, to: &Machine, size: usize, numbers: std::ops::Range<u32>) {
    let payload = |number: u32| {
        let mut payload = vec![number as u8; size];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        udp(EAST, WEST, &payload)
    };
    for number in numbers {
        wait_until("a packet arrives", || {
            from.send(&payload(number));
            to.host.receive(Duration::from_millis(500)).is_some_and(|received| received.1 == payload(number))
        });
    }
}

fn relayed(direction: Direction, node: &[u8; 16], datagram: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_LEN];
    write_header(&mut header, direction, node, datagram.len() as u16);
    [&header[..], datagram].concat()
}

fn transport() -> Vec<u8> {
    let mut datagram = vec![0; 32];
    datagram[0] = 4;
    datagram
}

#[test]
fn a_transfer_goes_through_a_relay_and_on_directly_in_the_same_session_control_rule_14() {
    let world = World::start();
    transfer(&world.east, &world.west, 1000, 0..200);
    // And back, by the session that came in: west was told of no path.
    let answer = udp(WEST, EAST, b"answer");
    wait_until("an answer arrives", || {
        world.west.send(&answer);
        world.east.host.receive(Duration::from_millis(500)).is_some_and(|received| received.1 == answer)
    });
    let peer = |machine: &Machine, other: &Machine| {
        let peers = machine.handle.status().unwrap().peers;
        peers.into_iter().find(|peer| peer.public_key == other.public_key).unwrap()
    };
    let (there, back) = (peer(&world.east, &world.west), peer(&world.west, &world.east));
    let relay = world.relay.public_key;
    assert_eq!(there.path, Some(Path::Relayed { relay, node: NODE_WEST }));
    assert_eq!(back.path, Some(Path::Relayed { relay, node: NODE_EAST }));
    assert_eq!((there.endpoint, back.endpoint), (None, None), "no address on the underlay is known");
    assert_eq!((there.mtu, back.mtu), (1420 - 52, 1420 - 52));

    // The relay goes; both are told the direct way. Nothing of the session is lost.
    let before = there.last_handshake;
    for (node, other) in [(&world.east, &world.west), (&world.west, &world.east)] {
        let mut gone = PeerChange::new(relay);
        gone.remove = true;
        let direct = Path::Direct(SocketAddr::new(other.outer, PORT));
        assert_eq!(node.handle.set_path(other.public_key, direct), Ok(true));
        node.handle.apply(Transaction { peers: vec![gone], ..Transaction::default() }).unwrap();
    }
    transfer(&world.east, &world.west, 1000, 200..300);
    let there = peer(&world.east, &world.west);
    assert_eq!(there.last_handshake, before);
    assert_eq!(there.path, Some(Path::Direct(SocketAddr::new(world.west.outer, PORT))));
}

#[test]
fn relayed_data_never_moves_the_direct_endpoint_control_rule_14() {
    let world = World::start();
    transfer(&world.east, &world.west, 100, 0..3);
    let direct = Path::Direct(SocketAddr::new(world.east.outer, PORT));
    assert_eq!(world.west.handle.set_path(world.east.public_key, direct), Ok(true));
    // East still sends by the relay.
    transfer(&world.east, &world.west, 100, 3..6);
    let peers = world.west.handle.status().unwrap().peers;
    let peer = peers.iter().find(|peer| peer.public_key == world.east.public_key).unwrap();
    assert_eq!(peer.path, Some(direct));
}

#[test]
fn whole_segments_fit_through_the_relay_and_longer_ones_are_told_control_rule_14() {
    let world = World::start();
    transfer(&world.east, &world.west, 100, 0..1);
    // 1368 = 1420 less the wrap; 28 are the headers of the packet itself.
    transfer(&world.east, &world.west, 1368 - 28, 1..3);
    world.east.send(&udp(EAST, WEST, &[0; 1368 - 27]));
    world.east.wait_dropped(DropReason::PacketTooBig, 1);
}

#[test]
fn a_pair_without_a_grant_is_asked_for_and_not_served_control_rule_14() {
    let world = World::start();
    transfer(&world.east, &world.west, 100, 0..1);
    let none = RelayPermissions { rates: PairRates::default(), grants: Vec::new() };
    world.relay.handle.set_relay(Some(none)).unwrap();
    world.relay.handle.status().unwrap();
    world.east.send(&udp_ports(EAST, WEST, 1, 2, b"refused"));
    world.relay.wait_dropped(DropReason::RelayRefused, 1);
    let events = world.relay.events.lock().unwrap();
    let wanted = loop {
        if let EngineEvent::RelayWanted { source, destination } = events.recv_timeout(PATIENCE).unwrap() {
            break (source, destination);
        }
    };
    drop(events);
    assert_eq!(wanted, (world.east.public_key, NODE_WEST));
    assert!(world.west.host.receive(Duration::ZERO).is_none());
    world.grant(PairRates::default());
    transfer(&world.east, &world.west, 100, 1..3);
}

#[test]
fn forged_sources_nested_datagrams_and_those_of_nobodys_relay_are_refused_control_rule_14() {
    let world = World::start();
    transfer(&world.east, &world.west, 100, 0..1);
    let (east, west, relay) = (&world.east, &world.west, &world.relay);
    // A node that says where a datagram comes from.
    let forged = relayed(Direction::FromRelay, &NODE_WEST, &transport());
    east.say(relay.public_key, forged.clone());
    relay.wait_dropped(DropReason::RelayRefused, 1);
    // A relayed datagram in a relayed datagram.
    let inner = relayed(Direction::ToRelay, &NODE_WEST, &transport());
    east.say(relay.public_key, relayed(Direction::ToRelay, &NODE_WEST, &inner));
    relay.wait_dropped(DropReason::MalformedRelayed, 1);
    // And one within the session that is relayed.
    east.say(west.public_key, relayed(Direction::FromRelay, &NODE_EAST, &transport()));
    west.wait_dropped(DropReason::RelayNested, 1);
    // What the relay brings is believed as little as what the underlay brings.
    let made_up = relayed(Direction::FromRelay, &[7; 16], &transport());
    relay.say(west.public_key, made_up);
    west.wait_dropped(DropReason::UnknownReceiverIndex, 1);
    // The other end is no relay, whatever it brings.
    let mut change = PeerChange::new(relay.public_key);
    change.relay = Some(false);
    west.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
    relay.say(west.public_key, forged);
    west.wait_dropped(DropReason::RelayRefused, 1);
}

#[test]
fn a_handshake_goes_by_all_paths_at_once_and_the_answer_says_which_works_control_rule_14() {
    let world = World::start_without_path();
    let (east, west) = (&world.east, &world.west);
    let dead = Path::Direct("192.0.2.200:1".parse().unwrap());
    let path = || {
        let peers = east.handle.status().unwrap().peers;
        let peer = peers.into_iter().find(|peer| peer.public_key == west.public_key).unwrap();
        (peer.state == PeerState::Established).then_some(peer.path).flatten()
    };
    assert_eq!(east.handle.handshake(west.public_key, vec![dead]), Ok(true));
    assert_eq!(path(), None);
    // Found out later, and the initiation that is under way goes there as well.
    let sent = |machine: &Machine| {
        machine.handle.status().unwrap().peers.iter().map(|peer| peer.sent_bytes).sum::<u64>()
    };
    let before = sent(east);
    assert_eq!(east.handle.handshake(west.public_key, vec![dead, world.by_relay()]), Ok(true));
    assert!(sent(east) > before);
    wait_until("the session is there", || path().is_some());
    assert_eq!(path(), Some(world.by_relay()));
    transfer(east, west, 100, 0..3);
    // A frame by the direct path changes neither side's.
    let direct = Path::Direct(SocketAddr::new(west.outer, PORT));
    east.say_by(west.public_key, Some(direct), vec![0xf1, 60, 0, 0]);
    west.wait_dropped(DropReason::UnknownFrame, 1);
    let peers = west.handle.status().unwrap().peers;
    let back = peers.iter().find(|peer| peer.public_key == east.public_key).unwrap().path;
    assert_eq!(back, Some(Path::Relayed { relay: world.relay.public_key, node: NODE_EAST }));
    assert_eq!(path(), Some(world.by_relay()));
}
