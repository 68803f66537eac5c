//! Every offload on, each one off, all off, each with one worker and with four: the same transfers arrive, super-packets are read and
//! written where they are to be and nowhere else, and `status` tells what is off and why.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west
//!   overlay 10.62.0.1            overlay 10.62.0.2
//! ```

use std::{net::IpAddr, thread};

use anyhow::{Context, anyhow, ensure};
use rustix::system::uname;
use serde_json::Value;
use tombolo_tests::{
    Result, Scene,
    bursts::{self, BURST},
    machine_wide,
    node::Node,
    packet_counts,
    site::{Site, sites, start_all},
    transfer,
};

/// All switches, with the places where their offloads are.
const SWITCHES: [(&str, &[&str]); 8] = [
    ("vnet_header", &["tun"]),
    ("checksum", &["tun"]),
    ("tso", &["tun"]),
    ("uso", &["tun"]),
    ("coalesce_tcp", &["tun"]),
    ("coalesce_udp", &["tun"]),
    ("gso", &["udp_ipv4", "udp_ipv6"]),
    ("gro", &["udp_ipv4", "udp_ipv6"]),
];
/// Bytes of each TCP transfer: some hundred super-packets.
const LENGTH: usize = 3_000_000;
/// Bytes of payload that one packet carries at most.
const SEGMENT: usize = 1380;
/// Payloads of datagrams: odd, small, and as large as the overlay takes.
const DATAGRAMS: &[usize] = &[0, 1, 17, 512, 1001, 1372, 1372, 1371];
/// Bursts of datagrams in each transfer.
const BURSTS: u64 = 12;

/// What the kernel has counted of one direction.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// Read by the sending daemon from its TUN.
    read: u64,
    /// Sent by the machine that it is on.
    sent: u64,
    /// Reads from the sockets of the other machine.
    received: u64,
    /// Written by the daemon there to its TUN.
    written: u64,
}

impl Counts {
    fn now(from: &Site, to: &Site) -> Result<Self> {
        let tun = |site: &Site| packet_counts::of_interface(&site.node.namespace, &site.node.interface);
        Ok(Self {
            read: tun(from)?.sent,
            sent: packet_counts::of_interface(&from.machine.namespace, "eth0")?.sent,
            received: packet_counts::udp_reads(&to.machine.namespace)?,
            written: tun(to)?.received,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            read: self.read - before.read,
            sent: self.sent - before.sent,
            received: self.received - before.received,
            written: self.written - before.written,
        }
    }
}

/// Holds a count against the packets that it stands for: with the offload most are part of a super-packet, without it none is.
fn check_count(what: &str, counted: u64, packets: u64, on: bool) -> Result {
    let expected = if on { counted <= packets / 2 } else { counted >= packets };
    ensure!(expected, "{what} {}: {counted} for {packets} packets", if on { "on" } else { "off" });
    Ok(())
}

fn all_transfers(sites: &[Site; 2], off: &[&str]) -> Result {
    let [east, west] = sites;
    for (from, to) in [(east, west), (west, east)] {
        let name = &from.node.name;
        tcp_transfers(from, to, off).with_context(|| format!("TCP from {name}"))?;
        for coalesced in [false, true] {
            bursts_of_datagrams(from, to, coalesced, off)
                .with_context(|| format!("datagrams from {name}, UDP_GRO {coalesced}"))?;
        }
        for address in [IpAddr::from(to.node.address), IpAddr::from(to.node.address6)] {
            transfer::udp(&from.machine.namespace, &to.machine.namespace, address, DATAGRAMS)
                .with_context(|| format!("UDP from {name} to {address}"))?;
        }
    }
    Ok(())
}

/// Over both families at once.
fn tcp_transfers(from: &Site, to: &Site, off: &[&str]) -> Result {
    let before = Counts::now(from, to)?;
    thread::scope(|scope| {
        let transfers = [IpAddr::from(to.node.address), IpAddr::from(to.node.address6)].map(|address| {
            scope
                .spawn(move || transfer::tcp(&from.machine.namespace, &to.machine.namespace, address, LENGTH))
        });
        transfers
            .into_iter()
            .try_for_each(|transfer| transfer.join().map_err(|_| anyhow!("a transfer panicked"))?)
    })?;
    let counts = Counts::now(from, to)?.since(before);
    let packets = (2 * LENGTH / SEGMENT) as u64;
    let on = |offload| !off.contains(&offload);
    check_count("tso", counts.read, packets, on("tso"))?;
    check_count("gso", counts.sent, packets, on("gso"))?;
    check_count("coalesce_tcp", counts.written, packets, on("coalesce_tcp"))?;
    // What leaves one by one need not be put together on the way.
    if on("gso") || !on("gro") {
        check_count("gro", counts.received, packets, on("gro"))?;
    }
    Ok(())
}

fn bursts_of_datagrams(from: &Site, to: &Site, coalesced: bool, off: &[&str]) -> Result {
    let before = Counts::now(from, to)?;
    let mut sent = 0;
    for address in [IpAddr::from(to.node.address), IpAddr::from(to.node.address6)] {
        sent += bursts::send(&from.machine.namespace, &to.machine.namespace, address, BURSTS, coalesced)?;
    }
    let counts = Counts::now(from, to)?.since(before);
    let on = |offload| !off.contains(&offload);
    check_count("uso", counts.read, sent * BURST as u64, on("uso"))?;
    check_count("coalesce_udp", counts.written, 2 * BURSTS * BURST as u64, on("coalesce_udp"))
}

/// The entries of one offload at one place, one for each socket that is there.
fn entries<'a>(status: &'a Value, place: &str, offload: &str) -> Result<Vec<&'a Value>> {
    let all = status["offloads"]["list"].as_array().context("a list of offloads")?;
    let found: Vec<&Value> =
        all.iter().filter(|entry| entry["place"] == place && entry["offload"] == offload).collect();
    ensure!(!found.is_empty(), "no {offload} of {place} in {status}");
    Ok(found)
}

/// Whether this kernel is known to have an offload, and to get it right.
fn kernel_has(offload: &str) -> bool {
    let release = uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(|number| number.ok()).unwrap_or(0);
    let version = (next(), next(), next());
    match offload {
        "uso" | "coalesce_udp" => version >= (6, 2, 0),
        "gro" => version >= (5, 12, 0),
        "gso" => !((7, 0, 0)..(7, 1, 5)).contains(&version),
        _ => true,
    }
}

fn restart(scene: &Scene, sites: &mut [Site; 2], section: &str) -> Result {
    let peers = [sites[1].machine.address, sites[0].machine.address];
    for index in 0..2 {
        if sites[index].node.process.is_some() {
            sites[index].node.kill()?;
        }
        let entry = sites[1 - index].node.entry(Some(peers[index].to_string()));
        let text = format!("{}\n{section}", sites[index].node.config("", &[entry]));
        sites[index].node.write_private("config/demo.toml", &text)?;
    }
    start_all(scene, sites)
}

/// That exactly what is expected is switched off, for that reason, and all else that the kernel has is in use.
fn check_off(node: &Node, off: &[&str], reason: &str) -> Result {
    let status = node.status()?;
    for (offload, places) in SWITCHES {
        for place in places {
            for entry in entries(&status, place, offload)? {
                if off.contains(&offload) {
                    ensure!(entry["state"] == "switched_off" && entry["in_use"] == false, "{entry}");
                    let told = entry["reason"].as_str().unwrap_or_default();
                    ensure!(told.contains(reason), "no {reason:?} in {entry}");
                } else {
                    let in_use = entry["state"] == "on" && entry["in_use"] == true;
                    ensure!(in_use || !kernel_has(offload), "{entry}");
                    ensure!(entry["fallbacks"] == 0, "{entry}");
                }
            }
        }
    }
    Ok(())
}

/// What goes off together with a switch.
fn taken_along(switch: &'static str) -> Vec<&'static str> {
    match switch {
        "vnet_header" => vec!["vnet_header", "checksum", "tso", "uso", "coalesce_tcp", "coalesce_udp"],
        "checksum" => vec!["checksum", "tso", "uso"],
        other => vec![other],
    }
}

/// What is written into the configuration, what is off then, and the reason that is told.
fn cases() -> Vec<(String, Vec<&'static str>, String)> {
    let all: Vec<&str> = SWITCHES.iter().map(|(switch, _)| *switch).collect();
    let mut cases = vec![(String::new(), Vec::new(), String::new())];
    for switch in &all {
        cases.push((
            format!("[offload]\n{switch} = false\n"),
            taken_along(switch),
            format!("`{switch} = false` in [offload]"),
        ));
    }
    let lines: String = all.iter().map(|switch| format!("{switch} = false\n")).collect();
    cases.push((format!("[offload]\n{lines}"), all, " = false` in [offload]".to_owned()));
    cases
}

/// All cases with so many workers, whose number an interface keeps.
fn with_workers(workers: &str) -> Result {
    let scene = Scene::new()?;
    let (_internet, mut sites) = sites::<2>(&scene)?;
    for site in &mut sites {
        site.node.environment.push(("TOMBOLO_WORKERS", workers.to_owned()));
    }
    for (section, off, reason) in cases() {
        restart(&scene, &mut sites, &section)
            .and_then(|()| all_transfers(&sites, &off))
            .and_then(|()| sites.iter().try_for_each(|site| check_off(&site.node, &off, &reason)))
            .with_context(|| {
                format!("{workers} workers, {}\n{}", section.replace('\n', " "), scene.logs())
            })?;
    }
    Ok(())
}

#[test]
fn the_same_transfers_arrive_with_every_offload_on_each_one_off_and_all_off_by_one_worker_and_by_four() {
    machine_wide("the_same_transfers_arrive_with_every_offload_on_each_one_off_and_all_off", |_| {
        // At once: most of the time is spent on waiting for starts and handshakes.
        thread::scope(|scope| {
            ["1", "4"]
                .map(|workers| scope.spawn(move || with_workers(workers)))
                .into_iter()
                .try_for_each(|run| run.join().map_err(|_| anyhow!("a run panicked"))?)
        })
    });
}

#[test]
fn the_environment_beats_the_file_and_is_named_as_the_reason() {
    machine_wide("the_environment_beats_the_file_and_is_named_as_the_reason", |scene| {
        let (_internet, mut sites) = sites::<2>(scene)?;
        for site in &mut sites {
            site.node.environment = [("TOMBOLO_OFFLOAD_GSO", "off"), ("TOMBOLO_OFFLOAD_TSO", "on")]
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec();
        }
        restart(scene, &mut sites, "[offload]\ngso = true\ntso = false\n")?;
        all_transfers(&sites, &["gso"])?;
        check_off(&sites[0].node, &["gso"], "TOMBOLO_OFFLOAD_GSO")?;
        let text = sites[0].node.run("status", &[])?;
        ensure!(text.contains("udp_ipv4 gso off: TOMBOLO_OFFLOAD_GSO in the environment"), "{text}");

        // A mistake is told before anything is started, and by the check of the configuration.
        let node = &mut sites[1].node;
        node.kill()?;
        node.environment = vec![("TOMBOLO_OFFLOAD_GRO", "perhaps".to_owned())];
        let (code, message) = node.refusal()?;
        ensure!(code == 1 && message.contains("TOMBOLO_OFFLOAD_GRO is `perhaps`"), "{code}: {message}");
        Ok(())
    });
}
