//! What those try who are not in the network.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use tombolo_tests::{
    capture::Capture,
    host::Host,
    namespace::Namespace,
    postgres,
    topology::{Internet, Machine},
};

use super::story::Overlay;

/// How long an attacker waits for an answer. On these links an answer takes less than a millisecond.
const PATIENCE: Duration = Duration::from_millis(400);

/// A neighbour on the same Ethernet who sends packets for overlay addresses to a machine's own link.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Outcome {
    /// Packets for the overlay that reached the machine.
    pub(super) arrived: u64,
    /// Packets that came back.
    pub(super) answers: u64,
    /// Connections that were made.
    pub(super) connections: usize,
}

/// Lets `neighbour` route the overlay to `victim` and knock at its database, over IPv4 and IPv6.
///
/// # Errors
/// When it could not be tried.
pub(super) fn knock(
    internet: &Internet,
    neighbour: &Machine,
    victim: &Host,
    overlay: &Overlay,
) -> Result<Outcome> {
    let (machine, Overlay { v4, v6, .. }) = (&victim.machine, overlay);
    neighbour.namespace.ip(&format!("route replace {v4} via {}", machine.address))?;
    neighbour.namespace.ip(&format!("-6 route replace {v6} via {}", machine.address6))?;
    let to_overlay = format!(
        "(dst net {v4} or dst net {v6}) and (src host {} or src host {})",
        neighbour.address, neighbour.address6
    );
    let door = Capture::start(&internet.router, &machine.port, &to_overlay, &[])?;
    let from_overlay = format!("ip src net {v4} or ip6 src net {v6} or ip src host {}", machine.address);
    let back = Capture::start(&neighbour.namespace, "eth0", &from_overlay, &[])?;
    let mut connections = 0;
    for &address in &overlay.server {
        connections += usize::from(connects(&neighbour.namespace, address)?);
        neighbour.namespace.enter(|| {
            let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.send_to(b"anybody there?", (address, postgres::PORT))?;
            Ok(())
        })?;
    }
    door.wait_for_packets(4, Duration::from_secs(5))?;
    Ok(Outcome { arrived: door.stop()?.packets, answers: back.stop()?.packets, connections })
}

/// Whether PostgreSQL's port accepts at an address, seen from a namespace.
///
/// # Errors
/// When the namespace cannot be entered.
pub(super) fn connects(from: &Namespace, address: IpAddr) -> Result<bool> {
    let target = SocketAddr::new(address, postgres::PORT);
    from.enter(|| Ok(TcpStream::connect_timeout(&target, PATIENCE).is_ok()))
}
