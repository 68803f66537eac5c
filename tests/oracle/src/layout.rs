//! Where what stands in a packet.

use crate::number_at;

/// RFC 1071 as it stands in §1, a word at a time; an odd last byte is padded with zero.
pub fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What the headers of an IP packet say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// IPv6, or IPv4.
    pub ipv6: bool,
    /// Length in bytes of the packet: what follows is no part of it.
    pub end: usize,
    /// What is behind IP and its extension headers.
    pub protocol: u8,
    /// Offset in bytes of that.
    pub transport: usize,
    /// The packet is a fragment, or says so.
    pub is_fragment: bool,
    /// Numbers of the IPv6 extension headers, in their order.
    pub extensions: Vec<u8>,
}

impl Layout {
    /// Reads the packet at the front of `bytes`; `None` where its lengths do not agree with each other or go past the end.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::of_ipv4(bytes),
            6 => Self::of_ipv6(bytes),
            _ => None,
        }
    }

    /// RFC 791 §3.1.
    fn of_ipv4(bytes: &[u8]) -> Option<Self> {
        let transport = 4 * usize::from(bytes[0] % 16);
        if bytes.len() < 20 || transport < 20 {
            return None;
        }
        let end = usize::from(number_at(bytes, 2));
        if end < transport || end > bytes.len() {
            return None;
        }
        // More fragments, or an offset.
        let is_fragment = number_at(bytes, 6) & 0x3fff != 0;
        Some(Self { ipv6: false, end, protocol: bytes[9], transport, is_fragment, extensions: Vec::new() })
    }

    /// RFC 8200 §3 and §4.
    fn of_ipv6(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 40 {
            return None;
        }
        let end = 40 + usize::from(number_at(bytes, 4));
        if end > bytes.len() {
            return None;
        }
        let mut layout = Self {
            ipv6: true,
            end,
            protocol: bytes[6],
            transport: 40,
            is_fragment: false,
            extensions: Vec::new(),
        };
        while let Some(kind) =
            [0, 43, 44, 51, 60, 135, 139, 140].into_iter().find(|&kind| kind == layout.protocol)
        {
            let at = layout.transport;
            if at + 8 > end {
                return None;
            }
            let len = match kind {
                44 => 8,
                // RFC 4302 §2.2 counts in 32-bit words, less two.
                51 => 4 * (usize::from(bytes[at + 1]) + 2),
                _ => 8 * (usize::from(bytes[at + 1]) + 1),
            };
            layout.extensions.push(kind);
            (layout.protocol, layout.transport) = (bytes[at], at + len);
            if layout.transport > end {
                return None;
            }
            layout.is_fragment |= kind == 44;
            if kind == 44 && number_at(bytes, at + 2) >= 8 {
                // What follows is the middle of something.
                break;
            }
        }
        Some(layout)
    }

    /// Source and destination address, one behind the other.
    pub fn addresses<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.ipv6 { &bytes[8..40] } else { &bytes[12..20] }
    }

    /// Sum of the pseudo-header for so many bytes of transport header and payload (RFC 9293 §3.1, RFC 8200 §8.1).
    pub fn pseudo_header_sum(&self, bytes: &[u8], len: usize) -> u16 {
        let mut pseudo = self.addresses(bytes).to_vec();
        pseudo.extend((len as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol]);
        slow_sum(&pseudo)
    }

    /// Whether the transport checksum of a whole TCP or UDP packet is right.
    pub fn checksum_is_right(&self, bytes: &[u8]) -> bool {
        let transport = &bytes[self.transport..self.end];
        let mut all = self.pseudo_header_sum(bytes, transport.len()).to_be_bytes().to_vec();
        all.extend(transport);
        slow_sum(&all) == 0xffff
    }
}
