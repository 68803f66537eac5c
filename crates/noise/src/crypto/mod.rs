//! The functions that the handshake is made of (§5.4): hash, mac, key derivation, the handshake's AEADs,
//! and Diffie-Hellman. The AEAD of transport data is [`crate::aead`].

mod diffie_hellman;
mod handshake_aead;
#[cfg(test)]
mod tests;

use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac};
use hmac::SimpleHmac;
use zeroize::Zeroizing;

pub(crate) use diffie_hellman::{AgreementKey, SharedSecret};
#[cfg(test)]
use handshake_aead::NotAuthentic;
pub(crate) use handshake_aead::{open, open_extended, seal, seal_extended};

/// A secret of 32 bytes that is wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// `HASH` of the parts one after the other: BLAKE2s, 32 bytes.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// `MAC`: keyed BLAKE2s of the parts one after the other, 16 bytes. The key has at most 32 bytes.
pub(crate) fn mac<const KEY_LEN: usize>(key: &[u8; KEY_LEN], parts: &[&[u8]]) -> [u8; 16] {
    const { assert!(KEY_LEN <= 32, "BLAKE2s takes keys of up to 32 bytes") };
    let mut state = <Blake2sMac<U16> as KeyInit>::new_from_slice(key)
        .expect("the length of the key is checked when this is compiled");
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// `HMAC`: HMAC-BLAKE2s, 32 bytes.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut state =
        <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        Mac::update(&mut state, part);
    }
    let mut output = Secret::default();
    state.finalize_into((&mut *output).into());
    output
}

/// `KDF1`.
pub(crate) fn kdf1(chaining_key: &[u8; 32], input: &[u8]) -> Secret {
    let extracted = hmac(chaining_key, &[input]);
    hmac(&extracted, &[&[1]])
}

/// `KDF2`.
pub(crate) fn kdf2(chaining_key: &[u8; 32], input: &[u8]) -> (Secret, Secret) {
    let extracted = hmac(chaining_key, &[input]);
    let first = hmac(&extracted, &[&[1]]);
    let second = hmac(&extracted, &[&*first, &[2]]);
    (first, second)
}

/// `KDF3`.
pub(crate) fn kdf3(chaining_key: &[u8; 32], input: &[u8]) -> (Secret, Secret, Secret) {
    let extracted = hmac(chaining_key, &[input]);
    let first = hmac(&extracted, &[&[1]]);
    let second = hmac(&extracted, &[&*first, &[2]]);
    let third = hmac(&extracted, &[&*second, &[3]]);
    (first, second, third)
}
