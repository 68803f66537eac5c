//! Ten thousand configured peers, a thousand of them active: what each costs in memory, and all of them
//! in throughput.

use std::net::UdpSocket;
use std::time::Duration;

use super::{add_peers, paired, west, west_key};
use crate::contender::{Entrant, OURS};
use crate::load::bulk;
use crate::load::clients::{Clients, DISCARD, silent_peers};
use crate::results::figures;
use crate::suite::Suite;
use crate::wire::Wire;
use crate::{Result, accounting};

/// Peers in the configuration of both ends.
pub const CONFIGURED: usize = 10_000;
/// Those of them that have a session with the west end and send.
pub const ACTIVE: usize = 1_000;

/// Packets a second that the active ones send together; a single one sends as many to the tunnel
/// that has no other peers.
const CHATTER: f64 = 1000.0;

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let Some(contender) = suite.plan.contender(OURS) else { return Ok(()) };
    let few = contender.enter(Wire::lay()?)?;
    let many = contender.enter(Wire::lay()?)?;
    suite.daemons = [few.running.pids(), many.running.pids()].concat();
    let pid = many.running.daemons.last().map_or(0, |daemon| daemon.id());
    let resident = || accounting::resident_megabytes(pid, "VmRSS");

    // Takes what the peers say, and is never read: an answer that nobody listens would cost as much again.
    let _sinks = [sink(&few)?, sink(&many)?];
    let mut one = clients(&few, 1)?;
    add_peers(&few, 1, &one.config())?;
    one.connect()?;
    let mut active = clients(&many, ACTIVE)?;
    let empty = resident()?;
    add_peers(&many, 1, &silent_peers(ACTIVE, CONFIGURED - ACTIVE))?;
    add_peers(&many, 0, &silent_peers(ACTIVE, CONFIGURED))?;
    let silent = resident()?;
    add_peers(&many, 1, &active.config())?;
    let configured = resident()?;
    active.connect()?;
    // Each has sent and was sent to.
    active.chatter(4.0 * ACTIVE as f64, Duration::from_secs(1));
    let in_use = resident()?;
    let bytes = |megabytes: f64, peers: usize| megabytes * 1e6 / peers as f64;
    let memory = figures([
        ("idle_peer_bytes", bytes(silent - empty, CONFIGURED - ACTIVE)),
        ("active_peer_bytes", bytes(in_use - configured, ACTIVE)),
        ("peers_mb", in_use),
    ]);
    suite.note("peers, memory", OURS, Ok(memory));

    let span = suite.plan.span(Duration::from_millis(1000), Duration::from_millis(300));
    suite.sample("peers, throughput", OURS, || {
        let carried = paired(|all| {
            let (entrant, clients) = if all { (&many, &mut active) } else { (&few, &mut one) };
            let chatter = || Ok(clients.chatter(CHATTER, span));
            Ok(bulk::beside(&entrant.wire, entrant.running.destination, 1, chatter)?.1)
        })?;
        Ok(figures([
            ("one_peer_gbps", carried.without),
            ("many_peers_gbps", carried.with),
            ("peers_loss", carried.loss * 100.0),
        ]))
    })
}

fn sink(entrant: &Entrant) -> Result<UdpSocket> {
    let west = &entrant.wire.west;
    west.namespace.enter(|| Ok(UdpSocket::bind((west.inner, DISCARD))?))
}

fn clients(entrant: &Entrant, count: usize) -> Result<Clients> {
    let namespace = &entrant.wire.east.namespace;
    Clients::new(namespace, west(entrant)[0], west_key(entrant)?, entrant.wire.west.inner, count)
}
