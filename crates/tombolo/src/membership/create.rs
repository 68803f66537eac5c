//! How a network by membership comes to be on this machine: all of it, or nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv6Net};
use tombolo_control::NetworkId;
use tombolo_tun::netlink::{Netlink, RouteTarget};

use super::{MembershipError, MembershipState};
use crate::atomic_file;
use crate::config::DEFAULT_PORT;
use crate::paths::Directories;

/// The kernel's table of ordinary routes (linux/rtnetlink.h, RT_TABLE_MAIN).
const MAIN_TABLE: u32 = 254;
/// Prefixes that are tried by chance.
const TRIES: usize = 256;

/// How a prefix stands to the routes of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// None of them touches it.
    Free,
    /// A wider route covers it: what lies there beside the overlay stays reachable, but is shadowed.
    Covered(IpNet),
    /// A route of the same prefix, or one within it: one of both would not be reached.
    Taken(IpNet),
}

/// The routes of this machine, but for default routes and those of our own interfaces.
pub fn local_routes() -> Vec<IpNet> {
    let Ok(mut netlink) = Netlink::open() else { return Vec::new() };
    let routes = netlink.routes(MAIN_TABLE).unwrap_or_default();
    let mut networks = BTreeSet::new();
    for route in routes {
        let RouteTarget::Interface(index) = route.target else { continue };
        if route.network.prefix_len() == 0 {
            continue;
        }
        let link = netlink.link_by_index(index).ok().flatten();
        if !link.is_some_and(|link| link.name.starts_with("tombolo")) {
            networks.insert(route.network);
        }
    }
    networks.into_iter().collect()
}

/// What an overlay must not contain: [`local_routes`], and this machine's own addresses, which the guard would cut off.
pub fn taken_ranges() -> Vec<IpNet> {
    let mut ranges = local_routes();
    let Ok(mut netlink) = Netlink::open() else { return ranges };
    for (index, address) in netlink.all_addresses().unwrap_or_default() {
        let link = netlink.link_by_index(index).ok().flatten();
        if !link.is_some_and(|link| link.name.starts_with("tombolo")) {
            ranges.push(address.addr().into());
        }
    }
    ranges
}

/// The ranges of the other networks of this machine, with their names.
pub fn other_networks(directories: &Directories, network: &str) -> Vec<(String, IpNet)> {
    let mut ranges = Vec::new();
    for name in directories.networks().into_iter().filter(|name| name != network) {
        // One that cannot be read is not up either.
        let Ok(config) = crate::config::load_network(directories, &name) else { continue };
        let routed = config.overlay().into_iter().chain(config.accepted().iter().copied());
        ranges.extend(routed.map(|range| (name.clone(), range)));
    }
    ranges
}

/// Whether nobody has a UDP port of this machine now.
pub fn port_is_free(port: u16) -> bool {
    // Whatever else is in the way is told by whoever needs the port.
    !UdpSocket::bind(("0.0.0.0", port)).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// How `prefix` stands to `routes`.
pub fn overlap(prefix: &IpNet, routes: &[IpNet]) -> Overlap {
    if let Some(inner) = routes.iter().find(|route| prefix.contains(*route)) {
        return Overlap::Taken(*inner);
    }
    routes.iter().find(|route| route.contains(prefix)).map_or(Overlap::Free, |outer| Overlap::Covered(*outer))
}

/// A 10.x.0.0/16 that overlaps no route.
pub fn free_prefix(routes: &[IpNet], random: &mut impl rand_core::CryptoRng) -> Option<IpNet> {
    (0..TRIES).find_map(|_| {
        let [_, second, ..] = random.next_u32().to_le_bytes();
        let prefix: IpNet = format!("10.{second}.0.0/16").parse().ok()?;
        (overlap(&prefix, routes) == Overlap::Free).then_some(prefix)
    })
}

/// The network's own /64 of fd00::/8 (RFC 4193): its id, which is derived from its root key, is as good as random.
pub fn local_prefix(network: &NetworkId) -> Option<IpNet> {
    let [a, b, c, d, e, f, g, ..] = *network.as_bytes();
    let octets = [0xfd, a, b, c, d, e, f, g, 0, 0, 0, 0, 0, 0, 0, 0];
    Ipv6Net::new(octets.into(), 64).ok().map(IpNet::V6)
}

/// The first UDP port from 8662 on that no other network of this machine has, and nobody else now.
pub fn free_port(directories: &Directories) -> u16 {
    let taken: Vec<u16> = directories
        .networks()
        .iter()
        .filter_map(|network| crate::config::load(&directories.config_file(network)).ok())
        .map(|config| config.interface.listen_port)
        .collect();
    (DEFAULT_PORT..DEFAULT_PORT + 1000)
        .find(|port| !taken.contains(port) && port_is_free(*port))
        .unwrap_or(DEFAULT_PORT)
}

/// The text of `/etc/tombolo/NETWORK.toml` of a network by membership.
pub fn config_text(listen_port: u16) -> String {
    format!(
        "# A network by membership: key and addresses are in the state directory, peers are the members.\n\
         \n\
         [membership]\n\
         # Subnets behind gateways of the network that this machine takes routes to, and reaches through the tunnel alone.\n\
         # accept_routes = [\"192.168.7.0/24\"]\n\
         # Days after which this machine changes its static key, where that is sooner than the network has it.\n\
         # rotate_key_days = 30\n\
         \n\
         [interface]\n\
         listen_port = {listen_port}\n\
         # The members' names go into a marked block of /etc/hosts where systemd-resolved does not ask for them.\n\
         # hosts = false\n\
         # metrics = \"127.0.0.1:9662\"\n"
    )
}

/// A state directory that is made aside and then put in its place.
pub struct NewState {
    temporary: PathBuf,
    place: PathBuf,
    placed: bool,
}

impl NewState {
    /// Makes it, and clears away what an interrupted attempt left.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(directories: &Directories, network: &str) -> Result<Self, MembershipError> {
        let place = directories.state_directory(network);
        let temporary = directories.state.join(format!(".{network}.new"));
        if temporary.exists() {
            fs::remove_dir_all(&temporary)
                .map_err(|error| MembershipError::Io { path: temporary.clone(), error })?;
        }
        Ok(Self { temporary, place, placed: false })
    }

    /// Where files are written until it is whole.
    pub fn directory(&self) -> &Path {
        &self.temporary
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`MembershipState::open`].
    pub fn open(&self) -> Result<MembershipState, MembershipError> {
        MembershipState::open(&self.temporary)
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// When something is there already.
    pub fn place(mut self) -> Result<(), MembershipError> {
        fs::rename(&self.temporary, &self.place)
            .map_err(|error| MembershipError::Io { path: self.place.clone(), error })?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for NewState {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Writes the configuration: from now on there is a network of that name.
///
/// # Errors
/// When it cannot be written.
pub fn write_config(directories: &Directories, network: &str, port: u16) -> Result<(), MembershipError> {
    let path = directories.config_file(network);
    fs::create_dir_all(&directories.config)
        .and_then(|()| atomic_file::write(&path, config_text(port).as_bytes(), 0o644))
        .map_err(|error| MembershipError::Io { path, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_covering_route_is_no_obstacle_and_an_equal_or_narrower_one_is() {
        let routes = [net("10.0.0.0/8"), net("192.168.1.0/24")];
        assert_eq!(overlap(&net("10.86.0.0/16"), &routes), Overlap::Covered(net("10.0.0.0/8")));
        assert_eq!(overlap(&net("192.168.0.0/16"), &routes), Overlap::Taken(net("192.168.1.0/24")));
        assert_eq!(overlap(&net("192.168.1.0/24"), &routes), Overlap::Taken(net("192.168.1.0/24")));
        assert_eq!(overlap(&net("172.16.0.0/16"), &routes), Overlap::Free);
    }

    #[test]
    fn a_prefix_is_chosen_that_nothing_touches() {
        let mut random = crate::random::generator().unwrap();
        let mut routes: Vec<IpNet> = (0..=255).map(|second| net(&format!("10.{second}.7.0/24"))).collect();
        assert_eq!(free_prefix(&routes, &mut random), None);
        routes.truncate(100);
        let chosen = free_prefix(&routes, &mut random).unwrap();
        assert_eq!(overlap(&chosen, &routes), Overlap::Free);
    }

    #[test]
    fn the_written_configuration_is_read_back() {
        let config = crate::config::parse(&config_text(8663)).unwrap();
        assert_eq!(config.interface.listen_port, 8663);
        assert!(config.membership.is_some() && config.peers.is_empty());
    }
}
