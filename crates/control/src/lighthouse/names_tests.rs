use tombolo_noise::clock::Instant;

use super::{Lighthouse, LighthouseOptions};
use crate::document::{Membership, Revocation, Verified};
use crate::frame::Frame;
use crate::frame::names::{AskNames, Names, TAG_LEN, tag_of};
use crate::test_support::*;
use crate::verifier::Verifier;

struct World {
    verifier: Verifier,
    lighthouse: Lighthouse,
}

fn at(milliseconds: u64) -> Instant {
    Instant::from_nanos(milliseconds * 1_000_000)
}

impl World {
    fn new() -> Self {
        let mut lighthouse = Lighthouse::new(LighthouseOptions::default(), at(0));
        lighthouse.set_epoch(1);
        Self { verifier: verifier(), lighthouse }
    }

    fn admit(&mut self, membership: &Membership, milliseconds: u64) {
        let bytes = membership.sign(&issuer(), &verified_trust()).unwrap();
        let member = self.verifier.accept_told(&bytes, times()).unwrap().membership;
        self.lighthouse.note_member(&member, at(milliseconds));
    }

    fn member(&self, number: u8) -> Verified<Membership> {
        self.verifier.member(&node(number)).unwrap().clone()
    }

    fn sent(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.lighthouse.poll_output()).map(|sent| sent.frame).collect()
    }

    fn ask(&mut self, who: u8, epoch: u64, index: u64, milliseconds: u64) -> Option<Names> {
        let (asker, ask) = (self.member(who), AskNames { epoch, index });
        self.lighthouse.handle_ask_names(&asker, ask, &self.verifier, times(), at(milliseconds));
        match self.sent().pop() {
            Some(Frame::Names(list)) => Some(list),
            _ => None,
        }
    }

    fn told(&mut self, milliseconds: u64) -> Option<Names> {
        self.lighthouse.tell_names(&self.verifier, times(), at(milliseconds));
        match self.sent().pop() {
            Some(Frame::Names(list)) => Some(list),
            _ => None,
        }
    }
}

#[test]
fn names_are_listed_and_fetched_as_signed_memberships_control_rule_7() {
    let mut world = World::new();
    (1..=3).for_each(|number| world.admit(&membership(number), 0));
    let list = world.ask(1, 0, 0, 0).unwrap();
    assert_eq!((list.first, list.total, list.tags.len()), (0, 3, 3));
    let tags = list.tags.clone();
    assert_eq!(tags[1], tag_of(&membership(2)));
    let asker = world.member(1);
    world.lighthouse.handle_ask_members(&asker, &tags, &world.verifier, times(), at(0));
    let sent = world.sent();
    let expected: Vec<Frame> =
        (1..=3).map(|number| Frame::Member(world.member(number).encoded().to_vec())).collect();
    assert_eq!(sent, expected);
    assert_eq!(world.ask(1, list.epoch, 3, 0), None, "nothing new is worth no answer");
    assert_eq!(world.ask(1, list.epoch + 1, 3, 0).unwrap().first, 0, "another list is read from its begin");
}

#[test]
fn news_are_told_until_they_are_asked_behind() {
    let mut world = World::new();
    (1..=2).for_each(|number| world.admit(&membership(number), 0));
    let list = world.ask(1, 0, 0, 0).unwrap();
    assert_eq!(world.ask(1, list.epoch, 2, 0), None);
    assert_eq!(world.told(10), None);
    world.admit(&membership(3), 100);
    assert_eq!(world.told(120), None, "what comes together is told together");
    let news = world.told(150).unwrap();
    assert_eq!((news.first, news.total, &news.tags[..]), (2, 3, &[tag_of(&membership(3))][..]));
    assert_eq!(world.told(540), None);
    assert_eq!(world.told(550), Some(news.clone()), "the first may have been lost");
    assert_eq!(world.ask(1, list.epoch, 3, 600), None);
    assert_eq!(world.told(60_000), None);
    // The same membership, and one renewed, are no news; a name is.
    world.admit(&Membership { serial: 2, ..membership(3) }, 60_000);
    assert_eq!(world.told(60_100), None);
    world.admit(&Membership { serial: 3, name: "other".parse().unwrap(), ..membership(3) }, 60_200);
    let news = world.told(60_300).unwrap();
    assert_eq!((news.first, news.tags.len()), (3, 1));
    // Who does not ask again is told no more.
    world.admit(&membership(4), 200_000);
    assert_eq!(world.told(200_100), None);
}

#[test]
fn who_is_revoked_is_listed_no_more_control_rule_16() {
    let mut world = World::new();
    (1..=3).for_each(|number| world.admit(&membership(number), 0));
    let mut document = network();
    document.version.counter += 1;
    document.revocations.insert(Revocation::Node(node(2)));
    let bytes = document.sign(&issuer(), &verified_trust()).unwrap();
    world.verifier.install_network(&bytes, times()).unwrap();
    let list = world.ask(1, 0, 0, 0).unwrap();
    assert_eq!(list.tags[1], [0; TAG_LEN], "its place stays, so that others keep theirs");
    assert_eq!(list.tags[2], tag_of(&membership(3)));
    let (asker, tags) = (world.member(1), [tag_of(&membership(2))]);
    world.lighthouse.handle_ask_members(&asker, &tags, &world.verifier, times(), at(0));
    assert!(world.sent().is_empty());
}

#[test]
fn a_list_that_grew_by_renaming_is_made_anew() {
    let mut world = World::new();
    world.admit(&membership(1), 0);
    let first = world.ask(1, 0, 0, 0).unwrap().epoch;
    for serial in 2..200 {
        let name = format!("name-{serial}").parse().unwrap();
        world.admit(&Membership { serial, name, ..membership(2) }, serial);
    }
    let list = world.ask(1, first, 1, 0).unwrap();
    assert!(list.epoch > first && list.total < 100, "{} places", list.total);
    let told: Vec<_> = list.tags.iter().filter(|tag| **tag != [0; TAG_LEN]).collect();
    assert_eq!(told, [&tag_of(&world.member(1)), &tag_of(&world.member(2))]);
}
