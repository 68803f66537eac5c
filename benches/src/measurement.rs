//! All figures of one contender in one round.

use std::time::Duration;

use serde::Serialize;
use tombolo_tests::wait::now;
use tombolo_tests::{Scene, interrupt};

use crate::contender::Contender;
use crate::load::round_trip::{self, RoundTrips};
use crate::load::small_packets::{self, SmallPackets};
use crate::load::transfer::{self, Throughput};
use crate::wire::Wire;
use crate::{Result, accounting};

const ROUND_TRIPS: Duration = Duration::from_secs(3);
/// Share of the processors in use below which the machine counts as idle.
const IDLE: f64 = 0.06;
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// All figures of one contender in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// One TCP connection, east to west.
    pub tcp: Throughput,
    /// One TCP connection, west to east.
    pub tcp_reverse: Throughput,
    /// Four TCP connections at once.
    pub tcp_four: Throughput,
    /// UDP datagrams of 64 bytes.
    pub small_packets: SmallPackets,
    /// A byte there and back.
    pub round_trips: RoundTrips,
    /// Resident memory of the larger daemon with one peer and before any load, in MiB.
    pub idle_mebibytes: f64,
    /// The most resident memory of the larger daemon, in MiB.
    pub peak_mebibytes: f64,
    /// Share of the processors that had nothing to do with the measurement.
    pub foreign_share: f64,
}

/// Measures one contender on a wire of its own, once the machine is idle; at once where others may take
/// all of it.
///
/// # Errors
/// When it does not come up, or a load does not get through.
pub fn measure(
    contender: &Contender,
    seconds: u32,
    udp_segmentation: bool,
    max_foreign: f64,
) -> Result<Measurement> {
    let scene = Scene::new()?;
    let wire = Wire::lay(udp_segmentation)?;
    if max_foreign < 1.0 {
        wait_for_idle_machine()?;
    }
    let running = contender.start(&scene, &wire)?;
    let daemons: Vec<u32> = running.daemons.iter().map(tombolo_tests::process::Process::id).collect();
    let memory = |field| -> Result<f64> {
        let each = daemons.iter().map(|&pid| accounting::resident_mib(pid, field));
        Ok(each.collect::<Result<Vec<f64>>>()?.into_iter().fold(0.0, f64::max))
    };
    let idle_mebibytes = memory("VmRSS")?;
    let related = || -> Result<Duration> {
        let daemons = daemons.iter().map(|&pid| accounting::process_time(pid)).sum::<Result<Duration>>()?;
        Ok(daemons + accounting::own_time()? + accounting::packet_thread_time())
    };
    let (start, all, ours) = (now(), accounting::machine_time()?, related()?);
    let to = running.destination;
    let transfer = |options: &[&str]| transfer::run(&scene, &wire, to, seconds, options, &daemons);
    let round_trips = round_trip::run(&wire, to, ROUND_TRIPS)?;
    let tcp = transfer(&[])?;
    let tcp_reverse = transfer(&["--reverse"])?;
    let tcp_four = transfer(&["--parallel", "4"])?;
    let small_packets = small_packets::run(&wire, to)?;
    let ours = related()?.saturating_sub(ours);
    let foreign = (accounting::machine_time()? - all).saturating_sub(ours);
    Ok(Measurement {
        tcp,
        tcp_reverse,
        tcp_four,
        small_packets,
        round_trips,
        idle_mebibytes,
        peak_mebibytes: memory("VmHWM")?,
        foreign_share: foreign.as_secs_f64() / start.elapsed().as_secs_f64() / accounting::processors(),
    })
}

/// Waits for other work on the machine to end, for a minute at most: what is still disturbed then is
/// told from the foreign share.
fn wait_for_idle_machine() -> Result {
    let start = now();
    while start.elapsed() < IDLE_LIMIT {
        interrupt::check()?;
        let before = accounting::machine_time()?;
        std::thread::sleep(Duration::from_secs(1));
        let busy = accounting::machine_time()? - before;
        if busy.as_secs_f64() / accounting::processors() < IDLE {
            break;
        }
    }
    Ok(())
}
