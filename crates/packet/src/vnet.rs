//! The virtio-net header that stands before each super-packet of a TUN queue.
//!
//! Virtual I/O Device (VIRTIO) 1.2, section 5.1.6, the 10-byte form without `num_buffers`;
//! little-endian as set by `TUNSETVNETLE` (and native on every machine Tombolo runs on).

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
}
