//! Answers of the protocol.

use std::fmt::Write as _;

use tombolo_engine::EngineStatus;
use tombolo_noise::Standing;
use zeroize::Zeroizing;

use super::parse::UapiError;

/// The answer to `get=1`, with the `errno=0` that ends it. Holds the private key: wiped when dropped.
pub fn format_status(status: &EngineStatus) -> Zeroizing<String> {
    // Room for all of it at once, so that no half-grown copy with the keys stays in freed memory.
    let room: usize = status.peers.iter().map(|peer| 700 + 50 * peer.allowed_ips.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(256 + room));
    // Writing to a String cannot fail.
    if let Some(key) = &status.private_key {
        let _ = writeln!(text, "private_key={}", key.to_hex().as_str());
    }
    let _ = writeln!(text, "listen_port={}", status.listen_port);
    if status.firewall_mark != 0 {
        let _ = writeln!(text, "fwmark={}", status.firewall_mark);
    }
    // A provisional peer is none yet, and may be anybody.
    for peer in status.peers.iter().filter(|peer| peer.standing != Standing::Provisional) {
        let _ = writeln!(text, "public_key={}", peer.public_key.to_hex());
        let _ = writeln!(text, "preshared_key={}", peer.preshared_key.to_hex().as_str());
        let _ = writeln!(text, "protocol_version=1");
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        // Unix time, not an age (requirement 26).
        let handshake = peer.last_handshake.map(|time| time.0).unwrap_or_default();
        let _ = writeln!(text, "last_handshake_time_sec={}", handshake.as_secs());
        let _ = writeln!(text, "last_handshake_time_nsec={}", handshake.subsec_nanos());
        let _ = writeln!(text, "tx_bytes={}", peer.sent_bytes);
        let _ = writeln!(text, "rx_bytes={}", peer.received_bytes);
        let keepalive = peer.persistent_keepalive.unwrap_or(0);
        let _ = writeln!(text, "persistent_keepalive_interval={keepalive}");
        for network in &peer.allowed_ips {
            let _ = writeln!(text, "allowed_ip={network}");
        }
    }
    text.push_str("errno=0\n\n");
    text
}

/// The answer to `set=1`, and to anything that is refused. The number is negative, as wireguard-go has
/// it and as `wg` expects to find it in its own `errno`.
pub fn format_errno(result: Result<(), UapiError>) -> String {
    match result {
        Ok(()) => "errno=0\n\n".to_owned(),
        Err(error) => format!("errno=-{}\n\n", error.errno()),
    }
}
