//! What administrators do, from the server and from their own machines, and stock WireGuard peers, which they make members.
//!
//! ```text
//!   server 192.0.2.10 ────┐        ┌── phone 192.0.3.10: Debian's wireguard-go, no Tombolo
//!   alpha  198.51.100.10 ─ router ─┘
//!   beta   203.0.113.10 ──┘
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tombolo_tests::{
    Result, Scene,
    command::{output, run},
    host::Host,
    machine_wide_and_patient,
    namespace::Namespace,
    topology::{Internet, Machine},
    transfer,
    wait::wait_until,
    wireguard_go::{KeyPair, unique},
};

/// How long something may take that should take a moment.
const LIMIT: Duration = Duration::from_secs(20);

struct World {
    internet: Internet,
    server: Host,
    alpha: Host,
    beta: Host,
}

/// A server; two machines that are no members yet.
fn world(scene: &Scene) -> Result<(World, String)> {
    let mut internet = Internet::new()?;
    let server = Host::new(scene, &mut internet, "server", [192, 0, 2, 0])?;
    let alpha = Host::new(scene, &mut internet, "alpha", [198, 51, 100, 0])?;
    let beta = Host::new(scene, &mut internet, "beta", [203, 0, 113, 0])?;
    let token = server.init(&["--name", "server"])?;
    Ok((World { internet, server, alpha, beta }, token))
}

/// What a command says that fails, and its exit code.
fn refusal(host: &Host, arguments: &[&str]) -> Result<(i32, String)> {
    let said = output(&mut host.command(arguments), LIMIT)?;
    let code = said.status.code().context("an exit code")?;
    Ok((code, String::from_utf8_lossy(&said.stderr).into_owned()))
}

fn refused(host: &Host, arguments: &[&str], words: &[&str]) -> Result {
    let (code, said) = refusal(host, arguments)?;
    ensure!(code == 1 && words.iter().all(|word| said.contains(word)), "{arguments:?}: {code} {said}");
    Ok(())
}

/// A machine with stock WireGuard, which `wg-quick` has brought up from the very file that `node add` has printed.
struct Stock {
    namespace: Namespace,
    file: PathBuf,
    interface: String,
    gateway: String,
    addresses: Vec<IpAddr>,
}

impl Stock {
    /// The user of the machine does what the file says: puts the private key in its place.
    fn start(scene: &Scene, machine: &Machine, keys: &KeyPair, printed: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            value.with_context(|| format!("{name} in {printed}"))
        };
        let interface = unique("q");
        let text = printed.replace(field("PrivateKey")?, &keys.private);
        let file = scene.write(&format!("{interface}.conf"), &text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let addresses = field("Address")?
            .split(", ")
            .map(|address| Ok(address.split('/').next().unwrap_or_default().parse()?))
            .collect::<Result<_>>()?;
        let gateway = field("PublicKey")?.to_owned();
        let stock = Self { namespace: machine.namespace.clone(), file, interface, gateway, addresses };
        run(&mut stock.wg_quick("up"))?;
        Ok(stock)
    }

    fn wg_quick(&self, verb: &str) -> Command {
        let mut command = self.namespace.command("wg-quick");
        command.arg(verb).arg(&self.file).env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go");
        command
    }

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The Unix time of the last handshake with the gateway.
    fn last_handshake(&self) -> Result<u64> {
        let table = run(self.namespace.command("wg").args(["show", &self.interface, "latest-handshakes"]))?;
        let row = table.lines().find_map(|line| line.strip_prefix(&self.gateway));
        Ok(row.with_context(|| table.clone())?.trim().parse()?)
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // Its socket is not part of the namespace.
        let _ = output(&mut self.wg_quick("down"), LIMIT);
    }
}

/// Small and large packets, both families, both ways, first from the stock peer.
fn both_ways(stock: &Stock, host: &Host) -> Result {
    for (own, other) in stock.addresses.iter().zip(host.addresses()?) {
        transfer::reach(stock.namespace(), host.namespace(), other, LIMIT)?;
        transfer::reach(host.namespace(), stock.namespace(), *own, LIMIT)?;
        transfer::tcp(stock.namespace(), host.namespace(), other, 1_000_003)?;
        transfer::tcp(host.namespace(), stock.namespace(), *own, 1_000_003)?;
    }
    Ok(())
}

#[test]
fn a_stock_wireguard_peer_reaches_every_member_and_is_reached_control_rule_20() {
    machine_wide_and_patient(
        "a_stock_wireguard_peer_reaches_every_member_and_is_reached_control_rule_20",
        |scene| {
            let (World { mut internet, server, alpha, beta }, token) = world(scene)?;
            alpha.join("alpha", &token)?;
            beta.join("beta", &server.token(&[])?)?;
            let machine = internet.region("phone", [192, 0, 3, 0])?;
            let keys = KeyPair::generate()?;
            let path = scene.path("phone.conf");
            let file_name = path.to_str().context("a path in UTF-8")?;
            server.run(&["node", "add", "phone", "--pubkey", &keys.public, "--output", file_name])?;
            ensure!(fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600);
            let file = fs::read_to_string(&path)?;
            ensure!(file.contains("PrivateKey = PUT-THE-PRIVATE-KEY"), "{file}");
            let again = server.run(&["node", "show", "phone", "--wg-quick"])?;
            ensure!(again == file, "{again}");
            let phone = Stock::start(scene, &machine, &keys, &file)?;
            both_ways(&phone, &server)?;
            // Alpha has never heard of it, and is spoken to; beta has not either, and speaks.
            both_ways(&phone, &alpha)?;
            transfer::reach(beta.namespace(), phone.namespace(), phone.addresses[0], LIMIT)?;
            beta.wait_for_peer("phone")?;
            alpha.wait_for_peer("server")?;
            wait_until("the phone's name", LIMIT, || {
                beta.resolve("phone")
                    .is_ok_and(|(_, found)| found.map(IpAddr::from) == Some(phone.addresses[0]))
            })?;
            let who = alpha.json(&["whois", &phone.addresses[0].to_string(), "--json"])?;
            ensure!(who["name"] == "phone" && who["public_key"] == keys.public, "{who}");
            // Members that are idle know that it is there when the gateway comes back.
            server.kill()?;
            server.run(&["up"])?;
            both_ways(&phone, &alpha)?;
            let handshake = phone.last_handshake()?;
            ensure!(handshake > 0);
            // A revoked one is cut off, and nobody has its address.
            server.run(&["node", "revoke", "phone"])?;
            let status = server.json(&["status", "--json"])?;
            let named = |status: &Value| {
                status["peers"]
                    .as_array()
                    .is_some_and(|peers| peers.iter().any(|peer| peer["name"] == "phone"))
            };
            ensure!(!named(&status), "{status}");
            for host in [&alpha, &beta] {
                wait_until("the revoked peer is cut off", LIMIT, || {
                    refusal(host, &["wait", "--peer", "phone", "--timeout", "1s"])
                        .is_ok_and(|(code, _)| code != 0)
                })?;
            }
            let cut = transfer::reach(
                phone.namespace(),
                alpha.namespace(),
                alpha.address()?,
                Duration::from_secs(2),
            );
            ensure!(cut.is_err(), "a revoked peer's packets arrive");
            refused(
                &server,
                &["node", "add", "phone", "--pubkey", &keys.public],
                &["revoked", "another key pair"],
            )
        },
    );
}

#[test]
fn a_member_presents_a_stock_peer_as_its_gateway_also_without_the_server_control_rule_20() {
    machine_wide_and_patient(
        "a_member_presents_a_stock_peer_as_its_gateway_also_without_the_server_control_rule_20",
        |scene| {
            let (World { mut internet, server, alpha, beta }, token) = world(scene)?;
            alpha.join("alpha", &token)?;
            beta.join("beta", &server.token(&[])?)?;
            let machine = internet.region("phone", [192, 0, 3, 0])?;
            let keys = KeyPair::generate()?;
            let add = ["node", "add", "plc", "--pubkey", &keys.public, "--gateway", "alpha", "--json"];
            refused(&server, &add, &["neither gateway nor lighthouse", "node set alpha --role gateway"])?;
            server.run(&["node", "set", "alpha", "--role", "gateway"])?;
            let endpoint = alpha.machine.address.to_string();
            let added = server.json(&[&add[..], &["--endpoint", &endpoint]].concat())?;
            let file = added["wg_quick"].as_str().context("the file")?;
            let plc = Stock::start(scene, &machine, &keys, file)?;
            both_ways(&plc, &alpha)?;
            both_ways(&plc, &beta)?;
            both_ways(&plc, &server)?;
            let shown = server.json(&["node", "show", "plc", "--json"])?;
            let gateway = server.json(&["node", "show", "alpha", "--json"])?;
            ensure!(shown["presented_by"] == gateway["node"], "{shown}");
            // The gateway has it all on its own disk.
            server.run(&["down"])?;
            alpha.run(&["down"])?;
            alpha.run(&["up"])?;
            both_ways(&plc, &beta)
        },
    );
}

#[test]
fn administrators_work_from_their_own_machines_and_others_are_refused_control_rule_22() {
    machine_wide_and_patient(
        "administrators_work_from_their_own_machines_and_others_are_refused_control_rule_22",
        |scene| {
            let (World { server, alpha, beta, mut internet }, token) = world(scene)?;
            let desk = Host::new(scene, &mut internet, "desk", [192, 0, 3, 0])?;
            alpha.join("alpha", &token)?;
            refused(&alpha, &["node", "list"], &["in no admin group", "--admin"])?;
            server.run(&["network", "set", "--group", "staff", "--admin-group", "staff"])?;
            refused(&server, &["token", "new", "--group", "staff"], &["administer", "--admin"])?;
            refused(
                &server,
                &["token", "new", "--group", "stafff"],
                &["no group stafff", "did you mean staff?"],
            )?;
            desk.join("desk", &server.token(&["--group", "staff", "--admin"])?)?;
            // Tokens, nodes and the network from the administrator's machine.
            beta.join("beta", &desk.token(&["--name", "beta", "--expires", "2h"])?)?;
            let nodes = desk.json(&["node", "list", "--json"])?;
            let names: BTreeSet<&str> =
                nodes.as_array().context("a list")?.iter().filter_map(|node| node["name"].as_str()).collect();
            ensure!(names == BTreeSet::from(["alpha", "beta", "desk", "server"]), "{nodes}");
            ensure!(desk.run(&["node", "list"])?.lines().count() == 5);
            ensure!(desk.json(&["node", "show", "beta", "--json"])?["name"] == "beta");
            refused(&desk, &["node", "show", "beth"], &["no node beth", "did you mean beta?"])?;
            desk.run(&["network", "set", "--group", "databases", "--lifetime", "7d"])?;
            let network = desk.json(&["network", "show", "--json"])?;
            ensure!(network["membership_seconds"] == 7 * 86_400, "{network}");
            ensure!(network["groups"] == serde_json::json!(["databases", "staff"]), "{network}");
            desk.run(&["node", "rename", "beta", "db-1"])?;
            desk.run(&["node", "set", "db-1", "--group", "databases"])?;
            let groups = |host: &Host| {
                host.json(&["status", "--json"]).map(|status| status["membership"]["groups"].clone())
            };
            wait_until("the node knows its groups", LIMIT, || {
                groups(&beta).is_ok_and(|groups| groups == serde_json::json!(["databases"]))
            })?;
            refused(&desk, &["token", "new", "--name", "db-1"], &["another node's"])?;
            let replaced = desk.json(&["node", "replace", "db-1", "--json"])?;
            let id = replaced["id"].as_str().context("the token's short form")?;
            let listed = desk.json(&["token", "list", "--json"])?;
            ensure!(
                listed.as_array().is_some_and(|all| all.iter().any(|token| token["token"] == id)),
                "{listed}"
            );
            desk.run(&["token", "revoke", id])?;
            desk.run(&["node", "revoke", "db-1"])?;
            let many = desk.json(&["token", "new", "--uses", "3", "--ephemeral", "5m", "--json"])?;
            let listed = desk.json(&["token", "list", "--json"])?;
            let of_many =
                listed.as_array().and_then(|all| all.iter().find(|token| token["token"] == many["id"]));
            ensure!(
                of_many.is_some_and(|token| token["uses_left"] == 3 && token["ephemeral"] == true),
                "{listed}"
            );
            // Who is taken out of the group is refused at once, though its membership has not ended; who is put in is not.
            server.run(&["node", "set", "alpha", "--group", "staff", "--admin"])?;
            alpha.run(&["node", "set", "desk", "--remove-group", "staff"])?;
            refused(&desk, &["node", "list"], &["in no admin group"])?;
            wait_until("the node knows that it is in no group", LIMIT, || {
                groups(&desk).is_ok_and(|groups| groups == serde_json::json!([]))
            })?;
            alpha.run(&["node", "list"])?;
            desk.reaches(&alpha, "alpha")?;
            audit(&server, &alpha)?;
            // Without the server nobody administers, and is told so.
            server.run(&["down"])?;
            let (code, said) = refusal(&alpha, &["token", "new"])?;
            ensure!(code == 2 && said.contains("server"), "{code} {said}");
            server.run(&["audit", "--verify"]).map(drop)
        },
    );
}

/// Who did what stands in the log, which is whole, and which only the server has.
fn audit(server: &Host, alpha: &Host) -> Result {
    let log = server.json(&["audit", "--json"])?;
    let entries = log.as_array().context("a list")?;
    let done = |by: &str, what: &str| {
        entries.iter().any(|entry| {
            let who = if by == "root" {
                entry["who"]["user"] == "uid 0 (root)"
            } else {
                entry["who"]["name"] == by
            };
            who && entry["what"] == what && entry["time"].as_u64().is_some_and(|time| time > 1_700_000_000)
        })
    };
    for (by, what) in [
        ("root", "network created"),
        ("root", "network changed"),
        ("root", "node changed"),
        ("desk", "token made"),
        ("desk", "network changed"),
        ("desk", "node renamed"),
        ("desk", "node changed"),
        ("desk", "token revoked"),
        ("desk", "node revoked"),
        ("alpha", "node changed"),
    ] {
        ensure!(done(by, what), "{what} by {by} is not in {log}");
    }
    ensure!(server.run(&["audit", "--last", "3"])?.lines().count() == 4);
    let verified = server.json(&["audit", "--verify", "--json"])?;
    ensure!(verified["entries"].as_u64() >= Some(entries.len() as u64), "{verified}");
    ensure!(verified["signed_entry"].is_u64(), "{verified}");
    refused(alpha, &["audit"], &["on the network's server"])
}

#[test]
fn bad_input_says_what_where_and_how_to_mend_it() {
    machine_wide_and_patient("bad_input_says_what_where_and_how_to_mend_it", |scene| {
        let (World { server, .. }, _) = world(scene)?;
        refused(
            &server,
            &["node", "add", "phone", "--pubkey", "abc"],
            &["--pubkey abc", "44 characters", "wg pubkey"],
        )?;
        let low = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        refused(&server, &["node", "add", "phone", "--pubkey", low], &["nobody has the private half"])?;
        refused(&server, &["node", "add", "localhost", "--generate-key"], &["localhost", "choose another"])?;
        refused(
            &server,
            &["node", "add", "phone", "--generate-key", "--gateway", "serve"],
            &["did you mean server?"],
        )?;
        refused(&server, &["node", "add", "server", "--generate-key"], &["another node's"])?;
        refused(&server, &["node", "set", "server"], &["--group"])?;
        refused(
            &server,
            &["node", "set", "server", "--role", "king"],
            &["authority, lighthouse, relay or gateway"],
        )?;
        refused(&server, &["node", "revoke", "server"], &["network server remove server"])?;
        refused(&server, &["network", "set", "--lifetime", "1s"], &["ten seconds to 90 days"])?;
        refused(&server, &["network", "set", "--admin-group", "staff"], &["--group staff"])?;
        refused(
            &server,
            &["network", "server", "remove", "server"],
            &["last server with the authority role"],
        )?;
        refused(&server, &["token", "new", "--uses", "0"], &["1 to 100000"])?;
        refused(&server, &["token", "revoke", "0123456789abcdef"], &["there is no token", "token list"])?;
        refused(&server, &["token", "revoke", "x"], &["token list"])?;
        // A key that is made here stands in the file and nowhere else, and in the code that an app scans.
        let said = output(&mut server.command(&["node", "add", "phone", "--generate-key", "--qr"]), LIMIT)?;
        let (file, code) = (String::from_utf8(said.stdout)?, String::from_utf8(said.stderr)?);
        let key =
            file.lines().find_map(|line| line.strip_prefix("PrivateKey = ")).context("the private key")?;
        ensure!(key.len() == 44 && code.contains('█') && !code.contains(key), "{file}{code}");
        let shown = server.run(&["node", "show", "phone", "--wg-quick"])?;
        ensure!(!shown.contains(key) && shown.contains("PUT-THE-PRIVATE-KEY"), "{shown}");
        refused(&server, &["node", "show", "server", "--wg-quick"], &["no stock WireGuard peer"])
    });
}
