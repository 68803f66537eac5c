//! X25519 (RFC 7748). The only place that names the library which computes it.

use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The result of a Diffie-Hellman; never all zero.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct SharedSecret([u8; 32]);

impl SharedSecret {
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// `DH(private, public)`; none if it is all zero, which is to say that `public` is of low order
/// (requirement 24).
pub(crate) fn diffie_hellman(private: &[u8; 32], public: &[u8; 32]) -> Option<SharedSecret> {
    let shared = StaticSecret::from(*private).diffie_hellman(&PublicKey::from(*public));
    let is_zero: bool = shared.as_bytes().ct_eq(&[0; 32]).into();
    (!is_zero).then(|| SharedSecret(*shared.as_bytes()))
}

/// The public key of `private`.
pub(crate) fn public_key(private: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*private)).to_bytes()
}
