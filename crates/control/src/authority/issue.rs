//! Signing: memberships and network documents; and finding addresses for new nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use rand_core::CryptoRng;
use tombolo_noise::clock::{Now, UnixTime};

use super::mirror::Plan;
use super::register::{Claim, Key, NodeRecord, Published, Record, Settings};
use super::{Authority, DOCUMENT_LIFETIME, Decision, Effect, Event, after};
use crate::document::{
    DocumentError, Head, LimitError, Limits, Membership, NetworkDocument, Policy, Revocation, Roles,
    TrustDocument, Verified, Version,
};
use crate::verifier::CLOCK_SKEW;
use crate::{DocumentHash, NodeId, SigningKey};

/// The rest is kept for what administrators revoke.
pub(super) const REVOCATIONS_UNASKED: usize = NetworkDocument::REVOCATIONS_MAX / 10 * 9;

/// A node that comes and goes has memberships that live no longer than this, or its limit, and no grace: what is left of it is soon
/// over, and so is its revocation.
const EPHEMERAL_LIFETIME: Duration = Duration::from_secs(86_400);

/// How many addresses are tried by chance before they are gone through one by one.
const CHANCES: usize = 64;

/// How many addresses of one prefix are gone through: all of an IPv4 /16.
const SEARCH_MAX: u128 = 1 << 16;

impl Authority {
    pub(super) fn limits(&self) -> Option<&Limits> {
        let key = self.issuer.verifying_key();
        let issuer = self.trust.issuer(key.key_id())?;
        (issuer.key == key).then_some(&issuer.limits)
    }

    /// Signs a node's next membership into its record. `version` is that of the network document which the
    /// membership is issued under: the one on its way in the same transaction, if there is one.
    pub(super) fn issue(
        &self,
        node: &mut NodeRecord,
        version: Version,
        time: UnixTime,
    ) -> Result<(), DocumentError> {
        issue(&self.issuer, &self.trust, self.mirror.settings(), node, version, time)
    }

    /// The version that memberships are issued under now.
    pub(super) fn version(&self) -> Option<Version> {
        self.document.as_ref().map(|document| document.version)
    }

    /// Adds a new network document to a plan, with what the plan itself changes. Gives its version.
    pub(super) fn publish_into(&self, plan: &mut Plan, now: Now) -> Result<Version, DocumentError> {
        let time = self.time(now);
        let settings = match plan.written(&Key::Settings) {
            Some(Some(Record::Settings(settings))) => settings,
            _ => self.mirror.settings(),
        };
        let mut revocations = BTreeSet::new();
        let mut over = Vec::new();
        for (revocation, until) in self.mirror.revocations() {
            let key = Key::Revoked(revocation.clone());
            if plan.written(&key).is_some() {
                continue;
            }
            // All that it voids has expired (control rule 16).
            if until <= time {
                over.push(key);
            } else {
                revocations.insert(revocation.clone());
            }
        }
        for (key, record) in plan.writes() {
            if let (Key::Revoked(revocation), Some(Record::Revoked(until))) = (key, record)
                && *until > time
            {
                revocations.insert(revocation.clone());
            }
        }
        // What somebody revoked must hold: never by half, and never in silence.
        if revocations.len() > NetworkDocument::REVOCATIONS_MAX {
            return Err(DocumentError::Revocations(revocations.len()));
        }
        let audit_head = self.audit.map(|head| head.hash);
        let held = self.document.as_ref().map(|document| document.version);
        let now = Now { wall: self.wall(now), ..now };
        let (published, version) =
            sign_document(&self.issuer, &self.trust, settings, held, revocations, audit_head, time, now)?;
        over.into_iter().for_each(|key| plan.remove(&self.mirror, key));
        plan.put(&self.mirror, Key::Published, Record::Published(published.clone()));
        plan.effects.push(Effect::Event(Event::Published(published)));
        Ok(version)
    }

    /// How many revocations the network document has at the moment.
    pub fn revocations(&self, now: Now) -> usize {
        let time = self.time(now);
        self.mirror.revocations().filter(|(_, until)| *until > time).count()
    }

    /// How many more there may be of those for which nobody has asked: former keys, machines that come and go.
    pub(super) fn room_for_revocations(&self, now: Now) -> usize {
        REVOCATIONS_UNASKED.saturating_sub(self.revocations(now))
    }

    pub(super) fn decide_publish(&mut self, now: Now) -> Decision {
        if self.is_recovering(now) {
            return Decision::Answer(Vec::new());
        }
        let mut plan = Plan::default();
        match self.publish_into(&mut plan, now) {
            Ok(_) => Decision::Commit(Box::new(plan)),
            Err(error) => Decision::Answer(vec![Effect::Event(Event::CannotSign(error.to_string()))]),
        }
    }

    /// A free address in each prefix of the overlay that the issuer may give; none if one of them is full.
    pub(super) fn find_addresses(&self, rng: &mut dyn CryptoRng) -> Option<BTreeSet<IpAddr>> {
        let limits = self.limits()?;
        let allowed = |address: IpAddr| limits.addresses.iter().any(|prefix| prefix.contains(&address));
        let mut offset = None;
        let mut found = BTreeSet::new();
        // IPv4 first: where the same number is free in IPv6, people see that both are one machine's.
        for cidr in &self.mirror.settings().cidrs {
            let is_free = |number: &u128| {
                host(cidr, *number)
                    .is_some_and(|address| allowed(address) && self.mirror.is_address_free(address))
            };
            let number = offset.filter(is_free).or_else(|| search(cidr, is_free, rng))?;
            offset = offset.or(Some(number));
            found.insert(host(cidr, number)?);
        }
        Some(found)
    }
}

/// The number of host addresses of a prefix, without the first and, in IPv4, the last.
fn hosts(cidr: &IpNet) -> u128 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    1_u128.checked_shl(bits).unwrap_or(u128::MAX).saturating_sub(2)
}

/// The host address of a number from 1 on.
pub(super) fn host(cidr: &IpNet, number: u128) -> Option<IpAddr> {
    if number == 0 || number > hosts(cidr) {
        return None;
    }
    Some(match cidr.network() {
        IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | u32::try_from(number).ok()?).into(),
        IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | number).into(),
    })
}

/// By chance, so that a restored authority is not likely to give what it has forgotten to have given; where that
/// fails one after the other.
fn search(cidr: &IpNet, is_free: impl Fn(&u128) -> bool, rng: &mut dyn CryptoRng) -> Option<u128> {
    let count = hosts(cidr).min(SEARCH_MAX);
    if count == 0 {
        return None;
    }
    let mut draw = || u128::from(rng.next_u64()) % count + 1;
    let chance = std::iter::repeat_with(&mut draw).take(CHANCES).find(&is_free);
    let start = draw();
    chance.or_else(|| (0..count).map(|step| (start + step) % count + 1).find(is_free))
}

/// Signs a node's next membership into its record.
pub(super) fn issue(
    issuer: &SigningKey,
    trust: &TrustDocument,
    settings: &Settings,
    node: &mut NodeRecord,
    version: Version,
    time: UnixTime,
) -> Result<(), DocumentError> {
    let key_id = issuer.verifying_key().key_id();
    let limits = &trust.issuer(key_id).ok_or(DocumentError::UnknownIssuer(key_id))?.limits;
    let lifetime = settings.lifetime.min(limits.lifetime);
    let (lifetime, grace) = match node.ephemeral {
        Some(limit) => (lifetime.min(limit.max(EPHEMERAL_LIFETIME)), Duration::ZERO),
        None => (lifetime, settings.grace),
    };
    let not_after = after(time, lifetime).min(limits.expires);
    let membership = Membership {
        network: settings.network,
        node: node.node,
        serial: (node.serial + 1).max(settings.serial_floor),
        key: node.key,
        name: node.name.clone(),
        addresses: node.addresses.clone(),
        groups: node.groups.clone(),
        routes: node.routes.clone(),
        roles: node.roles,
        not_before: time,
        not_after,
        grace,
        network_version: version,
        presenter: node.presented_by,
    };
    node.membership = membership.sign(issuer, trust)?;
    node.serial = membership.serial;
    node.not_after = not_after;
    node.released_at = node.released_at.max(membership.released_at(CLOCK_SKEW));
    Ok(())
}

/// Signs a network document and its head.
#[expect(clippy::too_many_arguments, reason = "each is a part of the document")]
pub(super) fn sign_document(
    issuer: &SigningKey,
    trust: &Verified<TrustDocument>,
    settings: &Settings,
    held: Option<Version>,
    revocations: BTreeSet<Revocation>,
    audit_head: Option<DocumentHash>,
    time: UnixTime,
    now: Now,
) -> Result<(Published, Version), DocumentError> {
    let key_id = issuer.verifying_key().key_id();
    let limits = &trust.issuer(key_id).ok_or(DocumentError::UnknownIssuer(key_id))?.limits;
    let version = Version::next(held, trust.epoch, now.wall).ok_or_else(|| {
        let epoch = held.map_or(0, |held| held.epoch);
        DocumentError::Limit(LimitError::Epoch { epoch, held: trust.epoch })
    })?;
    let document = NetworkDocument {
        network: settings.network,
        version,
        issued: time,
        expires: after(time, DOCUMENT_LIFETIME).min(limits.expires),
        cidrs: settings.cidrs.clone(),
        domain: settings.domain.clone(),
        groups: settings.groups.clone(),
        policy: Policy::AllMembers,
        routes: settings.routes.clone(),
        servers: settings.servers.clone(),
        revocations,
        audit_head,
        refuse_when_stale: settings.refuse_when_stale,
        rotation: settings.rotation,
    };
    let network = document.sign(issuer, trust)?;
    let verified = NetworkDocument::verify(&network, trust)?;
    let head = Head::of(trust, &verified).sign(issuer, trust)?;
    Ok((Published { network, head: Some(head) }, version))
}

/// Adds all that a new node owns to a plan.
pub(super) fn claim_all(plan: &mut Plan, mirror: &super::Mirror, node: &NodeRecord) {
    let claim = || Record::Claim(Claim::of(node.node));
    plan.put(mirror, Key::Name(node.name.clone()), claim());
    for address in &node.addresses {
        plan.put(mirror, Key::Address(*address), claim());
    }
    plan.put(mirror, Key::StaticKey(node.key), claim());
    plan.put(mirror, Key::Node(node.node), Record::Node(Box::new(node.clone())));
}

/// A node that has no membership yet.
pub(super) fn blank(
    node: NodeId,
    name: crate::NodeName,
    addresses: BTreeSet<IpAddr>,
    key: tombolo_noise::PublicKey,
    time: UnixTime,
) -> NodeRecord {
    NodeRecord {
        node,
        name,
        addresses,
        key,
        former_key: None,
        groups: BTreeSet::new(),
        routes: BTreeSet::new(),
        roles: Roles::NONE,
        serial: 0,
        membership: Vec::new(),
        not_after: time,
        released_at: time,
        joined: time,
        token: None,
        ephemeral: None,
        presented_by: None,
    }
}
