//! The same with one worker, with two and with more: `host - TUN queues - engine - UDP - engine - TUN
//! queues - host`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use support::{EAST, Machine, PORT, WEST, for_all_workers, two_of, udp, udp_ports, wait_until};
use tombolo_engine::{EngineEvent, PeerState, Transaction};
use tombolo_packet::DropReason;
use tombolo_tun::Offloads;
use tombolo_udp::memory::{Faults, MemoryNetwork};
use tombolo_udp::{SendOutcome, Socket, Transmit};

/// The flow of a packet that [`udp_ports`] made, and its number.
fn flow_and_number(packet: &[u8]) -> (u16, u32) {
    let flow = u16::from_be_bytes([packet[20], packet[21]]);
    (flow, u32::from_be_bytes(packet[28..32].try_into().unwrap()))
}

#[test]
fn both_directions_work_and_what_is_staged_leaves_in_order() {
    for_all_workers(|workers| {
        let (_network, east, west) = two_of(workers, Offloads::NONE);
        // Of one flow: a TUN keeps nothing else in order.
        let packets: Vec<Vec<u8>> = (0..100u8).map(|number| udp(EAST, WEST, &[number])).collect();
        for packet in &packets {
            east.send(packet);
        }
        for packet in &packets {
            assert_eq!(&west.receive(), packet);
        }
        let answer = udp(WEST, EAST, b"answer");
        west.send(&answer);
        assert_eq!(east.receive(), answer);
        assert_eq!(east.handle.status().unwrap().peers[0].state, PeerState::Established);
    });
}

#[test]
fn every_flow_stays_in_order_and_nothing_is_lost() {
    const FLOWS: u16 = 8;
    const PACKETS: u32 = 400;
    for_all_workers(|workers| {
        let (_network, east, west) = two_of(workers, Offloads::NONE);
        east.send(&udp(EAST, WEST, b"first"));
        west.receive();
        for number in 0..PACKETS {
            for flow in 0..FLOWS {
                east.send(&udp_ports(EAST, WEST, flow, 1, &number.to_be_bytes()));
            }
        }
        let mut next = BTreeMap::new();
        for _ in 0..PACKETS * u32::from(FLOWS) {
            let (flow, number) = flow_and_number(&west.receive());
            let expected = next.entry(flow).or_insert(0);
            assert_eq!(number, *expected, "flow {flow} of {workers} workers");
            *expected += 1;
        }
        assert!(west.host.try_receive().is_none());
    });
}

/// Steering is a hint: any worker opens any message, and each counter is accepted once.
#[test]
fn what_is_steered_astray_is_delivered_once_all_the_same_requirement_16() {
    const PACKETS: u32 = 1000;
    for_all_workers(|workers| {
        let (network, east, west) = two_of(workers, Offloads::NONE);
        east.send(&udp(EAST, WEST, b"first"));
        west.receive();
        network.set_faults(Faults {
            astray_per_mille: 500,
            duplication_per_mille: 500,
            reordering_per_mille: 300,
            ..Faults::default()
        });
        for number in 0..PACKETS {
            east.send(&udp_ports(EAST, WEST, 7, 1, &number.to_be_bytes()));
        }
        let mut seen: Vec<u32> = (0..PACKETS).map(|_| flow_and_number(&west.receive()).1).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..PACKETS).collect::<Vec<u32>>());
        // About half came twice; all of them were looked at before the last one was counted.
        west.wait_dropped(DropReason::ReplayedCounter, u64::from(PACKETS / 3));
        assert!(west.host.try_receive().is_none());
    });
}

#[test]
fn junk_indices_are_counted_and_harm_nobody_requirement_15() {
    for_all_workers(|workers| {
        let (network, east, west) = two_of(workers, Offloads::NONE);
        east.send(&udp(EAST, WEST, b"before"));
        west.receive();
        let stranger = network.socket(&["198.51.100.66".parse().unwrap()], 1);
        for number in 0..1000_u32 {
            let mut message = [0xa5; 64];
            message[..4].copy_from_slice(&[4, 0, 0, 0]);
            message[4..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
            let transmit = Transmit::new((west.outer, PORT).into(), &message);
            stranger.send(&[transmit], &mut SendOutcome::default());
        }
        west.wait_dropped(DropReason::UnknownReceiverIndex, 1000);
        east.send(&udp(EAST, WEST, b"after"));
        assert_eq!(west.receive(), udp(EAST, WEST, b"after"));
    });
}

#[test]
fn another_port_takes_all_lanes_along() {
    for_all_workers(|workers| {
        let (_network, east, west) = two_of(workers, Offloads::NONE);
        east.send(&udp(EAST, WEST, b"before"));
        west.receive();
        // The memory's binder gives the old port again, on new sockets: the old ones get nothing more.
        let change = Transaction { listen_port: Some(PORT + 1), ..Transaction::default() };
        west.handle.apply(change).unwrap();
        for number in 0..20_u32 {
            let packet = udp_ports(EAST, WEST, 3, 3, &number.to_be_bytes());
            east.send(&packet);
            assert_eq!(west.receive(), packet);
        }
    });
}

#[test]
fn a_hub_of_several_workers_serves_several_peers_at_once() {
    const PEERS: u8 = 4;
    const PACKETS: u32 = 200;
    for_all_workers(|workers| {
        let network = MemoryNetwork::new(9);
        let hub = Machine::start_workers(&network, 1, Offloads::NONE, workers, Duration::ZERO);
        let spokes: Vec<Machine> = (2..2 + PEERS)
            .map(|number| {
                let spoke = Machine::start(&network, number, Offloads::NONE);
                spoke.add_peer(&hub, &["10.0.0.1/32"], true);
                hub.add_peer(&spoke, &[&format!("10.0.0.{number}/32")], false);
                spoke
            })
            .collect();
        for number in 0..PACKETS {
            for (flow, spoke) in (2..).zip(&spokes) {
                spoke.send(&udp_ports([10, 0, 0, flow as u8], EAST, flow, 1, &number.to_be_bytes()));
            }
            let mut heard: Vec<u16> = spokes
                .iter()
                .map(|_| {
                    let (flow, found) = flow_and_number(&hub.receive());
                    assert_eq!(found, number);
                    flow
                })
                .collect();
            heard.sort_unstable();
            assert_eq!(heard, (2..2 + u16::from(PEERS)).collect::<Vec<_>>());
        }
        for (last, spoke) in (2..).zip(&spokes) {
            let answer = udp(EAST, [10, 0, 0, last], b"answer");
            hub.send(&answer);
            assert_eq!(spoke.receive(), answer);
        }
    });
}

#[test]
fn an_engine_that_looks_before_it_sleeps_delivers_the_same() {
    for workers in [1, 2, 4] {
        let network = MemoryNetwork::new(1);
        let start = |number| {
            Machine::start_workers(&network, number, Offloads::NONE, workers, Duration::from_millis(5))
        };
        let (east, west) = (start(1), start(2));
        east.add_peer(&west, &["10.0.0.2/32"], true);
        west.add_peer(&east, &["10.0.0.1/32"], true);
        for number in 0..500_u32 {
            let question = udp_ports(EAST, WEST, 1, 2, &number.to_be_bytes());
            east.send(&question);
            assert_eq!(west.receive(), question);
            let answer = udp_ports(WEST, EAST, 2, 1, &number.to_be_bytes());
            west.send(&answer);
            assert_eq!(east.receive(), answer);
        }
    }
}

#[test]
fn a_deleted_tun_is_reported_and_the_engine_still_stops() {
    for_all_workers(|workers| {
        let (_network, east, _west) = two_of(workers, Offloads::NONE);
        east.host.delete().unwrap();
        let events = east.events.lock().unwrap();
        wait_until("TunGone", || events.try_recv() == Ok(EngineEvent::TunGone));
        drop(events);
        east.engine.stop();
        assert!(east.handle.status().is_err());
    });
}
