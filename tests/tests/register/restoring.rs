//! A server that is gone comes back: from a backup, or by the root key alone.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt as _};

use anyhow::ensure;
use tombolo_tests::{
    Result,
    command::output,
    host::{Host, hosts},
    machine_wide_and_patient,
    topology::Internet,
    wait::wait_until,
};

use super::{LIMIT, node_names, secrets::Secrets, text, trust_epoch};

/// The machine is gone: all but the root key.
fn lose(server: &Host) -> Result {
    server.kill()?;
    for folder in ["config", "state", "run"] {
        fs::remove_dir_all(server.folder.join(folder))?;
    }
    // As on another machine: no interface either.
    server.namespace().ip("link del tombolo0").map(drop)
}

fn gathers(server: &Host) -> bool {
    let Ok(status) = server.json(&["status", "--json"]) else { return true };
    status["warnings"].to_string().contains("the register was restored")
}

#[test]
fn a_backup_that_is_older_than_the_network_resurrects_nothing_control_rule_21() {
    machine_wide_and_patient(
        "a_backup_that_is_older_than_the_network_resurrects_nothing_control_rule_21",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta, gamma] = hosts(scene, &mut internet)?;
            let secrets = Secrets::new(scene, &server)?;
            alpha.join("alpha", &secrets.init(&server)?)?;
            beta.join("beta", &server.token(&[])?)?;
            let (spent_later, never_spent) = (server.token(&[])?, server.token(&[])?);
            let backup = scene.path("backup.age");
            secrets.backup(&server, &backup)?;
            ensure!(fs::metadata(&backup)?.permissions().mode() & 0o777 == 0o600);
            let again = output(
                &mut server.command(&["server", "backup", text(&backup)?, "--recipient", "x"]),
                LIMIT,
            )?;
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
            gamma.restart()?;
            alpha.restart()?;
            wait_until("the register is complete", LIMIT, || !gathers(&server))?;
            let names = node_names(&server)?;
            ensure!(names.contains(&"gamma".to_owned()) && names.contains(&"alpha".to_owned()), "{names:?}");
            ensure!(!names.contains(&"beta".to_owned()), "what was revoked stays so: {names:?}");
            ensure!(server.json(&["token", "list", "--json"])?.as_array().is_some_and(Vec::is_empty));
            // Everything goes on as it was, under another issuer.
            wait_until("the new trust document is there", LIMIT, || {
                trust_epoch(&gamma).is_ok_and(|epoch| epoch == 2)
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
        },
    );
}

#[test]
fn the_root_key_alone_brings_the_server_back_and_the_network_goes_on_control_rule_21() {
    machine_wide_and_patient(
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
            alpha.restart()?;
            beta.restart()?;
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
