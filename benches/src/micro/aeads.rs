//! ChaCha20-Poly1305 of others beside ours, on a message of the data path.

use std::hint::black_box;

use anyhow::anyhow;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tombolo_noise::aead::AeadKey;
use tombolo_packet::message::TAG_LEN;

use super::Report;
use super::timing::{sample, time};
use crate::Result;

const RUNS: usize = 20;
const PACKETS: usize = 2000;
/// Bytes that are sealed: a packet of 1420, padded to a multiple of 16.
const LENGTH: usize = 1424;
const KEY: [u8; 32] = [7; 32];

pub(super) fn measure(report: &mut Report<'_>) -> Result {
    let ours = AeadKey::new(&KEY);
    let ring = LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, &KEY).map_err(|_| anyhow!("a key of 32 bytes"))?,
    );
    let rust_crypto = ChaCha20Poly1305::new(&KEY.into());
    let expected = sealed(|counter, packet, tag| ours.seal_in_place(counter, packet, tag));
    let seal_with_ring = |counter: u64, packet: &mut [u8], tag: &mut [u8; TAG_LEN]| {
        let nonce = Nonce::assume_unique_for_key(nonce_of(counter));
        if let Ok(found) = ring.seal_in_place_separate_tag(nonce, Aad::empty(), packet) {
            tag.copy_from_slice(found.as_ref());
        }
    };
    let seal_with_rust_crypto = |counter: u64, packet: &mut [u8], tag: &mut [u8; TAG_LEN]| {
        if let Ok(found) = rust_crypto.encrypt_inout_detached(&nonce_of(counter).into(), b"", packet.into()) {
            tag.copy_from_slice(&found);
        }
    };
    anyhow::ensure!(sealed(seal_with_ring) == expected, "ring seals otherwise");
    anyhow::ensure!(sealed(seal_with_rust_crypto) == expected, "RustCrypto seals otherwise");
    one(report, "aws-lc", |counter, packet, tag| ours.seal_in_place(counter, packet, tag))?;
    one(report, "ring", seal_with_ring)?;
    one(report, "RustCrypto", seal_with_rust_crypto)
}

fn one(
    report: &mut Report<'_>,
    variant: &'static str,
    mut seal: impl FnMut(u64, &mut [u8], &mut [u8; TAG_LEN]),
) -> Result {
    let mut packets = vec![[0; LENGTH]; PACKETS];
    let mut tag = [0; TAG_LEN];
    report(sample("seal 1424 bytes", variant, RUNS, || {
        let (duration, ()) = time(|| {
            for (counter, packet) in packets.iter_mut().enumerate() {
                seal(counter as u64, packet, &mut tag);
                black_box(&tag);
            }
        });
        Ok((duration, PACKETS))
    })?);
    Ok(())
}

/// One message, so that all are known to do the same.
fn sealed(mut seal: impl FnMut(u64, &mut [u8], &mut [u8; TAG_LEN])) -> (Vec<u8>, [u8; TAG_LEN]) {
    let (mut packet, mut tag) = (vec![0xa5; LENGTH], [0; TAG_LEN]);
    seal(9, &mut packet, &mut tag);
    (packet, tag)
}

/// Four bytes of zero, then the counter (§5.4.6).
fn nonce_of(counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_le_bytes());
    nonce
}
