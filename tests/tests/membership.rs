//! From nothing to machines in one subnet: `server init`, `join`, and what a user does from there.
//!
//! ```text
//!   server 192.0.2.10 ─┐
//!   alpha  198.51.100.10 ── router
//!   beta   203.0.113.10 ┘
//! ```

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tombolo_tests::{
    Result, Scene,
    command::{output, run, run_with_input},
    host::{Host, hosts},
    machine_wide_and_patient,
    process::Process,
    topology::Internet,
    transfer,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(20);

fn three_hosts(scene: &Scene) -> Result<(Internet, [Host; 3])> {
    let mut internet = Internet::new()?;
    let all = hosts(scene, &mut internet)?;
    Ok((internet, all))
}

#[test]
fn a_token_joins_a_machine_and_members_come_back_from_disk_without_the_server() {
    machine_wide_and_patient(
        "a_token_joins_a_machine_and_members_come_back_from_disk_without_the_server",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            let token = server.init(&["--name", "server"])?;
            alpha.join("alpha", &token)?;
            beta.join("beta", &server.token(&[])?)?;
            // By name, before anybody has talked to beta; and whose name it is not.
            ensure!(alpha.resolve("beta")?.1.map(IpAddr::from) == Some(beta.address()?));
            ensure!(alpha.resolve("nobody")? == (3, None));
            alpha.reaches(&server, "server")?;
            alpha.reaches(&beta, "beta")?;
            beta.reaches(&alpha, "alpha")?;
            // Much more than an unproven path is allowed, from the side that answered the handshake.
            for (from, to) in [(&server, &alpha), (&beta, &alpha), (&alpha, &beta)] {
                transfer::tcp(from.namespace(), to.namespace(), to.address()?, 4 << 20)?;
            }
            let status = alpha.json(&["status", "--json"])?;
            ensure!(status["membership"]["state"] == "valid", "{status}");
            ensure!(status["membership"]["servers"][0]["connected"] == true, "{status}");
            // With every server down a machine that restarts comes up from its own disk.
            server.run(&["down"])?;
            alpha.run(&["down"])?;
            alpha.run(&["up"])?;
            alpha.reaches(&beta, "beta")?;
            beta.reaches(&alpha, "alpha")?;
            // And the server with its register.
            server.run(&["up"])?;
            let nodes = server.json(&["node", "list", "--json"])?;
            ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 3), "{nodes}");
            alpha.reaches(&server, "server")
        },
    );
}

#[test]
fn a_token_is_good_once_and_a_refused_machine_keeps_nothing_control_rule_15() {
    machine_wide_and_patient(
        "a_token_is_good_once_and_a_refused_machine_keeps_nothing_control_rule_15",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            let token = server.init(&["--name", "server"])?;
            alpha.join("alpha", &token)?;
            let (code, text) = beta.refusal("beta", &token)?;
            ensure!(code == 1 && text.contains("the token is spent"), "{code} {text}");
            // Whoever looks at the server hears of it, and who was first.
            wait_until("the server warns", LIMIT, || server.warns_of("after alpha had spent it"))?;
            let log = server.run(&["audit", "--last", "20"])?;
            ensure!(log.contains("spent token tried by another key"), "{log}");
            ensure!(
                !beta.folder.join("config/tombolo.toml").exists()
                    && !beta.folder.join("state/tombolo").exists()
            );
            let links = || run(beta.namespace().command("ip").args(["-brief", "link"]));
            ensure!(!links()?.contains("tombolo"), "an interface is left: {}", links()?);
            let fresh = &*server.token(&[])?;
            let (code, text) = beta.refusal("alpha", fresh)?;
            ensure!(code == 1 && text.contains("the name `alpha` is another node's"), "{code} {text}");
            let (code, text) = beta.refusal("beta", &fresh[..fresh.len() - 1])?;
            ensure!(code == 1, "{code} {text}");
            let (code, text) = alpha.refusal("alpha", fresh)?;
            ensure!(code == 1 && text.contains("this machine has a network"), "{code} {text}");
            server.run(&["down"])?;
            let (code, text) = beta.refusal("beta", fresh)?;
            let endpoint = format!("tried {}:8662", server.machine.address);
            ensure!(code == 2 && text.contains(&endpoint) && text.contains("firewall"), "{code} {text}");
            ensure!(!links()?.contains("tombolo"), "an interface is left: {}", links()?);
            // Nothing of that was in vain: the token is as good as before.
            server.run(&["up"])?;
            beta.join("beta", fresh)?;
            Ok(())
        },
    );
}

#[test]
fn a_join_that_is_interrupted_leaves_nothing_that_runs_and_the_token_as_good_as_before() {
    machine_wide_and_patient(
        "a_join_that_is_interrupted_leaves_nothing_that_runs_and_the_token_as_good_as_before",
        |scene| {
            let (_internet, [server, alpha, _]) = three_hosts(scene)?;
            let token = server.init(&["--name", "server"])?;
            let file = scene.write("token", &token)?;
            server.run(&["down"])?;
            let lock = alpha.folder.join("run/tombolo.lock");
            // By Ctrl-C, and by a kill that lets nothing be tidied up.
            for (signal, tidy) in [(Signal::INT, true), (Signal::KILL, false)] {
                let mut command = alpha.command(&["join", "--name", "alpha"]);
                let mut join = Process::spawn(scene, "join", command.arg(&file))?;
                wait_until("the daemon tries", LIMIT, || alpha.run(&["status"]).is_ok())?;
                let (code, text) = alpha.refusal("alpha", &token)?;
                ensure!(code == 1 && text.contains("is under way"), "{code} {text}");
                join.signal(signal)?;
                let status = join.wait(LIMIT)?;
                ensure!(!tidy || status.code() == Some(130), "{status}: {}", join.log());
                ensure!(alpha.folder.join("config/tombolo.toml").exists() != tidy);
                let holder = output(Command::new("flock").args(["-n"]).arg(&lock).arg("true"), LIMIT)?;
                ensure!(holder.status.success() == tidy, "the daemon runs: {}", !holder.status.success());
            }
            // What the second one left behind gives way.
            server.run(&["up"])?;
            alpha.join("alpha", &token)?;
            alpha.reaches(&server, "server")
        },
    );
}

#[test]
fn members_that_cannot_reach_each_other_go_through_the_relay_and_back_control_rule_14() {
    machine_wide_and_patient(
        "members_that_cannot_reach_each_other_go_through_the_relay_and_back_control_rule_14",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            alpha.join("alpha", &server.init(&["--name", "server"])?)?;
            beta.join("beta", &server.token(&[])?)?;
            let place = alpha.namespace();
            place.nft("add table inet block")?;
            for (hook, word) in [("input", "saddr"), ("output", "daddr")] {
                place.nft(&format!(
                    "add chain inet block {hook} {{ type filter hook {hook} priority 0 ; }}"
                ))?;
                place.nft(&format!("add rule inet block {hook} ip {word} {} drop", beta.machine.address))?;
                place
                    .nft(&format!("add rule inet block {hook} ip6 {word} {} drop", beta.machine.address6))?;
            }
            // Direct ways are tried before the relay's.
            let (other, limit) = (beta.address()?, Duration::from_secs(60));
            transfer::reach(place, beta.namespace(), other, limit)?;
            beta.reaches(&alpha, "alpha")?;
            ensure!(alpha.path("beta").as_deref() == Some("relayed"), "the path is {:?}", alpha.path("beta"));
            // Once the direct path opens, it is found and used.
            place.nft("delete table inet block")?;
            let direct = || alpha.path("beta").as_deref() == Some("direct");
            wait_until("the direct path is used", Duration::from_secs(90), direct)?;
            alpha.reaches(&beta, "beta")
        },
    );
}

#[test]
fn a_revoked_node_is_cut_off_and_one_that_leaves_is_gone_control_rule_16() {
    machine_wide_and_patient(
        "a_revoked_node_is_cut_off_and_one_that_leaves_is_gone_control_rule_16",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            alpha.join("alpha", &server.init(&["--name", "server"])?)?;
            beta.join("beta", &server.token(&[])?)?;
            alpha.reaches(&beta, "beta")?;
            server.run(&["node", "revoke", "beta"])?;
            // Cut at the server, and by the new document at whoever talks to it.
            for host in [&server, &alpha] {
                let mut command = host.command(&["wait", "--peer", "beta", "--timeout", "1s"]);
                wait_until("the revoked node is cut off", LIMIT, || {
                    output(&mut command, LIMIT).is_ok_and(|output| output.status.code() == Some(3))
                })?;
            }
            alpha.run(&["leave"])?;
            ensure!(
                !alpha.folder.join("config/tombolo.toml").exists()
                    && !alpha.folder.join("state/tombolo").exists()
            );
            let nodes = server.json(&["node", "list", "--json"])?;
            ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 1), "{nodes}");
            Ok(())
        },
    );
}

#[test]
fn the_administrators_commands_do_what_they_say_control_rules_15_and_20() {
    machine_wide_and_patient(
        "the_administrators_commands_do_what_they_say_control_rules_15_and_20",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            alpha.join("alpha", &server.init(&["--name", "server"])?)?;
            // A token that was taken back lets nobody in.
            let token = server.token(&["--name", "beta"])?;
            let listed = server.json(&["token", "list", "--json"])?;
            let unspent = listed.as_array().and_then(|all| all.iter().find(|held| held["name"] == "beta"));
            let id = unspent.and_then(|held| held["token"].as_str()).context("the token in the list")?;
            server.run(&["token", "revoke", id])?;
            let (code, text) = beta.refusal("beta", &token)?;
            ensure!(code == 1, "{code} {text}");
            // A name that the token gives, and another one.
            server.run(&["node", "rename", "alpha", "first"])?;
            let shown = server.json(&["node", "show", "first", "--json"])?;
            ensure!(shown["name"] == "first" && shown["serial"].as_u64() > Some(1), "{shown}");
            let address = alpha.address()?;
            ensure!(server.json(&["network", "show", "--json"])?["nodes"] == 2);
            // Another machine takes its place: same address, another key.
            let token = server.json(&["node", "replace", "first", "--json"])?;
            run_with_input(&mut beta.command(&["join", "-"]), token["token"].as_str().context("a token")?)?;
            ensure!(beta.address()? == address, "{} is not {address}", beta.address()?);
            let replaced = server.json(&["node", "show", "first", "--json"])?;
            ensure!(replaced["public_key"] != shown["public_key"], "{replaced}");
            beta.reaches(&server, "server")?;
            let who = server.json(&["whois", &address.to_string(), "--json"])?;
            ensure!(who["public_key"] == replaced["public_key"] && who["name"] == "first", "{who}");
            let whois = server.run(&["whois", &address.to_string()])?;
            ensure!(whois.starts_with("first"), "{whois}");
            Ok(())
        },
    );
}
