//! Running cargo, with its output shown as it comes and looked through for what we count.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tombolo_tests::interrupt;

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// A cargo command in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// What `cargo metadata` says of the workspace's own packages.
pub(crate) fn metadata() -> Result<Value> {
    let output = cargo(&["metadata", "--format-version=1", "--no-deps"]).stderr(Stdio::inherit()).output()?;
    serde_json::from_slice(&output.stdout).context("reading what `cargo metadata` says")
}

/// The target folder.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    Ok(metadata["target_directory"].as_str().context("a target folder")?.into())
}

/// Runs a command to its end, its output shown.
///
/// # Errors
/// When it does not end with exit code zero.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {:?}", command.get_program()))?;
    interrupt::check()?;
    if !status.success() {
        bail!("ended with {status}");
    }
    Ok(())
}

/// Runs a command to its end, its output shown, and every line of it given to `line` as well.
///
/// # Errors
/// When it does not end with exit code zero.
pub(crate) fn run_watched(command: &mut Command, line: impl Fn(&str) + Sync) -> Result<()> {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting cargo")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(|| watch(stdout, |text| println!("{text}"), &line));
        scope.spawn(|| watch(stderr, |text| eprintln!("{text}"), &line));
    });
    let status = child.wait()?;
    interrupt::check()?;
    if !status.success() {
        bail!("ended with {status}");
    }
    Ok(())
}

fn watch(source: Option<impl Read>, show: impl Fn(&str), line: impl Fn(&str)) {
    let Some(source) = source else { return };
    for bytes in BufReader::new(source).split(b'\n').map_while(std::io::Result::ok) {
        let text = String::from_utf8_lossy(&bytes);
        show(&text);
        line(&text);
    }
}
