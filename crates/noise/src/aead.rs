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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto;

    fn assert_shared_between_threads<T: Send + Sync>() {}

    #[test]
    fn a_key_is_shared_between_threads() {
        assert_shared_between_threads::<AeadKey>();
    }

    #[test]
    fn what_has_no_room_for_a_tag_is_refused() {
        let key = AeadKey::new(&[1; 32]);
        for len in 0..TAG_LEN {
            assert_eq!(key.open_in_place(0, &mut vec![0; len]), Err(DropReason::InvalidTag));
        }
    }

    #[test]
    fn an_empty_plaintext_is_a_tag() {
        let key = AeadKey::new(&[1; 32]);
        let mut tag = [0; TAG_LEN];
        key.seal_in_place(9, &mut [], &mut tag);
        assert_eq!(key.open_in_place(9, &mut tag.clone()).map(|plaintext| plaintext.len()), Ok(0));
        assert_eq!(key.open_in_place(10, &mut tag), Err(DropReason::InvalidTag));
    }

    #[test]
    fn a_flipped_bit_is_refused() {
        let key = AeadKey::new(&[1; 32]);
        let mut sealed = [3; 64 + TAG_LEN];
        let (plaintext, tag) = sealed.split_last_chunk_mut().unwrap();
        key.seal_in_place(1, plaintext, tag);
        assert_eq!(key.open_in_place(1, &mut sealed.clone()).map(|plaintext| plaintext == [3; 64]), Ok(true));
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open_in_place(1, &mut changed), Err(DropReason::InvalidTag), "bit {bit}");
        }
    }

    proptest! {
        /// The oracle is another implementation altogether: the one that serves the handshake.
        #[test]
        fn it_agrees_with_the_handshakes_aead(
            key in any::<[u8; 32]>(),
            counter in any::<u64>(),
            plaintext in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut expected = [&plaintext[..], &[0; TAG_LEN]].concat();
            crypto::seal(&key, counter, &[], &mut expected);
            let key = AeadKey::new(&key);

            let mut in_place = [&plaintext[..], &[0; TAG_LEN]].concat();
            let (buffer, tag) = in_place.split_last_chunk_mut().unwrap();
            key.seal_in_place(counter, buffer, tag);
            prop_assert_eq!(&in_place, &expected);

            prop_assert_eq!(key.open_in_place(counter, &mut in_place).map(|opened| opened.to_vec()), Ok(plaintext));
        }
    }
}
