//! Administration: over the local socket, and from members of an admin group through their tunnel (control
//! rule 22).
//!
//! Each request has an id that the asker chose, and is answered by one frame with that id. Lists come in pages, as
//! a frame has at most 1024 bytes: the next page begins behind the last item of the one before.

mod body;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::AdminRefusal;
use crate::document::{Roles, Route, Server, Version};
use crate::token::{Token, TokenError};
use crate::{Domain, Fingerprint, GroupName, HostEndpoint, KeyId, NetworkId, NodeId, NodeName};
use crate::{SigningKey, VerifyingKey};

pub(super) use body::{kind, read, write_answer, write_request};

/// Longest text of a refusal in bytes.
pub const DETAIL_MAX: usize = 400;

/// Most items in one page of a list.
pub const PAGE_MAX: usize = 64;

/// [`super::Frame::AdminRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminRequest {
    /// Chosen by the asker; the answer has it too.
    pub id: u64,
    /// What is to be done.
    pub operation: Operation,
}

/// [`super::Frame::AdminAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminAnswer {
    /// The request's.
    pub id: u64,
    /// What came of it.
    pub reply: Reply,
}

/// What an administrator may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Admits nodes by a token that the asker made: the authority sees its public key only.
    TokenNew(TokenSpec),
    /// Lists tokens, from behind this one on.
    TokenList(Option<KeyId>),
    /// Makes a token worthless.
    TokenRevoke(KeyId),
    /// Lists nodes by their names, from behind this one on.
    NodeList(Option<NodeName>),
    /// All about one node.
    NodeShow(NodeSelector),
    /// Makes a stock WireGuard peer a member (control rule 20).
    NodeAdd(NodeSpec),
    /// Admits, by a token, a new key in place of the node's (control rule 20).
    NodeReplace(NodeSelector, TokenSpec),
    /// Puts something out.
    NodeRevoke(RevokeTarget),
    /// Gives a node another name.
    NodeRename(NodeSelector, NodeName),
    /// Changes what a node may: groups, roles, routes.
    NodeSet(NodeSelector, NodeChange),
    /// What holds in the network.
    NetworkShow,
    /// Changes one thing that holds in the network.
    NetworkSet(NetworkChange),
}

impl Operation {
    /// Whether it changes nothing, so that it may be done as often as it comes.
    pub const fn only_asks(&self) -> bool {
        matches!(self, Self::TokenList(_) | Self::NodeList(_) | Self::NodeShow(_) | Self::NetworkShow)
    }
}

/// A node, by what people know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeSelector {
    /// By its name.
    Name(NodeName),
    /// By its id.
    Node(NodeId),
}

/// What is to be put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeTarget {
    /// A node, with all its keys.
    Node(NodeSelector),
    /// A static key.
    Key(PublicKey),
    /// A node's memberships up to and with this serial: it renews, and goes on.
    Serial(NodeId, u64),
}

/// What a token admits to. All but the key may be left at its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// The token's public key.
    pub key: VerifyingKey,
    /// For how long; one hour where it is not said.
    pub lifetime: Option<Duration>,
    /// How many nodes may join with it; one where it is not said.
    pub uses: Option<u32>,
    /// The name that the node gets; else the one that it wants.
    pub name: Option<NodeName>,
    /// Groups that the node gets.
    pub groups: BTreeSet<GroupName>,
    /// Routes that the node gets.
    pub routes: BTreeSet<IpNet>,
    /// Roles that the node gets.
    pub roles: Roles,
    /// The node is gone when nobody has seen it for so long.
    pub ephemeral: Option<Duration>,
    /// An admin group may be among the groups: nobody becomes an administrator by an oversight.
    pub admin: bool,
}

impl TokenSpec {
    /// A token for one node, for an hour, without groups and roles.
    pub fn new(key: VerifyingKey) -> Self {
        Self {
            key,
            lifetime: None,
            uses: None,
            name: None,
            groups: BTreeSet::new(),
            routes: BTreeSet::new(),
            roles: Roles::NONE,
            ephemeral: None,
            admin: false,
        }
    }
}

/// A stock WireGuard peer that is to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its public key.
    pub key: PublicKey,
    /// Its name.
    pub name: NodeName,
    /// Its groups.
    pub groups: BTreeSet<GroupName>,
    /// The gateway or lighthouse that presents it, and renews its membership; where none is said, the first server that may.
    pub presented_by: Option<NodeSelector>,
}

/// What is to be different about a node. What is put in and taken out at once is put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// Groups to put it into.
    pub add_groups: BTreeSet<GroupName>,
    /// Groups to take it out of.
    pub remove_groups: BTreeSet<GroupName>,
    /// Roles to give.
    pub add_roles: Roles,
    /// Roles to take.
    pub remove_roles: Roles,
    /// Routes to give.
    pub add_routes: BTreeSet<IpNet>,
    /// Routes to take.
    pub remove_routes: BTreeSet<IpNet>,
    /// An admin group may be among the groups to put it into.
    pub admin: bool,
}

/// One change of what holds in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkChange {
    /// A group that nodes may be in.
    AddGroup(GroupName),
    /// No group any more.
    RemoveGroup(GroupName),
    /// Members of this group administer the network.
    AddAdminGroup(GroupName),
    /// They do so no more.
    RemoveAdminGroup(GroupName),
    /// A subnet behind gateways; replaces the gateways of the same subnet.
    AddRoute(Route),
    /// No such subnet any more.
    RemoveRoute(IpNet),
    /// A lighthouse or relay; replaces the entry of the same node.
    AddServer(Server),
    /// None any more.
    RemoveServer(NodeId),
    /// Whether nodes refuse new peers while their document is stale.
    RefuseWhenStale(bool),
    /// How long memberships live, and for how long known peers go on without an authority.
    Lifetimes {
        /// From not-before to not-after.
        membership: Duration,
        /// After not-after.
        grace: Duration,
    },
    /// How old static keys get (control rule 17).
    RotateKeys(Duration),
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// It is done.
    Done,
    /// A token is good: with the key that the asker kept it becomes a [`Token`].
    Granted(TokenGrant),
    /// A page of tokens.
    Tokens(Page<TokenInfo>),
    /// A page of nodes.
    Nodes(Page<NodeInfo>),
    /// One node.
    Node(Box<NodeDetail>),
    /// What holds in the network.
    Network(Box<NetworkInfo>),
    /// It was not done.
    Refused {
        /// Why.
        reason: AdminRefusal,
        /// What is wrong, where, and how to mend it: at most [`DETAIL_MAX`] bytes.
        detail: String,
    },
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// What a token contains beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGrant {
    /// Which network.
    pub network: NetworkId,
    /// The server's static key.
    pub server_key: PublicKey,
    /// Fingerprint of the root key.
    pub root: Fingerprint,
    /// Where the server may be found.
    pub endpoints: Vec<HostEndpoint>,
    /// Until when the token is good.
    pub expires: UnixTime,
}

impl TokenGrant {
    /// The token, with the key whose public half was granted.
    ///
    /// # Errors
    /// When the server has no endpoint that a token may contain.
    pub fn into_token(self, key: SigningKey) -> Result<Token, TokenError> {
        Token::new(self.network, self.server_key, self.root, self.endpoints, key)
    }
}

/// A token in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Short form of its public key.
    pub id: KeyId,
    /// Until when it is good.
    pub expires: UnixTime,
    /// How many may still join with it.
    pub uses_left: u32,
    /// Who was the first to join with it.
    pub first_spender: Option<NodeId>,
    /// The name that it gives.
    pub name: Option<NodeName>,
    /// The node that it replaces.
    pub replaces: Option<NodeId>,
    /// Whether its nodes come and go.
    pub ephemeral: bool,
}

/// A node in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its overlay addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Its roles.
    pub roles: Roles,
    /// Until when its membership holds.
    pub not_after: UnixTime,
    /// When somebody last saw it; none since the authority's start.
    pub last_seen: Option<UnixTime>,
    /// Whether it is gone a while after it was last seen.
    pub ephemeral: bool,
}

/// All about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDetail {
    /// What a list has of it.
    pub info: NodeInfo,
    /// Its static key.
    pub key: PublicKey,
    /// Serial of its newest membership.
    pub serial: u64,
    /// Its groups.
    pub groups: BTreeSet<GroupName>,
    /// Its routes.
    pub routes: BTreeSet<IpNet>,
    /// When it joined.
    pub joined: UnixTime,
    /// The token that it joined with.
    pub token: Option<KeyId>,
    /// Who presents it: for stock WireGuard peers.
    pub presented_by: Option<NodeId>,
    /// Where it is found, if it is a server.
    pub endpoints: Vec<HostEndpoint>,
}

/// What holds in the network, in short; the whole is in the network document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInfo {
    /// Which network.
    pub network: NetworkId,
    /// Fingerprint of the root key.
    pub root: Fingerprint,
    /// Version of the network document.
    pub version: Version,
    /// Until when it is fresh.
    pub expires: UnixTime,
    /// The overlay's prefixes.
    pub cidrs: BTreeSet<IpNet>,
    /// The domain of the names.
    pub domain: Domain,
    /// How many nodes there are.
    pub nodes: u64,
    /// How many revocations the document has.
    pub revocations: u64,
    /// Groups whose members administer the network.
    pub admin_groups: BTreeSet<GroupName>,
    /// How long memberships live.
    pub lifetime: Duration,
    /// For how long known peers go on without an authority.
    pub grace: Duration,
    /// Whether nodes refuse new peers while their document is stale.
    pub refuse_when_stale: bool,
    /// Until when nothing is issued, while documents of nodes are gathered after a restore.
    pub recovering_until: Option<UnixTime>,
    /// Groups that nodes may be in: as many as have room.
    pub groups: BTreeSet<GroupName>,
    /// How old static keys get, where something else than the default was said.
    pub rotation: Option<Duration>,
}
