//! The server's register: what survives a restore, a full disk, another address, a server that is away; and who may issue.
//!
//! ```text
//!   server 192.0.2.10 ─┐
//!   alpha  198.51.100.10 ── router
//!   beta   203.0.113.10 ┘
//! ```

mod damage;
mod restoring;
mod secrets;
mod server;

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use secrets::Secrets;
use tombolo_tests::{
    Result,
    command::output,
    host::{Host, hosts},
    machine_wide_and_patient,
    topology::Internet,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(40);

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// The names that the register has.
fn node_names(server: &Host) -> Result<Vec<String>> {
    let nodes = server.json(&["node", "list", "--json"])?;
    let names = nodes.as_array().context("a list")?.iter().filter_map(|node| node["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn trust_epoch(host: &Host) -> Result<u64> {
    let status = host.json(&["status", "--json"])?;
    status["membership"]["trust_epoch"].as_u64().context("an epoch")
}

#[test]
fn issuer_and_root_key_change_while_the_members_go_on_control_rule_1() {
    machine_wide_and_patient("issuer_and_root_key_change_while_the_members_go_on_control_rule_1", |scene| {
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
        alpha.restart()?;
        wait_until("the member has the new root key's document", LIMIT, || {
            trust_epoch(&alpha).is_ok_and(|epoch| epoch == 3)
        })?;
        alpha.reaches(&server, "server")?;
        // Dropped all the same: whoever lives by it is out at once.
        secrets.trust(&server, &["drop", first, "--force"])?;
        alpha.restart()?;
        let mut command = alpha.command(&["wait", "--peer", "server", "--timeout", "1s"]);
        ensure!(output(&mut command, LIMIT)?.status.code() != Some(0), "its membership is void");
        alpha.run(&["leave", "--force"])?;
        let replace = server.json(&["node", "replace", "alpha", "--json"])?;
        alpha.join("alpha", replace["token"].as_str().context("a token")?)?;
        alpha.reaches(&server, "server")
    });
}
