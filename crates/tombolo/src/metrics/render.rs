//! From a report to the text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::report::{MembershipReport, OffloadReport, PeerReport, StatusReport};

/// All metrics. Names are `tombolo_*`, units are seconds and bytes.
pub fn render(report: &StatusReport) -> String {
    let mut page = Page::default();
    let interface = report.interface.name.as_str();
    page.family("tombolo_build_info", "gauge", "Version of the daemon.");
    page.sample("tombolo_build_info", &[("version", &report.version), ("network", &report.network)], 1);
    page.family("tombolo_interface_up", "gauge", "Whether the overlay interface is up.");
    page.sample("tombolo_interface_up", &[("interface", interface)], u8::from(report.interface.up));
    page.family("tombolo_interface_mtu_bytes", "gauge", "MTU of the overlay interface.");
    page.sample("tombolo_interface_mtu_bytes", &[("interface", interface)], report.interface.mtu);
    page.family("tombolo_start_time_seconds", "gauge", "When the daemon became ready, Unix time.");
    page.sample("tombolo_start_time_seconds", &[], report.started_at);
    page.family("tombolo_guard_installed", "gauge", "Whether the guard stands.");
    page.sample("tombolo_guard_installed", &[], u8::from(report.guard.installed));
    if let Some(dropped) = report.guard.dropped_packets {
        page.family("tombolo_guard_dropped_packets_total", "counter", "Packets that the guard dropped.");
        page.sample("tombolo_guard_dropped_packets_total", &[], dropped);
    }
    page.family("tombolo_offload_enabled", "gauge", "Offloads in use.");
    let offloads = &report.offloads;
    for (name, enabled) in [
        ("tun_segmentation", offloads.tun_segmentation),
        ("tun_coalescing", offloads.tun_coalescing),
        ("udp_segmentation", offloads.udp_segmentation),
        ("udp_coalescing", offloads.udp_coalescing),
    ] {
        page.sample("tombolo_offload_enabled", &[("offload", name)], u8::from(enabled));
    }
    sockets_and_device(&mut page, offloads);
    page.family("tombolo_assisted_total", "counter", "Super-packets and reads that idle workers took on.");
    for (work, count) in [("sealed", report.assist.sealed), ("opened", report.assist.opened)] {
        page.sample("tombolo_assisted_total", &[("work", work)], count);
    }
    page.family("tombolo_dropped_packets_total", "counter", "Packets dropped, by reason.");
    for (reason, count) in &report.drops {
        page.sample("tombolo_dropped_packets_total", &[("reason", reason)], count);
    }
    page.family("tombolo_warnings", "gauge", "Warnings that `tombolo status` shows.");
    page.sample("tombolo_warnings", &[], report.warnings.len());
    if let Some(held) = &report.membership {
        membership(&mut page, held);
    }
    peers(&mut page, &report.peers);
    page.text
}

fn membership(page: &mut Page, held: &MembershipReport) {
    page.family("tombolo_membership_valid", "gauge", "Whether this machine's membership is valid.");
    page.sample("tombolo_membership_valid", &[], u8::from(held.state == "valid"));
    if let Some(end) = held.not_after {
        page.family(
            "tombolo_membership_end_seconds",
            "gauge",
            "Unix time at which this machine's membership ends.",
        );
        page.sample("tombolo_membership_end_seconds", &[], end);
    }
    if let Some(age) = held.network_age_seconds {
        page.family(
            "tombolo_network_document_age_seconds",
            "gauge",
            "Age of the network document; a new one comes hourly.",
        );
        page.sample("tombolo_network_document_age_seconds", &[], age);
    }
    page.family("tombolo_network_document_stale", "gauge", "Whether it is older than it should be.");
    page.sample("tombolo_network_document_stale", &[], u8::from(held.stale));
    page.family(
        "tombolo_documents_not_understood",
        "gauge",
        "Newer signed documents that this version does not understand, and does not take.",
    );
    page.sample("tombolo_documents_not_understood", &[], held.not_understood.len());
    page.family(
        "tombolo_server_connected",
        "gauge",
        "Whether there is a tunnel with a server, or this machine is it.",
    );
    for server in &held.servers {
        let endpoint = server.endpoints.first().map_or("", String::as_str);
        let labels = [("server", &*server.public_key), ("endpoint", endpoint), ("roles", &server.roles)];
        page.sample("tombolo_server_connected", &labels, u8::from(server.connected || server.this_machine));
    }
}

fn sockets_and_device(page: &mut Page, offloads: &OffloadReport) {
    page.family("tombolo_offload_in_use", "gauge", "Offloads of the device and of each socket.");
    for entry in &offloads.list {
        let lane = entry.lane.to_string();
        let labels =
            [("place", &*entry.place), ("lane", &lane), ("offload", &entry.offload), ("state", &entry.state)];
        page.sample("tombolo_offload_in_use", &labels, u8::from(entry.in_use));
    }
    page.family("tombolo_offload_fallbacks_total", "counter", "How often the system refused an offload.");
    for entry in &offloads.list {
        let lane = entry.lane.to_string();
        let labels = [("place", &*entry.place), ("lane", &lane), ("offload", &entry.offload)];
        page.sample("tombolo_offload_fallbacks_total", &labels, entry.fallbacks);
    }
    page.family("tombolo_socket_fallbacks_total", "counter", "What a socket had to do without.");
    for socket in &offloads.sockets {
        let lane = socket.lane.to_string();
        for (kind, count) in &socket.fallbacks {
            let labels = [("place", &*socket.place), ("lane", &lane), ("kind", kind)];
            page.sample("tombolo_socket_fallbacks_total", &labels, count);
        }
    }
}

fn peers(page: &mut Page, peers: &[PeerReport]) {
    page.family("tombolo_peer_info", "gauge", "A peer, its endpoint and the path to it.");
    for peer in peers {
        let endpoint = peer.endpoint.as_deref().unwrap_or("");
        page.sample(
            "tombolo_peer_info",
            &[
                ("peer", label(peer)),
                ("public_key", &peer.public_key),
                ("endpoint", endpoint),
                ("path", &peer.path),
            ],
            1,
        );
    }
    page.each(peers, "tombolo_peer_established", "gauge", "Whether there is a session.", |peer| {
        Some(f64::from(u8::from(peer.state == "established")))
    });
    page.each(peers, "tombolo_peer_round_trip_seconds", "gauge", "The last measured round trip.", |peer| {
        peer.round_trip_seconds
    });
    page.each(
        peers,
        "tombolo_peer_mtu_bytes",
        "gauge",
        "Largest packet that is sent to the peer whole.",
        |peer| Some(f64::from(peer.mtu_bytes)),
    );
    page.each(
        peers,
        "tombolo_peer_mtu_confirmed",
        "gauge",
        "Whether the peer has answered a probe of that size.",
        |peer| Some(f64::from(u8::from(peer.mtu_state == "confirmed"))),
    );
    page.each(
        peers,
        "tombolo_peer_last_handshake_age_seconds",
        "gauge",
        "Time since the last handshake.",
        |peer| peer.last_handshake_age_seconds,
    );
    page.each(
        peers,
        "tombolo_peer_last_received_age_seconds",
        "gauge",
        "Time since the peer was heard.",
        |peer| peer.last_received_age_seconds,
    );
    page.each(
        peers,
        "tombolo_peer_received_bytes_total",
        "counter",
        "Bytes received, whole messages.",
        |peer| Some(peer.received_bytes as f64),
    );
    page.each(peers, "tombolo_peer_sent_bytes_total", "counter", "Bytes sent, whole messages.", |peer| {
        Some(peer.sent_bytes as f64)
    });
}

fn label(peer: &PeerReport) -> &str {
    peer.name.as_deref().unwrap_or(&peer.public_key)
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (index, (key, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{key}=\"{escaped}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn each(
        &mut self,
        peers: &[PeerReport],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&PeerReport) -> Option<f64>,
    ) {
        self.family(name, kind, help);
        for peer in peers {
            if let Some(value) = value(peer) {
                self.sample(name, &[("peer", label(peer))], value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_that_are_stale_or_not_understood_stand_in_the_metrics_control_rules_2_and_6() {
        let text = |report: &MembershipReport| {
            let mut page = Page::default();
            membership(&mut page, report);
            page.text
        };
        let mut report = MembershipReport::sample(true);
        report.not_understood = vec!["a newer network document".to_owned()];
        for line in [
            "tombolo_network_document_stale 1",
            "tombolo_network_document_age_seconds 11000",
            "tombolo_documents_not_understood 1",
        ] {
            assert!(text(&report).lines().any(|held| held == line), "{line}: {}", text(&report));
        }
        let fresh = text(&MembershipReport::sample(false));
        assert!(fresh.contains("tombolo_network_document_stale 0\n"), "{fresh}");
        assert!(fresh.contains("tombolo_documents_not_understood 0\n"), "{fresh}");
    }

    #[test]
    fn labels_are_escaped_and_families_are_declared_once() {
        let mut page = Page::default();
        page.family("tombolo_x", "gauge", "Something.");
        page.sample("tombolo_x", &[("peer", "a\"b\\c\nd"), ("path", "direct")], 1.5);
        page.sample("tombolo_x", &[], 2);
        assert_eq!(
            page.text,
            "# HELP tombolo_x Something.\n# TYPE tombolo_x gauge\n\
             tombolo_x{peer=\"a\\\"b\\\\c\\nd\",path=\"direct\"} 1.5\ntombolo_x 2\n"
        );
    }
}
