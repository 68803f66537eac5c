//! From text to [`NetworkConfig`], without reading any other file.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::{KeyError, PresharedKey, PrivateKey, PublicKey};
use tombolo_packet::Offload;
use toml::de::DeTable;

use super::problem::{Problem, Problems};
use super::rate::parse_rate;
use super::section::{At, Section};
use super::{
    DEFAULT_PATH_MTU_INTERVAL, DEFAULT_PORT, EndpointHost, EndpointName, InterfaceConfig, MembershipConfig,
    NetworkConfig, OVERHEAD, OffloadConfig, Origin, PeerConfig, SecretSource,
};
use crate::threads::{ThreadConfig, parse_assist, parse_busy_poll, parse_workers};

const INTERFACE_KEYS: &[&str] = &[
    "name",
    "address",
    "private_key",
    "private_key_file",
    "listen_port",
    "mtu",
    "path_mtu_discovery",
    "path_mtu_interval",
    "clamp_mss",
    "fwmark",
    "persistent",
    "hosts",
    "metrics",
    "gateway_subnets",
    "max_clock_ahead",
    "workers",
    "busy_poll",
    "assist",
    "copy_dscp",
];
const PEER_KEYS: &[&str] = &[
    "name",
    "public_key",
    "preshared_key",
    "preshared_key_file",
    "allowed_ips",
    "endpoint",
    "persistent_keepalive",
    "tombolo",
    "rate_limit",
];
const OFFLOAD_KEYS: [&str; Offload::ALL.len()] = {
    let mut keys = [""; Offload::ALL.len()];
    let mut index = 0;
    while index < keys.len() {
        keys[index] = Offload::ALL[index].name();
        index += 1;
    }
    keys
};
const TOP_KEYS: &[&str] = &["interface", "peer", "offload", "membership"];
const MEMBERSHIP_KEYS: &[&str] = &[
    "accept_routes",
    "authority",
    "bind_machine",
    "joins_per_address",
    "lighthouse",
    "relay",
    "rotate_key_days",
];
/// What a membership gives, and the file must not.
const GIVEN_KEYS: &[&str] = &["address", "private_key", "private_key_file"];

/// Reads a configuration. Key files are named in the result but not opened.
///
/// # Errors
/// Every problem of the text, in its order.
pub fn parse(text: &str) -> Result<NetworkConfig, Vec<Problem>> {
    let mut problems = Problems::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            problems.at(error.span().unwrap_or(0..0), error.message().to_owned());
        }
        return Err(problems.into_sorted());
    }
    let top = Section::new("the file", root.get_ref(), root.span(), TOP_KEYS, &mut problems);
    let membership = top.table("membership", &mut problems);
    let interface = match top.table("interface", &mut problems) {
        Some((table, span)) => interface(table, span, membership.is_some(), &mut problems),
        None => {
            problems.whole("there is no [interface] section");
            None
        }
    };
    let mut offload = OffloadConfig::default();
    if let Some((table, span)) = top.table("offload", &mut problems) {
        let section = Section::new("[offload]", table, span, &OFFLOAD_KEYS, &mut problems);
        for &switch in Offload::ALL {
            if section.get(switch.name()).is_some() {
                offload.set(switch, section.boolean(switch.name(), true, &mut problems), Origin::File);
            }
        }
    }
    let mut claims = Claims::default();
    if let Some((_, addresses)) = &interface {
        for address in addresses {
            claims.own.push(address.value.addr());
        }
    }
    let tables = top.tables("peer", &mut problems);
    let peers: Vec<PeerConfig> = tables
        .into_iter()
        .filter_map(|(table, span)| peer(table, span, &mut claims, &mut problems))
        .collect();
    claims.check_endpoints(&mut problems);
    let membership = membership.map(|(table, span)| self::membership(table, span, &mut problems));
    if membership.is_some() && !peers.is_empty() {
        problems.whole("[[peer]] and [membership] exclude each other: the peers of a network by membership are its members");
    }
    match interface {
        Some((interface, _)) if problems.is_empty() => {
            Ok(NetworkConfig { interface, offload, peers, membership })
        }
        _ => Err(problems.into_sorted()),
    }
}

fn membership(table: &DeTable<'_>, span: Range<usize>, problems: &mut Problems<'_>) -> MembershipConfig {
    let section = Section::new("[membership]", table, span, MEMBERSHIP_KEYS, problems);
    let mut accept_routes = Vec::new();
    for text in section.strings("accept_routes", problems).unwrap_or_default() {
        match text.value.parse::<IpNet>() {
            Ok(route) => accept_routes.push(route.trunc()),
            Err(_) => problems
                .at(text.span, format!("`{}` is not a subnet, such as \"192.168.7.0/24\"", text.value)),
        }
    }
    let days = section.integer("rotate_key_days", 1..=3650, " days", problems);
    let joins = section.integer("joins_per_address", 1..=256, " machines", problems);
    MembershipConfig {
        accept_routes,
        authority: section.boolean("authority", true, problems),
        lighthouse: section.boolean("lighthouse", true, problems),
        relay: section.boolean("relay", true, problems),
        rotate_key: days.map(|days| Duration::from_secs(days.value * 86_400)),
        joins_per_address: joins.and_then(|joins| usize::try_from(joins.value).ok()),
        bind_machine: section.has("bind_machine").then(|| section.boolean("bind_machine", true, problems)),
    }
}

fn interface(
    table: &DeTable<'_>,
    span: Range<usize>,
    by_membership: bool,
    problems: &mut Problems<'_>,
) -> Option<(InterfaceConfig, Vec<At<IpNet>>)> {
    let section = Section::new("[interface]", table, span, INTERFACE_KEYS, problems);
    let name = section.string("name", problems).map(|name| {
        if !valid_interface_name(name.value) {
            problems.at(
                name.span.clone(),
                format!(
                    "`{}` cannot be the name of an interface: 1 to 15 letters, digits, - or _",
                    name.value
                ),
            );
        }
        name.value.to_owned()
    });
    let addresses = if by_membership { Vec::new() } else { own_addresses(&section, problems) };
    let private_key = if by_membership {
        for given in GIVEN_KEYS {
            if let Some(value) = section.get(given) {
                problems.at(value.span(), format!("`{given}` is not for the file: the membership gives it"));
            }
        }
        Some(SecretSource::State)
    } else {
        secret("private_key", "private_key_file", PrivateKey::parse_base64, &section, problems)
    };
    if private_key.is_none() && table_lacks(table, &["private_key", "private_key_file"]) {
        problems.at(
            section.span.clone(),
            "[interface] needs `private_key_file`; make one with `umask 077; tombolo genkey > FILE`",
        );
    }
    let listen_port = section.integer("listen_port", 0..=65535, "", problems);
    let least_mtu = if addresses.iter().any(|address| address.value.addr().is_ipv6()) { 1280 } else { 576 };
    let reason = if least_mtu == 1280 {
        " (IPv6 needs 1280; a datagram holds 65535 less 80 for the tunnel)"
    } else {
        " (IPv4 needs 576; a datagram holds 65535 less 80 for the tunnel)"
    };
    let mtu = section.integer("mtu", least_mtu..=u64::from(65535 - OVERHEAD), reason, problems);
    let path_mtu_interval = section.integer("path_mtu_interval", 1..=86_400, " seconds", problems);
    let fwmark = section.integer("fwmark", 0..=u64::from(u32::MAX), "", problems);
    let gateway_subnets = gateway_subnets(&section, &addresses, problems);
    let max_clock_ahead = section.integer("max_clock_ahead", 1..=315_360_000, " seconds", problems);
    let metrics = section.string("metrics", problems).and_then(|text| metrics(&text, &addresses, problems));
    let config = InterfaceConfig {
        name,
        addresses: addresses.iter().map(|address| address.value).collect(),
        private_key: private_key?,
        listen_port: listen_port.map_or(DEFAULT_PORT, |port| port.value as u16),
        mtu: mtu.map(|mtu| mtu.value as u32),
        path_mtu_discovery: section.boolean("path_mtu_discovery", true, problems),
        path_mtu_interval: path_mtu_interval
            .map_or(DEFAULT_PATH_MTU_INTERVAL, |seconds| Duration::from_secs(seconds.value)),
        clamp_mss: section.boolean("clamp_mss", true, problems),
        fwmark: fwmark.map_or(0, |mark| mark.value as u32),
        persistent: section.boolean("persistent", true, problems),
        hosts: section.has("hosts").then(|| section.boolean("hosts", false, problems)),
        metrics,
        gateway_subnets,
        max_clock_ahead: max_clock_ahead.map(|seconds| Duration::from_secs(seconds.value)),
        threads: threads(&section, problems),
        copy_dscp: section.boolean("copy_dscp", false, problems),
    };
    Some((config, addresses))
}

fn threads(section: &Section<'_, '_>, problems: &mut Problems<'_>) -> ThreadConfig {
    let mut read = |key: &str| section.string_or_integer(key, problems);
    let (workers, busy_poll, assist) = (read("workers"), read("busy_poll"), read("assist"));
    let mut config = ThreadConfig::default();
    if let Some(text) = workers {
        match parse_workers(&text.value) {
            Ok(workers) => config.workers = workers,
            Err(error) => problems.at(text.span, format!("`workers` in [interface] {error}")),
        }
    }
    if let Some(text) = busy_poll {
        match parse_busy_poll(&text.value) {
            Ok(time) => config.busy_poll = time,
            Err(error) => problems.at(text.span, format!("`busy_poll` in [interface] {error}")),
        }
    }
    if let Some(text) = assist {
        match parse_assist(&text.value) {
            Ok(assist) => config.assist = assist,
            Err(error) => problems.at(text.span, format!("`assist` in [interface] {error}")),
        }
    }
    config
}

fn table_lacks(table: &DeTable<'_>, keys: &[&str]) -> bool {
    !table.keys().any(|key| keys.iter().any(|wanted| key.get_ref() == wanted))
}

fn own_addresses(section: &Section<'_, '_>, problems: &mut Problems<'_>) -> Vec<At<IpNet>> {
    let Some(texts) = section.strings("address", problems) else {
        problems.at(section.span.clone(), "[interface] needs `address`, such as \"10.66.0.1/16\"");
        return Vec::new();
    };
    if texts.is_empty() {
        problems.at(section.span.clone(), "`address` in [interface] is empty");
    }
    let mut addresses: Vec<At<IpNet>> = Vec::new();
    for text in texts {
        let Ok(network) = text.value.parse::<IpNet>() else {
            let hint = match text.value.parse::<IpAddr>() {
                Ok(address) => format!(
                    "`{address}` needs the length of the overlay's prefix, such as \"{address}/{}\"",
                    if address.is_ipv4() { 16 } else { 64 }
                ),
                Err(_) => format!(
                    "`{}` is not an address with a prefix length, such as \"10.66.0.1/16\"",
                    text.value
                ),
            };
            problems.at(text.span, hint);
            continue;
        };
        let address = network.addr();
        if network.prefix_len() == 0 {
            problems.at(
                text.span,
                format!("the overlay of `{network}` would be the whole internet; {DEFAULT_ROUTE_HINT}"),
            );
        } else if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            problems.at(text.span, format!("`{address}` cannot be the address of a machine"));
        } else if network.trunc().addr() == address && network.prefix_len() + 1 < network.max_prefix_len() {
            problems.at(
                text.span,
                format!("`{network}` is the network itself; give this machine an address in it"),
            );
        } else if addresses.iter().any(|other| other.value.addr() == address) {
            problems.at(text.span, format!("`{address}` is given twice"));
        } else {
            addresses.push(At { value: network, span: text.span });
        }
    }
    addresses
}

const DEFAULT_ROUTE_HINT: &str =
    "a default route is the work of `wg-quick` with `tombolo-wireguard`, not of a guarded network";

fn gateway_subnets(section: &Section<'_, '_>, own: &[At<IpNet>], problems: &mut Problems<'_>) -> Vec<IpNet> {
    let mut subnets = Vec::new();
    for text in section.strings("gateway_subnets", problems).unwrap_or_default() {
        match text.value.parse::<IpNet>() {
            Ok(subnet) if own.iter().any(|own| overlap(&own.value.trunc(), &subnet)) => problems.at(
                text.span,
                format!("`{}` overlaps the overlay, which the guard protects; name the subnet behind this machine", text.value),
            ),
            Ok(subnet) => subnets.push(subnet.trunc()),
            Err(_) => problems.at(
                text.span,
                format!("`{}` is not a subnet, such as \"192.168.7.0/24\"", text.value),
            ),
        }
    }
    subnets
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

fn metrics(text: &At<&str>, own: &[At<IpNet>], problems: &mut Problems<'_>) -> Option<SocketAddr> {
    let Ok(address) = text.value.parse::<SocketAddr>() else {
        problems.at(
            text.span.clone(),
            format!("`{}` is not an address and port, such as \"127.0.0.1:9662\"", text.value),
        );
        return None;
    };
    let ours = own.iter().any(|network| network.value.addr() == address.ip());
    if !address.ip().is_loopback() && !ours {
        problems.at(
            text.span.clone(),
            format!(
                "metrics are served on loopback or on an own overlay address only, not on {}",
                address.ip()
            ),
        );
        return None;
    }
    Some(address)
}

fn secret<K>(
    inline: &str,
    file: &str,
    parse: fn(&str) -> Result<K, KeyError>,
    section: &Section<'_, '_>,
    problems: &mut Problems<'_>,
) -> Option<SecretSource<K>> {
    let text = section.string(inline, problems);
    let path = section.string(file, problems);
    if let (Some(_), Some(path)) = (&text, &path) {
        problems.at(path.span.clone(), format!("`{file}` and `{inline}` exclude each other"));
        return None;
    }
    if let Some(text) = text {
        return match parse(text.value) {
            Ok(key) => Some(SecretSource::Inline(key)),
            Err(error) => {
                problems.at(text.span, format!("`{inline}`: {error}"));
                None
            }
        };
    }
    let path = path?;
    if path.value.is_empty() {
        problems.at(path.span, format!("`{file}` is empty"));
        return None;
    }
    Some(SecretSource::File { path: PathBuf::from(path.value), offset: path.span.start })
}

/// What earlier peers have claimed, so that a later one that claims it too is told of both.
#[derive(Default)]
struct Claims {
    own: Vec<IpAddr>,
    names: HashMap<String, ()>,
    keys: HashMap<PublicKey, String>,
    networks: HashMap<IpNet, String>,
    endpoints: Vec<(String, At<IpAddr>)>,
}

impl Claims {
    /// An endpoint that itself lies behind the tunnel would send the tunnel through itself.
    fn check_endpoints(&self, problems: &mut Problems<'_>) {
        for (peer, endpoint) in &self.endpoints {
            let inside = self.networks.iter().filter(|(network, _)| network.contains(&endpoint.value));
            if let Some((network, owner)) = inside.max_by_key(|(network, _)| network.prefix_len()) {
                problems.at(
                    endpoint.span.clone(),
                    format!(
                        "the endpoint of peer `{peer}` lies in {network}, which is routed to peer `{owner}`: the tunnel would run through itself"
                    ),
                );
            }
        }
    }
}

fn peer(
    table: &DeTable<'_>,
    span: Range<usize>,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Option<PeerConfig> {
    let section = Section::new("[[peer]]", table, span, PEER_KEYS, problems);
    let name = peer_name(&section, claims, problems);
    let label = name.clone().unwrap_or_else(|| "?".to_owned());
    let public_key = match section.string("public_key", problems) {
        None => {
            if table_lacks(table, &["public_key"]) {
                problems.at(section.span.clone(), format!("peer `{label}` needs `public_key`"));
            }
            None
        }
        Some(text) => match text.value.parse::<PublicKey>() {
            Err(error) => {
                problems.at(text.span, format!("`public_key` of peer `{label}`: {error}"));
                None
            }
            Ok(key) => {
                if let Some(other) = claims.keys.insert(key, label.clone()) {
                    problems.at(text.span, format!("peers `{other}` and `{label}` have the same public key"));
                }
                Some(key)
            }
        },
    };
    let preshared_key =
        secret("preshared_key", "preshared_key_file", PresharedKey::parse_base64, &section, problems);
    let allowed_ips = allowed_ips(&section, &label, claims, problems);
    let endpoint = section.string("endpoint", problems).and_then(|text| match parse_endpoint(text.value) {
        Ok(endpoint) => {
            if let EndpointHost::Address(address) = endpoint.host {
                claims.endpoints.push((label.clone(), At { value: address, span: text.span }));
            }
            Some(endpoint)
        }
        Err(reason) => {
            problems.at(text.span, format!("`endpoint` of peer `{label}`: {reason}"));
            None
        }
    });
    let keepalive = section.integer("persistent_keepalive", 0..=65535, " seconds (0 is off)", problems);
    let rate_limit = section.string("rate_limit", problems).and_then(|text| {
        parse_rate(text.value)
            .map_err(|reason| problems.at(text.span, format!("`rate_limit` of peer `{label}`: {reason}")))
            .ok()
    });
    Some(PeerConfig {
        name: name?,
        public_key: public_key?,
        preshared_key,
        allowed_ips,
        endpoint,
        persistent_keepalive: keepalive.map_or(0, |seconds| seconds.value as u16),
        tombolo: section.boolean("tombolo", true, problems),
        rate_limit: rate_limit.unwrap_or(0),
    })
}

fn peer_name(section: &Section<'_, '_>, claims: &mut Claims, problems: &mut Problems<'_>) -> Option<String> {
    let Some(name) = section.string("name", problems) else {
        problems.at(section.span.clone(), "each [[peer]] needs a `name`");
        return None;
    };
    if !valid_name(name.value) {
        problems.at(
            name.span,
            format!("`{}` cannot be the name of a peer: 1 to 63 letters, digits and hyphens", name.value),
        );
    } else if claims.names.insert(name.value.to_ascii_lowercase(), ()).is_some() {
        problems.at(name.span, format!("two peers are called `{}`", name.value));
    }
    Some(name.value.to_owned())
}

fn allowed_ips(
    section: &Section<'_, '_>,
    peer: &str,
    claims: &mut Claims,
    problems: &mut Problems<'_>,
) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in section.strings("allowed_ips", problems).unwrap_or_default() {
        let parsed = text.value.parse::<IpNet>().or_else(|_| text.value.parse::<IpAddr>().map(IpNet::from));
        let Ok(network) = parsed else {
            problems.at(
                text.span,
                format!("`{}` in `allowed_ips` of peer `{peer}` is not an address or a prefix", text.value),
            );
            continue;
        };
        if network.prefix_len() == 0 {
            problems.at(
                text.span,
                format!("`{network}` in `allowed_ips` of peer `{peer}`: {DEFAULT_ROUTE_HINT}"),
            );
        } else if network.trunc() != network {
            problems.at(
                text.span,
                format!("`{network}` in `allowed_ips` of peer `{peer}` has bits beyond its prefix: `{}` is the prefix, `{}` the one address", network.trunc(), network.addr()),
            );
        } else if network.prefix_len() == network.max_prefix_len() && claims.own.contains(&network.addr()) {
            problems.at(
                text.span,
                format!(
                    "`{}` in `allowed_ips` of peer `{peer}` is this machine's own address",
                    network.addr()
                ),
            );
        } else if let Some(other) = claims.networks.insert(network, peer.to_owned()) {
            let message = if other == peer {
                format!("`{network}` stands twice in `allowed_ips` of peer `{peer}`")
            } else {
                format!(
                    "peers `{other}` and `{peer}` both claim {network} in `allowed_ips`; a prefix can lead to one peer only"
                )
            };
            problems.at(text.span, message);
        } else {
            networks.push(network);
        }
    }
    networks
}

/// Whether a peer may be called this: 1 to 63 letters, digits and hyphens, no hyphen at either end (RFC 1123).
pub fn valid_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether an interface may be called this (at most `IFNAMSIZ` - 1 bytes, and nothing that a path or a
/// shell would read in another way).
pub fn valid_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !name.starts_with(['-', '.'])
        && name != "lo"
}

/// Reads `host:port`, where the host is an IPv4 address, an IPv6 address in brackets, or a name.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn parse_endpoint(text: &str) -> Result<EndpointName, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err("port 0 cannot be sent to".to_owned());
        }
        return Ok(EndpointName { host: EndpointHost::Address(address.ip()), port: address.port() });
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` has no port: write \"{text}:{DEFAULT_PORT}\""));
    };
    if host.contains(':') {
        return Err(format!(
            "`{text}`: an IPv6 address stands in brackets, such as \"[2001:db8::1]:{DEFAULT_PORT}\""
        ));
    }
    let port: u16 = match port.parse() {
        Ok(0) | Err(_) => return Err(format!("`{port}` is not a port from 1 to 65535")),
        Ok(port) => port,
    };
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    // What looks like an IPv4 address but is none would only be found out by a name server.
    let numeric = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric || name.len() > 253 || !name.split('.').all(label_is_valid) {
        return Err(format!("`{host}` is neither an address nor a host name"));
    }
    Ok(EndpointName { host: EndpointHost::Name(host.to_owned()), port })
}
