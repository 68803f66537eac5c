//! TCP over a line that loses, doubles and reorders packets: through the tunnel, and without it.

use std::time::Duration;

use anyhow::Context;

use crate::Result;
use crate::contender::{OURS, PLAIN};
use crate::line::{Impairment, Line};
use crate::load::bulk::Streams;
use crate::load::round_trip;
use crate::results::figures;
use crate::suite::Suite;

/// Connections at once: one alone waits for its timers most of the time, and says little in seconds. They
/// use CUBIC, as most machines do (RFC 9438).
const STREAMS: usize = 32;

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
    for name in [PLAIN, OURS] {
        let Some(contender) = suite.plan.contender(name) else { continue };
        let (wire, line) = Line::lay()?;
        lines.push((contender.enter(wire)?, line));
    }
    suite.daemons = lines.iter().flat_map(|(entrant, _)| entrant.running.pids()).collect();
    for (title, figure, impairment) in IMPAIRMENTS {
        for (entrant, line) in &lines {
            let (wire, to) = (&entrant.wire, entrant.running.destination);
            suite.sample(title, &entrant.name, || {
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
    for (entrant, _) in lines.iter().filter(|(entrant, _)| entrant.name == OURS) {
        suite.note(
            "memory after impairment",
            OURS,
            entrant.running.megabytes("VmHWM").map(|mb| figures([("impaired_peak_mb", mb)])),
        );
    }
    Ok(())
}
