//! A server that moves, does without some of its roles, or is made by somebody who is not root; and a member that has
//! its state from a container.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result,
    command::{output, run},
    host::{Host, hosts},
    machine_wide_and_patient,
    name_server::{NameServer, ResolverConfiguration},
    process::Process,
    topology::Internet,
    wait::wait_until,
};

use super::{LIMIT, node_names, text};

#[test]
fn a_server_that_moved_is_found_by_its_name() {
    machine_wide_and_patient("a_server_that_moved_is_found_by_its_name", |scene| {
        let mut internet = Internet::new()?;
        let [mut server, alpha] = hosts(scene, &mut internet)?;
        let _configuration = ResolverConfiguration::write(alpha.namespace())?;
        let names = NameServer::start(alpha.namespace(), server.machine.address)?;
        let root = server.folder.join("root.age");
        let made = server.json(&[
            "server",
            "init",
            "--endpoint",
            "vpn.example.test",
            "--name",
            "server",
            "--root-key",
            text(&root)?,
            "--json",
        ])?;
        alpha.join("alpha", made["token"].as_str().context("a token")?)?;
        alpha.reaches(&server, "server")?;
        // The server comes back elsewhere, and calls nobody: only its name leads there.
        server.kill()?;
        server.machine.set_address(77)?;
        for rule in [
            "add table inet answers",
            "add chain inet answers output { type filter hook output priority 0; }",
            "add rule inet answers output udp sport 8662 ct state new drop",
        ] {
            server.namespace().nft(rule)?;
        }
        names.set(server.machine.address);
        // By whichever of its addresses is nearer in the end: it tells the other one as soon as it is found.
        let new: [IpAddr; 2] = [server.machine.address.into(), server.machine.address6.into()];
        let new = new.map(|address| SocketAddr::from((address, 8662)).to_string());
        server.run(&["up"])?;
        wait_until("the server is found at its new address", Duration::from_secs(55), || {
            let status = alpha.json(&["status", "--json"]).unwrap_or_default();
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            peers.iter().any(|peer| {
                peer["name"] == "server" && new.iter().any(|address| peer["endpoint"] == address.as_str())
            })
        })?;
        alpha.reaches(&server, "server")
    });
}

#[test]
fn a_server_does_without_the_roles_that_its_file_switches_off() {
    machine_wide_and_patient("a_server_does_without_the_roles_that_its_file_switches_off", |scene| {
        let mut internet = Internet::new()?;
        let [server, alpha, beta] = hosts(scene, &mut internet)?;
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        let file = server.folder.join("config/tombolo.toml");
        let usual = fs::read_to_string(&file)?;
        let switch = |line: &str| -> Result {
            server.run(&["down"])?;
            fs::write(&file, usual.replacen("[membership]\n", &format!("[membership]\n{line}\n"), 1))?;
            server.run(&["up"]).map(drop)
        };
        let roles = |host: &Host| -> Result<String> {
            let status = host.json(&["status", "--json"])?;
            Ok(status["membership"]["servers"][0]["roles"].as_str().unwrap_or_default().to_owned())
        };
        switch("relay = false")?;
        alpha.restart()?;
        wait_until("members are told that there is no relay", LIMIT, || {
            roles(&alpha).is_ok_and(|roles| !roles.contains("relay") && roles.contains("lighthouse"))
        })?;
        // Joining and finding each other is as before.
        let token = server.token(&[])?;
        beta.join("beta", &token)?;
        beta.reaches(&alpha, "alpha")?;
        switch("lighthouse = false")?;
        alpha.restart()?;
        wait_until("members are told that there is no lighthouse, and a relay again", LIMIT, || {
            roles(&alpha).is_ok_and(|roles| roles.contains("relay") && !roles.contains("lighthouse"))
        })?;
        // Who knew each other goes on.
        alpha.reaches(&beta, "beta")?;
        switch("authority = false")?;
        let refused = output(&mut server.command(&["token", "new"]), LIMIT)?;
        ensure!(!refused.status.success(), "nobody issues here");
        alpha.reaches(&beta, "beta")?;
        switch("")?;
        server.token(&[]).map(drop)
    });
}

#[test]
fn a_network_is_made_without_root_but_for_the_interface() {
    machine_wide_and_patient("a_network_is_made_without_root_but_for_the_interface", |scene| {
        let folder = scene.path("laptop");
        fs::create_dir_all(&folder)?;
        std::os::unix::fs::chown(&folder, Some(65_534), Some(65_534))?;
        let binary = tombolo_tests::node::executable("tombolo")?;
        let command = |arguments: &[&str]| {
            let mut command = std::process::Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all", "--"]);
            command.arg(&binary).args(arguments).current_dir(&folder).env("HOME", &folder);
            for (variable, name) in
                [("TOMBOLO_CONFIG_DIR", "config"), ("TOMBOLO_STATE_DIR", "state"), ("TOMBOLO_RUN_DIR", "run")]
            {
                command.env(variable, folder.join(name));
            }
            command
        };
        let made = output(&mut command(&["server", "init", "--endpoint", "192.0.2.10"]), LIMIT)?;
        let (said, noted) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
        ensure!(made.status.success(), "{said}{noted}");
        ensure!(said.contains("All members of the network may talk to each other."), "{said}");
        ensure!(
            said.contains("It is not started") && noted.contains("only root can make the interface"),
            "{said}{noted}"
        );
        for file in ["tombolo-root.age", "config/tombolo.toml", "state/tombolo/register.sqlite"] {
            ensure!(folder.join(file).exists(), "{file} is missing");
        }
        ensure!(run(&mut command(&["config", "check"]))?.contains("tombolo"));
        run(&mut command(&["server", "trust", "show"]))?;
        let backup = scene.write("passphrase", "words\n")?;
        run(&mut command(&["server", "backup", "b.age", "--passphrase-file", text(&backup)?]))?;
        // What needs the interface says so.
        let up = output(&mut command(&["up", "-f"]), LIMIT)?;
        let error = String::from_utf8_lossy(&up.stderr);
        ensure!(!up.status.success() && (error.contains("root") || error.contains("NET_ADMIN")), "{error}");
        Ok(())
    });
}

#[test]
fn a_sidecar_joins_by_its_token_file_and_comes_back_with_its_state_or_without() {
    machine_wide_and_patient(
        "a_sidecar_joins_by_its_token_file_and_comes_back_with_its_state_or_without",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha] = hosts(scene, &mut internet)?;
            server.init(&["--name", "server"])?;
            let token = server.token(&["--uses", "2", "--ephemeral", "1h"])?;
            let file = scene.write("token", &token)?;
            let start = |name: &str| -> Result<Process> {
                let mut command = alpha.command(&["up", "-f"]);
                command.env("TOMBOLO_TOKEN_FILE", &file).env("TOMBOLO_NODE_NAME", name);
                Process::spawn(scene, name, &mut command)
            };
            let address = |name: &str| -> Result<IpAddr> {
                wait_until("the sidecar is a member", LIMIT, || alpha.address().is_ok())?;
                ensure!(node_names(&server)?.contains(&name.to_owned()));
                alpha.address()
            };
            let first = start("sidecar-1")?;
            let own = address("sidecar-1")?;
            alpha.reaches(&server, "server")?;
            drop(first);
            // With its state, but not the folder that the image brings: the same node, and no further use of the token.
            fs::remove_dir_all(alpha.folder.join("config"))?;
            let again = start("sidecar-1")?;
            ensure!(address("sidecar-1")? == own, "the same node");
            alpha.reaches(&server, "server")?;
            drop(again);
            for folder in ["config", "state"] {
                fs::remove_dir_all(alpha.folder.join(folder))?;
            }
            let _ = alpha.namespace().ip("link del tombolo0");
            // Without: another node, and the token's last use.
            let other = start("sidecar-2")?;
            ensure!(address("sidecar-2")? != own, "another node");
            drop(other);
            for folder in ["config", "state"] {
                fs::remove_dir_all(alpha.folder.join(folder))?;
            }
            let mut command = alpha.command(&["up", "-f"]);
            let refused = output(command.env("TOMBOLO_TOKEN_FILE", &file), LIMIT)?;
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            ensure!(refused.status.code() == Some(1) && said.contains("the token is spent"), "{said}");
            ensure!(!alpha.folder.join("config/tombolo.toml").exists(), "a refused machine keeps nothing");
            Ok(())
        },
    );
}
