//! The section `[interface]`.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::PrivateKey;
use toml::de::DeTable;

use super::{DEFAULT_ROUTE_HINT, secret, subnet, table_lacks};
use crate::config::problem::Problems;
use crate::config::section::{At, Section};
use crate::config::{DEFAULT_PATH_MTU_INTERVAL, DEFAULT_PORT, InterfaceConfig, OVERHEAD, SecretSource};
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
    "control_group",
    "gateway_subnets",
    "max_clock_ahead",
    "workers",
    "busy_poll",
    "assist",
    "copy_dscp",
];
/// What a membership gives, and the file must not.
const GIVEN_KEYS: &[&str] = &["address", "private_key", "private_key_file"];

pub(super) fn interface(
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
        control_group: control_group(&section, problems),
        gateway_subnets,
        max_clock_ahead: max_clock_ahead.map(|seconds| Duration::from_secs(seconds.value)),
        threads: threads(&section, problems),
        copy_dscp: section.boolean("copy_dscp", false, problems),
    };
    Some((config, addresses))
}

fn control_group(section: &Section<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let group = section.string_or_integer("control_group", problems)?;
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if group.value.is_empty() || !group.value.bytes().all(valid) {
        problems.at(
            group.span,
            format!("`{}` cannot be the name of a group, such as \"tombolo\", nor its number", group.value),
        );
        return None;
    }
    Some(group.value)
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

fn gateway_subnets(section: &Section<'_, '_>, own: &[At<IpNet>], problems: &mut Problems<'_>) -> Vec<IpNet> {
    let mut subnets = Vec::new();
    for text in section.strings("gateway_subnets", problems).unwrap_or_default() {
        match subnet(&text, problems) {
            Some(subnet) if own.iter().any(|own| overlap(&own.value.trunc(), &subnet)) => problems.at(
                text.span,
                format!("`{}` overlaps the overlay, which the guard protects; name the subnet behind this machine", text.value),
            ),
            Some(subnet) => subnets.push(subnet.trunc()),
            None => {}
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

/// Whether an interface may be called this (at most `IFNAMSIZ` - 1 bytes, and nothing that a path or a
/// shell would read in another way).
pub fn valid_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !name.starts_with(['-', '.'])
        && name != "lo"
}
