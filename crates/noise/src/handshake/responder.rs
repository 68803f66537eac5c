//! The side that answers (§5.4.2, §5.4.3).

use std::fmt;

use rand_core::CryptoRng;
use tombolo_packet::DropReason;
use tombolo_packet::message::{Initiation, RESPONSE_LEN, Response, TAG_LEN};

use super::symmetric::Symmetric;
use super::{CONSTRUCTION, IDENTIFIER, Role, SessionSecrets, pattern};
use crate::keys::{PresharedKey, PrivateKey, PublicKey, RemoteStatic, StaticIdentity};
use crate::tai64n::Tai64n;

/// An initiation of which only the sender's static key has been read. That key is claimed, not proven.
pub struct ReceivedInitiation {
    /// On the heap, so that moves leave no copies of the secrets behind.
    symmetric: Box<Symmetric>,
    remote_static: PublicKey,
    remote_ephemeral: [u8; 32],
    encrypted_timestamp: [u8; Tai64n::LEN + TAG_LEN],
    remote_index: u32,
}

/// An authenticated initiation: what a response can be made from.
pub struct Responder {
    symmetric: Box<Symmetric>,
    remote_static: PublicKey,
    remote_ephemeral: [u8; 32],
    remote_index: u32,
    timestamp: Tai64n,
}

/// Reads who sent an initiation whose mac1 is verified. Costs one X25519.
///
/// # Errors
/// [`DropReason::HandshakeFailed`] if the static key does not decrypt, or the ephemeral key is of low order
/// (requirement 24).
pub fn consume_initiation_static(
    identity: &StaticIdentity,
    message: &Initiation<'_>,
) -> Result<ReceivedInitiation, DropReason> {
    let mut symmetric = Box::new(Symmetric::new(CONSTRUCTION, IDENTIFIER, identity.public_key().as_bytes()));
    let remote_static = pattern::read_first_static(
        &mut symmetric,
        identity,
        message.ephemeral(),
        message.encrypted_static(),
    )?;
    Ok(ReceivedInitiation {
        symmetric,
        remote_static,
        remote_ephemeral: *message.ephemeral(),
        encrypted_timestamp: *message.encrypted_timestamp(),
        remote_index: message.sender_index(),
    })
}

impl ReceivedInitiation {
    /// The static key that the sender says is its own: which peer it is, if any.
    pub fn remote_static(&self) -> &PublicKey {
        &self.remote_static
    }

    /// Authenticates the sender as `remote`, and reads its timestamp. The caller still has to compare the
    /// timestamp with the greatest one of this peer (requirement 11).
    ///
    /// # Errors
    /// [`DropReason::HandshakeFailed`] if the timestamp does not decrypt, if `remote` is not the peer whose
    /// key was read, or if its key is of low order (requirement 24).
    pub fn consume_timestamp(mut self, remote: &RemoteStatic) -> Result<Responder, DropReason> {
        if *remote.public_key() != self.remote_static {
            return Err(DropReason::HandshakeFailed);
        }
        let mut timestamp = [0; Tai64n::LEN];
        pattern::read_first_payload(&mut self.symmetric, remote, &self.encrypted_timestamp, &mut timestamp)?;
        Ok(Responder {
            symmetric: self.symmetric,
            remote_static: self.remote_static,
            remote_ephemeral: self.remote_ephemeral,
            remote_index: self.remote_index,
            timestamp: Tai64n::from_bytes(timestamp),
        })
    }
}

impl Responder {
    /// When the initiator says that it sent the initiation.
    pub fn timestamp(&self) -> Tai64n {
        self.timestamp
    }

    /// The peer that sent the initiation.
    pub fn remote_static(&self) -> &PublicKey {
        &self.remote_static
    }

    /// Ends the handshake: gives the response with both macs zero (for
    /// [`crate::cookie::CookieJar::write_macs`]), and the secrets of the session. `sender_index` is random,
    /// and in use for nothing else (requirement 23).
    ///
    /// # Errors
    /// [`DropReason::HandshakeFailed`] if a Diffie-Hellman is zero (requirement 24), which the steps before
    /// have ruled out.
    pub fn create_response(
        mut self,
        preshared_key: &PresharedKey,
        sender_index: u32,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<([u8; RESPONSE_LEN], SessionSecrets), DropReason> {
        let ephemeral = PrivateKey::generate(rng).agreement();
        let keys = pattern::ResponderKeys {
            ephemeral: &ephemeral,
            remote_ephemeral: &self.remote_ephemeral,
            remote_static: &self.remote_static,
            preshared_key: preshared_key.as_bytes(),
        };
        let mut encrypted_nothing = [0; TAG_LEN];
        pattern::write_second(&mut self.symmetric, &keys, &mut encrypted_nothing)?;
        let message =
            Response::write(sender_index, self.remote_index, &ephemeral.public(), &encrypted_nothing);
        let (receiving, sending) = self.symmetric.split();
        let secrets = SessionSecrets {
            sending: *sending,
            receiving: *receiving,
            handshake_hash: *self.symmetric.hash(),
            local_index: sender_index,
            remote_index: self.remote_index,
            role: Role::Responder,
        };
        Ok((message, secrets))
    }
}

impl fmt::Debug for ReceivedInitiation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ReceivedInitiation")
            .field("remote_static", &self.remote_static)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Responder")
            .field("remote_static", &self.remote_static)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}
