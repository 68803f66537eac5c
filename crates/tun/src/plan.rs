//! What an interface has to look like, and making it so.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::{Link, LinkChange, Netlink, NetlinkError, Route, RouteTarget, Rule};

/// Priority of the rules that send overlay packets to the interface's own table. See the crate's
/// documentation for why this number.
pub const RULE_PRIORITY: u32 = 2662;

/// Length of the transmit queue in packets. The kernel's 500 for a TUN drops bursts of several
/// connections before the daemon can read them.
pub const TRANSMIT_QUEUE_LENGTH: u32 = 2000;

/// Table of `tombolo0`. That of `tombolo1` is one more, and so on.
const FIRST_TABLE: u32 = 8_662_000;
const NUMBERED_TABLES: u32 = 1000;
const NAMED_TABLES: u32 = 1_000_000;

/// A device route wins over the fallback, whichever was added first.
const ROUTE_METRIC: u32 = 100;
const FALLBACK_METRIC: u32 = u32::MAX;

/// The routing table of an interface: 8662000 and its number for `tombolo0` to `tombolo999`, and
/// a number from 8663000 to 9662999 that depends on the name alone for others.
#[must_use]
pub fn table_for(interface: &str) -> u32 {
    let number = interface
        .strip_prefix("tombolo")
        .filter(|digits| !digits.starts_with('+'))
        .and_then(|digits| digits.parse::<u32>().ok())
        // Not for tombolo00, or two names would share a table.
        .filter(|number| *number < NUMBERED_TABLES && interface == format!("tombolo{number}"));
    match number {
        Some(number) => FIRST_TABLE + number,
        None => FIRST_TABLE + NUMBERED_TABLES + fnv1a(interface.as_bytes()) % NAMED_TABLES,
    }
}

/// Fowler, Noll and Vo's hash, variant 1a of 32 bits (RFC 9923): stable for all time.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The largest super-packet in bytes such that all its segments, each sealed for itself, fit one
/// send of at most 65,507 bytes and 64 datagrams. `mtu` is the interface's, in bytes.
#[must_use]
pub fn gso_max_size_for(mtu: u32) -> u32 {
    const LARGEST_DATAGRAM: u32 = 65_507;
    const LARGEST_BATCH: u32 = 64;
    /// Header and tag of a transport message (§5.4.6).
    const SEALING: u32 = 32;
    /// IPv6 and TCP with timestamps: a smaller header means fewer, larger segments.
    const HEADERS: u32 = 72;
    let sealed = mtu.next_multiple_of(16) + SEALING;
    let segments = (LARGEST_DATAGRAM / sealed).clamp(1, LARGEST_BATCH);
    (segments * mtu.saturating_sub(HEADERS) + HEADERS).clamp(mtu, 65_535)
}

/// Addresses, MTU, routes and rules of one overlay interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePlan {
    /// Name of the interface.
    pub interface: String,
    /// Its addresses, with the overlay's prefix length.
    pub addresses: Vec<IpNet>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Networks that are reached through it, and never in any other way.
    pub routed: Vec<IpNet>,
    /// Routing table of its own; [`table_for`] gives it.
    pub table: u32,
    /// Priority of the rules that lead to the table; [`RULE_PRIORITY`].
    pub rule_priority: u32,
    /// Length of the transmit queue in packets; [`TRANSMIT_QUEUE_LENGTH`].
    pub transmit_queue_length: u32,
    /// Largest super-packet in bytes; [`gso_max_size_for`] the MTU. `None` leaves it.
    pub gso_max_size: Option<u32>,
}

/// Something that was not as planned, and has been put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The interface was changed.
    Link(LinkChange),
    /// An address was added.
    AddressAdded(IpNet),
    /// An address that is not planned was removed.
    AddressRemoved(IpNet),
    /// A route was added or replaced.
    RouteAdded(Route),
    /// A route of the table that is not planned was removed.
    RouteRemoved(Route),
    /// A rule was added.
    RuleAdded(Rule),
    /// A rule to the table that is not planned was removed.
    RuleRemoved(Rule),
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(_) => write!(formatter, "interface set"),
            Self::AddressAdded(address) => write!(formatter, "address {address} added"),
            Self::AddressRemoved(address) => write!(formatter, "address {address} removed"),
            Self::RouteAdded(route) => write!(formatter, "route {} added", route.network),
            Self::RouteRemoved(route) => write!(formatter, "route {} removed", route.network),
            Self::RuleAdded(rule) => write!(formatter, "rule for {} added", rule.to),
            Self::RuleRemoved(rule) => write!(formatter, "rule for {} removed", rule.to),
        }
    }
}

/// What [`InterfacePlan::apply`] found and did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Applied {
    /// What was put right, in order. Empty: everything stood as planned.
    pub changes: Vec<Change>,
    /// There is no interface of this name here. Rules and fallback routes stand all the same.
    pub interface_missing: bool,
    /// IPv6 is switched off on the interface or in the kernel, so the plan's IPv6 part is not in
    /// force. Nothing leaks by it: what cannot be sent cannot leave.
    pub ipv6_missing: bool,
}

impl InterfacePlan {
    /// A plan with this crate's defaults for all that is not given.
    #[must_use]
    pub fn new(interface: impl Into<String>, addresses: Vec<IpNet>, mtu: u32, routed: Vec<IpNet>) -> Self {
        let interface = interface.into();
        Self {
            table: table_for(&interface),
            interface,
            addresses,
            mtu,
            routed,
            rule_priority: RULE_PRIORITY,
            transmit_queue_length: TRANSMIT_QUEUE_LENGTH,
            gso_max_size: Some(gso_max_size_for(mtu)),
        }
    }

    /// Makes the machine as planned, and says what was not. What fails closed comes first: rules
    /// and fallback routes stand before the interface is up, and also when there is none.
    ///
    /// Idempotent: a second call changes nothing. To be called at start and whenever
    /// [`Watch`](crate::netlink::Watch) reports a change that concerns the plan.
    ///
    /// # Errors
    /// The first [`NetlinkError`]; what was done until then stays.
    pub fn apply(&self, netlink: &mut Netlink) -> Result<Applied, NetlinkError> {
        let mut applied = Applied::default();
        let present = netlink.routes(self.table)?;
        add_routes(netlink, &present, &self.fallback_routes(), &mut applied)?;
        self.apply_rules(netlink, &mut applied)?;
        let mut wanted = self.fallback_routes();
        match netlink.link_by_name(&self.interface)? {
            None => applied.interface_missing = true,
            Some(link) => {
                self.apply_link(netlink, &link, &mut applied)?;
                self.apply_addresses(netlink, &link, &mut applied)?;
                // Read again: setting the link down and up, and removing an address, takes routes.
                let present = netlink.routes(self.table)?;
                let mut routes = self.interface_routes(link.index);
                if applied.ipv6_missing {
                    routes.retain(|route| route.network.addr().is_ipv4());
                }
                add_routes(netlink, &present, &routes, &mut applied)?;
                wanted.extend(routes);
            }
        }
        for route in netlink.routes(self.table)? {
            if !wanted.contains(&route) && netlink.remove_route(&route)? {
                applied.changes.push(Change::RouteRemoved(route));
            }
        }
        Ok(applied)
    }

    /// Takes rules, routes and addresses away again, and says what. The interface itself stays:
    /// see [`Netlink::delete_link`].
    ///
    /// # Errors
    /// The first [`NetlinkError`]; what was done until then stays.
    pub fn remove(&self, netlink: &mut Netlink) -> Result<Vec<Change>, NetlinkError> {
        let mut changes = Vec::new();
        if let Some(link) = netlink.link_by_name(&self.interface)? {
            for address in &self.addresses {
                if netlink.remove_address(link.index, *address)? {
                    changes.push(Change::AddressRemoved(*address));
                }
            }
        }
        for rule in netlink.rules()?.into_iter().filter(|rule| rule.table == self.table) {
            if netlink.remove_rule(&rule)? {
                changes.push(Change::RuleRemoved(rule));
            }
        }
        for route in netlink.routes(self.table)? {
            if netlink.remove_route(&route)? {
                changes.push(Change::RouteRemoved(route));
            }
        }
        Ok(changes)
    }

    fn apply_rules(&self, netlink: &mut Netlink, applied: &mut Applied) -> Result<(), NetlinkError> {
        let present = netlink.rules()?;
        let wanted: Vec<Rule> = self
            .routed
            .iter()
            .map(|network| Rule { priority: self.rule_priority, to: network.trunc(), table: self.table })
            .collect();
        for rule in wanted.iter().filter(|rule| !present.contains(rule)) {
            if unless_ipv6_is_missing(netlink.add_rule(rule), rule.to.addr(), applied)? {
                applied.changes.push(Change::RuleAdded(*rule));
            }
        }
        let stale = present.into_iter().filter(|rule| rule.table == self.table && !wanted.contains(rule));
        for rule in stale {
            if netlink.remove_rule(&rule)? {
                applied.changes.push(Change::RuleRemoved(rule));
            }
        }
        Ok(())
    }

    fn apply_link(
        &self,
        netlink: &mut Netlink,
        link: &Link,
        applied: &mut Applied,
    ) -> Result<(), NetlinkError> {
        let change = LinkChange {
            up: (!link.up).then_some(true),
            mtu: (link.mtu != self.mtu).then_some(self.mtu),
            transmit_queue_length: (link.transmit_queue_length != self.transmit_queue_length)
                .then_some(self.transmit_queue_length),
            ..LinkChange::default()
        };
        let super_packets = LinkChange {
            gso_max_size: self.gso_max_size.filter(|size| link.gso_max_size != Some(*size)),
            ..LinkChange::default()
        };
        // A kernel that cannot leaves super-packets larger: slower, not wrong.
        if super_packets != LinkChange::default() && netlink.set_link(link.index, &super_packets).is_ok() {
            applied.changes.push(Change::Link(super_packets));
        }
        if change == LinkChange::default() {
            return Ok(());
        }
        if change.up.is_some() {
            // Before it comes up, or the kernel solicits routers into the tunnel. A kernel
            // without IPv6 refuses, and solicits none.
            let quiet = LinkChange { link_local_address: Some(false), ..LinkChange::default() };
            let _ = netlink.set_link(link.index, &quiet);
        }
        netlink.set_link(link.index, &change)?;
        applied.changes.push(Change::Link(change));
        Ok(())
    }

    fn apply_addresses(
        &self,
        netlink: &mut Netlink,
        link: &Link,
        applied: &mut Applied,
    ) -> Result<(), NetlinkError> {
        let present = netlink.addresses(link.index)?;
        for address in self.addresses.iter().filter(|address| !present.contains(address)) {
            let mut added = netlink.add_address(link.index, *address);
            if added.is_err() && address.addr().is_ipv6() && switch_ipv6_on(&link.name) {
                added = netlink.add_address(link.index, *address);
            }
            if unless_ipv6_is_missing(added, address.addr(), applied)? {
                applied.changes.push(Change::AddressAdded(*address));
            }
        }
        let stale = present
            .into_iter()
            .filter(|address| !self.addresses.contains(address) && !is_link_local(address.addr()));
        for address in stale {
            if netlink.remove_address(link.index, address)? {
                applied.changes.push(Change::AddressRemoved(address));
            }
        }
        Ok(())
    }

    fn fallback_routes(&self) -> Vec<Route> {
        self.routed
            .iter()
            .map(|network| Route {
                network: network.trunc(),
                target: RouteTarget::Unreachable,
                source: None,
                metric: FALLBACK_METRIC,
                table: self.table,
            })
            .collect()
    }

    fn interface_routes(&self, index: u32) -> Vec<Route> {
        self.routed
            .iter()
            .map(|network| Route {
                network: network.trunc(),
                target: RouteTarget::Interface(index),
                source: self.source_for(*network),
                metric: ROUTE_METRIC,
                table: self.table,
            })
            .collect()
    }

    /// The first address of the network's family, so that packets to it leave with an address
    /// that the other end accepts.
    fn source_for(&self, network: IpNet) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == network.addr().is_ipv4())
    }
}

fn add_routes(
    netlink: &mut Netlink,
    present: &[Route],
    wanted: &[Route],
    applied: &mut Applied,
) -> Result<(), NetlinkError> {
    for route in wanted.iter().filter(|route| !present.contains(route)) {
        let added = netlink.add_route(route).map(|()| true);
        if unless_ipv6_is_missing(added, route.network.addr(), applied)? {
            applied.changes.push(Change::RouteAdded(*route));
        }
    }
    Ok(())
}

/// Lets a machine without IPv6 (a container, a kernel booted with `ipv6.disable=1`) have the rest.
fn unless_ipv6_is_missing(
    result: Result<bool, NetlinkError>,
    address: IpAddr,
    applied: &mut Applied,
) -> Result<bool, NetlinkError> {
    match result {
        // EACCES is the interface's `disable_ipv6`; a lack of privilege is EPERM.
        Err(error)
            if address.is_ipv6()
                && matches!(
                    error.source.raw_os_error(),
                    Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                ) =>
        {
            applied.ipv6_missing = true;
            Ok(false)
        }
        result => result,
    }
}

/// Containers switch IPv6 off for every new interface; this one is ours. The name was checked when
/// the interface was made, and cannot lead elsewhere.
fn switch_ipv6_on(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    std::fs::write(path, "0").is_ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_apart_from_those_of_other_programs_and_from_each_other() {
        assert_eq!(table_for("tombolo0"), 8_662_000);
        assert_eq!(table_for("tombolo999"), 8_662_999);
        let others = ["tombolo1000", "tombolo00", "tombolo+1", "tombolo", "wg0", "tombolo-x"];
        let mut tables: Vec<u32> = others.iter().map(|name| table_for(name)).collect();
        for table in &tables {
            assert!((8_663_000..9_663_000).contains(table), "{table}");
        }
        tables.sort_unstable();
        tables.dedup();
        assert_eq!(tables.len(), others.len());
    }

    #[test]
    fn a_machine_without_ipv6_has_the_rest_and_says_so() {
        let refused = |errno| {
            Err(NetlinkError {
                action: "add address".into(),
                source: std::io::Error::from_raw_os_error(errno),
                detail: None,
            })
        };
        let (v4, v6) = (IpAddr::from([10, 66, 0, 1]), IpAddr::from([0xfd66, 0, 0, 0, 0, 0, 0, 1]));
        let mut applied = Applied::default();
        assert!(unless_ipv6_is_missing(refused(libc::EACCES), v4, &mut applied).is_err());
        assert!(unless_ipv6_is_missing(refused(libc::EPERM), v6, &mut applied).is_err());
        assert!(unless_ipv6_is_missing(Ok(true), v6, &mut applied).unwrap());
        assert!(!applied.ipv6_missing);
        assert!(!unless_ipv6_is_missing(refused(libc::EACCES), v6, &mut applied).unwrap());
        assert!(applied.ipv6_missing);
    }

    #[test]
    fn a_super_packet_of_tcp_fits_one_send_when_sealed() {
        for mtu in 576..=65_535_u32 {
            let size = gso_max_size_for(mtu);
            assert!((mtu..=65_535).contains(&size), "{mtu}: {size}");
            // TCP over IPv4 and IPv6, with timestamps, as the kernel builds them.
            for headers in [52, 72] {
                let payload = size - headers;
                let segments = payload.div_ceil(mtu - headers);
                let sealed = segments * (mtu.next_multiple_of(16) + 32);
                assert!(segments == 1 || sealed <= 65_507, "{mtu}: {sealed}");
                assert!(segments <= 64, "{mtu}: {segments}");
            }
        }
        assert!(gso_max_size_for(1420) > 59_000);
    }
}
