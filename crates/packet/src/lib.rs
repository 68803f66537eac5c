//! Wire formats, IP views, checksums, and the split and coalesce of super-packets.
//!
//! Everything here is a pure function of bytes. The crate knows nothing of keys, peers, sockets,
//! clocks or operating systems.
#![forbid(unsafe_code)]

pub mod bucket;
pub mod checksum;
pub mod coalesce;
mod drop_reason;
mod endpoint;
pub mod ip;
pub mod message;
mod mss;
pub mod offload;
pub mod relay;
pub mod split;
mod steering;
#[cfg(test)]
mod test_packets;
mod too_big;
mod vnet;

pub use coalesce::{CoalesceOptions, Coalescer, MAX_MERGED};
pub use drop_reason::{DropCounters, DropReason};
pub use endpoint::{Endpoint, LocalAddress, PeerId};
pub use ip::{Fragment, IpPacket, IpVersion};
pub use mss::clamp_mss;
pub use offload::{Offload, OffloadState};
pub use split::SuperPacket;
pub use steering::Steering;
pub use too_big::{
    IPV6_MINIMUM_MTU, TOO_BIG_ANSWER_MAX, UNREACHABLE_ANSWER_MAX, too_big_answer, unreachable_answer,
};
pub use vnet::{GsoType, VnetHeader};
