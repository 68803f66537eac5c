//! The AEADs of the handshake: ChaCha20-Poly1305 (RFC 8439) for the fields of the messages, and
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) for cookies. Not for bulk data.
//!
//! Cookies are sealed by aws-lc, since in a flood one may be sealed for each message that comes.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::{R20, hchacha};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};
use tombolo_packet::message::TAG_LEN;

/// An authentication tag did not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

fn seal_with<A: AeadInOut>(cipher: &A, nonce: &[u8], associated_data: &[u8], buffer: &mut [u8]) {
    let (plaintext, tag) =
        buffer.split_last_chunk_mut::<TAG_LEN>().expect("every caller leaves room for the tag");
    let nonce = nonce.try_into().expect("the nonce's length is the cipher's");
    let computed = cipher
        .encrypt_inout_detached(nonce, associated_data, plaintext.into())
        .expect("a handshake field is far shorter than the cipher's limit");
    tag.copy_from_slice(&computed);
}

fn open_with<A: AeadInOut>(
    cipher: &A,
    nonce: &[u8],
    associated_data: &[u8],
    ciphertext_and_tag: &[u8],
    plaintext: &mut [u8],
) -> Result<(), NotAuthentic> {
    let (ciphertext, tag) = ciphertext_and_tag.split_at_checked(plaintext.len()).ok_or(NotAuthentic)?;
    let nonce = nonce.try_into().expect("the nonce's length is the cipher's");
    let tag = tag.try_into().map_err(|_| NotAuthentic)?;
    plaintext.copy_from_slice(ciphertext);
    cipher.decrypt_inout_detached(nonce, associated_data, plaintext.into(), tag).map_err(|_| NotAuthentic)
}

fn nonce_of(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// `AEAD`: seals all of `buffer` but its last 16 bytes in place, and writes the tag to those.
pub(crate) fn seal(key: &[u8; 32], counter: u64, associated_data: &[u8], buffer: &mut [u8]) {
    seal_with(&ChaCha20Poly1305::new(key.into()), &nonce_of(counter), associated_data, buffer);
}

/// Opens what [`seal`] sealed. `plaintext` is 16 bytes shorter than `ciphertext_and_tag`; what it holds
/// after a failure is of no meaning.
pub(crate) fn open(
    key: &[u8; 32],
    counter: u64,
    associated_data: &[u8],
    ciphertext_and_tag: &[u8],
    plaintext: &mut [u8],
) -> Result<(), NotAuthentic> {
    let cipher = ChaCha20Poly1305::new(key.into());
    open_with(&cipher, &nonce_of(counter), associated_data, ciphertext_and_tag, plaintext)
}

/// `XAEAD`: as [`seal`], with a nonce that may be random.
pub(crate) fn seal_extended(key: &[u8; 32], nonce: &[u8; 24], associated_data: &[u8], buffer: &mut [u8]) {
    let (prefix, suffix) = nonce.split_at(16);
    let prefix = prefix.try_into().expect("the nonce has 24 bytes");
    // No secret: whoever knows our public key knows the key that it comes from (§5.4.7).
    let subkey = hchacha::<R20>(key.into(), prefix);
    let key = UnboundKey::new(&CHACHA20_POLY1305, &subkey)
        .expect("32 bytes are the length of a ChaCha20-Poly1305 key");
    let mut inner = [0; 12];
    inner[4..].copy_from_slice(suffix);
    let (plaintext, tag) =
        buffer.split_last_chunk_mut::<TAG_LEN>().expect("every caller leaves room for the tag");
    LessSafeKey::new(key)
        .seal_in_place_scatter(
            Nonce::assume_unique_for_key(inner),
            Aad::from(associated_data),
            plaintext,
            &[],
            tag,
        )
        .expect("a cookie is far shorter than the cipher's limit");
}

/// Opens what [`seal_extended`] sealed; as [`open`].
pub(crate) fn open_extended(
    key: &[u8; 32],
    nonce: &[u8; 24],
    associated_data: &[u8],
    ciphertext_and_tag: &[u8],
    plaintext: &mut [u8],
) -> Result<(), NotAuthentic> {
    open_with(&XChaCha20Poly1305::new(key.into()), nonce, associated_data, ciphertext_and_tag, plaintext)
}
