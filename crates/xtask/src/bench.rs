//! `cargo xtask bench`: the comparison in `benches/`, with the binary that ships.

use std::path::PathBuf;

use anyhow::Result;

use crate::{cargo, dist, packages};

/// Builds what ships and what measures, and runs the comparison.
///
/// # Errors
/// When something cannot be built.
pub(crate) fn run(arguments: &[String]) -> Result<bool> {
    packages::provide(&["ethtool", "iperf3", "iproute2", "procps", "wireguard-go", "wireguard-tools"])?;
    let binaries: Vec<PathBuf> = dist::build()?;
    let mut command = cargo::cargo(&["run", "--release", "--package", "tombolo-benches", "--"]);
    if let Some(folder) = binaries.first().and_then(|path| path.parent()) {
        command.env(tombolo_tests::node::BINARIES, folder);
    }
    Ok(command.args(arguments).status()?.success())
}
