//! A gateway brings packets from one tunnel into another: control rule 20.
//!
//! ```text
//!   stock 10.0.0.1 ═══ gateway 10.0.0.3 ═══ member 10.0.0.2
//! ```

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use support::{Machine, PATIENCE, udp};
use tombolo_engine::{EngineEvent, PeerChange, Transaction};
use tombolo_packet::DropReason;
use tombolo_tun::Offloads;
use tombolo_udp::memory::MemoryNetwork;

const STOCK: [u8; 4] = [10, 0, 0, 1];
const MEMBER: [u8; 4] = [10, 0, 0, 2];
const GATEWAY: [u8; 4] = [10, 0, 0, 3];
const OTHER: [u8; 4] = [10, 0, 0, 4];

struct World {
    _network: MemoryNetwork,
    stock: Machine,
    member: Machine,
    gateway: Machine,
    other: Machine,
}

/// The stock peer knows the gateway alone; members know that it is behind it. One address has a member that the gateway
/// does not know yet.
fn world(workers: usize) -> World {
    let network = MemoryNetwork::new(9);
    let start =
        |number| Machine::start_workers(&network, number, Offloads::NONE, workers, std::time::Duration::ZERO);
    let [stock, member, gateway, other] = [1, 2, 3, 4].map(start);
    stock.add_peer(&gateway, &["10.0.0.0/16"], true);
    for member in [&member, &other] {
        member.add_peer(&gateway, &["10.0.0.1/32", "10.0.0.3/32"], true);
    }
    gateway.add_peer(&stock, &["10.0.0.1/32"], true);
    gateway.add_peer(&member, &["10.0.0.2/32"], true);
    gateway.handle.set_overlay(vec!["10.0.0.0/16".parse().unwrap()]).unwrap();
    gateway.handle.set_gateway(vec!["10.0.0.3/32".parse().unwrap()]).unwrap();
    let change = PeerChange { forward: Some(true), ..PeerChange::new(stock.public_key) };
    gateway.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
    World { _network: network, stock, member, gateway, other }
}

fn passes(from: &Machine, to: &Machine, packet: &[u8]) {
    from.send(packet);
    assert_eq!(to.receive(), packet);
}

#[test]
fn a_stock_peer_and_members_reach_each_other_through_their_gateway_control_rule_20() {
    for workers in [1, 2, 4] {
        let world = world(workers);
        let World { stock, member, gateway, other, .. } = &world;
        for number in 0..20_u8 {
            passes(stock, member, &udp(STOCK, MEMBER, &[number; 500]));
            passes(member, stock, &udp(MEMBER, STOCK, &[number; 1392]));
        }
        let events = gateway.events.lock().unwrap();
        let announced = events.try_iter().any(|event| {
            let pair = (stock.public_key, member.public_key);
            matches!(event, EngineEvent::Forwarded { source, destination } if (source, destination) == pair)
        });
        assert!(announced, "the control plane hears who talks with whom");
        // What is for the gateway itself is.
        passes(stock, gateway, &udp(STOCK, GATEWAY, b"for you"));
        // Whoever is not known yet is looked for.
        stock.send(&udp(STOCK, OTHER, b"hello"));
        let wanted = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok())
            .any(|event| matches!(event, EngineEvent::TunnelWanted(address) if address == std::net::IpAddr::from(OTHER)));
        assert!(wanted);
        gateway.add_peer(other, &["10.0.0.4/32"], true);
        assert_eq!(other.receive(), udp(STOCK, OTHER, b"hello"));
    }
}

#[test]
fn between_members_and_outwards_a_gateway_brings_nothing_on() {
    let world = world(2);
    let World { stock, gateway, other, .. } = &world;
    gateway.add_peer(other, &["10.0.0.4/32"], true);
    // Between two members: the packet is for the TUN, as without a gateway.
    other.add_peer(gateway, &["10.0.0.0/16"], true);
    passes(other, gateway, &udp(OTHER, MEMBER, b"not brought on"));
    // Outside of the overlay there is nobody.
    stock.add_peer(gateway, &["0.0.0.0/0"], true);
    stock.send(&udp(STOCK, [8, 8, 8, 8], b"out"));
    gateway.wait_dropped(DropReason::NoRoute, 1);
    // With another's address it sends nothing.
    stock.send(&udp(OTHER, MEMBER, b"forged"));
    gateway.wait_dropped(DropReason::SourceNotAllowed, 1);
    // Not its gateway any more.
    let change = PeerChange { forward: Some(false), ..PeerChange::new(stock.public_key) };
    gateway.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
    passes(stock, gateway, &udp(STOCK, MEMBER, b"to the TUN"));
}
