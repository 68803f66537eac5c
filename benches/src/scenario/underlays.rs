//! Wires of other sizes than Ethernet's usual one, with nothing said about them in the configuration.

use std::time::Duration;

use crate::Result;
use crate::contender::{DAEMON, PLAIN};
use crate::load::bulk;
use crate::results::figures;
use crate::suite::Suite;
use crate::wire::Wire;

/// Bytes that the wire carries, as east sees it and as west does, and the names of the figures. Where they
/// differ, what is too long vanishes without a word.
const UNDERLAYS: [(&str, [u32; 2], [&str; 2]); 4] = [
    ("1500 bytes", [1500, 1500], ["u1500_gbps", "u1500_gb"]),
    ("1280 bytes", [1280, 1280], ["u1280_gbps", "u1280_gb"]),
    ("1280 bytes, hidden", [1500, 1280], ["hidden_gbps", "hidden_gb"]),
    ("9000 bytes", [9000, 9000], ["u9000_gbps", "u9000_gb"]),
];

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let span = suite.plan.span(Duration::from_secs(4), Duration::from_secs(1));
    if suite.plan.contender(DAEMON).is_none() {
        return Ok(());
    }
    for (title, sizes, [speed, carried]) in UNDERLAYS {
        for name in [PLAIN, DAEMON] {
            let Some(contender) = suite.plan.contender(name) else { continue };
            let wire = Wire::lay()?;
            // Super-packets would pass the narrow place whole.
            wire.set_udp_segmentation(sizes[0] == sizes[1])?;
            for (host, size) in [&wire.east, &wire.west].into_iter().zip(sizes) {
                host.namespace.ip(&format!("link set wire mtu {size}"))?;
            }
            let entrant = match contender.enter(wire) {
                Ok(entrant) => entrant,
                Err(error) => {
                    suite.fail(title, name, &error);
                    continue;
                }
            };
            suite.daemons = entrant.running.pids();
            suite.sample(title, name, || {
                let gigabits = bulk::alone(&entrant.wire, entrant.running.destination, 1, span)?;
                Ok(figures([(speed, gigabits), (carried, gigabits / 8.0 * span.as_secs_f64())]))
            })?;
        }
    }
    Ok(())
}
