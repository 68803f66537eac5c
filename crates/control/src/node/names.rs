//! The names of all nodes, for a machine whose programs cannot ask for them one by one (control rules 7 and 12).
//!
//! Lighthouses list tags; what is not known by its tag is fetched as a signed membership and verified like any other, so
//! that a lighthouse can withhold a name but not make one up. Nothing is kept of it but the name with its addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now, UnixTime};

use super::event::Output;
use super::{Call, Node, Task};
use crate::document::{DocumentError, Membership, Verified};
use crate::frame::Frame;
use crate::frame::names::{AskNames, Names, TAG_LEN, Tag, tag_of};
use crate::lighthouse::names::{MEMBERS_AT_ONCE, NAMES_MAX};
use crate::verifier::Refusal;
use crate::{KeyId, NodeId, NodeName};

/// Between two askings of a lighthouse from which there is no news; it forgets us after 90 s.
const POLL: Duration = Duration::from_secs(25);
/// What has no answer by then is asked for again.
const ANSWER: Duration = Duration::from_secs(1);
/// So often a membership is asked for; then the whole list is read again.
const TRIES: u8 = 5;
const SOURCES: usize = 8;

/// A node of which name and addresses are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNode {
    /// Which.
    pub node: NodeId,
    /// Its static key.
    pub key: PublicKey,
    /// Serial of the membership that said so.
    pub serial: u64,
    /// Who signed that.
    pub signer: KeyId,
    /// Its name.
    pub name: NodeName,
    /// Its overlay addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// From then on a newer membership is asked for.
    pub half: UnixTime,
    /// Until when it is known by that name at the latest.
    pub until: UnixTime,
}

impl NamedNode {
    fn of(member: &Verified<Membership>) -> Self {
        Self {
            node: member.node,
            key: member.key,
            serial: member.serial,
            signer: member.signer(),
            name: member.name.clone(),
            addresses: member.addresses.clone(),
            half: UnixTime(member.not_before.0 + member.lifetime() / 2),
            until: member.released_at(Duration::ZERO),
        }
    }
}

/// How much of a lighthouse's list was read.
#[derive(Debug)]
struct Source {
    epoch: u64,
    index: u64,
    /// Its length, as far as it was told.
    total: u64,
    next: Instant,
}

#[derive(Debug, Default)]
pub(super) struct NameBook {
    wanted: bool,
    nodes: BTreeMap<NodeId, (Tag, NamedNode)>,
    tags: HashMap<Tag, NodeId>,
    sources: HashMap<PublicKey, Source>,
    /// Tags that nothing is known of, where they were listed, and how often they were asked for.
    missing: BTreeMap<Tag, (PublicKey, u8)>,
    /// Tags of the memberships that are awaited, and until when.
    awaited: Option<(BTreeSet<Tag>, Instant)>,
    changed: bool,
}

impl NameBook {
    fn insert(&mut self, tag: Tag, named: NamedNode) {
        if self.nodes.get(&named.node).is_some_and(|(_, held)| held.serial > named.serial || *held == named) {
            return;
        }
        let node = named.node;
        self.tags.insert(tag, node);
        let former = self.nodes.insert(node, (tag, named));
        if let Some((former, _)) = former
            && former != tag
        {
            self.tags.remove(&former);
        }
        self.changed = true;
    }

    fn retain(&mut self, mut keep: impl FnMut(&NamedNode) -> bool) {
        let (tags, before) = (&mut self.tags, self.nodes.len());
        self.nodes.retain(|_, (tag, named)| {
            let kept = keep(named);
            if !kept {
                tags.remove(tag);
            }
            kept
        });
        self.changed |= self.nodes.len() != before;
    }
}

impl Node {
    /// From now on the names of all nodes are kept up to date; [`Output::Names`] says that they have changed. `known` is
    /// what [`Node::names`] gave before a restart.
    pub fn follow_names(&mut self, known: Vec<NamedNode>, now: Now) {
        self.names.wanted = true;
        for named in known.into_iter().take(NAMES_MAX) {
            let tag = crate::frame::names::tag(&named.node, &named.key, &named.addresses, &named.name);
            self.names.insert(tag, named);
        }
        self.deadlines.set(Task::Names, now.boot);
    }

    /// Every node of which name and addresses are known here, this one among them, in no order. To be saved.
    pub fn names(&self) -> impl Iterator<Item = NamedNode> {
        let listed = |node: &NodeId| self.names.nodes.contains_key(node);
        let met =
            self.verifier.members().chain(self.own.as_ref()).filter(move |member| !listed(&member.node));
        let met: BTreeMap<NodeId, NamedNode> =
            met.map(|member| (member.node, NamedNode::of(member))).collect();
        self.names.nodes.values().map(|(_, named)| named.clone()).chain(met.into_values())
    }

    /// The addresses of the node with this name, if they are known here.
    pub fn addresses_of(&self, name: &NodeName) -> Option<&BTreeSet<IpAddr>> {
        let own = self.own.as_ref().filter(|own| own.name == *name);
        let met = own.or_else(|| self.verifier.member_named(name)).map(|member| &member.addresses);
        met.or_else(|| {
            let listed = self.names.nodes.values().find(|(_, named)| named.name == *name);
            listed.map(|(_, named)| &named.addresses)
        })
    }

    /// Somebody was verified: whoever keeps a list has it from now on.
    pub(super) fn note_member(&mut self, key: &PublicKey, call: &Call<'_>) {
        let Some((member, _)) = self.verifier.authorised(key, call.times) else { return };
        let member = member.clone();
        self.list_member(&member, call);
        if self.names.wanted && member.roles.contains(crate::document::Roles::LIGHTHOUSE) {
            self.deadlines.set(Task::Names, call.now.boot);
        }
    }

    pub(super) fn list_member(&mut self, member: &Verified<Membership>, call: &Call<'_>) {
        if self.names.nodes.contains_key(&member.node) {
            self.names.insert(tag_of(member), NamedNode::of(member));
        }
        if let Some(lighthouse) = &mut self.lighthouse {
            lighthouse.note_member(member, call.now.boot);
            self.names.changed |= self.names.wanted;
        }
    }

    /// Asks lighthouses for what is new, and for what is missing.
    pub(super) fn tick_names(&mut self, call: &mut Call<'_>) {
        if !self.names.wanted {
            return;
        }
        let now = call.now.boot;
        let lighthouses: Vec<PublicKey> = self.lighthouses().take(SOURCES).collect();
        let book = &mut self.names;
        book.sources.retain(|key, _| lighthouses.contains(key));
        let mut asks = Vec::new();
        for key in lighthouses {
            let source =
                book.sources.entry(key).or_insert(Source { epoch: 0, index: 0, total: 1, next: now });
            if source.next <= now {
                source.next = now + if source.index < source.total { ANSWER } else { POLL };
                asks.push((key, Frame::AskNames(AskNames { epoch: source.epoch, index: source.index })));
            }
        }
        if book.awaited.as_ref().is_some_and(|(_, until)| *until <= now) {
            book.awaited = None;
        }
        if book.awaited.is_none() {
            asks.extend(book.ask_missing(now));
        }
        let due = book.sources.values().map(|source| source.next).min();
        let due = due.into_iter().chain(book.awaited.iter().map(|(_, until)| *until)).min();
        self.deadlines.set(Task::Names, due.unwrap_or(now + POLL));
        for (to, frame) in asks {
            self.push(to, None, frame);
        }
    }

    pub(super) fn handle_names(&mut self, from: PublicKey, list: &Names, call: &mut Call<'_>) {
        if !self.names.wanted {
            return;
        }
        let book = &mut self.names;
        let Some(source) = book.sources.get_mut(&from) else { return };
        if source.epoch != list.epoch {
            (source.epoch, source.index) = (list.epoch, 0);
        }
        source.total = list.total;
        let end = list.first.saturating_add(list.tags.len() as u64);
        if list.first <= source.index && end > source.index {
            source.index = end;
            for tag in &list.tags {
                let known = *tag == [0; TAG_LEN] || book.tags.contains_key(tag);
                if !known && book.nodes.len() + book.missing.len() < NAMES_MAX {
                    book.missing.entry(*tag).or_insert((from, 0));
                }
            }
        }
        // Asking for the next part says that this one has come.
        source.next = call.now.boot;
        self.tick_names(call);
    }

    pub(super) fn handle_member(&mut self, from: PublicKey, bytes: &[u8], call: &mut Call<'_>) {
        if !self.names.wanted {
            return;
        }
        match self.verifier.check_told(bytes, call.times) {
            Ok(member) => {
                let tag = tag_of(&member);
                let other = |named: &NamedNode| {
                    let same = named.name == member.name || !named.addresses.is_disjoint(&member.addresses);
                    same && named.node != member.node
                };
                // Who has a name keeps it, as long as its membership holds (control rule 4).
                let free = !self.names.nodes.values().any(|(_, named)| other(named));
                if self.names.missing.remove(&tag).is_some() && free {
                    self.names.insert(tag, NamedNode::of(&member));
                }
                if let Some((awaited, _)) = &mut self.names.awaited {
                    awaited.remove(&tag);
                }
            }
            // To be asked for again, once the documents are here.
            Err(
                Refusal::NeedsNetwork(_)
                | Refusal::NoTrust
                | Refusal::Document(DocumentError::UnknownIssuer(_)),
            ) => self.send_versions(from, call),
            Err(_) => self.dropped += 1,
        }
        if self.names.awaited.as_ref().is_some_and(|(awaited, _)| awaited.is_empty()) {
            self.names.awaited = None;
            self.tick_names(call);
        }
    }

    /// Forgets names that are nobody's any more, and asks anew for those whose membership is old.
    pub(super) fn tend_names(&mut self, call: &Call<'_>) {
        if let Some(lighthouse) = &mut self.lighthouse {
            lighthouse.sweep_names(&self.verifier);
        }
        let (Some(trust), Some(network)) = (self.verifier.trust(), self.verifier.network()) else { return };
        let confirmed = call.times.confirmed;
        self.names.retain(|named| {
            trust.issuer(named.signer).is_some()
                && confirmed < named.until
                && !network.revokes(&named.node, &named.key, named.serial)
        });
        let Some(source) = self.names.sources.keys().next().copied() else { return };
        let old = self.names.nodes.values().filter(|(_, named)| confirmed >= named.half).map(|(tag, _)| *tag);
        for tag in old.take(MEMBERS_AT_ONCE).collect::<Vec<_>>() {
            self.names.missing.entry(tag).or_insert((source, 0));
        }
    }

    /// Says that names have changed.
    pub(super) fn collect_names(&mut self) {
        if std::mem::take(&mut self.names.changed) && self.names.wanted {
            self.outbox.push_back(Output::Names);
        }
    }
}

impl NameBook {
    /// The next asking for memberships, all of one lighthouse.
    fn ask_missing(&mut self, now: Instant) -> Option<(PublicKey, Frame)> {
        let sources = &mut self.sources;
        self.missing.retain(|_, (source, tries)| {
            let Some(source) = sources.get_mut(source) else { return false };
            if *tries >= TRIES {
                // It may be listed by another tag by now.
                (source.index, source.next) = (0, now + POLL);
            }
            *tries < TRIES
        });
        let (_, &(from, _)) = self.missing.iter().min_by_key(|(_, (_, tries))| *tries)?;
        let mut tags = Vec::new();
        for (tag, (source, tries)) in &mut self.missing {
            if *source == from && tags.len() < MEMBERS_AT_ONCE {
                *tries += 1;
                tags.push(*tag);
            }
        }
        self.awaited = Some((tags.iter().copied().collect(), now + ANSWER));
        Some((from, Frame::AskMembers(tags)))
    }
}
