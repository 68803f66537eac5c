//! Routes: those of a table, and the one that a packet to a destination would take.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};

use super::connection::{CREATE, DUMP, REPLACE};
use super::{Netlink, NetlinkError, family_of, without_host_bits};

/// Marks routes and rules as this program's for a reader of `ip route`: a number that no routing
/// daemon is known to use (linux/rtnetlink.h, RTPROT_*).
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(86);

/// The kernel's metric of an IPv6 route for which none was asked.
const DEFAULT_METRIC_V6: u32 = 1024;

/// A route of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Packets to this network …
    pub network: IpNet,
    /// … go there …
    pub target: RouteTarget,
    /// … from this address where the sender chose none …
    pub source: Option<IpAddr>,
    /// … unless a route with a smaller metric exists …
    pub metric: u32,
    /// … in this table.
    pub table: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteTarget {
    /// Out of the interface of this number.
    Interface(u32),
    /// Nowhere: the sender gets "host unreachable".
    Unreachable,
    /// Something that this program never sets: a kind of `rtm_type` (linux/rtnetlink.h, `RTN_*`).
    Other(u8),
}

/// How a packet to a destination would leave this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTo {
    /// Number of the interface.
    pub interface: u32,
    /// Source address that the kernel would choose.
    pub source: Option<IpAddr>,
    /// Next hop, if the destination is not a neighbour.
    pub gateway: Option<IpAddr>,
    /// Largest packet in bytes: the route's MTU (learned or configured), or the interface's.
    pub mtu: u32,
    /// Largest packet in bytes that the interface takes, whatever is known of the rest of the path.
    pub interface_mtu: u32,
}

impl Netlink {
    /// The routes of one table, both families.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn routes(&mut self, table: u32) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.attributes.push(RouteAttribute::Table(table));
        let answers = self
            .connection
            .route_request(&RouteNetlinkMessage::GetRoute(message), DUMP)
            .map_err(|refusal| refusal.during("list routes"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => route_of(message),
                _ => None,
            })
            .filter(|route| route.table == table)
            .collect())
    }

    /// Adds a route, or replaces the one with the same network, metric and table.
    ///
    /// # Errors
    /// [`NetlinkError`]: ENETDOWN when the interface is down.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewRoute(message_for(route));
        self.connection.route_request(&request, CREATE | REPLACE).map(|_| ()).map_err(|refusal| {
            refusal.during(format!("add the route to {} in table {}", route.network, route.table))
        })
    }

    /// Removes a route. `false`: there was none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn remove_route(&mut self, route: &Route) -> Result<bool, NetlinkError> {
        let mut message = message_for(route);
        // Whoever added it.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        let request = RouteNetlinkMessage::DelRoute(message);
        match self.connection.route_request(&request, 0) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is(libc::ESRCH) || refusal.is(libc::ENODEV) => Ok(false),
            Err(refusal) => {
                Err(refusal
                    .during(format!("remove the route to {} from table {}", route.network, route.table)))
            }
        }
    }

    /// The route that a packet to `destination`, from `source` where one is given, with this
    /// firewall mark, would take. `None`: there is no route, or it leads nowhere.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn path_to(
        &mut self,
        destination: IpAddr,
        source: Option<IpAddr>,
        mark: u32,
    ) -> Result<Option<PathTo>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(destination);
        message.header.destination_prefix_length = host_length(destination);
        message.attributes.push(RouteAttribute::Destination(destination.into()));
        if let Some(source) = source {
            message.header.source_prefix_length = host_length(source);
            message.attributes.push(RouteAttribute::Source(source.into()));
        }
        if mark != 0 {
            message.attributes.push(RouteAttribute::Mark(mark));
        }
        let answers = match self.connection.route_request(&RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(answers) => answers,
            Err(refusal)
                if [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL]
                    .iter()
                    .any(|errno| refusal.is(*errno)) =>
            {
                return Ok(None);
            }
            Err(refusal) => {
                return Err(refusal.during(format!("look up the route to {destination}")));
            }
        };
        let found = answers.iter().find_map(|answer| match answer {
            // An IPv6 look-up answers with the unreachable route itself rather than with an error.
            RouteNetlinkMessage::NewRoute(message)
                if matches!(
                    message.header.kind,
                    RouteType::Unicast
                        | RouteType::Local
                        | RouteType::Broadcast
                        | RouteType::Multicast
                        | RouteType::Anycast
                ) =>
            {
                Some(message)
            }
            _ => None,
        });
        let Some(message) = found else { return Ok(None) };
        let mut path = PathTo { interface: 0, source: None, gateway: None, mtu: 0, interface_mtu: 0 };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => path.interface = *index,
                RouteAttribute::PrefSource(address) => path.source = plain(address),
                RouteAttribute::Gateway(address) => path.gateway = plain(address),
                RouteAttribute::Metrics(metrics) => {
                    path.mtu = metrics
                        .iter()
                        .find_map(|metric| match metric {
                            RouteMetric::Mtu(mtu) => Some(*mtu),
                            _ => None,
                        })
                        .unwrap_or(0);
                }
                _ => {}
            }
        }
        let device_mtu = self.link_by_index(path.interface)?.map_or(0, |link| link.mtu);
        if path.mtu == 0 || (device_mtu != 0 && device_mtu < path.mtu) {
            path.mtu = device_mtu;
        }
        path.interface_mtu = if device_mtu == 0 { path.mtu } else { device_mtu };
        Ok(Some(path))
    }
}

fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn message_for(route: &Route) -> RouteMessage {
    let network = without_host_bits(route.network);
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(network.addr()),
        destination_prefix_length: network.prefix_len(),
        // Tables above 255 are in the attribute alone.
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: PROTOCOL,
        ..RouteHeader::default()
    };
    message.attributes.push(RouteAttribute::Table(route.table));
    message.attributes.push(RouteAttribute::Priority(route.metric));
    if network.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(network.addr().into()));
    }
    match route.target {
        RouteTarget::Interface(index) => {
            message.header.kind = RouteType::Unicast;
            message.header.scope =
                if network.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
            message.attributes.push(RouteAttribute::Oif(index));
        }
        RouteTarget::Unreachable => message.header.kind = RouteType::Unreachable,
        RouteTarget::Other(kind) => message.header.kind = RouteType::from(kind),
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let mut destination = None;
    let mut interface = None;
    let mut source = None;
    let mut metric = None;
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = plain(address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::PrefSource(address) => source = plain(address),
            RouteAttribute::Priority(value) => metric = Some(*value),
            RouteAttribute::Table(value) => table = *value,
            _ => {}
        }
    }
    let unspecified = match message.header.address_family {
        netlink_packet_route::AddressFamily::Inet => IpAddr::from([0_u8; 4]),
        netlink_packet_route::AddressFamily::Inet6 => IpAddr::from([0_u8; 16]),
        _ => return None,
    };
    let target = match (message.header.kind, interface) {
        (RouteType::Unreachable, _) => RouteTarget::Unreachable,
        (RouteType::Unicast, Some(index)) => RouteTarget::Interface(index),
        (kind, _) => RouteTarget::Other(kind.into()),
    };
    Some(Route {
        network: IpNet::new(destination.unwrap_or(unspecified), message.header.destination_prefix_length)
            .ok()?,
        target,
        source,
        metric: metric.unwrap_or(if unspecified.is_ipv6() { DEFAULT_METRIC_V6 } else { 0 }),
        table,
    })
}
