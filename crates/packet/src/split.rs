//! Splits a super-packet from the TUN into the packets that go over the wire.
//!
//! What the kernel would have done on its way out of a device without segmentation offload: one header per
//! segment, with lengths, IPv4 identification, TCP sequence number and flags, and checksums of its own.

use std::net::IpAddr;

use crate::checksum::Sum;
use crate::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, protocol};
use crate::mss::{option_kind, walk_options};
use crate::{DropReason, Fragment, GsoType, IpPacket, IpVersion, VnetHeader};

const TCP_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;
/// A limit that leaves less than this beside the headers is not worth splitting for.
const LEAST_PAYLOAD: usize = 256;
/// Segments of one super-packet at most. Linux makes none with less than eight bytes of payload each: the least
/// segment size of TCP, 48, holds up to 40 bytes of options.
pub const MAX_SEGMENTS: usize = (u16::MAX as usize).div_ceil(8);
/// Offset in bytes of the checksum within the TCP header.
pub(crate) const TCP_CHECKSUM_OFFSET: u16 = 16;
/// Offset in bytes of the checksum within the UDP header.
pub(crate) const UDP_CHECKSUM_OFFSET: u16 = 6;
/// Flags in byte 13 of the TCP header.
pub(crate) mod tcp_flags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const ECE: u8 = 0x40;
    pub(crate) const CWR: u8 = 0x80;
}

/// A packet as it came out of the TUN, with what its virtio-net header said of it held against it.
///
/// ```
/// use tombolo_packet::{SuperPacket, VnetHeader};
///
/// # fn split(bytes: &mut [u8]) -> Result<(), tombolo_packet::DropReason> {
/// let packet = SuperPacket::parse(VnetHeader::default(), bytes)?;
/// let mut out = [0; 1500];
/// for index in 0..packet.segments() {
///     let len = packet.write_segment(index, &mut out);
///     // seal out[..len]
/// }
/// # Ok(()) }
/// # assert!(split(&mut [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]).is_ok());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SuperPacket<'a> {
    ip: IpPacket<'a>,
    /// Length in bytes of all headers: the front of each segment.
    headers_len: usize,
    /// Payload bytes of each segment but the last.
    payload_per_segment: usize,
    segments: usize,
    plan: Plan,
}

/// What stays the same in the headers of all segments, summed once.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// One packet, already complete.
    Single,
    Tcp {
        /// IPv4 header without length, identification and checksum.
        ip_sum: Sum,
        /// Pseudo-header without length, TCP header without sequence number, flags and checksum.
        transport_sum: Sum,
        sequence: u32,
    },
    Udp {
        ip_sum: Sum,
        /// Pseudo-header without length, and both ports.
        transport_sum: Sum,
    },
}

impl<'a> SuperPacket<'a> {
    /// Takes the packet at the front of `packet`, 20 to 65,575 bytes. The checksum of a packet that is not to be
    /// split and lacks it is completed in place.
    ///
    /// `header` may be hostile: its header length is not used (the kernel gets it wrong on the forward
    /// path), and everything else has to agree with the packet.
    ///
    /// # Errors
    /// [`DropReason::MalformedPacket`].
    #[inline]
    pub fn parse(header: VnetHeader, packet: &'a mut [u8]) -> Result<Self, DropReason> {
        if header.gso_type == GsoType::None {
            if header.needs_checksum {
                complete_checksum(header, packet)?;
            }
            let ip = IpPacket::parse(packet)?;
            return Ok(Self::single(ip));
        }
        let ip = IpPacket::parse(packet)?;
        Self::parse_segmented(header, ip).ok_or(DropReason::MalformedPacket)
    }

    fn single(ip: IpPacket<'a>) -> Self {
        Self { ip, headers_len: ip.total_len(), payload_per_segment: 0, segments: 1, plan: Plan::Single }
    }

    fn parse_segmented(header: VnetHeader, ip: IpPacket<'a>) -> Option<Self> {
        let (version, protocol) = match header.gso_type {
            GsoType::None => return None,
            GsoType::Tcp4 => (IpVersion::V4, protocol::TCP),
            GsoType::Tcp6 => (IpVersion::V6, protocol::TCP),
            GsoType::Udp => (ip.version(), protocol::UDP),
        };
        if ip.version() != version
            || ip.protocol() != protocol
            || ip.fragment() != Fragment::No
            || ip.version() == IpVersion::V6 && !may_be_repeated(&ip)
        {
            return None;
        }
        // VIRTIO 1.2 §5.1.6.2: a packet to be segmented always needs its checksum. The field then
        // holds the sum of the pseudo-header, which is right also where a routing header hides the
        // final destination.
        let checksum_offset =
            if protocol == protocol::TCP { TCP_CHECKSUM_OFFSET } else { UDP_CHECKSUM_OFFSET };
        if !header.needs_checksum
            || usize::from(header.checksum_start) != ip.transport_offset()
            || header.checksum_offset != checksum_offset
            || header.gso_size == 0
        {
            return None;
        }
        let transport = ip.payload();
        let number = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
        let (transport_header_len, plan) = if protocol == protocol::TCP {
            let tcp = transport.first_chunk::<TCP_HEADER_LEN>()?;
            let tcp_header_len = usize::from(tcp[12] >> 4) * 4;
            if tcp_header_len < TCP_HEADER_LEN {
                return None;
            }
            let transport_sum = Sum::of(transport.get(..tcp_header_len)?)
                .subtract_u16(number(4))
                .subtract_u16(number(6))
                .subtract_u16(number(12))
                .subtract_u16(transport.len() as u16);
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            (tcp_header_len, Plan::Tcp { ip_sum: ip_sum(&ip), transport_sum, sequence })
        } else {
            let udp = transport.first_chunk::<UDP_HEADER_LEN>()?;
            if usize::from(number(4)) != transport.len() {
                return None;
            }
            let transport_sum = Sum::of(udp).subtract_u16(number(4)).subtract_u16(transport.len() as u16);
            (UDP_HEADER_LEN, Plan::Udp { ip_sum: ip_sum(&ip), transport_sum })
        };
        let headers_len = ip.transport_offset() + transport_header_len;
        let payload_per_segment = usize::from(header.gso_size);
        let segments = (ip.total_len() - headers_len).div_ceil(payload_per_segment).max(1);
        if segments > MAX_SEGMENTS {
            return None;
        }
        Some(Self { ip, headers_len, payload_per_segment, segments, plan })
    }

    /// Makes every packet that comes out `limit` bytes at most, where TCP allows that: smaller segments carry the same
    /// stream. So does a single segment that was larger, unless something in its header is about this very segment: SYN, RST, an
    /// urgent pointer, a signature. `false`: packets are larger than the limit, and stay so.
    #[inline]
    pub fn fit(&mut self, limit: usize) -> bool {
        self.segment_len(0) <= limit || self.split_smaller(limit)
    }

    #[cold]
    fn split_smaller(&mut self, limit: usize) -> bool {
        if matches!(self.plan, Plan::Single) {
            let Some((headers_len, plan)) = self.plan_of_single() else { return false };
            if limit < headers_len + LEAST_PAYLOAD {
                return false;
            }
            (self.headers_len, self.plan) = (headers_len, plan);
        }
        let payload = match self.plan {
            Plan::Tcp { .. } => limit.saturating_sub(self.headers_len),
            // Each segment is a datagram of its own.
            Plan::Udp { .. } | Plan::Single => 0,
        };
        if payload < LEAST_PAYLOAD {
            return false;
        }
        self.payload_per_segment = payload;
        self.segments = (self.ip.total_len() - self.headers_len).div_ceil(payload).max(1);
        true
    }

    /// A complete TCP segment as if it were a super-packet of one segment.
    fn plan_of_single(&self) -> Option<(usize, Plan)> {
        let is_whole_tcp = self.ip.protocol() == protocol::TCP && self.ip.fragment() == Fragment::No;
        if !is_whole_tcp || self.ip.version() == IpVersion::V6 && !may_be_repeated(&self.ip) {
            return None;
        }
        let transport = self.ip.payload();
        let tcp = transport.first_chunk::<TCP_HEADER_LEN>()?;
        let tcp_header_len = usize::from(tcp[12] >> 4) * 4;
        let divisible = tcp_flags::FIN | tcp_flags::PSH | tcp_flags::ACK | tcp_flags::ECE | tcp_flags::CWR;
        let options = transport.get(TCP_HEADER_LEN..tcp_header_len)?;
        let signed = walk_options(options)
            .any(|(kind, _)| [option_kind::MD5_SIGNATURE, option_kind::AUTHENTICATION].contains(&kind));
        if tcp[13] & !divisible != 0 || signed {
            return None;
        }
        let number = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
        // What the checksum says is the sum of everything; without the payload it is that of header and
        // pseudo-header. So a checksum that was wrong stays wrong.
        let transport_sum = Sum::ZERO
            .add_u16(!number(16))
            .subtract_u16(Sum::of(&transport[tcp_header_len..]).folded())
            .subtract_u16(number(4))
            .subtract_u16(number(6))
            .subtract_u16(number(12))
            .subtract_u16(transport.len() as u16);
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let plan = Plan::Tcp { ip_sum: ip_sum(&self.ip), transport_sum, sequence };
        Some((self.ip.transport_offset() + tcp_header_len, plan))
    }

    /// Where all segments go.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.ip.destination()
    }

    /// DSCP and ECN of all segments.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.ip.traffic_class()
    }

    /// The packet before it is split.
    #[inline]
    pub fn ip(&self) -> &IpPacket<'a> {
        &self.ip
    }

    /// How many packets come out: at least one, at most [`MAX_SEGMENTS`].
    #[inline]
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Length in bytes of the packet `index`, headers included; 0 past the last. None is longer than the
    /// first.
    #[inline]
    pub fn segment_len(&self, index: usize) -> usize {
        if index >= self.segments {
            return 0;
        }
        self.headers_len + self.payload_range(index).len()
    }

    /// Where the payload of an existing segment lies in the super-packet.
    #[inline]
    fn payload_range(&self, index: usize) -> std::ops::Range<usize> {
        let start = self.headers_len + index * self.payload_per_segment;
        start..(start + self.payload_per_segment).min(self.ip.total_len())
    }

    /// Writes packet `index` to the front of `out` and says how long it is in bytes. Where `out` is shorter than
    /// [`segment_len`](Self::segment_len), and past the last packet, nothing is written and 0 returned.
    #[inline]
    pub fn write_segment(&self, index: usize, out: &mut [u8]) -> usize {
        let len = self.segment_len(index);
        let Some(out) = out.get_mut(..len) else { return 0 };
        if len == 0 {
            return 0;
        }
        let packet = self.ip.as_bytes();
        let (headers, payload) = out.split_at_mut(self.headers_len);
        headers.copy_from_slice(&packet[..self.headers_len]);
        // A copy and then a sum of what is warm: faster than one loop that does both.
        payload.copy_from_slice(&packet[self.payload_range(index)]);
        let transport_len = len - self.ip.transport_offset();
        match self.plan {
            Plan::Single => {}
            Plan::Tcp { ip_sum, transport_sum, sequence } => {
                self.write_ip_header(headers, index, len, ip_sum);
                let tcp = &mut headers[self.ip.transport_offset()..];
                // RFC 9293 has the sequence number wrap.
                let sequence = sequence.wrapping_add((index * self.payload_per_segment) as u32);
                tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
                if index + 1 != self.segments {
                    tcp[13] &= !(tcp_flags::FIN | tcp_flags::PSH);
                }
                if index != 0 {
                    // One reduction of the window is told once (RFC 3168 §6.1.2).
                    tcp[13] &= !tcp_flags::CWR;
                }
                let checksum = transport_sum
                    .add_bytes(payload)
                    .add_u16(transport_len as u16)
                    .add_u32(sequence)
                    .add_u16(u16::from_be_bytes([tcp[12], tcp[13]]))
                    .checksum();
                tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
            }
            Plan::Udp { ip_sum, transport_sum } => {
                self.write_ip_header(headers, index, len, ip_sum);
                let udp = &mut headers[self.ip.transport_offset()..];
                udp[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
                // The length counts twice: in the pseudo-header and in the header.
                let checksum = transport_sum
                    .add_bytes(payload)
                    .add_u16(transport_len as u16)
                    .add_u16(transport_len as u16)
                    .checksum_not_zero();
                udp[6..8].copy_from_slice(&checksum.to_be_bytes());
            }
        }
        len
    }

    /// Lengths, and for IPv4 the identification, one more for each segment, and the checksum.
    #[inline]
    fn write_ip_header(&self, headers: &mut [u8], index: usize, len: usize, ip_sum: Sum) {
        match self.ip.version() {
            IpVersion::V4 => {
                let identification = u16::from_be_bytes([headers[4], headers[5]]).wrapping_add(index as u16);
                let checksum = ip_sum.add_u16(len as u16).add_u16(identification).checksum();
                headers[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                headers[4..6].copy_from_slice(&identification.to_be_bytes());
                headers[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            IpVersion::V6 => {
                headers[4..6].copy_from_slice(&((len - IPV6_HEADER_LEN) as u16).to_be_bytes());
            }
        }
    }
}

/// Whether the IPv6 extension headers may stand before each segment: options and routing headers, as in Linux
/// (`ipv6_gso_pull_exthdrs`). An authentication header is about one very packet.
#[inline]
fn may_be_repeated(ip: &IpPacket<'_>) -> bool {
    let bytes = ip.as_bytes();
    let (mut kind, mut offset) = (bytes[6], IPV6_HEADER_LEN);
    while offset < ip.transport_offset() {
        if !matches!(kind, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS) {
            return false;
        }
        kind = bytes[offset];
        offset += 8 + usize::from(bytes[offset + 1]) * 8;
    }
    true
}

/// The sum over an IPv4 header without length, identification and checksum; nothing for IPv6.
fn ip_sum(ip: &IpPacket<'_>) -> Sum {
    let bytes = ip.as_bytes();
    match ip.version() {
        IpVersion::V4 => Sum::of(&bytes[..2])
            .add_bytes(&bytes[6..10])
            .add_bytes(&bytes[12..IPV4_HEADER_LEN])
            .add_bytes(&bytes[IPV4_HEADER_LEN..ip.transport_offset()]),
        IpVersion::V6 => Sum::ZERO,
    }
}

/// Completes the checksum of a packet that is not to be split.
fn complete_checksum(header: VnetHeader, packet: &mut [u8]) -> Result<(), DropReason> {
    let ip = IpPacket::parse(packet)?;
    let (total_len, transport_offset) = (ip.total_len(), ip.transport_offset());
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    // Never into the IP header, whose lengths were just found right.
    if start < transport_offset || field + 2 > total_len {
        return Err(DropReason::MalformedPacket);
    }
    // Zero is no UDP checksum, and 0xffff is as good as zero everywhere else.
    let checksum = Sum::of(&packet[start..total_len]).checksum_not_zero();
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
