//! What an authority keeps: records under keys, as any store with compare-and-set can hold them.

mod codec;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use crate::cbor::{CborError, FieldError};
use crate::document::{Revocation, Roles, Route, Server};
use crate::{Domain, Fingerprint, GroupName, KeyId, NetworkId, NodeId, NodeName, VerifyingKey};

/// Where a record is. Each thing that has one owner is a key of its own, so that a condition on it is all that
/// uniqueness needs (control rule 4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// [`Settings`].
    Settings,
    /// The trust document.
    Trust,
    /// [`Published`].
    Published,
    /// [`NodeRecord`].
    Node(NodeId),
    /// [`Claim`] to a name.
    Name(NodeName),
    /// [`Claim`] to an address.
    Address(IpAddr),
    /// [`Claim`] to a static key.
    StaticKey(PublicKey),
    /// [`TokenRecord`].
    Token(KeyId),
    /// Until when a revocation stays in the network document.
    Revoked(Revocation),
}

/// What is kept under a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Of [`Key::Settings`].
    Settings(Box<Settings>),
    /// Of [`Key::Trust`]: the document, signed.
    Trust(Vec<u8>),
    /// Of [`Key::Published`].
    Published(Published),
    /// Of [`Key::Node`].
    Node(Box<NodeRecord>),
    /// Of [`Key::Name`], [`Key::Address`] and [`Key::StaticKey`].
    Claim(Claim),
    /// Of [`Key::Token`].
    Token(Box<TokenRecord>),
    /// Of [`Key::Revoked`]: all that it voids has expired then.
    Revoked(UnixTime),
}

/// What holds in the network, and how long things live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which network.
    pub network: NetworkId,
    /// The overlay's prefixes: each node has an address in each.
    pub cidrs: BTreeSet<IpNet>,
    /// The domain of the names.
    pub domain: Domain,
    /// The groups there are.
    pub groups: BTreeSet<GroupName>,
    /// Groups whose members administer the network.
    pub admin_groups: BTreeSet<GroupName>,
    /// Subnets behind gateways.
    pub routes: BTreeSet<Route>,
    /// Servers. Tokens lead to the first one that has [`Roles::AUTHORITY`].
    pub servers: Vec<Server>,
    /// Whether nodes refuse new peers while their document is stale.
    pub refuse_when_stale: bool,
    /// How long memberships live.
    pub lifetime: Duration,
    /// For how long known peers go on without an authority.
    pub grace: Duration,
    /// How old static keys get, where something else than the default was said.
    pub rotation: Option<Duration>,
    /// After a restore: nothing is issued before this time (control rule 21).
    pub recovering_until: Option<UnixTime>,
    /// Fingerprint of the root key that is pinned.
    pub root: Fingerprint,
    /// After a restore: memberships from then on have at least this serial, more than any that was given before and
    /// forgotten; those with a lesser one are from before. 0 where nothing was ever restored.
    pub serial_floor: u64,
}

impl Settings {
    /// 14 days (control rule 16).
    pub const LIFETIME: Duration = Duration::from_secs(14 * 86_400);
    /// 30 days (control rule 16).
    pub const GRACE: Duration = Duration::from_secs(30 * 86_400);
}

/// The newest documents, signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The network document.
    pub network: Vec<u8>,
    /// The head; none for a document that nodes gave back after a restore.
    pub head: Option<Vec<u8>>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Its static key.
    pub key: PublicKey,
    /// The key before, and when it is revoked (control rule 17).
    pub former_key: Option<(PublicKey, UnixTime)>,
    /// Its groups.
    pub groups: BTreeSet<GroupName>,
    /// Its routes.
    pub routes: BTreeSet<IpNet>,
    /// Its roles.
    pub roles: Roles,
    /// Serial of its newest membership.
    pub serial: u64,
    /// The newest membership, signed.
    pub membership: Vec<u8>,
    /// Until when it holds.
    pub not_after: UnixTime,
    /// With grace and skew: from when on nobody takes any of its memberships.
    pub released_at: UnixTime,
    /// When it joined.
    pub joined: UnixTime,
    /// The token that it joined with.
    pub token: Option<KeyId>,
    /// Gone when unseen for so long.
    pub ephemeral: Option<Duration>,
    /// Who presents it: for stock WireGuard peers.
    pub presented_by: Option<NodeId>,
}

/// Who owns a name, an address or a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The owner.
    pub node: NodeId,
    /// Until when it is kept after its owner has it no more; none while the owner has it.
    pub until: Option<UnixTime>,
    /// A key that was revoked: it joins no more.
    pub burned: bool,
}

impl Claim {
    pub(super) const fn of(node: NodeId) -> Self {
        Self { node, until: None, burned: false }
    }
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public key; nobody but its holder has the other half.
    pub key: VerifyingKey,
    /// Until when it is good.
    pub expires: UnixTime,
    /// How many may still join with it.
    pub uses_left: u32,
    /// Who was the first to join with it: node and key.
    pub first_spender: Option<(NodeId, PublicKey)>,
    /// The name that it gives.
    pub name: Option<NodeName>,
    /// Groups that it gives.
    pub groups: BTreeSet<GroupName>,
    /// Routes that it gives.
    pub routes: BTreeSet<IpNet>,
    /// Roles that it gives.
    pub roles: Roles,
    /// Its nodes are gone when unseen for so long.
    pub ephemeral: Option<Duration>,
    /// The node whose place is taken with it (control rule 20).
    pub replaces: Option<NodeId>,
}

/// A record that cannot be read: the register is damaged, or of a version to come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The key is of no known kind.
    #[error(
        "the register has a key of an unknown kind: it is damaged, or of a newer version; restore a backup or upgrade"
    )]
    Key,
    /// The record is not in the deterministic encoding.
    #[error("a record of the register is damaged: {0}; restore a backup")]
    Cbor(#[from] CborError),
    /// A field is missing or malformed.
    #[error("a record of the register is damaged: {0}; restore a backup")]
    Field(#[from] FieldError),
    /// A record that must be there is not.
    #[error("the register has no {0}: it was never set up, or is damaged; restore a backup")]
    Missing(&'static str),
    /// A document that it has does not verify.
    #[error("a document in the register does not verify: {0}; restore a backup")]
    Document(#[from] crate::document::DocumentError),
}
