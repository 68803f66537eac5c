//! Programs of the system that the demonstration, the tests and the comparison use.

use std::process::Command;

use anyhow::{Context, Result, bail};
use tombolo_tests::{command::is_installed, postgres};

/// A Debian package, and how to see that it is there.
struct Package {
    name: &'static str,
    is_there: fn() -> bool,
}

const PACKAGES: &[Package] = &[
    Package { name: "ethtool", is_there: || is_installed("ethtool") },
    Package { name: "etcd-client", is_there: || is_installed("etcdctl") },
    Package { name: "etcd-server", is_there: || is_installed("etcd") },
    Package { name: "iperf3", is_there: || is_installed("iperf3") },
    Package { name: "iproute2", is_there: || is_installed("ip") },
    Package { name: "nftables", is_there: || is_installed("nft") },
    Package { name: "postgresql", is_there: || postgres::programs().is_ok() },
    Package { name: "procps", is_there: || is_installed("sysctl") },
    Package { name: "tcpdump", is_there: || is_installed("tcpdump") },
    Package { name: "wireguard-go", is_there: || is_installed("wireguard-go") },
    Package { name: "wireguard-tools", is_there: || is_installed("wg") },
];

/// The packages among `wanted` (all of them where it is empty) that are missing here.
fn missing(wanted: &[&str]) -> Vec<&'static str> {
    PACKAGES
        .iter()
        .filter(|package| wanted.is_empty() || wanted.contains(&package.name))
        .filter(|package| !(package.is_there)())
        .map(|package| package.name)
        .collect()
}

/// Installs what is missing among `wanted` (everything that is known where it is empty), and says what it did. Without
/// root it names what is missing and how to get it.
///
/// # Errors
/// When the installation fails.
pub(crate) fn provide(wanted: &[&str]) -> Result<String> {
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok("all there".to_owned());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() {
        return Ok(format!("missing, and not installed without root: apt-get install {list}"));
    }
    println!("installing {list}");
    if install(&missing).is_err() {
        // The lists of a fresh machine are often empty.
        apt_get(&["update", "-q"])?;
        install(&missing)?;
    }
    let still_missing = self::missing(wanted);
    if !still_missing.is_empty() {
        bail!("installed, but not found: {}", still_missing.join(" "));
    }
    Ok(format!("installed {list}"))
}

fn install(names: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(names);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    let status = command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("starting apt-get: this is not Debian")?;
    if !status.success() {
        bail!("apt-get {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}
