//! Tells systemd-resolved, where it runs, which domain to ask us for. Everything else about the system's resolving stays.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// There while systemd-resolved runs.
const RUNS: &str = "/run/systemd/resolve/stub-resolv.conf";
const PROGRAM: &str = "resolvectl";
const TIME: Duration = Duration::from_secs(5);

/// Whether systemd-resolved answers the questions of this machine.
pub(crate) fn is_running() -> bool {
    Path::new(RUNS).exists()
}

/// Questions below `domain` go to `servers` through `interface`, and only they: `~` makes it a routing domain, and the
/// interface is no default route for names. What fails in the middle is taken back.
///
/// # Errors
/// `resolvectl` is missing, refuses, or does not end.
pub(crate) async fn register(interface: &str, domain: &str, servers: &[IpAddr]) -> io::Result<()> {
    for arguments in registration(interface, domain, servers) {
        if let Err(error) = run(&arguments).await {
            // It may well fail for the same reason.
            let _ = revert(interface).await;
            return Err(error);
        }
    }
    Ok(())
}

/// Takes the registration back.
///
/// # Errors
/// As [`register`].
pub(crate) async fn revert(interface: &str) -> io::Result<()> {
    run(&["revert".to_owned(), interface.to_owned()]).await
}

fn registration(interface: &str, domain: &str, servers: &[IpAddr]) -> [Vec<String>; 4] {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut dns = words(&["dns", interface]);
    dns.extend(servers.iter().map(ToString::to_string));
    // The order matters: without a domain, a server of an interface is asked for everything. Multicast has no way here.
    [
        words(&["llmnr", interface, "no"]),
        words(&["default-route", interface, "no"]),
        words(&["domain", interface, &format!("~{domain}")]),
        dns,
    ]
}

async fn run(arguments: &[String]) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(TIME, command.output())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("`{PROGRAM}` does not end")))??;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{PROGRAM} {}` failed: {}", arguments.join(" "), said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_domain_is_asked_for() {
        let [multicast, route, domain, dns] = registration(
            "tombolo0",
            "prod.internal",
            &["10.86.0.1".parse().unwrap(), "fd86::1".parse().unwrap()],
        );
        assert_eq!(multicast, ["llmnr", "tombolo0", "no"]);
        assert_eq!(route, ["default-route", "tombolo0", "no"]);
        assert_eq!(domain, ["domain", "tombolo0", "~prod.internal"]);
        assert_eq!(dns, ["dns", "tombolo0", "10.86.0.1", "fd86::1"]);
    }
}
