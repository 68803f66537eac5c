//! The symmetric state of the handshake: chaining key and hash (Noise revision 34, §5.2; paper §5.4.2).

use tombolo_packet::DropReason;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::{self, Secret, SharedSecret};

/// `C` and `H` of the paper.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Symmetric {
    chaining_key: [u8; 32],
    hash: [u8; 32],
}

impl Symmetric {
    /// The start of a handshake with a responder whose static key the initiator knows.
    pub(super) fn new(construction: &[u8], prologue: &[u8], responder: &[u8; 32]) -> Self {
        let chaining_key = crypto::hash(&[construction]);
        let mut state = Self { chaining_key, hash: chaining_key };
        state.mix_hash(prologue);
        state.mix_hash(responder);
        state
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = crypto::hash(&[&self.hash, data]);
    }

    /// Takes an ephemeral public key into hash and, as psk patterns ask for, chaining key.
    pub(super) fn mix_ephemeral(&mut self, ephemeral: &[u8; 32]) {
        self.mix_hash(ephemeral);
        self.chaining_key = *crypto::kdf1(&self.chaining_key, ephemeral);
    }

    /// Takes a Diffie-Hellman into the chaining key; gives the key of the next field.
    pub(super) fn mix_key(&mut self, shared: &SharedSecret) -> Secret {
        let (chaining_key, key) = crypto::kdf2(&self.chaining_key, shared.as_bytes());
        self.chaining_key = *chaining_key;
        key
    }

    /// Takes the preshared key into chaining key and hash; gives the key of the next field.
    pub(super) fn mix_preshared_key(&mut self, preshared_key: &[u8; 32]) -> Secret {
        let (chaining_key, temporary, key) = crypto::kdf3(&self.chaining_key, preshared_key);
        self.chaining_key = *chaining_key;
        self.mix_hash(temporary.as_slice());
        key
    }

    /// Seals all of `field` but its last 16 bytes in place, writes the tag to those.
    pub(super) fn seal_and_hash(&mut self, key: &Secret, field: &mut [u8]) {
        crypto::seal(key, 0, &self.hash, field);
        self.mix_hash(field);
    }

    /// Opens `field` into `plaintext`, which is 16 bytes shorter.
    pub(super) fn open_and_hash(
        &mut self,
        key: &Secret,
        field: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), DropReason> {
        crypto::open(key, 0, &self.hash, field, plaintext).map_err(|_| DropReason::HandshakeFailed)?;
        self.mix_hash(field);
        Ok(())
    }

    /// The keys of the session: what the initiator sends with, then what the responder sends with.
    pub(super) fn split(&self) -> (Secret, Secret) {
        crypto::kdf2(&self.chaining_key, &[])
    }

    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// What [`Symmetric::mix_key`] would do with the zero secret that it is never given.
    #[cfg(test)]
    pub(super) fn mix_zero(&mut self) -> Secret {
        let (chaining_key, key) = crypto::kdf2(&self.chaining_key, &[0; 32]);
        self.chaining_key = *chaining_key;
        key
    }
}
