//! The list of names that a lighthouse keeps for those who write all of them down.
//!
//! A place of the list never changes: who has read up to some place asks from there on. Whoever asks is told of what
//! comes for a while, until it has asked again behind that. A list that is made anew has another epoch.

use std::collections::HashMap;
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use super::{Lighthouse, Outgoing};
use crate::NodeId;
use crate::document::{Membership, Verified};
use crate::frame::Frame;
use crate::frame::names::{AskNames, Names, TAG_LEN, TAGS_MAX, Tag, tag_of};
use crate::verifier::{Times, Verifier};

/// Nodes that are listed; who has more has to ask for each (control rule 12).
pub(crate) const NAMES_MAX: usize = 4096;
/// Memberships for one asking.
pub(crate) const MEMBERS_AT_ONCE: usize = 32;
/// Who has asked is told of news for so long.
const SUBSCRIBED: Duration = Duration::from_secs(90);
/// News that come together are told together.
const GATHER: Duration = Duration::from_millis(50);
/// News that nobody asks behind are told again, each time after twice as long.
const AGAIN: Duration = Duration::from_millis(400);
const TRIES: u8 = 4;

#[derive(Debug)]
struct Subscriber {
    until: Instant,
    /// So far it has read.
    index: usize,
    tries: u8,
    next: Instant,
}

/// The list, and who reads it.
#[derive(Debug, Default)]
pub(super) struct List {
    epoch: u64,
    places: Vec<(Tag, NodeId)>,
    /// The one place of each node that holds.
    newest: HashMap<NodeId, usize>,
    by_tag: HashMap<Tag, NodeId>,
    subscribers: HashMap<PublicKey, Subscriber>,
    next_news: Option<Instant>,
}

impl List {
    /// `true`: the list has grown.
    fn note(&mut self, member: &Membership) -> bool {
        let tag = tag_of(member);
        if let Some(&place) = self.newest.get(&member.node) {
            let held = self.places[place].0;
            if held == tag {
                return false;
            }
            self.by_tag.remove(&held);
        } else if self.newest.len() >= NAMES_MAX {
            return false;
        }
        if self.places.len() >= 2 * self.newest.len() + 64 {
            self.compact();
        }
        self.newest.insert(member.node, self.places.len());
        self.by_tag.insert(tag, member.node);
        self.places.push((tag, member.node));
        true
    }

    /// Makes the list anew, without the places that hold no more.
    fn compact(&mut self) {
        self.epoch += 1;
        let newest = &self.newest;
        let mut place = 0;
        self.places.retain(|(_, node)| {
            place += 1;
            newest.get(node) == Some(&(place - 1))
        });
        self.newest = self.places.iter().enumerate().map(|(place, (_, node))| (*node, place)).collect();
        for subscriber in self.subscribers.values_mut() {
            subscriber.index = 0;
        }
    }

    /// Who is no member any more has to be listed anew when it comes back.
    fn forget_gone(&mut self, verifier: &Verifier) {
        let by_tag = &mut self.by_tag;
        let places = &self.places;
        self.newest.retain(|node, place| {
            let kept = verifier.member(node).is_some();
            if !kept {
                by_tag.remove(&places[*place].0);
            }
            kept
        });
    }

    /// What the asker may know of the list from a place on.
    fn part(&self, asker: &Membership, index: usize, verifier: &Verifier, times: Times) -> Names {
        let places = self.places.iter().enumerate().skip(index).take(TAGS_MAX);
        let tags = places.map(|(place, (tag, node))| {
            let newest = self.newest.get(node) == Some(&place);
            let told = newest && visible(asker, node, verifier, times).is_some();
            if told { *tag } else { [0; TAG_LEN] }
        });
        let (first, total) = (index as u64, self.places.len() as u64);
        Names { epoch: self.epoch, first, total, tags: tags.collect() }
    }
}

/// The membership of a node, if the asker may know of it: denied looks like unknown (control rule 12).
fn visible<'a>(
    asker: &Membership,
    node: &NodeId,
    verifier: &'a Verifier,
    times: Times,
) -> Option<&'a Verified<Membership>> {
    let member = verifier.member(node)?;
    let allowed = verifier.network().is_some_and(|network| network.policy.allows(asker, member));
    (allowed && verifier.authorised(&member.key, times).is_some()).then_some(member)
}

impl Lighthouse {
    /// The first epoch of its lists: greater than any of an earlier start.
    pub fn set_epoch(&mut self, epoch: u64) {
        // Lists are made anew less often than so many times a second.
        self.names.epoch = epoch << 16;
    }

    /// Somebody is a member.
    pub fn note_member(&mut self, member: &Membership, now: Instant) {
        if self.names.note(member) && !self.names.subscribers.is_empty() {
            let news = now + GATHER;
            self.names.next_news = Some(self.names.next_news.map_or(news, |held| held.min(news)));
        }
    }

    /// A member asks for names from a place on. To have asked behind news is to have got them.
    pub fn handle_ask_names(
        &mut self,
        asker: &Verified<Membership>,
        ask: AskNames,
        verifier: &Verifier,
        times: Times,
        now: Instant,
    ) {
        let list = &mut self.names;
        let index = usize::try_from(ask.index)
            .ok()
            .filter(|index| ask.epoch == list.epoch && *index <= list.places.len());
        let known = list.subscribers.contains_key(&asker.key);
        if known || list.subscribers.len() < self.capacity {
            let (until, index) = (now + SUBSCRIBED, index.unwrap_or(0));
            list.subscribers.insert(asker.key, Subscriber { until, index, tries: 0, next: now });
        }
        // Nothing new is worth no answer.
        if index != Some(list.places.len()) && self.look_ups.take(asker.key, now) {
            let part = list.part(asker, index.unwrap_or(0), verifier, times);
            let frame = Frame::Names(part);
            self.outbox.push_back(Outgoing { to: asker.key, path: None, frame });
        }
    }

    /// A member asks for the memberships behind tags.
    pub fn handle_ask_members(
        &mut self,
        asker: &Verified<Membership>,
        tags: &[Tag],
        verifier: &Verifier,
        times: Times,
        now: Instant,
    ) {
        if !self.admit_look_up(asker, now) {
            return;
        }
        for tag in tags.iter().take(MEMBERS_AT_ONCE) {
            let node = self.names.by_tag.get(tag);
            if let Some(member) = node.and_then(|node| visible(asker, node, verifier, times)) {
                let frame = Frame::Member(member.encoded().to_vec());
                self.outbox.push_back(Outgoing { to: asker.key, path: None, frame });
            }
        }
    }

    /// Tells those who read the list what is new in it.
    pub fn tell_names(&mut self, verifier: &Verifier, times: Times, now: Instant) {
        let list = &mut self.names;
        if list.next_news.is_none_or(|due| due > now) {
            return;
        }
        list.next_news = None;
        let mut subscribers = std::mem::take(&mut list.subscribers);
        subscribers.retain(|_, subscriber| subscriber.until > now);
        for (key, subscriber) in &mut subscribers {
            if subscriber.index >= list.places.len() || subscriber.tries >= TRIES {
                continue;
            }
            if subscriber.next <= now {
                let Some((asker, _)) = verifier.authorised(key, times) else { continue };
                let frame = Frame::Names(list.part(asker, subscriber.index, verifier, times));
                self.outbox.push_back(Outgoing { to: *key, path: None, frame });
                subscriber.next = now + AGAIN * (1 << subscriber.tries);
                subscriber.tries += 1;
            }
            list.next_news = Some(list.next_news.map_or(subscriber.next, |due| due.min(subscriber.next)));
        }
        list.subscribers = subscribers;
    }

    pub(super) fn next_news(&self) -> Option<Instant> {
        self.names.next_news
    }

    /// Drops from the list who is no member any more.
    pub fn sweep_names(&mut self, verifier: &Verifier) {
        self.names.forget_gone(verifier);
    }
}
