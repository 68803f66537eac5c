//! Two hosts on one wire. Needs root; says so and passes without it, except in CI.
//!
//! ```text
//!   east                                  west
//!   192.0.2.1/24      wire ------ wire    192.0.2.2/24, 192.0.2.3/24
//!   2001:db8::1/64                        2001:db8::2/64, 2001:db8::3/64
//! ```

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod support;

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tombolo_udp::{BindOptions, SendError, Socket, SocketPair, Transmit, bind_pair};

use support::{receive, send};

struct Wire {
    east: String,
    west: String,
}

impl Wire {
    /// `None`: the test cannot run here, and has said so.
    fn lay() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none(),
                "tests with network namespaces must run in CI: be root"
            );
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("udp-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let wire = Self { east: format!("{name}-east"), west: format!("{name}-west") };
        for namespace in [&wire.east, &wire.west] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&[
            "link", "add", "wire", "netns", &wire.east, "type", "veth", "peer", "name", "wire", "netns",
            &wire.west,
        ]);
        wire.address(&wire.east, &["192.0.2.1/24", "2001:db8::1/64"]);
        wire.address(&wire.west, &["192.0.2.2/24", "192.0.2.3/24", "2001:db8::2/64", "2001:db8::3/64"]);
        for namespace in [&wire.east, &wire.west] {
            ip(&["-n", namespace, "link", "set", "wire", "up"]);
        }
        Some(wire)
    }

    fn address(&self, namespace: &str, addresses: &[&str]) {
        for address in addresses {
            let mut arguments = vec!["-n", namespace, "address", "add", address, "dev", "wire"];
            if address.contains(':') {
                arguments.push("nodad");
            }
            ip(&arguments);
        }
    }

    fn mtu(&self, mtu: &str) {
        for namespace in [&self.east, &self.west] {
            ip(&["-n", namespace, "link", "set", "wire", "mtu", mtu]);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in [&self.east, &self.west] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(arguments: &[&str]) {
    run("ip", arguments);
}

fn bind_in(namespace: &str, options: &BindOptions) -> SocketPair {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let handle = File::open(format!("/run/netns/{namespace}")).unwrap();
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                bind_pair(0, options).unwrap()
            })
            .join()
            .unwrap()
    })
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

fn at(address: &str, pair: &SocketPair) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), pair.port())
}

#[test]
fn a_reply_leaves_from_the_address_that_was_asked_until_it_is_gone_requirement_20() {
    let Some(wire) = Wire::lay() else { return };
    let (east, west) =
        (bind_in(&wire.east, &BindOptions::default()), bind_in(&wire.west, &BindOptions::default()));
    for (east_socket, west_socket, second, first) in [
        (&east.v4, &west.v4, "192.0.2.3", "192.0.2.2"),
        (east.v6.as_ref().unwrap(), west.v6.as_ref().unwrap(), "2001:db8::3", "2001:db8::2"),
    ] {
        let (second_at, first_at) = (at(second, &west), at(first, &west));
        for asked in [second_at, first_at] {
            send(east_socket, Transmit::new(asked, b"question"));
            let question = receive(west_socket, 1)[0].0;
            assert_eq!(question.local.unwrap().address, asked.ip());
            assert_ne!(question.local.unwrap().interface, 0);
            let reply = Transmit { source: question.local, ..Transmit::new(question.source, b"answer") };
            assert!(send(west_socket, reply).stale_sources.is_empty());
            assert_eq!(receive(east_socket, 1)[0].0.source, asked);
        }
        // The second address goes: the same reply now leaves from the other one, and the caller is told.
        send(east_socket, Transmit::new(second_at, b"question"));
        let question = receive(west_socket, 1)[0].0;
        let prefix = if second_at.is_ipv4() { "24" } else { "64" };
        ip(&["-n", &wire.west, "address", "delete", &format!("{second}/{prefix}"), "dev", "wire"]);
        let contents = pattern(3 * 1000);
        let reply = Transmit {
            source: question.local,
            segment_size: NonZeroU16::new(1000),
            ..Transmit::new(question.source, &contents)
        };
        let outcome = send(west_socket, reply);
        assert_eq!((outcome.datagrams, outcome.stale_sources.as_slice()), (3, &[0][..]), "{outcome:?}");
        assert!(receive(east_socket, 3).iter().all(|(read, _)| read.source == first_at));
        assert!(west_socket.capabilities().gso);
    }
}

/// Whatever the devices can or cannot do, the same datagrams arrive; only the counters may differ.
#[test]
fn devices_without_segmentation_or_checksums_lose_nothing() {
    let Some(wire) = Wire::lay() else { return };
    let contents = pattern(40 * 1452 + 99);
    for settings in [
        &["tx-udp-segmentation", "off"][..],
        &["tx", "off"][..],
        &["gro", "on", "rx-udp-gro-forwarding", "on"][..],
        &["sg", "off", "gso", "off"][..],
    ] {
        run("ip", &[&["netns", "exec", &wire.east, "ethtool", "-K", "wire"], settings].concat());
        for (gso, gro) in [(true, true), (false, true), (true, false)] {
            let options = BindOptions { gso, gro, ..BindOptions::default() };
            let (east, west) = (bind_in(&wire.east, &options), bind_in(&wire.west, &options));
            for (from, to, address) in [
                (&east.v4, &west.v4, "192.0.2.2"),
                (east.v6.as_ref().unwrap(), west.v6.as_ref().unwrap(), "2001:db8::2"),
            ] {
                let transmit = Transmit {
                    segment_size: NonZeroU16::new(1452 - 20),
                    traffic_class: 1,
                    ..Transmit::new(at(address, &west), &contents)
                };
                let outcome = send(from, transmit);
                assert_eq!((outcome.datagrams as usize, outcome.failures.len()), (transmit.datagrams(), 0));
                let arrived = receive(to, transmit.datagrams());
                assert!(arrived.iter().all(|(read, _)| read.traffic_class == 1));
                let bytes: Vec<u8> = arrived.into_iter().flat_map(|(_, datagram)| datagram).collect();
                assert_eq!(bytes, contents, "{settings:?} gso {gso} gro {gro} {address}");
            }
        }
    }
}

#[test]
fn segments_larger_than_the_wire_are_fragmented_or_refused_as_asked() {
    let Some(wire) = Wire::lay() else { return };
    wire.mtu("1280");
    let contents = pattern(5 * 1400);
    for dont_fragment in [false, true] {
        let options = BindOptions { dont_fragment, ..BindOptions::default() };
        let (east, west) = (bind_in(&wire.east, &options), bind_in(&wire.west, &options));
        for (from, to, address) in [
            (&east.v4, &west.v4, "192.0.2.2"),
            (east.v6.as_ref().unwrap(), west.v6.as_ref().unwrap(), "2001:db8::2"),
        ] {
            let segment_size = NonZeroU16::new(1400);
            let outcome =
                send(from, Transmit { segment_size, ..Transmit::new(at(address, &west), &contents) });
            if dont_fragment {
                assert_eq!(outcome.failures[0].error, SendError::TooBig, "{address}");
                assert_eq!((outcome.failures[0].datagrams, outcome.datagrams), (5, 0));
            } else {
                assert_eq!(outcome.datagrams, 5, "{address} {outcome:?}");
                let bytes: Vec<u8> = receive(to, 5).into_iter().flat_map(|(_, datagram)| datagram).collect();
                assert_eq!(bytes, contents);
            }
            assert!(from.capabilities().gso, "one narrow path is no reason to go slow on all others");
        }
    }
}

#[test]
fn the_firewall_mark_steers_routing() {
    let Some(wire) = Wire::lay() else { return };
    ip(&["-n", &wire.east, "rule", "add", "fwmark", "0x2a", "lookup", "100"]);
    ip(&["-n", &wire.east, "route", "add", "prohibit", "default", "table", "100"]);
    let (east, west) =
        (bind_in(&wire.east, &BindOptions::default()), bind_in(&wire.west, &BindOptions::default()));
    let transmit = Transmit::new(at("192.0.2.2", &west), b"x");
    assert_eq!(send(&east.v4, transmit).datagrams, 1);
    east.v4.set_mark(0x2a).unwrap();
    assert_eq!(send(&east.v4, transmit).failures[0].error, SendError::System(libc_eacces()));
    east.v4.set_mark(0).unwrap();
    assert_eq!(send(&east.v4, transmit).datagrams, 1);
    let marked = bind_in(&wire.east, &BindOptions { mark: 0x2a, ..BindOptions::default() });
    assert_eq!(send(&marked.v4, transmit).datagrams, 0);
}

fn libc_eacces() -> i32 {
    rustix::io::Errno::ACCESS.raw_os_error()
}

#[test]
fn no_route_is_reported_and_a_host_without_ipv6_still_has_ipv4() {
    let Some(wire) = Wire::lay() else { return };
    let path = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
    ip(&["netns", "exec", &wire.east, "sh", "-c", &format!("echo 1 > {path}")]);
    let east = bind_in(&wire.east, &BindOptions::default());
    let west = bind_in(&wire.west, &BindOptions::default());
    assert_eq!(send(&east.v4, Transmit::new(at("192.0.2.2", &west), b"x")).datagrams, 1);
    assert_eq!(receive(&west.v4, 1)[0].1, b"x");
    let unreachable = rustix::io::Errno::NETUNREACH.raw_os_error();
    let nowhere: IpAddr = "203.0.113.1".parse().unwrap();
    let outcome = send(&east.v4, Transmit::new(SocketAddr::new(nowhere, 1), b"x"));
    assert_eq!(outcome.failures[0].error, SendError::System(unreachable));
    if let Some(v6) = &east.v6 {
        assert_eq!(send(v6, Transmit::new(at("2001:db8::2", &west), b"x")).datagrams, 0);
    }
}

#[test]
fn link_local_addresses_need_and_get_their_interface() {
    let Some(wire) = Wire::lay() else { return };
    wire.address(&wire.east, &["fe80::e/64"]);
    wire.address(&wire.west, &["fe80::f/64"]);
    let (east, west) =
        (bind_in(&wire.east, &BindOptions::default()), bind_in(&wire.west, &BindOptions::default()));
    let (east, west) = (east.v6.unwrap(), west.v6.unwrap());
    let links = Command::new("ip").args(["-n", &wire.east, "-o", "link", "show", "wire"]).output().unwrap();
    let index: u32 = String::from_utf8(links.stdout).unwrap().split(':').next().unwrap().parse().unwrap();
    let destination = format!("[fe80::f%{index}]:{}", west.local_port()).parse().unwrap();
    assert_eq!(send(&east, Transmit::new(destination, b"question")).datagrams, 1);
    let question = receive(&west, 1)[0].0;
    let answer = Transmit { source: question.local, ..Transmit::new(question.source, b"answer") };
    assert!(send(&west, answer).stale_sources.is_empty());
    assert_eq!(receive(&east, 1)[0].0.source, destination);
}
