//! `doctor`: what is wrong on this machine, and what to do about it.

use std::fmt;
use std::fs;
use std::path::Path;

use super::args::Cli;
use super::{Failure, print_line};
use crate::config::{self, NetworkConfig};
use crate::control::Client;
use crate::daemon::report::unix_now;
use crate::paths::Directories;
use crate::report::{MembershipReport, PeerReport, ServerReport, span};

/// 1 January 2025: a clock before it has not been set.
const PLAUSIBLE: u64 = 1_735_689_600;
/// Relayed peers that are told of one by one.
const RELAYED_LISTED: usize = 8;

/// What was found, of one thing.
pub(super) enum Finding {
    Good(String),
    /// Worth knowing; nothing fails because of it.
    Notable(String),
    Bad(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(text) => write!(formatter, "ok    {text}"),
            Self::Notable(text) => write!(formatter, "note  {text}"),
            Self::Bad(text) => write!(formatter, "BAD   {text}"),
        }
    }
}

/// The network that is asked for, or all.
fn networks(cli: &Cli, directories: &Directories) -> Result<Vec<String>, Failure> {
    Ok(match &cli.network {
        Some(_) => vec![directories.choose_network(cli.network.as_deref())?],
        None => directories.networks(),
    })
}

fn findings(cli: &Cli, directories: &Directories) -> Result<Vec<Finding>, Failure> {
    let mut findings = vec![tun_device(), capabilities(), clock(), reverse_path_filter()];
    let networks = networks(cli, directories)?;
    if networks.is_empty() {
        findings.push(Finding::Notable(format!("there is no network in {}", directories.config.display())));
    }
    for network in networks {
        findings.extend(network_findings(directories, &network));
    }
    Ok(findings)
}

pub(super) fn run(cli: &Cli, directories: &Directories) -> Result<(), Failure> {
    let mut bad = 0;
    for finding in findings(cli, directories)? {
        bad += u32::from(matches!(finding, Finding::Bad(_)));
        print_line(&finding.to_string())?;
    }
    if bad == 0 {
        Ok(())
    } else {
        Err(Failure::Runtime(format!(
            "{bad} of the findings above {} mending",
            if bad == 1 { "needs" } else { "need" }
        )))
    }
}

fn tun_device() -> Finding {
    if Path::new("/dev/net/tun").exists() {
        Finding::Good("/dev/net/tun is there".to_owned())
    } else {
        Finding::Bad(
            "there is no /dev/net/tun: run `modprobe tun`, or pass the device to the container (--device /dev/net/tun)"
                .to_owned(),
        )
    }
}

fn capabilities() -> Finding {
    match caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN) {
        Ok(true) => Finding::Good("CAP_NET_ADMIN is held".to_owned()),
        _ => Finding::Bad(
            "CAP_NET_ADMIN is missing: run as root, or give the container --cap-add NET_ADMIN".to_owned(),
        ),
    }
}

fn clock() -> Finding {
    let now = unix_now().as_secs();
    if now >= PLAUSIBLE {
        Finding::Good("the clock is set".to_owned())
    } else {
        Finding::Bad(
            "the clock stands before 2025: peers that saw a later time refuse this machine; start a time service"
                .to_owned(),
        )
    }
}

/// Strict filtering drops what comes in by another interface than answers would leave by.
fn reverse_path_filter() -> Finding {
    let value = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or_default();
    match value.trim() {
        "1" => Finding::Notable(
            "net.ipv4.conf.all.rp_filter is 1 (strict): on a machine with several uplinks, answers of peers may be \
             dropped; 2 (loose) is enough, the guard does not depend on it"
                .to_owned(),
        ),
        other => Finding::Good(format!("net.ipv4.conf.all.rp_filter is {other}")),
    }
}

/// Who is reached by relays, and why not directly: no fault, and slower.
fn relayed_findings(network: &str, peers: &[PeerReport]) -> Vec<Finding> {
    let relayed: Vec<&PeerReport> = peers.iter().filter(|peer| peer.relay.is_some()).collect();
    let mut findings: Vec<Finding> = relayed
        .iter()
        .take(RELAYED_LISTED)
        .map(|peer| {
            let name = peer.name.as_deref().unwrap_or(&peer.public_key);
            let relay = peer.relay.as_deref().unwrap_or_default();
            let since = peer.relayed_seconds.map(|seconds| format!(" for {}", span(seconds as u64)));
            let why = peer.not_direct.as_ref().map(|why| format!(": {why}"));
            Finding::Notable(format!(
                "{network}: {name} is reached through {relay}{}{}; where that is not meant, let UDP in at one of the two",
                since.unwrap_or_default(),
                why.unwrap_or_default()
            ))
        })
        .collect();
    let more = relayed.len().saturating_sub(RELAYED_LISTED);
    if more > 0 {
        findings.push(Finding::Notable(format!("{network}: {more} more peers are reached through relays")));
    }
    findings
}

fn network_findings(directories: &Directories, network: &str) -> Vec<Finding> {
    let mut findings = super::doctor_register::findings(network, &directories.state_directory(network));
    let config = match config::load_network(directories, network) {
        Ok(config) => config,
        Err(error) => {
            findings.push(Finding::Bad(format!("{network}: {error}")));
            return findings;
        }
    };
    findings.push(Finding::Good(format!("{network}: the configuration is valid")));
    match super::status::ask(&Client::new(&directories.control_socket(network))) {
        Ok(report) => {
            findings.push(Finding::Good(format!("{network}: the daemon runs (process {})", report.pid)));
            if report.guard.installed {
                findings.push(Finding::Good(format!("{network}: the guard stands")));
            }
            findings.extend(
                report.warnings.into_iter().map(|warning| Finding::Bad(format!("{network}: {warning}"))),
            );
            for entry in report.offloads.list.iter().filter(|entry| !entry.in_use) {
                findings.push(Finding::Notable(format!(
                    "{network}: {} of {} is not used: {}",
                    entry.offload,
                    entry.place,
                    entry.reason.as_deref().unwrap_or(&entry.state)
                )));
            }
            if let Some(membership) = &report.membership {
                findings.extend(membership_findings(network, membership));
            }
            for peer in report.peers.iter().filter(|peer| peer.state == "connecting") {
                findings.push(Finding::Notable(format!(
                    "{network}: the handshake with {} is not answered{}; `tombolo ping` says more",
                    peer.name.as_deref().unwrap_or(&peer.public_key),
                    peer.endpoint.as_deref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default(),
                )));
            }
            findings.extend(relayed_findings(network, &report.peers));
            let silent = report.peers.iter().filter(|peer| peer.state != "established").count();
            if silent > 0 {
                findings.push(Finding::Notable(format!(
                    "{network}: {silent} of {} peers have no session now; `tombolo ping NAME` tries one",
                    report.peers.len()
                )));
            }
        }
        Err(error) => {
            findings.push(Finding::Notable(format!("{network}: {error}")));
            findings.push(port(network, &config));
        }
    }
    findings
}

fn membership_findings(network: &str, membership: &MembershipReport) -> Vec<Finding> {
    let left = membership.not_after.map_or(0, |end| end.saturating_sub(unix_now().as_secs()));
    let own = membership.name.as_deref().unwrap_or("-");
    let mut findings = vec![match membership.state.as_str() {
        "valid" => {
            Finding::Good(format!("{network}: member {own}, its membership is valid for {}", span(left)))
        }
        state => Finding::Bad(format!(
            "{network}: member {own}, its membership is {state}: it is renewed as soon as a server answers"
        )),
    }];
    let routes = membership.routes.iter().filter(|route| route.reason.is_some());
    findings.extend(
        routes.map(|route| Finding::Notable(format!("{network}: {}", super::status::route_line(route)))),
    );
    let found = |server: &ServerReport| server.connected || server.this_machine;
    let silent: Vec<String> = membership
        .servers
        .iter()
        .filter(|server| !found(server))
        .map(|server| server.endpoints.join(" or "))
        .collect();
    findings.push(if silent.is_empty() {
        Finding::Good(format!("{network}: there is a tunnel with every server"))
    } else {
        let silent = silent.join(", ");
        let text = format!(
            "{network}: no tunnel with the server at {silent}: see that it runs, that its firewall lets UDP in and this one's \
             lets it out"
        );
        if membership.servers.iter().any(found) {
            Finding::Notable(text)
        } else {
            Finding::Bad(format!(
                "{text}. Tunnels with known members go on; meanwhile nobody joins or renews, and nobody new is found"
            ))
        }
    });
    findings
}

fn port(network: &str, config: &NetworkConfig) -> Finding {
    let port = config.interface.listen_port;
    match std::net::UdpSocket::bind(("0.0.0.0", port)) {
        Ok(_) => Finding::Good(format!("{network}: UDP port {port} is free")),
        Err(error) => Finding::Bad(format!(
            "{network}: UDP port {port} cannot be bound ({error}): choose another `listen_port`, or stop what has it"
        )),
    }
}
