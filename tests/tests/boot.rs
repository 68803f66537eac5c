//! Surviving a reboot: `init` and `join` have the unit of their network enabled, `leave` has it disabled.
//!
//! ```text
//!   server 192.0.2.10 ── router ── 198.51.100.10 alpha
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result, Scene,
    booted::{Booted, UNITS},
    command::{is_installed, output},
    machine_wide,
    node::executable,
    topology::Internet,
};

const LIMIT: Duration = Duration::from_secs(60);

/// That `systemctl` was asked for this, and nothing else.
fn asked(machine: &Booted, wanted: &[&str]) -> Result {
    let calls = machine.calls()?;
    ensure!(calls == wanted, "{calls:?}");
    Ok(())
}

#[test]
fn init_and_join_enable_the_unit_of_their_network_and_leave_disables_it() {
    machine_wide("init_and_join_enable_the_unit_of_their_network_and_leave_disables_it", |scene| {
        let mut internet = Internet::new()?;
        let server = Booted::new(scene, internet.region("server", [192, 0, 2, 0])?, "server")?;
        let alpha = Booted::new(scene, internet.region("alpha", [198, 51, 100, 0])?, "alpha")?;
        // Two networks on one machine are two units, each with its own daemon.
        let (token, _) = server.init("red", &["--name", "server"])?;
        asked(&server, &["enable tombolo@red.service", "start tombolo@red.service"])?;
        server.init("blue", &["--name", "server"])?;
        asked(&server, &["enable tombolo@blue.service", "start tombolo@blue.service"])?;
        for network in ["red", "blue"] {
            server.run(&["-n", network, "wait", "--timeout", "20s"])?;
        }
        // A join that is refused is not enabled, and no service manager goes on trying.
        let spent = alpha.keep(&token.replace(&token[20..30], "qqqqqqqqqq"))?;
        ensure!(alpha.run(&["-n", "red", "join", &spent]).is_err());
        let calls = alpha.calls()?;
        ensure!(!calls.iter().any(|call| call.starts_with("enable")), "{calls:?}");
        let token = alpha.keep(&token)?;
        alpha.run(&["-n", "red", "join", "--name", "alpha", &token])?;
        asked(&alpha, &["start tombolo@red.service", "enable tombolo@red.service"])?;
        alpha.run(&["-n", "red", "wait", "--peer", "server", "--timeout", "20s"])?;
        // Down and up go by the unit, which stays enabled.
        alpha.run(&["-n", "red", "down"])?;
        alpha.run(&["-n", "red", "up"])?;
        asked(&alpha, &["stop tombolo@red.service", "start tombolo@red.service"])?;
        alpha.run(&["-n", "red", "leave"])?;
        let calls = alpha.calls()?;
        ensure!(calls.last().is_some_and(|call| call == "disable tombolo@red.service"), "{calls:?}");
        ensure!(!alpha.folder.join("lib/tombolo/red").exists());
        // Who wants none gets none.
        server.init("green", &["--no-enable"])?;
        asked(&server, &["start tombolo@green.service"])
    });
}

#[test]
fn where_nothing_starts_it_at_boot_it_says_so() {
    machine_wide("where_nothing_starts_it_at_boot_it_says_so", |scene| {
        let mut internet = Internet::new()?;
        let server = Booted::new(scene, internet.region("server", [192, 0, 2, 0])?, "server")?;
        fs::remove_file(server.folder.join("etc/systemd/system/tombolo@.service"))?;
        let (_, said) = server.init("red", &[])?;
        ensure!(
            said.contains("tombolo@.service is not installed") && said.contains("`tombolo up -n red`"),
            "{said}"
        );
        fs::remove_dir_all(server.folder.join("run/systemd"))?;
        let (_, said) = server.init("blue", &[])?;
        ensure!(
            said.contains("systemd does not run here") && said.contains("`tombolo up -n blue`"),
            "{said}"
        );
        ensure!(said.contains("nothing starts it at boot"), "{said}");
        // Both run all the same, and nobody was asked.
        server.run(&["-n", "red", "wait", "--timeout", "20s"])?;
        server.run(&["-n", "blue", "wait", "--timeout", "20s"])?;
        asked(&server, &[])?;
        let (_, said) = server.init("green", &["--no-enable"])?;
        ensure!(!said.contains("at boot"), "{said}");
        Ok(())
    });
}

#[test]
fn systemd_understands_every_line_of_the_units() -> Result {
    let scene = Scene::new()?;
    if !is_installed("systemd-analyze") {
        scene.say("SKIPPED systemd_understands_every_line_of_the_units: there is no systemd-analyze");
        return Ok(());
    }
    let binary = executable("tombolo")?;
    let mut units = Vec::new();
    for unit in ["tombolo@.service", "tombolo-guard@.service"] {
        let text = fs::read_to_string(Path::new(UNITS).join(unit))?;
        ensure!(text.contains("=/usr/bin/tombolo "), "{unit}");
        units.push(scene.write(unit, &text.replace("/usr/bin/tombolo", binary.to_str().context("a path")?))?);
    }
    let said = output(Command::new("systemd-analyze").args(["--man=no", "verify"]).args(&units), LIMIT)?;
    let text = String::from_utf8_lossy(&said.stderr) + String::from_utf8_lossy(&said.stdout);
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("tombolo")).collect();
    ensure!(said.status.success() && ours.is_empty(), "{}: {text}", said.status);
    Ok(())
}
