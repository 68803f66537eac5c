//! The virtio-net header that stands before each super-packet of a TUN queue.
//!
//! Virtual I/O Device (VIRTIO) 1.2, section 5.1.6, the 10-byte form without `num_buffers`;
//! little-endian as set by `TUNSETVNETLE` (and native on every machine Tombolo runs on).

use crate::DropReason;

/// How a super-packet is to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum GsoType {
    /// One packet.
    #[default]
    None = 0,
    /// TCP over IPv4.
    Tcp4 = 1,
    /// TCP over IPv6.
    Tcp6 = 4,
    /// UDP datagrams, IPv4 or IPv6 (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    Udp = 5,
}

/// A virtio-net header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// The checksum field holds the sum of the pseudo-header only; the rest is to be completed
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    pub needs_checksum: bool,
    /// The checksum was verified (`VIRTIO_NET_HDR_F_DATA_VALID`).
    pub data_valid: bool,
    /// How to split.
    pub gso_type: GsoType,
    /// TCP: the ECN bit of the type (`VIRTIO_NET_HDR_GSO_ECN`): CWR is set on the first segment only.
    pub ecn: bool,
    /// Length of all headers in bytes. A hint: wrong on the forward path, never to be trusted.
    pub header_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Offset in bytes from the start of the packet where summing begins.
    pub checksum_start: u16,
    /// Offset in bytes from `checksum_start` of the checksum field.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Length in bytes on the wire.
    pub const LEN: usize = 10;

    const NEEDS_CHECKSUM: u8 = 1;
    const DATA_VALID: u8 = 2;
    const ECN: u8 = 0x80;

    /// Reads a header. Its numbers are only read, not yet held against the packet: that is
    /// `SuperPacket::parse`.
    ///
    /// # Errors
    /// [`DropReason::MalformedPacket`] for a GSO type that Tombolo does not know.
    #[inline]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, DropReason> {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Ok(Self {
            needs_checksum: bytes[0] & Self::NEEDS_CHECKSUM != 0,
            data_valid: bytes[0] & Self::DATA_VALID != 0,
            gso_type: match (bytes[1], bytes[1] & !Self::ECN) {
                // The bit is one of a type; there is none alone.
                (0, _) => GsoType::None,
                (_, 1) => GsoType::Tcp4,
                (_, 4) => GsoType::Tcp6,
                (_, 5) => GsoType::Udp,
                _ => return Err(DropReason::MalformedPacket),
            },
            ecn: bytes[1] & Self::ECN != 0,
            header_len: number(2),
            gso_size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        })
    }

    /// The header as it is written to a TUN queue.
    #[inline]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let flags = if self.needs_checksum { Self::NEEDS_CHECKSUM } else { 0 }
            | if self.data_valid { Self::DATA_VALID } else { 0 };
        let gso_type = self.gso_type as u8 | if self.ecn { Self::ECN } else { 0 };
        let mut bytes = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (to, number) in bytes[2..].as_chunks_mut::<2>().0.iter_mut().zip([
            self.header_len,
            self.gso_size,
            self.checksum_start,
            self.checksum_offset,
        ]) {
            *to = number.to_le_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_of_the_kernel_is_read_and_written_back() {
        let bytes = [1, 0x81, 66, 0, 0xa8, 5, 20, 0, 16, 0];
        let header = VnetHeader::parse(&bytes).unwrap();
        let expected = VnetHeader {
            needs_checksum: true,
            data_valid: false,
            gso_type: GsoType::Tcp4,
            ecn: true,
            header_len: 66,
            gso_size: 1448,
            checksum_start: 20,
            checksum_offset: 16,
        };
        assert_eq!(header, expected);
        assert_eq!(header.to_bytes(), bytes);
    }

    #[test]
    fn every_type_byte_is_known_or_refused() {
        for gso_type in 0..=255 {
            let bytes = [2, gso_type, 1, 2, 3, 4, 5, 6, 7, 8];
            match VnetHeader::parse(&bytes) {
                Ok(header) => {
                    assert!([0, 1, 4, 5, 0x81, 0x84, 0x85].contains(&gso_type));
                    assert_eq!(header.to_bytes(), bytes);
                }
                Err(reason) => {
                    assert!(![0, 1, 4, 5, 0x81, 0x84, 0x85].contains(&gso_type));
                    assert_eq!(reason, DropReason::MalformedPacket);
                }
            }
        }
    }
}
