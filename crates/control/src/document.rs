//! Signed documents: who may issue, what holds in the network, who a key is, and what is newest.
//!
//! | document | signed by | at most |
//! |---|---|---|
//! | [`TrustDocument`] | the root key | [`TRUST_MAX`] bytes: it travels in one frame |
//! | [`NetworkDocument`] | an issuer with [`Roles::AUTHORITY`] | [`NETWORK_MAX`] bytes: it travels in blocks |
//! | [`Head`] | an issuer with [`Roles::AUTHORITY`] | [`HEAD_MAX`] bytes |
//! | [`Membership`] | an issuer, within its limits | [`MEMBERSHIP_MAX`] bytes |
//!
//! What was verified is a [`Verified`], and there is no other way to one. Whether a document is the newest, and
//! whether now is its time, is for [`crate::verifier`] to say.

mod head;
mod limits;
mod membership;
mod network;
mod roles;
mod trust;
mod version;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use ciborium::Value;

use crate::cbor::{self, CborError, FieldError, Fields, Problem};
use crate::cose::{self, CoseError, Envelope};
use crate::{DocumentHash, Fingerprint, KeyId, NetworkId, SigningKey, VerifyingKey};

pub use head::Head;
pub use limits::{GroupLimit, Issuer, LimitError, Limits};
pub use membership::{Membership, Validity};
pub use network::{NetworkDocument, Policy, Revocation, Route, Server};
pub use roles::Roles;
pub use trust::TrustDocument;
pub use version::Version;

/// Greatest length of a trust document in bytes: with its frame it fits into one message, so that a node needs
/// no pull, which would want a signature that it cannot check yet.
pub const TRUST_MAX: usize = 1000;

/// Greatest length of a network document in bytes.
pub const NETWORK_MAX: usize = 256 * 1024;

/// Greatest length of a membership in bytes.
pub const MEMBERSHIP_MAX: usize = 600;

/// Greatest length of a head in bytes.
pub const HEAD_MAX: usize = 320;

/// Why a document is refused. The one that is held stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not in the one encoding, or too large.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Not a COSE_Sign1 of the one form.
    #[error("not a signed document of the form that is used here")]
    Form,
    /// A document of another type.
    #[error("a document of another type")]
    ContentType,
    /// A document of another network.
    #[error("a document of another network, {0}")]
    Network(NetworkId),
    /// The root key is neither the pinned one nor the promised next one.
    #[error("signed by a root key that is not the network's: {0}")]
    UnknownRoot(Fingerprint),
    /// The newest trust document does not name this issuer: it is dead, with all that it signed.
    #[error("signed by {0}, which is no issuer of this network (any more)")]
    UnknownIssuer(KeyId),
    /// The signature does not hold.
    #[error("the signature does not hold")]
    Signature,
    /// A field is missing, malformed or out of its bounds.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A field marked critical that this version does not know: a newer version is needed.
    #[error("field {0} must be understood, and this version does not know it")]
    Critical(u64),
    /// The issuer may not sign this.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// There are more revocations than a network document holds.
    #[error(
        "the network document holds {most} revocations, and {0} are needed: each goes when all that it voids has expired, which is sooner with \
         a shorter --lifetime and --grace (tombolo network set)",
        most = NetworkDocument::REVOCATIONS_MAX
    )]
    Revocations(usize),
}

impl DocumentError {
    /// Whether it is well signed, and says what this version does not know and may not pass over (control rule 6).
    pub fn is_not_understood(&self) -> bool {
        match self {
            Self::Critical(_) => true,
            Self::Field(error) => error.problem == Problem::UnknownField,
            _ => false,
        }
    }

    /// Whether no issuer of the network has ever signed it, whatever the trust document said then.
    pub(crate) fn is_made_up(&self) -> bool {
        match self {
            Self::Cbor(_) | Self::Form | Self::ContentType | Self::Network(_) | Self::Signature => true,
            Self::Field(_) => !self.is_not_understood(),
            Self::UnknownRoot(_)
            | Self::UnknownIssuer(_)
            | Self::Critical(_)
            | Self::Limit(_)
            | Self::Revocations(_) => false,
        }
    }
}

impl From<CoseError> for DocumentError {
    fn from(error: CoseError) -> Self {
        match error {
            CoseError::Cbor(error) => Self::Cbor(error),
            CoseError::Form => Self::Form,
            CoseError::ContentType => Self::ContentType,
        }
    }
}

/// A document whose signature held and whose content is within bounds.
pub struct Verified<T> {
    document: T,
    encoded: Arc<[u8]>,
    hash: DocumentHash,
    signer: KeyId,
}

impl<T> Verified<T> {
    fn new(document: T, encoded: &[u8], signer: KeyId) -> Self {
        Self { document, encoded: encoded.into(), hash: DocumentHash::of(encoded), signer }
    }

    /// The document as it was signed, to be shown to others.
    pub fn encoded(&self) -> &Arc<[u8]> {
        &self.encoded
    }

    /// The hash of all its bytes.
    pub fn hash(&self) -> DocumentHash {
        self.hash
    }

    /// Who signed it.
    pub fn signer(&self) -> KeyId {
        self.signer
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.document
    }
}

impl<T: Clone> Clone for Verified<T> {
    fn clone(&self) -> Self {
        Self { document: self.document.clone(), encoded: Arc::clone(&self.encoded), ..*self }
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Verified");
        shown.field("document", &self.document).field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl<T> PartialEq for Verified<T> {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl<T> Eq for Verified<T> {}

/// Field 0 of each document: the fields that must be understood.
const CRITICAL: u64 = 0;

/// Field 1 of each document.
const NETWORK: u64 = 1;

/// A type of document: how its content stands in its fields.
trait Content: Sized {
    const CONTENT_TYPE: &'static str;
    const MAX: usize;
    /// Fields below this are known to this version, and need not be marked critical.
    const KNOWN: u64;

    fn network(&self) -> &NetworkId;
    fn to_value(&self) -> Value;
    fn read(network: NetworkId, fields: &mut Fields) -> Result<Self, FieldError>;
}

/// Reads, then verifies, then believes: `key` finds the signer's key by the key id and by fields which
/// nobody has vouched for yet.
fn open<T: Content>(
    bytes: &[u8],
    network: &NetworkId,
    key: impl FnOnce(KeyId, &mut Fields) -> Result<VerifyingKey, DocumentError>,
) -> Result<Verified<T>, DocumentError> {
    let envelope = Envelope::parse(bytes, T::CONTENT_TYPE, T::MAX)?;
    let mut fields = Fields::from_value(cbor::decode(&envelope.payload, T::MAX)?, "document")?;
    let found: NetworkId = fields.required(NETWORK, "network")?;
    if found != *network {
        return Err(DocumentError::Network(found));
    }
    let key = key(envelope.key_id, &mut fields)?;
    if !envelope.verify(network, &key) {
        return Err(DocumentError::Signature);
    }
    check_critical::<T>(&mut fields)?;
    Ok(Verified::new(T::read(found, &mut fields)?, bytes, envelope.key_id))
}

/// This version knows no field that came later than its own, so that whatever is marked is unknown.
fn check_critical<T: Content>(fields: &mut Fields) -> Result<(), DocumentError> {
    let critical = fields.set::<u64>(CRITICAL, "crit", 16)?;
    if let Some(&known) = critical.first()
        && known < T::KNOWN
    {
        return Err(FieldError::new("crit", Problem::Contradiction).into());
    }
    match critical.into_iter().next() {
        Some(key) if fields.unknown().any(|present| present == key) => Err(DocumentError::Critical(key)),
        Some(_) => Err(FieldError::new("crit", Problem::Contradiction).into()),
        None => Ok(()),
    }
}

/// Signs, unless a verifier would refuse the content.
fn seal<T: Content>(document: &T, key: &SigningKey) -> Result<Vec<u8>, DocumentError> {
    let value = document.to_value();
    let mut fields = Fields::from_value(value.clone(), "document")?;
    let network = fields.required(NETWORK, "network")?;
    T::read(network, &mut fields)?;
    let bytes = cose::sign(T::CONTENT_TYPE, document.network(), key, cbor::encode(&value));
    if bytes.len() > T::MAX {
        return Err(CborError::TooLarge { length: bytes.len(), limit: T::MAX }.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
