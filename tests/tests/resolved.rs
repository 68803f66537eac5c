//! What systemd-resolved is told, where it runs: to ask for the network's names, and for nothing else.
//!
//! ```text
//!   server 192.0.2.10
//! ```

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_tests::{Result, Scene, booted::Booted, machine_wide, topology::Internet, wait::wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// A `resolvectl` that writes down what it is told, and fails at one verb if it is to.
const RESOLVECTL: &str = r#"#!/bin/sh
echo "$*" >> "$BOOT/resolved"
test "$1" = "$(cat "$BOOT/fails")" || exit 0
echo "the bus is away" >&2
exit 1
"#;

/// A machine on which systemd-resolved runs, whose `resolvectl` fails at a verb.
fn machine(scene: &Scene, internet: &mut Internet, fails: &str) -> Result<Booted> {
    let machine = Booted::new(scene, internet.region("server", [192, 0, 2, 0])?, "server")?;
    machine.install("resolvectl", RESOLVECTL)?;
    fs::create_dir_all(machine.folder.join("run/systemd/resolve"))?;
    fs::write(machine.folder.join("run/systemd/resolve/stub-resolv.conf"), "")?;
    fs::write(machine.folder.join("fails"), fails)?;
    Ok(machine)
}

fn told(machine: &Booted) -> Result<Vec<String>> {
    let text = fs::read_to_string(machine.folder.join("resolved")).unwrap_or_default();
    fs::write(machine.folder.join("resolved"), "")?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn status(machine: &Booted) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&machine.run(&["status", "--json"])?.0)?)
}

fn hosts(machine: &Booted) -> Result<String> {
    Ok(fs::read_to_string(machine.folder.join("etc/hosts"))?)
}

#[test]
fn resolved_asks_us_for_our_domain_alone_and_not_any_more_at_the_end() {
    machine_wide("resolved_asks_us_for_our_domain_alone_and_not_any_more_at_the_end", |scene| {
        let mut internet = Internet::new()?;
        let server = machine(scene, &mut internet, "")?;
        for round in 0..2 {
            if round == 0 {
                server.init("red", &["--name", "server"])?;
            } else {
                server.run(&["up"])?;
            }
            let status = status(&server)?;
            let name = status["interface"]["name"].as_str().context("a name")?;
            let addresses = status["interface"]["addresses"].as_array().context("addresses")?;
            let own: Vec<&str> =
                addresses.iter().filter_map(|address| address.as_str()?.split('/').next()).collect();
            // Not a moment without the domain, or it would be asked for everything.
            let wanted = [
                format!("llmnr {name} no"),
                format!("default-route {name} no"),
                format!("domain {name} ~red.internal"),
                format!("dns {name} {}", own.join(" ")),
            ];
            let found = told(&server)?;
            ensure!(found == wanted, "{found:?}");
            ensure!(!hosts(&server)?.contains("red.internal"), "who asks us needs no list");
            server.run(&["down"])?;
            let found = told(&server)?;
            ensure!(found == [format!("revert {name}")], "{found:?}");
        }
        Ok(())
    });
}

#[test]
fn a_resolved_that_refuses_is_told_and_harms_nothing() {
    machine_wide("a_resolved_that_refuses_is_told_and_harms_nothing", |scene| {
        let mut internet = Internet::new()?;
        let server = machine(scene, &mut internet, "dns")?;
        server.init("red", &["--name", "server"])?;
        let found = told(&server)?;
        let verbs: Vec<&str> = found.iter().filter_map(|line| line.split(' ').next()).collect();
        ensure!(verbs == ["llmnr", "default-route", "domain", "dns", "revert"], "taken back: {found:?}");
        let report = status(&server)?;
        let warnings = report["warnings"].to_string();
        ensure!(
            warnings.contains("systemd-resolved does not ask for red.internal")
                && warnings.contains("the bus is away"),
            "{warnings}"
        );
        ensure!(report["membership"]["state"] == "valid", "{report}");
        // Names are found in the other way.
        wait_until("the names in the list", LIMIT, || {
            hosts(&server).is_ok_and(|hosts| hosts.contains("server.red.internal"))
        })?;
        // Nothing was registered that is to be taken back.
        server.run(&["down"])?;
        let found = told(&server)?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    });
}
