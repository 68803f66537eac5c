//! A whole handshake and the responder's part of it, ours and that of boringtun; and what most of it is made of.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use aws_lc_rs::agreement;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_noise::clock::{Instant, UnixTime};
use tombolo_noise::cookie::{CookieJar, verify_mac1};
use tombolo_noise::handshake::{consume_initiation_static, create_initiation};
use tombolo_noise::keys::{PresharedKey, PrivateKey, RemoteStatic, StaticIdentity};
use tombolo_noise::tai64n::Tai64n;
use tombolo_packet::message::{Initiation, Response};

use super::Report;
use super::timing::{sample, time};
use crate::Result;

const RUNS: usize = 10;
const HANDSHAKES: usize = 50;

pub(super) fn measure(report: &mut Report<'_>) -> Result {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let east = StaticIdentity::new(PrivateKey::generate(&mut rng));
    let west = StaticIdentity::new(PrivateKey::generate(&mut rng));
    let (to_west, to_east) =
        (RemoteStatic::new(&east, *west.public_key()), RemoteStatic::new(&west, *east.public_key()));
    let reason = |reason| anyhow!("our handshake failed: {reason:?}");
    report(sample("handshake, both sides", "ours", RUNS, || {
        let (duration, result) = time(|| -> Result {
            for index in 0..HANDSHAKES as u32 {
                let timestamp = Tai64n::from_unix(UnixTime(Duration::from_secs(u64::from(index))));
                let preshared_key = PresharedKey::default();
                let now = Instant::from_nanos(1);
                let (initiator, mut initiation) =
                    create_initiation(&east, &to_west, timestamp, 2 * index, &mut rng)
                        .ok_or_else(|| anyhow!("a key of low order"))?;
                CookieJar::new().write_macs(&mut initiation, &to_west, now);
                let initiation = Initiation::parse(&initiation).map_err(reason)?;
                anyhow::ensure!(verify_mac1(&initiation, &west), "mac1 of our initiation");
                let received = consume_initiation_static(&west, &initiation).map_err(reason)?;
                let responder = received.consume_timestamp(&to_east).map_err(reason)?;
                let (mut response, _) =
                    responder.create_response(&preshared_key, 2 * index + 1, &mut rng).map_err(reason)?;
                CookieJar::new().write_macs(&mut response, &to_east, now);
                let response = Response::parse(&response).map_err(reason)?;
                anyhow::ensure!(verify_mac1(&response, &east), "mac1 of our response");
                initiator
                    .consume_response(&response, &east, &preshared_key)
                    .map_err(|(_, why)| reason(why))?;
            }
            Ok(())
        });
        result?;
        Ok((duration, HANDSHAKES))
    })?);
    report(sample("handshake, both sides", "boringtun", RUNS, || {
        // A tunnel shakes hands once here: its own rate limit is not what is measured.
        let mut tunnels: Vec<(Tunn, Tunn)> = (0..HANDSHAKES as u32).map(boringtun_pair).collect();
        let (duration, result) = time(|| tunnels.iter_mut().try_for_each(boringtun_handshake));
        result?;
        Ok((duration, HANDSHAKES))
    })?);
    measure_response(report)?;
    measure_agreement(report)
}

/// From an initiation to its response: what a responder spends on whoever knows its public key and is a
/// peer.
fn measure_response(report: &mut Report<'_>) -> Result {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let east = StaticIdentity::new(PrivateKey::generate(&mut rng));
    let west = StaticIdentity::new(PrivateKey::generate(&mut rng));
    let (to_west, to_east) =
        (RemoteStatic::new(&east, *west.public_key()), RemoteStatic::new(&west, *east.public_key()));
    let mut initiations = Vec::with_capacity(HANDSHAKES);
    for index in 0..HANDSHAKES as u32 {
        let timestamp = Tai64n::from_unix(UnixTime(Duration::from_secs(u64::from(index))));
        let (_, mut initiation) = create_initiation(&east, &to_west, timestamp, index, &mut rng)
            .ok_or_else(|| anyhow!("a key of low order"))?;
        CookieJar::new().write_macs(&mut initiation, &to_west, Instant::from_nanos(1));
        initiations.push(initiation);
    }
    let reason = |reason| anyhow!("our response failed: {reason:?}");
    report(sample("response", "ours", RUNS, || {
        let (duration, result) = time(|| -> Result {
            for (index, initiation) in initiations.iter().enumerate() {
                let initiation = Initiation::parse(initiation).map_err(reason)?;
                anyhow::ensure!(verify_mac1(&initiation, &west), "mac1 of our initiation");
                let received = consume_initiation_static(&west, &initiation).map_err(reason)?;
                let responder = received.consume_timestamp(&to_east).map_err(reason)?;
                let (mut response, _) = responder
                    .create_response(&PresharedKey::default(), index as u32, &mut rng)
                    .map_err(reason)?;
                CookieJar::new().write_macs(&mut response, &to_east, Instant::from_nanos(1));
                black_box(&response);
            }
            Ok(())
        });
        result?;
        Ok((duration, HANDSHAKES))
    })?);
    report(sample("response", "boringtun", RUNS, || {
        let mut tunnels: Vec<(Tunn, Tunn)> = (0..HANDSHAKES as u32).map(boringtun_pair).collect();
        let mut initiations = Vec::with_capacity(HANDSHAKES);
        for (east, _) in &mut tunnels {
            let mut message = [0; 256];
            let TunnResult::WriteToNetwork(initiation) =
                east.format_handshake_initiation(&mut message, false)
            else {
                bail!("boringtun made no initiation");
            };
            initiations.push(initiation.to_vec());
        }
        let (duration, answered) = time(|| {
            let answer = |((_, west), initiation): (&mut (Tunn, Tunn), &Vec<u8>)| {
                matches!(west.decapsulate(None, initiation, &mut [0; 256]), TunnResult::WriteToNetwork(_))
            };
            tunnels.iter_mut().zip(&initiations).map(answer).filter(|&answered| answered).count()
        });
        Ok((duration, answered))
    })?);
    Ok(())
}

/// One agreement with a key that is known, by both libraries.
fn measure_agreement(report: &mut Report<'_>) -> Result {
    let (own, other) = ([0x41; 32], x25519::PublicKey::from(&x25519::StaticSecret::from([0x42; 32])));
    let secret = x25519::StaticSecret::from(own);
    report(sample("X25519", "x25519-dalek", RUNS, || {
        let agree = || {
            (0..HANDSHAKES).for_each(|_| {
                black_box(secret.diffie_hellman(black_box(&other)));
            })
        };
        Ok((time(agree).0, HANDSHAKES))
    })?);
    let failed = || anyhow!("X25519 by aws-lc");
    let secret = agreement::PrivateKey::from_private_key(&agreement::X25519, &own).map_err(|_| failed())?;
    let public = agreement::UnparsedPublicKey::new(&agreement::X25519, other.as_bytes());
    report(sample("X25519", "aws-lc", RUNS, || {
        let (duration, agreed) = time(|| {
            let agree =
                |_: &usize| agreement::agree(&secret, public, (), |key| Ok(black_box(key[0]))).is_ok();
            (0..HANDSHAKES).filter(agree).count()
        });
        Ok((duration, agreed))
    })?);
    Ok(())
}

fn boringtun_pair(index: u32) -> (Tunn, Tunn) {
    let secrets = [x25519::StaticSecret::from([0x41; 32]), x25519::StaticSecret::from([0x42; 32])];
    let publics = secrets.each_ref().map(x25519::PublicKey::from);
    let tunnel = |own: usize, index| {
        let limiter = Arc::new(RateLimiter::new(&publics[own], u64::MAX));
        Tunn::new(secrets[own].clone(), publics[1 - own], None, None, index, Some(limiter))
    };
    (tunnel(0, 2 * index), tunnel(1, 2 * index + 1))
}

fn boringtun_handshake((east, west): &mut (Tunn, Tunn)) -> Result {
    let (mut first, mut second, mut third) = ([0; 256], [0; 256], [0; 256]);
    let TunnResult::WriteToNetwork(initiation) = east.format_handshake_initiation(&mut first, false) else {
        bail!("boringtun made no initiation");
    };
    let TunnResult::WriteToNetwork(response) = west.decapsulate(None, initiation, &mut second) else {
        bail!("boringtun made no response");
    };
    match east.decapsulate(None, response, &mut third) {
        TunnResult::WriteToNetwork(_) | TunnResult::Done => Ok(()),
        _ => bail!("boringtun took no response"),
    }
}
