//! Ed25519 keys and signatures, verified strictly (control rule 6).

use std::fmt;

use ed25519_dalek::Signer;
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// SHA-256 over the parts, one behind the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The SHA-256 of an Ed25519 public key: how a root key is pinned, and how the next one is promised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

/// The first eight bytes of a key's [`Fingerprint`]: which key signed. A hint, never a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; 8]);

/// An Ed25519 signature (RFC 8032): 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

/// An Ed25519 public key: a canonical encoding of a point that is not of low order.
#[derive(Clone, Copy)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

/// An Ed25519 private key. On the heap, wiped when dropped, and without a `Debug` that shows it.
#[derive(Clone)]
pub struct SigningKey(Box<ed25519_dalek::SigningKey>);

macro_rules! plain_bytes {
    ($name:ident, $len:literal) => {
        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// From the bytes that travel.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes as they travel.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            /// Lower-case hexadecimal digits.
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}
pub(crate) use plain_bytes;

plain_bytes!(Fingerprint, 32);
plain_bytes!(KeyId, 8);
plain_bytes!(Signature, 64);

impl Fingerprint {
    /// The short form that stands in a protected header.
    pub fn key_id(&self) -> KeyId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        KeyId([a, b, c, d, e, f, g, h])
    }
}

impl VerifyingKey {
    /// From the 32 bytes that travel; none if they are no point, a second encoding of one, or a point of
    /// low order, under which one signature fits many messages.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).ok()?;
        let canonical = key.to_edwards().compress().as_bytes() == bytes;
        (canonical && !key.is_weak()).then_some(Self(key))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The SHA-256 of the key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(sha256(&[self.as_bytes()]))
    }

    /// The short form of the fingerprint.
    pub fn key_id(&self) -> KeyId {
        self.fingerprint().key_id()
    }

    /// Whether the signature is this key's. Strict: no signature has a second form that passes too.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for VerifyingKey {}

impl PartialOrd for VerifyingKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for VerifyingKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VerifyingKey({})", self.fingerprint())
    }
}

impl SigningKey {
    /// A new key.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The key of a 32-byte seed (the "private key" of RFC 8032).
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self(Box::new(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// The seed, to be stored where only its owner reads it.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public key that belongs to it.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs. Deterministic, as RFC 8032 has it: no randomness is drawn.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigningKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        base16ct::mixed::decode_vec(hex).unwrap().try_into().unwrap()
    }

    #[test]
    fn signatures_are_those_of_rfc_8032_section_7_1_test_2() {
        let key =
            SigningKey::from_seed(bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"));
        let public = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = bytes(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        assert_eq!(key.verifying_key().as_bytes(), &public);
        assert_eq!(key.sign(&[0x72]).as_bytes(), &signature);
        assert!(key.verifying_key().verify(&[0x72], &Signature::from_bytes(signature)));
        assert!(!key.verifying_key().verify(&[0x73], &Signature::from_bytes(signature)));
    }

    #[test]
    fn verification_is_strict_control_rule_6() {
        let key = SigningKey::from_seed([7; 32]);
        let mut signature = *key.sign(b"message").as_bytes();
        // s + L passes a lax verifier: one signature would have two forms.
        let order: [u8; 32] = bytes("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let mut carry = 0;
        for (byte, add) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        assert!(!key.verifying_key().verify(b"message", &Signature::from_bytes(signature)));
        // R is the neutral element and s = H(R, A, M) · a: the equation holds, and only strictness refuses.
        let low_order = bytes(
            "0100000000000000000000000000000000000000000000000000000000000000\
             d4c5323131ff9683cfb3d30197c786c9043f1052d6c2d5293f19d6f36b911104",
        );
        assert!(!key.verifying_key().verify(b"message", &Signature::from_bytes(low_order)));
    }

    #[test]
    fn weak_and_twice_encoded_keys_are_no_keys_control_rule_6() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(VerifyingKey::from_bytes(&identity), None);
        assert_eq!(VerifyingKey::from_bytes(&[0; 32]), None);
        // y = p + 3, which is y = 3 written a second way (y = 3 is on the curve).
        let mut second = [0xff; 32];
        (second[0], second[31]) = (0xf0, 0x7f);
        let mut first = [0; 32];
        first[0] = 3;
        assert!(VerifyingKey::from_bytes(&first).is_some());
        assert_eq!(VerifyingKey::from_bytes(&second), None);
    }

    #[test]
    fn secrets_have_no_debug() {
        assert_eq!(format!("{:?}", SigningKey::from_seed([42; 32])), "SigningKey(…)");
        assert_eq!(*SigningKey::from_seed([42; 32]).seed(), [42; 32]);
    }
}
