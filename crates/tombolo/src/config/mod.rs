//! `/etc/tombolo/NETWORK.toml`: the interface and the peers of a network in static mode.
//!
//! [`parse`] is a pure function of the text; [`load`] also reads the key files that it names. Both
//! report every problem at once, each with line, column and the mend.

mod load;
mod offload;
mod parse;
mod problem;
mod rate;
mod section;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::{PresharedKey, PrivateKey, PublicKey};

use crate::threads::ThreadConfig;

pub use load::{check_private_mode, load, load_network, load_without_secrets};
pub use offload::{OffloadConfig, Origin, Switch, variable};
pub use parse::{parse, parse_endpoint, valid_interface_name, valid_name};
pub use problem::{ConfigError, Problem};
pub use rate::parse_rate;

/// The first UDP port of Tombolo.
pub const DEFAULT_PORT: u16 = 8662;

/// Time between two attempts to find a larger packet size.
pub const DEFAULT_PATH_MTU_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes that the outer headers add at most: IPv6 40, UDP 8, WireGuard 32.
pub const OVERHEAD: u32 = 80;

/// Everything that one file says.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    /// Our side.
    pub interface: InterfaceConfig,
    /// Which offloads may be used.
    pub offload: OffloadConfig,
    /// The other sides, in the order of the file.
    pub peers: Vec<PeerConfig>,
    /// The network is one by membership: key and addresses are in the state directory, peers come and go.
    pub membership: Option<MembershipConfig>,
}

/// `[membership]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipConfig {
    /// Subnets behind gateways of the network that this machine takes routes to: as the file has them, or, after
    /// [`settle`](crate::membership::routes::settle), those that can be had.
    pub accept_routes: Vec<IpNet>,
    /// Of a server: whether nodes join and renew here.
    pub authority: bool,
    /// Of a server: whether nodes find each other here.
    pub lighthouse: bool,
    /// Of a server: whether nodes that do not reach each other send through here.
    pub relay: bool,
    /// How old the static key gets, a tenth more or less, where that is sooner than the network has it.
    pub rotate_key: Option<Duration>,
    /// How many whom nobody knows yet may be heard at the same time from one IPv4 address or IPv6 /64 (control rule 8). `None`: as many
    /// as [`tombolo_noise::MembershipOptions`] has.
    pub joins_per_address: Option<usize>,
    /// The state is used on the machine where it was made only. `None`: unless this is a container.
    pub bind_machine: Option<bool>,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            accept_routes: Vec::new(),
            authority: true,
            lighthouse: true,
            relay: true,
            rotate_key: None,
            joins_per_address: None,
            bind_machine: None,
        }
    }
}

/// Where a secret stands.
#[derive(Clone, Debug, PartialEq)]
pub enum SecretSource<K> {
    /// In the configuration itself, or read from its file.
    Inline(K),
    /// In a file of its own, relative to the folder of the configuration; the text range names it in errors.
    File {
        /// As the user wrote it.
        path: PathBuf,
        /// Where in the configuration, as a byte offset.
        offset: usize,
    },
    /// In the state directory, with the membership.
    State,
}

/// `[interface]`.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceConfig {
    /// Name of the TUN device. `None`: the first free of tombolo0, tombolo1, …
    pub name: Option<String>,
    /// Own addresses; their prefixes are the overlay.
    pub addresses: Vec<IpNet>,
    /// The static key. After [`load`] always `Inline`.
    pub private_key: SecretSource<PrivateKey>,
    /// UDP port; 0 lets the system choose.
    pub listen_port: u16,
    /// MTU in bytes of an inner packet. `None`: that of the largest route to an endpoint, less [`OVERHEAD`].
    pub mtu: Option<u32>,
    /// Whether the paths to peers are searched for the largest packet that they carry.
    pub path_mtu_discovery: bool,
    /// Time between two attempts to find a larger packet size.
    pub path_mtu_interval: Duration,
    /// Whether TCP connections through the overlay are told what the path carries.
    pub clamp_mss: bool,
    /// Mark on the outer packets; 0 for none.
    pub fwmark: u32,
    /// The interface and its addresses outlive the daemon.
    pub persistent: bool,
    /// Write the peers' names into a marked block of /etc/hosts. `None`: in a network by membership, unless systemd-resolved
    /// asks us for them.
    pub hosts: Option<bool>,
    /// Where metrics are served: loopback or an own overlay address.
    pub metrics: Option<SocketAddr>,
    /// Whose members may look through the control socket, beside root: a name of /etc/group, or a number.
    pub control_group: Option<String>,
    /// Of a gateway: subnets behind this machine whose packets it forwards from and to the overlay.
    pub gateway_subnets: Vec<IpNet>,
    /// How far a peer's clock may be ahead of ours; `None`: any distance (requirement 11).
    pub max_clock_ahead: Option<Duration>,
    /// The threads that carry packets. After [`load`] what the environment says comes first.
    pub threads: ThreadConfig,
    /// Copy the DSCP of inner packets to the outer header.
    pub copy_dscp: bool,
}

/// The host of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointHost {
    /// A literal address.
    Address(IpAddr),
    /// A name for the resolver.
    Name(String),
}

/// Where a peer is configured to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointName {
    /// Address or name.
    pub host: EndpointHost,
    /// UDP port, not 0.
    pub port: u16,
}

impl std::fmt::Display for EndpointName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            EndpointHost::Address(address) => SocketAddr::new(*address, self.port).fmt(formatter),
            EndpointHost::Name(name) => write!(formatter, "{name}:{}", self.port),
        }
    }
}

/// `[[peer]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerConfig {
    /// What people call it: letters, digits and hyphens; unique.
    pub name: String,
    /// Its static public key; unique.
    pub public_key: PublicKey,
    /// A further symmetric key. After [`load`] never `File`.
    pub preshared_key: Option<SecretSource<PresharedKey>>,
    /// What may come from it, and goes to it. No two peers have the same prefix.
    pub allowed_ips: Vec<IpNet>,
    /// Where to send before the peer was heard of.
    pub endpoint: Option<EndpointName>,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive: u16,
    /// Another Tombolo, and no other implementation of WireGuard: control frames are exchanged with it.
    pub tombolo: bool,
    /// How fast to send to it at most, in bits per second; 0: as fast as can be.
    pub rate_limit: u64,
}

impl<K> SecretSource<K> {
    /// The key, once it was read.
    pub fn key(&self) -> Option<&K> {
        match self {
            Self::Inline(key) => Some(key),
            Self::File { .. } | Self::State => None,
        }
    }
}

impl NetworkConfig {
    /// The prefixes that the guard protects: those of our own addresses, and every allowed prefix that
    /// an own address lies in (a spoke with a /32 address reaches the overlay through its hub).
    pub fn overlay(&self) -> Vec<IpNet> {
        let mut overlay: Vec<IpNet> = self.interface.addresses.iter().map(IpNet::trunc).collect();
        for network in self.peers.iter().flat_map(|peer| &peer.allowed_ips) {
            if self.interface.addresses.iter().any(|own| network.contains(&own.addr())) {
                overlay.push(*network);
            }
        }
        IpNet::aggregate(&overlay)
    }

    /// Of a network by membership: the subnets behind gateways that are reached through the interface, and never in any other
    /// way, whether there is a gateway for them or not.
    pub fn accepted(&self) -> &[IpNet] {
        self.membership.as_ref().map_or(&[], |membership| &membership.accept_routes)
    }

    /// The prefixes that are routed into the interface: the overlay, and what lies behind others. Of members that is what this
    /// machine accepts, whoever they are; of configured peers what they route.
    pub fn routes(&self) -> Vec<IpNet> {
        let mut routes = self.overlay();
        if self.membership.is_some() {
            routes.extend(self.accepted());
            return routes;
        }
        for network in self.peers.iter().flat_map(|peer| &peer.allowed_ips) {
            if !routes.iter().any(|covering| covering.contains(network)) {
                routes.push(*network);
            }
        }
        routes
    }

    /// The address at which a peer itself is reached: the first single address among its allowed ones.
    pub fn peer_address(peer: &PeerConfig) -> Option<IpAddr> {
        let single = peer.allowed_ips.iter().find(|network| network.prefix_len() == network.max_prefix_len());
        single.map(IpNet::addr)
    }

    /// Our address of the same family as `destination`.
    pub fn own_address_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let mut same = self.interface.addresses.iter().map(IpNet::addr);
        same.find(|own| own.is_ipv4() == destination.is_ipv4())
    }

    /// The peer of a name.
    pub fn peer(&self, name: &str) -> Option<&PeerConfig> {
        self.peers.iter().find(|peer| peer.name == name)
    }
}
