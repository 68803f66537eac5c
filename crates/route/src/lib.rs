//! Cryptokey routing in both directions: which peer has an address (paper §2).
//!
//! [`AllowedIps`] is the table that the control thread owns and changes; [`RouteTable`] is an immutable
//! picture of it that any thread reads without a lock. The same look-up serves both ways: outgoing
//! packets go to the peer that has the destination, and incoming ones are let in only from the
//! peer that has the source (requirement 18). The crate knows nothing of keys, sockets or packets.
//!
//! ```
//! use tombolo_packet::PeerId;
//! use tombolo_route::AllowedIps;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut allowed = AllowedIps::default();
//! allowed.insert("10.1.0.0/16".parse()?, PeerId(1));
//! allowed.insert("10.1.2.3/32".parse()?, PeerId(2));
//! let routes = allowed.snapshot();
//! assert_eq!(routes.lookup("10.1.2.3".parse()?), Some(PeerId(2)));
//! assert_eq!(routes.lookup("10.1.2.4".parse()?), Some(PeerId(1)));
//! assert_eq!(routes.lookup("10.2.0.1".parse()?), None);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod allowed_ips;
mod route_table;

pub use allowed_ips::AllowedIps;
pub use route_table::RouteTable;
