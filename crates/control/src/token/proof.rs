//! What a join request proves (control rule 15).

use tombolo_noise::PublicKey;

use crate::{NetworkId, Signature, SigningKey, VerifyingKey};

/// What keeps this signature from being one of anything else.
const LABEL: &[u8] = b"tombolo join proof v1";

/// The token's signature over the handshake's hash, the node's static key and the network's id.
///
/// So a proof that was overheard or kept by a server that was taken over is of no use in another handshake, for
/// another key, or in another network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinProof(Signature);

fn message(handshake_hash: &[u8; 32], node_key: &PublicKey, network: &NetworkId) -> Vec<u8> {
    [LABEL, handshake_hash, node_key.as_bytes(), network.as_bytes()].concat()
}

impl JoinProof {
    pub(super) fn new(
        key: &SigningKey,
        handshake_hash: &[u8; 32],
        node_key: &PublicKey,
        network: &NetworkId,
    ) -> Self {
        Self(key.sign(&message(handshake_hash, node_key, network)))
    }

    /// From the signature that travels.
    pub const fn from_signature(signature: Signature) -> Self {
        Self(signature)
    }

    /// The signature as it travels.
    pub const fn signature(&self) -> &Signature {
        &self.0
    }

    /// Whether it was made with the token of this public key, in this handshake, for this network. `node_key` is
    /// the handshake's remote static key, never one that the request names.
    #[must_use]
    pub fn verify(
        &self,
        token: &VerifyingKey,
        handshake_hash: &[u8; 32],
        node_key: &PublicKey,
        network: &NetworkId,
    ) -> bool {
        token.verify(&message(handshake_hash, node_key, network), &self.0)
    }
}
