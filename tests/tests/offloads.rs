//! Every offload on, each one off, all off: the same transfers arrive, and `status` tells what is off and why.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west
//!   overlay 10.62.0.1            overlay 10.62.0.2
//! ```

use std::net::IpAddr;

use anyhow::{Context, ensure};
use serde_json::Value;
use tombolo_tests::{
    Result, Scene, machine_wide,
    node::Node,
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
/// Payloads of datagrams: odd, small, and as large as the overlay takes.
const DATAGRAMS: &[usize] = &[0, 1, 17, 512, 1001, 1372, 1372, 1371];

fn all_transfers(sites: &[Site; 2]) -> Result {
    let [east, west] = sites;
    for (from, to) in [(east, west), (west, east)] {
        let (client, server) = (&from.machine.namespace, &to.machine.namespace);
        for address in [IpAddr::from(to.node.address), IpAddr::from(to.node.address6)] {
            transfer::tcp(client, server, address, LENGTH)
                .with_context(|| format!("TCP from {} to {address}", from.node.name))?;
            transfer::udp(client, server, address, DATAGRAMS)
                .with_context(|| format!("UDP from {} to {address}", from.node.name))?;
        }
    }
    Ok(())
}

/// The entry of one offload at one place.
fn entry<'a>(status: &'a Value, place: &str, offload: &str) -> Result<&'a Value> {
    let mut entries = status["offloads"]["list"].as_array().context("a list of offloads")?.iter();
    entries
        .find(|entry| entry["place"] == place && entry["offload"] == offload)
        .with_context(|| format!("no {offload} of {place} in {status}"))
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

/// That exactly what is expected is switched off, for that reason.
fn check_off(node: &Node, off: &[&str], reason: &str) -> Result {
    let status = node.status()?;
    for (offload, places) in SWITCHES {
        for place in places {
            let entry = entry(&status, place, offload)?;
            if off.contains(&offload) {
                ensure!(entry["state"] == "switched_off" && entry["in_use"] == false, "{entry}");
                let told = entry["reason"].as_str().unwrap_or_default();
                ensure!(told.contains(reason), "no {reason:?} in {entry}");
            } else {
                // An old kernel may lack one; nobody switched it off.
                ensure!(entry["state"] != "switched_off" && entry["state"] != "demoted", "{entry}");
                ensure!(entry["fallbacks"] == 0, "{entry}");
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

#[test]
fn the_same_transfers_arrive_with_every_offload_on_each_one_off_and_all_off() {
    machine_wide("the_same_transfers_arrive_with_every_offload_on_each_one_off_and_all_off", |scene| {
        let (_internet, mut sites) = sites::<2>(scene)?;
        let all: Vec<&str> = SWITCHES.iter().map(|(switch, _)| *switch).collect();
        let mut cases: Vec<(String, Vec<&str>, String)> = vec![(String::new(), Vec::new(), String::new())];
        for switch in &all {
            cases.push((
                format!("[offload]\n{switch} = false\n"),
                taken_along(switch),
                format!("`{switch} = false` in [offload]"),
            ));
        }
        let lines: String = all.iter().map(|switch| format!("{switch} = false\n")).collect();
        cases.push((format!("[offload]\n{lines}"), all.clone(), " = false` in [offload]".to_owned()));
        for (section, off, reason) in cases {
            let name = format!("with {}", section.replace('\n', " "));
            restart(scene, &mut sites, &section).with_context(|| name.clone())?;
            all_transfers(&sites).with_context(|| name.clone())?;
            for site in &sites {
                check_off(&site.node, &off, &reason).with_context(|| name.clone())?;
            }
        }
        Ok(())
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
        all_transfers(&sites)?;
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
