//! The sections `[[peer]]`, and what no two of them may both have.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use ipnet::IpNet;
use tombolo_noise::{PresharedKey, PublicKey};
use toml::de::DeTable;

use super::{DEFAULT_ROUTE_HINT, secret, table_lacks};
use crate::config::problem::Problems;
use crate::config::rate::parse_rate;
use crate::config::section::{At, Section};
use crate::config::{DEFAULT_PORT, EndpointHost, EndpointName, PeerConfig};

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

/// What earlier peers have claimed, so that a later one that claims it too is told of both.
#[derive(Default)]
pub(super) struct Claims {
    pub(super) own: Vec<IpAddr>,
    names: HashSet<String>,
    keys: HashMap<PublicKey, String>,
    networks: HashMap<IpNet, String>,
    endpoints: Vec<(String, At<IpAddr>)>,
}

impl Claims {
    /// An endpoint that itself lies behind the tunnel would send the tunnel through itself.
    pub(super) fn check_endpoints(&self, problems: &mut Problems<'_>) {
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

pub(super) fn peer(
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
    } else if !claims.names.insert(name.value.to_ascii_lowercase()) {
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
