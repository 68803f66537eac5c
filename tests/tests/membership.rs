//! From nothing to machines in one subnet: `server init`, `join`, and what a user does from there.
//!
//! ```text
//!   server 192.0.2.10 ─┐
//!   alpha  198.51.100.10 ── router
//!   beta   203.0.113.10 ┘
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result, Scene,
    command::{output, run, run_with_input},
    machine_wide,
    namespace::Namespace,
    node::executable,
    topology::{Internet, Machine},
    transfer,
};

const LIMIT: Duration = Duration::from_secs(20);

/// A machine as it comes: nothing but the program.
struct Host {
    machine: Machine,
    folder: PathBuf,
}

impl Host {
    fn new(scene: &Scene, internet: &mut Internet, name: &str, subnet: [u8; 4]) -> Result<Self> {
        let machine = internet.region(name, subnet)?;
        let folder = scene.path(name);
        fs::create_dir_all(&folder)?;
        Ok(Self { machine, folder })
    }

    fn namespace(&self) -> &Namespace {
        &self.machine.namespace
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.namespace().command(executable("tombolo")?);
        command
            .args(arguments)
            .env("TOMBOLO_CONFIG_DIR", self.folder.join("config"))
            .env("TOMBOLO_STATE_DIR", self.folder.join("state"))
            .env("TOMBOLO_RUN_DIR", self.folder.join("run"));
        Ok(command)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments)?)
    }

    fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let text = self.run(arguments)?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// `server init`; gives the first token.
    fn init(&self) -> Result<String> {
        let root = self.folder.join("root.age");
        let endpoint = self.machine.address.to_string();
        let root = root.to_str().context("a path in UTF-8")?;
        let options = ["--endpoint", &endpoint, "--name", "server", "--root-key", root, "--json"];
        let made = self.json(&[&["server", "init"], &options[..]].concat())?;
        ensure!(made["started"] == true, "{made}");
        Ok(made["token"].as_str().context("a token")?.to_owned())
    }

    fn join(&self, name: &str, token: &str) -> Result<String> {
        run_with_input(&mut self.command(&["join", "--name", name, "-"])?, token)
    }

    /// What `join` says when it is refused, and its exit code.
    fn refusal(&self, name: &str, token: &str) -> Result<(i32, String)> {
        let file = self.folder.join("token");
        fs::write(&file, token)?;
        let mut command = self.command(&["join", "--name", name])?;
        let output = output(command.arg(&file), LIMIT)?;
        let code = output.status.code().context("an exit code")?;
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Its overlay address.
    fn address(&self) -> Result<IpAddr> {
        let status = self.json(&["status", "--json"])?;
        let address = status["interface"]["addresses"][0].as_str().context("an address")?;
        Ok(address.split('/').next().unwrap_or_default().parse()?)
    }

    /// What the name server of this machine says of a member's name: the response code, and the first IPv4 address
    /// (RFC 1035 §4.1). Asked in raw bytes, as an application's resolver would.
    fn resolve(&self, name: &str) -> Result<(u8, Option<Ipv4Addr>)> {
        let own = self.address()?;
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [name, "tombolo", "internal"] {
            query.push(label.len() as u8);
            query.extend(label.bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let socket = self.namespace().enter(|| Ok(UdpSocket::bind((own, 0))?))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.send_to(&query, (own, 53))?;
        let mut answer = [0; 512];
        let (length, _) = socket.recv_from(&mut answer).context("an answer of the name server")?;
        ensure!(length >= query.len() && answer[..2] == query[..2], "{:?}", &answer[..length]);
        let address = answer[..length].last_chunk::<4>().filter(|_| answer[7] == 1);
        Ok((answer[3] & 0x0f, address.map(|bytes| Ipv4Addr::from(*bytes))))
    }

    fn reaches(&self, other: &Self, name: &str) -> Result {
        // By address first: nobody has asked for the tunnel before the packet.
        transfer::reach(self.namespace(), other.namespace(), other.address()?, LIMIT)?;
        self.run(&["wait", "--peer", name, "--timeout", "20s"]).map(drop)
    }
}

fn three_hosts(scene: &Scene) -> Result<(Internet, [Host; 3])> {
    let mut internet = Internet::new()?;
    let server = Host::new(scene, &mut internet, "server", [192, 0, 2, 0])?;
    let alpha = Host::new(scene, &mut internet, "alpha", [198, 51, 100, 0])?;
    let beta = Host::new(scene, &mut internet, "beta", [203, 0, 113, 0])?;
    Ok((internet, [server, alpha, beta]))
}

#[test]
fn a_token_joins_a_machine_and_members_come_back_from_disk_without_the_server() {
    machine_wide("a_token_joins_a_machine_and_members_come_back_from_disk_without_the_server", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        let token = server.init()?;
        alpha.join("alpha", &token)?;
        let token = server.json(&["token", "new", "--json"])?;
        beta.join("beta", token["token"].as_str().context("a token")?)?;
        // By name, before anybody has talked to beta; and whose name it is not.
        ensure!(alpha.resolve("beta")?.1.map(IpAddr::from) == Some(beta.address()?));
        ensure!(alpha.resolve("nobody")? == (3, None));
        alpha.reaches(&server, "server")?;
        alpha.reaches(&beta, "beta")?;
        beta.reaches(&alpha, "alpha")?;
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
    });
}

#[test]
fn a_token_is_good_once_and_a_refused_machine_keeps_nothing_control_rule_15() {
    machine_wide("a_token_is_good_once_and_a_refused_machine_keeps_nothing_control_rule_15", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        let token = server.init()?;
        alpha.join("alpha", &token)?;
        let (code, text) = beta.refusal("beta", &token)?;
        ensure!(code == 1 && text.contains("the token is spent"), "{code} {text}");
        ensure!(
            !beta.folder.join("config/tombolo.toml").exists() && !beta.folder.join("state/tombolo").exists()
        );
        let fresh = server.json(&["token", "new", "--json"])?;
        let fresh = fresh["token"].as_str().context("a token")?;
        let (code, text) = beta.refusal("alpha", fresh)?;
        ensure!(code == 1 && text.contains("the name is another node's"), "{code} {text}");
        let (code, text) = beta.refusal("beta", &fresh[..fresh.len() - 1])?;
        ensure!(code == 1, "{code} {text}");
        let (code, text) = alpha.refusal("alpha", fresh)?;
        ensure!(code == 1 && text.contains("this machine has a network"), "{code} {text}");
        server.run(&["down"])?;
        let (code, text) = beta.refusal("beta", fresh)?;
        let endpoint = format!("tried {}:8662", server.machine.address);
        ensure!(code == 2 && text.contains(&endpoint) && text.contains("firewall"), "{code} {text}");
        // Nothing of that was in vain: the token is as good as before.
        server.run(&["up"])?;
        beta.join("beta", fresh)?;
        Ok(())
    });
}

/// The way to a member, as `status` has it.
fn path(host: &Host, name: &str) -> Option<String> {
    let status = host.json(&["status", "--json"]).ok()?;
    let peer = status["peers"].as_array()?.iter().find(|peer| peer["name"] == name)?;
    Some(peer["path"].as_str()?.to_owned())
}

#[test]
fn members_that_cannot_reach_each_other_go_through_the_relay_and_back_control_rule_14() {
    machine_wide(
        "members_that_cannot_reach_each_other_go_through_the_relay_and_back_control_rule_14",
        |scene| {
            let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
            alpha.join("alpha", &server.init()?)?;
            let token = server.json(&["token", "new", "--json"])?;
            beta.join("beta", token["token"].as_str().context("a token")?)?;
            let nft =
                |text: String| run(alpha.namespace().command("nft").args(text.split_whitespace())).map(drop);
            nft("add table inet block".to_owned())?;
            for (hook, word) in [("input", "saddr"), ("output", "daddr")] {
                nft(format!("add chain inet block {hook} {{ type filter hook {hook} priority 0 ; }}"))?;
                nft(format!("add rule inet block {hook} ip {word} {} drop", beta.machine.address))?;
            }
            // Direct ways are tried before the relay's.
            let (other, limit) = (beta.address()?, Duration::from_secs(60));
            transfer::reach(alpha.namespace(), beta.namespace(), other, limit)?;
            beta.reaches(&alpha, "alpha")?;
            ensure!(
                path(&alpha, "beta").as_deref() == Some("relayed"),
                "the path is {:?}",
                path(&alpha, "beta")
            );
            // Once the direct path opens, it is found and used.
            nft("delete table inet block".to_owned())?;
            let direct = || path(&alpha, "beta").as_deref() == Some("direct");
            tombolo_tests::wait::wait_until("the direct path is used", Duration::from_secs(90), direct)?;
            alpha.reaches(&beta, "beta")
        },
    );
}

#[test]
fn a_revoked_node_is_cut_off_and_one_that_leaves_is_gone_control_rule_16() {
    machine_wide("a_revoked_node_is_cut_off_and_one_that_leaves_is_gone_control_rule_16", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        alpha.join("alpha", &server.init()?)?;
        let token = server.json(&["token", "new", "--json"])?;
        beta.join("beta", token["token"].as_str().context("a token")?)?;
        alpha.reaches(&beta, "beta")?;
        server.run(&["node", "revoke", "beta"])?;
        // Cut at the server, and by the new document at whoever talks to it.
        for host in [&server, &alpha] {
            let mut command = host.command(&["wait", "--peer", "beta", "--timeout", "1s"])?;
            tombolo_tests::wait::wait_until("the revoked node is cut off", LIMIT, || {
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
    });
}

#[test]
fn the_administrators_commands_do_what_they_say_control_rules_15_and_20() {
    machine_wide("the_administrators_commands_do_what_they_say_control_rules_15_and_20", |scene| {
        let (_internet, [server, alpha, beta]) = three_hosts(scene)?;
        alpha.join("alpha", &server.init()?)?;
        // A token that was taken back lets nobody in.
        let token = server.json(&["token", "new", "--json", "--name", "beta"])?;
        let listed = server.json(&["token", "list", "--json"])?;
        let unspent = listed.as_array().and_then(|all| all.iter().find(|held| held["name"] == "beta"));
        let id = unspent.and_then(|held| held["token"].as_str()).context("the token in the list")?;
        server.run(&["token", "revoke", id])?;
        let (code, text) = beta.refusal("beta", token["token"].as_str().context("a token")?)?;
        ensure!(code == 1, "{code} {text}");
        // A name that the token gives, and another one.
        server.run(&["node", "rename", "alpha", "first"])?;
        let shown = server.json(&["node", "show", "first", "--json"])?;
        ensure!(shown["name"] == "first" && shown["serial"].as_u64() > Some(1), "{shown}");
        let address = alpha.address()?;
        ensure!(server.json(&["network", "show", "--json"])?["nodes"] == 2);
        // Another machine takes its place: same address, another key.
        let token = server.json(&["node", "replace", "first", "--json"])?;
        run_with_input(&mut beta.command(&["join", "-"])?, token["token"].as_str().context("a token")?)?;
        ensure!(beta.address()? == address, "{} is not {address}", beta.address()?);
        let replaced = server.json(&["node", "show", "first", "--json"])?;
        ensure!(replaced["public_key"] != shown["public_key"], "{replaced}");
        beta.reaches(&server, "server")?;
        let who = server.json(&["whois", &address.to_string(), "--json"])?;
        ensure!(who["public_key"] == replaced["public_key"] && who["name"] == "first", "{who}");
        let whois = server.run(&["whois", &address.to_string()])?;
        ensure!(whois.starts_with("first"), "{whois}");
        Ok(())
    });
}
