//! The trust document: who may issue (control rule 1).

use ciborium::Value;
use tombolo_noise::clock::UnixTime;

use super::{Content, DocumentError, Issuer, NETWORK, Verified, open, seal};
use crate::cbor::{FieldError, Fields, MapBuilder, Problem};
use crate::{Fingerprint, KeyId, NetworkId, SigningKey, VerifyingKey};

/// The one thing that the root key signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDocument {
    /// Which network.
    pub network: NetworkId,
    /// Its version, from 1. The newest outranks everything.
    pub epoch: u64,
    /// The root key that signs it.
    pub root: VerifyingKey,
    /// The root key that may sign after it: a promise, so that no taken root key can choose its own heir
    /// once a newer document is out.
    pub next_root: Fingerprint,
    /// When it was signed, in whole seconds.
    pub issued: UnixTime,
    /// Who may issue. An issuer that is not here is dead, with all that it signed.
    pub issuers: Vec<Issuer>,
}

/// They fit [`super::TRUST_MAX`] anyway.
const ISSUERS_MAX: usize = 16;

impl TrustDocument {
    /// Signs it with the root key.
    ///
    /// # Errors
    /// When `key` is not [`TrustDocument::root`] or a verifier would refuse the content: too large, say.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, DocumentError> {
        if key.verifying_key() != self.root {
            return Err(DocumentError::UnknownRoot(key.verifying_key().fingerprint()));
        }
        seal(self, key)
    }

    /// Verifies a document of `network` that is signed by one of the `roots`: the pinned one, or the one that the
    /// document held promises.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn verify(
        bytes: &[u8],
        network: &NetworkId,
        roots: &[Fingerprint],
    ) -> Result<Verified<Self>, DocumentError> {
        open(bytes, network, |_, fields| {
            let root: VerifyingKey = fields.required(ROOT, "root")?;
            let fingerprint = root.fingerprint();
            if !roots.contains(&fingerprint) {
                return Err(DocumentError::UnknownRoot(fingerprint));
            }
            fields.put_back(ROOT, &root);
            Ok(root)
        })
    }

    /// The issuer of this key id.
    pub fn issuer(&self, key_id: KeyId) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| issuer.key.key_id() == key_id)
    }

    pub(super) fn issuer_key(&self, key_id: KeyId) -> Result<VerifyingKey, DocumentError> {
        self.issuer(key_id).map(|issuer| issuer.key).ok_or(DocumentError::UnknownIssuer(key_id))
    }
}

const ROOT: u64 = 3;

impl Content for TrustDocument {
    const CONTENT_TYPE: &'static str = "application/vnd.tombolo.trust+cbor";
    const MAX: usize = super::TRUST_MAX;
    const KNOWN: u64 = 7;

    fn network(&self) -> &NetworkId {
        &self.network
    }

    fn to_value(&self) -> Value {
        let mut issuers: Vec<Issuer> = self.issuers.clone();
        issuers.sort_by_key(|issuer| issuer.key);
        MapBuilder::default()
            .put(NETWORK, &self.network)
            .put(2, &self.epoch)
            .put(ROOT, &self.root)
            .put(4, &self.next_root)
            .put(5, &self.issued)
            .put_list(6, &issuers)
            .build()
    }

    fn read(network: NetworkId, fields: &mut Fields) -> Result<Self, FieldError> {
        let document = Self {
            network,
            epoch: fields.required(2, "epoch")?,
            root: fields.required(ROOT, "root")?,
            next_root: fields.required(4, "next_root")?,
            issued: fields.required(5, "issued")?,
            issuers: fields.list(6, "issuers", ISSUERS_MAX)?,
        };
        if document.epoch == 0 {
            return Err(FieldError::new("epoch", Problem::Range));
        }
        if document.next_root == document.root.fingerprint() {
            return Err(FieldError::new("next_root", Problem::Contradiction));
        }
        if !document.issuers.is_sorted_by(|a, b| a.key < b.key) {
            return Err(FieldError::new("issuers", Problem::Order));
        }
        let mut key_ids: Vec<KeyId> = document.issuers.iter().map(|issuer| issuer.key.key_id()).collect();
        key_ids.sort_unstable();
        // The key id finds the key: two with one id would hide each other.
        if !key_ids.is_sorted_by(|a, b| a < b) {
            return Err(FieldError::new("issuers", Problem::Contradiction));
        }
        Ok(document)
    }
}
