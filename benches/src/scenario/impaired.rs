//! TCP over a line that loses, doubles and reorders packets: through the tunnel, and without it.

use std::time::Duration;

use anyhow::Context;

use crate::Result;
use crate::contender::{BORINGTUN, GOTATUN, OURS, PLAIN};
use crate::line::{Impairment, Line};
use crate::load::bulk::Streams;
use crate::load::round_trip;
use crate::results::figures;
use crate::suite::Suite;

/// Connections at once: one alone waits for its timers most of the time, and says little in seconds. They
/// use CUBIC, as most machines do (RFC 9438).
const STREAMS: usize = 32;

/// The wire itself, between hosts that do not tell each other which segments came twice (DSACK, RFC 2883). No WireGuard lets copies
/// through (requirement 16), so this is what TCP makes of a line on which it does not see them.
const WITHOUT_DSACK: &str = "plain, no DSACK";

/// What is done to the packets, and the names of the figures.
const IMPAIRMENTS: [(&str, &str, Impairment); 3] = [
    ("20 % loss", "lossy_mbps", Impairment { loss: 0.2, duplication: 0.0, reordering: 0.0 }),
    ("20 % reordering", "reordering_mbps", Impairment { loss: 0.0, duplication: 0.0, reordering: 0.2 }),
    (
        "loss, reordering, duplication",
        "impaired_mbps",
        Impairment { loss: 0.2, duplication: 0.2, reordering: 0.2 },
    ),
];

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let span = suite.plan.span(Duration::from_secs(5), Duration::from_secs(1));
    let mut lines = Vec::new();
    for (name, subject) in
        [(PLAIN, PLAIN), (PLAIN, WITHOUT_DSACK), (OURS, OURS), (BORINGTUN, BORINGTUN), (GOTATUN, GOTATUN)]
    {
        let Some(contender) = suite.plan.contender(name) else { continue };
        let (wire, line) = Line::lay()?;
        if subject == WITHOUT_DSACK {
            for host in [&wire.east, &wire.west] {
                host.namespace.sysctl("net.ipv4.tcp_dsack", "0")?;
            }
        }
        lines.push((contender.enter(wire)?, subject, line));
    }
    suite.daemons = lines.iter().flat_map(|(entrant, ..)| entrant.running.pids()).collect();
    for (title, figure, impairment) in IMPAIRMENTS {
        for (entrant, subject, line) in &lines {
            let (wire, to) = (&entrant.wire, entrant.running.destination);
            suite.sample(title, subject, || {
                line.set(Impairment::default());
                let streams = Streams::connect(wire, to, STREAMS)?;
                streams.congest("cubic")?;
                line.set(impairment);
                let (_, gigabits) = streams.run(|| {
                    std::thread::sleep(span);
                    Ok(())
                })?;
                line.set(Impairment::default());
                round_trip::run(wire, to, Duration::from_millis(300))
                    .context("once the line is good again")?;
                Ok(figures([(figure, gigabits * 1e3)]))
            })?;
        }
    }
    for (entrant, ..) in lines.iter().filter(|(entrant, ..)| entrant.name == OURS) {
        suite.note(
            "memory after impairment",
            OURS,
            entrant.running.megabytes("VmHWM").map(|mb| figures([("impaired_peak_mb", mb)])),
        );
    }
    Ok(())
}
