//! Names that are numbers: of networks, of nodes, of documents.

use std::fmt;

use rand_core::CryptoRng;

use crate::signing::{VerifyingKey, plain_bytes, sha256};

/// Which network. It outlives a change of the root key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId([u8; 16]);

plain_bytes!(NetworkId, 16);

impl NetworkId {
    /// The id of a network that begins with this root key: the first half of
    /// `SHA-256("tombolo network id v1" || key)`, so that no two networks have the same by accident.
    pub fn derive(first_root: &VerifyingKey) -> Self {
        Self(half(sha256(&[b"tombolo network id v1", first_root.as_bytes()])))
    }
}

/// Which node. Drawn at the join and never used twice (control rule 3): who comes back after a revocation is
/// another node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 16]);

plain_bytes!(NodeId, 16);

impl NodeId {
    /// A new one.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }
}

/// The SHA-256 of a signed document, all of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentHash([u8; 32]);

plain_bytes!(DocumentHash, 32);

impl DocumentHash {
    /// The hash of an encoded document.
    pub fn of(encoded: &[u8]) -> Self {
        Self(sha256(&[encoded]))
    }
}

fn half(hash: [u8; 32]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash[..16]);
    half
}
