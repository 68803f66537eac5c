//! Notices when links, addresses, routes, rules or packet filters change, whoever changed them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use rustix::event::epoll;

use super::connection::{Connection, decode, messages};
use super::link::Link;
use super::{Netlink, NetlinkError};

const ROUTE_GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];

/// What changed since the last call. Says where to look, not what is there: several changes may
/// have undone each other, and one's own changes are reported like all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not a state")]
pub struct Changes {
    /// An interface came, went or changed, the watched one or any other.
    pub links: bool,
    /// Addresses of the watched interface changed.
    pub own_addresses: bool,
    /// Addresses of other interfaces changed: source addresses may have gone.
    pub other_addresses: bool,
    /// Routes of the watched table changed.
    pub own_routes: bool,
    /// Other routes changed: paths to endpoints may have.
    pub other_routes: bool,
    /// Routing rules changed.
    pub rules: bool,
    /// Packet filters changed: look whether the guard stands.
    pub filters: bool,
}

impl Changes {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an [`InterfacePlan`](crate::InterfacePlan) may have to be applied again.
    #[must_use]
    pub fn concern_plan(&self) -> bool {
        self.links || self.own_addresses || self.own_routes || self.rules
    }

    /// Whether the path to an endpoint may be another, or its source address gone.
    #[must_use]
    pub fn concern_underlay(&self) -> bool {
        self.links || self.other_addresses || self.other_routes || self.rules
    }

    /// Everything: messages were lost.
    const ALL: Self = Self {
        links: true,
        own_addresses: true,
        other_addresses: true,
        own_routes: true,
        other_routes: true,
        rules: true,
        filters: true,
    };
}

/// The state of the watched interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// There is none of this name in this namespace: deleted, renamed or moved.
    Missing,
    /// Set down by an administrator.
    Down,
    /// Set up.
    Up,
}

impl LinkState {
    fn of(link: Option<&Link>) -> Self {
        match link {
            None => Self::Missing,
            Some(link) if link.up => Self::Up,
            Some(_) => Self::Down,
        }
    }
}

/// A subscription to the kernel's notices, in the network namespace of the thread that opened it.
pub struct Watch {
    interface: String,
    index: Option<u32>,
    table: u32,
    state: LinkState,
    netlink: Netlink,
    routing: Connection,
    filters: Option<Connection>,
    epoll: OwnedFd,
}

impl Watch {
    /// Watches an interface, which need not exist yet, and the routing table that is its own.
    ///
    /// # Errors
    /// [`NetlinkError`]. Where the kernel has no packet filters that can be watched,
    /// [`Watch::sees_filters`] is false instead.
    pub fn open(interface: &str, table: u32) -> Result<Self, NetlinkError> {
        let during = |source: io::Error| NetlinkError {
            action: "watch links, addresses, routes and rules".into(),
            source,
            detail: None,
        };
        let routing = subscribe(netlink_sys::protocols::NETLINK_ROUTE, &ROUTE_GROUPS).map_err(during)?;
        // libc has the group as c_int; it is a small positive number.
        let filters =
            subscribe(netlink_sys::protocols::NETLINK_NETFILTER, &[libc::NFNLGRP_NFTABLES.cast_unsigned()])
                .ok();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| during(e.into()))?;
        for (token, connection) in [(0, Some(&routing)), (1, filters.as_ref())] {
            if let Some(connection) = connection {
                epoll::add(&epoll, connection.fd(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)
                    .map_err(|error| during(error.into()))?;
            }
        }
        // Subscribed first, looked up after: nothing falls between.
        let mut netlink = Netlink::open()?;
        let link = netlink.link_by_name(interface)?;
        Ok(Self {
            interface: interface.to_owned(),
            index: link.as_ref().map(|link| link.index),
            table,
            state: LinkState::of(link.as_ref()),
            netlink,
            routing,
            filters,
            epoll,
        })
    }

    /// Whether changes of packet filters are reported. If not, look after the guard by the clock.
    #[must_use]
    pub fn sees_filters(&self) -> bool {
        self.filters.is_some()
    }

    /// The state of the interface as of the last [`Watch::read_changes`].
    #[must_use]
    pub fn link_state(&self) -> LinkState {
        self.state
    }

    /// Readable when there are changes.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Takes all notices that wait, without blocking, and looks the interface up anew if one of
    /// them may concern it.
    ///
    /// # Errors
    /// [`NetlinkError`]; the subscription stands all the same.
    pub fn read_changes(&mut self) -> Result<Changes, NetlinkError> {
        let mut changes = Changes::default();
        let (index, table) = (self.index, self.table);
        drain(&mut self.routing, &mut changes, |kind, payload, changes| {
            note(kind, payload, index, table, changes);
        })
        .map_err(Self::failed)?;
        if let Some(filters) = &mut self.filters {
            drain(filters, &mut changes, |_, _, changes| changes.filters = true).map_err(Self::failed)?;
        }
        if changes.links {
            let link = self.netlink.link_by_name(&self.interface)?;
            let index = link.as_ref().map(|link| link.index);
            // An interface of the same name took the place of ours: it has nothing of the plan.
            if index != self.index {
                changes.own_addresses = true;
                changes.own_routes = true;
            }
            self.index = index;
            self.state = LinkState::of(link.as_ref());
        }
        Ok(changes)
    }

    fn failed(source: io::Error) -> NetlinkError {
        NetlinkError { action: "read netlink notices".into(), source, detail: None }
    }
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<Connection> {
    let connection = Connection::open(protocol)?;
    connection.set_non_blocking()?;
    for group in groups {
        connection.add_membership(*group)?;
    }
    Ok(connection)
}

fn drain(
    connection: &mut Connection,
    changes: &mut Changes,
    mut note: impl FnMut(u16, &[u8], &mut Changes),
) -> io::Result<()> {
    loop {
        match connection.receive() {
            Ok(bytes) => {
                for message in messages(bytes) {
                    note(message.kind, message.payload, changes);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // The receive buffer ran over: look at everything.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => *changes = Changes::ALL,
            Err(error) => return Err(error),
        }
    }
}

fn note(kind: u16, payload: &[u8], index: Option<u32>, table: u32, changes: &mut Changes) {
    match decode(kind, payload) {
        Some(RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_)) => {
            changes.links = true;
        }
        Some(RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message)) => {
            if Some(message.header.index) == index {
                changes.own_addresses = true;
            } else {
                changes.other_addresses = true;
            }
        }
        Some(RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message)) => {
            if table_of(&message) == table {
                changes.own_routes = true;
            } else {
                changes.other_routes = true;
            }
        }
        Some(RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_)) => {
            changes.rules = true;
        }
        Some(_) => {}
        // A notice that the parser does not understand may be about anything.
        None => {
            let filters = changes.filters;
            *changes = Changes { filters, ..Changes::ALL };
        }
    }
}

fn table_of(message: &RouteMessage) -> u32 {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(u32::from(message.header.table))
}
