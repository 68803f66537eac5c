//! How a network begins, and how its trust document changes.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Now, UnixTime};

use super::audit::{Actor, Change, ChangeKind};
use super::issue::{blank, claim_all, host, issue, sign_document};
use super::mirror::{Mirror, Plan};
use super::register::{Key, Record, Settings};
use super::{Authority, Decision, Effect, Event, Transaction, TransactionId, whole};
use crate::document::{self, DocumentError, TrustDocument, Verified};
use crate::{Domain, HostEndpoint, NodeId, NodeName, SigningKey};

/// The machine that the authority runs on: the network's first node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its id, newly drawn.
    pub node: NodeId,
    /// Its static key.
    pub key: PublicKey,
    /// Its name.
    pub name: NodeName,
    /// What it does.
    pub roles: document::Roles,
    /// Where it is found.
    pub endpoints: Vec<HostEndpoint>,
}

/// How a network begins.
pub struct Genesis {
    /// The issuer key of this authority.
    pub issuer: SigningKey,
    /// The trust document, which names that key.
    pub trust: Verified<TrustDocument>,
    /// The overlay's prefixes.
    pub cidrs: BTreeSet<IpNet>,
    /// The domain of the names.
    pub domain: Domain,
    /// The first node.
    pub server: Server,
    /// Who begins it, for the audit log.
    pub actor: Actor,
}

/// Why a network cannot begin so, or a trust document not be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// The trust document does not verify, or does not allow what is to be signed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The trust document is not of a later epoch than the one held.
    #[error(
        "the trust document is of epoch {found}, and epoch {held} is held already: sign a new one with the root key"
    )]
    Older {
        /// Its epoch.
        found: u64,
        /// Epoch of the one held.
        held: u64,
    },
    /// The trust document does not name this authority's issuer key.
    #[error(
        "the trust document does not name this server's issuer key {0}: sign one that does with the root key"
    )]
    NotNamed(crate::KeyId),
    /// A prefix has no room for a host.
    #[error("the prefix {0} has no room for a node: choose a shorter one")]
    Prefix(IpNet),
}

impl Genesis {
    /// The transaction that fills an empty register. Its conditions are that there is nothing yet.
    ///
    /// # Errors
    /// Says what is wrong with what is to be.
    pub fn transaction(&self, now: Now) -> Result<Transaction, GenesisError> {
        Ok(self.plan(None, now)?.into_transaction(TransactionId(0)).0)
    }

    /// As [`Genesis::transaction`], for a network that was there before; nothing is published.
    pub(super) fn recovering(&self, until: UnixTime, now: Now) -> Result<Plan, GenesisError> {
        self.plan(Some(until), now)
    }

    fn plan(&self, recovering_until: Option<UnixTime>, now: Now) -> Result<Plan, GenesisError> {
        let time = whole(now.wall.max(self.trust.issued));
        let server = document::Server {
            node: self.server.node,
            key: self.server.key,
            roles: self.server.roles,
            endpoints: self.server.endpoints.clone(),
        };
        let settings = Settings {
            network: self.trust.network,
            cidrs: self.cidrs.clone(),
            domain: self.domain.clone(),
            groups: BTreeSet::new(),
            admin_groups: BTreeSet::new(),
            routes: BTreeSet::new(),
            servers: vec![server],
            refuse_when_stale: false,
            rotation: None,
            lifetime: Settings::LIFETIME,
            grace: Settings::GRACE,
            recovering_until,
            root: self.trust.root.fingerprint(),
            serial_floor: recovering_until.map_or(0, |_| time.0.as_secs()),
        };
        let mut plan = Plan::default();
        let nothing = Mirror::default();
        plan.put(&nothing, Key::Trust, Record::Trust(self.trust.encoded().to_vec()));
        let mut change = Change::new(time, self.actor.clone(), ChangeKind::Created);
        change.text = Some(settings.network.to_string());
        plan.audit.push(change);
        if recovering_until.is_none() {
            let (published, version) =
                sign_document(&self.issuer, &self.trust, &settings, None, BTreeSet::new(), None, time, now)?;
            plan.put(&nothing, Key::Published, Record::Published(published));
            let address = |cidr: &IpNet| host(cidr, 1).ok_or(GenesisError::Prefix(*cidr));
            let addresses = self.cidrs.iter().map(address).collect::<Result<_, _>>()?;
            let Server { node, key, name, roles, .. } = &self.server;
            let mut node = blank(*node, name.clone(), addresses, *key, time);
            node.roles = *roles;
            issue(&self.issuer, &self.trust, &settings, &mut node, version, time)?;
            claim_all(&mut plan, &nothing, &node);
        }
        plan.put(&nothing, Key::Settings, Record::Settings(Box::new(settings)));
        Ok(plan)
    }
}

impl Authority {
    /// A trust document that may be installed here.
    pub(super) fn check_trust(&self, bytes: &[u8]) -> Result<Verified<TrustDocument>, GenesisError> {
        let settings = self.mirror.settings();
        let roots = [settings.root, self.trust.next_root];
        let document = TrustDocument::verify(bytes, &settings.network, &roots)?;
        let (found, held) = (document.epoch, self.trust.epoch);
        if found <= held {
            return Err(GenesisError::Older { found, held });
        }
        let key = self.issuer.verifying_key();
        match document.issuer(key.key_id()) {
            Some(issuer) if issuer.key == key => Ok(document),
            _ => Err(GenesisError::NotNamed(key.key_id())),
        }
    }

    /// The new document and a network document of its epoch, in one.
    pub(super) fn decide_trust(&mut self, bytes: &[u8], now: Now) -> Decision {
        let Ok(trust) = self.check_trust(bytes) else { return Decision::Answer(Vec::new()) };
        if self.mirror.is_busy(&Key::Published) {
            return Decision::Wait(Key::Published);
        }
        let time = self.time(now);
        let mut plan = Plan::default();
        let mut change = Change::new(time, Actor::Root, ChangeKind::Trust);
        change.text = Some(format!("epoch {}", trust.epoch));
        plan.audit.push(change);
        let settings = Settings { root: trust.root.fingerprint(), ..self.mirror.settings().clone() };
        plan.put(&self.mirror, Key::Settings, Record::Settings(Box::new(settings)));
        plan.put(&self.mirror, Key::Trust, Record::Trust(bytes.to_vec()));
        plan.effects.push(Effect::Event(Event::TrustInstalled(bytes.to_vec())));
        if self.mirror.settings().recovering_until.is_none() {
            let former = std::mem::replace(&mut self.trust, trust);
            let published = self.publish_into(&mut plan, now);
            // It holds when it is committed, and not before.
            self.trust = former;
            if let Err(error) = published {
                return Decision::Answer(vec![Effect::Event(Event::CannotSign(error.to_string()))]);
            }
        }
        Decision::Commit(Box::new(plan))
    }
}

/// Bounds of what a network may set. Short lives are for trying out what comes when no authority is there.
pub(super) const LIFETIME_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(10), Duration::from_secs(90 * 86_400));
