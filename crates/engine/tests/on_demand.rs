//! Tunnels that come with the first packet for them.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::net::IpAddr;

use support::{EAST, Machine, PATIENCE, WEST, udp, wait_until};
use tombolo_engine::EngineEvent;
use tombolo_packet::DropReason;
use tombolo_packet::ip::IpPacket;
use tombolo_tun::Offloads;
use tombolo_udp::memory::MemoryNetwork;

fn wanted(machine: &Machine) -> IpAddr {
    let events = machine.events.lock().unwrap();
    loop {
        if let EngineEvent::TunnelWanted(destination) = events.recv_timeout(PATIENCE).expect("an event") {
            return destination;
        }
    }
}

fn start() -> (Machine, Machine) {
    let network = MemoryNetwork::new(3);
    let [east, west] = [1, 2].map(|number| Machine::start(&network, number, Offloads::NONE));
    west.add_peer(&east, &["10.0.0.1/32"], false);
    east.handle.set_overlay(vec!["10.0.0.0/24".parse().unwrap()]).unwrap();
    // Commands that give no answer come before this one, which does.
    east.handle.status().unwrap();
    (east, west)
}

#[test]
fn packets_wait_for_the_peer_that_is_looked_for_and_come_in_order() {
    let (east, west) = start();
    for number in 0..20 {
        east.send(&udp(EAST, WEST, &[number]));
    }
    assert_eq!(wanted(&east), IpAddr::from(WEST));
    east.add_peer(&west, &["10.0.0.2/32"], true);
    for number in 0..20 {
        assert_eq!(west.receive(), udp(EAST, WEST, &[number]));
    }
    let again = east.events.lock().unwrap().try_iter().any(|e| matches!(e, EngineEvent::TunnelWanted(_)));
    assert!(!again, "an address is announced once");
}

#[test]
fn who_is_refused_is_told_and_what_is_outside_of_the_overlay_is_not_looked_for() {
    let (east, _west) = start();
    let outside = udp(EAST, [10, 0, 1, 2], b"outside");
    east.send(&outside);
    east.wait_dropped(DropReason::NoRoute, 1);
    let packet = udp(EAST, WEST, b"to nobody");
    east.send(&packet);
    let destination = wanted(&east);
    east.handle.refuse_tunnel(destination).unwrap();
    let answer = east.receive();
    let answer = IpPacket::parse(&answer).unwrap();
    assert_eq!((answer.source(), answer.destination()), (WEST.into(), EAST.into()));
    assert_eq!((answer.payload()[0], answer.payload()[1]), (3, 1), "host unreachable");
    assert_eq!(&answer.payload()[8..], packet);
    assert_eq!(east.dropped(DropReason::NoTunnel), 1);
    // Once the refusal is over, the address is looked for again.
    wait_until("the address is announced again", || {
        east.send(&packet);
        east.events.lock().unwrap().try_iter().any(|event| event == EngineEvent::TunnelWanted(destination))
    });
}
