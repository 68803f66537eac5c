//! Very many genuine handshakes beside a bulk stream: data should lose what handshakes take of the
//! processors, and hardly more.

use std::time::Duration;

use tombolo_packet::message::INITIATION_LEN;

use super::{add_peers, west, west_key};
use crate::contender::OURS;
use crate::load::bulk;
use crate::load::clients::{Clients, send_at};
use crate::results::figures;
use crate::suite::Suite;
use crate::wire::Wire;
use crate::{Result, accounting};

/// Initiations a second, and the peers that make them in turn: each of them less often than the
/// protocol allows.
const RATE: f64 = 2000.0;
const PEERS: usize = 1000;
/// The engine's thread that shakes hands.
const THREAD: &str = "tombolo-control";

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let Some(contender) = suite.plan.contender(OURS) else { return Ok(()) };
    let entrant = contender.enter(Wire::lay()?)?;
    suite.daemons = entrant.running.pids();
    let namespace = &entrant.wire.east.namespace;
    let mut clients =
        Clients::new(namespace, west(&entrant)[0], west_key(&entrant)?, entrant.wire.west.inner, PEERS)?;
    add_peers(&entrant, 1, &clients.config())?;
    let pid = entrant.running.daemons.last().map_or(0, |daemon| daemon.id());
    let [tunnel, closed] = west(&entrant);
    let span = suite.plan.span(Duration::from_millis(2500), Duration::from_millis(700));
    let destination = entrant.running.destination;
    suite.sample("handshakes", OURS, || {
        // In order of their timestamps: the first run to the tunnel uses the first half.
        let count = (RATE * span.as_secs_f64()) as usize;
        let halves = [clients.initiations(count)?, clients.initiations(count)?];
        let (mut carried, mut busy, mut sent) = ([0.0; 2], Duration::ZERO, 0);
        for (target, half) in [(closed, 0), (tunnel, 0), (tunnel, 1), (closed, 1)] {
            let before = accounting::thread_time(pid, THREAD)?;
            let send =
                || Ok(send_at(clients.socket(), target, &halves[half], INITIATION_LEN as u16, RATE, span));
            let (went, gigabits) = bulk::beside(&entrant.wire, destination, 1, send)?;
            if target == tunnel {
                busy += accounting::thread_time(pid, THREAD)? - before;
                sent += went.datagrams;
            }
            carried[usize::from(target == tunnel)] += gigabits / 2.0;
        }
        let answered = clients.count_responses();
        let share = busy.as_secs_f64() / (2.0 * span.as_secs_f64()) / accounting::processors();
        let [without, with] = carried;
        let loss = 1.0 - with / without;
        Ok(figures([
            ("handshake_closed_gbps", without),
            ("handshake_tunnel_gbps", with),
            ("handshakes_per_second", answered as f64 / (2.0 * span.as_secs_f64())),
            ("handshakes_answered", answered as f64 / sent.max(1) as f64 * 100.0),
            ("handshake_share", share * 100.0),
            ("handshake_loss", loss * 100.0),
            ("handshake_loss_to_share", loss / share),
            ("handshake_us", busy.as_secs_f64() * 1e6 / answered.max(1) as f64),
        ]))
    })
}
