//! The cross-platform WireGuard userspace protocol: what `wg` speaks to `/var/run/wireguard/IF.sock`.
//!
//! [`parse_request`] and [`format_status`] are pure; [`server`] is the socket around them. Described at
//! <https://www.wireguard.com/xplatform/>; requirement 26.

mod format;
mod parse;
pub mod server;
#[cfg(test)]
mod tests;

pub use format::{format_errno, format_status};
pub use parse::{MAX_REQUEST, Request, UapiError, parse_request};
