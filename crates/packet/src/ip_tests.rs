use proptest::prelude::*;

use super::*;
use crate::checksum::Sum;

/// An IPv4 packet without options.
fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let sum = Sum::of(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// An IPv6 packet; `next_header` is the type of whatever `payload` begins with.
fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend(payload);
    packet
}

#[test]
fn an_ipv4_packet_is_read_and_its_padding_left_out() {
    let mut bytes = v4(protocol::UDP, &[0, 53, 1, 0, 0, 8, 0, 0]);
    bytes[1] = 0xb9;
    bytes.extend([0; 4]);
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!((packet.version(), packet.total_len()), (IpVersion::V4, 28));
    assert_eq!(packet.source(), "10.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(packet.destination(), "10.0.0.2".parse::<IpAddr>().unwrap());
    assert_eq!((packet.traffic_class(), packet.ecn()), (0xb9, 1));
    assert_eq!((packet.protocol(), packet.transport_offset()), (17, 20));
    assert_eq!(packet.ports(), Some((53, 256)));
    assert_eq!(packet.fragment(), Fragment::No);
}

#[test]
fn wrong_lengths_of_ipv4_are_refused() {
    let good = v4(protocol::TCP, &[0; 20]);
    assert!(IpPacket::parse(&good).is_ok());
    assert!(IpPacket::parse(&[]).is_err());
    for len in 0..good.len() {
        assert_eq!(IpPacket::parse(&good[..len]).unwrap_err(), DropReason::MalformedPacket);
    }
    for header_words in 0..16_u8 {
        let mut bytes = good.clone();
        bytes[0] = 0x40 | header_words;
        assert_eq!(IpPacket::parse(&bytes).is_ok(), (5..=10).contains(&header_words));
    }
    for (total_len, fits) in [(0, false), (19, false), (20, true), (40, true), (41, false), (65_535, false)] {
        let mut bytes = good.clone();
        bytes[2..4].copy_from_slice(&u16::to_be_bytes(total_len));
        assert_eq!(IpPacket::parse(&bytes).is_ok(), fits, "total length {total_len}");
    }
}

#[test]
fn fragments_of_ipv4_are_told_apart() {
    let mut bytes = v4(protocol::UDP, &[0, 53, 1, 0, 0, 8, 0, 0]);
    for (flags, fragment) in [
        (0x4000, Fragment::No),
        (0x2000, Fragment::First),
        (0x2001, Fragment::Later),
        (0x0100, Fragment::Later),
    ] {
        bytes[6..8].copy_from_slice(&u16::to_be_bytes(flags));
        let packet = IpPacket::parse(&bytes).unwrap();
        assert_eq!(packet.fragment(), fragment);
        assert_eq!(packet.ports().is_some(), fragment != Fragment::Later);
    }
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let mut chain = vec![protocol::DESTINATION_OPTIONS, 1];
    chain.extend([0; 14]);
    chain.extend([protocol::AUTHENTICATION, 0, 1, 4, 0, 0, 0, 0]);
    chain.extend([protocol::FRAGMENT, 4]);
    chain.extend([0; 22]);
    chain.extend([protocol::TCP, 0, 0, 1, 0, 0, 0, 9]);
    chain.extend([0, 22, 1, 0]);
    let bytes = v6(protocol::HOP_BY_HOP, &chain);
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!((packet.version(), packet.protocol()), (IpVersion::V6, protocol::TCP));
    assert_eq!(packet.transport_offset(), bytes.len() - 4);
    assert_eq!((packet.fragment(), packet.ports()), (Fragment::First, Some((22, 256))));
    assert_eq!(packet.source(), "fd00::1".parse::<IpAddr>().unwrap());
    assert_eq!(packet.destination(), "fd00::2".parse::<IpAddr>().unwrap());
}

#[test]
fn ports_are_not_read_out_of_a_later_fragment() {
    let bytes = v6(protocol::FRAGMENT, &[protocol::HOP_BY_HOP, 0, 0, 8, 0, 0, 0, 9, 6, 0xff, 1, 0]);
    let packet = IpPacket::parse(&bytes).unwrap();
    assert_eq!((packet.fragment(), packet.ports()), (Fragment::Later, None));
    assert_eq!(packet.transport_offset(), 48);
}

#[test]
fn a_chain_that_leaves_the_packet_is_refused() {
    for next in [0, 43, 44, 51, 60, 135, 139, 140] {
        for len in 0..8 {
            assert!(IpPacket::parse(&v6(next, &[0, 0, 0, 0, 0, 0, 0, 0][..len])).is_err(), "header {next}");
        }
        assert_eq!(IpPacket::parse(&v6(next, &[6, 200, 0, 0, 0, 0, 0, 0])).is_err(), next != 44);
    }
    // Bytes after the packet are no part of it.
    let mut bytes = v6(protocol::HOP_BY_HOP, &[6, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0; 8]);
    assert!(IpPacket::parse(&bytes).is_err());
    assert!(IpPacket::parse(&v6(59, &[])).is_ok());
}

#[test]
fn ecn_is_carried_over_as_rfc_6040_says_requirement_21() {
    use ecn::{CAPABLE_0, CAPABLE_1, CONGESTION, NOT_CAPABLE};
    // Figure 4: rows by the inner field, columns by the outer one: not capable, ECT(0), ECT(1), CE.
    let outer = [NOT_CAPABLE, CAPABLE_0, CAPABLE_1, CONGESTION];
    let table = [
        (NOT_CAPABLE, [Some(NOT_CAPABLE), Some(NOT_CAPABLE), Some(NOT_CAPABLE), None]),
        (CAPABLE_0, [Some(CAPABLE_0), Some(CAPABLE_0), Some(CAPABLE_1), Some(CONGESTION)]),
        (CAPABLE_1, [Some(CAPABLE_1), Some(CAPABLE_1), Some(CAPABLE_1), Some(CONGESTION)]),
        (CONGESTION, [Some(CONGESTION); 4]),
    ];
    for (inner, row) in table {
        assert_eq!(ecn_encapsulate(0xb8 | inner), inner);
        for (outer, expected) in outer.into_iter().zip(row) {
            for mut bytes in [v4(protocol::TCP, &[]), v6(protocol::TCP, &[])] {
                set_ecn(&mut bytes, inner).unwrap();
                let before = bytes.clone();
                let result = ecn_decapsulate(&mut bytes, 0x88 | outer);
                match expected {
                    Some(expected) => {
                        assert_eq!(result, Ok(()));
                        assert_eq!(IpPacket::parse(&bytes).unwrap().ecn(), expected);
                    }
                    None => {
                        assert_eq!(result, Err(DropReason::CongestionMarked));
                        assert_eq!(bytes, before);
                    }
                }
                assert!(bytes[0] >> 4 == 6 || Sum::of(&bytes[..20]).is_valid());
            }
        }
    }
}

#[test]
fn ecn_of_what_is_not_ip_does_not_panic() {
    for first in 0..=255_u8 {
        for len in 0..45 {
            let mut bytes = vec![first; len];
            for outer in 0..4 {
                let _ = ecn_decapsulate(&mut bytes, outer);
            }
            assert_eq!(set_ecn(&mut bytes, 1).is_ok(), matches!((first >> 4, len), (4, 20..) | (6, 40..)));
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(first in prop::sample::select(vec![0x45_u8, 0x4f, 0x60, 0x6f, 0x00]), rest in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut bytes = vec![first];
        bytes.extend(rest);
        if let Some(length) = bytes.get_mut(2..6) {
            // Lengths near the truth, or nothing would be parsed.
            length[0] = 0;
            length[2] = 0;
            length[3] %= 80;
        }
        if let Ok(packet) = IpPacket::parse(&bytes) {
            prop_assert!(packet.transport_offset() <= packet.total_len());
            prop_assert!(packet.total_len() <= bytes.len());
            let _ = (packet.source(), packet.destination(), packet.ports(), packet.traffic_class(), packet.payload());
        }
    }
}
