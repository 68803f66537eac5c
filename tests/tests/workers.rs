//! One data thread, and several with a TUN queue and a socket each; and a hub between two spokes.
//!
//! ```text
//!   east 192.0.2.10    west 198.51.100.10    central 203.0.113.10
//!            └──────────── router ────────────────┘
//!   overlay 10.62.0.1       10.62.0.2             10.62.0.3
//! ```

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};
use tombolo_tests::{
    Result, Scene,
    command::USUAL_LIMIT,
    counters::Counters,
    machine_wide,
    node::{Node, PORT},
    packet_counts,
    site::{Site, hub, sites, start_all},
    transfer,
    wait::wait_for,
};

/// Bytes of one connection.
const LENGTH: usize = 8 << 20;

/// How long a test waits for what must happen in the end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The names of the threads that carry a node's packets.
fn data_threads(node: &mut Node) -> Result<Vec<String>> {
    let tasks = format!("/proc/{}/task", node.daemon()?.id());
    let mut names = Vec::new();
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        let name = fs::read_to_string(task?.path().join("comm"))?.trim().to_owned();
        if name.starts_with("tombolo-") && name != "tombolo-control" {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Several connections at once, in both directions, between one site and all others; every byte is checked.
fn transfer_at_once(center: &Site, others: &[Site]) -> Result {
    thread::scope(|scope| {
        let mut transfers = Vec::new();
        for other in others {
            for address in [IpAddr::from(other.node.address), IpAddr::from(other.node.address6)] {
                let (from, to) = (&center.node.namespace, &other.node.namespace);
                transfers.push(scope.spawn(move || transfer::tcp(from, to, address, LENGTH)));
            }
            for address in [IpAddr::from(center.node.address), IpAddr::from(center.node.address6)] {
                let (from, to) = (&other.node.namespace, &center.node.namespace);
                transfers.push(scope.spawn(move || transfer::tcp(from, to, address, LENGTH + 7)));
            }
        }
        for transfer in transfers {
            transfer.join().map_err(|_| anyhow!("a transfer panicked"))??;
        }
        Ok(())
    })
}

/// Transport messages of sessions that do not exist, from somebody who is no peer.
fn send_junk(from: &Site, to: &Site) -> Result {
    let target = SocketAddr::from((to.machine.address, PORT));
    from.machine.namespace.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for number in 0..1000_u32 {
            let mut message = [0x5a; 128];
            message[..4].copy_from_slice(&[4, 0, 0, 0]);
            message[4..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
            socket.send_to(&message, target)?;
        }
        Ok(())
    })
}

fn with_workers(scene: &Scene, workers: &str, threads: &[&str]) -> Result {
    let (_internet, mut all) = sites::<3>(scene)?;
    for site in &mut all {
        site.node.environment.push(("TOMBOLO_WORKERS", workers.to_owned()));
    }
    start_all(scene, &mut all)?;
    for site in &mut all {
        let found = data_threads(&mut site.node)?;
        ensure!(found == threads, "{workers} workers are {found:?}");
    }
    let [center, others @ ..] = &all;
    thread::scope(|scope| {
        let junk = scope.spawn(|| send_junk(&others[0], center));
        transfer_at_once(center, others)?;
        junk.join().map_err(|_| anyhow!("the junk panicked"))?
    })?;
    for other in others {
        transfer::udp(
            &center.node.namespace,
            &other.node.namespace,
            other.node.address.into(),
            &[1, 1372, 1373, 9000, 60_000],
        )?;
    }
    Ok(())
}

/// How often idle workers of a node have sealed and opened.
fn assisted(node: &Node) -> Result<[u64; 2]> {
    let status = node.status()?;
    ["sealed", "opened"]
        .map(|work| status["assist"][work].as_u64().context("a number"))
        .into_iter()
        .collect::<Result<Vec<_>>>()?
        .try_into()
        .map_err(|_| anyhow!("two numbers"))
}

/// One connection through a tunnel whose ends have four workers each, until all of them took part.
#[test]
fn a_single_connection_is_sealed_and_opened_by_several_workers_in_order() {
    machine_wide("a_single_connection_is_sealed_and_opened_by_several_workers_in_order", |scene| {
        let (_internet, mut all) = sites::<2>(scene)?;
        for site in &mut all {
            let environment = [("TOMBOLO_WORKERS", "4"), ("TOMBOLO_ASSIST", "always")];
            site.node.environment.extend(environment.map(|(name, value)| (name, value.to_owned())));
        }
        start_all(scene, &mut all)?;
        let [east, west] = &all;
        let link = "eth0";
        wait_for("several workers taking part", PATIENCE, || {
            let counters = Counters::start(&east.machine.namespace, link, east.machine.address)?;
            transfer::tcp(&east.node.namespace, &west.node.namespace, west.node.address.into(), 4 * LENGTH)?;
            let seen = counters.stop((LENGTH / 1420) as u64, USUAL_LIMIT)?;
            let ([sealed, _], [_, opened]) = (assisted(&east.node)?, assisted(&west.node)?);
            scene.say(&format!(
                "{} messages, {} late; {sealed} super-packets sealed and {opened} reads opened by idle workers",
                seen.messages, seen.late
            ));
            ensure!(seen.late == 0, "{} of {} messages overtook others", seen.late, seen.messages);
            Ok((sealed > 0 && opened > 0).then_some(()))
        })?;
        ensure!(west.node.status()?["drops"]["replayed_counter"].as_u64() == Some(0));
        Ok(())
    });
}

#[test]
fn transfers_are_whole_with_one_worker() {
    machine_wide("transfers_are_whole_with_one_worker", |scene| with_workers(scene, "1", &["tombolo-data"]));
}

#[test]
fn transfers_are_whole_with_three_workers() {
    machine_wide("transfers_are_whole_with_three_workers", |scene| {
        with_workers(scene, "3", &["tombolo-data1", "tombolo-in", "tombolo-out"])
    });
}

#[test]
fn transfers_are_whole_with_four_workers() {
    machine_wide("transfers_are_whole_with_four_workers", |scene| {
        with_workers(scene, "4", &["tombolo-in", "tombolo-in1", "tombolo-out", "tombolo-out1"])
    });
}

/// Starts the first node with one number of workers after the other on the interface that stays.
fn change_workers(scene: &Scene, numbers: &[&str]) -> Result<Vec<Site>> {
    let (_internet, mut all) = sites::<2>(scene)?;
    all[1].node.start(scene)?;
    for workers in numbers {
        let node = &mut all[0].node;
        if let Some(process) = &mut node.process {
            process.terminate(USUAL_LIMIT)?;
        }
        node.environment = vec![("TOMBOLO_WORKERS", (*workers).to_owned())];
        node.start(scene)?;
        node.wait_for_peer("west")?;
        let [east, west] = &all;
        let to_west = west.node.address.into();
        transfer::tcp(&east.node.namespace, &west.node.namespace, to_west, LENGTH)
            .with_context(|| format!("with {workers} workers"))?;
    }
    Ok(all.into())
}

#[test]
fn an_interface_of_several_queues_serves_any_number_of_workers() {
    machine_wide("an_interface_of_several_queues_serves_any_number_of_workers", |scene| {
        let mut all = change_workers(scene, &["4", "1", "2", "6"])?;
        ensure!(data_threads(&mut all[0].node)?.len() == 6);
        Ok(())
    });
}

/// As after an upgrade: nothing breaks, and `status` says what to do for more.
#[test]
fn an_interface_of_one_queue_serves_two_workers_and_says_so() {
    machine_wide("an_interface_of_one_queue_serves_two_workers_and_says_so", |scene| {
        let mut all = change_workers(scene, &["1", "4"])?;
        ensure!(data_threads(&mut all[0].node)? == ["tombolo-in", "tombolo-out"]);
        let status = all[0].node.status()?.to_string();
        ensure!(status.contains("fewer queues"), "{status}");
        Ok(())
    });
}

#[test]
fn a_port_that_workers_share_refuses_another_daemon() {
    machine_wide("a_port_that_workers_share_refuses_another_daemon", |scene| {
        let (_internet, mut all) = sites::<2>(scene)?;
        all[0].node.environment.push(("TOMBOLO_WORKERS", "4".to_owned()));
        all[0].node.start(scene)?;
        let mut second = Node::new(scene, "second", &all[0].node.namespace, 9)?;
        second.environment.push(("TOMBOLO_WORKERS", "4".to_owned()));
        second.configure("", &[])?;
        let (code, message) = second.refusal()?;
        ensure!(code == 2 && message.contains(&PORT.to_string()), "exit code {code}: {message}");
        Ok(())
    });
}

/// Two spokes that know only the hub: what one sends to the other goes through it, whole, and as
/// super-packets all the way.
#[test]
fn a_transfer_through_a_hub_is_intact_and_keeps_its_super_packets() {
    machine_wide("a_transfer_through_a_hub_is_intact_and_keeps_its_super_packets", |scene| {
        let (_internet, [east, west, hub]) = hub(scene)?;
        // Written by the daemon, and read back by it after the kernel forwarded them.
        let packets = || packet_counts::of_interface(&hub.node.namespace, &hub.node.interface);
        let before = packets()?;
        for address in [IpAddr::from(west.node.address), IpAddr::from(west.node.address6)] {
            transfer::tcp(&east.node.namespace, &west.node.namespace, address, 8 * LENGTH)?;
        }
        let after = packets()?;
        let (written, read) = (after.received - before.received, after.sent - before.sent);
        scene.say(&format!("{written} super-packets into the hub's kernel, {read} out of it"));
        ensure!(read <= written + written / 4, "the kernel split {written} packets into {read}");
        let to_west = west.node.address.into();
        transfer::udp(&east.node.namespace, &west.node.namespace, to_west, &[1, 1372, 9000, 60_000])
    });
}
