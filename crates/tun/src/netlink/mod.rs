//! The kernel's links, addresses, routes and rules, by blocking netlink and without the `ip`
//! program.
//!
//! A [`Netlink`] speaks to the network namespace of the thread that opened it, and keeps doing so
//! when that thread moves to another.

mod address;
pub(crate) mod attribute;
pub(crate) mod connection;
mod link;
mod route;
mod rule;
mod watch;

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;

use connection::Connection;

pub use link::{Link, LinkChange, TunMode};
pub use route::{PathTo, Route, RouteTarget};
pub use rule::Rule;
pub use watch::{Changes, LinkState, Watch};

/// A request that the kernel refused, or a socket that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}{}{}", detail.as_ref().map(|text| format!(" ({text})")).unwrap_or_default(), mend(source))]
pub struct NetlinkError {
    /// What was attempted, as a verb and its object.
    pub action: String,
    /// The error of the system.
    #[source]
    pub source: io::Error,
    /// The kernel's own words, if it gave any.
    pub detail: Option<String>,
}

fn mend(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => ": run as root, or grant CAP_NET_ADMIN",
        _ => "",
    }
}

/// A connection to the kernel's routing tables.
pub struct Netlink {
    connection: Connection,
}

impl Netlink {
    /// Opens a connection in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn open() -> Result<Self, NetlinkError> {
        let connection = Connection::open(netlink_sys::protocols::NETLINK_ROUTE).map_err(|source| {
            NetlinkError { action: "open a netlink socket".into(), source, detail: None }
        })?;
        Ok(Self { connection })
    }
}

pub(crate) fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The network of a prefix without its host bits: the kernel refuses them in routes and rules.
pub(crate) fn without_host_bits(network: IpNet) -> IpNet {
    network.trunc()
}
