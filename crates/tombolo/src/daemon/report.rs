//! Building the report that `status`, `wait` and the metrics show.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tombolo_engine::{EngineStatus, OffloadStatus, Path, PathMtuState, PeerState, PeerStatus, SocketReport};
use tombolo_noise::{PublicKey, Standing};
use tombolo_packet::{Offload, OffloadState};

use super::interface::Interface;
use crate::config::{NetworkConfig, OffloadConfig, PeerConfig};
use crate::report::{
    AssistReport, GuardReport, InterfaceReport, MembershipReport, OffloadEntry, OffloadReport, PeerReport,
    SCHEMA, SocketEntry, StatusReport,
};

/// A peer's timestamp that far ahead of our clock is told (requirement 11).
const NOTABLE_LEAD: Duration = Duration::from_secs(60);

/// What the report needs besides the engine's own status.
pub(super) struct Context<'a> {
    pub(super) network: &'a str,
    pub(super) config: &'a NetworkConfig,
    pub(super) started_at: u64,
    pub(super) resolve_errors: &'a HashMap<PublicKey, String>,
    pub(super) warnings: Vec<String>,
    pub(super) membership: Option<MembershipReport>,
    /// For how many seconds a peer has been reached by a relay, and why not directly.
    pub(super) relayed: &'a dyn Fn(&PublicKey) -> Option<(f64, String)>,
}

/// Seconds and more since 1970.
#[expect(clippy::disallowed_methods, reason = "the daemon is a shell: it shows wall time to people")]
pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(super) fn build(context: Context<'_>, status: &EngineStatus, interface: &mut Interface) -> StatusReport {
    let now = unix_now();
    let config = context.config;
    let (installed, error) = interface.guard_state();
    let up = interface.is_up();
    let mut warnings = context.warnings;
    if !installed {
        let reason = error.clone().unwrap_or_else(|| "it was removed".to_owned());
        warnings.push(format!("the guard does not stand: {reason}"));
    }
    if !up {
        warnings.push(format!("the interface {} is not up", interface.plan.interface));
    }
    let name_of = |key: &PublicKey| {
        let known = config.peers.iter().find(|known| known.public_key == *key);
        known.map_or_else(|| key.to_string(), |known| known.name.clone())
    };
    let peers: Vec<PeerReport> = status
        .peers
        .iter()
        .map(|peer| {
            let configured = config.peers.iter().find(|known| known.public_key == peer.public_key);
            let relayed = (context.relayed)(&peer.public_key);
            peer_report(peer, configured, context.resolve_errors.get(&peer.public_key), relayed, name_of, now)
        })
        .collect();
    // Members send nothing from further ahead than others take, and go on behind what they sent last.
    let statics = peers.iter().zip(&status.peers).filter(|(_, engine)| engine.standing == Standing::Static);
    for (peer, _) in statics {
        if let Some(ahead) = peer.timestamp_ahead_seconds {
            let name = peer.name.as_deref().unwrap_or(&peer.public_key);
            warnings.push(format!(
                "peer {name} once connected with its clock {ahead:.0} s ahead of ours; until ours has caught up it \
                 is refused with any earlier clock. If its clock is right now, give it a new key"
            ));
        }
    }
    StatusReport {
        schema: SCHEMA,
        network: context.network.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: context.started_at,
        interface: InterfaceReport {
            name: interface.plan.interface.clone(),
            up,
            addresses: config.interface.addresses.iter().map(ToString::to_string).collect(),
            mtu: interface.plan.mtu,
            public_key: status.public_key.map(|key| key.to_string()),
            listen_port: status.listen_port,
            firewall_mark: status.firewall_mark,
            persistent: config.interface.persistent,
        },
        guard: GuardReport {
            installed,
            error,
            overlay: config.overlay().iter().chain(config.accepted()).map(ToString::to_string).collect(),
            dropped_packets: interface.guard_drops(),
        },
        offloads: offload_report(&status.offloads, &config.offload),
        assist: AssistReport { sealed: status.assist.sealed, opened: status.assist.opened },
        peers,
        drops: status.drops.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect(),
        membership: context.membership,
        warnings,
    }
}

fn offload_report(status: &OffloadStatus, config: &OffloadConfig) -> OffloadReport {
    let entry = |report: &tombolo_engine::OffloadReport| OffloadEntry {
        place: report.place.name().to_owned(),
        lane: report.lane,
        offload: report.offload.name().to_owned(),
        in_use: report.state.is_on(),
        state: report.state.name().to_owned(),
        reason: match report.state {
            OffloadState::On => None,
            OffloadState::SwitchedOff => Some(config.reason(report.offload)),
            state => Some(state.to_string()),
        },
        fallbacks: report.fallbacks,
    };
    OffloadReport {
        tun_segmentation: status.is_on(Offload::Tso),
        tun_coalescing: status.is_on(Offload::CoalesceTcp),
        udp_segmentation: status.is_on(Offload::Gso),
        udp_coalescing: status.is_on(Offload::Gro),
        list: status.offloads.iter().map(entry).collect(),
        sockets: status.sockets.iter().map(socket_entry).collect(),
    }
}

fn socket_entry(socket: &SocketReport) -> SocketEntry {
    let counters = socket.counters;
    let fallbacks = [
        ("stale_sources", counters.stale_sources),
        ("send_waits", counters.send_waits),
        ("send_buffer_full", counters.send_buffer_full),
        ("send_errors", counters.send_errors),
        ("truncated", counters.truncated),
    ];
    SocketEntry {
        place: socket.place.name().to_owned(),
        lane: socket.lane,
        receive_buffer_bytes: socket.capabilities.receive_buffer as u64,
        send_buffer_bytes: socket.capabilities.send_buffer as u64,
        fallbacks: fallbacks.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
    }
}

/// The relay by which a peer is reached: its name, or its key where that is not known.
pub(super) fn relay(peer: &PeerStatus, names: &HashMap<PublicKey, String>) -> Option<String> {
    match peer.path {
        Some(Path::Relayed { relay, .. }) => {
            Some(names.get(&relay).cloned().unwrap_or_else(|| relay.to_string()))
        }
        _ => None,
    }
}

/// What is known of a peer that does not answer.
pub(super) fn silence(peer: &PeerStatus, relay: Option<&str>) -> String {
    let way = match (relay, peer.endpoint) {
        (Some(relay), _) => format!("relayed by {relay}"),
        (None, Some(endpoint)) => format!("directly at {endpoint}"),
        (None, None) => "no way to it is known".to_owned(),
    };
    let state = match peer.state {
        PeerState::Connecting => ", its handshake is not answered",
        _ => "",
    };
    let heard = match peer.last_received_age {
        Some(age) => format!("last heard {} s ago", age.as_secs()),
        None => "never heard since the start".to_owned(),
    };
    format!("{way}{state}; {heard}")
}

fn mtu_state(state: PathMtuState) -> &'static str {
    match state {
        PathMtuState::Interface => "interface",
        PathMtuState::Route => "route",
        PathMtuState::Confirmed => "confirmed",
        PathMtuState::Unanswered => "unanswered",
        _ => "searching",
    }
}

fn peer_report(
    peer: &PeerStatus,
    configured: Option<&PeerConfig>,
    resolve_error: Option<&String>,
    relayed: Option<(f64, String)>,
    name_of: impl Fn(&PublicKey) -> String,
    now: Duration,
) -> PeerReport {
    let handshake = peer.last_handshake.map(|time| time.0);
    let ahead = peer.last_received_timestamp.map(|timestamp| timestamp.to_unix().0.saturating_sub(now));
    let state = match peer.state {
        PeerState::Established => "established",
        PeerState::Connecting => "connecting",
        _ => "idle",
    };
    PeerReport {
        name: configured.map(|known| known.name.clone()),
        public_key: peer.public_key.to_string(),
        address: configured.and_then(NetworkConfig::peer_address).map(|address| address.to_string()),
        allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
        configured_endpoint: configured.and_then(|known| known.endpoint.as_ref()).map(ToString::to_string),
        resolve_error: resolve_error.cloned(),
        state: state.to_owned(),
        path: match peer.path {
            Some(Path::Relayed { .. }) => "relayed",
            _ => "direct",
        }
        .to_owned(),
        relay: match peer.path {
            Some(Path::Relayed { relay, .. }) => Some(name_of(&relay)),
            _ => None,
        },
        relayed_seconds: relayed.as_ref().map(|(seconds, _)| *seconds),
        not_direct: relayed.map(|(_, why)| why),
        last_handshake: handshake.map(|time| time.as_secs()),
        last_handshake_age_seconds: handshake.map(|time| now.saturating_sub(time).as_secs_f64()),
        last_received_age_seconds: peer.last_received_age.map(|age| age.as_secs_f64()),
        round_trip_seconds: peer.round_trip.map(|time| time.as_secs_f64()),
        received_bytes: peer.received_bytes,
        sent_bytes: peer.sent_bytes,
        mtu_bytes: peer.mtu,
        mtu_state: mtu_state(peer.mtu_state).to_owned(),
        persistent_keepalive_seconds: peer.persistent_keepalive.unwrap_or(0),
        timestamp_ahead_seconds: ahead.filter(|ahead| *ahead > NOTABLE_LEAD).map(|ahead| ahead.as_secs_f64()),
    }
}
