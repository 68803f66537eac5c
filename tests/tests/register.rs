//! The server's register: what survives a restore, a full disk, another address, a server that is away; and who may issue.
//!
//! ```text
//!   server 192.0.2.10 ─┐
//!   alpha  198.51.100.10 ── router
//!   beta   203.0.113.10 ┘
//! ```

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result, Scene,
    command::{output, run},
    host::{Host, hosts},
    machine_wide,
    name_server::{NameServer, ResolverConfiguration},
    process::Process,
    topology::Internet,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(40);
const ROOT_PASSPHRASE: &str = "correct horse battery staple";

/// Files that commands are given: the root key, its passphrase, the backup's.
struct Secrets {
    root_key: PathBuf,
    root_passphrase: PathBuf,
    backup_passphrase: PathBuf,
}

impl Secrets {
    fn new(scene: &Scene, server: &Host) -> Result<Self> {
        Ok(Self {
            root_key: server.folder.join("root.age"),
            root_passphrase: scene.write("root-passphrase", &format!("{ROOT_PASSPHRASE}\n"))?,
            backup_passphrase: scene.write("backup-passphrase", "another one\n")?,
        })
    }

    /// `server init`, with the passphrase; gives the first token.
    fn init(&self, server: &Host) -> Result<String> {
        server.init(&["--name", "server", "--root-passphrase-file", text(&self.root_passphrase)?])
    }

    fn root_arguments(&self) -> Result<[&str; 4]> {
        Ok(["--root-key", text(&self.root_key)?, "--root-passphrase-file", text(&self.root_passphrase)?])
    }

    fn trust(&self, server: &Host, arguments: &[&str]) -> Result<String> {
        let root = self.root_arguments()?;
        server.run(&[&["server", "trust"][..], arguments, &root].concat())
    }

    fn backup(&self, server: &Host, file: &Path) -> Result<String> {
        server.run(&["server", "backup", text(file)?, "--passphrase-file", text(&self.backup_passphrase)?])
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// The machine is gone: all but the root key.
fn lose(server: &Host) -> Result {
    server.kill()?;
    for folder in ["config", "state", "run"] {
        fs::remove_dir_all(server.folder.join(folder))?;
    }
    // As on another machine: no interface either.
    server.namespace().ip("link del tombolo0").map(drop)
}

/// Restarts a member's daemon: it calls the server at once, and not with its next keepalive.
fn restart(host: &Host) -> Result {
    host.run(&["down"])?;
    host.run(&["up"]).map(drop)
}

/// What makes a member look for its servers at once: it shows itself, and they see who it is.
fn node_names(server: &Host) -> Result<Vec<String>> {
    let nodes = server.json(&["node", "list", "--json"])?;
    let names = nodes.as_array().context("a list")?.iter().filter_map(|node| node["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn gathers(server: &Host) -> bool {
    let Ok(status) = server.json(&["status", "--json"]) else { return true };
    status["warnings"].to_string().contains("the register was restored")
}

fn renewed_by_new_issuer(host: &Host) -> Result<u64> {
    let status = host.json(&["status", "--json"])?;
    status["membership"]["trust_epoch"].as_u64().context("an epoch")
}

#[test]
fn a_backup_that_is_older_than_the_network_resurrects_nothing_control_rule_21() {
    machine_wide("a_backup_that_is_older_than_the_network_resurrects_nothing_control_rule_21", |scene| {
        let mut internet = Internet::new()?;
        let [server, alpha, beta, gamma] = hosts(scene, &mut internet)?;
        let secrets = Secrets::new(scene, &server)?;
        alpha.join("alpha", &secrets.init(&server)?)?;
        beta.join("beta", &server.token(&[])?)?;
        let (spent_later, never_spent) = (server.token(&[])?, server.token(&[])?);
        let backup = scene.path("backup.age");
        secrets.backup(&server, &backup)?;
        ensure!(fs::metadata(&backup)?.permissions().mode() & 0o777 == 0o600);
        let again =
            output(&mut server.command(&["server", "backup", text(&backup)?, "--recipient", "x"]), LIMIT)?;
        ensure!(again.status.code() == Some(1), "a backup is not overwritten");
        // What the backup does not know.
        gamma.join("gamma", &spent_later)?;
        server.run(&["node", "revoke", "beta"])?;
        alpha.reaches(&gamma, "gamma")?;
        let (own, others) = (alpha.address()?, gamma.address()?);
        lose(&server)?;
        // The members go on without it.
        alpha.reaches(&gamma, "gamma")?;
        let mut restore = vec!["server", "restore", text(&backup)?, "--gather", "8s"];
        restore.extend(["--passphrase-file", text(&secrets.backup_passphrase)?]);
        restore.extend(secrets.root_arguments()?);
        server.run(&restore)?;
        ensure!(gathers(&server), "it gathers first");
        let refused = output(&mut server.command(&["token", "new"]), LIMIT)?;
        ensure!(!refused.status.success(), "no token while it gathers");
        restart(&gamma)?;
        restart(&alpha)?;
        wait_until("the register is complete", LIMIT, || !gathers(&server))?;
        let names = node_names(&server)?;
        ensure!(names.contains(&"gamma".to_owned()) && names.contains(&"alpha".to_owned()), "{names:?}");
        ensure!(!names.contains(&"beta".to_owned()), "what was revoked stays so: {names:?}");
        ensure!(server.json(&["token", "list", "--json"])?.as_array().is_some_and(Vec::is_empty));
        // Everything goes on as it was, under another issuer.
        wait_until("the new trust document is there", LIMIT, || {
            renewed_by_new_issuer(&gamma).is_ok_and(|epoch| epoch == 2)
        })?;
        gamma.reaches(&server, "server")?;
        alpha.reaches(&gamma, "gamma")?;
        ensure!((alpha.address()?, gamma.address()?) == (own, others), "addresses stay");
        // The revoked one is not let in by what it had.
        let mut command = beta.command(&["wait", "--peer", "server", "--timeout", "3s"]);
        ensure!(output(&mut command, LIMIT)?.status.code() != Some(0), "a revoked node stays out");
        beta.run(&["leave", "--force"])?;
        for token in [&never_spent, &spent_later] {
            let (code, said) = beta.refusal("beta", token)?;
            ensure!(code == 1 && said.contains("does not know this token"), "{code} {said}");
        }
        beta.join("beta", &server.token(&[])?)?;
        let taken: Vec<IpAddr> =
            [&server, &alpha, &gamma].map(Host::address).into_iter().collect::<Result<_>>()?;
        ensure!(!taken.contains(&beta.address()?), "no address is given twice");
        beta.reaches(&gamma, "gamma")
    });
}

#[test]
fn the_root_key_alone_brings_the_server_back_and_the_network_goes_on_control_rule_21() {
    machine_wide(
        "the_root_key_alone_brings_the_server_back_and_the_network_goes_on_control_rule_21",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta] = hosts(scene, &mut internet)?;
            let secrets = Secrets::new(scene, &server)?;
            alpha.join("alpha", &secrets.init(&server)?)?;
            beta.join("beta", &server.token(&[])?)?;
            alpha.reaches(&beta, "beta")?;
            let (before, first, second) = (server.address()?, alpha.address()?, beta.address()?);
            lose(&server)?;
            let mut restore = vec!["server", "restore", "--without-backup", "--gather", "8s"];
            restore.extend(secrets.root_arguments()?);
            server.run(&restore)?;
            restart(&alpha)?;
            restart(&beta)?;
            wait_until("the register is complete", LIMIT, || !gathers(&server))?;
            let names = node_names(&server)?;
            ensure!(
                ["server", "alpha", "beta"].iter().all(|name| names.contains(&(*name).to_owned())),
                "{names:?}"
            );
            let now = (server.address()?, alpha.address()?, beta.address()?);
            ensure!(now == (before, first, second), "addresses stay: {now:?}");
            alpha.reaches(&server, "server")?;
            alpha.reaches(&beta, "beta")?;
            // And somebody new can be let in.
            beta.run(&["leave"])?;
            beta.join("beta", &server.token(&[])?)?;
            beta.reaches(&alpha, "alpha")
        },
    );
}

#[test]
fn issuer_and_root_key_change_while_the_members_go_on_control_rule_1() {
    machine_wide("issuer_and_root_key_change_while_the_members_go_on_control_rule_1", |scene| {
        let mut internet = Internet::new()?;
        let [server, alpha] = hosts(scene, &mut internet)?;
        let secrets = Secrets::new(scene, &server)?;
        alpha.join("alpha", &secrets.init(&server)?)?;
        let shown = server.json(&["server", "trust", "show", "--json"])?;
        let (first, root) = (shown["issuers"][0]["issuer"].clone(), shown["root"].clone());
        let first = first.as_str().context("an issuer")?;
        ensure!(shown["epoch"] == 1 && shown["issuers"][0]["this_server"] == true, "{shown}");
        secrets.trust(&server, &["rotate-issuer"])?;
        // Not while nodes live by it.
        let mut command = vec!["server", "trust", "drop", first];
        command.extend(secrets.root_arguments()?);
        let refused = output(&mut server.command(&command), LIMIT)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1) && said.contains("they renew within a day"), "{said}");
        secrets.trust(&server, &["rotate-root"])?;
        let shown = server.json(&["server", "trust", "show", "--json"])?;
        ensure!(shown["epoch"] == 3 && shown["root"] != root, "{shown}");
        ensure!(shown["issuers"].as_array().is_some_and(|all| all.len() == 2), "{shown}");
        restart(&alpha)?;
        wait_until("the member has the new root key's document", LIMIT, || {
            renewed_by_new_issuer(&alpha).is_ok_and(|epoch| epoch == 3)
        })?;
        alpha.reaches(&server, "server")?;
        // Dropped all the same: whoever lives by it is out at once.
        secrets.trust(&server, &["drop", first, "--force"])?;
        restart(&alpha)?;
        let mut command = alpha.command(&["wait", "--peer", "server", "--timeout", "1s"]);
        ensure!(output(&mut command, LIMIT)?.status.code() != Some(0), "its membership is void");
        alpha.run(&["leave", "--force"])?;
        let replace = server.json(&["node", "replace", "alpha", "--json"])?;
        alpha.join("alpha", replace["token"].as_str().context("a token")?)?;
        alpha.reaches(&server, "server")
    });
}

#[test]
fn a_full_disk_is_told_of_nothing_is_lost_and_it_goes_on_with_room_control_rule_21() {
    machine_wide(
        "a_full_disk_is_told_of_nothing_is_lost_and_it_goes_on_with_room_control_rule_21",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta] = hosts(scene, &mut internet)?;
            let secrets = Secrets::new(scene, &server)?;
            // `ip netns exec` has a mount namespace of its own for each command: the disk is mounted outside.
            let state = server.folder.join("state");
            fs::create_dir_all(&state)?;
            let disk = Disk::mount(&state, "3m")?;
            alpha.join("alpha", &secrets.init(&server)?)?;
            let token = server.token(&[])?;
            let filler = state.join("filler");
            let mut size = 3 << 20;
            while size >= 1024 {
                // As much as there is room for.
                let more = fs::read(&filler).unwrap_or_default().len() + size;
                if fs::write(&filler, vec![0; more]).is_err() {
                    size /= 2;
                }
            }
            let granted = || output(&mut server.command(&["token", "new", "--json"]), LIMIT);
            let mut acknowledged = Vec::new();
            let refused = loop {
                let output = granted()?;
                if !output.status.success() {
                    break String::from_utf8_lossy(&output.stderr).into_owned();
                }
                acknowledged.push(serde_json::from_slice::<serde_json::Value>(&output.stdout)?);
                ensure!(acknowledged.len() < 200, "the disk is never full");
            };
            ensure!(refused.contains("the register could not be written"), "{refused}");
            let status = server.json(&["status", "--json"])?;
            ensure!(status["warnings"].to_string().contains("the disk is full"), "{}", status["warnings"]);
            let (code, said) = beta.refusal("beta", &token)?;
            ensure!(
                code == 2 && said.contains("the server answers, but did not let this machine in"),
                "{code} {said}"
            );
            alpha.reaches(&server, "server")?;
            // With room again it goes on by itself, and all that it had said holds.
            fs::remove_file(&filler)?;
            beta.join("beta", &token)?;
            let listed = server.json(&["token", "list", "--json"])?;
            ensure!(listed.as_array().is_some_and(|all| all.len() >= acknowledged.len()), "{listed}");
            ensure!(
                !server.json(&["status", "--json"])?["warnings"].to_string().contains("the disk is full")
            );
            server.kill()?;
            server.run(&["up"])?;
            ensure!(server.json(&["token", "list", "--json"])? == listed, "what was acknowledged was kept");
            server.run(&["down"])?;
            drop(disk);
            Ok(())
        },
    );
}

/// A small disk of its own under a folder.
struct Disk(PathBuf);

impl Disk {
    fn mount(place: &Path, size: &str) -> Result<Self> {
        let options = format!("size={size},mode=0755");
        run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place))?;
        Ok(Self(place.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn doctor_looks_at_the_register_and_one_of_a_newer_version_is_refused_control_rule_21() {
    machine_wide(
        "doctor_looks_at_the_register_and_one_of_a_newer_version_is_refused_control_rule_21",
        |scene| {
            let mut internet = Internet::new()?;
            let [server] = hosts(scene, &mut internet)?;
            Secrets::new(scene, &server)?.init(&server)?;
            let doctor = || -> Result<String> {
                Ok(String::from_utf8_lossy(&output(&mut server.command(&["doctor"]), LIMIT)?.stdout)
                    .into_owned())
            };
            let said = doctor()?;
            for line in
                ["the register is whole", "the audit log is unbroken", "its owner's alone", "MiB are free"]
            {
                ensure!(said.contains(line), "{line} is not in\n{said}");
            }
            let file = server.folder.join("state/tombolo/register.sqlite");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
            let said = doctor()?;
            ensure!(said.contains("BAD") && said.contains("chmod 600"), "{said}");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            server.run(&["down"])?;
            // The version stands in the header, 60 bytes from its beginning, as four bytes (SQLite's file format, §1.3).
            let mut bytes = fs::read(&file)?;
            bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
            fs::write(&file, bytes)?;
            let started = output(&mut server.command(&["up"]), LIMIT)?;
            let error = String::from_utf8_lossy(&started.stderr).into_owned();
            for said in [error, doctor()?] {
                ensure!(said.contains("is of version 99") && said.contains("upgrade"), "{said}");
            }
            Ok(())
        },
    );
}

#[test]
fn a_server_that_moved_is_found_by_its_name() {
    machine_wide("a_server_that_moved_is_found_by_its_name", |scene| {
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
            run(server.namespace().command("nft").arg(rule))?;
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
    machine_wide("a_server_does_without_the_roles_that_its_file_switches_off", |scene| {
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
        restart(&alpha)?;
        wait_until("members are told that there is no relay", LIMIT, || {
            roles(&alpha).is_ok_and(|roles| !roles.contains("relay") && roles.contains("lighthouse"))
        })?;
        // Joining and finding each other is as before.
        let token = server.token(&[])?;
        beta.join("beta", &token)?;
        beta.reaches(&alpha, "alpha")?;
        switch("lighthouse = false")?;
        restart(&alpha)?;
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
    machine_wide("a_network_is_made_without_root_but_for_the_interface", |scene| {
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
    machine_wide("a_sidecar_joins_by_its_token_file_and_comes_back_with_its_state_or_without", |scene| {
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
    });
}

#[test]
fn a_log_that_was_changed_is_told_with_the_entry_control_rule_7() {
    machine_wide("a_log_that_was_changed_is_told_with_the_entry_control_rule_7", |scene| {
        let mut internet = Internet::new()?;
        let [server] = hosts(scene, &mut internet)?;
        server.init(&["--name", "server"])?;
        for group in ["databases", "strangers", "staff"] {
            server.run(&["network", "set", "--group", group])?;
        }
        server.run(&["down"])?;
        let verify = || output(&mut server.command(&["audit", "--verify"]), LIMIT);
        let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let whole = verify()?;
        ensure!(whole.status.success(), "{}", said(&whole));
        let log = server.json(&["audit", "--json"])?;
        let entries = log.as_array().context("a list")?;
        let of = |text: &str| {
            let entry =
                entries.iter().find(|entry| entry["text"].as_str().is_some_and(|said| said.contains(text)));
            entry.and_then(|entry| entry["entry"].as_u64()).context("the entry")
        };
        let number = i64::try_from(of("strangers")?)?;
        ensure!(number > 1 && number < i64::try_from(entries.len())?, "an entry between others: {log}");
        let file = server.folder.join("state/tombolo/register.sqlite");
        let untouched = fs::read(&file)?;
        let told_after = |change: &dyn Fn(&rusqlite::Connection) -> Result<usize>| -> Result<String> {
            fs::write(&file, &untouched)?;
            let register = rusqlite::Connection::open(&file)?;
            ensure!(change(&register)? > 0, "nothing was changed");
            drop(register);
            let told = verify()?;
            ensure!(told.status.code() == Some(2), "{:?} {}", told.status, said(&told));
            Ok(said(&told))
        };
        // One letter of one word.
        let text = told_after(&|register| {
            let query = "SELECT entry FROM audit WHERE sequence = ?";
            let mut entry: Vec<u8> = register.query_row(query, [number], |row| row.get(0))?;
            let word = entry.windows(9).position(|word| word == b"strangers").context("the word")?;
            entry[word + 3] = b'o';
            Ok(register.execute("UPDATE audit SET entry = ? WHERE sequence = ?", (entry, number))?)
        })?;
        let next = number + 1;
        ensure!(
            text.contains(&format!("entry {next} of the audit log does not follow the one before it")),
            "{text}"
        );
        // An entry that is left out, and an end that is cut off.
        let text =
            told_after(&|register| Ok(register.execute("DELETE FROM audit WHERE sequence = ?", [number])?))?;
        ensure!(text.contains(&format!("entry {number} of the audit log")), "{text}");
        let text =
            told_after(&|register| Ok(register.execute("DELETE FROM audit WHERE sequence >= ?", [number])?))?;
        ensure!(text.contains("no entry of the audit log has the hash"), "{text}");
        fs::write(&file, &untouched)?;
        server.run(&["up"])?;
        server.run(&["audit", "--verify"]).map(drop)
    });
}
