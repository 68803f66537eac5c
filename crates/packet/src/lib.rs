//! Wire formats, IP views, checksums, and the split and coalesce of super-packets.
//!
//! Everything here is a pure function of bytes. The crate knows nothing of keys, peers, sockets,
//! clocks or operating systems.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod coalesce;
mod drop_reason;
mod endpoint;
pub mod ip;
pub mod message;
pub mod offload;
pub mod split;
mod steering;
#[cfg(test)]
mod test_packets;
mod vnet;

pub use coalesce::{CoalesceOptions, Coalescer, MAX_MERGED};
pub use drop_reason::{DropCounters, DropReason};
pub use endpoint::{Endpoint, LocalAddress, PeerId};
pub use ip::{Fragment, IpPacket, IpVersion};
pub use offload::{Offload, OffloadState};
pub use split::SuperPacket;
pub use steering::Steering;
pub use vnet::{GsoType, VnetHeader};
