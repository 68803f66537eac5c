//! The support itself: a capture that finds nothing proves something only if it can find.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west
//!        10.9.0.1 ════ wireguard-go ════ 10.9.0.2
//! ```

use std::{net::IpAddr, time::Duration};

use tombolo_tests::{
    capture::Capture,
    command::succeeds,
    machine_wide,
    topology::Internet,
    transfer,
    wireguard_go::{KeyPair, Peer, WireGuard},
};

const MARKER: &[u8] = b"marker-5c1f09";
const LAST: &[u8] = b"last-word-d27a41";

#[test]
fn a_capture_finds_in_the_clear_what_it_does_not_find_in_a_tunnel() {
    machine_wide("a_capture_finds_in_the_clear_what_it_does_not_find_in_a_tunnel", |scene| {
        let mut internet = Internet::new()?;
        let east = internet.region("east", [192, 0, 2, 0])?;
        let west = internet.region("west", [198, 51, 100, 0])?;
        let (east_keys, west_keys) = (KeyPair::generate()?, KeyPair::generate()?);
        let here = WireGuard::start(scene, &east.namespace, "wireguard-go")?;
        let there = WireGuard::start(scene, &west.namespace, "wireguard-go")?;
        here.configure(scene, &east_keys, 51820, &["10.9.0.1/32"])?;
        there.configure(scene, &west_keys, 51820, &["10.9.0.2/32"])?;
        let endpoint = Some(format!("{}:51820", west.address));
        here.set_peer(&Peer {
            public_key: &west_keys.public,
            endpoint,
            allowed_ips: "10.9.0.2/32",
            ..Peer::default()
        })?;
        there.set_peer(&Peer {
            public_key: &east_keys.public,
            allowed_ips: "10.9.0.1/32",
            ..Peer::default()
        })?;

        let through_tunnel = Capture::start_bulk(&internet.router, &east.port, "", &[MARKER, LAST])?;
        send(MARKER, &east.namespace, IpAddr::from([10, 9, 0, 2]))?;
        transfer::tcp(&east.namespace, &west.namespace, IpAddr::from([10, 9, 0, 2]), 3_000_001)?;
        send(LAST, &east.namespace, west.address.into())?;
        through_tunnel.wait_for_match(1, Duration::from_secs(10))?;
        let report = through_tunnel.stop()?;
        assert!(report.bytes > 3_000_001, "the transfer crossed the link: {report:?}");
        assert_eq!((report.matches[0], report.dropped), (0, 0), "{report:?}");

        let in_the_clear = Capture::start(&internet.router, &east.port, "", &[MARKER])?;
        send(MARKER, &east.namespace, west.address.into())?;
        in_the_clear.wait_for_match(0, Duration::from_secs(10))?;
        Ok(())
    });
}

#[test]
fn namespaces_end_with_what_runs_in_them() {
    machine_wide("namespaces_end_with_what_runs_in_them", |_| {
        let namespace = tombolo_tests::namespace::Namespace::create("brief")?;
        let name = namespace.name().to_owned();
        let mut left_over = namespace.command("sleep").arg("1000").spawn()?;
        tombolo_tests::wait::wait_until("the program to run inside", Duration::from_secs(10), || {
            tombolo_tests::command::ip(&format!("netns pids {name}"))
                .is_ok_and(|pids| !pids.trim().is_empty())
        })?;
        drop(namespace);
        tombolo_tests::wait::wait_for("the end of the program", Duration::from_secs(10), || {
            Ok(left_over.try_wait()?)
        })?;
        assert!(!succeeds(std::process::Command::new("ip").args(["-n", &name, "link"]))?);
        Ok(())
    });
}

fn send(word: &[u8], from: &tombolo_tests::namespace::Namespace, to: IpAddr) -> tombolo_tests::Result {
    from.enter(|| {
        let socket = std::net::UdpSocket::bind(("0.0.0.0", 0))?;
        socket.send_to(word, (to, 9))?;
        Ok(())
    })
}
