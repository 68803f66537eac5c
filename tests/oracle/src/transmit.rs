//! A kernel that sends.

use crate::{Layout, VNET_HEADER_LEN, Vnet, number_at, put, slow_sum};

/// Why Linux would not take a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The packets that leave a device without any offload when Linux sends `bytes`, whose virtio-net header is `header`: what
/// `virtio_net_hdr_to_skb` makes of the header, `skb_checksum_help` of a checksum to be finished, `skb_gso_segment` of a super-packet. What
/// follows the IP packet is left out.
///
/// # Errors
/// Where Linux refuses it, or would give what is no packet any more.
pub fn transmit(header: &[u8; VNET_HEADER_LEN], bytes: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
    let header = Vnet::read(header);
    let layout = Layout::of(bytes).ok_or(Refused("no IP packet"))?;
    let packet = &bytes[..layout.end];
    let protocol = match header.gso_type {
        0 if header.needs_checksum() => return Ok(vec![finish_checksum(&header, packet)?]),
        0 => return Ok(vec![packet.to_vec()]),
        kind => match (kind & !Vnet::ECN, layout.ipv6) {
            (Vnet::TCP4, false) | (Vnet::TCP6, true) => TCP,
            (Vnet::UDP, _) => UDP,
            _ => return Err(Refused("no type of super-packet, or another IP version's")),
        },
    };
    if header.gso_size == 0 {
        return Err(Refused("segments of nothing"));
    }
    if layout.protocol != protocol || layout.is_fragment {
        return Err(Refused("another protocol, or a fragment"));
    }
    // `ipv6_gso_pull_exthdrs`: hop by hop, routing and destination options.
    if !layout.extensions.iter().all(|kind| [0, 43, 60].contains(kind)) {
        return Err(Refused("an extension header that is about this very packet"));
    }
    let field = if protocol == TCP { 16 } else { 6 };
    if !header.needs_checksum()
        || header.checksum_start != layout.transport
        || header.checksum_offset != field
    {
        return Err(Refused("the checksum to be finished is not that of the transport"));
    }
    cut(packet, &layout, header.gso_size)
}

/// `skb_checksum_help`.
fn finish_checksum(header: &Vnet, packet: &[u8]) -> Result<Vec<u8>, Refused> {
    let field = header.checksum_start + header.checksum_offset;
    // The offset of the transport header is at least the shortest IP header.
    if field + 2 > packet.len() || header.checksum_start < 20 {
        return Err(Refused("a checksum outside of the packet"));
    }
    let mut packet = packet.to_vec();
    let sum = match !slow_sum(&packet[header.checksum_start..]) {
        0 => 0xffff,
        sum => sum,
    };
    put(&mut packet, field, sum);
    Ok(packet)
}

/// `tcp_gso_segment` or `__udp_gso_segment`, in `inet_gso_segment` or `ipv6_gso_segment`.
fn cut(packet: &[u8], layout: &Layout, gso_size: usize) -> Result<Vec<Vec<u8>>, Refused> {
    let (at, is_tcp) = (layout.transport, layout.protocol == TCP);
    let whole = packet.len() - at;
    let header_len = if is_tcp {
        let words = packet.get(at + 12).ok_or(Refused("half a TCP header"))? >> 4;
        4 * usize::from(words)
    } else {
        8
    };
    if header_len < if is_tcp { 20 } else { 8 } || header_len > whole {
        return Err(Refused("a transport header that is too short, or longer than the packet"));
    }
    if !is_tcp && usize::from(number_at(packet, at + 4)) != whole {
        return Err(Refused("a UDP length that is not the packet's"));
    }
    let field = at + if is_tcp { 16 } else { 6 };
    let (headers, payload) = packet.split_at(at + header_len);
    // The sum of the pseudo-header, which may name another destination than the IP header does (routing headers), without the length.
    let pseudo = add(number_at(packet, field), !(whole as u16));
    let pieces: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(gso_size).collect() };
    let mut segments = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let mut segment = headers.to_vec();
        segment.extend_from_slice(piece);
        let len = segment.len() - at;
        if !layout.ipv6 {
            let identification = number_at(packet, 4).wrapping_add(index as u16);
            put(&mut segment, 4, identification);
        }
        finish_ip_header(&mut segment);
        if is_tcp {
            let before = (index * gso_size) as u32;
            let sequence =
                u32::from_be_bytes([packet[at + 4], packet[at + 5], packet[at + 6], packet[at + 7]]);
            segment[at + 4..at + 8].copy_from_slice(&sequence.wrapping_add(before).to_be_bytes());
            if index != 0 {
                segment[at + 13] &= !CWR;
            }
            if index != pieces.len() - 1 {
                segment[at + 13] &= !(FIN | PSH);
            }
        } else {
            put(&mut segment, at + 4, len as u16);
        }
        put(&mut segment, field, add(pseudo, len as u16));
        let sum = match !slow_sum(&segment[at..]) {
            // No checksum at all, in UDP (RFC 768).
            0 if !is_tcp => 0xffff,
            sum => sum,
        };
        put(&mut segment, field, sum);
        segments.push(segment);
    }
    Ok(segments)
}

/// One's complement.
fn add(a: u16, b: u16) -> u16 {
    let sum = u32::from(a) + u32::from(b);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Writes the length of `packet` into its IP header, and for IPv4 the checksum.
pub fn finish_ip_header(packet: &mut [u8]) {
    if packet[0] >> 4 == 6 {
        let len = packet.len() - 40;
        put(packet, 4, len as u16);
        return;
    }
    let len = packet.len();
    put(packet, 2, len as u16);
    put(packet, 10, 0);
    let sum = !slow_sum(&packet[..4 * usize::from(packet[0] % 16)]);
    put(packet, 10, sum);
}
