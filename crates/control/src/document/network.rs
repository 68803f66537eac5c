//! The network document: what holds for all members (control rule 2).

use std::collections::BTreeSet;
use std::time::Duration;

use ciborium::Value;
use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::{
    Content, DocumentError, LimitError, NETWORK, Roles, TrustDocument, Verified, Version, open, seal,
};
use crate::cbor::{FieldError, Fields, Item, MapBuilder, Problem, choice, encode_set, end, next, strict_set};
use crate::{DocumentHash, Domain, GroupName, HostEndpoint, NetworkId, NodeId, SigningKey};

/// What holds in the network. Signed anew every hour, so that withholding it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDocument {
    /// Which network.
    pub network: NetworkId,
    /// Greater with each issue.
    pub version: Version,
    /// When it was signed, in whole seconds.
    pub issued: UnixTime,
    /// From when on it is stale, in whole seconds.
    pub expires: UnixTime,
    /// The overlay's prefixes: one to four. Nodes go by those that they pinned at their join.
    pub cidrs: BTreeSet<IpNet>,
    /// The domain of the names. Nodes go by the one that they pinned at their join.
    pub domain: Domain,
    /// The groups there are.
    pub groups: BTreeSet<GroupName>,
    /// Who may talk to whom.
    pub policy: Policy,
    /// Subnets behind gateways.
    pub routes: BTreeSet<Route>,
    /// Lighthouses and relays.
    pub servers: Vec<Server>,
    /// What is void before its time.
    pub revocations: BTreeSet<Revocation>,
    /// Head of the audit log's hash chain; none before its first entry.
    pub audit_head: Option<DocumentHash>,
    /// Whether nodes refuse new peers while their document is stale.
    pub refuse_when_stale: bool,
    /// How old static keys get, where something else than [`NetworkDocument::ROTATION`] was said (control rule 17).
    pub rotation: Option<Duration>,
}

/// Who may talk to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// Every member to every member.
    #[default]
    AllMembers,
}

impl Policy {
    /// Whether two members may talk to each other.
    pub fn allows(&self, _one: &super::Membership, _other: &super::Membership) -> bool {
        match self {
            Self::AllMembers => true,
        }
    }
}

/// A subnet behind gateways.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The subnet; never a default route.
    pub prefix: IpNet,
    /// Who routes it: one to eight.
    pub gateways: BTreeSet<NodeId>,
}

/// A lighthouse, a relay, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its node id.
    pub node: NodeId,
    /// Its static key.
    pub key: PublicKey,
    /// What it does.
    pub roles: Roles,
    /// Where it is: one to eight, in the order in which to try them.
    pub endpoints: Vec<HostEndpoint>,
}

/// Something that is void before its time. It may go from the document once all that it voids has expired.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revocation {
    /// A node, with all its keys and memberships.
    Node(NodeId),
    /// A static key.
    Key(PublicKey),
    /// The node's memberships up to and with this serial.
    Serial(NodeId, u64),
}

impl NetworkDocument {
    /// Most revocations: with all else they stay below [`super::NETWORK_MAX`].
    pub const REVOCATIONS_MAX: usize = 5000;

    /// How old static keys get where nothing else is said: 30 days.
    pub const ROTATION: Duration = Duration::from_secs(30 * 86_400);

    /// Shortest and longest of what may be said instead.
    pub const ROTATION_BOUNDS: (Duration, Duration) =
        (Duration::from_secs(3600), Duration::from_secs(3650 * 86_400));

    /// How old static keys get.
    pub fn rotation(&self) -> Duration {
        self.rotation.unwrap_or(Self::ROTATION)
    }

    /// How old a node's own key gets, which may be changed sooner and not later.
    pub fn rotation_of(&self, sooner: Option<Duration>) -> Duration {
        sooner.map_or(self.rotation(), |sooner| sooner.min(self.rotation()))
    }

    /// Signs it.
    ///
    /// # Errors
    /// When `key` is no issuer in `trust` that may, and when a verifier would refuse the content.
    pub fn sign(&self, key: &SigningKey, trust: &TrustDocument) -> Result<Vec<u8>, DocumentError> {
        self.check_issuer(key.verifying_key().key_id(), trust)?;
        seal(self, key)
    }

    /// Verifies signature and issuer against the newest trust document. Says nothing of time and of whether it is
    /// the newest.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn verify(bytes: &[u8], trust: &Verified<TrustDocument>) -> Result<Verified<Self>, DocumentError> {
        let document: Verified<Self> = open(bytes, &trust.network, |key_id, _| trust.issuer_key(key_id))?;
        document.check_issuer(document.signer(), trust)?;
        Ok(document)
    }

    fn check_issuer(&self, key_id: crate::KeyId, trust: &TrustDocument) -> Result<(), DocumentError> {
        let issuer = trust.issuer(key_id).ok_or(DocumentError::UnknownIssuer(key_id))?;
        issuer.limits.check_network(self.expires)?;
        // An issuer that could name an epoch to come would outrank all its successors.
        if self.version.epoch > trust.epoch {
            return Err(LimitError::Epoch { epoch: self.version.epoch, held: trust.epoch }.into());
        }
        Ok(())
    }

    /// Whether the document is older than it should be.
    pub fn is_stale(&self, now: UnixTime) -> bool {
        now >= self.expires
    }

    /// Whether a membership of this node, key and serial is void.
    pub fn revokes(&self, node: &NodeId, key: &PublicKey, serial: u64) -> bool {
        let serials = Revocation::Serial(*node, serial)..=Revocation::Serial(*node, u64::MAX);
        self.revocations.contains(&Revocation::Node(*node))
            || self.revocations.contains(&Revocation::Key(*key))
            || self.revocations.range(serials).next().is_some()
    }
}

impl Content for NetworkDocument {
    const CONTENT_TYPE: &'static str = "application/vnd.tombolo.network+cbor";
    const MAX: usize = super::NETWORK_MAX;
    const KNOWN: u64 = 15;

    fn network(&self) -> &NetworkId {
        &self.network
    }

    fn to_value(&self) -> Value {
        let mut servers = self.servers.clone();
        servers.sort_by_key(|server| server.node);
        MapBuilder::default()
            .put(NETWORK, &self.network)
            .put(2, &self.version)
            .put(3, &self.issued)
            .put(4, &self.expires)
            .put_set(5, &self.cidrs)
            .put(6, &self.domain)
            .put_set(7, &self.groups)
            .put(8, &self.policy)
            .put_set(9, &self.routes)
            .put_list(10, &servers)
            .put_set(11, &self.revocations)
            .put_some(12, self.audit_head.as_ref())
            .put(13, &self.refuse_when_stale)
            .put_some(14, self.rotation.as_ref())
            .build()
    }

    fn read(network: NetworkId, fields: &mut Fields) -> Result<Self, FieldError> {
        let document = Self {
            network,
            version: fields.required(2, "version")?,
            issued: fields.required(3, "issued")?,
            expires: fields.required(4, "expires")?,
            cidrs: fields.set(5, "cidrs", 4)?,
            domain: fields.required(6, "domain")?,
            groups: fields.set(7, "groups", 1024)?,
            policy: fields.required(8, "policy")?,
            routes: fields.set(9, "routes", 1024)?,
            servers: fields.list(10, "servers", 64)?,
            revocations: fields.set(11, "revocations", Self::REVOCATIONS_MAX)?,
            audit_head: fields.optional(12, "audit_head")?,
            refuse_when_stale: fields.required(13, "refuse_when_stale")?,
            rotation: fields.optional(14, "rotation")?,
        };
        if document.version.epoch == 0 {
            return Err(FieldError::new("version", Problem::Range));
        }
        let (shortest, longest) = Self::ROTATION_BOUNDS;
        if document.rotation.is_some_and(|rotation| rotation < shortest || rotation > longest) {
            return Err(FieldError::new("rotation", Problem::Range));
        }
        if document.issued >= document.expires {
            return Err(FieldError::new("expires", Problem::Contradiction));
        }
        if document.cidrs.is_empty() {
            return Err(FieldError::new("cidrs", Problem::Missing));
        }
        if document.cidrs.iter().any(|cidr| cidr.prefix_len() == 0) {
            return Err(FieldError::new("cidrs", Problem::Range));
        }
        if !document.servers.is_sorted_by(|a, b| a.node < b.node) {
            return Err(FieldError::new("servers", Problem::Order));
        }
        Ok(document)
    }
}

/// A map, whose unknown fields refuse the document: a rule that is not understood is not obeyed by half
/// (control rule 6).
impl Item for Policy {
    fn to_value(&self) -> Value {
        match self {
            Self::AllMembers => MapBuilder::default().put(1, &0_u64).build(),
        }
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let mut fields = Fields::from_value(value, "policy").map_err(|error| error.problem)?;
        let default: u64 = fields.required(1, "policy.default").map_err(|error| error.problem)?;
        fields.finish("policy").map_err(|error| error.problem)?;
        if default == 0 { Ok(Self::AllMembers) } else { Err(Problem::UnknownField) }
    }
}

impl Item for Route {
    fn to_value(&self) -> Value {
        Value::Array(vec![self.prefix.to_value(), encode_set(&self.gateways)])
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let parts = value.into_array().map_err(|_| Problem::WrongType)?;
        let [prefix, gateways] = <[Value; 2]>::try_from(parts).map_err(|_| Problem::WrongType)?;
        let prefix = IpNet::from_value(prefix)?;
        if prefix.prefix_len() == 0 {
            return Err(Problem::Range);
        }
        Ok(Self { prefix, gateways: strict_set(gateways, 8)? })
    }
}

impl Server {
    fn read(value: Value) -> Result<Self, FieldError> {
        let mut fields = Fields::from_value(value, "server")?;
        let server = Self {
            node: fields.required(1, "server.node")?,
            key: fields.required(2, "server.key")?,
            roles: fields.required(3, "server.roles")?,
            endpoints: fields.list(4, "server.endpoints", 8)?,
        };
        fields.finish("server")?;
        if server.endpoints.is_empty() {
            return Err(FieldError::new("server.endpoints", Problem::Missing));
        }
        Ok(server)
    }
}

impl Item for Server {
    fn to_value(&self) -> Value {
        MapBuilder::default()
            .put(1, &self.node)
            .put(2, &self.key)
            .put(3, &self.roles)
            .put_list(4, &self.endpoints)
            .build()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        Self::read(value).map_err(|error| error.problem)
    }
}

impl Item for Revocation {
    fn to_value(&self) -> Value {
        Value::Array(match self {
            Self::Node(node) => vec![0_u64.to_value(), node.to_value()],
            Self::Key(key) => vec![1_u64.to_value(), key.to_value()],
            Self::Serial(node, serial) => vec![2_u64.to_value(), node.to_value(), serial.to_value()],
        })
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let (kind, mut parts) = choice(value)?;
        let revocation = match kind {
            0 => Self::Node(next(&mut parts)?),
            // To revoke what is no key harms nobody, and is not worth an X25519 each.
            1 => Self::Key(PublicKey::from_bytes(next(&mut parts)?)),
            2 => Self::Serial(next(&mut parts)?, next(&mut parts)?),
            _ => return Err(Problem::UnknownField),
        };
        end(parts, revocation)
    }
}
