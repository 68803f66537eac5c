//! `tombolo-bench`: what `cargo xtask bench` runs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use signal_hook::{consts, flag};
use tombolo_benches::suite::{self, Part, Plan};
use tombolo_benches::{Result, contender, forwarder};

/// Whole tunnels beside each other, and the steps of the data path one by one. Needs root.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Show what can be compared, and end.
    #[arg(long)]
    list: bool,
    /// Who takes part, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    contenders: Vec<String>,
    /// A further userspace WireGuard, started as `PROGRAM -f INTERFACE`; or Nebula, where the program is called `nebula`.
    #[arg(long, value_name = "NAME=PROGRAM")]
    also: Vec<String>,
    /// Measure these parts alone, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// One round of short samples, for development: ours, the forwarder and the plain wire, unless
    /// contenders are named.
    #[arg(long)]
    quick: bool,
    /// How often each contender is measured [default: 3, quick: 1].
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of each TCP transfer [default: 4, quick: 1].
    #[arg(long)]
    seconds: Option<u32>,
    /// Whom the ratios refer to.
    #[arg(long, default_value = "boringtun")]
    base: String,
    /// Share of the processors that others may take during a sample; else it is taken again. 1: measure at
    /// once, whatever else runs.
    #[arg(long, default_value_t = 0.06)]
    max_foreign: f64,
    /// Write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables to this file too.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Put the tables between the marks in this document.
    #[arg(long)]
    into: Option<PathBuf>,
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
    let quick = arguments.quick;
    let mut names = arguments.contenders;
    if quick && names.is_empty() {
        names = contender::QUICK.map(str::to_owned).to_vec();
    }
    suite::run(&Plan {
        contenders: contender::find(&names, &arguments.also)?,
        rounds: arguments.rounds.unwrap_or(if quick { 1 } else { 3 }),
        seconds: arguments.seconds.unwrap_or(if quick { 1 } else { 4 }),
        only: arguments.only,
        quick,
        base: arguments.base,
        max_foreign: arguments.max_foreign,
        json: arguments.json,
        markdown: arguments.markdown,
        into: arguments.into,
    })
}
