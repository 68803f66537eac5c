//! What it brings, and costs, to let idle threads look for more for a while before they sleep (`busy_poll`).

use std::time::Duration;

use tombolo_tests::wait::now;

use crate::contender::Contender;
use crate::load::round_trip;
use crate::results::figures;
use crate::suite::Suite;
use crate::wire::Wire;
use crate::{Result, accounting};

/// What both ends have in `[interface]`.
const SETTINGS: [(&str, &str); 4] = [
    ("busy_poll off", ""),
    ("busy_poll 50 µs", "busy_poll = \"50us\""),
    ("busy_poll 300 µs", "busy_poll = \"300us\""),
    ("busy_poll 300 µs, one worker", "busy_poll = \"300us\"\nworkers = 1"),
];

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let span = suite.plan.span(Duration::from_secs(4), Duration::from_millis(800));
    let mut entrants = Vec::new();
    for (subject, extra) in SETTINGS {
        entrants.push((subject, Contender::daemon(extra).enter(Wire::lay()?)?));
    }
    suite.daemons = entrants.iter().flat_map(|(_, entrant)| entrant.running.pids()).collect();
    for (subject, entrant) in &entrants {
        let pids = entrant.running.pids();
        suite.sample("busy polling", subject, || {
            let time = || pids.iter().map(|&pid| accounting::process_time(pid)).sum::<Result<Duration>>();
            let (start, before) = (now(), time()?);
            let found = round_trip::run(&entrant.wire, entrant.running.destination, span)?;
            let spent = time()?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();
            Ok(figures([
                ("poll_p50", found.median_microseconds),
                ("poll_p99", found.p99_microseconds),
                ("poll_per_second", found.per_second),
                ("poll_cpu", spent * 100.0),
            ]))
        })?;
    }
    Ok(())
}
