//! All contenders at once, each on a wire of its own, and the loads that they meet in turn.

use std::time::Duration;

use anyhow::Context;
use tombolo_tests::interrupt;

use crate::contender::Entrant;
use crate::load::{bulk, round_trip, small_packets, transfer};
use crate::results::{Figures, figures};
use crate::suite::{Part, Plan, Suite};
use crate::wire::Wire;
use crate::{Result, aead};

/// The name under which the AEAD alone stands among the contenders.
pub const AEAD: &str = "AEAD alone";

const PARTS: [Part; 4] = [Part::RoundTrips, Part::Transfers, Part::SmallPackets, Part::NoUdpSegmentation];

/// How often each contender is searched for the most small packets it carries, in one round.
const SMALL_PACKET_TURNS: u32 = 3;

type Load = (&'static str, fn(&Entrant, &Plan) -> Result<Figures>);

/// One round of all loads that the plan includes.
///
/// # Errors
/// On an interruption alone.
pub fn run(suite: &mut Suite<'_>) -> Result {
    let plan = suite.plan;
    if !PARTS.iter().any(|&part| plan.includes(part)) {
        return Ok(());
    }
    let mut entrants = enter(suite)?;
    suite.daemons = entrants.iter().flat_map(|entrant| entrant.running.pids()).collect();
    // Each round begins elsewhere, so that nobody is always the one after the greatest heat.
    let places = entrants.len().max(1);
    entrants.rotate_left(suite.round as usize * places / plan.rounds.max(1) as usize % places);
    for entrant in entrants.iter().filter(|entrant| !entrant.running.daemons.is_empty()) {
        suite.note("idle", &entrant.name, memory(entrant, "idle_mb", "VmRSS"));
    }
    if plan.includes(Part::RoundTrips) {
        meet(suite, &entrants, ("round trips", round_trips))?;
    }
    if plan.includes(Part::Transfers) {
        meet(suite, &entrants, ("TCP", |entrant, plan| transfer(entrant, plan, "tcp", &[])))?;
        suite.sample("AEAD", AEAD, || Ok(figures([("aead_cpu", aead::seconds_per_gigabyte()?)])))?;
        let reverse: Load =
            ("TCP reverse", |entrant, plan| transfer(entrant, plan, "reverse", &["--reverse"]));
        meet(suite, &entrants, reverse)?;
        meet(
            suite,
            &entrants,
            ("TCP four", |entrant, plan| transfer(entrant, plan, "four", &["--parallel", "4"])),
        )?;
    }
    if plan.includes(Part::SmallPackets) {
        // A little of each in turn, several times: what the machine carries of small packets changes within a minute.
        for _ in 0..if plan.quick { 1 } else { SMALL_PACKET_TURNS } {
            meet(suite, &entrants, ("UDP 64", small_packets))?;
        }
    }
    if plan.includes(Part::NoUdpSegmentation) {
        for entrant in &entrants {
            entrant.wire.set_udp_segmentation(false)?;
        }
        let one: Load =
            ("TCP, software segmentation", |entrant, plan| transfer(entrant, plan, "soft_tcp", &[]));
        let four: Load = ("TCP four, software segmentation", |entrant, plan| {
            transfer(entrant, plan, "soft_four", &["--parallel", "4"])
        });
        meet(suite, &entrants, one)?;
        meet(suite, &entrants, four)?;
    }
    for entrant in entrants.iter().filter(|entrant| !entrant.running.daemons.is_empty()) {
        suite.note("peak", &entrant.name, memory(entrant, "peak_mb", "VmHWM"));
    }
    Ok(())
}

fn enter(suite: &mut Suite<'_>) -> Result<Vec<Entrant>> {
    let mut entrants = Vec::new();
    for contender in &suite.plan.contenders {
        match Wire::lay().and_then(|wire| contender.enter(wire)) {
            Ok(entrant) => entrants.push(entrant),
            Err(error) => {
                interrupt::check()?;
                suite.fail("start", &contender.name, &error);
            }
        }
    }
    Ok(entrants)
}

/// One load for everybody in turn.
fn meet(suite: &mut Suite<'_>, entrants: &[Entrant], (name, load): Load) -> Result {
    let plan = suite.plan;
    for entrant in entrants {
        suite.sample(name, &entrant.name, || load(entrant, plan))?;
    }
    Ok(())
}

fn round_trips(entrant: &Entrant, plan: &Plan) -> Result<Figures> {
    let span = plan.span(Duration::from_secs(5), Duration::from_millis(1200));
    let (wire, to) = (&entrant.wire, entrant.running.destination);
    let unloaded = round_trip::run(wire, to, span)?;
    let (loaded, gigabits) = bulk::beside(wire, to, 1, || round_trip::run(wire, to, span))?;
    Ok(figures([
        ("rtt_per_second", unloaded.per_second),
        ("rtt_p50", unloaded.median_microseconds),
        ("rtt_p99", unloaded.p99_microseconds),
        ("rtt_count", unloaded.count as f64),
        ("loaded_p50", loaded.median_microseconds),
        ("loaded_p99", loaded.p99_microseconds),
        ("loaded_count", loaded.count as f64),
        ("loaded_gbps", gigabits),
        ("loaded_ratio", loaded.p99_microseconds / unloaded.p99_microseconds),
    ]))
}

fn transfer(entrant: &Entrant, plan: &Plan, prefix: &str, options: &[&str]) -> Result<Figures> {
    let Entrant { scene, wire, running, .. } = entrant;
    let throughput = transfer::run(scene, wire, running.destination, plan.seconds, options, &running.pids())
        .context("iperf3")?;
    Ok([
        ("gbps", throughput.gigabits_per_second),
        ("cpu", throughput.daemon_seconds_per_gigabyte),
        ("machine_cpu", throughput.machine_seconds_per_gigabyte),
        ("retransmissions", throughput.retransmissions as f64),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{prefix}_{name}"), value))
    .collect())
}

fn small_packets(entrant: &Entrant, plan: &Plan) -> Result<Figures> {
    let step = plan.span(Duration::from_millis(200), Duration::from_millis(120));
    let found = small_packets::run(&entrant.wire, entrant.running.destination, step)?;
    Ok(figures([
        ("udp_kpps", found.carried_per_second / 1e3),
        ("flood_kpps", found.flood_per_second / 1e3),
        ("flood_loss", found.flood_loss * 100.0),
    ]))
}

fn memory(entrant: &Entrant, figure: &str, field: &str) -> Result<Figures> {
    Ok(figures([(figure, entrant.running.megabytes(field)?)]))
}
