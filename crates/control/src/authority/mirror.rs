//! What the authority knows of the register: all that was committed, and what is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::register::{Claim, Key, NodeRecord, Record, RegisterError, Settings, TokenRecord};
use super::transaction::{Condition, Snapshot, Stored, Transaction, TransactionId};
use crate::document::Revocation;
use crate::{KeyId, NodeId, NodeName};

#[derive(Debug, Default)]
pub(super) struct Mirror {
    records: BTreeMap<Key, (u64, Record)>,
    /// Keys that a transaction on its way is about. A second one about the same would be decided on what is not so
    /// any more.
    busy: BTreeSet<Key>,
    settings: Option<Settings>,
}

/// Gives the content of a record of one kind.
macro_rules! get {
    ($name:ident, $variant:ident, $content:ty) => {
        fn $name(&self, key: &Key) -> Option<&$content> {
            match &self.records.get(key)?.1 {
                Record::$variant(content) => Some(content),
                _ => None,
            }
        }
    };
}

impl Mirror {
    get!(get_node, Node, NodeRecord);
    get!(get_claim, Claim, Claim);
    get!(get_token, Token, TokenRecord);

    pub(super) fn load(snapshot: Snapshot) -> Result<Self, RegisterError> {
        let mut mirror = Self::default();
        for stored in snapshot.records {
            mirror.set(stored);
        }
        if mirror.settings.is_none() {
            return Err(RegisterError::Missing("settings"));
        }
        Ok(mirror)
    }

    pub(super) fn settings(&self) -> &Settings {
        self.settings.as_ref().expect("a register without settings is not loaded, and nothing removes them")
    }

    pub(super) fn record(&self, key: &Key) -> Option<&Record> {
        self.records.get(key).map(|(_, record)| record)
    }

    pub(super) fn node(&self, node: NodeId) -> Option<&NodeRecord> {
        self.get_node(&Key::Node(node))
    }

    pub(super) fn token(&self, token: KeyId) -> Option<&TokenRecord> {
        self.get_token(&Key::Token(token))
    }

    pub(super) fn key(&self, key: PublicKey) -> Option<&Claim> {
        self.get_claim(&Key::StaticKey(key))
    }

    pub(super) fn claim(&self, key: &Key) -> Option<&Claim> {
        self.get_claim(key)
    }

    pub(super) fn name(&self, name: &NodeName) -> Option<&Claim> {
        self.get_claim(&Key::Name(name.clone()))
    }

    /// The node whose present key this is.
    pub(super) fn node_of_key(&self, key: PublicKey) -> Option<&NodeRecord> {
        let node = self.node(self.key(key).filter(|claim| !claim.burned)?.node)?;
        (node.key == key).then_some(node)
    }

    /// Whether nobody has the address, nor is about to.
    pub(super) fn is_address_free(&self, address: IpAddr) -> bool {
        let key = Key::Address(address);
        !self.records.contains_key(&key) && !self.busy.contains(&key)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        let nodes = self.records.range(Key::Node(NodeId::from_bytes([0; 16]))..);
        nodes.map_while(|(_, (_, record))| match record {
            Record::Node(node) => Some(&**node),
            _ => None,
        })
    }

    /// By name, from behind `after`.
    pub(super) fn names_after(&self, after: Option<&NodeName>) -> impl Iterator<Item = (&NodeName, &Claim)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(Key::Name(after.clone())));
        self.records.range((from, Bound::Unbounded)).filter_map(|(key, (_, record))| match (key, record) {
            (Key::Name(name), Record::Claim(claim)) => Some((name, claim)),
            _ => None,
        })
    }

    pub(super) fn tokens_after(&self, after: Option<KeyId>) -> impl Iterator<Item = (KeyId, &TokenRecord)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(Key::Token(after)));
        self.records.range((from, Bound::Unbounded)).filter_map(|(key, (_, record))| match (key, record) {
            (Key::Token(id), Record::Token(token)) => Some((*id, &**token)),
            _ => None,
        })
    }

    /// Revocations, and until when each is needed.
    pub(super) fn revocations(&self) -> impl Iterator<Item = (&Revocation, UnixTime)> {
        let first = Key::Revoked(Revocation::Node(NodeId::from_bytes([0; 16])));
        self.records.range(first..).filter_map(|(key, (_, record))| match (key, record) {
            (Key::Revoked(revocation), Record::Revoked(until)) => Some((revocation, *until)),
            _ => None,
        })
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter().map(|(key, (_, record))| (key, record))
    }

    pub(super) fn revision(&self, key: &Key) -> u64 {
        self.records.get(key).map_or(0, |(revision, _)| *revision)
    }

    /// The first of the keys that a transaction on its way is about.
    pub(super) fn first_busy<'a>(&self, mut keys: impl Iterator<Item = &'a Key>) -> Option<&'a Key> {
        keys.find(|key| self.busy.contains(key))
    }

    pub(super) fn is_busy(&self, key: &Key) -> bool {
        self.busy.contains(key)
    }

    pub(super) fn reserve(&mut self, conditions: &[Condition]) {
        self.busy.extend(conditions.iter().map(|condition| condition.key.clone()));
    }

    pub(super) fn release(&mut self, conditions: &[Condition]) {
        for condition in conditions {
            self.busy.remove(&condition.key);
        }
    }

    /// Takes over what was committed, here or by somebody else.
    pub(super) fn set(&mut self, stored: Stored) {
        // A late result must not undo a later one.
        let nothing_there = stored.record.is_none() && stored.revision == 0;
        if self.revision(&stored.key) > stored.revision && !nothing_there {
            return;
        }
        match stored.record {
            Some(record) => {
                if let Record::Settings(settings) = &record {
                    self.settings = Some((**settings).clone());
                }
                self.records.insert(stored.key, (stored.revision, record));
            }
            None => drop(self.records.remove(&stored.key)),
        }
    }
}

/// A decision in the making: what it is founded on, and what it writes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    conditions: BTreeMap<Key, u64>,
    writes: BTreeMap<Key, Option<Record>>,
    pub(super) audit: Vec<super::audit::Change>,
    /// What leaves when it is committed.
    pub(super) effects: Vec<super::Effect>,
}

impl Plan {
    /// The decision is founded on what is there now.
    pub(super) fn require(&mut self, mirror: &Mirror, key: Key) {
        let revision = mirror.revision(&key);
        self.conditions.insert(key, revision);
    }

    pub(super) fn put(&mut self, mirror: &Mirror, key: Key, record: Record) {
        self.require(mirror, key.clone());
        self.writes.insert(key, Some(record));
    }

    pub(super) fn remove(&mut self, mirror: &Mirror, key: Key) {
        self.require(mirror, key.clone());
        self.writes.insert(key, None);
    }

    /// What the plan writes there; none if it does not.
    pub(super) fn written(&self, key: &Key) -> Option<&Option<Record>> {
        self.writes.get(key)
    }

    pub(super) fn writes(&self) -> impl Iterator<Item = (&Key, &Option<Record>)> {
        self.writes.iter()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.conditions.keys()
    }

    pub(super) fn into_transaction(self, id: TransactionId) -> (Transaction, Vec<super::Effect>) {
        let conditions =
            self.conditions.into_iter().map(|(key, revision)| Condition { key, revision }).collect();
        let writes = self.writes.into_iter().collect();
        (Transaction { id, conditions, writes, audit: self.audit }, self.effects)
    }
}
