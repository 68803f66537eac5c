//! Issuers, and what each may sign (control rule 1).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ciborium::Value;
use ipnet::IpNet;
use tombolo_noise::clock::UnixTime;

use super::{Membership, Roles};
use crate::cbor::{FieldError, Fields, Item, MapBuilder, Problem, encode_set, strict_set};
use crate::{GroupName, VerifyingKey};

/// A key that signs memberships, and network documents where it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Its public key.
    pub key: VerifyingKey,
    /// What it may sign.
    pub limits: Limits,
}

/// What an issuer may sign. An issuer that is taken over can do this much, until the root drops it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Each address of a membership lies in one of these.
    pub addresses: BTreeSet<IpNet>,
    /// Each route of a membership lies in one of these.
    pub routes: BTreeSet<IpNet>,
    /// Groups that it may put nodes into.
    pub groups: GroupLimit,
    /// Roles that it may give. With [`Roles::AUTHORITY`] it may sign network documents.
    pub roles: Roles,
    /// Longest time from a membership's not-before to its not-after.
    pub lifetime: Duration,
    /// Nothing that it signs holds longer than this, and nothing new by it is taken later.
    pub expires: UnixTime,
}

/// Which groups an issuer may put nodes into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupLimit {
    /// All.
    Any,
    /// These; possibly none.
    Only(BTreeSet<GroupName>),
}

/// What an issuer signed and may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// An address out of its prefixes.
    #[error("the issuer may not give the address {0}")]
    Address(IpAddr),
    /// A route out of its prefixes.
    #[error("the issuer may not give the route {0}")]
    Route(IpNet),
    /// A group that is not among its own.
    #[error("the issuer may not put a node into the group {0}")]
    Group(GroupName),
    /// A role that it may not give.
    #[error("the issuer may not give these roles: {0}")]
    Roles(Roles),
    /// A life longer than it may give.
    #[error("the issuer may not give a life of {0:?}")]
    Lifetime(Duration),
    /// It would hold longer than its issuer.
    #[error("it would hold longer than its issuer")]
    Expiry,
    /// Issued under an epoch that the trust document held has not reached.
    #[error(
        "issued under epoch {epoch}, and the trust document held is of epoch {held}: a newer one is to be had first"
    )]
    Epoch {
        /// Epoch of the document.
        epoch: u64,
        /// Epoch of the trust document held.
        held: u64,
    },
    /// A network document by an issuer of memberships only.
    #[error("the issuer may not sign network documents")]
    NetworkDocument,
}

/// Prefixes and groups of one issuer.
const SET_MAX: usize = 32;

impl Limits {
    /// Whether a membership is within the limits.
    ///
    /// # Errors
    /// Names the first thing that is not.
    pub fn check_membership(&self, membership: &Membership) -> Result<(), LimitError> {
        if let Some(&address) =
            membership.addresses.iter().find(|address| !covers(&self.addresses, **address))
        {
            return Err(LimitError::Address(address));
        }
        let route_allowed = |route: &&IpNet| self.routes.iter().any(|allowed| allowed.contains(*route));
        if let Some(&route) = membership.routes.iter().find(|route| !route_allowed(route)) {
            return Err(LimitError::Route(route));
        }
        if let GroupLimit::Only(allowed) = &self.groups
            && let Some(group) = membership.groups.difference(allowed).next()
        {
            return Err(LimitError::Group(group.clone()));
        }
        if !self.roles.contains(membership.roles) {
            return Err(LimitError::Roles(membership.roles));
        }
        let lifetime = membership.lifetime();
        if lifetime > self.lifetime {
            return Err(LimitError::Lifetime(lifetime));
        }
        if membership.not_after > self.expires { Err(LimitError::Expiry) } else { Ok(()) }
    }

    /// Whether a network document, or a head, may be signed that says to hold until `end`. So an issuer's last
    /// document is stale when the issuer has expired.
    ///
    /// # Errors
    /// [`LimitError::NetworkDocument`] or [`LimitError::Expiry`].
    pub fn check_network(&self, end: UnixTime) -> Result<(), LimitError> {
        if !self.roles.contains(Roles::AUTHORITY) {
            return Err(LimitError::NetworkDocument);
        }
        if end > self.expires { Err(LimitError::Expiry) } else { Ok(()) }
    }
}

/// Whether an address lies in one of the prefixes.
pub(crate) fn covers(prefixes: &BTreeSet<IpNet>, address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

/// Written as `true` for any, as a list, or left out for none.
impl GroupLimit {
    fn to_value(&self) -> Option<Value> {
        match self {
            Self::Any => Some(Value::Bool(true)),
            Self::Only(groups) if groups.is_empty() => None,
            Self::Only(groups) => Some(encode_set(groups)),
        }
    }
}

impl Item for GroupLimit {
    fn to_value(&self) -> Value {
        self.to_value().unwrap_or(Value::Null)
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        match value {
            Value::Bool(true) => Ok(Self::Any),
            list => strict_set(list, SET_MAX).map(Self::Only),
        }
    }
}

impl Issuer {
    fn read(value: Value) -> Result<Self, FieldError> {
        let mut fields = Fields::from_value(value, "issuer")?;
        let issuer = Self {
            key: fields.required(1, "issuer.key")?,
            limits: Limits {
                addresses: fields.set(2, "issuer.addresses", SET_MAX)?,
                routes: fields.set(3, "issuer.routes", SET_MAX)?,
                groups: fields.optional(4, "issuer.groups")?.unwrap_or(GroupLimit::Only(BTreeSet::new())),
                roles: fields.required(5, "issuer.roles")?,
                lifetime: fields.required(6, "issuer.lifetime")?,
                expires: fields.required(7, "issuer.expires")?,
            },
        };
        fields.finish("issuer")?;
        Ok(issuer)
    }
}

impl Item for Issuer {
    fn to_value(&self) -> Value {
        let limits = &self.limits;
        let fields =
            MapBuilder::default().put(1, &self.key).put_set(2, &limits.addresses).put_set(3, &limits.routes);
        let fields = match limits.groups.to_value() {
            Some(groups) => fields.put_value(4, groups),
            None => fields,
        };
        fields.put(5, &limits.roles).put(6, &limits.lifetime).put(7, &limits.expires).build()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        Self::read(value).map_err(|error| error.problem)
    }
}
