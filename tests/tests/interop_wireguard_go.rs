//! Ours and Debian's wireguard-go at the two ends of one tunnel, both driven by the real `wg`.
//!
//! ```text
//!   east 192.0.2.10 ──────── router ──────── 198.51.100.10 west
//!        2001:db8:2::a                       2001:db8:64::a
//!   10.9.0.1, fd09::1 ═══════ tunnel ═══════ 10.9.0.2, fd09::2
//! ```
//!
//! Each test runs twice, with ours at either end.

use std::{
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use tombolo_tests::{
    Result, Scene,
    capture::Capture,
    command::{ip, run},
    machine_wide,
    node::executable,
    scene, transfer,
    tunnel::{End, Options, PORT, Tunnel, both_ways},
    wait::{stays_true, wait_for, wait_until},
    wireguard_go::{KeyPair, Peer, unique},
};

const LIMIT: Duration = Duration::from_secs(20);

fn interop(name: &str, options: Options, test: impl Fn(&scene::Scene, Tunnel) -> Result) {
    machine_wide(name, |scene| {
        both_ways(scene, &executable("tombolo-wireguard")?, Path::new("wireguard-go"), &options, &test)
    });
}

fn east_knows_west() -> Options {
    Options { knows_endpoint: [true, false], ..Options::default() }
}

fn preshared_key() -> Result<String> {
    run(Command::new("wg").arg("genpsk"))
}

#[test]
fn a_handshake_from_either_side_opens_the_tunnel_for_both_families() {
    interop("a_handshake_from_either_side", east_knows_west(), |_, tunnel| {
        for family in [0, 1] {
            tunnel.east.reaches(&tunnel.west, family, LIMIT)?;
            tunnel.west.reaches(&tunnel.east, family, LIMIT)?;
        }
        for (end, other) in [(&tunnel.east, &tunnel.west), (&tunnel.west, &tunnel.east)] {
            ensure!(
                end.wireguard.last_handshake(&other.keys.public)? > 0,
                "no handshake at {:?}",
                end.inside
            );
        }
        Ok(())
    });
}

#[test]
fn the_tunnel_runs_over_ipv6() {
    let options = Options { over_ipv6: true, ..east_knows_west() };
    interop("the_tunnel_runs_over_ipv6", options, |_, tunnel| {
        let capture = Capture::start(&tunnel.internet.router, &tunnel.east.machine.port, "udp and ip6", &[])?;
        tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
        tunnel.west.reaches(&tunnel.east, 1, LIMIT)?;
        // Initiation, response, and the two datagrams.
        capture.wait_for_packets(4, LIMIT)
    });
}

#[test]
fn large_transfers_arrive_whole_over_tcp_and_udp() {
    interop("large_transfers_arrive_whole", east_knows_west(), |_, tunnel| {
        let (east, west) = (&tunnel.east, &tunnel.west);
        for family in [0, 1] {
            east.reaches(west, family, LIMIT)?;
            for (from, to) in [(east, west), (west, east)] {
                let (client, server) = (&from.machine.namespace, &to.machine.namespace);
                transfer::tcp(client, server, to.inside[family], 20_000_003)?;
                transfer::udp(
                    client,
                    server,
                    to.inside[family],
                    &[0, 1, 15, 16, 17, 1371, 1372, 1392, 1393, 9000],
                )?;
            }
        }
        Ok(())
    });
}

#[test]
fn other_mtus_carry_whole_transfers() {
    for mtu in [576, 1280, 1384] {
        // IPv6 asks for 1280; below that only IPv4 is tried.
        let options = Options { mtu: Some(mtu), ..east_knows_west() };
        interop("other_mtus_carry_whole_transfers", options, |_, tunnel| {
            let (east, west) = (&tunnel.east, &tunnel.west);
            for family in if mtu < 1280 { 0..1 } else { 0..2 } {
                east.reaches(west, family, LIMIT)?;
                transfer::tcp(
                    &east.machine.namespace,
                    &west.machine.namespace,
                    west.inside[family],
                    3_000_001,
                )?;
                transfer::tcp(
                    &west.machine.namespace,
                    &east.machine.namespace,
                    east.inside[family],
                    3_000_001,
                )?;
            }
            Ok(())
        });
    }
}

#[test]
fn a_preshared_key_is_needed_where_one_is_set() {
    machine_wide("a_preshared_key_is_needed_where_one_is_set", |scene| {
        let (ours, reference) = (executable("tombolo-wireguard")?, Path::new("wireguard-go"));
        let (key, other) = (preshared_key()?, preshared_key()?);
        let options = Options { preshared_keys: Some([key.clone(), key.clone()]), ..east_knows_west() };
        both_ways(scene, &ours, reference, &options, |_, tunnel| {
            tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
            tunnel.west.reaches(&tunnel.east, 0, LIMIT)
        })?;
        let options = Options { preshared_keys: Some([key, other]), ..options };
        both_ways(scene, &ours, reference, &options, |_, tunnel| {
            let capture = Capture::start(&tunnel.internet.router, &tunnel.east.machine.port, "udp", &[])?;
            let reached = tunnel.east.reaches(&tunnel.west, 0, Duration::from_secs(2));
            ensure!(reached.is_err(), "a datagram passed between unequal preshared keys");
            ensure!(capture.packets() > 0, "nothing was tried");
            ensure!(
                tunnel.east.wireguard.last_handshake(&tunnel.west.keys.public)? == 0,
                "a handshake was completed"
            );
            Ok(())
        })
    });
}

#[test]
fn either_end_may_roam() {
    interop(
        "either_end_may_roam",
        Options { knows_endpoint: [true, true], ..Options::default() },
        |_, mut tunnel| {
            tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
            tunnel.east.machine.set_address(77)?;
            tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
            let expected = format!("{}:{PORT}", tunnel.east.machine.address);
            wait_until("west to know the new address of east", LIMIT, || {
                tunnel
                    .west
                    .wireguard
                    .field("endpoints", &tunnel.east.keys.public)
                    .is_ok_and(|found| found == expected)
            })?;
            tunnel.west.reaches(&tunnel.east, 0, LIMIT)?;
            tunnel.west.machine.set_address(78)?;
            tunnel.west.reaches(&tunnel.east, 1, LIMIT)?;
            tunnel.east.reaches(&tunnel.west, 1, LIMIT)
        },
    );
}

#[test]
fn persistent_keepalives_are_sent_without_traffic() {
    let options = Options { keepalive: Some(1), ..east_knows_west() };
    interop("persistent_keepalives_are_sent_without_traffic", options, |_, tunnel| {
        let from_east = format!("udp and src host {}", tunnel.east.machine.address);
        let capture = Capture::start(&tunnel.internet.router, &tunnel.east.machine.port, &from_east, &[])?;
        // The first one opens the tunnel by itself.
        capture.wait_for_packets(4, LIMIT)?;
        wait_until("a handshake without any data", LIMIT, || {
            tunnel.west.wireguard.last_handshake(&tunnel.east.keys.public).is_ok_and(|time| time > 0)
        })
    });
}

/// Requirement 15: silence to everything that is not authenticated.
#[test]
fn strangers_meet_silence() {
    machine_wide("strangers_meet_silence", |scene| {
        let tunnel = tunnel_of_ours(scene)?;
        let victim = &tunnel.east.machine;
        let back = format!("src host {} and (udp or icmp)", victim.address);
        let answers = Capture::start(&tunnel.internet.router, &victim.port, &back, &[])?;
        let mut noise = transfer::Noise::new(15);
        tunnel.internet.router.enter(|| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            for kind in 0..=5_u8 {
                for length in [0, 1, 4, 31, 32, 64, 92, 148, 149, 1500] {
                    let mut datagram = vec![0; length];
                    noise.fill(&mut datagram);
                    if length >= 4 {
                        datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
                    }
                    socket.send_to(&datagram, (victim.address, PORT))?;
                }
            }
            Ok(())
        })?;
        stays_true("strangers get no answer", Duration::from_secs(1), || answers.packets() == 0)?;
        tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
        answers.wait_for_packets(1, LIMIT)
    });
}

fn tunnel_of_ours(scene: &Scene) -> Result<Tunnel> {
    Tunnel::new(scene, &executable("tombolo-wireguard")?, Path::new("wireguard-go"), &east_knows_west())
}

/// The numbers of `wg show transfer` are whole messages, handshakes and keepalives included, so both
/// implementations must come to the same ones.
#[test]
fn both_ends_count_the_same_bytes() {
    interop("both_ends_count_the_same_bytes", east_knows_west(), |_, tunnel| {
        tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
        let (east, west) = (&tunnel.east, &tunnel.west);
        // One datagram at a time: what a full socket buffer loses is counted at one end only.
        transfer::udp(&east.machine.namespace, &west.machine.namespace, west.inside[0], &[1000; 50])?;
        let counters = |end: &End, other: &End| -> Result<[u64; 2]> {
            let text = end.wireguard.field("transfer", &other.keys.public)?;
            let (received, sent) = text.split_once('\t').context("two numbers")?;
            Ok([received.trim().parse()?, sent.trim().parse()?])
        };
        let equal = || -> Result<bool> {
            let ([east_in, east_out], [west_in, west_out]) = (counters(east, west)?, counters(west, east)?);
            Ok(east_out > 50_000 && east_in == west_out && east_out == west_in)
        };
        wait_for("equal counters at both ends", LIMIT, || Ok(equal()?.then_some(())))
            .with_context(|| format!("in and out: {:?}, {:?}", counters(east, west), counters(west, east)))
    });
}

#[test]
fn wg_quick_brings_our_implementation_up_and_down() {
    machine_wide("wg_quick_brings_our_implementation_up_and_down", |scene| {
        let ours = executable("tombolo-wireguard")?;
        let mut tunnel = tunnel_of_ours(scene)?;
        let namespace = tunnel.internet.neighbour("quick", [192, 0, 2, 0], 20)?.namespace;
        let (keys, west) = (KeyPair::generate()?, &tunnel.west);
        let quick = Quick::new(scene, &keys, west)?;
        let peer = Peer { public_key: &keys.public, allowed_ips: "10.9.7.1/32", ..Peer::default() };
        west.wireguard.set_peer(&peer)?;
        let wg_quick = |verb: &str| {
            let mut command = namespace.command("wg-quick");
            run(command.arg(verb).arg(&quick.file).env("WG_QUICK_USERSPACE_IMPLEMENTATION", &ours))
        };
        wg_quick("up")?;
        ensure!(runs_in(namespace.name(), &quick.interface)?, "our implementation does not run");
        transfer::tcp(&namespace, &west.machine.namespace, west.inside[0], 1_000_003)?;
        wg_quick("down")?;
        wait_until("our implementation to end with its interface", LIMIT, || {
            runs_in(namespace.name(), &quick.interface).is_ok_and(|runs| !runs)
        })
    });
}

struct Quick {
    interface: String,
    file: PathBuf,
}

impl Quick {
    fn new(scene: &Scene, keys: &KeyPair, peer: &End) -> Result<Self> {
        let interface = unique("q");
        let file = scene.write(
            &format!("{interface}.conf"),
            &format!(
                "[Interface]\nPrivateKey = {}\nAddress = 10.9.7.1/32\nMTU = 1400\n\n[Peer]\nPublicKey = {}\n\
                 Endpoint = {}:{PORT}\nAllowedIPs = {}/32\nPersistentKeepalive = 5\n",
                keys.private, peer.keys.public, peer.machine.address, peer.inside[0]
            ),
        )?;
        Ok(Self { interface, file })
    }
}

/// Whether a process of a namespace has the interface's name among its arguments.
fn runs_in(namespace: &str, interface: &str) -> Result<bool> {
    let pids = ip(&format!("netns pids {namespace}"))?;
    Ok(pids.lines().any(|pid| {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == interface.as_bytes())
    }))
}

/// A peer may use only the addresses that it was given; the others are dropped without a word.
#[test]
fn a_peer_cannot_speak_for_an_address_that_is_not_its_own() {
    machine_wide("a_peer_cannot_speak_for_an_address_that_is_not_its_own", |scene| {
        let tunnel = tunnel_of_ours(scene)?;
        let (east, west) = (&tunnel.east, &tunnel.west);
        east.reaches(west, 0, LIMIT)?;
        let foreign: IpAddr = [10, 9, 0, 99].into();
        west.machine.namespace.ip(&format!("addr add {foreign}/32 dev {}", west.wireguard.interface))?;
        let target = east.machine.namespace.enter(|| Ok(UdpSocket::bind((east.inside[0], 0))?))?;
        target.set_read_timeout(Some(Duration::from_millis(300)))?;
        let port = target.local_addr()?.port();
        for (source, arrives) in [(foreign, false), (west.inside[0], true)] {
            let socket = west.machine.namespace.enter(|| Ok(UdpSocket::bind((source, 0))?))?;
            socket.send_to(b"as whom", (east.inside[0], port))?;
            let received = target.recv_from(&mut [0; 16]).is_ok();
            ensure!(received == arrives, "a datagram from {source}: received {received}");
        }
        Ok(())
    });
}
