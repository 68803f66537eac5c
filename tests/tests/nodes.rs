//! What a member does for its own machine: names for its programs, another key, clones, two networks at once.
//!
//! ```text
//!   server 192.0.2.10 ─┐
//!   alpha  198.51.100.10 ── router
//!   beta   203.0.113.10 ┘
//! ```

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use tombolo_tests::{
    Result, Scene,
    command::output,
    host::Host,
    machine_wide,
    topology::Internet,
    transfer,
    wait::{now, wait_until},
};

/// How long something may take that should take a moment.
const LIMIT: Duration = Duration::from_secs(20);

fn three_hosts(scene: &Scene) -> Result<(Internet, [Host; 3])> {
    let mut internet = Internet::new()?;
    let server = Host::new(scene, &mut internet, "server", [192, 0, 2, 0])?;
    let alpha = Host::new(scene, &mut internet, "alpha", [198, 51, 100, 0])?;
    let beta = Host::new(scene, &mut internet, "beta", [203, 0, 113, 0])?;
    Ok((internet, [server, alpha, beta]))
}

/// A member's addresses, as programs of this machine resolve its name.
fn resolved(host: &Host, name: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for kind in ["ahostsv4", "ahostsv6"] {
        let mut command = host.namespace().command("getent");
        let found = output(command.args([kind, &format!("{name}.tombolo.internal")]), LIMIT);
        let Ok(found) = found else { continue };
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        addresses
            .extend(text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<IpAddr>().ok()));
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn wait_for_name(host: &Host, name: &str, of: &Host, limit: Duration) -> Result {
    let mut expected = of.addresses()?;
    expected.sort_unstable();
    let what = format!("{name} to have the addresses {expected:?}");
    wait_until(&what, limit, || resolved(host, name) == expected)
}

#[test]
fn a_node_is_reachable_by_name_and_address_from_any_node_within_two_seconds_of_its_join() {
    machine_wide(
        "a_node_is_reachable_by_name_and_address_from_any_node_within_two_seconds_of_its_join",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            alpha.join("alpha", &server.init(&["--name", "server"])?)?;
            wait_for_name(&alpha, "alpha", &alpha, LIMIT)?;
            let token = server.token(&[])?;
            beta.join("beta", &token)?;
            let joined = now();
            let left = || Duration::from_secs(2).saturating_sub(now() - joined);
            // By name: a program of a machine that has never heard of it.
            wait_for_name(&alpha, "beta", &beta, left())?;
            // By address: the first packet asks for the tunnel.
            transfer::reach(alpha.namespace(), beta.namespace(), beta.address()?, left())?;
            scene.say(&format!("reachable by name and address {:?} after the join", now() - joined));
            wait_for_name(&server, "beta", &beta, LIMIT)?;
            wait_for_name(&beta, "alpha", &alpha, LIMIT)?;
            wait_for_name(&beta, "server", &server, LIMIT)
        },
    );
}

#[test]
fn names_outlive_the_server_and_go_with_their_nodes() {
    machine_wide("names_outlive_the_server_and_go_with_their_nodes", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        beta.join("beta", &server.token(&[])?)?;
        wait_for_name(&alpha, "beta", &beta, LIMIT)?;
        // The machine's own lines stay, and the machine's own domain is nobody else's.
        let hosts = fs::read_to_string(alpha.namespace().hosts_file())?;
        ensure!(hosts.starts_with("127.0.0.1 localhost\n") && !hosts.contains(" beta\n"), "{hosts}");
        // A new name, with nobody asking for it.
        server.run(&["node", "rename", "beta", "second"])?;
        wait_until("the new name", LIMIT, || !resolved(&alpha, "second").is_empty())?;
        ensure!(resolved(&alpha, "beta").is_empty(), "the old name is nobody's");
        // From the disk, with every server away.
        server.run(&["down"])?;
        alpha.run(&["down"])?;
        let closed = fs::read_to_string(alpha.namespace().hosts_file())?;
        ensure!(closed == "127.0.0.1 localhost\n", "{closed}");
        alpha.run(&["up"])?;
        wait_until("the name from the disk", LIMIT, || !resolved(&alpha, "second").is_empty())?;
        server.run(&["up"])?;
        server.run(&["node", "revoke", "second"])?;
        wait_until("a revoked node has no name", LIMIT, || resolved(&alpha, "second").is_empty())?;
        alpha.run(&["leave"])?;
        let left = fs::read_to_string(alpha.namespace().hosts_file())?;
        ensure!(left == "127.0.0.1 localhost\n", "{left}");
        Ok(())
    });
}
