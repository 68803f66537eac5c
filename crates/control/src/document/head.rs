//! The head: which documents are newest, signed.
//!
//! It is what two nodes show each other in the first frame of a tunnel (control rule 2), and what a pull in
//! blocks goes by: hash and size are signed before the first block is asked for (control rule 11).

use ciborium::Value;
use tombolo_noise::clock::UnixTime;

use super::{
    Content, DocumentError, NETWORK, NETWORK_MAX, NetworkDocument, TrustDocument, Verified, Version, open,
    seal,
};
use crate::cbor::{FieldError, Fields, MapBuilder, Problem};
use crate::{DocumentHash, NetworkId, SigningKey};

/// Version, hash and size of the newest documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which network.
    pub network: NetworkId,
    /// Epoch of the trust document.
    pub trust_epoch: u64,
    /// Hash of the trust document.
    pub trust_hash: DocumentHash,
    /// Version of the network document.
    pub network_version: Version,
    /// Hash of the network document.
    pub network_hash: DocumentHash,
    /// Length of the network document in bytes.
    pub network_size: u32,
    /// When it was signed, in whole seconds.
    pub issued: UnixTime,
}

impl Head {
    /// The head of these two documents.
    pub fn of(trust: &Verified<TrustDocument>, network: &Verified<NetworkDocument>) -> Self {
        Self {
            network: trust.network,
            trust_epoch: trust.epoch,
            trust_hash: trust.hash(),
            network_version: network.version,
            network_hash: network.hash(),
            network_size: u32::try_from(network.encoded().len())
                .expect("a verified document has at most NETWORK_MAX bytes"),
            issued: network.issued,
        }
    }

    /// Signs it.
    ///
    /// # Errors
    /// When `key` is no issuer in `trust` that may sign network documents, and when a verifier would refuse
    /// the content.
    pub fn sign(&self, key: &SigningKey, trust: &TrustDocument) -> Result<Vec<u8>, DocumentError> {
        self.check_issuer(key.verifying_key().key_id(), trust)?;
        seal(self, key)
    }

    /// Verifies signature and issuer against the newest trust document.
    ///
    /// # Errors
    /// Says what is wrong with it. [`DocumentError::UnknownIssuer`] may mean that the sender has a newer trust
    /// document: that one is to be asked for first.
    pub fn verify(bytes: &[u8], trust: &Verified<TrustDocument>) -> Result<Verified<Self>, DocumentError> {
        let head: Verified<Self> = open(bytes, &trust.network, |key_id, _| trust.issuer_key(key_id))?;
        head.check_issuer(head.signer(), trust)?;
        Ok(head)
    }

    fn check_issuer(&self, key_id: crate::KeyId, trust: &TrustDocument) -> Result<(), DocumentError> {
        let issuer = trust.issuer(key_id).ok_or(DocumentError::UnknownIssuer(key_id))?;
        Ok(issuer.limits.check_network(self.issued)?)
    }
}

impl Content for Head {
    const CONTENT_TYPE: &'static str = "application/vnd.tombolo.head+cbor";
    const MAX: usize = super::HEAD_MAX;
    const KNOWN: u64 = 8;

    fn network(&self) -> &NetworkId {
        &self.network
    }

    fn to_value(&self) -> Value {
        MapBuilder::default()
            .put(NETWORK, &self.network)
            .put(2, &self.trust_epoch)
            .put(3, &self.trust_hash)
            .put(4, &self.network_version)
            .put(5, &self.network_hash)
            .put(6, &self.network_size)
            .put(7, &self.issued)
            .build()
    }

    fn read(network: NetworkId, fields: &mut Fields) -> Result<Self, FieldError> {
        let head = Self {
            network,
            trust_epoch: fields.required(2, "trust_epoch")?,
            trust_hash: fields.required(3, "trust_hash")?,
            network_version: fields.required(4, "network_version")?,
            network_hash: fields.required(5, "network_hash")?,
            network_size: fields.required(6, "network_size")?,
            issued: fields.required(7, "issued")?,
        };
        if head.network_size == 0 || head.network_size as usize > NETWORK_MAX {
            return Err(FieldError::new("network_size", Problem::Range));
        }
        if head.network_version.epoch > head.trust_epoch {
            return Err(FieldError::new("network_version", Problem::Contradiction));
        }
        Ok(head)
    }
}
