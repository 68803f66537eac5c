//! The membership: who a key is (control rule 3).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ciborium::Value;
use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::{Content, DocumentError, NETWORK, Roles, TrustDocument, Verified, Version, open, seal};
use crate::cbor::{FieldError, Fields, MapBuilder, Problem};
use crate::{GroupName, NetworkId, NodeId, NodeName, SigningKey};

/// A signed, short-lived statement: this key is this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Which network.
    pub network: NetworkId,
    /// Which node; never used twice.
    pub node: NodeId,
    /// Greater with each membership of the node, from 1.
    pub serial: u64,
    /// The node's static key: the handshake's, and no other.
    pub key: PublicKey,
    /// Its name in the network's domain.
    pub name: NodeName,
    /// Its overlay addresses: one to four.
    pub addresses: BTreeSet<IpAddr>,
    /// Its groups: at most 16.
    pub groups: BTreeSet<GroupName>,
    /// Subnets behind it: at most 16, never a default route.
    pub routes: BTreeSet<IpNet>,
    /// What it does for others.
    pub roles: Roles,
    /// From when, in whole seconds.
    pub not_before: UnixTime,
    /// Until when, in whole seconds.
    pub not_after: UnixTime,
    /// How much longer known peers go on with it while no authority is to be had; zero for sessions of people.
    pub grace: Duration,
    /// The network document at the time of issue. A verifier holds at least this before it accepts.
    pub network_version: Version,
    /// Of a stock WireGuard peer: the node that it is reached through, which alone has a tunnel with its key (control rule
    /// 20).
    pub presenter: Option<NodeId>,
}

/// How a membership stands to a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It begins later, by this much more than the clocks may differ.
    NotYet(Duration),
    /// It holds.
    Valid,
    /// It has expired, but known peers may go on while no authority is to be had.
    Grace,
    /// It has expired for good.
    Expired,
}

impl Membership {
    /// Longest grace that is accepted: 90 days.
    pub const GRACE_MAX: Duration = Duration::from_secs(90 * 86_400);

    /// Signs it.
    ///
    /// # Errors
    /// When `key` is no issuer in `trust`, when the membership is beyond its limits, and when a verifier would
    /// refuse the content: too large, say.
    pub fn sign(&self, key: &SigningKey, trust: &TrustDocument) -> Result<Vec<u8>, DocumentError> {
        let key_id = key.verifying_key().key_id();
        let issuer = trust.issuer(key_id).ok_or(DocumentError::UnknownIssuer(key_id))?;
        issuer.limits.check_membership(self)?;
        seal(self, key)
    }

    /// Verifies signature, issuer and the issuer's limits against the newest trust document. Says nothing of
    /// time, revocation and ownership.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn verify(bytes: &[u8], trust: &Verified<TrustDocument>) -> Result<Verified<Self>, DocumentError> {
        let membership: Verified<Self> = open(bytes, &trust.network, |key_id, _| trust.issuer_key(key_id))?;
        let key_id = membership.signer();
        let issuer = trust.issuer(key_id).ok_or(DocumentError::UnknownIssuer(key_id))?;
        issuer.limits.check_membership(&membership)?;
        Ok(membership)
    }

    /// From not-before to not-after.
    pub fn lifetime(&self) -> Duration {
        self.not_after.0.saturating_sub(self.not_before.0)
    }

    /// How it stands at `now`, where clocks may differ by `skew`: early by so much it is taken already.
    pub fn validity(&self, now: UnixTime, skew: Duration) -> Validity {
        if let Some(early) = self.not_before.0.checked_sub(now.0.saturating_add(skew))
            && !early.is_zero()
        {
            Validity::NotYet(early)
        } else if now < self.not_after {
            Validity::Valid
        } else if now.0 < self.not_after.0.saturating_add(self.grace) {
            Validity::Grace
        } else {
            Validity::Expired
        }
    }

    /// From when on nobody holds this membership's addresses and name for its node any more: expiry, grace and
    /// skew (control rule 4).
    pub fn released_at(&self, skew: Duration) -> UnixTime {
        UnixTime(self.not_after.0.saturating_add(self.grace).saturating_add(skew))
    }
}

impl Content for Membership {
    const CONTENT_TYPE: &'static str = "application/vnd.tombolo.membership+cbor";
    const MAX: usize = super::MEMBERSHIP_MAX;
    const KNOWN: u64 = 15;

    fn network(&self) -> &NetworkId {
        &self.network
    }

    fn to_value(&self) -> Value {
        MapBuilder::default()
            .put(NETWORK, &self.network)
            .put(2, &self.node)
            .put(3, &self.serial)
            .put(4, &self.key)
            .put(5, &self.name)
            .put_set(6, &self.addresses)
            .put_set(7, &self.groups)
            .put_set(8, &self.routes)
            .put(9, &self.roles)
            .put(10, &self.not_before)
            .put(11, &self.not_after)
            .put(12, &self.grace)
            .put(13, &self.network_version)
            .put_some(14, self.presenter.as_ref())
            .build()
    }

    fn read(network: NetworkId, fields: &mut Fields) -> Result<Self, FieldError> {
        let membership = Self {
            network,
            node: fields.required(2, "node")?,
            serial: fields.required(3, "serial")?,
            key: fields.required(4, "key")?,
            name: fields.required(5, "name")?,
            addresses: fields.set(6, "addresses", 4)?,
            groups: fields.set(7, "groups", 16)?,
            routes: fields.set(8, "routes", 16)?,
            roles: fields.required(9, "roles")?,
            not_before: fields.required(10, "not_before")?,
            not_after: fields.required(11, "not_after")?,
            grace: fields.required(12, "grace")?,
            network_version: fields.required(13, "network_version")?,
            presenter: fields.optional(14, "presenter")?,
        };
        membership.check()?;
        Ok(membership)
    }
}

impl Membership {
    fn check(&self) -> Result<(), FieldError> {
        if self.serial == 0 {
            return Err(FieldError::new("serial", Problem::Range));
        }
        if self.addresses.is_empty() {
            return Err(FieldError::new("addresses", Problem::Missing));
        }
        if !self.addresses.iter().all(|address| is_host(*address)) {
            return Err(FieldError::new("addresses", Problem::Address));
        }
        // Whoever is the default route sees everything (control rule 5).
        if self.routes.iter().any(|route| route.prefix_len() == 0) {
            return Err(FieldError::new("routes", Problem::Range));
        }
        if self.not_before >= self.not_after {
            return Err(FieldError::new("not_after", Problem::Contradiction));
        }
        if self.presenter == Some(self.node) {
            return Err(FieldError::new("presenter", Problem::Contradiction));
        }
        if self.grace > Self::GRACE_MAX {
            return Err(FieldError::new("grace", Problem::Range));
        }
        Ok(())
    }
}

/// Whether an address can be one machine's.
fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}
