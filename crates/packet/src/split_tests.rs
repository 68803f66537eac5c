use super::*;
use crate::test_packets::{Described, Spec, slow_sum};

/// All segments, each written into a buffer of exactly its length.
fn split(header: VnetHeader, packet: &mut [u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let packet = SuperPacket::parse(header, packet)?;
    Ok((0..packet.segments())
        .map(|index| {
            let mut out = vec![0xee; packet.segment_len(index)];
            assert_eq!(packet.write_segment(index, &mut out), out.len());
            out
        })
        .collect())
}

#[test]
fn a_full_tcp_super_packet_splits_as_the_kernel_would() {
    for ipv6 in [false, true] {
        let mut spec = Spec::new(ipv6, true, (0..62_000_u32).map(|i| ((i * 7) >> 3) as u8).collect());
        spec.flags = 0x10 | 0x80 | 0x08 | 0x01;
        spec.sequence = u32::MAX - 3000;
        spec.identification = u16::MAX - 2;
        let segments = split(spec.vnet_header(1368), &mut spec.build_partial()).unwrap();
        assert_eq!(segments.len(), 46);
        assert_eq!(segments, spec.segments(1368));
        let flags: Vec<_> = segments.iter().map(|segment| segment[spec.transport_offset() + 13]).collect();
        assert_eq!((flags[0], flags[1], flags[44], flags[45]), (0x90, 0x10, 0x10, 0x19));
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_its_complement() {
    for ipv6 in [false, true] {
        // The last two bytes make the sum of the first datagram come out as zero.
        let mut spec = Spec::new(ipv6, false, vec![0; 100]);
        let first = spec.segments(50)[0].clone();
        let at = spec.headers_len() - 2;
        spec.payload[48..50].copy_from_slice(&first[at..at + 2]);
        let segments = split(spec.vnet_header(50), &mut spec.build_partial()).unwrap();
        assert_eq!(segments[0][at..at + 2], [0xff, 0xff]);
        assert_eq!(segments, spec.segments(50));
    }
}

#[test]
fn the_checksum_of_a_single_packet_is_completed() {
    for (ipv6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let spec = Spec::new(ipv6, tcp, vec![3; 101]);
        let header = spec.vnet_header(0);
        assert_eq!(split(header, &mut spec.build_partial()), Ok(vec![spec.build()]));
        // Without the flag nothing is touched, and what follows the packet is left out.
        let mut bytes = spec.build();
        bytes.extend([0; 9]);
        assert_eq!(split(VnetHeader::default(), &mut bytes), Ok(vec![spec.build()]));
    }
}

#[test]
fn a_checksum_field_outside_the_payload_is_refused() {
    let spec = Spec::new(false, true, vec![3; 10]);
    let end = spec.build().len() as u16;
    for (start, offset, fits) in [
        (20, 16, true),
        (0, 2, false),
        (19, 16, false),
        (20, end - 22, true),
        (20, end - 21, false),
        (end, 0, false),
        (u16::MAX, u16::MAX, false),
    ] {
        let header = VnetHeader {
            needs_checksum: true,
            checksum_start: start,
            checksum_offset: offset,
            ..VnetHeader::default()
        };
        assert_eq!(split(header, &mut spec.build_partial()).is_ok(), fits, "{start} + {offset}");
    }
}

#[test]
fn the_header_length_is_not_trusted() {
    let spec = Spec::new(true, true, vec![5; 3000]);
    for header_len in [0, 1, 65_535] {
        let header = VnetHeader { header_len, ..spec.vnet_header(1000) };
        assert_eq!(split(header, &mut spec.build_partial()), Ok(spec.segments(1000)));
    }
}

#[test]
fn headers_that_do_not_agree_with_the_packet_are_refused() {
    let spec = Spec::new(false, true, vec![5; 3000]);
    let good = spec.vnet_header(1000);
    assert!(split(good, &mut spec.build_partial()).is_ok());
    for bad in [
        VnetHeader { gso_type: GsoType::Tcp6, ..good },
        VnetHeader { gso_type: GsoType::Udp, ..good },
        VnetHeader { gso_size: 0, ..good },
        VnetHeader { needs_checksum: false, ..good },
        VnetHeader { checksum_start: 24, ..good },
        VnetHeader { checksum_offset: 6, ..good },
    ] {
        assert_eq!(split(bad, &mut spec.build_partial()), Err(DropReason::MalformedPacket), "{bad:?}");
    }
    for (at, value) in [(32, 0x40), (32, 0xff), (9, 17), (6, 0x20), (7, 1)] {
        let mut packet = spec.build_partial();
        packet[at] = value;
        let result = split(good, &mut packet);
        // The longest TCP header there can be still lies within this packet.
        assert_eq!(result.is_err(), (at, value) != (32, 0xff), "byte {at} = {value}");
    }
    let udp = Spec::new(true, false, vec![5; 3000]);
    let mut packet = udp.build_partial();
    packet[45] ^= 1;
    assert_eq!(split(udp.vnet_header(1000), &mut packet), Err(DropReason::MalformedPacket));
}

#[test]
fn a_buffer_too_short_or_a_segment_too_far_gives_nothing() {
    let spec = Spec::new(false, true, vec![5; 2500]);
    let mut packet = spec.build_partial();
    let packet = SuperPacket::parse(spec.vnet_header(1000), &mut packet).unwrap();
    assert_eq!((packet.segments(), packet.segment_len(2), packet.segment_len(3)), (3, 552, 0));
    let mut out = [9; 1100];
    assert_eq!(packet.write_segment(3, &mut out), 0);
    assert_eq!(packet.write_segment(usize::MAX, &mut out), 0);
    assert_eq!(packet.write_segment(0, &mut out[..1051]), 0);
    assert_eq!(packet.write_segment(0, &mut []), 0);
    assert_eq!(out, [9; 1100]);
    assert_eq!(packet.write_segment(0, &mut out), 1052);
}

/// All segments of at most `limit` bytes.
fn split_within(
    header: VnetHeader,
    packet: &mut [u8],
    limit: usize,
) -> Result<(bool, Vec<Vec<u8>>), DropReason> {
    let mut packet = SuperPacket::parse(header, packet)?;
    let fits = packet.fit(limit);
    let segments = (0..packet.segments())
        .map(|index| {
            let mut out = vec![0xee; packet.segment_len(index)];
            assert_eq!(packet.write_segment(index, &mut out), out.len());
            out
        })
        .collect();
    Ok((fits, segments))
}

#[test]
fn what_is_about_one_very_segment_is_not_split() {
    let spec = Spec::new(false, true, vec![1; 1400]);
    let fits = |spec: &Spec| split_within(VnetHeader::default(), &mut spec.build(), 1200).unwrap();
    assert_eq!(fits(&spec), (true, spec.segments(1200 - spec.headers_len())));
    for flags in [0x02, 0x12, 0x04, 0x14, 0x30] {
        let spec = Spec { flags, ..spec.clone() };
        assert_eq!(fits(&spec), (false, vec![spec.build()]), "flags {flags:#x}");
    }
    for kind in [19, 29] {
        let mut spec = spec.clone();
        spec.tcp_options = vec![1, 1, kind, 18];
        spec.tcp_options.resize(20, 0);
        assert_eq!(fits(&spec), (false, vec![spec.build()]), "option {kind}");
    }
    // An authentication header (RFC 4302) signs the very packet; destination options do not.
    for (extension, cut) in [(51, false), (60, true)] {
        let mut spec = Spec { extension, ..Spec::new(true, true, vec![1; 1400]) };
        spec.ip_options = [vec![6, if cut { 2 } else { 4 }, 0, 0], vec![0; 20]].concat();
        let segments = if cut { spec.segments(1200 - spec.headers_len()) } else { vec![spec.build()] };
        assert_eq!(fits(&spec), (cut, segments), "extension header {extension}");
    }
    let mut fragment = spec.build();
    fragment[6] = 0x20;
    let (fits, segments) = split_within(VnetHeader::default(), &mut fragment.clone(), 1200).unwrap();
    assert_eq!((fits, segments), (false, vec![fragment]));
}

#[test]
fn datagrams_stay_as_they_are_whatever_the_limit() {
    let spec = Spec::new(true, false, vec![1; 4000]);
    let split = |limit| split_within(spec.vnet_header(1300), &mut spec.build_partial(), limit).unwrap();
    assert_eq!(split(1348), (true, spec.segments(1300)));
    assert_eq!(split(1347), (false, spec.segments(1300)));
    let single = Spec::new(false, false, vec![1; 1300]);
    let whole = split_within(VnetHeader::default(), &mut single.build(), 1200).unwrap();
    assert_eq!(whole, (false, vec![single.build()]));
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let spec = Spec::new(true, true, vec![9; 1400]);
    let mut packet = spec.build();
    let last = packet.len() - 1;
    packet[last] ^= 0x55;
    let (fits, segments) = split_within(VnetHeader::default(), &mut packet, 1280).unwrap();
    assert!(fits);
    for segment in segments {
        let mut sum = segment[8..40].to_vec();
        sum.extend(((segment.len() - 40) as u32).to_be_bytes());
        sum.extend([0, 0, 0, 6]);
        sum.extend(&segment[40..]);
        assert_ne!(slow_sum(&sum), 0xffff);
    }
}

/// A hostile segment size of a few bytes must not reserve tens of thousands of counters.
#[test]
fn what_would_make_more_segments_than_any_kernel_makes_is_refused() {
    let length = 40 + 65_000;
    let mut packet = vec![0; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet[9] = 6;
    packet[32] = 0x50;
    let header = |gso_size| VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::Tcp4,
        header_len: 40,
        gso_size,
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    for gso_size in 1..8 {
        let parsed = SuperPacket::parse(header(gso_size), &mut packet);
        assert_eq!(parsed.err(), Some(DropReason::MalformedPacket), "{gso_size}");
    }
    let segments = SuperPacket::parse(header(8), &mut packet).unwrap().segments();
    assert_eq!(segments, 65_000 / 8);
    assert!(segments <= MAX_SEGMENTS);
}
