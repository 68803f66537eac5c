//! The message pattern IKpsk2, with payloads of any length: `→ e, es, s, ss` and `← e, ee, se, psk`.
//!
//! WireGuard's messages are this with fixed payloads; Noise's published vectors are this with others.
//! Every function here may leave the symmetric state half advanced when it fails: callers then drop it.

use tombolo_packet::DropReason;

use super::symmetric::Symmetric;
use crate::crypto::{AgreementKey, SharedSecret};
use crate::keys::{PublicKey, RemoteStatic, StaticIdentity};

/// `DH`, refused when it is zero (requirement 24).
fn diffie_hellman(private: &AgreementKey, public: &[u8; 32]) -> Result<SharedSecret, DropReason> {
    private.agree(public).ok_or(DropReason::HandshakeFailed)
}

/// The static-static secret, which there is none of with a low-order key (requirement 24).
fn static_static(remote: &RemoteStatic) -> Result<&SharedSecret, DropReason> {
    remote.static_static().ok_or(DropReason::HandshakeFailed)
}

/// Writes the first message: returns the encrypted static key, seals `payload` in place (its last 16
/// bytes take the tag).
pub(super) fn write_first(
    symmetric: &mut Symmetric,
    identity: &StaticIdentity,
    remote: &RemoteStatic,
    ephemeral: &AgreementKey,
    payload: &mut [u8],
) -> Result<[u8; 48], DropReason> {
    symmetric.mix_ephemeral(&ephemeral.public());
    let key = symmetric.mix_key(&diffie_hellman(ephemeral, remote.public_key().as_bytes())?);
    let mut encrypted_static = [0; 48];
    encrypted_static[..32].copy_from_slice(identity.public_key().as_bytes());
    symmetric.seal_and_hash(&key, &mut encrypted_static);
    let key = symmetric.mix_key(static_static(remote)?);
    symmetric.seal_and_hash(&key, payload);
    Ok(encrypted_static)
}

/// Reads the first message up to the initiator's static key, which is returned.
pub(super) fn read_first_static(
    symmetric: &mut Symmetric,
    identity: &StaticIdentity,
    ephemeral: &[u8; 32],
    encrypted_static: &[u8; 48],
) -> Result<PublicKey, DropReason> {
    symmetric.mix_ephemeral(ephemeral);
    let key = symmetric.mix_key(&diffie_hellman(identity.agreement(), ephemeral)?);
    let mut remote = [0; 32];
    symmetric.open_and_hash(&key, encrypted_static, &mut remote)?;
    Ok(PublicKey::from_bytes(remote))
}

/// Reads the rest of the first message.
pub(super) fn read_first_payload(
    symmetric: &mut Symmetric,
    remote: &RemoteStatic,
    encrypted_payload: &[u8],
    payload: &mut [u8],
) -> Result<(), DropReason> {
    let key = symmetric.mix_key(static_static(remote)?);
    symmetric.open_and_hash(&key, encrypted_payload, payload)
}

/// The keys that the second message is about.
pub(super) struct ResponderKeys<'a> {
    pub(super) ephemeral: &'a AgreementKey,
    pub(super) remote_ephemeral: &'a [u8; 32],
    pub(super) remote_static: &'a PublicKey,
    pub(super) preshared_key: &'a [u8; 32],
}

/// Writes the second message: seals `payload` in place (its last 16 bytes take the tag).
pub(super) fn write_second(
    symmetric: &mut Symmetric,
    keys: &ResponderKeys<'_>,
    payload: &mut [u8],
) -> Result<(), DropReason> {
    symmetric.mix_ephemeral(&keys.ephemeral.public());
    symmetric.mix_key(&diffie_hellman(keys.ephemeral, keys.remote_ephemeral)?);
    symmetric.mix_key(&diffie_hellman(keys.ephemeral, keys.remote_static.as_bytes())?);
    let key = symmetric.mix_preshared_key(keys.preshared_key);
    symmetric.seal_and_hash(&key, payload);
    Ok(())
}

/// Reads the second message.
pub(super) fn read_second(
    symmetric: &mut Symmetric,
    identity: &StaticIdentity,
    ephemeral: &AgreementKey,
    remote_ephemeral: &[u8; 32],
    preshared_key: &[u8; 32],
    encrypted_payload: &[u8],
    payload: &mut [u8],
) -> Result<(), DropReason> {
    symmetric.mix_ephemeral(remote_ephemeral);
    symmetric.mix_key(&diffie_hellman(ephemeral, remote_ephemeral)?);
    symmetric.mix_key(&diffie_hellman(identity.agreement(), remote_ephemeral)?);
    let key = symmetric.mix_preshared_key(preshared_key);
    symmetric.open_and_hash(&key, encrypted_payload, payload)
}
