//! The packets of the oracle, with headers as this crate reads them.

pub(crate) use tombolo_oracle::{Spec, slow_sum};

use crate::VnetHeader;

/// The virtio-net header of a packet of the oracle's.
pub(crate) trait Described {
    /// For [`Spec::build_partial`], to be cut to `gso_size` bytes of payload; 0: not to be cut.
    fn vnet_header(&self, gso_size: u16) -> VnetHeader;
}

impl Described for Spec {
    fn vnet_header(&self, gso_size: u16) -> VnetHeader {
        VnetHeader::parse(&self.vnet_header_bytes(gso_size)).expect("the oracle knows the format")
    }
}
