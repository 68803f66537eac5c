//! What a tunnel must bear besides plain load: many peers, floods, bad lines, small and large wires.

mod busy_poll;
mod flood;
mod handshakes;
mod hub;
mod impaired;
pub mod joining;
mod peers;
mod underlays;
mod workers;

use std::net::SocketAddr;

use anyhow::Context;
use tombolo_tests::command::run;
use tombolo_tests::interrupt;

use crate::Result;
use crate::contender::{Entrant, PORT};
use crate::statistics::median;
use crate::suite::{Part, Suite};

type Scenario = fn(&mut Suite<'_>) -> Result;

/// All of them, in the order in which they are measured.
pub const ALL: [(Part, Scenario); 9] = [
    (Part::Peers, peers::measure),
    (Part::Flood, flood::measure),
    (Part::Handshakes, handshakes::measure),
    (Part::Impaired, impaired::measure),
    (Part::Underlays, underlays::measure),
    (Part::Workers, workers::measure),
    (Part::Hub, hub::measure),
    (Part::BusyPoll, busy_poll::measure),
    (Part::Joining, joining::measure),
];

/// The peers of the tables.
pub use peers::{ACTIVE, CONFIGURED};

/// A port on which nobody listens.
const CLOSED: u16 = 9;

/// Where the west end of a tunnel takes its messages, and where nobody takes any.
fn west(entrant: &Entrant) -> [SocketAddr; 2] {
    [PORT, CLOSED].map(|port| SocketAddr::from((entrant.wire.west.outer, port)))
}

/// The public key of the west end.
fn west_key(entrant: &Entrant) -> Result<&str> {
    Ok(&entrant.running.public_keys.as_ref().context("a contender without keys")?[1])
}

/// How often [`paired`] measures both.
const PAIRS: usize = 8;

/// What a stream carried without something and with it.
struct Paired {
    /// Gbit/s, medians.
    without: f64,
    with: f64,
    /// The median of what each pair lost, as a share.
    loss: f64,
}

/// Measures without and with something by turns, and compares neighbours: the speed of the machine changes within seconds.
fn paired(mut gigabits: impl FnMut(bool) -> Result<f64>) -> Result<Paired> {
    let (mut without, mut with, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        interrupt::check()?;
        // In both orders, so that what changes steadily meets both alike.
        let first = pair % 2 == 1;
        let (one, other) = (gigabits(first)?, gigabits(!first)?);
        let (one, other) = if first { (other, one) } else { (one, other) };
        losses.push(1.0 - other / one);
        without.push(one);
        with.push(other);
    }
    Ok(Paired { without: median(&without), with: median(&with), loss: median(&losses) })
}

/// Adds peers to the interface of one end (0: east, 1: west), and the route to all of them.
fn add_peers(entrant: &Entrant, end: usize, config: &str) -> Result {
    let interfaces = entrant.running.interfaces.as_ref().context("a contender that `wg` does not know")?;
    let (interface, host) = (&interfaces[end], entrant.wire.sides()[end].0);
    let file = entrant.scene.write(&format!("{interface}.peers"), config)?;
    run(host.namespace.command("wg").args(["addconf", interface]).arg(file))?;
    host.namespace.ip(&format!("route replace 10.78.0.0/15 dev {interface}")).map(drop)
}
