//! Ways between members: direct, through NATs, by a relay, by the next relay, and back, while connections go on.
//!
//! ```text
//!   server 192.0.2.10 ───────┐          ┌─── second 192.0.2.20
//!   alpha 198.51.100.10 ───── router ───── 203.0.113.10 beta
//!        or 192.168.100.10 behind 198.51.100.10,  192.168.113.10 behind 203.0.113.10
//! ```

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result, Scene,
    forwarder::{Forwarder, Mischief},
    host::Host,
    machine_wide,
    node::{PORT, executable},
    topology::{Internet, Machine, Nat, Natted},
    transfer::{self, Stream},
    wait::{now, wait_for, wait_until},
};

/// On a machine with other work too.
const LIMIT: Duration = Duration::from_secs(60);
const SERVER: [u8; 4] = [192, 0, 2, 0];
const ALPHA: [u8; 4] = [198, 51, 100, 0];
const BETA: [u8; 4] = [203, 0, 113, 0];
const GAMMA: [u8; 4] = [100, 70, 1, 0];
/// Bytes of a transfer that are enough to say that it goes on.
const MORE: u64 = 1 << 20;

/// A network of a server and two machines that have joined. The NATs live as long as the machines.
struct Network {
    internet: Internet,
    server: Host,
    alpha: Host,
    beta: Host,
    _nats: Vec<Machine>,
}

impl Network {
    fn new(scene: &Scene, nat: Option<Nat>) -> Result<Self> {
        let mut internet = Internet::new()?;
        let server = Host::new(scene, &mut internet, "server", SERVER)?;
        let mut nats = Vec::new();
        let mut host = |internet: &mut Internet, name: &str, subnet| match nat {
            None => Host::new(scene, internet, name, subnet),
            Some(kind) => {
                let Natted { machine, nat } = internet.behind_nat(name, subnet, kind)?;
                nats.push(nat);
                Host::on(scene, machine, name, &executable("tombolo")?)
            }
        };
        let alpha = host(&mut internet, "alpha", ALPHA)?;
        let beta = host(&mut internet, "beta", BETA)?;
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        beta.join("beta", &server.token(&[])?)?;
        Ok(Self { internet, server, alpha, beta, _nats: nats })
    }

    /// The two reach each other, and by which way.
    fn meet(&self) -> Result<Option<String>> {
        transfer::reach(self.alpha.namespace(), self.beta.namespace(), self.beta.address()?, LIMIT)?;
        self.beta.wait_for_peer("alpha")?;
        Ok(self.alpha.path("beta"))
    }

    /// Nothing passes between the two machines directly any more.
    fn block(&self) -> Result {
        self.internet.router.nft("add table inet block")?;
        self.internet.router.nft("add chain inet block forward { type filter hook forward priority 0 ; }")?;
        self.block_between(&self.alpha.machine, &self.beta.machine)
    }

    /// Nor between these two, where something is blocked already.
    fn block_between(&self, one: &Machine, other: &Machine) -> Result {
        for (from, to) in [(one, other), (other, one)] {
            for (family, from, to) in [
                ("ip", from.address.to_string(), to.address.to_string()),
                ("ip6", from.address6.to_string(), to.address6.to_string()),
            ] {
                let rule = format!("{family} saddr {from} {family} daddr {to} drop");
                self.internet.router.nft(&format!("add rule inet block forward {rule}"))?;
            }
        }
        Ok(())
    }

    fn open(&self) -> Result {
        self.internet.router.nft("delete table inet block")
    }

    fn wait_for_path(&self, path: &str) -> Result {
        wait_until(&format!("the path is {path}"), LIMIT, || self.alpha.path("beta").as_deref() == Some(path))
    }
}

#[test]
fn two_machines_behind_symmetric_nats_talk_through_the_relay_control_rule_14() {
    machine_wide("two_machines_behind_symmetric_nats_talk_through_the_relay_control_rule_14", |scene| {
        let network = Network::new(scene, Some(Nat::Symmetric))?;
        let path = network.meet()?;
        ensure!(path.as_deref() == Some("relayed"), "the path is {path:?}");
        let (alpha, beta) = (&network.alpha, &network.beta);
        transfer::tcp(alpha.namespace(), beta.namespace(), beta.address()?, 4 << 20)?;
        transfer::tcp(beta.namespace(), alpha.namespace(), alpha.address()?, 4 << 20)?;
        // Whoever asks why is told.
        let ping = alpha.run(&["ping", "-c", "1", "beta"])?;
        let doctor = alpha.command(&["doctor"]).output()?;
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        ensure!(ping.contains("relayed by server") && ping.contains("not directly: "), "{ping}");
        ensure!(doctor.contains("beta is reached through server for "), "{doctor}");
        ensure!(alpha.run(&["status"])?.contains("relayed by server for "));
        // Both reach the server directly all the while.
        ensure!(alpha.path("server").as_deref() == Some("direct"), "{:?}", alpha.path("server"));
        Ok(())
    });
}

#[test]
fn two_machines_behind_cone_nats_meet_directly_control_rule_13() {
    machine_wide("two_machines_behind_cone_nats_meet_directly_control_rule_13", |scene| {
        let network = Network::new(scene, Some(Nat::Cone))?;
        network.meet()?;
        // Both punch at once: whoever is introduced calls too.
        network.wait_for_path("direct")?;
        let (alpha, beta) = (&network.alpha, &network.beta);
        transfer::tcp(alpha.namespace(), beta.namespace(), beta.address()?, 4 << 20)?;
        // And go on so with the server away.
        network.server.run(&["down"])?;
        transfer::tcp(beta.namespace(), alpha.namespace(), alpha.address()?, 4 << 20)
    });
}

#[test]
fn a_transfer_loses_nothing_from_direct_to_relay_and_back_control_rule_14() {
    machine_wide("a_transfer_loses_nothing_from_direct_to_relay_and_back_control_rule_14", |scene| {
        let network = Network::new(scene, None)?;
        network.meet()?;
        network.wait_for_path("direct")?;
        let (alpha, beta) = (&network.alpha, &network.beta);
        let mut stream = Stream::start(alpha.namespace(), beta.namespace(), beta.address()?)?;
        stream.advance(MORE, LIMIT)?;
        network.block()?;
        network.wait_for_path("relayed")?;
        let relayed = stream.advance(MORE, LIMIT)?;
        network.open()?;
        network.wait_for_path("direct")?;
        let direct = stream.advance(MORE, LIMIT)?;
        let bytes = stream.finish()?;
        scene.say(&format!(
            "{bytes} bytes; a megabyte took {relayed:?} on the relay, {direct:?} directly again"
        ));
        Ok(())
    });
}

#[test]
fn when_the_relay_in_use_dies_the_next_one_serves_within_two_seconds_control_rule_14() {
    machine_wide(
        "when_the_relay_in_use_dies_the_next_one_serves_within_two_seconds_control_rule_14",
        |scene| {
            let mut network = Network::new(scene, None)?;
            let machine = network.internet.neighbour("second", SERVER, 20)?;
            let second = Host::on(scene, machine, "second", &executable("tombolo")?)?;
            second.join("second", &network.server.token(&["--role", "lighthouse,relay"])?)?;
            let endpoint = second.machine.address.to_string();
            network.server.run(&["network", "server", "add", "second", "--endpoint", &endpoint])?;
            network.block()?;
            let (alpha, beta) = (&network.alpha, &network.beta);
            for host in [alpha, beta] {
                wait_until("both servers are known", LIMIT, || are_servers_connected(host, 2))?;
            }
            network.meet()?;
            network.wait_for_path("relayed")?;
            // Traffic in a stream, so that the silence shows.
            let (from, to, address) = (alpha.namespace(), beta.namespace(), beta.address()?);
            let mut stream = Stream::start(from, to, address)?;
            stream.advance(MORE, LIMIT)?;
            let used = relay_of(alpha, "beta")?;
            let (dead, next) =
                if used == "server" { (&network.server, "second") } else { (&second, "server") };
            let silence = transfer::silence_after(from, to, address, LIMIT, || dead.kill())?;
            scene.say(&format!("the relay {used} died: silence of {silence:?}"));
            ensure!(silence < Duration::from_secs(2), "silence of {silence:?}");
            wait_for("the other relay is used", LIMIT, || {
                Ok((relay_of(alpha, "beta")? == next).then_some(()))
            })?;
            stream.advance(MORE, LIMIT)?;
            stream.finish()?;
            Ok(())
        },
    );
}

#[test]
fn a_relay_is_reached_by_another_where_the_direct_way_is_closed_control_rule_14() {
    machine_wide("a_relay_is_reached_by_another_where_the_direct_way_is_closed_control_rule_14", |scene| {
        let mut network = Network::new(scene, None)?;
        let gamma = Host::new(scene, &mut network.internet, "gamma", GAMMA)?;
        gamma.join("gamma", &network.server.token(&["--role", "lighthouse,relay"])?)?;
        let endpoint = gamma.machine.address.to_string();
        network.server.run(&["network", "server", "add", "gamma", "--endpoint", &endpoint])?;
        let (alpha, beta) = (&network.alpha, &network.beta);
        for host in [alpha, beta] {
            wait_until("both servers are known", LIMIT, || are_servers_connected(host, 2))?;
        }
        network.block()?;
        network.meet()?;
        network.wait_for_path("relayed")?;
        let to_gamma = |path: &str| {
            wait_until(&format!("gamma is {path}"), LIMIT, || alpha.path("gamma").as_deref() == Some(path))
        };
        // Its machine holds a database as any other does.
        let mut stream = Stream::start(alpha.namespace(), gamma.namespace(), gamma.address()?)?;
        let mut other = Stream::start(alpha.namespace(), beta.namespace(), beta.address()?)?;
        network.block_between(&alpha.machine, &gamma.machine)?;
        to_gamma("relayed")?;
        stream.advance(MORE, LIMIT)?;
        // And whoever was reached by it is reached by the one that is left.
        wait_until("beta is reached by the server", LIMIT, || {
            relay_of(alpha, "beta").is_ok_and(|relay| relay == "server")
        })?;
        other.advance(MORE, LIMIT)?;
        network.open()?;
        to_gamma("direct")?;
        stream.advance(MORE, LIMIT)?;
        other.finish()?;
        stream.finish().map(drop)
    });
}

/// What takes a fraction of a second: on a machine with other work too, and less than WireGuard's five until a handshake is tried again.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn a_first_packet_goes_through_the_relay_at_once_also_after_restarts_and_crashes_control_rule_14() {
    machine_wide(
        "a_first_packet_goes_through_the_relay_at_once_also_after_restarts_and_crashes_control_rule_14",
        |scene| {
            let network = Network::new(scene, None)?;
            network.block()?;
            let (alpha, beta) = (&network.alpha, &network.beta);
            let reach = |what: &str, from: &Host, to: &Host| {
                let took = transfer::reach(from.namespace(), to.namespace(), to.address()?, LIMIT)?;
                scene.say(&format!("{what}: {took:?}"));
                ensure!(took < SOON, "{what}: {took:?}");
                Ok(())
            };
            reach("first contact", alpha, beta)?;
            reach("and back", beta, alpha)?;
            network.wait_for_path("relayed")?;
            alpha.restart()?;
            reach("one has restarted", alpha, beta)?;
            alpha.restart()?;
            reach("the other has restarted", beta, alpha)?;
            // Before anything of this run is on the disk: what the handshakes of the run before have said is not said again.
            alpha.kill()?;
            alpha.run(&["up"])?;
            reach("one has crashed", alpha, beta)?;
            alpha.restart()?;
            beta.restart()?;
            reach("both have restarted", alpha, beta)?;
            reach("and back", beta, alpha)
        },
    );
}

#[test]
fn a_connection_through_the_relay_goes_on_when_the_relay_is_back_control_rule_14() {
    machine_wide("a_connection_through_the_relay_goes_on_when_the_relay_is_back_control_rule_14", |scene| {
        let network = Network::new(scene, None)?;
        network.block()?;
        network.meet()?;
        network.wait_for_path("relayed")?;
        let (alpha, beta) = (&network.alpha, &network.beta);
        let mut stream = Stream::start(alpha.namespace(), beta.namespace(), beta.address()?)?;
        stream.advance(MORE, LIMIT)?;
        network.server.restart()?;
        let took = stream.advance(MORE, LIMIT)?;
        scene.say(&format!("a megabyte, {took:?} after the relay's return"));
        // Nobody waits for a keepalive of 25 seconds, or for WireGuard to give up.
        ensure!(took < Duration::from_secs(12), "{took:?}");
        stream.finish().map(drop)
    });
}

/// A relay that members reach through a machine that is not to be trusted, and in no other way.
struct BadRelay {
    name: &'static str,
    _host: Host,
    in_the_way: Forwarder,
    _machine: Machine,
}

impl BadRelay {
    fn new(scene: &Scene, network: &mut Network, name: &'static str, last: u8) -> Result<Self> {
        let host =
            Host::on(scene, network.internet.neighbour(name, SERVER, last)?, name, &executable("tombolo")?)?;
        let machine = network.internet.neighbour(&format!("{name}-way"), SERVER, last + 1)?;
        let in_the_way = Forwarder::start(&machine.namespace, PORT, (host.machine.address, PORT).into())?;
        for member in [&network.alpha, &network.beta] {
            network.block_between(&member.machine, &host.machine)?;
        }
        host.join(name, &network.server.token(&["--role", "relay"])?)?;
        let endpoint = machine.address.to_string();
        network.server.run(&["network", "server", "add", name, "--endpoint", &endpoint])?;
        Ok(Self { name, _host: host, in_the_way, _machine: machine })
    }
}

fn are_servers_connected(host: &Host, number: usize) -> bool {
    host.status().is_ok_and(|status| {
        let servers = status["membership"]["servers"].as_array().cloned().unwrap_or_default();
        servers.len() == number && servers.iter().all(|server| server["connected"] == true)
    })
}

#[test]
fn a_transfer_survives_relays_that_rewrite_reflect_drop_delay_and_repeat_control_rule_14() {
    machine_wide(
        "a_transfer_survives_relays_that_rewrite_reflect_drop_delay_and_repeat_control_rule_14",
        |scene| {
            let mut network = Network::new(scene, None)?;
            network.block()?;
            // The server relays nothing itself.
            let file = network.server.folder.join("config/tombolo.toml");
            let text = fs::read_to_string(&file)?;
            fs::write(&file, text.replacen("[membership]\n", "[membership]\nrelay = false\n", 1))?;
            network.server.restart()?;
            let relays = [
                BadRelay::new(scene, &mut network, "one", 20)?,
                BadRelay::new(scene, &mut network, "two", 30)?,
            ];
            let (alpha, beta) = (&network.alpha, &network.beta);
            for host in [alpha, beta] {
                wait_until("the relays are known", LIMIT, || are_servers_connected(host, 3))?;
            }
            network.meet()?;
            network.wait_for_path("relayed")?;
            let mut stream = Stream::start(alpha.namespace(), beta.namespace(), beta.address()?)?;
            stream.advance(MORE, LIMIT)?;
            for mischief in
                [Mischief::Rewrite, Mischief::Reflect, Mischief::Drop, Mischief::Delay, Mischief::Repeat]
            {
                let used = relay_of(alpha, "beta")?;
                let bad = relays.iter().find(|relay| relay.name == used).context("the relay in use")?;
                let (before, start) = (bad.in_the_way.harmed(), now());
                bad.in_the_way.set(mischief);
                wait_until("it meddles", LIMIT, || bad.in_the_way.harmed() >= before + 20)?;
                stream.advance(MORE, LIMIT)?;
                let harmed = bad.in_the_way.harmed() - before;
                scene.say(&format!(
                    "{mischief:?} at {used}: {harmed} datagrams, and a megabyte later {:?}, by {}",
                    now() - start,
                    relay_of(alpha, "beta")?
                ));
                bad.in_the_way.set(Mischief::None);
                for host in [alpha, beta] {
                    wait_until("both relays are there again", LIMIT, || are_servers_connected(host, 3))?;
                }
            }
            // What arrived is what was sent, each byte of it, and what was altered was refused.
            stream.finish()?;
            ensure!(alpha.path("beta").as_deref() == Some("relayed"));
            for relay in relays {
                relay.in_the_way.stop()?;
            }
            Ok(())
        },
    );
}

/// The relay through which a member is reached.
fn relay_of(host: &Host, member: &str) -> Result<String> {
    let status = host.json(&["status", "--json"])?;
    let peers = status["peers"].as_array().context("peers")?;
    let peer = peers.iter().find(|peer| peer["name"] == member).context("the member")?;
    Ok(peer["relay"].as_str().unwrap_or_default().to_owned())
}
