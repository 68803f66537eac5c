//! TCP transfers, by iperf3.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, bail};
use tombolo_tests::Scene;
use tombolo_tests::command::output;
use tombolo_tests::process::Process;

use crate::wire::Wire;
use crate::{Result, accounting};

/// What came of one transfer.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Payload received, in Gbit/s.
    pub gigabits_per_second: f64,
    /// Payload received, in GB.
    pub gigabytes: f64,
    /// Processor seconds of both daemons for each GB of payload.
    pub daemon_seconds_per_gigabyte: f64,
    /// Processor seconds of the whole machine for each GB of payload.
    pub machine_seconds_per_gigabyte: f64,
    /// TCP segments that were sent again.
    pub retransmissions: u64,
}

/// Sends from east to west (`--reverse` among the `options`: back) for so many seconds.
///
/// # Errors
/// When iperf3 fails or the connection breaks.
pub fn run(
    scene: &Scene,
    wire: &Wire,
    destination: Ipv4Addr,
    seconds: u32,
    options: &[&str],
    daemons: &[u32],
) -> Result<Throughput> {
    let address = destination.to_string();
    let mut server = wire.west.namespace.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--bind", &address]);
    let mut server = Process::spawn(scene, "iperf3-server", &mut server)?;
    let started = server.log().len();
    tombolo_tests::wait::wait_until("iperf3 to listen", Duration::from_secs(10), || {
        server.log().get(started..).is_some_and(|log| log.contains("Server listening"))
            || listens(wire, &address)
    })?;
    let busy = || -> Result<(Duration, Duration)> {
        let daemons = daemons.iter().map(|&pid| accounting::process_time(pid)).sum::<Result<Duration>>()?;
        Ok((daemons, accounting::machine_time()?))
    };
    let before = busy()?;
    let mut client = wire.east.namespace.command("iperf3");
    client.args(["--client", &address, "--json", "--time", &seconds.to_string()]).args(options);
    let result = output(&mut client, Duration::from_secs(u64::from(seconds) + 20))?;
    let after = busy()?;
    let report: serde_json::Value =
        serde_json::from_slice(&result.stdout).context("reading iperf3's report")?;
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let received = &report["end"]["sum_received"];
    let bytes = received["bytes"].as_f64().context("no bytes in iperf3's report")?;
    anyhow::ensure!(bytes > 0.0, "iperf3 carried nothing");
    let seconds_per_gigabyte =
        |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() / (bytes / 1e9);
    server.wait(Duration::from_secs(10))?;
    Ok(Throughput {
        gigabits_per_second: received["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9,
        gigabytes: bytes / 1e9,
        daemon_seconds_per_gigabyte: seconds_per_gigabyte(after.0, before.0),
        machine_seconds_per_gigabyte: seconds_per_gigabyte(after.1, before.1),
        retransmissions: report["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
    })
}

fn listens(wire: &Wire, address: &str) -> bool {
    let mut command = wire.west.namespace.command("ss");
    let sockets = tombolo_tests::command::run(command.args(["--tcp", "--listening", "--numeric"]));
    sockets.is_ok_and(|text| text.contains(&format!("{address}:5201")))
}
