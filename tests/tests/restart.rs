//! A restart is invisible: sockets stay bound, connections stay open, data flows again at once.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west
//!   overlay 10.62.0.1            overlay 10.62.0.2
//! ```

use std::{net::IpAddr, time::Duration};

use anyhow::ensure;
use rustix::process::Signal;
use tombolo_tests::{
    Result, Scene,
    capture::Capture,
    machine_wide,
    node::Node,
    site::{Site, sites, start_all},
    topology::Internet,
    transfer::{self, Conversation},
    wait::{now, wait_until},
};

const LIMIT: Duration = Duration::from_secs(20);

/// Less than any retry of WireGuard (Rekey-Timeout, 5 s): who is faster has begun by itself.
const AT_ONCE: Duration = Duration::from_secs(4);

fn pair(scene: &Scene) -> Result<(Internet, Site, Site)> {
    let (internet, mut sites) = sites::<2>(scene)?;
    start_all(scene, &mut sites)?;
    let [east, west] = sites;
    Ok((internet, east, west))
}

/// Kills and restarts `restarted` under a conversation with `other`.
fn restart_under_conversation(scene: &Scene, restarted: &mut Site, other: &Site) -> Result {
    let (here, there) = (restarted.machine.namespace.clone(), other.machine.namespace.clone());
    let own: IpAddr = restarted.node.address.into();
    let mut inward = Conversation::open(&there, &here, own)?;
    let mut outward = Conversation::open(&here, &there, other.node.address6.into())?;
    inward.speak(LIMIT)?;
    outward.speak(LIMIT)?;
    let index = here.ip(&format!("-o link show {}", restarted.node.interface))?;

    restarted.node.kill()?;
    let held = here.ip(&format!("addr show dev {}", restarted.node.interface))?;
    ensure!(held.contains(&own.to_string()), "the address went with the daemon: {held}");
    restarted.node.spawn(scene)?;
    restarted.node.wait(&["--timeout", "20s"])?;
    let ready = now();
    transfer::reach(&there, &here, own, AT_ONCE)?;
    transfer::reach(&here, &there, other.node.address.into(), AT_ONCE)?;
    scene
        .say(&format!("data flowed in both directions {} ms after the restart", (now() - ready).as_millis()));
    inward.speak(LIMIT)?;
    outward.speak(LIMIT)?;
    let after = here.ip(&format!("-o link show {}", restarted.node.interface))?;
    ensure!(index.split(':').next() == after.split(':').next(), "another interface: {index} {after}");
    Ok(())
}

#[test]
fn killed_and_restarted_where_the_endpoint_is_configured() {
    machine_wide("killed_and_restarted_where_the_endpoint_is_configured", |scene| {
        let (_internet, mut east, west) = pair(scene)?;
        restart_under_conversation(scene, &mut east, &west)
    });
}

/// West has no endpoint for east: it learned it, and wrote it down.
#[test]
fn killed_and_restarted_where_no_endpoint_is_configured() {
    machine_wide("killed_and_restarted_where_no_endpoint_is_configured", |scene| {
        let (_internet, mut sites) = sites::<2>(scene)?;
        sites[1].node.configure("", &[sites[0].node.entry(None)])?;
        sites[1].node.start(scene)?;
        sites[0].node.start(scene)?;
        sites[0].node.wait_for_peer("west")?;
        let [east, mut west] = sites;
        // Written down within a second or so; what is lost in between costs a few seconds after a crash.
        let state = west.node.directory().join("state/demo/peers.json");
        let endpoint = format!("{}:8662", east.machine.address);
        wait_until("the endpoint to be written down", LIMIT, || {
            std::fs::read_to_string(&state).is_ok_and(|text| text.contains(&endpoint))
        })?;
        restart_under_conversation(scene, &mut west, &east)
    });
}

#[test]
fn several_restarts_in_a_row_and_of_both_sides_at_once() {
    machine_wide("several_restarts_in_a_row_and_of_both_sides_at_once", |scene| {
        let (_internet, mut east, mut west) = pair(scene)?;
        let mut talk =
            Conversation::open(&east.machine.namespace, &west.machine.namespace, west.node.address.into())?;
        for _ in 0..3 {
            east.node.kill()?;
            east.node.spawn(scene)?;
            talk.speak(LIMIT)?;
        }
        east.node.kill()?;
        west.node.kill()?;
        west.node.spawn(scene)?;
        east.node.spawn(scene)?;
        talk.speak(LIMIT)
    });
}

#[test]
fn an_orderly_stop_and_start_is_no_different() {
    machine_wide("an_orderly_stop_and_start_is_no_different", |scene| {
        let (_internet, mut east, west) = pair(scene)?;
        let mut talk =
            Conversation::open(&east.machine.namespace, &west.machine.namespace, west.node.address.into())?;
        let status = east.node.daemon()?.terminate(LIMIT)?;
        ensure!(status.success(), "the daemon ended with {status}");
        east.node.spawn(scene)?;
        talk.speak(LIMIT)
    });
}

#[test]
fn a_changed_public_address_keeps_connections() {
    machine_wide("a_changed_public_address_keeps_connections", |scene| {
        let (_internet, mut east, mut west) = pair(scene)?;
        let mut talk =
            Conversation::open(&east.machine.namespace, &west.machine.namespace, west.node.address.into())?;
        for site in [&mut east, &mut west] {
            site.machine.set_address(77)?;
            talk.speak(LIMIT)?;
        }
        Ok(())
    });
}

/// A reload applies what changed, and no session of a peer that stays is dropped.
#[test]
fn a_reload_adds_a_peer_and_leaves_the_others_alone() {
    machine_wide("a_reload_adds_a_peer_and_leaves_the_others_alone", |scene| {
        let (internet, mut sites) = sites::<3>(scene)?;
        let [east, west, central] = &mut sites;
        let host = |site: &Site| Some(site.machine.address.to_string());
        east.node.configure("", &[west.node.entry(host(west))])?;
        for node in [&mut east.node, &mut west.node, &mut central.node] {
            node.start(scene)?;
        }
        east.node.wait_for_peer("west")?;
        let mut talk =
            Conversation::open(&east.machine.namespace, &west.machine.namespace, west.node.address.into())?;
        talk.speak(LIMIT)?;
        // Initiations: type 1, 148 bytes after 8 of UDP.
        let initiations = "udp[8:4] = 0x01000000 and udp[4:2] = 156";
        let to_west = format!(
            "{initiations} and src host {} and dst host {}",
            east.machine.address, west.machine.address
        );
        let capture = Capture::start(&internet.router, &east.machine.port, &to_west, &[])?;
        east.node.configure("", &[west.node.entry(host(west)), central.node.entry(host(central))])?;
        east.node.daemon()?.signal(Signal::HUP)?;
        wait_for_new_peer(&east.node, "central")?;
        talk.speak(LIMIT)?;
        ensure!(capture.stop()?.packets == 0, "a handshake with the peer that stayed");

        east.node.configure("", &[central.node.entry(host(central))])?;
        east.node.daemon()?.signal(Signal::HUP)?;
        wait_until("the removed peer to be gone from the status", LIMIT, || {
            east.node.status().is_ok_and(|status| !status.to_string().contains(&west.node.keys.public))
        })
    });
}

/// A reload of a file with a mistake in it changes nothing, and the daemon says why.
#[test]
fn a_reload_with_a_mistake_changes_nothing() {
    machine_wide("a_reload_with_a_mistake_changes_nothing", |scene| {
        let (_internet, mut east, west) = pair(scene)?;
        east.node.write_private("config/demo.toml", "[interface]\nadress = [\"10.62.0.1/24\"]\n")?;
        let daemon = east.node.daemon()?;
        daemon.signal(Signal::HUP)?;
        daemon.wait_for_log("adress", LIMIT)?;
        ensure!(daemon.is_running(), "the daemon ended");
        let (here, there) = (&east.machine.namespace, &west.machine.namespace);
        transfer::reach(here, there, west.node.address.into(), LIMIT).map(drop)
    });
}

fn wait_for_new_peer(node: &Node, peer: &str) -> Result {
    wait_until(&format!("{peer} to be known"), LIMIT, || {
        node.status().is_ok_and(|status| status.to_string().contains(&format!("\"{peer}\"")))
    })?;
    node.wait_for_peer(peer)
}
