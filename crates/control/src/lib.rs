//! The control plane without input and output: what is signed, what is believed, what is said in a tunnel.
//!
//! - [`document`]: trust document, network document, membership and head, as COSE_Sign1 over deterministic
//!   CBOR. A [`document::Verified`] can only be had by verifying.
//! - [`token`]: what a new node is given to join with, as text, and the proof it makes with it.
//! - [`verifier`]: what one node believes: the newest documents, who owns which address and name, what was
//!   revoked, and what time it is.
//! - [`frame`] and [`pull`]: what travels in a tunnel beside IP packets.
//!
//! The crate knows nothing of sockets, files and clocks: bytes, times and the generator are arguments. The
//! rules that it keeps are cited as "control rule 6".
//!
//! ```
//! use std::time::Duration;
//! use tombolo_control::document::{GroupLimit, Issuer, Limits, Roles, TrustDocument, DocumentError};
//! use tombolo_control::{Fingerprint, NetworkId, SigningKey};
//! use tombolo_noise::clock::UnixTime;
//!
//! let (root, next, issuer) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]), SigningKey::from_seed([3; 32]));
//! let network = NetworkId::derive(&root.verifying_key());
//! let day = |days: u64| UnixTime(Duration::from_secs(86_400 * days));
//! let limits = Limits {
//!     addresses: ["10.86.0.0/16".parse().unwrap()].into(),
//!     routes: Default::default(),
//!     groups: GroupLimit::Any,
//!     roles: Roles::ALL,
//!     lifetime: Duration::from_secs(14 * 86_400),
//!     expires: day(21_000),
//! };
//! let document = TrustDocument {
//!     network,
//!     epoch: 1,
//!     root: root.verifying_key(),
//!     next_root: next.verifying_key().fingerprint(),
//!     issued: day(20_000),
//!     issuers: vec![Issuer { key: issuer.verifying_key(), limits }],
//! };
//! let bytes = document.sign(&root)?;
//! let pinned: Fingerprint = root.verifying_key().fingerprint();
//! let verified = TrustDocument::verify(&bytes, &network, &[pinned])?;
//! assert_eq!(verified.epoch, 1);
//! # Ok::<(), DocumentError>(())
//! ```
#![forbid(unsafe_code)]

pub mod authority;
mod cbor;
mod cose;
pub mod document;
mod endpoint;
pub mod frame;
mod identity;
pub mod lighthouse;
mod limit;
mod name;
pub mod node;
pub mod path;
pub mod pull;
pub mod relay;
pub mod root;
mod signing;
#[cfg(test)]
mod test_support;
pub mod token;
pub mod verifier;

pub use cbor::{CborError, FieldError, Problem};
pub use endpoint::{EndpointError, HostEndpoint};
pub use identity::{DocumentHash, NetworkId, NodeId};
pub use name::{Domain, GroupName, NameError, NodeName};
pub use path::{Outgoing, Path};
pub use signing::{Fingerprint, KeyId, Signature, SigningKey, VerifyingKey};
