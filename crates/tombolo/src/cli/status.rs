//! `status`.

use std::fmt::Write as _;

use super::args::{Cli, StatusArgs};
use super::{Failure, failed, print_bytes, print_line};
use crate::control::{Answer, Client, Request};
use crate::daemon::report::unix_now;
use crate::paths::Directories;
use crate::report::{
    MembershipReport, OffloadEntry, OffloadReport, PeerReport, RouteReport, StatusReport, span,
};

pub(super) fn run(cli: &Cli, directories: &Directories, arguments: &StatusArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let report = ask(&Client::new(&directories.control_socket(&network)))?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::runtime("the status has no JSON form", error))?;
        return print_line(&text);
    }
    print_bytes(render(&report).as_bytes())
}

/// Asks a daemon for its status.
pub(super) fn ask(client: &Client) -> Result<StatusReport, Failure> {
    match client.ask(&Request::Status).map_err(failed)? {
        Answer::Status { report } => Ok(*report),
        answer => Err(failed(answer.complaint())),
    }
}

fn render_membership(membership: &MembershipReport, peers: &[PeerReport]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "member {}", membership.name.as_deref().unwrap_or("-"));
    if let Some(domain) = &membership.domain {
        let _ = write!(text, " in {domain}");
    }
    let now = unix_now().as_secs();
    let (left, over) =
        membership.not_after.map_or((0, 0), |end| (end.saturating_sub(now), now.saturating_sub(end)));
    let _ = match membership.state.as_str() {
        "valid" => write!(text, ", membership valid for {}", span(left)),
        "grace" => write!(text, ", membership ENDED {} ago, known members still take it", span(over)),
        "expired" if membership.not_after.is_some() => {
            write!(text, ", membership EXPIRED {} ago", span(over))
        }
        state => write!(text, ", membership {state}"),
    };
    if let Some(serial) = membership.serial {
        let _ = write!(text, " (serial {serial})");
    }
    if let (Some(version), Some(age)) = (&membership.network_version, &membership.network_age_seconds) {
        let stale = if membership.stale { ", STALE" } else { "" };
        let _ = write!(text, ", document {version}, {} old{stale}", span(*age));
    }
    text.push('\n');
    for server in &membership.servers {
        let state = match (server.this_machine, server.connected) {
            (true, _) => "this machine",
            (_, true) => "connected",
            _ => "NOT CONNECTED",
        };
        let heard = peers
            .iter()
            .find(|peer| !server.this_machine && peer.public_key == server.public_key)
            .and_then(|peer| peer.last_received_age_seconds)
            .map(|age| format!(", heard {} ago", span(age as u64)));
        let _ = writeln!(
            text,
            "server {} ({}): {state}{}",
            server.endpoints.join(" "),
            server.roles,
            heard.unwrap_or_default()
        );
    }
    for route in &membership.routes {
        let _ = writeln!(text, "{}", route_line(route));
    }
    text
}

pub(super) fn route_line(route: &RouteReport) -> String {
    let gateways = route.gateways.join(", ");
    let behind = if gateways.is_empty() { String::new() } else { format!(" behind {gateways}") };
    let state = if route.taken { "taken" } else { "not taken" };
    let reason = route.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("route {}{behind} {state}{reason}", route.prefix)
}

/// For people.
fn render(report: &StatusReport) -> String {
    let mut text = String::new();
    let interface = &report.interface;
    let state = if interface.up { "up" } else { "not up" };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}: {} {state}, {}, MTU {}, UDP port {}",
        report.network,
        interface.name,
        interface.addresses.join(" "),
        interface.mtu,
        interface.listen_port
    );
    if let Some(key) = &interface.public_key {
        let _ = writeln!(text, "public key {key}");
    }
    let guard = if report.guard.installed { "in place" } else { "NOT IN PLACE" };
    let _ = write!(text, "guard {guard} for {}", report.guard.overlay.join(" "));
    let _ = match report.guard.dropped_packets {
        Some(dropped) => writeln!(text, ", {dropped} packets dropped"),
        None => writeln!(text),
    };
    if let Some(membership) = &report.membership {
        text.push_str(&render_membership(membership, &report.peers));
    }
    text.push_str(&offloads(&report.offloads));
    let assist = report.assist;
    if assist.sealed + assist.opened > 0 {
        let _ = writeln!(
            text,
            "idle workers sealed {} super-packets and opened {} reads",
            assist.sealed, assist.opened
        );
    }
    if !report.peers.is_empty() {
        let _ = writeln!(text);
    }
    text.push_str(&table(&report.peers));
    let drops: Vec<String> = report
        .drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !drops.is_empty() {
        let _ = writeln!(text, "\ndropped: {}", drops.join(", "));
    }
    for warning in &report.warnings {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    for peer in &report.peers {
        if let Some(error) = &peer.resolve_error {
            let _ = writeln!(text, "\nwarning: the endpoint of {} is not known: {error}", name(peer));
        }
    }
    text
}

/// One line where all is well, and one for each offload that is not in use.
fn offloads(report: &OffloadReport) -> String {
    let off: Vec<String> = report.list.iter().filter(|entry| !entry.in_use).map(offload_line).collect();
    match (report.list.len(), off.len()) {
        (0, _) => String::new(),
        (_, 0) => "offloads all in use\n".to_owned(),
        (all, off_count) => format!("offloads {} of {all} in use\n{}", all - off_count, off.concat()),
    }
}

fn offload_line(entry: &OffloadEntry) -> String {
    let reason = entry.reason.as_deref().unwrap_or(&entry.state);
    let count = match entry.fallbacks {
        0 => String::new(),
        1 => ", once".to_owned(),
        count => format!(", {count} times"),
    };
    let lane = if entry.lane > 0 { format!(" {}", entry.lane) } else { String::new() };
    format!("  {}{lane} {} off: {reason}{count}\n", entry.place, entry.offload)
}

fn name(peer: &PeerReport) -> &str {
    peer.name.as_deref().unwrap_or(&peer.public_key)
}

/// By which way it is reached, and since when by a relay.
fn way(peer: &PeerReport) -> String {
    let Some(relay) = &peer.relay else { return peer.path.clone() };
    let since = peer.relayed_seconds.map(|seconds| format!(" for {}", span(seconds as u64)));
    format!("relayed by {relay}{}", since.unwrap_or_default())
}

fn table(peers: &[PeerReport]) -> String {
    if peers.is_empty() {
        return String::new();
    }
    let mut rows = vec![
        [
            "PEER",
            "ADDRESS",
            "STATE",
            "PATH",
            "ENDPOINT",
            "MTU",
            "HANDSHAKE",
            "HEARD",
            "ROUND TRIP",
            "RECEIVED",
            "SENT",
        ]
        .map(str::to_owned),
    ];
    for peer in peers {
        let dash = || "-".to_owned();
        rows.push([
            name(peer).to_owned(),
            peer.address.clone().unwrap_or_else(dash),
            peer.state.clone(),
            way(peer),
            peer.endpoint.clone().or_else(|| peer.configured_endpoint.clone()).unwrap_or_else(dash),
            peer.mtu_bytes.to_string(),
            peer.last_handshake_age_seconds.map_or_else(dash, |age| format!("{} ago", span(age as u64))),
            peer.last_received_age_seconds.map_or_else(dash, |age| format!("{} ago", span(age as u64))),
            peer.round_trip_seconds.map_or_else(dash, |time| format!("{:.1} ms", time * 1e3)),
            bytes(peer.received_bytes),
            bytes(peer.sent_bytes),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 11] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offload_that_is_not_in_use_is_told_with_its_reason_and_how_often() {
        let entry = |offload: &str, in_use, fallbacks| OffloadEntry {
            place: "udp_ipv4".to_owned(),
            lane: 0,
            offload: offload.to_owned(),
            in_use,
            state: "demoted".to_owned(),
            reason: (!in_use).then(|| "given up at run time: EIO".to_owned()),
            fallbacks,
        };
        let mut report = OffloadReport {
            tun_segmentation: true,
            tun_coalescing: true,
            udp_segmentation: true,
            udp_coalescing: true,
            list: vec![entry("gso", true, 0), entry("gro", true, 0)],
            sockets: Vec::new(),
        };
        assert_eq!(offloads(&report), "offloads all in use\n");
        report.list[0] = entry("gso", false, 3);
        assert_eq!(
            offloads(&report),
            "offloads 1 of 2 in use\n  udp_ipv4 gso off: given up at run time: EIO, 3 times\n"
        );
    }

    #[test]
    fn a_stale_network_document_stands_in_the_status_control_rule_2() {
        let text = |stale| render_membership(&MembershipReport::sample(stale), &[]);
        assert!(text(true).contains(", document 1.5, 3 h 3 min old, STALE"), "{}", text(true));
        assert!(text(false).contains(", document 1.5, 10 min old") && !text(false).contains("STALE"));
    }

    #[test]
    fn amounts_are_for_people() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1500), "1.5 KB");
        assert_eq!(bytes(u64::MAX), "18446744.1 TB");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(125), "2 min 5 s");
        assert_eq!(span(3600), "1 h");
        assert_eq!(span(90_000), "1 day 1 h");
        assert_eq!(span(14 * 86_400), "14 days");
    }
}
