//! What the system is seen to get wrong at run time is given up, counted, and told.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use support::{EAST, Machine, WEST, expect_tcp, finish_checksums, tcp, two, two_of, udp, wait_until};
use tombolo_engine::OffloadReport;
use tombolo_packet::{DropReason, GsoType, Offload, OffloadState, VnetHeader};
use tombolo_tun::{Offloads, Reads};

const SEGMENT: u16 = 1000;
/// So many malformed packets are enough.
const FAULTS: u64 = 8;

fn report(machine: &Machine, offload: Offload) -> OffloadReport {
    let status = machine.handle.status().unwrap();
    status.offloads.offloads.into_iter().find(|report| report.offload == offload).unwrap()
}

fn is_given_up(machine: &Machine, offload: Offload) -> bool {
    matches!(report(machine, offload).state, OffloadState::Abandoned(_))
}

/// Sends the packet with this header until so many were dropped.
fn send_malformed(machine: &Machine, header: VnetHeader, packet: &[u8]) {
    let before = machine.dropped(DropReason::MalformedPacket);
    for _ in 0..FAULTS {
        machine.host.send(header, packet).unwrap();
    }
    machine.wait_dropped(DropReason::MalformedPacket, before + FAULTS);
}

/// What a kernel that was told to gives instead of super-packets: segments that are finished, or lack their checksum.
fn send_segments(machine: &Machine, finished: bool) {
    for at in [0, 1] {
        let (mut header, mut packet) = tcp(at * u32::from(SEGMENT), SEGMENT.into(), SEGMENT);
        if finished {
            finish_checksums(&mut packet);
            header = VnetHeader::default();
        }
        machine.host.send(header, &packet).unwrap();
    }
}

#[test]
fn malformed_super_packets_of_one_kind_are_asked_for_no_longer_and_all_else_still_is() {
    for workers in [1, 4] {
        let (_network, east, west) = two_of(workers, Offloads::ALL);
        let (header, packet) = tcp(0, 4 * usize::from(SEGMENT), SEGMENT);
        let wrong = VnetHeader { checksum_start: 19, ..header };
        send_malformed(&east, wrong, &packet);
        wait_until("TSO is given up", || !east.host.reads().tso);
        assert_eq!(east.host.reads(), Reads { tso: false, ..Reads::ALL });
        assert!(is_given_up(&east, Offload::Tso) && report(&east, Offload::Tso).fallbacks == FAULTS);
        assert!(!is_given_up(&east, Offload::Uso) && !is_given_up(&east, Offload::Checksum));
        send_segments(&east, false);
        expect_tcp(&west, 0, 2 * u32::from(SEGMENT));

        let datagram = udp(EAST, WEST, &[7; 3000]);
        let wrong = VnetHeader { gso_type: GsoType::Udp, gso_size: 0, needs_checksum: true, ..wrong };
        send_malformed(&east, wrong, &datagram);
        wait_until("USO is given up", || !east.host.reads().uso);
        assert_eq!(east.host.reads(), Reads { tso: false, uso: false, checksum: true });
        assert!(is_given_up(&east, Offload::Uso) && !is_given_up(&east, Offload::Checksum));
    }
}

#[test]
fn checksums_that_lie_outside_of_their_packets_are_left_to_the_system_and_super_packets_with_them() {
    let (_network, east, west) = two(Offloads::ALL);
    let (header, packet) = tcp(0, SEGMENT.into(), SEGMENT);
    send_malformed(&east, VnetHeader { checksum_start: 2000, ..header }, &packet);
    wait_until("checksums are given up", || !east.host.reads().checksum);
    for offload in [Offload::Checksum, Offload::Tso, Offload::Uso] {
        assert!(is_given_up(&east, offload), "{offload:?}");
    }
    assert_eq!(report(&east, Offload::Checksum).fallbacks, FAULTS);
    assert!(report(&east, Offload::VnetHeader).state.is_on(), "which an open device cannot lose");
    send_segments(&east, true);
    expect_tcp(&west, 0, 2 * u32::from(SEGMENT));
}

/// What is wrong with the packet itself, and not with what is said of it, is nobody's offload's fault.
#[test]
fn malformed_packets_that_were_whole_give_nothing_up() {
    let (_network, east, west) = two(Offloads::ALL);
    send_malformed(&east, VnetHeader::default(), &[0x45; 12]);
    let unfinished =
        VnetHeader { needs_checksum: true, checksum_start: 20, checksum_offset: 16, ..VnetHeader::default() };
    send_malformed(&east, unfinished, &[0x45; 12]);
    east.send(&udp(EAST, WEST, b"still there"));
    west.receive();
    assert_eq!(east.host.reads(), Reads::ALL);
    assert_eq!(report(&east, Offload::Checksum).fallbacks, 0);
}

#[test]
fn a_header_of_an_unknown_kind_ends_all_super_packets() {
    let (_network, east, west) = two(Offloads::ALL);
    for _ in 0..FAULTS {
        east.host.send_unreadable().unwrap();
    }
    wait_until("super-packets are given up", || {
        east.host.reads() == Reads { checksum: true, tso: false, uso: false }
    });
    assert!(is_given_up(&east, Offload::Tso) && is_given_up(&east, Offload::Uso));
    send_segments(&east, false);
    expect_tcp(&west, 0, 2 * u32::from(SEGMENT));
}

#[test]
fn a_socket_that_cannot_take_apart_what_it_put_together_receives_one_by_one() {
    let (_network, east, west) = two(Offloads::ALL);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    assert!(report(&west, Offload::Gro).state.is_on());
    west.sockets[0].break_gro();
    wait_until("UDP_GRO is given up", || {
        let (header, packet) = tcp(0, 40 * usize::from(SEGMENT), SEGMENT);
        east.host.send(header, &packet).unwrap();
        while west.host.receive(std::time::Duration::from_millis(5)).is_some() {}
        is_given_up(&west, Offload::Gro)
    });
    assert!(report(&west, Offload::Gro).fallbacks >= FAULTS);
    assert!(report(&east, Offload::Gro).state.is_on(), "each socket for itself");
    // What is on the way comes first.
    let last = udp(EAST, WEST, b"the last of them");
    east.send(&last);
    while west.receive() != last {}
    let (header, packet) = tcp(0, 40 * usize::from(SEGMENT), SEGMENT);
    east.host.send(header, &packet).unwrap();
    expect_tcp(&west, 0, 40 * u32::from(SEGMENT));
}
