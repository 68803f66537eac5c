//! After a restore: what a backup does not know is had from the nodes (control rule 21).
//!
//! A backup is older than the network. So a restored authority issues and publishes nothing at first: it gathers what
//! nodes show. The newest network document that any of them holds is taken, with all revocations in it; nodes that
//! joined after the backup show their memberships and are in the register again. Only then does it go on. All
//! tokens are void, because some were spent since.

use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Now, UnixTime};

use super::audit::{Actor, Change, ChangeKind};
use super::genesis::Genesis;
use super::issue::claim_all;
use super::mirror::{Mirror, Plan};
use super::register::{Claim, Key, NodeRecord, Published, Record, RegisterError, Settings};
use super::transaction::{Condition, Snapshot, Transaction, TransactionId};
use super::{Authority, Decision, Effect, Event, Job, Session, SessionId, after, whole};
use crate::HostEndpoint;
use crate::document::{DocumentError, Head, Membership, NetworkDocument, Revocation, Verified};
use crate::frame::Show;
use crate::pull::Pull;
use crate::verifier::CLOCK_SKEW;

/// How a register is restored.
#[derive(Clone, Debug)]
pub struct Restoration {
    /// Who does it, for the audit log.
    pub actor: Actor,
    /// For so long nothing is issued.
    pub gathering: Duration,
    /// Where the server of this key is found from now on; as before where nothing is said.
    pub moved: Option<(PublicKey, Vec<HostEndpoint>)>,
}

/// What turns a restored register into one that an authority may be started on: for the store to carry out before
/// anything else.
///
/// # Errors
/// When the snapshot has no settings.
pub fn restore(
    snapshot: &Snapshot,
    restoration: Restoration,
    now: UnixTime,
) -> Result<Transaction, RegisterError> {
    let now = whole(now);
    let Restoration { actor, gathering, moved } = restoration;
    let mut transaction = Transaction {
        id: TransactionId(0),
        conditions: Vec::new(),
        writes: Vec::new(),
        audit: vec![Change::new(now, actor, ChangeKind::Restored)],
    };
    let mut found = false;
    for stored in &snapshot.records {
        let record = match &stored.record {
            Some(Record::Token(_)) => None,
            Some(Record::Settings(settings)) => {
                found = true;
                let mut settings = settings.clone();
                settings.recovering_until = Some(after(now, gathering));
                settings.serial_floor = settings.serial_floor.max(now.0.as_secs());
                if let Some((key, endpoints)) = &moved {
                    let ours = settings.servers.iter_mut().filter(|server| server.key == *key);
                    ours.for_each(|server| server.endpoints = endpoints.clone());
                }
                Some(Record::Settings(settings))
            }
            _ => continue,
        };
        let (key, revision) = (stored.key.clone(), stored.revision);
        transaction.conditions.push(Condition { key: key.clone(), revision });
        transaction.writes.push((key, record));
    }
    if found { Ok(transaction) } else { Err(RegisterError::Missing("settings")) }
}

/// What fills an empty register when there is a root key and no backup: prefixes, domain, groups, routes and other
/// servers are had from the first network document that a node shows, and `genesis` says them only until then. `own`
/// is a membership that the server once had, of whatever age: with it the server is the node that others know.
///
/// # Errors
/// As [`Genesis::transaction`]; and when `own` is no membership of that server.
pub fn without_backup(
    genesis: &Genesis,
    own: Option<&[u8]>,
    gathering: Duration,
    now: Now,
) -> Result<Transaction, super::GenesisError> {
    let mut plan = genesis.recovering(after(whole(now.wall), gathering), now)?;
    if let Some(own) = own {
        let shown = Membership::verify(own, &genesis.trust)?;
        if (shown.node, shown.key) != (genesis.server.node, genesis.server.key) {
            return Err(DocumentError::Form.into());
        }
        claim_all(&mut plan, &Mirror::default(), &adopted(&shown, None));
    }
    Ok(plan.into_transaction(TransactionId(0)).0)
}

/// The record of a node by what it shows, and what is known of it already.
fn adopted(shown: &Verified<Membership>, known: Option<&NodeRecord>) -> NodeRecord {
    NodeRecord {
        node: shown.node,
        name: shown.name.clone(),
        addresses: shown.addresses.clone(),
        key: shown.key,
        former_key: None,
        groups: shown.groups.clone(),
        routes: shown.routes.clone(),
        roles: shown.roles,
        serial: shown.serial,
        membership: shown.encoded().to_vec(),
        not_after: shown.not_after,
        released_at: shown.released_at(CLOCK_SKEW),
        joined: known.map_or(shown.not_before, |known| known.joined),
        token: known.and_then(|known| known.token),
        ephemeral: known.and_then(|known| known.ephemeral),
        presented_by: shown.presenter,
    }
}

impl Authority {
    /// Whether nothing is to be issued yet: what a restored register does not know is still gathered, or the clock may have yet to be set.
    pub fn is_recovering(&self, now: Now) -> bool {
        self.is_clock_settling(now) || self.is_gathering(now)
    }

    fn is_gathering(&self, now: Now) -> bool {
        self.mirror.settings().recovering_until.is_some_and(|until| {
            // Nothing may be published that is older than what a node is known to have.
            let behind = self.wanted.is_some_and(|wanted| self.version().is_none_or(|held| held < wanted));
            self.time(now) < until || behind || self.limits().is_none()
        })
    }

    pub(super) fn end_recovery(&self, now: Now) -> bool {
        self.mirror.settings().recovering_until.is_some() && !self.is_recovering(now)
    }

    pub(super) fn decide_end_of_recovery(&mut self, now: Now) -> Decision {
        let mut plan = Plan::default();
        let settings = Settings { recovering_until: None, ..self.mirror.settings().clone() };
        plan.put(&self.mirror, Key::Settings, Record::Settings(Box::new(settings)));
        match self.publish_into(&mut plan, now) {
            Ok(_) => Decision::Commit(Box::new(plan)),
            Err(error) => Decision::Answer(vec![Effect::Event(Event::CannotSign(error.to_string()))]),
        }
    }

    /// A node shows itself, and says which documents it has.
    pub(super) fn handle_show(
        &mut self,
        session: Session,
        show: &Show,
        now: Now,
        rng: &mut dyn rand_core::CryptoRng,
    ) {
        let settings = self.mirror.settings();
        // Who was away while nodes were gathered is taken in when it comes: what was issued since has a later serial.
        let known = self.mirror.node_of_key(session.key);
        if settings.serial_floor == 0 || known.is_some_and(|node| node.serial >= settings.serial_floor) {
            return;
        }
        if settings.recovering_until.is_none() {
            return self.run(Job::Adopt { session, membership: show.membership.clone() }, now, rng);
        }
        let head = show.versions.head.as_ref().and_then(|head| Head::verify(head, &self.trust).ok());
        if let Some(head) = head {
            self.note_head(session.id, &head);
        }
        self.run(Job::Adopt { session, membership: show.membership.clone() }, now, rng);
    }

    fn note_head(&mut self, session: SessionId, head: &Verified<Head>) {
        let version = head.network_version;
        if self.version().is_none_or(|held| held < version) {
            self.wanted = self.wanted.max(Some(version));
            let pull = Pull::of(head);
            self.events.push_back(Event::DocumentWanted { session, version, pull });
        }
    }

    /// Takes a network document that a node gave back after a restore.
    ///
    /// # Errors
    /// When it does not verify.
    pub fn handle_document(
        &mut self,
        bytes: &[u8],
        now: Now,
        rng: &mut dyn rand_core::CryptoRng,
    ) -> Result<(), DocumentError> {
        NetworkDocument::verify(bytes, &self.trust)?;
        self.run(Job::Document { bytes: bytes.to_vec() }, now, rng);
        Ok(())
    }

    /// The highest document is taken, and what it revokes is revoked here.
    pub(super) fn decide_document(&mut self, bytes: &[u8], now: Now) -> Decision {
        let nothing = Decision::Answer(Vec::new());
        let Ok(document) = NetworkDocument::verify(bytes, &self.trust) else { return nothing };
        let settings = self.mirror.settings();
        if settings.recovering_until.is_none() || self.version().is_some_and(|held| document.version <= held)
        {
            return nothing;
        }
        let time = self.time(now);
        let mut plan = Plan::default();
        // For how long each is needed is not known: as long as anything that it may void can live.
        let until =
            after(time, settings.lifetime.max(Settings::LIFETIME) + Membership::GRACE_MAX + CLOCK_SKEW);
        for revocation in &document.revocations {
            match revocation {
                Revocation::Node(node) => {
                    if let Some(node) = self.mirror.node(*node) {
                        self.end_node(&mut plan, &node.clone(), true);
                    }
                }
                Revocation::Key(key) => {
                    let node =
                        self.mirror.key(*key).map_or(crate::NodeId::from_bytes([0; 16]), |claim| claim.node);
                    let claim = Claim { node, until: Some(until), burned: true };
                    plan.put(&self.mirror, Key::StaticKey(*key), Record::Claim(claim));
                }
                Revocation::Serial(..) => {}
            }
            plan.put(&self.mirror, Key::Revoked(revocation.clone()), Record::Revoked(until));
        }
        // Where this server is found it knows better itself.
        let others = document.servers.iter().filter(|other| {
            !settings.servers.iter().any(|own| own.key == other.key || own.node == other.node)
        });
        let settings = Settings {
            servers: settings.servers.iter().chain(others).cloned().collect(),
            cidrs: document.cidrs.clone(),
            domain: document.domain.clone(),
            groups: settings.groups.union(&document.groups).cloned().collect(),
            routes: document.routes.clone(),
            refuse_when_stale: document.refuse_when_stale,
            rotation: document.rotation,
            ..settings.clone()
        };
        plan.put(&self.mirror, Key::Settings, Record::Settings(Box::new(settings)));
        let published = Published { network: bytes.to_vec(), head: None };
        plan.put(&self.mirror, Key::Published, Record::Published(published));
        let mut change = Change::new(time, Actor::Authority, ChangeKind::Witnessed);
        change.text = Some(document.version.to_string());
        plan.audit.push(change);
        Decision::Commit(Box::new(plan))
    }

    /// A node that is not in the register, or that has a later membership than it says, is taken in by what it
    /// shows, if that holds under the root and nothing revokes it. It has to be newer than nothing that is known.
    pub(super) fn decide_adopt(&mut self, session: &Session, bytes: &[u8], now: Now) -> Decision {
        let nothing = Decision::Answer(Vec::new());
        let Ok(shown) = Membership::verify(bytes, &self.trust) else { return nothing };
        let time = self.time(now);
        let revoked = self.mirror.revocations().any(|(revocation, _)| match revocation {
            Revocation::Node(node) => *node == shown.node,
            Revocation::Key(key) => *key == shown.key,
            Revocation::Serial(node, serial) => *node == shown.node && shown.serial <= *serial,
        });
        let known = self.mirror.node(shown.node);
        if shown.key != session.key
            || revoked
            || shown.released_at(CLOCK_SKEW) <= time
            || shown.serial >= self.mirror.settings().serial_floor
            || known.is_some_and(|known| known.serial >= shown.serial)
        {
            return nothing;
        }
        let mut owned: Vec<Key> = shown.addresses.iter().map(|address| Key::Address(*address)).collect();
        owned.extend([Key::Name(shown.name.clone()), Key::StaticKey(shown.key)]);
        let other =
            owned.iter().filter_map(|key| self.mirror.claim(key)).find(|claim| claim.node != shown.node);
        if let Some(other) = other {
            let (holder, claimant) = (other.node, shown.node);
            let event = Event::AdoptionConflict { holder, claimant, key: shown.key };
            let mut change = Change::new(time, Actor::Node(claimant), ChangeKind::Disputed);
            (change.node, change.key) = (Some(holder), Some(shown.key));
            change.text = Some(format!("claimed by node {claimant}"));
            return self.refuse_attempt(event, change, Vec::new());
        }
        let mut plan = Plan::default();
        if let Some(known) = known
            && known.key != shown.key
        {
            let claim = Claim { node: known.node, until: Some(known.released_at), burned: true };
            plan.put(&self.mirror, Key::StaticKey(known.key), Record::Claim(claim));
        }
        let node = adopted(&shown, known);
        claim_all(&mut plan, &self.mirror, &node);
        let mut change = Change::new(time, Actor::Node(node.node), ChangeKind::Adopted);
        (change.node, change.key) = (Some(node.node), Some(node.key));
        plan.audit.push(change);
        Decision::Commit(Box::new(plan))
    }
}
