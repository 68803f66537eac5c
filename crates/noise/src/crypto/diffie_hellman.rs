//! X25519 (RFC 7748). The only place that names the library which computes it: aws-lc, twice as fast as
//! x25519-dalek here, in constant time like that one.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The result of a Diffie-Hellman; never all zero.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct SharedSecret([u8; 32]);

impl SharedSecret {
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A private key in the form that the library computes with, and its public key. Making one costs a
/// multiplication of the base point, so one that is used more than once is kept.
//
// On drop the key is wiped, by aws-lc itself: the 32 bytes lie in a structure from `OPENSSL_malloc`, and `OPENSSL_free`
// cleanses what it gives back (as for `crate::aead::AeadKey`). The shared secret comes in a buffer that aws-lc-rs wipes.
pub(crate) struct AgreementKey(PrivateKey);

impl AgreementKey {
    /// From 32 bytes, which remain the caller's to wipe. They are clamped at each use.
    pub(crate) fn new(private: &[u8; 32]) -> Self {
        Self(
            PrivateKey::from_private_key(&X25519, private)
                .expect("every 32 bytes are a private key of X25519"),
        )
    }

    /// The public key that belongs to it; computed already.
    pub(crate) fn public(&self) -> [u8; 32] {
        let public = self.0.compute_public_key().expect("the public key was computed with the private one");
        public.as_ref().try_into().expect("a public key of X25519 has 32 bytes")
    }

    /// `DH(self, public)`; none if it is all zero, which is to say that `public` is of low order
    /// (requirement 24). The library compares in constant time.
    pub(crate) fn agree(&self, public: &[u8; 32]) -> Option<SharedSecret> {
        agree(&self.0, UnparsedPublicKey::new(&X25519, public), (), |shared| {
            shared.try_into().map(SharedSecret).map_err(|_| ())
        })
        .ok()
    }
}
