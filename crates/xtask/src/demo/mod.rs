//! `cargo xtask demo`: the main job on real input, told as a short story.
//!
//! ```text
//!    us-east 192.0.2.10 ───┐                ┌─── 198.51.100.10 us-west
//!    PostgreSQL primary    ├──── router ────┤    standby
//!    neighbour 192.0.2.66 ─┘       │        └─── 203.0.113.10, later .77 eu-central
//!                               captures         standby
//! ```
//!
//! us-east makes the network (`tombolo server init`), the others join it with a token each. Everything lives in network namespaces and one
//! temporary folder, which are removed when the story ends, however it ends.

mod attack;
mod report;
mod story;

use std::path::PathBuf;

use anyhow::{Result, bail};
use tombolo_tests::{Scene, interrupt, namespace, node};

use crate::{dist, packages};
use report::Report;

/// What the story needs beside Tombolo.
const PACKAGES: &[&str] = &["iproute2", "postgresql", "procps", "tcpdump"];

/// Tells the story, and says whether every claim held.
///
/// # Errors
/// When something could not even be tried.
pub(crate) fn run() -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("the demonstration makes network namespaces and needs root");
    }
    println!("packages: {}", packages::provide(PACKAGES)?);
    let binary = binary()?;
    namespace::remove_stale();
    let scene = Scene::new()?;
    let mut report = Report::start();
    let told = story::tell(&scene, &binary, &mut report);
    match told {
        Ok(()) => {}
        Err(_) if interrupt::requested() => {
            println!("\ninterrupted: namespaces, processes and files are removed");
            return Ok(false);
        }
        Err(error) => {
            println!("\n{}", scene.logs());
            report.claim("the story came to its end", false, format!("{error:#}"));
        }
    }
    Ok(report.close())
}

/// The binary that ships, or the one in the folder that the environment names.
fn binary() -> Result<PathBuf> {
    if std::env::var_os(node::BINARIES).is_some() {
        return node::executable("tombolo");
    }
    println!("building the static release binary");
    let mut paths = dist::build()?;
    Ok(paths.swap_remove(0))
}
