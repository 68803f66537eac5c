//! A machine that forwards between two others, which have a tunnel with it alone: what goes through it, and what goes to it, beside
//! what two machines say to each other. Static peers, the hub's kernel forwards.
//!
//! ```text
//!   east 192.0.2.10 ─── router ─── 198.51.100.10 west        (the router is a bridge for each, and a hop between them)
//!                          └────── 203.0.113.10 central      (the hub)
//! ```

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use tombolo_tests::Scene;
use tombolo_tests::namespace::Namespace;
use tombolo_tests::site::{Site, hub, sites, start_all};

use crate::load::bulk::Streams;
use crate::results::{Figures, figures};
use crate::suite::Suite;
use crate::{Result, accounting};

/// Connections, and the names of their figures: Gbit/s, processor seconds of all daemons for each GB.
const STREAMS: [(usize, [&str; 2]); 2] =
    [(1, ["hub_tcp_gbps", "hub_tcp_cpu"]), (4, ["hub_four_gbps", "hub_four_cpu"])];

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let span = suite.plan.span(Duration::from_secs(4), Duration::from_millis(700));
    let direct_scene = Scene::new()?;
    let (_direct_internet, mut pair) = sites::<2>(&direct_scene)?;
    start_all(&direct_scene, &mut pair)?;
    let scene = Scene::new()?;
    let (_internet, mut spokes) = hub(&scene)?;
    let [direct, through] = [pids(&mut pair)?, pids(&mut spokes)?];
    suite.daemons = [direct.clone(), through.clone()].concat();
    let [east, west, central] = &spokes;
    for (subject, from, to, pids) in [
        ("two machines", &pair[0], &pair[1], &direct),
        ("spoke to hub", east, central, &through),
        ("spoke to spoke through the hub", east, west, &through),
    ] {
        let (from, to) = (&from.node.namespace, (&to.node.namespace, to.node.address));
        suite.sample("hub", subject, || {
            let each = STREAMS.map(|(count, names)| carry(from, to, count, span, pids, names));
            each.into_iter().try_fold(Figures::new(), |mut all, one| {
                all.extend(one?);
                Ok(all)
            })
        })?;
    }
    Ok(())
}

fn pids(sites: &mut [Site]) -> Result<Vec<u32>> {
    sites.iter_mut().map(|site| Ok(site.node.daemon()?.id())).collect()
}

fn carry(
    from: &Namespace,
    (to, address): (&Namespace, Ipv4Addr),
    count: usize,
    span: Duration,
    pids: &[u32],
    [speed, cost]: [&str; 2],
) -> Result<Figures> {
    let time = || pids.iter().map(|&pid| accounting::process_time(pid)).sum::<Result<Duration>>();
    let (spent, gigabits) = Streams::between(from, to, address, count)?.run(|| {
        let before = time()?;
        thread::sleep(span);
        Ok(time()?.saturating_sub(before))
    })?;
    let gigabytes = gigabits / 8.0 * span.as_secs_f64();
    Ok(figures([(speed, gigabits), (cost, spent.as_secs_f64() / gigabytes)]))
}
