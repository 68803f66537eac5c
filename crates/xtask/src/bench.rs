//! `cargo xtask bench`: the comparison in `benches/`, with the binaries that ship.

use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, dist, packages};

/// Builds what ships and what measures, and runs the comparison. Its tables and figures are kept in the
/// target folder, unless other places are named.
///
/// # Errors
/// When something cannot be built.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    packages::provide(&["ethtool", "iperf3", "iproute2", "procps", "wireguard-go", "wireguard-tools"])?;
    let binaries: Vec<PathBuf> = dist::build()?;
    let mut command = dist::cargo(&["run", "--release", "--package", "tombolo-benches"]);
    command.arg("--");
    if let Some(folder) = binaries.first().and_then(|path| path.parent()) {
        command.env(tombolo_tests::node::BINARIES, folder);
    }
    let folder = cargo::target_directory()?.join("bench");
    std::fs::create_dir_all(&folder)?;
    for (option, file) in [("--json", "figures.json"), ("--markdown", "figures.md")] {
        if !arguments.iter().any(|argument| argument.starts_with(option)) {
            command.arg(option).arg(folder.join(file));
        }
    }
    Ok(command.args(arguments).status()?.success())
}
