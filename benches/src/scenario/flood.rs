//! Junk initiations with a correct mac1, which anybody who knows the public key can make, beside a bulk
//! stream, from one sender and from forged addresses; and the same packets to a closed port.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::anyhow;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use tombolo_noise::clock::Instant;
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::keys::{PrivateKey, PublicKey, RemoteStatic, StaticIdentity};
use tombolo_packet::message::{INITIATION_LEN, Initiation};
use tombolo_tests::interrupt;
use tombolo_tests::namespace::Namespace;
use tombolo_tests::transfer::Noise;
use tombolo_udp::{BindOptions, Family, UdpSocket};

use super::{paired, west, west_key};
use crate::Result;
use crate::contender::{DAEMON, Entrant, FORWARDER, PLAIN};
use crate::load::bulk;
use crate::load::clients::send_at;
use crate::load::pace::{Sent, paced};
use crate::results::{Figures, figures};
use crate::statistics::median;
use crate::suite::Suite;
use crate::wire::Wire;

/// Initiations a second.
const RATE: f64 = 50_000.0;
/// What the stream gets to settle after each change.
const CHANGE: Duration = Duration::from_millis(150);
/// Different ones, sent over and over.
const DIFFERENT: usize = 4096;
/// A network of 131 072 addresses (RFC 2544), of which none is anybody's.
const FORGED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const FORGED_LEN: usize = 20 + 8 + INITIATION_LEN;

pub(super) fn measure(suite: &mut Suite<'_>) -> Result {
    let span = suite.plan.span(Duration::from_millis(600), Duration::from_millis(300));
    for contender in &suite.plan.contenders {
        if [PLAIN, FORWARDER, DAEMON].contains(&contender.name.as_str()) {
            continue;
        }
        let entrant = match contender.enter(Wire::lay()?) {
            Ok(entrant) => entrant,
            Err(error) => {
                interrupt::check()?;
                suite.fail("flood", &contender.name, &error);
                continue;
            }
        };
        suite.daemons = entrant.running.pids();
        let messages = junk(west_key(&entrant)?)?;
        suite.sample("flood", &entrant.name, || flood(&entrant, &messages, span))?;
    }
    Ok(())
}

fn flood(entrant: &Entrant, messages: &[u8], span: Duration) -> Result<Figures> {
    let options = BindOptions { gso: false, gro: false, ..BindOptions::default() };
    let socket = entrant.wire.east.namespace.enter(|| Ok(UdpSocket::bind(Family::V4, 0, &options)?))?;
    let mut forger = Forger::new(&entrant.wire)?;
    let [tunnel, closed] = west(entrant);
    let mut rates = Vec::new();
    let streams = bulk::Streams::connect(&entrant.wire, entrant.running.destination, 1)?;
    // One stream through all of it, so that it need not find its speed each time.
    let [one, forged] = streams.metered(|meter| {
        let mut measured = |send: &mut dyn FnMut(SocketAddr, Duration) -> Sent| {
            paired(|to_the_tunnel| {
                let target = if to_the_tunnel { tunnel } else { closed };
                send(target, CHANGE);
                let (sent, gigabits) = meter.during(|| Ok(send(target, span)))?;
                rates.push(sent.datagrams as f64 / sent.duration.as_secs_f64());
                Ok(gigabits)
            })
        };
        Ok([
            measured(&mut |to, span| send_at(&socket, to, messages, INITIATION_LEN as u16, RATE, span))?,
            measured(&mut |to, span| forger.send(to, messages, span))?,
        ])
    })?;
    Ok(figures([
        ("junk_kpps", median(&rates) / 1e3),
        ("junk_closed_gbps", one.without),
        ("junk_tunnel_gbps", one.with),
        ("junk_loss", one.loss * 100.0),
        ("forged_closed_gbps", forged.without),
        ("forged_tunnel_gbps", forged.with),
        ("forged_loss", forged.loss * 100.0),
        ("junk_peak_mb", entrant.running.megabytes("VmHWM")?),
    ]))
}

/// Sends from an address and a port that are another's each time.
struct Forger {
    socket: OwnedFd,
    source: u32,
}

impl Forger {
    /// At the east end, and lets west answer there.
    fn new(wire: &Wire) -> Result<Self> {
        wire.west.namespace.ip(&format!("route replace {FORGED}/15 dev wire via {}", wire.east.outer))?;
        let raw = |namespace: &Namespace| {
            namespace.enter(|| Ok(socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?))
        };
        Ok(Self { socket: raw(&wire.east.namespace)?, source: 0 })
    }

    fn send(&mut self, to: SocketAddr, messages: &[u8], span: Duration) -> Sent {
        let mut messages = messages.chunks(INITIATION_LEN).cycle();
        paced(Some(RATE), 256, span, &AtomicBool::new(false), |burst| {
            for message in messages.by_ref().take(burst) {
                self.source = self.source.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let packet = forged(self.source, to, message);
                // What is refused was tried.
                let _ = sendto(&self.socket, &packet, SendFlags::empty(), &to);
            }
            burst as u64
        })
    }
}

/// An IPv4 packet from one of the addresses of [`FORGED`]; the kernel writes length, identification and checksum (raw(7)).
fn forged(source: u32, to: SocketAddr, message: &[u8]) -> [u8; FORGED_LEN] {
    let mut packet = [0; FORGED_LEN];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 17;
    let from = u32::from(FORGED) | source >> 15;
    packet[12..16].copy_from_slice(&from.to_be_bytes());
    if let SocketAddr::V4(to) = to {
        packet[16..20].copy_from_slice(&to.ip().octets());
    }
    packet[20..22].copy_from_slice(&(1024 | source as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..26].copy_from_slice(&((FORGED_LEN - 20) as u16).to_be_bytes());
    packet[28..].copy_from_slice(message);
    packet
}

/// Initiations to this public key of which nothing is right but mac1.
fn junk(public_key: &str) -> Result<Vec<u8>> {
    let server: PublicKey = public_key.parse().map_err(|_| anyhow!("no public key: {public_key}"))?;
    let identity = StaticIdentity::new(PrivateKey::generate(&mut ChaCha20Rng::seed_from_u64(3)));
    let remote = RemoteStatic::new(&identity, server);
    let mut noise = Noise::new(3);
    let mut messages = Vec::with_capacity(DIFFERENT * INITIATION_LEN);
    for sender_index in 0..DIFFERENT as u32 {
        let mut random = [0; 112];
        noise.fill(&mut random);
        let (ephemeral, rest) = random.split_at(32);
        let mut message = Initiation::write(
            sender_index,
            ephemeral.try_into()?,
            rest[..48].try_into()?,
            rest[48..76].try_into()?,
        );
        CookieJar::new().write_macs(&mut message, &remote, Instant::from_nanos(1));
        messages.extend(message);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_noise::cookie::verify_mac1;
    use tombolo_noise::handshake::consume_initiation_static;

    #[test]
    fn the_junk_has_a_correct_mac1_and_nothing_else() {
        let server = StaticIdentity::new(PrivateKey::generate(&mut ChaCha20Rng::seed_from_u64(9)));
        let messages = junk(&server.public_key().to_string()).unwrap();
        assert_eq!(messages.len(), DIFFERENT * INITIATION_LEN);
        for message in messages.chunks(INITIATION_LEN).take(8) {
            let initiation = Initiation::parse(message).unwrap();
            assert!(verify_mac1(&initiation, &server));
            assert!(consume_initiation_static(&server, &initiation).is_err());
        }
        assert_ne!(messages[..INITIATION_LEN], messages[INITIATION_LEN..2 * INITIATION_LEN]);
    }
}
