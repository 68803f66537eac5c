//! A subnet behind a gateway of the network: whoever accepts it reaches it through the tunnel, and in no other way.
//!
//! ```text
//!   server 192.0.2.10 ─────┐
//!   alpha  198.51.100.10 ── router
//!   beta   203.0.113.10 ───┘
//!     └ 192.168.7.1 ── 192.168.7.20 printer
//! ```

use std::{
    fs,
    net::{IpAddr, UdpSocket},
};

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result, Scene,
    capture::Capture,
    host::{Host, hosts},
    machine_wide,
    namespace::Namespace,
    topology::Internet,
    wait::wait_until,
};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
const SUBNET: &str = "192.168.7.0/24";
const PRINTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 7, 20));
const PORT: u16 = 9100;

struct Stage {
    internet: Internet,
    server: Host,
    alpha: Host,
    beta: Host,
    printer: Namespace,
}

/// Beta is the gateway of the printer's subnet, and nobody has talked with it yet.
fn stage(scene: &Scene) -> Result<Stage> {
    let mut internet = Internet::new()?;
    let [server, alpha, beta] = hosts(scene, &mut internet)?;
    alpha.join("alpha", &server.init(&["--name", "server"])?)?;
    beta.join("beta", &server.token(&[])?)?;
    let printer = Namespace::create("printer")?;
    printer.join("eth0", beta.namespace(), "lan")?;
    beta.namespace().ip("addr add 192.168.7.1/24 dev lan")?;
    beta.namespace().sysctl("net.ipv4.ip_forward", "1")?;
    printer.ip(&format!("addr add {PRINTER}/24 dev eth0"))?;
    printer.ip("route add default via 192.168.7.1")?;
    be_gateway(&beta)?;
    server.run(&["node", "set", "beta", "--route", SUBNET])?;
    server.run(&["network", "set", "--route", SUBNET, "--gateway", "beta"])?;
    wait_until("the route is known", LIMIT, || route(&alpha).is_ok())?;
    Ok(Stage { internet, server, alpha, beta, printer })
}

fn be_gateway(host: &Host) -> Result {
    set(host, "interface", &format!("gateway_subnets = [\"{SUBNET}\"]"))?;
    host.restart()
}

/// Puts a line first into a section of a host's file, where an earlier one of the same key goes.
fn set(host: &Host, section: &str, line: &str) -> Result {
    let file = host.folder.join("config/tombolo.toml");
    let key = line.split(' ').next().unwrap_or_default();
    let text = fs::read_to_string(&file)?;
    let kept: String =
        text.lines().filter(|line| !line.starts_with(key)).flat_map(|line| [line, "\n"]).collect();
    let head = format!("[{section}]\n");
    Ok(fs::write(&file, kept.replacen(&head, &format!("{head}{line}\n"), 1))?)
}

/// What `status` says of the subnet.
fn route(host: &Host) -> Result<serde_json::Value> {
    let status = host.status()?;
    let routes = status["membership"]["routes"].as_array().context("routes")?;
    routes.iter().find(|route| route["prefix"] == SUBNET).cloned().context("the subnet's route")
}

fn is_taken(host: &Host) -> bool {
    route(host).is_ok_and(|route| route["taken"] == true)
}

impl Stage {
    fn accept(&self, prefixes: &str) -> Result {
        set(&self.alpha, "membership", &format!("accept_routes = [{prefixes}]"))?;
        self.alpha.reload()
    }

    /// One datagram from alpha to the printer, and one back.
    fn one_each_way(&self) -> Result {
        let printer = self.printer.enter(|| Ok(UdpSocket::bind((PRINTER, PORT))?))?;
        let alpha = self.alpha.namespace().enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
        for socket in [&printer, &alpha] {
            socket.set_read_timeout(Some(LIMIT))?;
        }
        alpha.send_to(b"print", (PRINTER, PORT))?;
        let (_, from) = printer.recv_from(&mut [0; 16]).context("the first packet")?;
        ensure!(from.ip() == self.alpha.address()?, "it came from {from}, not from the overlay");
        printer.send_to(b"done", from)?;
        alpha.recv_from(&mut [0; 16]).context("the answer").map(drop)
    }

    /// Sends from alpha to the printer.
    fn send(&self) -> Result {
        let alpha = self.alpha.namespace().enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
        for _ in 0..3 {
            // Refused at once is what should happen where there is no way.
            let _ = alpha.send_to(b"print", (PRINTER, PORT));
        }
        Ok(())
    }

    fn wire(&self) -> Result<Capture> {
        Capture::start(&self.internet.router, &self.alpha.machine.port, &format!("net {SUBNET}"), &[])
    }

    fn leaks(&self) -> Result<u64> {
        let wire = self.wire()?;
        self.send()?;
        Ok(wire.stop()?.packets)
    }

    fn rules(&self) -> Result<String> {
        self.alpha.namespace().ip("rule show")
    }
}

#[test]
fn an_accepted_subnet_is_reached_through_the_tunnel_and_never_in_clear_control_rule_5() {
    machine_wide(
        "an_accepted_subnet_is_reached_through_the_tunnel_and_never_in_clear_control_rule_5",
        |scene| {
            let stage = stage(scene)?;
            let (alpha, beta) = (&stage.alpha, &stage.beta);
            stage.accept(&format!("\"{SUBNET}\""))?;
            wait_until("the subnet is accepted", LIMIT, || is_taken(alpha))?;
            let wire = stage.wire()?;
            stage.one_each_way().context("before there was a tunnel with the gateway")?;
            // As after a long silence: nobody here knows the gateway any more, and there is no tunnel with it.
            alpha.run(&["down"])?;
            fs::remove_file(alpha.folder.join("state/tombolo/members.json"))?;
            alpha.run(&["up"])?;
            ensure!(alpha.path("beta").is_none(), "there is a tunnel with the gateway: {:?}", alpha.status());
            stage.one_each_way().context("after the gateway was forgotten")?;
            ensure!(wire.stop()?.packets == 0, "packets in the clear beside the tunnel");
            beta.kill()?;
            ensure!(stage.leaks()? == 0, "packets in the clear with the gateway away");
            alpha.restart()?;
            ensure!(stage.leaks()? == 0, "packets in the clear after a restart with the gateway away");
            // Nor does somebody else's route pull them out.
            alpha.namespace().ip(&format!("route add {PRINTER}/32 via 198.51.100.1 dev eth0"))?;
            alpha.restart()?;
            ensure!(is_taken(alpha) && stage.leaks()? == 0, "packets in the clear by a pushed route");
            alpha.kill()?;
            ensure!(stage.leaks()? == 0, "packets in the clear after the daemon was killed");
            let interface = alpha.namespace().ip("-brief link")?;
            let interface = interface.split_whitespace().find(|word| word.starts_with("tombolo"));
            alpha.namespace().ip(&format!("link del {}", interface.context("the interface")?))?;
            while alpha.namespace().ip("rule del priority 2662").is_ok() {}
            ensure!(stage.leaks()? == 0, "packets in the clear without interface and rules");
            alpha.run(&["up"])?;
            stage.accept("")?;
            wait_until("the subnet is given up", LIMIT, || {
                route(alpha).is_ok_and(|route| route["taken"] == false)
            })?;
            ensure!(!stage.rules()?.contains(SUBNET), "{}", stage.rules()?);
            ensure!(stage.leaks()? > 0, "the guard, or what else kept them in, is still there");
            Ok(())
        },
    );
}

/// What was known of the gateway is void while there is a tunnel with it, and the next packet finds the new one.
#[test]
fn a_gateway_that_is_replaced_is_looked_up_by_the_next_packet_control_rules_5_and_20() {
    machine_wide(
        "a_gateway_that_is_replaced_is_looked_up_by_the_next_packet_control_rules_5_and_20",
        |scene| {
            let stage = stage(scene)?;
            let (server, alpha, beta) = (&stage.server, &stage.alpha, &stage.beta);
            stage.accept(&format!("\"{SUBNET}\""))?;
            wait_until("the subnet is accepted", LIMIT, || is_taken(alpha))?;
            stage.one_each_way()?;
            let wire = stage.wire()?;
            // The same machine, with nothing of what it was.
            beta.run(&["down", "--open"])?;
            for folder in ["config", "state"] {
                fs::remove_dir_all(beta.folder.join(folder))?;
            }
            let token = server.json(&["node", "replace", "beta", "--json"])?;
            beta.join("beta", token["token"].as_str().context("a token")?)?;
            be_gateway(beta)?;
            let version =
                |host: &Host| Some(host.status().ok()?["membership"]["network_version"].to_string());
            wait_until("alpha has heard of it", LIMIT, || {
                version(server).is_some_and(|newest| version(alpha) == Some(newest))
            })?;
            stage.one_each_way()?;
            ensure!(wire.stop()?.packets == 0, "packets in the clear");
            Ok(())
        },
    );
}

#[test]
fn a_subnet_that_is_not_accepted_or_cannot_be_had_is_not_taken_control_rule_5() {
    machine_wide("a_subnet_that_is_not_accepted_or_cannot_be_had_is_not_taken_control_rule_5", |scene| {
        let stage = stage(scene)?;
        let alpha = &stage.alpha;
        // By address, so that there is a tunnel with the gateway.
        alpha.reaches(&stage.beta, "beta")?;
        let shown = route(alpha)?;
        ensure!(shown["taken"] == false && shown["gateways"][0] == "beta", "{shown}");
        ensure!(shown["reason"].to_string().contains("accept_routes"), "{shown}");
        ensure!(!stage.rules()?.contains(SUBNET), "{}", stage.rules()?);
        // All traffic, alpha's own subnet, and the overlay.
        let overlay = format!("{}/32", alpha.address()?);
        stage.accept(&format!("\"0.0.0.0/0\", \"198.51.100.0/25\", \"{overlay}\""))?;
        let words =
            ["a default route is never taken", "overlaps the local route 198.51.100", "overlaps the overlay"];
        for words in words {
            wait_until(words, LIMIT, || alpha.warns_of(words))?;
            let doctor = tombolo_tests::command::output(&mut alpha.command(&["doctor"]), LIMIT)?;
            let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
            ensure!(doctor.contains(words), "{doctor}");
        }
        for prefix in ["0.0.0.0/0", "198.51.100.0/25", &overlay, SUBNET] {
            ensure!(!stage.rules()?.contains(&format!("to {prefix} ")), "{}", stage.rules()?);
        }
        ensure!(!is_taken(alpha));
        // The machine reaches the world as before.
        ensure!(stage.leaks()? > 0, "nothing leaves by the default route");
        alpha.reaches(&stage.beta, "beta")
    });
}
