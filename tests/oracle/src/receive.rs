//! A kernel that receives.

use std::collections::HashMap;

use crate::{Layout, VNET_HEADER_LEN, Vnet, number_at, slow_sum};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// The flag in byte 6 of the IPv4 header.
const DONT_FRAGMENT: u8 = 0x40;

/// Why a TUN device would not take `bytes` with the virtio-net header `header` (`tun_get_user`, `virtio_net_hdr_to_skb`), or would be misled by the
/// header; `None`: it takes it.
pub fn refused_by_tun(header: &[u8; VNET_HEADER_LEN], bytes: &[u8]) -> Option<&'static str> {
    let header = Vnet::read(header);
    if header.gso_type == 0 && !header.needs_checksum() {
        return (header.gso_size != 0).then_some("a segment size without a type");
    }
    let Some(layout) = Layout::of(bytes) else { return Some("no IP packet") };
    let (minimum, protocol, transport_len, field) = match (header.gso_type & !Vnet::ECN, layout.ipv6) {
        (0, _) => return Some("a single packet that leaves its checksum to others"),
        (Vnet::TCP4, false) => (20, TCP, 20, 16),
        (Vnet::TCP6, true) => (40, TCP, 20, 16),
        (Vnet::UDP, _) => (20, UDP, 8, 6),
        _ => return Some("no type of super-packet, or another IP version's"),
    };
    if bytes.len() != layout.end || layout.protocol != protocol {
        return Some("another length or protocol than the packet's");
    }
    let needed = header.checksum_start + transport_len.max(header.checksum_offset + 2);
    if !header.needs_checksum() || needed > bytes.len() || header.checksum_start < minimum {
        return Some("a checksum outside of the packet");
    }
    if header.checksum_start != layout.transport || header.checksum_offset != field {
        return Some("another checksum than the transport's");
    }
    let headers_len = layout.transport
        + if protocol == TCP { 4 * usize::from(bytes[layout.transport + 12] >> 4) } else { 8 };
    if header.header_len != headers_len || headers_len > bytes.len() {
        return Some("another header length than the packet's");
    }
    if header.gso_size == 0 || header.gso_size >= bytes.len() - headers_len {
        return Some("a segment size of nothing, or of everything");
    }
    let expected = layout.pseudo_header_sum(bytes, bytes.len() - layout.transport);
    if number_at(bytes, layout.transport + field) != expected {
        return Some("not the sum of the pseudo-header");
    }
    if !layout.ipv6 && slow_sum(&bytes[..layout.transport]) != 0xffff {
        return Some("an IPv4 checksum that is wrong");
    }
    let is_reduced = protocol == TCP && bytes[layout.transport + 13] & CWR != 0;
    ((header.gso_type & Vnet::ECN != 0) != is_reduced).then_some("ECN other than the packet's")
}

/// What a merge is bounded by.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Length in bytes of the whole.
    pub len: usize,
    /// How many packets.
    pub count: usize,
    /// Whether a wrong transport checksum keeps a packet out.
    pub checksums: bool,
}

/// What generic receive offload makes of `packets`: which of them (by their places) become one, in the order of the first of each. Stricter than Linux in
/// four things: IPv6 extension headers, an urgent pointer that changes, TCP without ACK, and a fragment, which nothing overtakes.
pub fn merge(packets: &[Vec<u8>], limits: Limits) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // The last group of each flow, as long as others may come to it.
    let mut open: HashMap<Vec<u8>, usize> = HashMap::new();
    for (index, packet) in packets.iter().enumerate() {
        let own = groups.len();
        let Some(flow) = flow_of(packet) else {
            let other = Layout::of(packet).is_some_and(|layout| ![TCP, UDP].contains(&layout.protocol));
            if !other {
                open.clear();
            }
            groups.push(vec![index]);
            continue;
        };
        if !is_candidate(packet, limits) {
            open.remove(&flow);
            groups.push(vec![index]);
            continue;
        }
        let found = open.get(&flow).copied().filter(|&group| {
            let held: Vec<&[u8]> = groups[group].iter().map(|&place| packets[place].as_slice()).collect();
            follows(&held, packet, limits)
        });
        let group = match found {
            Some(group) => {
                groups[group].push(index);
                group
            }
            None => {
                groups.push(vec![index]);
                own
            }
        };
        let first = &packets[groups[group][0]];
        let closes = wants_to_be_seen(packet)
            || payload_len(packet) < payload_len(first)
            || groups[group].len() == limits.count;
        if closes {
            open.remove(&flow);
        } else {
            open.insert(flow, group);
        }
    }
    groups
}

/// Version, protocol, addresses and ports; `None` where they cannot be told.
pub fn flow_of(packet: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::of(packet)?;
    let transport = &packet[layout.transport..layout.end];
    if ![TCP, UDP].contains(&layout.protocol) || layout.is_fragment || transport.len() < 8 {
        return None;
    }
    let mut flow = vec![packet[0] >> 4, layout.protocol];
    flow.extend(layout.addresses(packet));
    flow.extend(&transport[..4]);
    Some(flow)
}

fn headers_len(packet: &[u8]) -> usize {
    let at = if packet[0] >> 4 == 6 { 40 } else { 20 };
    let is_tcp = packet[if at == 40 { 6 } else { 9 }] == TCP;
    at + if is_tcp { 4 * usize::from(packet[at + 12] >> 4) } else { 8 }
}

fn end(packet: &[u8]) -> usize {
    Layout::of(packet).map_or(0, |layout| layout.end)
}

fn payload_len(packet: &[u8]) -> usize {
    end(packet).saturating_sub(headers_len(packet))
}

/// `inet_gro_receive`, `ipv6_gro_receive`, `tcp_gro_receive` and `udp_gro_receive_segment`: what one packet must be.
fn is_candidate(packet: &[u8], limits: Limits) -> bool {
    let Some(layout) = Layout::of(packet) else { return false };
    let at = layout.transport;
    let plain = if layout.ipv6 { at == 40 } else { at == 20 && slow_sum(&packet[..20]) == 0xffff };
    if !plain || layout.end > limits.len || limits.checksums && !layout.checksum_is_right(packet) {
        return false;
    }
    if layout.protocol == TCP {
        let is_whole = layout.end >= at + 20 && packet[at + 12] >> 4 >= 5;
        return is_whole
            && layout.end > headers_len(packet)
            && packet[at + 13] & !(CWR | ECE | PSH | FIN) == ACK;
    }
    usize::from(number_at(packet, at + 4)) == layout.end - at
        && number_at(packet, at + 6) != 0
        && layout.end > at + 8
}

fn wants_to_be_seen(packet: &[u8]) -> bool {
    let at = if packet[0] >> 4 == 6 { 40 } else { 20 };
    packet[if at == 40 { 6 } else { 9 }] == TCP && packet[at + 13] & (PSH | FIN) != 0
}

/// Whether `next` goes behind those that are `held`, of the same flow and open.
fn follows(held: &[&[u8]], next: &[u8], limits: Limits) -> bool {
    let first = held[0];
    let (at, is_v6) = if first[0] >> 4 == 6 { (40, true) } else { (20, false) };
    let sent: usize = held.iter().map(|packet| payload_len(packet)).sum();
    let len = headers_len(first);
    if headers_len(next) != len
        || payload_len(next) > payload_len(first)
        || len + sent + payload_len(next) > limits.len
    {
        return false;
    }
    let same = |places: &[usize]| places.iter().all(|&place| first[place] == next[place]);
    if is_v6 {
        // Version, traffic class, flow label; hop limit.
        if !same(&[0, 1, 2, 3, 7]) {
            return false;
        }
    } else {
        // Type of service; flags and offset; time to live.
        if !same(&[1, 6, 7, 8]) {
            return false;
        }
        let of = |packet: &[u8]| number_at(packet, 4);
        let counted = |fixed: bool| {
            let all = held.iter().chain([&next]).enumerate();
            let step = |place: usize| if fixed { 0 } else { place as u16 };
            all.fold(true, |so_far, (place, packet)| {
                so_far && of(packet) == of(first).wrapping_add(step(place))
            })
        };
        let has_meaning = first[6] & DONT_FRAGMENT == 0;
        if !counted(false) && (has_meaning || !counted(true)) {
            return false;
        }
    }
    if first[if is_v6 { 6 } else { 9 }] == UDP {
        return true;
    }
    let sequence =
        |packet: &[u8]| u32::from_be_bytes([packet[at + 4], packet[at + 5], packet[at + 6], packet[at + 7]]);
    let flags = |packet: &[u8]| packet[at + 13];
    sequence(next) == sequence(first).wrapping_add(sent as u32)
        && flags(next) & CWR == 0
        && (flags(next) ^ flags(first)) & !(CWR | PSH | FIN) == 0
        // Acknowledgement; length and reserved bits; window; urgent pointer; options.
        && first[at + 8..at + 13] == next[at + 8..at + 13]
        && first[at + 14..at + 16] == next[at + 14..at + 16]
        && first[at + 18..len] == next[at + 18..len]
}
