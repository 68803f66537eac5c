//! What `tombolo status --json` prints. The schema is stable and written down in docs/status-schema.md.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the schema; fields are added without a new one, and removed or changed only with it.
pub const SCHEMA: u32 = 1;

/// A span of time as people say it: its greatest unit, and the next where there is something of it.
pub(crate) fn span(seconds: u64) -> String {
    let (great, unit, small, next) = match seconds {
        0..60 => (seconds, "s", 0, ""),
        60..3600 => (seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => (seconds / 3600, "h", seconds % 3600 / 60, "min"),
        86_400..172_800 => (1, "day", seconds % 86_400 / 3600, "h"),
        _ => (seconds / 86_400, "days", seconds % 86_400 / 3600, "h"),
    };
    if small == 0 { format!("{great} {unit}") } else { format!("{great} {unit} {small} {next}") }
}

/// The whole report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the network.
    pub network: String,
    /// Version of the daemon.
    pub version: String,
    /// Process number of the daemon.
    pub pid: u32,
    /// When the daemon became ready; seconds of Unix time.
    pub started_at: u64,
    /// Our side.
    pub interface: InterfaceReport,
    /// Whether overlay packets can leave in clear.
    pub guard: GuardReport,
    /// Offloads in use.
    pub offloads: OffloadReport,
    /// What idle workers did for busy ones.
    #[serde(default)]
    pub assist: AssistReport,
    /// Peers, in the order in which they were added.
    pub peers: Vec<PeerReport>,
    /// Packets dropped since the start, by reason; every reason the program knows.
    pub drops: BTreeMap<String, u64>,
    /// Of a network by membership.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipReport>,
    /// What a person should look at; empty when all is well.
    pub warnings: Vec<String>,
}

/// What idle workers did for busy ones since the start.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct AssistReport {
    /// Super-packets that another worker than the queue's sealed.
    pub sealed: u64,
    /// Reads from a socket that another worker than the socket's opened.
    pub opened: u64,
}

/// How this machine stands in a network by membership.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MembershipReport {
    /// `joining`, `valid`, `grace`, `not yet valid` or `expired`.
    pub state: String,
    /// Which network.
    pub network_id: String,
    /// This machine's node id.
    pub node: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The domain that names are under.
    pub domain: Option<String>,
    /// What it does for others.
    pub roles: Option<String>,
    /// Its groups.
    pub groups: Vec<String>,
    /// Number of the membership; each renewal has a greater one.
    pub serial: Option<u64>,
    /// When the membership ends; seconds of Unix time.
    pub not_after: Option<u64>,
    /// Version of the network document.
    pub network_version: Option<String>,
    /// Age of the network document in seconds.
    pub network_age_seconds: Option<u64>,
    /// Whether that is older than it should be.
    pub stale: bool,
    /// Newer documents that only a newer version of the program takes, and what is not known of them.
    #[serde(default)]
    pub not_understood: Vec<String>,
    /// Epoch of the trust document.
    pub trust_epoch: Option<u64>,
    /// The network's servers.
    pub servers: Vec<ServerReport>,
    /// Subnets behind gateways: those of the network, and those that this machine accepts.
    #[serde(default)]
    pub routes: Vec<RouteReport>,
    /// Where the servers see this machine.
    pub observed: Vec<String>,
    /// Where this machine says that it can be reached.
    pub candidates: Vec<String>,
    /// Control frames that were dropped.
    pub dropped_frames: u64,
}

/// A subnet behind gateways.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteReport {
    /// The subnet.
    pub prefix: String,
    /// Names of the gateways, or their node ids where they are not known here.
    pub gateways: Vec<String>,
    /// Whether this machine sends packets for it through the tunnel, and in no other way.
    pub taken: bool,
    /// Why not; or what keeps it from being of use.
    pub reason: Option<String>,
}

#[cfg(test)]
impl MembershipReport {
    /// Of a member whose server is away: as stale as it is said to be.
    pub(crate) fn sample(stale: bool) -> Self {
        Self {
            state: "valid".to_owned(),
            network_id: "00".repeat(16),
            node: None,
            name: Some("db-1".to_owned()),
            domain: Some("tombolo.internal".to_owned()),
            roles: None,
            groups: Vec::new(),
            serial: Some(3),
            not_after: None,
            network_version: Some("1.5".to_owned()),
            network_age_seconds: Some(if stale { 11_000 } else { 600 }),
            stale,
            not_understood: Vec::new(),
            trust_epoch: Some(1),
            servers: Vec::new(),
            routes: Vec::new(),
            observed: Vec::new(),
            candidates: Vec::new(),
            dropped_frames: 0,
        }
    }
}

/// A server of a network by membership.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerReport {
    /// Its public key.
    pub public_key: String,
    /// What it does.
    pub roles: String,
    /// Where it is found.
    pub endpoints: Vec<String>,
    /// It is this machine.
    pub this_machine: bool,
    /// There is a tunnel with it now.
    pub connected: bool,
}

/// Our side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceReport {
    /// Name of the TUN device.
    pub name: String,
    /// Whether it is there and up.
    pub up: bool,
    /// Own addresses with the overlay's prefix length.
    pub addresses: Vec<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Own public key, base64.
    pub public_key: Option<String>,
    /// UDP port.
    pub listen_port: u16,
    /// Mark of outer packets; 0 for none.
    pub firewall_mark: u32,
    /// Whether interface and addresses outlive the daemon.
    pub persistent: bool,
}

/// The guard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuardReport {
    /// Whether it stands.
    pub installed: bool,
    /// Why it does not.
    pub error: Option<String>,
    /// The prefixes that it protects.
    pub overlay: Vec<String>,
    /// Packets that it dropped.
    pub dropped_packets: Option<u64>,
}

/// Offloads and sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OffloadReport {
    /// TCP super-packets are read from the TUN.
    pub tun_segmentation: bool,
    /// TCP super-packets are written to the TUN.
    pub tun_coalescing: bool,
    /// UDP sends several datagrams by one call.
    pub udp_segmentation: bool,
    /// UDP receives several datagrams by one call.
    pub udp_coalescing: bool,
    /// Each offload of the device and of each socket.
    pub list: Vec<OffloadEntry>,
    /// What each socket had to do without.
    pub sockets: Vec<SocketEntry>,
}

/// One offload of the device or of one socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OffloadEntry {
    /// `tun`, `udp_ipv4` or `udp_ipv6`.
    pub place: String,
    /// Of which pair of data threads the socket is; 0 for the device.
    pub lane: usize,
    /// Its name in `[offload]`.
    pub offload: String,
    /// Whether it is in use.
    pub in_use: bool,
    /// `on`, `switched_off`, `unsupported`, `avoided`, `refused` (at start) or `demoted` (at run time).
    pub state: String,
    /// Why it is not in use; the last error for one that was refused.
    pub reason: Option<String>,
    /// How often the system refused it at run time, or got it wrong, and something had to go without or was lost.
    pub fallbacks: u64,
}

/// One socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketEntry {
    /// `udp_ipv4` or `udp_ipv6`.
    pub place: String,
    /// Of which pair of data threads it is.
    pub lane: usize,
    /// Bytes of receive buffer that the system granted.
    pub receive_buffer_bytes: u64,
    /// Bytes of send buffer that the system granted.
    pub send_buffer_bytes: u64,
    /// How often it had to do without something else, by what it was.
    pub fallbacks: BTreeMap<String, u64>,
}

/// One peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name; null for one that was added with `wg`.
    pub name: Option<String>,
    /// Public key, base64.
    pub public_key: String,
    /// The overlay address at which it answers.
    pub address: Option<String>,
    /// Prefixes that lead to it.
    pub allowed_ips: Vec<String>,
    /// Where it was last heard, or is expected.
    pub endpoint: Option<String>,
    /// What the configuration says of that.
    pub configured_endpoint: Option<String>,
    /// Why the name of the endpoint was not resolved the last time.
    pub resolve_error: Option<String>,
    /// `idle`, `connecting` or `established`.
    pub state: String,
    /// `direct`, or `relayed`, which there is between members only.
    pub path: String,
    /// The relay of a relayed path: its name, or its key where the name is not known.
    pub relay: Option<String>,
    /// Of a relayed path: for how many seconds it has been in use.
    #[serde(default)]
    pub relayed_seconds: Option<f64>,
    /// Why it is no direct one.
    #[serde(default)]
    pub not_direct: Option<String>,
    /// The last handshake; seconds of Unix time.
    pub last_handshake: Option<u64>,
    /// Seconds since the last handshake.
    pub last_handshake_age_seconds: Option<f64>,
    /// Seconds since anything authenticated came from it.
    pub last_received_age_seconds: Option<f64>,
    /// The last round trip that was measured, in seconds.
    pub round_trip_seconds: Option<f64>,
    /// Bytes received, whole messages.
    pub received_bytes: u64,
    /// Bytes sent, whole messages.
    pub sent_bytes: u64,
    /// Largest packet in bytes that is sent to it whole.
    pub mtu_bytes: u16,
    /// How that is known: `confirmed` (the peer answered a probe of this size), `searching`, `unanswered` (it answers
    /// no probes), `route` or `interface` (it is not probed).
    pub mtu_state: String,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive_seconds: u16,
    /// The greatest timestamp received lies ahead of our clock by this many seconds: until then the
    /// peer can only connect from that clock (requirement 11).
    pub timestamp_ahead_seconds: Option<f64>,
}
