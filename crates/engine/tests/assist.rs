//! Several workers and one busy flow: `host - TUN queue - engine and its helpers - UDP - the same - host`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::cell::Cell;

use support::{EAST, Machine, WEST, expect_tcp, tcp, udp, wait_until};
use tombolo_engine::{Assist, AssistStatus};
use tombolo_packet::DropReason;
use tombolo_tun::Offloads;
use tombolo_udp::memory::{Faults, MemoryNetwork};

/// Payload bytes of a segment, and of a super-packet.
const SEGMENT: usize = 1380;
const SUPER: usize = 42 * SEGMENT;
/// Packets that are sent at once.
const BURST: usize = 40;

fn machines(workers: usize, assist: Assist) -> (MemoryNetwork, Machine, Machine) {
    let network = MemoryNetwork::new(1);
    let start = |number| {
        Machine::start_adjusted(&network, number, Offloads::ALL, |options| {
            (options.workers, options.assist) = (workers, assist);
        })
    };
    let (east, west) = (start(1), start(2));
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], true);
    east.send(&udp(EAST, WEST, b"first"));
    west.receive();
    (network, east, west)
}

fn assisted(machine: &Machine) -> AssistStatus {
    machine.handle.status().unwrap().assist
}

/// Sends bursts of packets, as long as these in turn, until `done`; each one is checked to the byte.
fn transfer(east: &Machine, west: &Machine, lengths: &[usize], done: impl Fn() -> bool) {
    let mut at = 0;
    wait_until("somebody helps", || {
        let start = at;
        for len in lengths.iter().cycle().take(BURST) {
            let (header, packet) = tcp(at, *len, SEGMENT as u16);
            east.host.send(header, &packet).unwrap();
            at += *len as u32;
        }
        expect_tcp(west, start, at);
        done()
    });
}

#[test]
fn one_flow_is_sealed_and_opened_by_several_workers_in_order() {
    for workers in 2..=4 {
        let (_network, east, west) = machines(workers, Assist::Always);
        transfer(&east, &west, &[SUPER], || assisted(&east).sealed > 0 && assisted(&west).opened > 0);
        assert_eq!(west.dropped(DropReason::ReplayedCounter), 0);
        assert_eq!(west.dropped(DropReason::InvalidTag), 0);
        assert!(west.host.try_receive().is_none());
    }
}

#[test]
fn nobody_helps_where_there_is_one_worker_or_help_is_switched_off() {
    for (workers, assist) in [(1, Assist::Always), (4, Assist::Never)] {
        let (_network, east, west) = machines(workers, assist);
        let rounds = Cell::new(0);
        transfer(&east, &west, &[SUPER], || rounds.replace(rounds.get() + 1) == 5);
        assert_eq!(assisted(&east), AssistStatus::default());
        assert_eq!(assisted(&west), AssistStatus::default());
    }
}

/// Requirement 16: whoever opens, each counter is accepted once.
#[test]
fn what_comes_twice_is_delivered_once_whoever_opens_it_requirement_16() {
    let (network, east, west) = machines(4, Assist::Always);
    network.set_faults(Faults { duplication_per_mille: 1000, ..Faults::default() });
    transfer(&east, &west, &[SUPER], || assisted(&west).opened > 0);
    wait_until("the copies are counted", || west.dropped(DropReason::ReplayedCounter) >= (BURST * 42) as u64);
    assert_eq!(west.dropped(DropReason::InvalidTag), 0);
    assert!(west.host.try_receive().is_none());
}

/// Small packets among large ones keep their places, though helpers still seal what is before them.
#[test]
fn small_packets_among_large_ones_stay_in_order() {
    let (_network, east, west) = machines(4, Assist::Always);
    let lengths = [SUPER, 100, SUPER - 7, SUPER, 1, 2, SEGMENT, 9 * SEGMENT + 1];
    transfer(&east, &west, &lengths, || assisted(&east).sealed > 5 && assisted(&west).opened > 5);
    assert_eq!(west.dropped(DropReason::ReplayedCounter), 0);
}

#[test]
fn an_engine_stops_in_the_midst_of_help() {
    for _ in 0..20 {
        let (_network, east, west) = machines(4, Assist::Always);
        for number in 0..30 {
            let (header, packet) = tcp(number * SUPER as u32, SUPER, SEGMENT as u16);
            east.host.send(header, &packet).unwrap();
        }
        east.engine.stop();
        west.engine.stop();
        assert!(east.handle.status().is_err() && west.handle.status().is_err());
    }
}
