//! From a `wg-quick` file to a configuration of static mode.
//!
//! What has no counterpart is told with the reason, never dropped silently.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_noise::{PresharedKey, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::config::{Problem, parse_endpoint, valid_name};

/// A converted file.
#[derive(Debug)]
pub struct Imported {
    /// The text of NETWORK.toml; it names the files of `secrets` and holds no secret itself.
    pub toml: String,
    /// File names beside NETWORK.toml, and the keys to write into them in base64 (mode 0600).
    pub secrets: Vec<(String, Zeroizing<String>)>,
    /// What was left out or changed, with the reason, for the user to read.
    pub notes: Vec<String>,
}

/// One `[Peer]` as it is collected.
#[derive(Default)]
struct Peer {
    name: Option<String>,
    line: usize,
    public_key: Option<String>,
    preshared_key: Option<PresharedKey>,
    allowed_ips: Vec<IpNet>,
    endpoint: Option<String>,
    keepalive: Option<u16>,
}

#[derive(Default)]
struct Collected {
    private_key: Option<PrivateKey>,
    addresses: Vec<IpNet>,
    listen_port: Option<u16>,
    mtu: Option<u32>,
    fwmark: Option<u32>,
    peers: Vec<Peer>,
    owners: HashMap<IpNet, usize>,
    notes: Vec<String>,
    problems: Vec<Problem>,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Nowhere,
    Interface,
    Peer,
}

/// Converts the text of a `wg-quick` file for a network called `network`.
///
/// # Errors
/// Every line that is not understood, with its number.
pub fn convert(text: &str, network: &str) -> Result<Imported, Vec<Problem>> {
    let mut collected = Collected::default();
    let mut place = Place::Nowhere;
    let mut comment: Option<String> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let content = raw.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            comment = raw.trim().strip_prefix('#').map(|text| text.trim().to_owned());
            continue;
        }
        if content.eq_ignore_ascii_case("[interface]") {
            place = Place::Interface;
        } else if content.eq_ignore_ascii_case("[peer]") {
            place = Place::Peer;
            let name = comment.take().filter(|name| valid_name(name));
            collected.peers.push(Peer { name, line, ..Peer::default() });
        } else if let Some((key, value)) = content.split_once('=') {
            collected.line(place, line, key.trim(), value.trim());
        } else {
            collected.problem(line, format!("`{content}` is neither a section nor `Key = value`"));
        }
        comment = None;
    }
    collected.finish(network)
}

impl Collected {
    fn problem(&mut self, line: usize, message: impl Into<String>) {
        self.problems.push(Problem { line, column: 1, message: message.into() });
    }

    fn line(&mut self, place: Place, line: usize, key: &str, value: &str) {
        let result = match place {
            Place::Nowhere => Err(format!("`{key}` stands before any section")),
            Place::Interface => self.interface_key(line, key, value),
            Place::Peer => self.peer_key(line, key, value),
        };
        if let Err(message) = result {
            self.problem(line, message);
        }
    }

    fn unsupported(&mut self, line: usize, key: &str, value: &str, reason: &str) {
        self.notes.push(format!("line {line}: `{key} = {value}` is not supported: {reason}"));
    }

    fn interface_key(&mut self, line: usize, key: &str, value: &str) -> Result<(), String> {
        match key.to_ascii_lowercase().as_str() {
            "privatekey" => {
                self.private_key = Some(PrivateKey::parse_base64(value).map_err(|error| format!("`{key}`: {error}"))?);
            }
            "address" => {
                for text in list(value) {
                    let network = network_of(text).ok_or_else(|| format!("`{text}` in `{key}` is not an address"))?;
                    if self.addresses.iter().any(|known| known.addr() == network.addr()) {
                        self.notes.push(format!("line {line}: the address {} stands twice; once is enough", network.addr()));
                    } else {
                        self.addresses.push(network);
                    }
                }
            }
            "listenport" => self.listen_port = Some(parse_number(key, value)?),
            "mtu" => self.mtu = Some(parse_number(key, value)?),
            "fwmark" => {
                let mark = if value == "off" {
                    Some(0)
                } else if let Some(digits) = value.strip_prefix("0x") {
                    u32::from_str_radix(digits, 16).ok()
                } else {
                    value.parse().ok()
                };
                self.fwmark = Some(mark.ok_or_else(|| format!("`{value}` is not a mark"))?);
            }
            "dns" => self.unsupported(
                line,
                key,
                value,
                "tombolo does not change the resolver of the machine; set it where it is managed (resolv.conf, systemd-resolved), or use `hosts = true` for the names of peers",
            ),
            "table" => self.unsupported(
                line,
                key,
                value,
                "the guard needs the routes of the overlay in a routing table of its own",
            ),
            "preup" | "postup" | "predown" | "postdown" => self.unsupported(
                line,
                key,
                value,
                "tombolo runs no commands out of its configuration; order a unit of your own with After=tombolo@NETWORK.service",
            ),
            "saveconfig" => self.unsupported(
                line,
                key,
                value,
                "tombolo never rewrites its configuration; what it learns (endpoints) is kept in /var/lib/tombolo",
            ),
            _ => return Err(format!("`{key}` is not a key of [Interface]")),
        }
        Ok(())
    }

    fn peer_key(&mut self, line: usize, key: &str, value: &str) -> Result<(), String> {
        let index = self.peers.len() - 1;
        let Some(peer) = self.peers.last_mut() else { return Ok(()) };
        match key.to_ascii_lowercase().as_str() {
            "publickey" => {
                value.parse::<PublicKey>().map_err(|error| format!("`{key}`: {error}"))?;
                peer.public_key = Some(value.to_owned());
            }
            "presharedkey" => {
                peer.preshared_key =
                    Some(PresharedKey::parse_base64(value).map_err(|error| format!("`{key}`: {error}"))?);
            }
            "endpoint" => {
                parse_endpoint(value)?;
                peer.endpoint = Some(value.to_owned());
            }
            "persistentkeepalive" => {
                peer.keepalive = Some(if value == "off" { 0 } else { parse_number(key, value)? });
            }
            "allowedips" => {
                for text in list(value) {
                    let network = network_of(text)
                        .ok_or_else(|| format!("`{text}` in `{key}` is not a prefix"))?
                        .trunc();
                    if network.prefix_len() == 0 {
                        return Err(format!(
                            "`{network}` in `{key}`: a default route is the work of `wg-quick` with `tombolo-wireguard` (WG_QUICK_USERSPACE_IMPLEMENTATION=tombolo-wireguard), not of a guarded network"
                        ));
                    }
                    match self.owners.insert(network, index) {
                        Some(other) if other == index => {}
                        Some(other) => {
                            self.peers[other].allowed_ips.retain(|owned| *owned != network);
                            self.notes.push(format!(
                                "line {line}: {network} was already claimed by peer {}; as in wg, the last one to claim it has it",
                                other + 1
                            ));
                            self.peers[index].allowed_ips.push(network);
                        }
                        None => self.peers[index].allowed_ips.push(network),
                    }
                }
            }
            _ => return Err(format!("`{key}` is not a key of [Peer]")),
        }
        Ok(())
    }

    fn finish(mut self, network: &str) -> Result<Imported, Vec<Problem>> {
        if self.private_key.is_none() {
            self.problem(1, "there is no PrivateKey in [Interface]");
        }
        if self.addresses.is_empty() {
            self.problem(1, "there is no Address in [Interface]");
        }
        let keyless: Vec<usize> =
            self.peers.iter().filter(|peer| peer.public_key.is_none()).map(|peer| peer.line).collect();
        for line in keyless {
            self.problem(line, "this [Peer] has no PublicKey");
        }
        let Some(private_key) = self.private_key.take().filter(|_| self.problems.is_empty()) else {
            self.problems.sort_by_key(|problem| problem.line);
            return Err(self.problems);
        };
        let mut secrets = vec![(format!("{network}.key"), private_key.to_base64())];
        let mut toml = String::from("# Converted from a wg-quick file.\n\n[interface]\n");
        // Writing to a String cannot fail.
        let addresses: Vec<String> = self.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        let _ = writeln!(toml, "address = [{}]", addresses.join(", "));
        let _ = writeln!(toml, "private_key_file = \"{network}.key\"");
        if let Some(port) = self.listen_port {
            let _ = writeln!(toml, "listen_port = {port}");
        }
        if let Some(mtu) = self.mtu {
            let _ = writeln!(toml, "mtu = {mtu}");
        }
        if let Some(mark) = self.fwmark {
            let _ = writeln!(toml, "fwmark = {mark:#x}");
        }
        let mut names: Vec<String> = Vec::new();
        for (index, peer) in self.peers.into_iter().enumerate() {
            let name = match peer.name {
                Some(name) if !names.iter().any(|taken| taken.eq_ignore_ascii_case(&name)) => name,
                _ => format!("peer-{}", index + 1),
            };
            let _ = writeln!(toml, "\n[[peer]]\nname = \"{name}\"");
            let _ = writeln!(toml, "public_key = \"{}\"", peer.public_key.unwrap_or_default());
            if let Some(key) = peer.preshared_key {
                let file = format!("{network}-{name}.psk");
                let _ = writeln!(toml, "preshared_key_file = \"{file}\"");
                secrets.push((file, key.to_base64()));
            }
            // A file of wg-quick does not say what the other side runs.
            let _ = writeln!(toml, "tombolo = false");
            let networks: Vec<String> =
                peer.allowed_ips.iter().map(|network| format!("\"{network}\"")).collect();
            let _ = writeln!(toml, "allowed_ips = [{}]", networks.join(", "));
            if let Some(endpoint) = peer.endpoint {
                let _ = writeln!(toml, "endpoint = \"{endpoint}\"");
            }
            if let Some(seconds) = peer.keepalive {
                let _ = writeln!(toml, "persistent_keepalive = {seconds}");
            }
            names.push(name);
        }
        // What wg-quick lets pass and we refuse, with our reason: a range, a key that stands twice.
        if let Err(problems) = crate::config::parse(&toml) {
            let whole = |problem: Problem| Problem {
                line: 0,
                column: 0,
                message: format!("the converted configuration would be refused: {}", problem.message),
            };
            return Err(problems.into_iter().map(whole).collect());
        }
        if self.listen_port.is_none() {
            self.notes.push(format!(
                "there is no ListenPort: tombolo listens on {} (wg-quick would take a random port)",
                crate::config::DEFAULT_PORT
            ));
        }
        Ok(Imported { toml, secrets, notes: self.notes })
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|text| !text.is_empty())
}

/// An address without a prefix length is that one address, as in `wg`.
fn network_of(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn parse_number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{key}`: `{value}` is not a number in range"))
}
