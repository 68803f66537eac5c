//! A view of an IP packet, and what tunnels do to its ECN field (RFC 6040).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{DropReason, checksum};

/// IP protocol numbers that are met here (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMP_V6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Mobile IPv6.
    pub const MOBILITY: u8 = 135;
    /// Host Identity Protocol.
    pub const HOST_IDENTITY: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

/// Length in bytes of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Length in bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER_LEN: usize = 40;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Whether a packet is a piece of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// The packet is whole.
    No,
    /// The first fragment, which holds the transport header.
    First,
    /// A later fragment: there is no transport header in it.
    Later,
}

/// A well-formed IP packet: version, header lengths and total length agree with the bytes there are, and
/// all IPv6 extension headers lie within the packet.
///
/// An IPv4 header checksum is not looked at, nor is anything from the transport header on.
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    /// Exactly the packet, without what may follow it.
    bytes: &'a [u8],
    version: IpVersion,
    protocol: u8,
    fragment: Fragment,
    transport_offset: u16,
}

impl<'a> IpPacket<'a> {
    /// Reads the packet at the front of `bytes`. More may follow it, as the padding of a transport
    /// message does.
    ///
    /// # Errors
    /// [`DropReason::MalformedPacket`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            _ => None,
        }
        .ok_or(DropReason::MalformedPacket)
    }

    #[inline]
    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<IPV4_HEADER_LEN>()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IPV4_HEADER_LEN || total_len < header_len {
            return None;
        }
        let fragment = match (u16::from_be_bytes([header[6], header[7]]) & 0x1fff, header[6] & 0x20) {
            (0, 0) => Fragment::No,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        Some(Self {
            bytes: bytes.get(..total_len)?,
            version: IpVersion::V4,
            protocol: header[9],
            fragment,
            transport_offset: header_len as u16,
        })
    }

    #[inline]
    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<IPV6_HEADER_LEN>()?;
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut packet = Self {
            bytes: bytes.get(..IPV6_HEADER_LEN + payload_len)?,
            version: IpVersion::V6,
            protocol: header[6],
            fragment: Fragment::No,
            transport_offset: IPV6_HEADER_LEN as u16,
        };
        if !matches!(packet.protocol, protocol::TCP | protocol::UDP) {
            packet.walk_extension_headers()?;
        }
        Some(packet)
    }

    /// Moves protocol and offset past the extension headers (RFC 8200 §4). Each step goes on by at
    /// least eight bytes, so the length of the packet bounds the walk.
    fn walk_extension_headers(&mut self) -> Option<()> {
        let mut offset = IPV6_HEADER_LEN;
        loop {
            let header_len = match self.protocol {
                protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::DESTINATION_OPTIONS
                | protocol::MOBILITY
                | protocol::HOST_IDENTITY
                | protocol::SHIM6 => 8 + usize::from(*self.bytes.get(offset + 1)?) * 8,
                protocol::AUTHENTICATION => (8 + usize::from(*self.bytes.get(offset + 1)?) * 4).max(8),
                protocol::FRAGMENT => 8,
                _ => break,
            };
            let header = self.bytes.get(offset..offset + header_len)?;
            offset += header_len;
            if self.protocol == protocol::FRAGMENT {
                let position = u16::from_be_bytes([header[2], header[3]]);
                self.protocol = header[0];
                match (position & 0xfff8, position & 1) {
                    // An atomic fragment is a whole packet (RFC 6946), which is still best left alone.
                    (0, _) => self.fragment = Fragment::First,
                    _ => {
                        self.fragment = Fragment::Later;
                        break;
                    }
                }
            } else {
                self.protocol = header[0];
            }
        }
        self.transport_offset = offset as u16;
        Some(())
    }

    /// The packet itself, without what followed it.
    #[inline]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Length in bytes of headers and payload: where the packet ends.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// IPv4 or IPv6.
    #[inline]
    pub fn version(&self) -> IpVersion {
        self.version
    }

    /// The source address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match self.version {
            IpVersion::V4 => IpAddr::V4(Ipv4Addr::from(*self.field::<4>(12))),
            IpVersion::V6 => IpAddr::V6(Ipv6Addr::from(*self.field::<16>(8))),
        }
    }

    /// The destination address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match self.version {
            IpVersion::V4 => IpAddr::V4(Ipv4Addr::from(*self.field::<4>(16))),
            IpVersion::V6 => IpAddr::V6(Ipv6Addr::from(*self.field::<16>(24))),
        }
    }

    /// Source and destination as they stand in the header: 8 or 32 bytes.
    #[inline]
    pub(crate) fn address_bytes(&self) -> &'a [u8] {
        match self.version {
            IpVersion::V4 => &self.bytes[12..20],
            IpVersion::V6 => &self.bytes[8..40],
        }
    }

    /// DSCP and ECN: IPv4's type of service, IPv6's traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        match self.version {
            IpVersion::V4 => self.bytes[1],
            IpVersion::V6 => self.bytes[0] << 4 | self.bytes[1] >> 4,
        }
    }

    /// The lower two bits of the traffic class, one of [`ecn`].
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.traffic_class() & ecn::MASK
    }

    /// What the payload is: the protocol after all extension headers.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Where the payload begins, in bytes from the front of the packet. In a later fragment no transport
    /// header is there.
    #[inline]
    pub fn transport_offset(&self) -> usize {
        usize::from(self.transport_offset)
    }

    /// Transport header and what follows it.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.transport_offset()..]
    }

    /// Whether the packet is a piece of a larger one.
    #[inline]
    pub fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Source and destination port, where TCP or UDP ports are in the packet.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        if self.fragment == Fragment::Later || !matches!(self.protocol, protocol::TCP | protocol::UDP) {
            return None;
        }
        let ports = self.payload().first_chunk::<4>()?;
        Some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
    }

    #[inline]
    fn field<const N: usize>(&self, offset: usize) -> &'a [u8; N] {
        self.bytes[offset..]
            .first_chunk()
            .expect("the constructor took no packet shorter than its fixed header")
    }
}

/// Values of the ECN field (RFC 3168 §5).
pub mod ecn {
    /// The bits of the traffic class that ECN has.
    pub const MASK: u8 = 0b11;
    /// The transport does not know ECN.
    pub const NOT_CAPABLE: u8 = 0b00;
    /// ECN-capable transport, codepoint 1.
    pub const CAPABLE_1: u8 = 0b01;
    /// ECN-capable transport, codepoint 0.
    pub const CAPABLE_0: u8 = 0b10;
    /// Congestion experienced.
    pub const CONGESTION: u8 = 0b11;
}

/// The traffic class of the outer datagram: the inner packet's ECN field and no DSCP
/// (RFC 6040 §4.1, normal mode; requirement 21).
#[inline]
pub const fn ecn_encapsulate(inner_traffic_class: u8) -> u8 {
    inner_traffic_class & ecn::MASK
}

/// Carries the outer datagram's ECN field over to the packet that was in it (RFC 6040 §4.2, figure 4;
/// requirement 21). `outer_ecn` may be a whole traffic class.
///
/// # Errors
/// [`DropReason::CongestionMarked`] where the network marked congestion on a packet whose transport cannot
/// see the mark: a drop is what such a transport understands.
/// [`DropReason::MalformedPacket`] where `inner` is not the whole fixed header of an IP packet.
#[inline]
pub fn ecn_decapsulate(inner: &mut [u8], outer_ecn: u8) -> Result<(), DropReason> {
    let outer = outer_ecn & ecn::MASK;
    // Nearly every packet: nothing was marked, nothing can change.
    if outer == ecn::NOT_CAPABLE {
        return Ok(());
    }
    let current = match inner {
        [first, second, ..] if *first >> 4 == 4 => *second,
        [first, second, ..] if *first >> 4 == 6 => *second >> 4,
        _ => return Err(DropReason::MalformedPacket),
    } & ecn::MASK;
    match (current, outer) {
        (ecn::NOT_CAPABLE, ecn::CONGESTION) => Err(DropReason::CongestionMarked),
        (ecn::CAPABLE_0, ecn::CAPABLE_1) => set_ecn(inner, ecn::CAPABLE_1),
        (ecn::CAPABLE_0 | ecn::CAPABLE_1, ecn::CONGESTION) => set_ecn(inner, ecn::CONGESTION),
        _ => Ok(()),
    }
}

/// Sets the ECN field of the IP packet at the front of `packet`, and mends the IPv4 header checksum.
///
/// # Errors
/// [`DropReason::MalformedPacket`] where there is no whole fixed header.
pub fn set_ecn(packet: &mut [u8], value: u8) -> Result<(), DropReason> {
    let value = value & ecn::MASK;
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let header = packet.first_chunk_mut::<IPV4_HEADER_LEN>().ok_or(DropReason::MalformedPacket)?;
            let old = u16::from_be_bytes([header[0], header[1]]);
            header[1] = header[1] & !ecn::MASK | value;
            let new = u16::from_be_bytes([header[0], header[1]]);
            let sum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, new);
            [header[10], header[11]] = sum.to_be_bytes();
        }
        Some(6) => {
            let header = packet.first_chunk_mut::<IPV6_HEADER_LEN>().ok_or(DropReason::MalformedPacket)?;
            header[1] = header[1] & !(ecn::MASK << 4) | value << 4;
        }
        _ => return Err(DropReason::MalformedPacket),
    }
    Ok(())
}

#[cfg(test)]
#[path = "ip_tests.rs"]
mod tests;
