//! The hot path takes no memory: in a process of its own, since the allocator counts for all of it.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;
#[path = "allocations/sys.rs"]
mod sys;

use support::gate::Gates;
use support::{EAST, Machine, WEST, expect_tcp, tcp, udp, wait_until};
use tombolo_engine::Assist;
use tombolo_tun::Offloads;
use tombolo_udp::memory::MemoryNetwork;

const SEGMENT: u16 = 1380;
/// Of a super-packet.
const SEGMENTS: usize = 43;
/// In one batch, which all fits into one call of the receiver's.
const SUPER_PACKETS: usize = 8;
/// Batches in a row without an allocation that are taken for all that come …
const ENOUGH: usize = 5;
/// … and batches by then: memory is taken only where one is larger than all before it.
const WARM_UP: usize = 40;

#[test]
fn a_batch_of_several_hundred_messages_out_and_in_allocates_nothing() {
    let network = MemoryNetwork::new(1);
    let gates = [Gates::watched(sys::watch), Gates::watched(sys::watch)];
    let [east, west] = [1, 2].map(|number: u8| {
        Machine::start_gated(&network, number, Offloads::ALL, &gates[usize::from(number) - 1], |options| {
            options.assist = Assist::Never;
        })
    });
    east.add_peer(&west, &["10.0.0.2/32"], true);
    west.add_peer(&east, &["10.0.0.1/32"], true);
    east.send(&udp(EAST, WEST, b"hello"));
    west.receive();
    assert!(sys::count() > 0, "the threads are watched from their first batch on");

    let (mut at, mut in_a_row) = (0, 0);
    for _ in 0..WARM_UP + ENOUGH {
        let (start, before, sent) = (at, sys::count(), gates[0].sent());
        let (closed_out, closed_in) = (gates[0].tun.close(), gates[1].udp.close());
        for _ in 0..SUPER_PACKETS {
            let payload = SEGMENTS * usize::from(SEGMENT);
            let (header, packet) = tcp(at, payload, SEGMENT);
            east.host.send(header, &packet).unwrap();
            at += payload as u32;
        }
        drop(closed_out);
        wait_until("all is sent", || gates[0].sent() >= sent + SUPER_PACKETS * SEGMENTS);
        drop(closed_in);
        let written = expect_tcp(&west, start, at);
        assert!(written.len() < 2 * SUPER_PACKETS, "not one batch of super-packets: {written:?}");
        in_a_row = if sys::count() == before { in_a_row + 1 } else { 0 };
        if in_a_row == ENOUGH {
            return;
        }
    }
    panic!("each batch takes memory: {} allocations so far", sys::count());
}
