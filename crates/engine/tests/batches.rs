//! What came to the socket as one batch, and what the TUN gets of it.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use rustix::io::Errno;
use support::gate::Gates;
use support::{EAST, Machine, WEST, expect_tcp, tcp, udp, wait_until};
use tombolo_packet::{DropReason, GsoType, Offload, OffloadState};
use tombolo_tun::Offloads;
use tombolo_udp::memory::{Faults, MemoryNetwork};

const SEGMENT: u16 = 1380;
/// Segments of a super-packet.
const SEGMENTS: usize = 40;
const SUPER: usize = SEGMENTS * SEGMENT as usize;

/// East and west, who have a session, and the gates of both.
fn pair() -> (MemoryNetwork, [Machine; 2], [Gates; 2]) {
    let network = MemoryNetwork::new(6040);
    let gates = [Gates::new(), Gates::new()];
    let start = |number: u8| {
        Machine::start_gated(&network, number, Offloads::ALL, &gates[usize::from(number) - 1], |_| {})
    };
    let (east, west) = (start(1), start(2));
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], true);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    (network, [east, west], gates)
}

/// Sends a super-packet that begins at `at`, of which west receives all messages by one call.
fn send_as_one_batch(east: &Machine, gates: &[Gates; 2], at: usize) {
    let closed = gates[1].udp.close();
    let sent = gates[0].sent();
    let (header, packet) = tcp(at as u32, SUPER, SEGMENT);
    east.host.send(header, &packet).unwrap();
    wait_until("all is sent", || gates[0].sent() >= sent + SEGMENTS);
    drop(closed);
}

/// They were sealed in the order of their counters, so that is how they are put together.
#[test]
fn messages_that_come_out_of_order_within_a_batch_are_delivered_as_one_in_the_order_of_their_counters() {
    let (network, [east, west], gates) = pair();
    network.set_faults(Faults { reordering_per_mille: 400, ..Faults::default() });
    for round in 0..3 {
        let at = round * SUPER;
        send_as_one_batch(&east, &gates, at);
        assert_eq!(expect_tcp(&west, at as u32, (at + SUPER) as u32), [SUPER], "in one write");
    }
    assert_eq!(west.dropped(DropReason::ReplayedCounter), 0);
}

#[test]
fn a_super_packet_that_the_tun_refuses_is_written_in_segments_and_so_are_later_ones() {
    let (_network, [east, west], gates) = pair();
    let report = || {
        let status = west.handle.status().unwrap();
        let report =
            status.offloads.offloads.into_iter().find(|report| report.offload == Offload::CoalesceTcp);
        report.map(|report| (report.state, report.fallbacks)).unwrap()
    };
    assert_eq!(report(), (OffloadState::On, 0));
    let refused = Errno::INVAL.raw_os_error();
    west.host.fail_write(refused);
    for round in 0..2 {
        let at = round * SUPER;
        send_as_one_batch(&east, &gates, at);
        let lengths = expect_tcp(&west, at as u32, (at + SUPER) as u32);
        assert_eq!(lengths, [usize::from(SEGMENT); SEGMENTS]);
        assert_eq!(report(), (OffloadState::Demoted(refused), 1), "round {round}");
    }
    assert_eq!(west.dropped(DropReason::TunWriteFailed), 0, "nothing was lost");

    // One that fails by itself is lost, and changes nothing for the others.
    west.host.fail_write(refused);
    send_as_one_batch(&east, &gates, 2 * SUPER);
    let start = (2 * SUPER + usize::from(SEGMENT)) as u32;
    expect_tcp(&west, start, 3 * SUPER as u32);
    assert_eq!(west.dropped(DropReason::TunWriteFailed), 1);
    assert_eq!(report().1, 1);
}

#[test]
fn segments_of_a_refused_super_packet_have_the_headers_and_checksums_that_they_were_sent_with() {
    let (_network, [east, west], gates) = pair();
    west.host.fail_write(Errno::INVAL.raw_os_error());
    send_as_one_batch(&east, &gates, 0);
    for index in 0..SEGMENTS {
        let (header, segment) = west.host.receive(support::PATIENCE).unwrap();
        assert_eq!((header.gso_type, header.needs_checksum), (GsoType::None, false));
        let at = index * usize::from(SEGMENT);
        // The same segment by itself, with its checksum made by somebody else.
        let (_, mut expected) = tcp(at as u32, SEGMENT.into(), SEGMENT);
        expected[4..6].copy_from_slice(&(1 + index as u16).to_be_bytes());
        support::finish_checksums(&mut expected);
        assert_eq!(segment, expected, "segment {index}");
    }
}
