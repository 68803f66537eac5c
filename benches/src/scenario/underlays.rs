//! Wires of other sizes than Ethernet's usual one, with nothing said about them in the configuration.
//!
//! Two things are asked: that a gigabyte arrives where only small packets pass, and that a large packet is used where one
//! passes. How fast that is says little here: veth carries a super-packet whole, whatever its segments are, so that
//! more and smaller ones cost next to nothing; docs/performance.md has what they cost through a router that takes them one by one.

use std::time::Duration;

use anyhow::Context;

use crate::Result;
use crate::contender::{DAEMON, Entrant, PLAIN};
use crate::load::bulk;
use crate::results::figures;
use crate::suite::Suite;
use crate::wire::Wire;

/// Bytes that the wire carries, as east sees it and as west does, and the names of the figures: Gbit/s, GB that arrived,
/// the largest packet that the tunnel sends. Where the sizes differ, what is too long vanishes without a word.
const UNDERLAYS: [(&str, [u32; 2], [&str; 3]); 4] = [
    ("1500 bytes", [1500, 1500], ["u1500_gbps", "u1500_gb", "u1500_mtu"]),
    ("1280 bytes", [1280, 1280], ["u1280_gbps", "u1280_gb", "u1280_mtu"]),
    ("1280 bytes, hidden", [1500, 1280], ["hidden_gbps", "hidden_gb", "hidden_mtu"]),
    ("9000 bytes", [9000, 9000], ["u9000_gbps", "u9000_gb", "u9000_mtu"]),
];
const GIGABYTE: u64 = 1_000_000_000;
/// By then a gigabyte has long arrived, or never will.
const LIMIT: Duration = Duration::from_secs(15);

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    if suite.plan.contender(DAEMON).is_none() {
        return Ok(());
    }
    let wanted = if suite.plan.quick { GIGABYTE / 4 } else { GIGABYTE };
    for (title, sizes, [speed, carried, mtu]) in UNDERLAYS {
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
                let streams = bulk::Streams::connect(&entrant.wire, entrant.running.destination, 1)?;
                let (bytes, taken) = streams.metered(|meter| {
                    let taken = meter.wait(wanted, LIMIT);
                    Ok((meter.bytes() as f64, taken.as_secs_f64()))
                })?;
                let mut figures = figures([(speed, bytes * 8e-9 / taken), (carried, bytes / 1e9)]);
                if let Some(found) = largest_packet(&entrant)? {
                    figures.insert(mtu.to_owned(), found);
                }
                Ok(figures)
            })?;
        }
    }
    Ok(())
}

/// The largest packet that east sends whole to its peer, as `tombolo status` says.
fn largest_packet(east: &Entrant) -> Result<Option<f64>> {
    let Some(node) = east.running.nodes.first() else { return Ok(None) };
    let status = node.status()?;
    let bytes = status["peers"][0]["mtu_bytes"].as_f64();
    bytes.context("no mtu_bytes in the status").map(Some)
}
