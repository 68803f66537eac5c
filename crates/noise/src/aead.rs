//! The AEAD of transport data (§5.4.6): ChaCha20-Poly1305 with a counter as the nonce and no associated
//! data, over aws-lc, which is more than three times as fast as what serves the handshake.

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tombolo_packet::DropReason;
use tombolo_packet::message::TAG_LEN;

/// One direction's transport key, usable by many threads at once.
///
/// The counter is an argument: whoever calls sees to it that none is used twice for sealing.
//
// On drop the key is wiped, by aws-lc itself: `LessSafeKey` owns an `EVP_AEAD_CTX` from `OPENSSL_malloc`, with the
// ChaCha20 key inline in its `state`; the pointer's drop calls `EVP_AEAD_CTX_free`, which ends in `OPENSSL_free`, and that
// cleanses the whole allocation before it gives it back (aws-lc `crypto/mem.c`; aws-lc-rs `ptr.rs`, which says so too).
// ChaCha20 has no key schedule elsewhere, and the one-time Poly1305 keys on the stack are cleansed by each call.
pub struct AeadKey(LessSafeKey);

impl AeadKey {
    /// From the 32 bytes of a session key. These remain the caller's to wipe.
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key)
            .expect("32 bytes are the length of a ChaCha20-Poly1305 key");
        Self(LessSafeKey::new(key))
    }

    /// Seals `buffer` in place and writes its tag to `tag`.
    #[inline]
    pub fn seal_in_place(&self, counter: u64, buffer: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        self.0
            .seal_in_place_scatter(nonce_of(counter), Aad::empty(), buffer, &[], tag)
            .expect("a datagram is far shorter than the cipher's limit of 256 GiB");
    }

    /// Seals `plaintext` into `ciphertext`, which has the same length, and writes its tag to `tag`.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn seal_into(&self, counter: u64, plaintext: &[u8], ciphertext: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        self.0
            .seal_out_of_place_scatter(nonce_of(counter), Aad::empty(), plaintext, ciphertext, &[], tag)
            .expect("the lengths are equal and far below the cipher's limit of 256 GiB");
    }

    /// Opens `ciphertext_and_tag` in place: on success all but the last 16 bytes are the plaintext, which
    /// is returned; after a failure the contents are of no meaning.
    ///
    /// # Errors
    /// [`DropReason::InvalidTag`], also if there is no room for a tag.
    #[inline]
    pub fn open_in_place<'buffer>(
        &self,
        counter: u64,
        ciphertext_and_tag: &'buffer mut [u8],
    ) -> Result<&'buffer mut [u8], DropReason> {
        self.0
            .open_in_place(nonce_of(counter), Aad::empty(), ciphertext_and_tag)
            .map_err(|_| DropReason::InvalidTag)
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AeadKey(…)")
    }
}

/// Four bytes of zero, then the counter, little-endian.
fn nonce_of(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
