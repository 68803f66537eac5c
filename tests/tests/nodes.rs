//! What a member does for its own machine: names for its programs, another key, clones, other networks beside it.
//!
//! ```text
//!   server 192.0.2.10 ─┐
//!   alpha  198.51.100.10 ── router
//!   beta   203.0.113.10 ┘
//! ```

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tombolo_tests::{
    Result, Scene,
    command::{output, run, run_with_input},
    host::{Host, hosts},
    machine_wide, machine_wide_and_patient,
    topology::Internet,
    transfer,
    wait::{now, wait_until},
};

/// How long something may take that should take a moment.
const LIMIT: Duration = Duration::from_secs(20);

fn three_hosts(scene: &Scene) -> Result<(Internet, [Host; 3])> {
    let mut internet = Internet::new()?;
    let all: [Host; 3] = hosts(scene, &mut internet)?;
    // No name server elsewhere: who asks for a name that is not there hears so at once.
    for host in &all {
        let file = host.namespace().hosts_file().with_file_name("resolv.conf");
        fs::write(file, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
    }
    Ok((internet, all))
}

/// A member's addresses, as programs of this machine resolve its name.
fn resolved(host: &Host, name: &str) -> Vec<IpAddr> {
    resolved_in(host, name, "tombolo")
}

fn resolved_in(host: &Host, name: &str, network: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for kind in ["ahostsv4", "ahostsv6"] {
        let mut command = host.namespace().command("getent");
        let found = output(command.args([kind, &format!("{name}.{network}.internal")]), LIMIT);
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
            let address = beta.address()?;
            // From each at the same time, as the time runs for all.
            thread::scope(|scope| {
                let tasks = [("alpha", &alpha), ("the server", &server)].map(|(from, host)| {
                    let (beta, left) = (&beta, &left);
                    scope.spawn(move || {
                        // By name: a program of a machine that has never heard of it.
                        wait_for_name(host, "beta", beta, left()).context(from)?;
                        // By address: the first packet asks for the tunnel.
                        transfer::reach(host.namespace(), beta.namespace(), address, left()).context(from)?;
                        scene.say(&format!("reachable from {from} {:?} after the join", now() - joined));
                        anyhow::Ok(())
                    })
                });
                tasks.into_iter().try_for_each(|task| task.join().map_err(|_| anyhow!("it panicked"))?)
            })?;
            wait_for_name(&beta, "alpha", &alpha, LIMIT)?;
            wait_for_name(&beta, "server", &server, LIMIT)
        },
    );
}

#[test]
fn names_outlive_the_server_and_go_with_their_nodes() {
    machine_wide_and_patient("names_outlive_the_server_and_go_with_their_nodes", |scene| {
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

/// The machine's static key, as its daemon has it.
fn key(host: &Host) -> Result<String> {
    let status = host.json(&["status", "--json"])?;
    Ok(status["interface"]["public_key"].as_str().context("a key")?.to_owned())
}

/// The key that the register has for a node.
fn registered_key(server: &Host, name: &str) -> Result<String> {
    let shown = server.json(&["node", "show", name, "--json"])?;
    Ok(shown["public_key"].as_str().context("a key")?.to_owned())
}

#[test]
fn a_key_is_changed_while_connections_go_on_control_rule_17() {
    machine_wide_and_patient("a_key_is_changed_while_connections_go_on_control_rule_17", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        beta.join("beta", &server.token(&[])?)?;
        alpha.reaches(&beta, "beta")?;
        let (before, target) = (key(&alpha)?, beta.address()?);
        // One transfer after the other, until the key was changed in the middle of one of them.
        let changed = AtomicBool::new(false);
        thread::scope(|scope| {
            let transfers = scope.spawn(|| {
                while !changed.load(Ordering::SeqCst) {
                    transfer::tcp(alpha.namespace(), beta.namespace(), target, 8 << 20)?;
                }
                Ok(())
            });
            let said = alpha.run(&["rotate-key"]);
            changed.store(true, Ordering::SeqCst);
            let transferred: Result = transfers.join().map_err(|_| anyhow!("the transfer panicked"))?;
            transferred?;
            said.map(drop)
        })?;
        let after = key(&alpha)?;
        ensure!(before != after, "another key");
        ensure!(registered_key(&server, "alpha")? == after);
        beta.reaches(&alpha, "alpha")?;
        let who = beta.json(&["whois", &alpha.address()?.to_string(), "--json"])?;
        ensure!(who["public_key"] == after.as_str(), "{who}");
        // The disk has the new key and no other, and a restart comes up with it.
        ensure!(!alpha.folder.join("state/tombolo/key.next").exists());
        server.run(&["down"])?;
        alpha.run(&["down"])?;
        alpha.run(&["up"])?;
        ensure!(key(&alpha)? == after);
        alpha.reaches(&beta, "beta")
    });
}

#[test]
fn a_node_killed_while_its_key_changes_comes_back_control_rule_17() {
    machine_wide_and_patient("a_node_killed_while_its_key_changes_comes_back_control_rule_17", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        beta.join("beta", &server.token(&[])?)?;
        // Alpha dies when the new key is on its disk, beta when the register has it.
        for (host, name) in [(&alpha, "alpha"), (&beta, "beta")] {
            let before = key(host)?;
            let mut asking = host.command(&["rotate-key"]).spawn()?;
            wait_until("the step", LIMIT, || match name {
                "alpha" => host.folder.join("state/tombolo/key.next").exists(),
                _ => registered_key(&server, name).is_ok_and(|key| key != before),
            })?;
            host.kill()?;
            // It was told, or not.
            let _ = asking.wait()?;
            host.run(&["up"])?;
            let settled = || {
                let own = key(host).ok();
                own.is_some() && own == registered_key(&server, name).ok() && own.as_ref() != Some(&before)
            };
            wait_until("the new key", LIMIT, settled)?;
        }
        alpha.reaches(&beta, "beta")?;
        beta.reaches(&server, "server")
    });
}

fn status(host: &Host) -> Result<serde_json::Value> {
    host.json(&["status", "--json"])
}

fn warns_of(host: &Host, what: &str) -> bool {
    let warnings = status(host).map(|status| status["warnings"].to_string());
    warnings.is_ok_and(|warnings| warnings.contains(what))
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) -> Result {
    run(Command::new("cp").arg("-aT").arg(from).arg(to)).map(drop)
}

fn replace(path: &Path, from: &str, to: &str) -> Result {
    let text = fs::read_to_string(path)?;
    ensure!(text.contains(from), "{text}");
    Ok(fs::write(path, text.replace(from, to))?)
}

#[test]
fn a_cloned_disk_is_refused_and_two_live_ones_are_told_control_rule_19() {
    machine_wide_and_patient(
        "a_cloned_disk_is_refused_and_two_live_ones_are_told_control_rule_19",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            if !Path::new("/etc/machine-id").exists() {
                scene.say("SKIPPED in part: this machine has no id that another could have instead");
                return Ok(());
            }
            // Each has an id of its own, in the place of that of the machine on which the test runs.
            for (host, digit) in [(&alpha, "a"), (&beta, "b")] {
                fs::write(host.namespace().hosts_file().with_file_name("machine-id"), digit.repeat(32))?;
            }
            alpha.join("alpha", &server.init(&["--name", "server"])?)?;
            alpha.run(&["down"])?;
            let setting = |host: &Host| host.folder.join("config/tombolo.toml");
            // Also where the test runs in a container.
            replace(&setting(&alpha), "[membership]\n", "[membership]\nbind_machine = true\n")?;
            alpha.run(&["up"])?;
            alpha.run(&["down"])?;
            for folder in ["config", "state"] {
                copy(&alpha.folder.join(folder), &beta.folder.join(folder))?;
            }
            alpha.run(&["up"])?;
            let refused = output(&mut beta.command(&["up"]), LIMIT)?;
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            ensure!(
                !refused.status.success() && said.contains("another machine's (machine-id differs)"),
                "{said}"
            );
            ensure!(said.contains("tombolo leave --force"), "{said}");
            // Against all advice.
            replace(&setting(&beta), "bind_machine = true", "bind_machine = false")?;
            beta.run(&["up"])?;
            wait_until("the alarm", Duration::from_secs(40), || {
                let _ = (alpha.wait_for_peer("server"), beta.wait_for_peer("server"));
                warns_of(&server, "a copied disk, or a stolen key")
            })
        },
    );
}

#[test]
fn a_network_that_overlaps_a_local_route_is_left_again_control_rule_5() {
    machine_wide_and_patient("a_network_that_overlaps_a_local_route_is_left_again_control_rule_5", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        let token = server.init(&["--name", "server", "--cidr", "10.77.0.0/16"])?;
        beta.namespace().ip("link add lan0 type veth peer name lan1")?;
        beta.namespace().ip("link set lan0 up")?;
        beta.namespace().ip("link set lan1 up")?;
        beta.namespace().ip("address add 10.77.5.1/24 dev lan0")?;
        let (code, said) = beta.refusal("beta", &token)?;
        ensure!(code == 1 && said.contains("10.77.5.0/24") && said.contains("--cidr"), "{code} {said}");
        ensure!(
            !beta.folder.join("state/tombolo").exists() && !beta.folder.join("config/tombolo.toml").exists()
        );
        let nodes = server.json(&["node", "list", "--json"])?;
        ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 1), "{nodes}");
        // Elsewhere it fits, by the same name.
        alpha.join("beta", &server.token(&[])?)?;
        alpha.reaches(&server, "server")
    });
}

#[test]
fn an_interface_that_is_deleted_under_a_member_comes_back_and_new_addresses_are_told_control_rule_13() {
    machine_wide_and_patient(
        "an_interface_that_is_deleted_under_a_member_comes_back_and_new_addresses_are_told_control_rule_13",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            alpha.join("alpha", &server.init(&["--name", "server"])?)?;
            beta.join("beta", &server.token(&[])?)?;
            alpha.reaches(&beta, "beta")?;
            let (name, process) =
                (status(&alpha)?["interface"]["name"].clone(), status(&alpha)?["pid"].clone());
            let interface = name.as_str().context("a name")?;
            alpha.namespace().ip(&format!("link delete {interface}"))?;
            wait_until("the interface", LIMIT, || {
                alpha.namespace().ip(&format!("link show {interface}")).is_ok_and(|text| text.contains("UP"))
                    && status(&alpha).is_ok()
            })?;
            alpha.reaches(&beta, "beta")?;
            beta.reaches(&alpha, "alpha")?;
            ensure!(status(&alpha)?["pid"] == process, "the same process");
            // Another address, at run time; one in a tunnel is none for others.
            alpha.namespace().ip("link add lan0 type veth peer name lan1")?;
            alpha.namespace().ip("link set lan0 up")?;
            alpha.namespace().ip("link set lan1 up")?;
            alpha.namespace().ip("address add 172.31.9.1/24 dev lan0")?;
            alpha.namespace().ip("tuntap add tap-vpn mode tun")?;
            alpha.namespace().ip("link set tap-vpn up")?;
            alpha.namespace().ip("address add 172.31.10.1/24 dev tap-vpn")?;
            let told = || status(&alpha).map(|status| status["membership"]["candidates"].to_string());
            wait_until("the address", LIMIT, || told().is_ok_and(|told| told.contains("172.31.9.1:8662")))?;
            ensure!(!told()?.contains("172.31.10.1") && !told()?.contains("127.0.0.1"), "{}", told()?);
            ensure!(told()?.contains(&alpha.machine.address.to_string()), "{}", told()?);
            alpha.namespace().ip("link delete lan0")?;
            wait_until("the address is gone", LIMIT, || told().is_ok_and(|told| !told.contains("172.31.9.1")))
        },
    );
}

#[test]
fn one_machine_is_in_two_networks_at_once() {
    machine_wide_and_patient("one_machine_is_in_two_networks_at_once", |scene| {
        let (_internet, [red, alpha, blue]) = three_hosts(scene)?;
        for (server, network) in [(&red, "red"), (&blue, "blue")] {
            let token = server.init(&["-n", network, "--name", "server"])?;
            let mut join = alpha.command(&["-n", network, "join", "--name", "alpha", "-"]);
            run_with_input(&mut join, &token)?;
        }
        let of = |network: &str| alpha.json(&["-n", network, "status", "--json"]);
        let (in_red, in_blue) = (of("red")?, of("blue")?);
        for field in ["name", "listen_port", "public_key", "addresses"] {
            let (one, other) = (&in_red["interface"][field], &in_blue["interface"][field]);
            ensure!(!one.is_null() && one != other, "{field}: {one} and {other}");
        }
        for network in ["red", "blue"] {
            let state = alpha.folder.join("state").join(network);
            ensure!(state.join("membership.json").exists() && state.join("key").exists());
        }
        // Data of both, one after the other and the first again; both by name.
        for (server, network) in [(&red, "red"), (&blue, "blue"), (&red, "red")] {
            let address = server.address()?;
            transfer::reach(alpha.namespace(), server.namespace(), address, LIMIT)?;
            transfer::tcp(alpha.namespace(), server.namespace(), address, 1 << 20)?;
            wait_until("the name", LIMIT, || resolved_in(&alpha, "server", network).contains(&address))?;
            ensure!(resolved_in(server, "server", network).contains(&address));
        }
        // What names no network is refused, rather than done to one of them.
        let unclear = output(&mut alpha.command(&["status"]), LIMIT)?;
        ensure!(unclear.status.code() == Some(1), "{unclear:?}");
        // One of them ends, the other does not notice.
        alpha.run(&["-n", "red", "leave"])?;
        transfer::tcp(alpha.namespace(), blue.namespace(), blue.address()?, 1 << 20)?;
        ensure!(resolved_in(&alpha, "server", "red").is_empty());
        ensure!(resolved_in(&alpha, "server", "blue").contains(&blue.address()?));
        Ok(())
    });
}
