//! The targets of `tombolo-packet`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tombolo_packet::ip::{ecn_decapsulate, protocol};
use tombolo_packet::message::{
    CookieReply, Initiation, MessageType, Response, TRANSPORT_HEADER_LEN, Transport, write_transport_header,
};
use tombolo_packet::relay::{self, Direction, PairLimit, PairRates, Relayed};
use tombolo_packet::{
    CoalesceOptions, Coalescer, DropReason, Fragment, GsoType, IpPacket, IpVersion, MAX_MERGED, SuperPacket,
    VnetHeader,
};

use crate::Script;

/// One datagram from the underlay: what is read out of it and written again is the same.
pub fn wire_message(data: &[u8]) {
    let kind = MessageType::classify(data);
    let initiation = Initiation::parse(data);
    let response = Response::parse(data);
    let cookie_reply = CookieReply::parse(data);
    let transport = Transport::parse(data);
    assert_eq!(initiation.is_ok(), kind == Ok(MessageType::Initiation));
    assert_eq!(response.is_ok(), kind == Ok(MessageType::Response));
    assert_eq!(cookie_reply.is_ok(), kind == Ok(MessageType::CookieReply));
    assert_eq!(transport.is_ok(), kind == Ok(MessageType::Transport));
    if let Ok(view) = initiation {
        let mut written = Initiation::write(
            view.sender_index(),
            view.ephemeral(),
            view.encrypted_static(),
            view.encrypted_timestamp(),
        );
        assert_eq!(written[..view.bytes_before_mac1().len()], *view.bytes_before_mac1());
        written[116..132].copy_from_slice(view.mac1());
        assert_eq!(written[..132], *view.bytes_before_mac2());
        written[132..].copy_from_slice(view.mac2());
        assert_eq!(written, *view.as_bytes());
    }
    if let Ok(view) = response {
        let mut written = Response::write(
            view.sender_index(),
            view.receiver_index(),
            view.ephemeral(),
            view.encrypted_nothing(),
        );
        written[60..76].copy_from_slice(view.mac1());
        assert_eq!(written[..76], *view.bytes_before_mac2());
        written[76..].copy_from_slice(view.mac2());
        assert_eq!(written, *view.as_bytes());
    }
    if let Ok(view) = cookie_reply {
        let written = CookieReply::write(view.receiver_index(), view.nonce(), view.encrypted_cookie());
        assert_eq!(written, *data);
    }
    if let Ok(view) = transport {
        let mut header = [0; TRANSPORT_HEADER_LEN];
        write_transport_header(&mut header, view.receiver_index(), view.counter());
        assert_eq!([&header[..], view.ciphertext()].concat(), data);
    }
}

/// A message of a member's tunnel with a relay: what is read is written again as the same, and what the relay stamps is read by
/// the receiver as from the source.
pub fn relayed(data: &[u8]) {
    let parsed = Relayed::parse(data);
    assert!(parsed.is_err() || relay::is_relayed(data));
    let Ok(relayed) = parsed else { return };
    let mut header = [0; relay::HEADER_LEN];
    let length = u16::try_from(relayed.datagram.len()).expect("it was read from two bytes");
    relay::write_header(&mut header, relayed.direction, &relayed.node, length);
    let mut written = [&header[..], relayed.datagram].concat();
    assert_eq!(written, data[..written.len()]);
    relay::stamp_source(&mut written, &[9; 16]).expect("there is a header");
    let stamped = Relayed::parse(&written).expect("a stamp does not break it");
    assert_eq!((stamped.direction, stamped.node), (Direction::FromRelay, [9; 16]));
    assert_eq!((stamped.datagram, stamped.kind), (relayed.datagram, relayed.kind));
    let mut limit = PairLimit::default();
    let _ = limit.admit(PairRates::default(), &relayed, u64::MAX);
}

/// One inner packet, after one byte for the outer traffic class.
pub fn ip_packet(data: &[u8]) {
    let Some((&outer, bytes)) = data.split_first() else { return };
    let mut marked = bytes.to_vec();
    let result = ecn_decapsulate(&mut marked, outer);
    let Ok(packet) = IpPacket::parse(bytes) else { return };
    assert!(packet.total_len() <= bytes.len());
    assert!(packet.transport_offset() <= packet.total_len());
    assert_eq!(packet.as_bytes(), &bytes[..packet.total_len()]);
    assert_eq!(packet.source().is_ipv4(), packet.version() == IpVersion::V4);
    assert_eq!(packet.destination().is_ipv4(), packet.version() == IpVersion::V4);
    assert!(packet.fragment() != Fragment::Later || packet.ports().is_none());
    match result {
        Ok(()) => {
            // Nothing but the ECN field and the checksum over it changed.
            let after = IpPacket::parse(&marked).expect("a mark does not break a packet");
            assert_eq!(after.traffic_class() >> 2, packet.traffic_class() >> 2);
            assert_eq!((after.source(), after.destination()), (packet.source(), packet.destination()));
            assert!(packet.ecn() != 0 || after.ecn() == 0);
            assert!(packet.ecn() != 3 || after.ecn() == 3);
            assert_eq!(
                outer & 3 == 3 && packet.ecn() != 0,
                after.ecn() == 3 && (outer & 3 == 3 || packet.ecn() != 3)
            );
        }
        Err(reason) => {
            assert_eq!(reason, DropReason::CongestionMarked);
            assert_eq!((packet.ecn(), outer & 3), (0, 3));
        }
    }
}

/// What came out of a TUN queue: a virtio-net header and a packet.
pub fn super_packet(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk::<{ VnetHeader::LEN }>() else { return };
    let Ok(header) = VnetHeader::parse(header) else { return };
    assert_eq!(VnetHeader::parse(&header.to_bytes()), Ok(header));
    let before = packet;
    let mut packet = packet.to_vec();
    let Ok(split) = SuperPacket::parse(header, &mut packet) else { return };
    let whole = IpPacket::parse(before).expect("what can be split is a packet");
    assert_eq!(split.destination(), whole.destination());
    assert_eq!(split.traffic_class(), whole.traffic_class());
    let count = split.segments();
    let mut segments = Vec::with_capacity(count);
    for index in 0..count {
        let mut out = vec![0; split.segment_len(index)];
        assert_eq!(split.write_segment(index, &mut out), out.len());
        assert!(out.len() <= split.segment_len(0));
        let segment = IpPacket::parse(&out).expect("a segment is a packet");
        assert_eq!(segment.total_len(), out.len());
        assert_eq!((segment.source(), segment.destination()), (whole.source(), whole.destination()));
        assert_eq!(segment.transport_offset(), whole.transport_offset());
        segments.push(out);
    }
    assert_eq!((split.segment_len(count), split.write_segment(count, &mut [0; 100])), (0, 0));
    assert!(count == 1 || header.gso_type != GsoType::None);
    if count > 1 {
        // Each segment repeats the headers, and together they hold the payload.
        let total: usize = segments.iter().map(Vec::len).sum();
        let headers_len = (total - whole.total_len()) / (count - 1);
        let payload: Vec<u8> = segments.iter().flat_map(|segment| segment[headers_len..].to_vec()).collect();
        assert_eq!(payload, whole.as_bytes()[headers_len..]);
    }
}

/// What keeps its order.
type Flow = (IpAddr, IpAddr, u8, Option<(u16, u16)>);

fn flow_of(packet: &[u8]) -> Option<Flow> {
    let ip = IpPacket::parse(packet).ok()?;
    Some((ip.source(), ip.destination(), ip.protocol(), ip.ports()))
}

/// A packet without what merging may change: the identification where it means nothing, and the other way to
/// write a checksum of zero.
fn normalised(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let Ok(ip) = IpPacket::parse(packet) else { return bytes };
    let transport = ip.transport_offset();
    bytes.truncate(ip.total_len());
    if ip.version() == IpVersion::V4 {
        if bytes[6] & 0x40 != 0 {
            bytes[4..6].fill(0);
            bytes[10..12].fill(0);
        } else if bytes[10..12] == [0xff, 0xff] {
            bytes[10..12].fill(0);
        }
    }
    if ip.protocol() == protocol::TCP
        && let Some(field) = bytes.get_mut(transport + 16..transport + 18)
        && *field == [0xff, 0xff]
    {
        field.fill(0);
    }
    bytes
}

/// A batch of inner packets: options, the greatest length, then each packet with its length before it. What is
/// merged and split again is what went in, in the order of each flow.
pub fn coalescer(data: &[u8]) {
    let mut script = Script(data);
    let switches = script.byte();
    let options = CoalesceOptions {
        tcp: switches & 1 == 0,
        udp: switches & 2 == 0,
        max_len: match script.number() {
            0 => usize::MAX,
            len => usize::from(len),
        },
        verify_checksums: switches & 4 == 0,
    };
    let mut coalescer = Coalescer::new(options);
    let mut arena = Vec::new();
    let mut ranges = Vec::new();
    while !script.is_empty() {
        let packet = script.bytes();
        arena.extend([0xee; 3]);
        ranges.push(arena.len()..arena.len() + packet.len());
        arena.extend(packet);
    }
    for range in &ranges {
        coalescer.push(&arena, range.clone());
    }
    let before: Vec<Vec<u8>> = ranges.iter().map(|range| arena[range.clone()].to_vec()).collect();
    let mut after = Vec::new();
    coalescer.for_each_output(&mut arena, |header, slices| {
        assert!(slices.len() <= MAX_MERGED);
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        if header == VnetHeader::default() {
            assert_eq!(slices.len(), 1);
            after.push(bytes);
            return;
        }
        assert!(bytes.len() <= options.max_len && slices.len() > 1);
        let split = SuperPacket::parse(header, &mut bytes).expect("what was merged can be split");
        assert_eq!(split.segments(), slices.len());
        for index in 0..split.segments() {
            let mut out = vec![0; split.segment_len(index)];
            split.write_segment(index, &mut out);
            after.push(out);
        }
    });
    assert!(coalescer.is_empty());
    assert_eq!(before.len(), after.len());
    if options.verify_checksums {
        assert_eq!(by_flow(&before), by_flow(&after));
    }
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Option<Flow>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        flows.entry(flow_of(packet)).or_default().push(normalised(packet));
    }
    flows
}
