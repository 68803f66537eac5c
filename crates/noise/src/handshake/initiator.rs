//! The side that begins (§5.4.2, §5.4.3).

use std::fmt;

use rand_core::CryptoRng;
use tombolo_packet::DropReason;
use tombolo_packet::message::{INITIATION_LEN, Initiation, Response, TAG_LEN};

use super::symmetric::Symmetric;
use super::{CONSTRUCTION, IDENTIFIER, Role, SessionSecrets, pattern};
use crate::crypto::AgreementKey;
use crate::keys::{PresharedKey, PrivateKey, RemoteStatic, StaticIdentity};
use crate::tai64n::Tai64n;

/// A handshake that waits for its response. Its secrets are wiped when it is dropped.
pub struct Initiator {
    /// On the heap, so that moves leave no copies of the secrets behind.
    secrets: Box<Secrets>,
    local_index: u32,
}

struct Secrets {
    symmetric: Symmetric,
    ephemeral: AgreementKey,
}

/// Begins a handshake with `remote`: gives the state that awaits the response, and the initiation with both
/// macs zero (for [`crate::cookie::CookieJar::write_macs`]).
///
/// `timestamp` is later than that of every initiation sent to this peer before (requirement 11);
/// `sender_index` is random, and in use for nothing else (requirement 23). None if the peer's key is of low order, so that
/// there can be no handshake with it (requirement 24).
pub fn create_initiation(
    identity: &StaticIdentity,
    remote: &RemoteStatic,
    timestamp: Tai64n,
    sender_index: u32,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Option<(Initiator, [u8; INITIATION_LEN])> {
    let mut secrets = Box::new(Secrets {
        symmetric: Symmetric::new(CONSTRUCTION, IDENTIFIER, remote.public_key().as_bytes()),
        ephemeral: PrivateKey::generate(rng).agreement(),
    });
    let Secrets { symmetric, ephemeral } = &mut *secrets;
    let mut encrypted_timestamp = [0; Tai64n::LEN + TAG_LEN];
    encrypted_timestamp[..Tai64n::LEN].copy_from_slice(timestamp.as_bytes());
    let encrypted_static =
        pattern::write_first(symmetric, identity, remote, ephemeral, &mut encrypted_timestamp).ok()?;
    let message =
        Initiation::write(sender_index, &ephemeral.public(), &encrypted_static, &encrypted_timestamp);
    Some((Initiator { secrets, local_index: sender_index }, message))
}

impl Initiator {
    /// The sender index of the initiation.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Ends the handshake with a response whose mac1 is verified. `identity` is the one that the
    /// initiation was created with.
    ///
    /// # Errors
    /// [`DropReason::UnexpectedResponse`] if it answers another initiation,
    /// [`DropReason::HandshakeFailed`] if it does not authenticate. The state comes back unharmed, so that a
    /// forged response does not keep the true one from being consumed (requirement 27).
    pub fn consume_response(
        self,
        message: &Response<'_>,
        identity: &StaticIdentity,
        preshared_key: &PresharedKey,
    ) -> Result<SessionSecrets, (Self, DropReason)> {
        match self.derive(message, identity, preshared_key) {
            Ok(secrets) => Ok(secrets),
            Err(reason) => Err((self, reason)),
        }
    }

    fn derive(
        &self,
        message: &Response<'_>,
        identity: &StaticIdentity,
        preshared_key: &PresharedKey,
    ) -> Result<SessionSecrets, DropReason> {
        if message.receiver_index() != self.local_index {
            return Err(DropReason::UnexpectedResponse);
        }
        let mut symmetric = self.secrets.symmetric.clone();
        pattern::read_second(
            &mut symmetric,
            identity,
            &self.secrets.ephemeral,
            message.ephemeral(),
            preshared_key.as_bytes(),
            message.encrypted_nothing(),
            &mut [],
        )?;
        let (sending, receiving) = symmetric.split();
        Ok(SessionSecrets {
            sending: *sending,
            receiving: *receiving,
            handshake_hash: *symmetric.hash(),
            local_index: self.local_index,
            remote_index: message.sender_index(),
            role: Role::Initiator,
        })
    }
}

#[cfg(test)]
impl Initiator {
    pub(super) fn symmetric_for_tests(&self) -> &Symmetric {
        &self.secrets.symmetric
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Initiator").field("local_index", &self.local_index).finish_non_exhaustive()
    }
}
