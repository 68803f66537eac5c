//! What was merged as Linux would have received it and cut it again: `Coalescer` against the oracle.
//!
//! Each run draws other packets and prints its seed; `TOMBOLO_ORACLE_SEED` repeats one.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::{BTreeMap, BTreeSet};

use tombolo_oracle::receive::{Limits, flow_of, merge};
use tombolo_oracle::{
    Layout, Random, Spec, VNET_HEADER_LEN, draw, finish_ip_header, refused_by_tun, slow_sum, transmit,
};
use tombolo_packet::{CoalesceOptions, Coalescer, MAX_MERGED};

/// A virtio-net header, and what was written behind it.
type Output = ([u8; VNET_HEADER_LEN], Vec<u8>);

/// Puts `packets` into an arena as an inward worker has them, with a gap before and padding behind each, and merges them.
fn coalesce(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> Vec<Output> {
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    for packet in packets {
        arena.extend([0xee; 16]);
        let start = arena.len();
        arena.extend(padded(packet));
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
        outputs.push((header.to_bytes(), slices.iter().flat_map(|slice| slice.to_vec()).collect()));
    });
    assert!(coalescer.is_empty());
    outputs
}

fn padded(packet: &[u8]) -> Vec<u8> {
    let mut padded = packet.to_vec();
    padded.resize(packet.len().next_multiple_of(16), 0);
    padded
}

/// What a packet is once it has been padded: as long as it says, or, where it is none, with the padding.
fn opened(packet: &[u8]) -> Vec<u8> {
    let mut opened = padded(packet);
    if let Some(layout) = Layout::of(&opened) {
        opened.truncate(layout.end);
    }
    opened
}

/// The flow of a packet; what has none is its own.
fn flow(packet: &[u8]) -> Vec<u8> {
    flow_of(packet).unwrap_or_else(|| [b"none", packet].concat())
}

/// `packet` with another identification: what a cut makes of one of several that say "don't fragment" and have the same one, which then has no
/// meaning (RFC 6864 §4.1).
fn renumbered(packet: &[u8], identification: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    finish_ip_header(&mut packet);
    packet
}

/// Holds what came out against what went in. Gives the number of packets in each output.
fn check(packets: &[Vec<u8>], outputs: &[Output], limits: Limits) -> Vec<usize> {
    let mut waiting: BTreeMap<Vec<u8>, Vec<&Vec<u8>>> = BTreeMap::new();
    for packet in packets.iter().rev() {
        waiting.entry(flow(packet)).or_default().push(packet);
    }
    let mut counts = Vec::new();
    for (header, bytes) in outputs {
        assert_eq!(refused_by_tun(header, bytes), None, "{header:?}");
        let segments = match *header == [0; VNET_HEADER_LEN] {
            true => vec![bytes.clone()],
            false => transmit(header, bytes).unwrap(),
        };
        counts.push(segments.len());
        let mut members: Vec<Vec<u8>> = Vec::new();
        for (place, segment) in segments.iter().enumerate() {
            let expected = waiting.get_mut(&flow(segment)).and_then(Vec::pop);
            let expected = expected.expect("more packets of a flow than went in");
            let identification = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
            let alike = members.first().is_some_and(|first: &Vec<u8>| {
                first[0] >> 4 == 4
                    && first[6] & 0x40 != 0
                    && identification(first) == identification(expected)
            });
            if alike {
                let counted = identification(expected).wrapping_add(place as u16);
                assert!(*segment == renumbered(expected, counted), "{segment:?}\n{expected:?}");
            } else {
                assert!(segment == expected, "{segment:?}\n{expected:?}");
            }
            members.push(expected.clone());
        }
        let place: Vec<usize> = (0..members.len()).collect();
        assert_eq!(merge(&members, limits), [place], "Linux would not have merged these");
        assert!(members.len() == 1 || bytes.len() <= limits.len);
    }
    assert!(waiting.values().all(Vec::is_empty), "packets were lost");
    counts
}

/// Flows, each at some point of what it sends.
struct Conversation {
    flows: Vec<Spec>,
    /// Payload bytes of an ordinary packet of each.
    sizes: Vec<usize>,
    /// Identifications that stay the same.
    fixed: Vec<bool>,
    /// One packet in so many is out of the ordinary.
    trouble: usize,
    checksums: bool,
}

impl Conversation {
    fn draw(random: &mut Random, checksums: bool) -> Self {
        let count = if random.chance(2) { 1 } else { 1 + random.below(6) };
        let flows: Vec<Spec> = (0..count)
            .map(|_| {
                let mut flow = Spec::draw(random, 0);
                flow.hosts = (1 + random.byte() % 2, 3 + random.byte() % 2);
                flow.ports = (1 + random.number() % 3, 7 + random.number() % 300);
                flow.flags = 0x10 | flow.flags & 0x40;
                if !random.chance(8) {
                    flow.ip_options.clear();
                }
                flow
            })
            .collect();
        let sizes = flows.iter().map(|_| [1, 2, 99, 100, 1001, 1368][random.below(6)]).collect();
        let fixed = flows.iter().map(|_| random.chance(3)).collect();
        let trouble = [2, 8, 50, usize::MAX >> 1][random.below(4)];
        Self { flows, sizes, fixed, trouble, checksums }
    }

    /// The next packet of one of the flows.
    fn next(&mut self, random: &mut Random) -> Vec<u8> {
        let number = random.below(self.flows.len());
        let flow = &mut self.flows[number];
        let mut len = self.sizes[number];
        let before = flow.clone();
        let (mut damage, mut wrong) = (None, false);
        if random.chance(self.trouble) {
            match random.below(22) {
                0 => len = random.below(len + 1),
                1 => len += random.below(3),
                2 => flow.flags ^= 1 << random.below(8),
                3 => flow.flags ^= 0x08,
                4 => flow.flags ^= 0x80,
                5 => flow.flags = random.byte(),
                6 => flow.sequence = flow.sequence.wrapping_add(random.byte().into()),
                7 => flow.identification = flow.identification.wrapping_add(random.byte().into()),
                8 => flow.acknowledgement = flow.acknowledgement.wrapping_add(1),
                9 => flow.window = flow.window.wrapping_add(1),
                10 => flow.traffic_class ^= 1 << random.below(8),
                11 => flow.hop_limit ^= 1,
                12 => flow.dont_fragment = !flow.dont_fragment,
                13 => flow.urgent ^= 1,
                14 => flow.reserved ^= 1 << random.below(4),
                15 if flow.tcp => flow.tcp_options = random.tcp_options(),
                16 if flow.tcp && !flow.tcp_options.is_empty() => {
                    let at = random.below(flow.tcp_options.len());
                    flow.tcp_options[at] ^= 1 << random.below(8);
                }
                17 => flow.flow_label ^= 1 << random.below(16),
                18 => flow.ip_options = Spec::draw(random, 0).ip_options_for(flow),
                19 => damage = Some(random.below(flow.headers_len())),
                20 => wrong = self.checksums,
                _ => len = 0,
            }
        }
        flow.payload = random.bytes(len);
        let mut packet = flow.build();
        if let Some(at) = damage {
            packet[at] ^= 1 << random.below(8);
            // With a header checksum that is right or not.
            if packet[0] == 0x45
                && random.chance(2)
                && Layout::of(&packet).is_some_and(|it| it.end == packet.len())
            {
                finish_ip_header(&mut packet);
            }
        }
        if wrong {
            let at = flow.headers_len() - if len > 0 { 0 } else { 1 };
            packet[at] ^= 1 << random.below(8);
        }
        if !flow.tcp && random.chance(self.trouble) && !self.checksums {
            // UDP over IPv4 without a checksum.
            let at = flow.transport_offset() + 6;
            packet[at..at + 2].fill(0);
        }
        if random.chance(self.trouble) && random.chance(4) {
            let len = 1 + random.below(60);
            packet = [random.bytes(len), packet].into_iter().nth(random.below(2)).unwrap();
        }
        // Flags and IP options pass; the rest lasts.
        (flow.flags, flow.ip_options) = (before.flags, before.ip_options);
        flow.sequence = flow.sequence.wrapping_add(len as u32);
        if !self.fixed[number] {
            flow.identification = flow.identification.wrapping_add(1);
        }
        packet
    }
}

/// IP options of one packet for another.
trait OptionsFor {
    fn ip_options_for(self, flow: &mut Spec) -> Vec<u8>;
}

impl OptionsFor for Spec {
    /// Nothing, where the two are not of a kind.
    fn ip_options_for(self, flow: &mut Spec) -> Vec<u8> {
        if (self.ipv6, self.tcp) != (flow.ipv6, flow.tcp) {
            return Vec::new();
        }
        flow.extension = self.extension;
        self.ip_options
    }
}

/// Damage to a header may leave a packet whose checksum is wrong, which only the check of it keeps apart: what is merged without it has a right one
/// behind the cut.
fn has_wrong_checksum(packet: &[u8]) -> bool {
    let Some(layout) = Layout::of(packet) else { return false };
    flow_of(packet).is_some()
        && !layout.checksum_is_right(packet)
        && !(layout.protocol == 17 && packet[layout.transport + 6..layout.transport + 8] == [0, 0])
}

fn conversations(packets: u64) {
    let (mut merged, mut groups, mut least, mut singles) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut sizes = BTreeSet::new();
    let drawn = draw("packets to be merged", packets, |random| {
        let limits = Limits {
            len: if random.chance(3) { 100 + random.below(9000) } else { 65_535 },
            count: MAX_MERGED,
            checksums: random.chance(2),
        };
        let mut conversation = Conversation::draw(random, limits.checksums);
        let count = 1 + random.below(150);
        let mut sent: Vec<Vec<u8>> = (0..count).map(|_| opened(&conversation.next(random))).collect();
        if !limits.checksums {
            sent.retain(|packet| !has_wrong_checksum(packet));
        }
        let options =
            CoalesceOptions { tcp: true, udp: true, max_len: limits.len, verify_checksums: limits.checksums };
        let mut coalescer = Coalescer::new(options);
        let expected = merge(&sent, limits);
        // Twice, so that nothing of the first batch may leak into the second.
        for _ in 0..2 {
            let outputs = coalesce(&mut coalescer, &sent);
            let counts = check(&sent, &outputs, limits);
            let flows: BTreeSet<Vec<u8>> = sent.iter().filter_map(|packet| flow_of(packet)).collect();
            if flows.len() <= 1 {
                // With several, two may fall on the same slot, and are merged less.
                let expected: Vec<usize> = expected.iter().map(Vec::len).collect();
                assert_eq!(counts, expected, "not as few as Linux makes of them");
                singles += sent.len() as u64;
            }
            groups += counts.len() as u64;
            least += expected.len() as u64;
            merged += counts.iter().filter(|&&count| count > 1).map(|&count| count as u64).sum::<u64>();
            sizes.extend(counts);
        }
        2 * sent.len() as u64
    });
    assert!(drawn >= packets);
    assert!(merged > drawn / 3, "{merged} of {drawn} were merged");
    assert!(singles > drawn / 5, "{singles} of {drawn} were of one flow");
    assert!(groups * 100 <= least * 110, "{groups} super-packets where {least} are enough");
    assert!(sizes.contains(&MAX_MERGED) && sizes.len() > 40, "{sizes:?}");
}

/// Any bytes at all, and good packets with some bytes of their headers changed.
fn garbage(packets: u64) {
    let drawn = draw("garbage to be merged", packets, |random| {
        let mut sent = Vec::new();
        let spec = Spec::draw(random, 0);
        for index in 0..20_u16 {
            let mut spec = spec.clone();
            spec.payload = vec![7; 40];
            (spec.flags, spec.sequence) = (0x10, spec.sequence.wrapping_add(40 * u32::from(index)));
            spec.identification = spec.identification.wrapping_add(index);
            let mut packet = spec.build();
            if random.chance(2) {
                let at = random.below(packet.len());
                packet[at] = random.byte();
                if packet[0] == 0x45 && random.chance(2) {
                    let sum = !slow_sum(&[&packet[..10], &packet[12..20]].concat());
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            if random.chance(16) {
                let len = 1 + random.below(200);
                packet = random.bytes(len);
            }
            sent.push(opened(&packet));
        }
        let outputs = coalesce(&mut Coalescer::new(CoalesceOptions::default()), &sent);
        let limits = Limits { len: 65_535, count: MAX_MERGED, checksums: true };
        let counts = check(&sent, &outputs, limits);
        assert_eq!(counts.iter().sum::<usize>(), sent.len());
        // Without the check whatever is merged can be cut all the same.
        let unchecked = CoalesceOptions { verify_checksums: false, ..CoalesceOptions::default() };
        let unchecked = coalesce(&mut Coalescer::new(unchecked), &sent);
        let cut = unchecked.iter().map(|(header, bytes)| match header[1] {
            0 => 1,
            _ => transmit(header, bytes).unwrap().len(),
        });
        assert_eq!(cut.sum::<usize>(), sent.len());
        2 * sent.len() as u64
    });
    assert!(drawn >= packets);
}

#[test]
fn what_is_merged_and_cut_again_is_what_came_and_as_little_as_linux_makes_of_it() {
    conversations(150_000);
}

#[test]
fn garbage_among_packets_comes_out_as_it_went_in() {
    garbage(50_000);
}

#[test]
#[ignore = "millions of packets"]
fn millions_of_packets_merged_and_cut_again_are_what_came() {
    conversations(3_000_000);
    garbage(1_000_000);
}
