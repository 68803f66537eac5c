//! `tombolo-bench`: what `cargo xtask bench` runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use signal_hook::{consts, flag};
use tombolo_benches::comparison::{self, Plan};
use tombolo_benches::{Result, contender, forwarder, micro};

/// Whole tunnels beside each other, or the steps of the data path one by one. Needs root.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Measure the steps of the data path instead of whole tunnels.
    #[arg(long)]
    micro: bool,
    /// Show what can be compared, and end.
    #[arg(long)]
    list: bool,
    /// Who takes part, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// A further userspace WireGuard, started as `PROGRAM -f INTERFACE`.
    #[arg(long, value_name = "NAME=PROGRAM")]
    also: Vec<String>,
    /// How often each contender is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of each TCP transfer.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Whom the ratios refer to.
    #[arg(long, default_value = "boringtun")]
    base: String,
    /// Take UDP segmentation from the wire between the namespaces, as with a network card that has none.
    #[arg(long)]
    no_udp_segmentation: bool,
    /// Share of the processors that others may take during a run; else it is repeated. 1: measure at
    /// once, whatever else runs.
    #[arg(long, default_value_t = 0.06)]
    max_foreign: f64,
    /// Write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables to this file too.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Carry packets between a TUN device and a UDP socket, without any cryptography.
    #[command(hide = true)]
    Forward {
        /// Name of the TUN device to make.
        interface: String,
        /// UDP port to bind.
        port: u16,
        /// Where the other end is.
        remote: SocketAddr,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result {
    if let Some(Role::Forward { interface, port, remote }) = arguments.role {
        return forwarder::run(&interface, port, remote);
    }
    // The first signal ends in order, the second one at once.
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        flag::register_conditional_shutdown(signal, 130, tombolo_tests::interrupt::flag())?;
        flag::register(signal, tombolo_tests::interrupt::flag())?;
    }
    if arguments.list {
        return contender::list(&arguments.also);
    }
    anyhow::ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
    tombolo_tests::namespace::remove_stale();
    if arguments.micro {
        return micro::run(arguments.json.as_deref());
    }
    comparison::run(&Plan {
        contenders: contender::find(&arguments.contenders, &arguments.also)?,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        base: arguments.base,
        udp_segmentation: !arguments.no_udp_segmentation,
        max_foreign: arguments.max_foreign,
        json: arguments.json,
        markdown: arguments.markdown,
    })
}
