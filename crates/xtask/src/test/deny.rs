//! Licences, bans, sources and advisories of the dependencies, by `cargo-deny` and `deny.toml`.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use tombolo_tests::command;

use crate::cargo;

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// Where the advisories are kept.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";

/// How long the database may take to answer that it is there.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What needs no network.
///
/// # Errors
/// When a dependency breaks a rule, or the tool cannot be had.
pub(crate) fn check() -> Result<String> {
    run(&["bans", "licenses", "sources"]).map(|()| String::new())
}

/// Known faults in the dependencies, where the database can be reached.
///
/// # Errors
/// When a dependency has one.
pub(crate) fn check_advisories() -> Result<String> {
    let mut question = Command::new("git");
    question.args(["ls-remote", "--heads", DATABASE]).env("GIT_TERMINAL_PROMPT", "0");
    let answer = command::output(&mut question, ANSWER_LIMIT);
    if !answer.is_ok_and(|output| output.status.success()) {
        return Ok("advisories: not checked, database unreachable".to_owned());
    }
    run(&["advisories"]).map(|()| String::new())
}

fn run(checks: &[&str]) -> Result<()> {
    let tool = provide()?;
    let mut command = Command::new(&tool);
    command.current_dir(cargo::root()).args(["--workspace", "check", "--hide-inclusion-graph"]).args(checks);
    cargo::run(&mut command).with_context(|| format!("cargo deny check {}", checks.join(" ")))
}

/// The path of the tool, which is built into the target folder where the system has none.
fn provide() -> Result<PathBuf> {
    if command::is_installed("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let folder = cargo::target_directory()?.join("tools");
    let tool = folder.join("bin/cargo-deny");
    if !tool.exists() {
        println!("building cargo-deny {VERSION}, once");
        // Without optimisation it is built in half of the time and still answers in a second or two.
        let mut command = cargo::cargo(&["install", "--locked", "--debug", "--quiet", "cargo-deny"]);
        command.arg(format!("--version={VERSION}")).arg("--root").arg(&folder);
        cargo::run(&mut command).context("building cargo-deny")?;
    }
    Ok(tool)
}
