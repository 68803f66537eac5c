//! Strangers before a server that members use.
//!
//! ```text
//!   server 192.0.2.10 ─── router ── 100.70.9.10 stranger, who has further addresses
//!   alpha 198.51.100.10 ───┤
//!   beta 203.0.113.10 ─────┘
//! ```

mod strangers;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use strangers::{Answer, Flood, Stranger, public_key, socket_at};
use tombolo_tests::{
    Result,
    capture::Capture,
    host::{Host, hosts},
    machine_wide,
    node::PORT,
    topology::Internet,
    transfer::{Noise, Stream},
    wait::{now, stays_true, wait_for, wait_until},
};

/// On a machine with other work too.
const LIMIT: Duration = Duration::from_secs(60);
const STRANGER: [u8; 4] = [100, 70, 9, 0];
/// Bytes of a transfer that are enough to say that it goes on.
const MORE: u64 = 1 << 20;

#[test]
fn a_scan_gets_no_answer_of_any_size_control_rule_8() {
    machine_wide("a_scan_gets_no_answer_of_any_size_control_rule_8", |scene| {
        let mut internet = Internet::new()?;
        let server = Host::new(scene, &mut internet, "server", [192, 0, 2, 0])?;
        let stranger = internet.region("stranger", STRANGER)?;
        server.init(&["--name", "server"])?;
        let socket = stranger.namespace.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.connect((server.machine.address, PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut noise = Noise::new(9);
        let mut sent = 0;
        // Each length; as what begins each type of message, as a control frame, and as nothing at all.
        for length in 0..=1472 {
            for first in [1, 2, 3, 4, 0xf1, 0x45] {
                let mut datagram = vec![0; length];
                noise.fill(&mut datagram);
                if let Some(header) = datagram.get_mut(..4) {
                    header.copy_from_slice(&[first, 0, 0, 0]);
                }
                socket.send(&datagram)?;
                sent += 1;
            }
        }
        let mut answer = [0; 2048];
        if let Ok(length) = socket.recv(&mut answer) {
            anyhow::bail!("{length} bytes came back: {:?}", &answer[..length.min(16)]);
        }
        // It was there all the while, and has counted what came.
        let status = server.json(&["status", "--json"])?;
        let dropped: u64 =
            status["drops"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        scene.say(&format!("{sent} datagrams, no answer; {dropped} were counted as dropped"));
        ensure!(status["pid"].is_number(), "{status}");
        Ok(())
    });
}

/// Where a server has a member.
fn endpoint_of(server: &Host, name: &str) -> Result<String> {
    let status = server.status()?;
    let peers = status["peers"].as_array().context("peers")?;
    let peer = peers.iter().find(|peer| peer["name"] == name).with_context(|| name.to_owned())?;
    Ok(peer["endpoint"].as_str().unwrap_or_default().to_owned())
}

/// Addresses that strangers knock from: as many keys as a server has room for, four at each.
const PLACES: u8 = 64;

#[test]
fn members_make_new_tunnels_during_ten_thousand_provisional_handshakes_a_second_control_rule_8() {
    machine_wide(
        "members_make_new_tunnels_during_ten_thousand_provisional_handshakes_a_second_control_rule_8",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta] = hosts(scene, &mut internet)?;
            let stranger = internet.region("stranger", STRANGER)?;
            alpha.join("alpha", &server.init(&["--name", "server"])?)?;
            beta.join("beta", &server.token(&[])?)?;
            alpha.reaches(&server, "server")?;
            let key =
                server.status()?["interface"]["public_key"].as_str().map(public_key).context("a key")??;
            let target = (server.machine.address, PORT).into();
            let mut strangers = Vec::new();
            let mut messages = Vec::new();
            for place in 0..PLACES {
                let address = Ipv4Addr::new(STRANGER[0], STRANGER[1], STRANGER[2], 20 + place);
                stranger.namespace.ip(&format!("address add {address}/24 dev eth0"))?;
                let socket = socket_at(&stranger.namespace, address.into(), target)?;
                for number in 0..4 {
                    let number = u32::from(place) * 4 + number;
                    strangers.push(Stranger::new(&key, Arc::clone(&socket), number));
                }
            }
            // A cookie is demanded first, though nobody else knocks; then the handshake is as good as any.
            let first = strangers.first_mut().context("a stranger")?;
            ensure!(first.knock(LIMIT)? == Answer::Cookie, "no cookie was demanded");
            ensure!(first.knock(LIMIT)? == Answer::Response, "the cookie is of no use");
            for one in &mut strangers {
                // One initiation in three as from who does not listen, and two with the cookie.
                messages.push((Arc::clone(&one.socket), one.initiation()?));
                one.knock(LIMIT)?;
                for _ in 0..2 {
                    messages.push((Arc::clone(&one.socket), one.initiation()?));
                }
            }
            let flood = Flood { messages, a_second: 10_000 };
            let (before, demanded) = (server.megabytes()?, server.dropped("cookie_required")?);
            let mut stream = Stream::start(alpha.namespace(), server.namespace(), server.address()?)?;
            let (stop, sent, start) = (AtomicBool::new(false), AtomicU64::new(0), now());
            thread::scope(|scope| {
                scope.spawn(|| flood.run(&stop, &sent));
                let outcome: Result = (|| {
                    let sent_at_least = |number: u64| {
                        wait_until("the flood", LIMIT, || sent.load(Ordering::Relaxed) >= number)
                    };
                    sent_at_least(5_000)?;
                    // Each start is a new handshake of a key that the server knows.
                    for host in [&beta, &alpha, &beta] {
                        host.restart()?;
                        host.reaches(&server, "server")?;
                    }
                    alpha.reaches(&beta, "beta")?;
                    stream.advance(MORE, LIMIT)?;
                    sent_at_least(30_000)
                })();
                stop.store(true, Ordering::Relaxed);
                outcome
            })?;
            let (sent, took) = (sent.into_inner(), now() - start);
            let after = server.megabytes()?;
            let a_second = sent as f64 / took.as_secs_f64();
            scene.say(&format!(
                "{sent} initiations of {} unknown keys, {a_second:.0} a second; the server's memory went from {before} to {after} MB",
                strangers.len()
            ));
            ensure!(after < before + 32, "from {before} to {after} MB");
            ensure!(server.dropped("cookie_required")? > demanded, "no cookie was demanded");
            wait_until("the strangers are forgotten", LIMIT, || {
                let status = server.status().unwrap_or_default();
                status["peers"].as_array().is_some_and(|peers| peers.len() == 2)
            })?;
            stream.finish()?;
            Ok(())
        },
    );
}

#[test]
fn replayed_initiations_of_members_move_nothing_control_rule_10() {
    machine_wide("replayed_initiations_of_members_move_nothing_control_rule_10", |scene| {
        let mut internet = Internet::new()?;
        let [server, alpha] = hosts(scene, &mut internet)?;
        let stranger = internet.region("stranger", STRANGER)?;
        // By one family only, so that all that it sends passes by here.
        alpha.namespace().ip("-6 address flush dev eth0 scope global")?;
        // The first byte of a UDP payload is the type of the message.
        let captured = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
        let taken = Arc::clone(&captured);
        let filter = format!("udp dst port {PORT} and udp[8] = 1");
        let _capture = Capture::start_each(&internet.router, &alpha.machine.port, &filter, move |packet| {
            let payload = packet.len().saturating_sub(148);
            taken.lock().unwrap_or_else(PoisonError::into_inner).push(packet[payload..].to_vec());
        })?;
        let captured = || captured.lock().unwrap_or_else(PoisonError::into_inner).clone();
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        alpha.reaches(&server, "server")?;
        alpha.restart()?;
        alpha.reaches(&server, "server")?;
        wait_until("captured initiations", LIMIT, || captured().len() >= 2)?;
        let own = format!("{}:{PORT}", alpha.machine.address);
        let in_place = || endpoint_of(&server, "alpha").is_ok_and(|endpoint| endpoint == own);
        wait_until("the member's endpoint", LIMIT, in_place)?;
        let mut stream = Stream::start(alpha.namespace(), server.namespace(), server.address()?)?;
        let target = (server.machine.address, PORT).into();
        let elsewhere = socket_at(&stranger.namespace, IpAddr::V4(stranger.address), target)?;
        let before = server.dropped("stale_timestamp")?;
        let mut replayed = 0;
        wait_for("the replays to be counted", LIMIT, || {
            for initiation in captured() {
                elsewhere.send(&initiation)?;
                replayed += 1;
            }
            Ok((server.dropped("stale_timestamp")? >= before + 10).then_some(()))
        })?;
        stays_true("the endpoint is the member's", Duration::from_millis(500), in_place)?;
        stream.advance(MORE, LIMIT)?;
        // One that never arrived is as good as new: it is answered where it came from, and moves nothing.
        let router = &internet.router;
        router.nft("add table inet block")?;
        router.nft("add chain inet block forward { type filter hook forward priority 0 ; }")?;
        let (from, to) = (alpha.machine.address, server.machine.address);
        router.nft(&format!("add rule inet block forward ip saddr {from} ip daddr {to} drop"))?;
        let mut known = captured().len();
        alpha.restart()?;
        elsewhere.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut answer = [0; 2048];
        // The capture lags, so that the next one may be from before the block; such a one meets silence, as above.
        let length = wait_for("an initiation that was held back, and its answer", LIMIT, || {
            let later = captured();
            for held_back in later.iter().skip(known) {
                known += 1;
                elsewhere.send(held_back)?;
                if let Ok(length) = elsewhere.recv(&mut answer) {
                    return Ok(Some(length));
                }
            }
            Ok(None)
        })?;
        scene.say(&format!(
            "{replayed} replays were refused; one that was held back was answered with type {}",
            answer[0]
        ));
        ensure!(answer[0] == 2 && length == 92, "{length} bytes of type {}", answer[0]);
        stays_true("the endpoint is the member's", Duration::from_millis(500), in_place)?;
        router.nft("delete table inet block")?;
        alpha.reaches(&server, "server")?;
        stream.advance(MORE, LIMIT)?;
        stream.finish()?;
        ensure!(in_place(), "{}", endpoint_of(&server, "alpha")?);
        Ok(())
    });
}
