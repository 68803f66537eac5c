//! From text to [`NetworkConfig`], without reading any other file.

mod interface;
mod peer;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::KeyError;
use tombolo_packet::Offload;
use toml::de::DeTable;

use super::problem::{Problem, Problems};
use super::section::{At, Section};
use super::{MembershipConfig, NetworkConfig, OffloadConfig, Origin, PeerConfig, SecretSource};
use interface::interface;
pub use interface::valid_interface_name;
use peer::{Claims, peer};
pub use peer::{parse_endpoint, valid_name};

const OFFLOAD_KEYS: [&str; Offload::ALL.len()] = {
    let mut keys = [""; Offload::ALL.len()];
    let mut index = 0;
    while index < keys.len() {
        keys[index] = Offload::ALL[index].name();
        index += 1;
    }
    keys
};

const DEFAULT_ROUTE_HINT: &str =
    "a default route is the work of `wg-quick` with `tombolo-wireguard`, not of a guarded network";

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
    let routes = section.strings("accept_routes", problems).unwrap_or_default();
    let accept_routes =
        routes.iter().filter_map(|text| subnet(text, problems)).map(|route| route.trunc()).collect();
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

fn subnet(text: &At<&str>, problems: &mut Problems<'_>) -> Option<IpNet> {
    let subnet = text.value.parse().ok();
    if subnet.is_none() {
        let message = format!("`{}` is not a subnet, such as \"192.168.7.0/24\"", text.value);
        problems.at(text.span.clone(), message);
    }
    subnet
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

fn table_lacks(table: &DeTable<'_>, keys: &[&str]) -> bool {
    !table.keys().any(|key| keys.iter().any(|wanted| key.get_ref() == wanted))
}
