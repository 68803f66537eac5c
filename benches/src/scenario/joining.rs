//! A network by membership: joins, look-ups and memory of a server on one processor; the time from `join` to the first
//! byte; the relay beside the direct path.
//!
//! ```text
//!   server 192.0.2.10 ─┐
//!   alpha  198.51.100.10 ── router      (and 198.18.0.0/15: a machine for each join)
//!   beta   203.0.113.10 ┘
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use tombolo_control::document::{Membership, TrustDocument};
use tombolo_control::{Fingerprint, NodeId};
use tombolo_tests::Scene;
use tombolo_tests::command::run;
use tombolo_tests::host::Host;
use tombolo_tests::process::Process;
use tombolo_tests::topology::Internet;
use tombolo_tests::wait::{now, wait_until};

use crate::joining::{Answer, SOURCES, Swarm, register};
use crate::load::bulk::Streams;
use crate::results::{Figures, figures};
use crate::suite::Suite;
use crate::{Result, accounting};

/// Whom the figures are about.
pub const SERVER: &str = "server on one processor";
/// The network as a whole.
pub const NETWORK: &str = "network by membership";

/// Nodes that are registered before anything begins.
const REGISTERED: usize = 10_000;
/// Machines that join.
const JOINS: usize = 2000;
/// How many of them at once.
const AT_ONCE: usize = 200;
/// Of them look others up: so many that none meets its own limit.
const ASKERS: usize = 1000;
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let quick = suite.plan.quick;
    suite.daemons.clear();
    let outcome = server(quick);
    suite.note("server", SERVER, outcome);
    let outcome = first_byte();
    suite.note("first byte", NETWORK, outcome);
    let span = suite.plan.span(Duration::from_secs(4), Duration::from_secs(1));
    let outcome = relay(span);
    suite.note("relay", NETWORK, outcome);
    Ok(())
}

/// A server with ten thousand nodes, on the first processor; those who join are on the others.
fn server(quick: bool) -> Result<Figures> {
    let scene = Scene::new()?;
    let mut internet = Internet::new()?;
    let server = Host::new(&scene, &mut internet, "server", [192, 0, 2, 0])?;
    let alpha = Host::new(&scene, &mut internet, "alpha", [198, 51, 100, 0])?;
    internet.router.ip(&format!("route add {SOURCES} via {}", alpha.machine.address))?;
    alpha.namespace().ip(&format!("route add local {SOURCES} dev lo"))?;
    let root = server.folder.join("root.age");
    let (root, endpoint) = (root.to_str().context("a path in UTF-8")?, server.machine.address.to_string());
    server.run(&[
        "server",
        "init",
        "--endpoint",
        &endpoint,
        "--name",
        "server",
        "--root-key",
        root,
        "--no-start",
        "--json",
    ])?;
    let (registered, joins) = if quick { (1000, 400) } else { (REGISTERED, JOINS) };
    let state = server.folder.join("state/tombolo");
    let (tokens, longest) = register::fill(&state, joins, registered)?;
    let mut command = server.namespace().command("taskset");
    let tombolo = server.command(&["up", "-f"]);
    command.args(["-c", "0"]).arg(server.binary()).args(["up", "-f"]);
    command.envs(tombolo.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let process = Process::spawn(&scene, "server", &mut command)?;
    wait_until("the server is up", LIMIT, || server.address().is_ok())?;
    let registered_mb = accounting::resident_megabytes(process.id(), "VmRSS")?;
    let mut swarm = Swarm::new(1, tokens.into_iter().map(|token| (token, None)));
    let trust = state_trust(&state)?;
    let (busy, joined_mb, took, rate) = alpha.namespace().enter(|| {
        keep_off_the_first_processor();
        let before = accounting::process_time(process.id())?;
        let start = now();
        swarm.join(AT_ONCE, LIMIT, |_, _| ())?;
        let took = now() - start;
        let busy = accounting::process_time(process.id())? - before;
        let refused = swarm.answers().flatten().filter(|answer| matches!(answer, Answer::Refused(_))).count();
        ensure!(refused == 0, "{refused} machines were refused");
        let joined_mb = accounting::resident_megabytes(process.id(), "VmRSS")?;
        let askers = ASKERS.min(joins);
        let nodes: Vec<NodeId> = swarm
            .answers()
            .take(askers)
            .flatten()
            .filter_map(|answer| match answer {
                Answer::Joined(bytes) => Membership::verify(bytes, &trust).ok().map(|member| member.node),
                Answer::Refused(_) => None,
            })
            .collect();
        ensure!(nodes.len() == askers, "memberships do not verify");
        let rate = swarm.look_ups(askers, &nodes, Duration::from_secs(if quick { 1 } else { 4 }))?;
        Ok((busy, joined_mb, took, rate))
    })?;
    drop(process);
    Ok(figures([
        ("joins_per_second", joins as f64 / took.as_secs_f64()),
        ("join_cpu_us", busy.as_secs_f64() * 1e6 / joins as f64),
        ("look_ups_per_second", rate),
        ("registered_mb", registered_mb),
        ("joined_mb", joined_mb),
        ("membership_bytes", longest as f64),
    ]))
}

/// The trust document that the server's own state has.
fn state_trust(state: &std::path::Path) -> Result<tombolo_control::document::Verified<TrustDocument>> {
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(state.join("membership.json"))?)?;
    let field = |name: &str| -> Result<Vec<u8>> {
        let digits = text[name].as_str().context("a field of digits")?;
        let pairs = digits
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).map_err(Into::into));
        pairs.collect()
    };
    let array = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| anyhow::anyhow!("not 32 bytes"));
    let network = tombolo_control::NetworkId::from_bytes(
        field("network")?.try_into().map_err(|_| anyhow::anyhow!("no network id"))?,
    );
    let root = Fingerprint::from_bytes(array(field("root")?)?);
    Ok(TrustDocument::verify(&field("trust_document")?, &network, &[root])?)
}

/// The server has the first processor to itself, and nothing else.
fn keep_off_the_first_processor() {
    let mut set = rustix::thread::CpuSet::new();
    (1..accounting::processors() as usize).for_each(|processor| set.set(processor));
    // Where there is one only, both share it.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// A server and two members. Gives the Internet too, which is to outlive them.
fn network(scene: &Scene) -> Result<(Internet, [Host; 3])> {
    let mut internet = Internet::new()?;
    let server = Host::new(scene, &mut internet, "server", [192, 0, 2, 0])?;
    let alpha = Host::new(scene, &mut internet, "alpha", [198, 51, 100, 0])?;
    let beta = Host::new(scene, &mut internet, "beta", [203, 0, 113, 0])?;
    alpha.join("alpha", &server.init(&["--name", "server"])?)?;
    Ok((internet, [server, alpha, beta]))
}

fn v4(host: &Host) -> Result<Ipv4Addr> {
    match host.address()? {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => anyhow::bail!("{address} is no IPv4 address"),
    }
}

/// From `tombolo join` to the first byte of another node.
fn first_byte() -> Result<Figures> {
    let scene = Scene::new()?;
    let (_internet, [server, alpha, beta]) = network(&scene)?;
    let token = server.token(&[])?;
    let listener = alpha.namespace().enter(|| Ok(TcpListener::bind((v4(&alpha)?, 0))?))?;
    let target: SocketAddr = listener.local_addr()?;
    let giver = std::thread::spawn(move || {
        // Ends with the process if nobody comes.
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = std::io::Write::write_all(&mut stream, b"!");
        }
    });
    let start = now();
    beta.join("beta", &token)?;
    let joined = now() - start;
    let first = beta.namespace().enter(|| {
        let mut stream = TcpStream::connect_timeout(&target, LIMIT)?;
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte)?;
        Ok(now() - start)
    })?;
    drop(giver.join());
    for host in [&alpha, &beta, &server] {
        host.run(&["down"])?;
    }
    Ok(figures([("join_seconds", joined.as_secs_f64()), ("first_byte_seconds", first.as_secs_f64())]))
}

/// TCP from alpha to beta: directly, then through the relay.
fn relay(span: Duration) -> Result<Figures> {
    let scene = Scene::new()?;
    let (_internet, [server, alpha, beta]) = network(&scene)?;
    beta.join("beta", &server.token(&[])?)?;
    alpha.reaches(&beta, "beta")?;
    wait_until("the direct path is used", LIMIT, || alpha.path("beta").as_deref() == Some("direct"))?;
    let carry = || -> Result<f64> {
        let streams = Streams::between(alpha.namespace(), beta.namespace(), v4(&beta)?, 1)?;
        let ((), gigabits) = streams.run(|| {
            std::thread::sleep(span);
            Ok(())
        })?;
        Ok(gigabits)
    };
    let direct = carry()?;
    let nft = |text: String| run(alpha.namespace().command("nft").args(text.split_whitespace())).map(drop);
    nft("add table inet block".to_owned())?;
    for (hook, word) in [("input", "saddr"), ("output", "daddr")] {
        nft(format!("add chain inet block {hook} {{ type filter hook {hook} priority 0 ; }}"))?;
        nft(format!("add rule inet block {hook} ip {word} {} drop", beta.machine.address))?;
        nft(format!("add rule inet block {hook} ip6 {word} {} drop", beta.machine.address6))?;
    }
    wait_until("the relay is used", LIMIT, || {
        let _ = alpha.run(&["ping", "beta", "--count", "1", "--timeout", "500ms"]);
        alpha.path("beta").as_deref() == Some("relayed") && beta.path("alpha").as_deref() == Some("relayed")
    })?;
    alpha.reaches(&beta, "beta")?;
    let relayed = carry()?;
    for host in [&alpha, &beta, &server] {
        host.run(&["down"])?;
    }
    Ok(figures([("direct_gbps", direct), ("relayed_gbps", relayed), ("relayed_to_direct", relayed / direct)]))
}
