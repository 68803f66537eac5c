//! Join tokens: all that a new node needs to find a server, to know it, and to be let in (control rule 15).
//!
//! A token is a secret. In memory it is wiped when dropped; as text it is one word, without a character that
//! ends a word for a mouse or means something to a shell, and with a checksum that finds what a copy has lost.

mod proof;
mod text;

use std::fmt;

use tombolo_noise::PublicKey;

use crate::{Fingerprint, HostEndpoint, NetworkId, SigningKey, VerifyingKey};

pub use proof::JoinProof;
pub use text::TokenError;

/// The cryptography that a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suite {
    /// WireGuard's, with Ed25519 and SHA-256 for what is signed.
    WireGuard,
}

/// A join token.
#[derive(Clone)]
pub struct Token {
    network: NetworkId,
    server_key: PublicKey,
    root: Fingerprint,
    suite: Suite,
    endpoints: Vec<HostEndpoint>,
    key: SigningKey,
}

impl Token {
    /// Greatest number of endpoints.
    pub const ENDPOINTS_MAX: usize = 8;

    /// A token around a new key of its own, of which the register keeps [`Token::public_key`] only.
    ///
    /// # Errors
    /// [`TokenError::Endpoints`] without an endpoint or with more than eight, and [`TokenError::ServerKey`].
    pub fn new(
        network: NetworkId,
        server_key: PublicKey,
        root: Fingerprint,
        endpoints: Vec<HostEndpoint>,
        key: SigningKey,
    ) -> Result<Self, TokenError> {
        if endpoints.is_empty() || endpoints.len() > Self::ENDPOINTS_MAX {
            return Err(TokenError::Endpoints);
        }
        if server_key.is_low_order() {
            return Err(TokenError::ServerKey);
        }
        Ok(Self { network, server_key, root, suite: Suite::WireGuard, endpoints, key })
    }

    /// Which network it is for.
    pub fn network(&self) -> &NetworkId {
        &self.network
    }

    /// The server's static key: with whom the handshake is.
    pub fn server_key(&self) -> &PublicKey {
        &self.server_key
    }

    /// The fingerprint of the root key, which the new node pins.
    pub fn root(&self) -> &Fingerprint {
        &self.root
    }

    /// The cryptography.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Where the server may be found: one to eight, in the order in which to try them.
    pub fn endpoints(&self) -> &[HostEndpoint] {
        &self.endpoints
    }

    /// What the register knows the token by.
    pub fn public_key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    /// Proves to hold the token, in this handshake and for this node's key only.
    pub fn prove(&self, handshake_hash: &[u8; 32], node_key: &PublicKey) -> JoinProof {
        JoinProof::new(&self.key, handshake_hash, node_key, &self.network)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Token")
            .field("network", &self.network)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
