//! Super-packets as Linux would cut them, and what is no super-packet: `SuperPacket` against the oracle.
//!
//! Each run draws other packets and prints its seed; `TOMBOLO_ORACLE_SEED` repeats one.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

use std::collections::BTreeSet;

use tombolo_oracle::{Layout, Random, Spec, VNET_HEADER_LEN, draw, slow_sum, transmit};
use tombolo_packet::{DropReason, SuperPacket, VnetHeader};

/// The longest payload whose packet is no longer than IP allows, whatever options it has.
const LONGEST: usize = 65_000;
/// With all options that are drawn.
const LONGEST_HEADERS: usize = 40 + 3 * 40 + 60;
/// The shortest segments that Linux makes.
const LEAST_SEGMENT: usize = 8;

type Bytes = [u8; VNET_HEADER_LEN];

/// What comes out, each packet into a buffer of exactly its length.
fn split(header: &Bytes, packet: &[u8], limit: Option<usize>) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut packet = packet.to_vec();
    let mut packet = SuperPacket::parse(VnetHeader::parse(header)?, &mut packet)?;
    if let Some(limit) = limit {
        packet.fit(limit);
    }
    Ok((0..packet.segments())
        .map(|index| {
            let mut out = vec![0xee; packet.segment_len(index)];
            assert_eq!(packet.write_segment(index, &mut out), out.len());
            out
        })
        .collect())
}

/// A payload of up to `longest` bytes, seldom a long one.
fn spec(random: &mut Random, longest: usize) -> Spec {
    let longest = if random.chance(12) { longest } else { longest.min(6000) };
    Spec::draw(random, longest)
}

/// A segment size for the payload: from the least to more than all of it.
fn gso_size(random: &mut Random, payload_len: usize) -> u16 {
    let size = match random.below(8) {
        0 => LEAST_SEGMENT + random.below(100),
        1 => payload_len.saturating_sub(random.below(3)),
        2 => payload_len + random.below(3),
        3 => 1 + payload_len / (1 + random.below(4)),
        4 => usize::from(random.number()),
        _ => 400 + random.below(1100),
    };
    // Of a long payload not thousands each time.
    let least = if random.chance(20) { LEAST_SEGMENT } else { payload_len / 60 };
    size.max(least).max(LEAST_SEGMENT).min(usize::from(u16::MAX)) as u16
}

/// What was drawn, so that nothing is left out unnoticed.
#[derive(Default)]
struct Seen {
    flags: BTreeSet<u8>,
    ecn: BTreeSet<u8>,
    option_lengths: BTreeSet<usize>,
    ip_option_lengths: BTreeSet<usize>,
    extensions: BTreeSet<u8>,
    kinds: BTreeSet<(bool, bool)>,
    /// An odd payload, an odd segment size, an odd last segment; one segment, several.
    shapes: BTreeSet<&'static str>,
}

impl Seen {
    fn note(&mut self, spec: &Spec, gso_size: usize) {
        self.kinds.insert((spec.ipv6, spec.tcp));
        self.ecn.insert(spec.traffic_class & 3);
        if spec.tcp {
            self.flags.insert(spec.flags);
            self.option_lengths.insert(spec.tcp_options.len());
        }
        if spec.ipv6 {
            self.extensions.extend(Layout::of(&spec.build_partial()).unwrap().extensions);
        } else {
            self.ip_option_lengths.insert(spec.ip_options.len());
        }
        let len = spec.payload.len();
        let shapes = [
            ("odd payload", len % 2 == 1),
            ("odd segments", gso_size % 2 == 1),
            ("odd last segment", len % gso_size % 2 == 1),
            ("nothing", len == 0),
            ("one segment", len <= gso_size),
            ("a full last segment", len > gso_size && len.is_multiple_of(gso_size)),
            ("hundreds of segments", len / gso_size > 200),
        ];
        self.shapes.extend(shapes.into_iter().filter(|(_, seen)| *seen).map(|(name, _)| name));
    }

    fn assert_complete(&self) {
        assert_eq!(self.kinds.len(), 4);
        assert_eq!(self.flags.len(), 256, "every combination of TCP flags");
        assert_eq!(self.ecn.len(), 4);
        let lengths: BTreeSet<usize> = (0..=10).map(|words| words * 4).collect();
        assert_eq!((&self.option_lengths, &self.ip_option_lengths), (&lengths, &lengths));
        assert_eq!(self.extensions, BTreeSet::from([0, 43, 60]));
        assert_eq!(self.shapes.len(), 7, "{:?}", self.shapes);
    }
}

fn super_packets(packets: u64) {
    let mut seen = Seen::default();
    let (mut flags, mut cleared) = (0_u8, 0);
    let drawn = draw("super-packets", packets, |random| {
        let mut spec = spec(random, LONGEST);
        if spec.tcp {
            flags = flags.wrapping_add(1);
            spec.flags = flags;
        }
        let gso_size = gso_size(random, spec.payload.len());
        if !spec.tcp && random.chance(16) {
            clear_checksum(&mut spec, gso_size);
        }
        let mut header = spec.vnet_header_bytes(gso_size);
        if random.chance(8) {
            // Wrong on the forward path, and so not to be used.
            header[2..4].copy_from_slice(&random.number().to_le_bytes());
        }
        let packet = spec.build_partial();
        let expected = transmit(&header, &packet).unwrap();
        let segments = split(&header, &packet, None).unwrap();
        assert!(segments == expected, "{header:?} {spec:?}");
        assert!(random.chance(8) || segments.iter().all(|segment| is_sound(segment, &spec)), "{spec:?}");
        seen.note(&spec, gso_size.into());
        let field = spec.transport_offset() + 6;
        cleared += u64::from(!spec.tcp && segments[0][field..field + 2] == [0xff, 0xff]);
        segments.len() as u64
    });
    assert!(drawn >= packets && cleared > packets / 1000, "{cleared} checksums of zero");
    seen.assert_complete();
}

/// Makes the UDP checksum of the first segment come out as zero, which stands for none (RFC 768).
fn clear_checksum(spec: &mut Spec, gso_size: u16) {
    let end = spec.payload.len().min(gso_size.into()) & !1;
    if end >= 2 {
        spec.payload[end - 2..end].fill(0);
        let first = &spec.segments(gso_size.into())[0];
        let field = spec.transport_offset() + 6;
        spec.payload[end - 2..end].copy_from_slice(&first[field..field + 2]);
    }
}

/// Whether lengths and checksums are right to a receiver, who knows nothing of super-packets. Behind a routing header the pseudo-header is another.
fn is_sound(segment: &[u8], spec: &Spec) -> bool {
    let layout = Layout::of(segment).unwrap();
    layout.end == segment.len()
        && (layout.ipv6 || slow_sum(&segment[..layout.transport]) == 0xffff)
        && (layout.extensions.contains(&43) || layout.checksum_is_right(segment))
        && spec.transport_offset() == layout.transport
}

fn single_packets(packets: u64) {
    let (mut partial, mut fragments, mut unknown) = (0, 0, 0);
    let drawn = draw("single packets", packets, |random| {
        let mut spec = spec(random, 9000);
        if spec.ipv6 && random.chance(3) {
            // With a fragment header, atomic, first or later, or one that Linux does not cut behind.
            spec.extension = [44, 44, 44, 51, 135, 139, 140][random.below(7)];
            spec.ip_options = vec![if spec.tcp { 6 } else { 17 }, 0, 0, random.byte() & 0xf9];
            spec.ip_options.extend(random.bytes(4));
        }
        let (header, mut packet) = if random.chance(2) {
            partial += 1;
            (spec.vnet_header_bytes(0), spec.build_partial())
        } else {
            ([0, 0, 9, 9, 9, 9, 9, 9, 9, 9], spec.build())
        };
        if !spec.ipv6 && random.chance(4) {
            // Any fragment of IPv4.
            packet[6..8].copy_from_slice(&random.number().to_be_bytes());
        }
        let padding = random.below(17);
        packet.extend(random.bytes(padding));
        fragments += u64::from(Layout::of(&packet).unwrap().is_fragment);
        let expected = transmit(&header, &packet);
        let found = split(&header, &packet, None);
        match Layout::of(&packet).unwrap().is_fragment && header[0] == 1 {
            // Nothing is to be finished in the midst of a packet.
            true if found.is_err() => unknown += 1,
            _ => assert!(found.as_ref().ok() == expected.as_ref().ok(), "{header:?} {packet:?}"),
        }
        1
    });
    assert!(drawn >= packets && partial > packets / 3 && fragments > packets / 30 && unknown < packets / 10);
}

/// As if Linux had cut it to that size at once; also where it gave a single segment.
fn smaller_super_packets(packets: u64) {
    let drawn = draw("super-packets cut smaller", packets, |random| {
        let mut spec = spec(random, LONGEST);
        spec.tcp = true;
        if spec.ipv6 {
            spec.ip_options.clear();
        }
        // Nothing that is about this very segment.
        spec.flags = spec.flags & 0xd9 | 0x10;
        spec.tcp_options = [vec![1, 1, 8, 10], random.bytes(8)].concat();
        let limit = 600 + random.below(1000);
        let room = (limit - spec.headers_len()) as u16;
        let gso_size = gso_size(random, spec.payload.len());
        let whole = random.chance(2) || spec.payload.len() <= usize::from(gso_size);
        let (header, packet) = if whole {
            ([0; VNET_HEADER_LEN], spec.build())
        } else {
            (spec.vnet_header_bytes(gso_size), spec.build_partial())
        };
        let size = if whole { room } else { room.min(gso_size) };
        let segments = split(&header, &packet, Some(limit)).unwrap();
        assert!(segments.iter().all(|segment| segment.len() <= limit));
        assert!(segments == spec.segments(size.into()), "{limit} {header:?} {spec:?}");
        segments.len() as u64
    });
    assert!(drawn >= packets);
}

/// A header and a packet of which some bytes, or all, are not what Linux would have written.
fn hostile(random: &mut Random) -> (Bytes, Vec<u8>) {
    let mut spec = spec(random, 6000);
    if random.chance(4) {
        spec.extension = random.byte();
    }
    let size = if random.chance(4) { 0 } else { gso_size(random, spec.payload.len()) };
    let mut header = spec.vnet_header_bytes(size);
    let mut packet = if random.chance(3) { spec.build() } else { spec.build_partial() };
    for _ in 0..random.below(4) {
        let numbers = [0, 1, 2, 7, 0xffff, 0xfffe, packet.len() as u16, random.number()];
        let number = numbers[random.below(numbers.len())];
        match random.below(9) {
            0 => header[0] = random.byte(),
            1 => header[1] = [0, 1, 3, 4, 5, 0x80, 0x81, 0x84, 0x85, random.byte()][random.below(10)],
            2 => header[2..4].copy_from_slice(&number.to_le_bytes()),
            3 => header[4..6].copy_from_slice(&number.to_le_bytes()),
            4 => header[6..8].copy_from_slice(&number.to_le_bytes()),
            5 => header[8..10].copy_from_slice(&number.to_le_bytes()),
            6 => header[6] = header[6].wrapping_add(random.byte() % 5).wrapping_sub(2),
            7 => {
                let len = random.below(packet.len());
                packet.truncate(len.max(1));
            }
            _ => {
                let at = random.below(packet.len().min(LONGEST_HEADERS));
                packet[at] = random.byte();
            }
        }
    }
    if random.chance(16) {
        header = std::array::from_fn(|_| random.byte());
    }
    if random.chance(16) {
        let len = random.below(200);
        packet = random.bytes(len);
    }
    (header, packet)
}

fn hostile_headers(packets: u64) {
    let (mut taken, mut refused) = (0, 0);
    let drawn = draw("hostile headers", packets, |random| {
        let (header, packet) = hostile(random);
        match split(&header, &packet, None) {
            Ok(segments) => {
                taken += 1;
                let expected = transmit(&header, &packet);
                assert!(expected.as_ref() == Ok(&segments), "{header:?} {packet:?}: {:?}", expected.err());
            }
            Err(reason) => {
                refused += 1;
                assert_eq!(reason, DropReason::MalformedPacket);
            }
        }
        // Smaller, it need not be what Linux would do; only sound.
        if let Ok(segments) = split(&header, &packet, Some(300 + random.below(1200))) {
            assert!(segments.iter().all(|segment| Layout::of(segment).unwrap().end == segment.len()));
        }
        1
    });
    assert!(drawn >= packets && taken > packets / 5 && refused > packets / 5, "{taken} and {refused}");
}

#[test]
fn super_packets_are_cut_as_linux_cuts_them() {
    super_packets(150_000);
}

#[test]
fn single_packets_leave_as_linux_lets_them_leave() {
    single_packets(20_000);
}

#[test]
fn super_packets_are_cut_smaller_as_if_linux_had_done_so() {
    smaller_super_packets(40_000);
}

#[test]
fn hostile_headers_are_refused_or_taken_as_linux_takes_them() {
    hostile_headers(60_000);
}

#[test]
#[ignore = "millions of packets"]
fn millions_of_super_packets_are_cut_as_linux_cuts_them() {
    super_packets(4_000_000);
    single_packets(500_000);
    smaller_super_packets(1_000_000);
    hostile_headers(1_000_000);
}
