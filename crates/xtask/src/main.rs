//! `cargo xtask`: what a person runs, and what continuous integration runs. Nothing else builds, tests
//! or shows the project.

mod bench;
mod cargo;
mod demo;
mod dist;
mod packages;
mod test;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use signal_hook::{consts, flag};

/// Tasks of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Three regions, one PostgreSQL: the main job on real input. Needs root.
    Demo,
    /// Formatting, lints, documentation, dependencies and all tests.
    Test {
        /// Also what takes longer than a quarter of an hour.
        #[arg(long)]
        long: bool,
    },
    /// Throughput, processor time and latency, ours beside those of other implementations. Needs root.
    Bench {
        /// Passed on to the comparison.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The static release binary, as it ships.
    Dist,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the task succeeded; it has said itself why it did not.
fn run(task: &Task) -> anyhow::Result<bool> {
    stop_in_order()?;
    match task {
        Task::Demo => demo::run(),
        Task::Test { long } => test::run(*long),
        Task::Bench { arguments } => bench::run(arguments),
        Task::Dist => dist::run(),
    }
}

/// The first signal asks every wait to end, so that what was made is removed; the second one ends the
/// program at once, and the next run removes what it left.
fn stop_in_order() -> anyhow::Result<()> {
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        let requested = tombolo_tests::interrupt::flag();
        flag::register_conditional_shutdown(signal, 130, requested.clone()).context("catching signals")?;
        flag::register(signal, requested).context("catching signals")?;
    }
    Ok(())
}
