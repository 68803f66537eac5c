//! Junk initiations with a correct mac1, which anybody who knows the public key can make, beside a bulk
//! stream; and the same packets to a closed port.

use std::time::Duration;

use anyhow::anyhow;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_noise::clock::Instant;
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::keys::{PrivateKey, PublicKey, RemoteStatic, StaticIdentity};
use tombolo_packet::message::{INITIATION_LEN, Initiation};
use tombolo_tests::interrupt;
use tombolo_tests::transfer::Noise;
use tombolo_udp::{BindOptions, Family, UdpSocket};

use super::{paired, west, west_key};
use crate::Result;
use crate::contender::{DAEMON, Entrant, FORWARDER, PLAIN};
use crate::load::bulk;
use crate::load::clients::send_at;
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
    let [tunnel, closed] = west(entrant);
    let mut rates = Vec::new();
    let streams = bulk::Streams::connect(&entrant.wire, entrant.running.destination, 1)?;
    // One stream through all of it, so that it need not find its speed each time.
    let carried = streams.metered(|meter| {
        paired(|to_the_tunnel| {
            let target = if to_the_tunnel { tunnel } else { closed };
            let sending = |span| send_at(&socket, target, messages, INITIATION_LEN as u16, RATE, span);
            sending(CHANGE);
            let (sent, gigabits) = meter.during(|| Ok(sending(span)))?;
            rates.push(sent.datagrams as f64 / sent.duration.as_secs_f64());
            Ok(gigabits)
        })
    })?;
    Ok(figures([
        ("junk_kpps", median(&rates) / 1e3),
        ("junk_closed_gbps", carried.without),
        ("junk_tunnel_gbps", carried.with),
        ("junk_loss", carried.loss * 100.0),
        ("junk_peak_mb", entrant.running.megabytes("VmHWM")?),
    ]))
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
