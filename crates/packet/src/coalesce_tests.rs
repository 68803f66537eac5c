use proptest::prelude::*;

use super::*;
use crate::SuperPacket;
use crate::test_packets::{Described, Spec};

/// What was written: header and the bytes of all slices.
type Output = (VnetHeader, Vec<u8>);

/// Puts `packets` into an arena as an inward worker has them, with a gap before and padding behind each, and
/// merges them.
fn coalesce_with(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<Output> {
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    for packet in packets {
        arena.extend([0xee; 16]);
        let start = arena.len();
        arena.extend(packet);
        arena.resize(start + packet.len().next_multiple_of(16), 0);
        ranges.push(start..arena.len());
        arena.extend([0xdd; 16]);
    }
    for range in ranges {
        coalescer.push(&arena, range);
    }
    assert_eq!(coalescer.len(), packets.len());
    let mut outputs = Vec::new();
    coalescer.for_each_output(&mut arena, |header, slices| {
        assert!(slices.len() <= MAX_MERGED);
        outputs.push((header, slices.iter().flat_map(|slice| slice.to_vec()).collect()));
    });
    assert!(coalescer.is_empty());
    outputs
}

fn coalesce(packets: &[Vec<u8>]) -> Vec<Output> {
    coalesce_with(&mut Coalescer::new(CoalesceOptions::default()), packets)
}

/// Splits outputs again.
fn resplit(outputs: &[Output]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (header, bytes) in outputs {
        let mut bytes = bytes.clone();
        let packet = SuperPacket::parse(*header, &mut bytes).unwrap();
        for index in 0..packet.segments() {
            let mut out = vec![0; packet.segment_len(index)];
            packet.write_segment(index, &mut out);
            packets.push(out);
        }
    }
    packets
}

/// `count` packets that follow each other, of 100 bytes of payload each.
fn train(ipv6: bool, tcp: bool, count: usize) -> Vec<Spec> {
    let whole = Spec::new(ipv6, tcp, Vec::new());
    (0..count)
        .map(|index| {
            let mut spec = whole.clone();
            spec.payload = vec![index as u8; 100];
            spec.sequence += 100 * index as u32;
            spec.identification += index as u16;
            spec
        })
        .collect()
}

fn build(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::build).collect()
}

const KINDS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn packets_that_follow_each_other_become_one() {
    for (ipv6, tcp) in KINDS {
        let mut specs = train(ipv6, tcp, 20);
        specs[19].payload.truncate(33);
        let outputs = coalesce(&build(&specs));
        assert_eq!(outputs.len(), 1);
        let (header, bytes) = &outputs[0];
        let mut whole = specs[0].clone();
        whole.payload = specs.iter().flat_map(|spec| spec.payload.clone()).collect();
        assert_eq!(*bytes, whole.build_partial());
        assert_eq!(*header, whole.vnet_header(100));
        assert_eq!(resplit(&outputs), build(&specs));
    }
}

#[test]
fn a_packet_alone_is_left_as_it_is() {
    for (ipv6, tcp) in KINDS {
        let packet = Spec::new(ipv6, tcp, vec![1; 77]).build();
        assert_eq!(coalesce(std::slice::from_ref(&packet)), [(VnetHeader::default(), packet)]);
    }
}

/// Whether the third of three packets, changed by `change`, is merged with the first two.
fn merges_after(ipv6: bool, tcp: bool, change: impl FnOnce(&mut Spec)) -> bool {
    let mut specs = train(ipv6, tcp, 3);
    change(&mut specs[2]);
    let packets = build(&specs);
    let outputs = coalesce(&packets);
    assert_eq!(resplit(&outputs), packets);
    outputs[0].1.len() > specs[0].headers_len() + 200
}

#[test]
fn a_packet_that_differs_begins_anew() {
    for (ipv6, tcp) in KINDS {
        assert!(merges_after(ipv6, tcp, |_| {}));
        assert!(!merges_after(ipv6, tcp, |spec| spec.hosts.0 = 9));
        assert!(!merges_after(ipv6, tcp, |spec| spec.hosts.1 = 9));
        assert!(!merges_after(ipv6, tcp, |spec| spec.ports.0 = 9));
        assert!(!merges_after(ipv6, tcp, |spec| spec.ports.1 = 9));
        assert!(!merges_after(ipv6, tcp, |spec| spec.hop_limit = 9));
        assert!(!merges_after(ipv6, tcp, |spec| spec.traffic_class = 3));
        assert!(!merges_after(ipv6, tcp, |spec| spec.traffic_class = 0xb8));
        assert!(!merges_after(ipv6, tcp, |spec| spec.payload.push(0)));
        assert!(!merges_after(ipv6, tcp, |spec| spec.payload.clear()));
        assert!(merges_after(ipv6, tcp, |spec| spec.payload.truncate(99)));
        if ipv6 {
            assert!(!merges_after(ipv6, tcp, |spec| spec.flow_label = 9));
            let next = if tcp { 6 } else { 17 };
            assert!(!merges_after(ipv6, tcp, |spec| spec.ip_options = vec![next, 0, 1, 4, 0, 0, 0, 0]));
        } else {
            assert!(!merges_after(ipv6, tcp, |spec| spec.identification += 1));
            assert!(!merges_after(ipv6, tcp, |spec| spec.dont_fragment = false));
            assert!(!merges_after(ipv6, tcp, |spec| spec.ip_options = vec![1; 4]));
        }
    }
    for ipv6 in [false, true] {
        assert!(!merges_after(ipv6, true, |spec| spec.sequence += 1));
        assert!(!merges_after(ipv6, true, |spec| spec.acknowledgement += 1));
        assert!(!merges_after(ipv6, true, |spec| spec.window += 1));
        assert!(!merges_after(ipv6, true, |spec| spec.urgent += 1));
        assert!(!merges_after(ipv6, true, |spec| spec.tcp_options[11] += 1));
        assert!(!merges_after(ipv6, true, |spec| spec.tcp_options.truncate(8)));
        for (flag, merged) in [
            (0x01, true),
            (0x02, false),
            (0x04, false),
            (0x08, true),
            (0x20, false),
            (0x40, false),
            (0x80, false),
        ] {
            assert_eq!(merges_after(ipv6, true, |spec| spec.flags |= flag), merged, "flag {flag:#x}");
        }
        assert!(!merges_after(ipv6, true, |spec| spec.flags = 0));
    }
}

#[test]
fn push_and_fin_close_and_a_short_packet_closes() {
    for flag in [0x01, 0x08] {
        let mut specs = train(false, true, 5);
        specs[2].flags |= flag;
        let outputs = coalesce(&build(&specs));
        assert_eq!(outputs.len(), 2);
        assert_eq!(outputs[0].1[33], 0x10 | flag);
        assert_eq!(resplit(&outputs), build(&specs));
    }
    let mut specs = train(true, true, 5);
    specs[2].payload.truncate(50);
    specs[3].sequence -= 50;
    specs[4].sequence -= 50;
    assert_eq!(coalesce(&build(&specs)).len(), 2);
}

#[test]
fn a_reduced_window_is_told_by_the_first_packet() {
    let mut specs = train(false, true, 4);
    specs[0].flags |= 0x80;
    let outputs = coalesce(&build(&specs));
    assert_eq!((outputs.len(), outputs[0].0.ecn), (1, true));
    assert_eq!(resplit(&outputs), build(&specs));
}

#[test]
fn identifications_count_up_or_are_all_alike_where_they_mean_nothing() {
    let alike = |dont_fragment| {
        let mut specs = train(false, true, 6);
        for spec in &mut specs {
            spec.identification = 0;
            spec.dont_fragment = dont_fragment;
        }
        coalesce(&build(&specs)).len()
    };
    assert_eq!((alike(true), alike(false)), (1, 6));
    let mut specs = train(false, true, 6);
    specs[3].identification = specs[0].identification;
    assert_eq!(coalesce(&build(&specs)).len(), 3);
    for (index, spec) in specs.iter_mut().enumerate() {
        spec.identification = 0xfffe_u16.wrapping_add(index as u16);
    }
    assert_eq!(coalesce(&build(&specs)).len(), 1);
}

#[test]
fn udp_without_a_checksum_is_not_given_one() {
    let mut packets = build(&train(false, false, 3));
    packets[1][26..28].fill(0);
    assert_eq!(resplit(&coalesce(&packets)), packets);
    assert_eq!(coalesce(&packets).len(), 3);
}

#[test]
fn a_udp_length_that_is_not_the_packets_is_left_alone() {
    let mut packets = build(&train(true, false, 3));
    packets[1][45] -= 1;
    let outputs = coalesce(&packets);
    assert_eq!(outputs.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), packets);
}

#[test]
fn fragments_are_not_merged_and_not_overtaken() {
    let mut specs = train(false, false, 4);
    // The last one would go on where the second ended.
    specs[3].identification -= 1;
    let mut packets = build(&specs);
    for flags in [0x20, 0x00] {
        packets[2][6] = flags;
        packets[2][7] = if flags == 0 { 5 } else { 0 };
        let sum = !crate::test_packets::slow_sum(&[&packets[2][..10], &packets[2][12..20]].concat());
        packets[2][10..12].copy_from_slice(&sum.to_be_bytes());
        let outputs = coalesce(&packets);
        assert_eq!(outputs.len(), 3);
        assert_eq!(outputs[1], (VnetHeader::default(), packets[2].clone()));
        assert_eq!(resplit(&outputs), packets);
    }
}

#[test]
fn a_bare_acknowledgement_is_not_overtaken() {
    let mut specs = train(false, true, 4);
    specs[2].payload.clear();
    specs[3].sequence = specs[2].sequence;
    specs[3].identification -= 1;
    let outputs = coalesce(&build(&specs));
    assert_eq!(resplit(&outputs), build(&specs));
    assert_eq!(outputs.len(), 3);
}

#[test]
fn a_wrong_checksum_is_not_hidden_where_it_is_looked_for() {
    let unchecked = CoalesceOptions { verify_checksums: false, ..CoalesceOptions::default() };
    for (ipv6, tcp) in KINDS {
        let specs = train(ipv6, tcp, 4);
        let mut packets = build(&specs);
        assert_eq!(coalesce(&packets).len(), 1);
        packets[2][specs[0].headers_len()] ^= 1;
        let outputs = coalesce(&packets);
        assert_eq!(outputs.len(), 3);
        assert_eq!(resplit(&outputs), packets);
        assert_eq!(coalesce_with(&mut Coalescer::new(unchecked), &packets).len(), 1);
    }
    let mut packets = build(&train(false, true, 3));
    packets[1][10] ^= 1;
    let outputs = coalesce(&packets);
    assert_eq!(outputs[1], (VnetHeader::default(), packets[1].clone()));
}

#[test]
fn lengths_and_numbers_are_bounded() {
    let specs = train(false, false, 2 * MAX_MERGED + 1);
    assert_eq!(coalesce(&build(&specs)).len(), 3);
    let options = CoalesceOptions { max_len: 28 + 250, ..CoalesceOptions::default() };
    let outputs = coalesce_with(&mut Coalescer::new(options), &build(&specs[..5]));
    assert_eq!(outputs.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [228, 228, 128]);
    // As long as an IP length can say, and not a byte more.
    let mut specs = train(false, true, 60);
    for (index, spec) in specs.iter_mut().enumerate() {
        spec.payload = vec![1; 1368];
        spec.sequence = 1368 * index as u32;
    }
    let outputs = coalesce_with(
        &mut Coalescer::new(CoalesceOptions { max_len: usize::MAX, ..CoalesceOptions::default() }),
        &build(&specs),
    );
    assert_eq!((outputs.len(), outputs[0].1.len()), (2, 52 + 47 * 1368));
    assert_eq!(resplit(&outputs), build(&specs));
}

#[test]
fn what_is_switched_off_is_not_merged() {
    for (tcp, udp) in [(true, false), (false, true)] {
        let mut coalescer = Coalescer::new(CoalesceOptions::default());
        coalescer.set_options(CoalesceOptions { tcp, udp, ..CoalesceOptions::default() });
        let count =
            |coalescer: &mut Coalescer, tcp| coalesce_with(coalescer, &build(&train(false, tcp, 3))).len();
        assert_eq!(count(&mut coalescer, true), if tcp { 1 } else { 3 });
        assert_eq!(count(&mut coalescer, false), if udp { 1 } else { 3 });
    }
}

#[test]
fn ranges_and_arenas_that_do_not_fit_do_not_panic() {
    let packet = Spec::new(false, true, vec![1; 50]).build();
    let mut coalescer = Coalescer::new(CoalesceOptions::default());
    coalescer.push(&packet, 5..packet.len() + 1);
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
    coalescer.push(&packet, 9..5);
    assert!(coalescer.is_empty());
    coalescer.push(&packet, 0..packet.len());
    coalescer.push(&packet, 3..4);
    coalescer.push(&packet, 7..7);
    coalescer.for_each_output(&mut [0; 10], |_, _| {});
    assert!(coalescer.is_empty());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_come_out_as_they_went_in(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..10),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
    ) {
        let outputs = coalesce(&packets);
        prop_assert_eq!(outputs.len(), packets.len());
        // Damaged packets of a good train: whatever is merged can be split.
        let mut train = build(&train(false, true, 20));
        for (index, value) in damage {
            let at = index.index(20 * 40);
            train[at / 40][at % 40] = value;
        }
        let mut count = 0;
        for (header, mut bytes) in coalesce(&train) {
            count += match SuperPacket::parse(header, &mut bytes) {
                Ok(packet) => packet.segments(),
                Err(_) => {
                    prop_assert_eq!(header, VnetHeader::default());
                    1
                }
            };
        }
        prop_assert_eq!(count, 20);
    }
}
