//! Members in the course of time: without an authority, forgotten, and by clocks that are wrong.
//!
//! ```text
//!   server 192.0.2.10 ───┐          ┌─── 203.0.113.10 beta
//!   alpha 198.51.100.10 ─── router ───── 100.70.1.10 gamma
//! ```

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result,
    command::output,
    host::{Host, hosts},
    machine_wide_and_patient,
    topology::Internet,
    transfer::{self, Stream},
    wait::{now, wait_until},
};

/// On a machine with other work too.
const LIMIT: Duration = Duration::from_secs(60);
const DAY: i64 = 86_400;
/// Bytes of a transfer that are enough to say that it goes on.
const MORE: u64 = 1 << 20;

fn serial(host: &Host) -> Result<u64> {
    host.status()?["membership"]["serial"].as_u64().context("a serial number")
}

fn wait_for_state(host: &Host, state: &str) -> Result {
    wait_until(&format!("a membership that is {state}"), LIMIT, || {
        host.membership_state().as_deref() == Some(state)
    })
}

#[test]
fn members_go_on_without_the_authority_and_renew_when_it_returns_control_rule_16() {
    machine_wide_and_patient(
        "members_go_on_without_the_authority_and_renew_when_it_returns_control_rule_16",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta] = hosts(scene, &mut internet)?;
            let token = server.init(&["--name", "server"])?;
            server.run(&["network", "set", "--lifetime", "15s", "--grace", "1h"])?;
            alpha.join("alpha", &token)?;
            beta.join("beta", &server.token(&[])?)?;
            alpha.reaches(&beta, "beta")?;
            let first = serial(&alpha)?;
            wait_until("a renewal", LIMIT, || serial(&alpha).is_ok_and(|serial| serial > first))?;
            let mut stream = Stream::start(alpha.namespace(), beta.namespace(), beta.address()?)?;
            stream.advance(MORE, LIMIT)?;
            server.kill()?;
            // From half of the life on, while it still holds.
            wait_until("a warning before the end", LIMIT, || {
                alpha.warns_of("it ends in") && alpha.membership_state().as_deref() == Some("valid")
            })?;
            for host in [&alpha, &beta] {
                wait_for_state(host, "grace")?;
                ensure!(host.warns_of("was not renewed"), "{}", host.status()?["warnings"]);
            }
            // Nothing that works stops, and who restarts comes back from its own disk.
            stream.advance(MORE, LIMIT)?;
            beta.restart()?;
            beta.reaches(&alpha, "alpha")?;
            alpha.reaches(&beta, "beta")?;
            stream.advance(MORE, LIMIT)?;
            let held = [serial(&alpha)?, serial(&beta)?];
            server.run(&["up"])?;
            let start = now();
            for (host, held) in [&alpha, &beta].into_iter().zip(held) {
                wait_until("the renewal", LIMIT, || serial(host).is_ok_and(|serial| serial > held))?;
                ensure!(
                    host.membership_state().as_deref() == Some("valid"),
                    "{}",
                    host.status()?["membership"]
                );
                ensure!(!host.warns_of("was not renewed"), "{}", host.status()?["warnings"]);
            }
            scene
                .say(&format!("the server was there again, and {:?} later both were renewed", now() - start));
            alpha.reaches(&server, "server")?;
            stream.advance(MORE, LIMIT)?;
            stream.finish()?;
            Ok(())
        },
    );
}

#[test]
fn an_ephemeral_node_is_gone_a_while_after_it_was_last_seen_and_its_name_is_free_control_rules_4_and_20() {
    machine_wide_and_patient(
        "an_ephemeral_node_is_gone_a_while_after_it_was_last_seen_and_its_name_is_free_control_rules_4_and_20",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta, gamma] = hosts(scene, &mut internet)?;
            server.init(&["--name", "server"])?;
            let of_two = server.token(&["--ephemeral", "40s", "--uses", "2"])?;
            alpha.join("alpha", &of_two)?;
            gamma.join("gamma", &of_two)?;
            alpha.reaches(&gamma, "gamma")?;
            gamma.kill()?;
            let killed = now();
            // Until then the name is its own.
            let (code, said) = beta.refusal("gamma", &server.token(&[])?)?;
            ensure!(code == 1 && said.contains("--name") && said.contains("another node's"), "{code} {said}");
            // What else a machine may be told meanwhile.
            an_expired_token_is_told(&server, &beta)?;
            a_closed_port_is_told_of_within_ten_seconds(&server, &beta)?;
            let listed = |name: &str| {
                let nodes = server.json(&["node", "list", "--json"])?;
                let nodes = nodes.as_array().context("a list")?;
                Ok::<_, anyhow::Error>(nodes.iter().any(|node| node["name"] == name))
            };
            ensure!(listed("gamma")?, "gone before its time");
            wait_until("it is gone", LIMIT, || listed("gamma").is_ok_and(|is_there| !is_there))?;
            scene.say(&format!("gone {:?} after it was killed", now() - killed));
            ensure!(now() - killed > Duration::from_secs(30), "gone before its time");
            // The other one was there all the while.
            ensure!(listed("alpha")?, "alpha is gone, and was there");
            beta.join("gamma", &server.token(&[])?)?;
            alpha.reaches(&beta, "gamma")?;
            ensure!(alpha.resolve("gamma")?.1.map(IpAddr::from) == Some(beta.address()?));
            // Who had the name before has nothing any more.
            gamma.run(&["up"])?;
            let mut command = gamma.command(&["wait", "--peer", "server", "--timeout", "3s"]);
            ensure!(output(&mut command, LIMIT)?.status.code() != Some(0), "it was let in again");
            transfer::tcp(alpha.namespace(), beta.namespace(), beta.address()?, 1 << 20)
        },
    );
}

fn an_expired_token_is_told(server: &Host, host: &Host) -> Result {
    let token = server.token(&["--expires", "1s"])?;
    let start = now();
    wait_until("the end of the token", LIMIT, || now() - start > Duration::from_secs(2))?;
    let (code, said) = host.refusal("late", &token)?;
    ensure!(
        code == 1 && said.contains("the token has expired") && said.contains("tombolo token new"),
        "{code} {said}"
    );
    ensure!(!host.folder.join("state/tombolo").exists(), "a refused machine keeps nothing");
    Ok(())
}

fn a_closed_port_is_told_of_within_ten_seconds(server: &Host, host: &Host) -> Result {
    let token = server.token(&[])?;
    let place = server.namespace();
    place.nft("add table inet closed")?;
    place.nft("add chain inet closed input { type filter hook input priority 0 ; }")?;
    place
        .nft(&format!("add rule inet closed input ip saddr {} udp dport 8662 drop", host.machine.address))?;
    let start = now();
    let (code, said) = host.refusal("closed", &token)?;
    let took = now() - start;
    place.nft("delete table inet closed")?;
    let tried = format!("tried {}:8662", server.machine.address);
    for words in ["no server answers", &tried, "firewall", "UDP port 8662"] {
        ensure!(code == 2 && said.contains(words), "{code} {said}");
    }
    ensure!(took < Duration::from_secs(10), "told after {took:?}");
    Ok(())
}

#[test]
fn a_wrong_clock_is_told_by_how_much_and_cuts_nothing_control_rule_18() {
    machine_wide_and_patient("a_wrong_clock_is_told_by_how_much_and_cuts_nothing_control_rule_18", |scene| {
        let mut internet = Internet::new()?;
        let [server, mut alpha, mut beta, mut gamma] = hosts(scene, &mut internet)?;
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        let token = server.token(&[])?;
        // Whoever is in the future sees nothing but what has expired.
        beta.clock_ahead = 30 * DAY;
        let (code, said) = beta.refusal("beta", &token)?;
        ensure!(
            code == 2 && said.contains("clock is 30 days ahead of the server's") && said.contains("set it"),
            "{code} {said}"
        );
        // Once it is right, key and token are as good as before.
        beta.clock_ahead = 0;
        beta.join("beta", &token)?;
        // One that boots in 1970 goes by the network's time, and says so.
        gamma.clock_ahead = -60 * 366 * DAY;
        gamma.join("gamma", &server.token(&[])?)?;
        gamma.reaches(&alpha, "alpha")?;
        wait_until("the warning", LIMIT, || gamma.warns_of("clock is") && gamma.warns_of("behind what"))?;
        // Time that jumps ten years ahead cuts nothing: neither who was there, nor who comes back.
        alpha.clock_ahead = 3652 * DAY;
        alpha.restart()?;
        alpha.reaches(&server, "server")?;
        alpha.reaches(&gamma, "gamma")?;
        ensure!(alpha.warns_of("clock is 3652 days"), "{}", alpha.status()?["warnings"]);
        // Once it is right again all is as before.
        (alpha.clock_ahead, gamma.clock_ahead) = (0, 0);
        for host in [&alpha, &gamma] {
            host.restart()?;
            host.reaches(&server, "server")?;
            ensure!(!host.warns_of("clock is"), "{}", host.status()?["warnings"]);
        }
        alpha.reaches(&gamma, "gamma")
    });
}
