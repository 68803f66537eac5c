//! What Linux would make of a packet, slowly and byte by byte: the oracle for all that splits and merges packets.
//!
//! [`transmit`] is a kernel that sends: it cuts a super-packet and finishes checksums. [`refused_by_tun`] and [`receive`] are
//! one that receives: what a TUN device takes, and what generic receive offload would have merged. [`Spec`] makes packets of all kinds out of a
//! [`Random`] whose seed repeats a run.
//!
//! The crate depends on nothing, so that it shares nothing with what is held against it: it has a parser and a checksum of its own, and
//! packets are bytes. It is for tests; nothing that ships uses it.
//!
//! ```
//! use tombolo_oracle::{Random, Spec, transmit};
//!
//! let spec = Spec::draw(&mut Random::new(7), 3000);
//! let segments = transmit(&spec.vnet_header_bytes(1000), &spec.build_partial());
//! assert!(segments.is_ok_and(|segments| segments.len() <= 4));
//! ```
#![forbid(unsafe_code)]

mod draw;
mod layout;
pub mod receive;
mod spec;
mod transmit;

pub use draw::{Random, draw};
pub use layout::{Layout, slow_sum};
pub use receive::refused_by_tun;
pub use spec::Spec;
pub use transmit::{Refused, finish_ip_header, transmit};

/// Length in bytes of the virtio-net header (VIRTIO 1.2 §5.1.6, without `num_buffers`).
pub const VNET_HEADER_LEN: usize = 10;

/// The fields of a virtio-net header, as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vnet {
    flags: u8,
    gso_type: u8,
    header_len: usize,
    gso_size: usize,
    checksum_start: usize,
    checksum_offset: usize,
}

impl Vnet {
    const NEEDS_CHECKSUM: u8 = 1;
    const TCP4: u8 = 1;
    const TCP6: u8 = 4;
    const UDP: u8 = 5;
    const ECN: u8 = 0x80;

    fn read(bytes: &[u8; VNET_HEADER_LEN]) -> Self {
        let number = |at: usize| usize::from(bytes[at]) + 256 * usize::from(bytes[at + 1]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_len: number(2),
            gso_size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        }
    }

    fn needs_checksum(&self) -> bool {
        self.flags & Self::NEEDS_CHECKSUM != 0
    }
}

fn number_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
