//! Papers that are forged, cut, old, of another type, of another network or another member.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_control::document::{Membership, Roles};
use tombolo_control::frame::{Frame, PullBlock};
use tombolo_control::node::{EngineChange, NodeAlarm};
use tombolo_noise::clock::UnixTime;

use crate::authority::DAY;
use crate::victim::{Victim, key};

/// Nothing that was shown has made a member of the key.
fn assert_refused(node: &mut Victim, number: u64, what: &str) {
    assert!(!node.is_authorised(&key(number)), "{what}");
    let installed = |change: &EngineChange| matches!(change, EngineChange::Install { key: installed, .. } if *installed == key(number));
    assert!(!node.take_changes().iter().any(installed), "{what}");
}

#[test]
fn another_members_membership_is_of_no_use_control_rule_3() {
    let mut node = Victim::new();
    let (_, paper) = node.member(50);
    node.session(key(66));
    node.show(key(66), paper.clone());
    assert_refused(&mut node, 66, "shown over a session of another key");
    assert!(!node.is_authorised(&key(50)), "nor is its owner a member here by that");
    // Over its own session it is good.
    node.session(key(50));
    node.show(key(50), paper);
    assert!(node.is_authorised(&key(50)));
    // And one's own, which everybody has seen, is of no use against oneself.
    let own = node.node.membership().unwrap().encoded().to_vec();
    node.session(key(67));
    node.show(key(67), own);
    assert_refused(&mut node, 67, "the victim's own");
    assert!(node.node.membership().is_some_and(|member| member.key == node.own()));
}

#[test]
fn cut_changed_and_mistaken_papers_are_refused_control_rule_6() {
    let mut node = Victim::new();
    let (member, paper) = node.member(50);
    let wall = node.wall();
    let signed = node.authority.sign(wall);
    let version = node.node.verifier().network().unwrap().version;
    let mut papers: Vec<Vec<u8>> = (0..paper.len()).map(|length| paper[..length].to_vec()).collect();
    papers.extend((0..paper.len()).map(|place| {
        let mut changed = paper.clone();
        changed[place] ^= 0x20;
        changed
    }));
    papers.push([&paper[..], b"\0"].concat());
    papers.extend([signed.head.clone(), signed.trust.clone()]);
    papers.retain(|paper| paper.len() <= 600);
    for paper in papers {
        node.session(member);
        node.show(member, paper);
        assert_refused(&mut node, 50, "a membership");
    }
    node.session(member);
    node.show(member, paper.clone());
    assert!(node.is_authorised(&member));
    for length in 0..signed.trust.len() {
        node.frame(member, &Frame::Trust(signed.trust[..length].to_vec()));
    }
    node.frame(member, &Frame::Trust(paper));
    node.frame(member, &Frame::Trust(signed.head));
    assert_eq!(node.node.verifier().network().unwrap().version, version);
    assert_eq!(node.node.verifier().trust().unwrap().epoch, 1);
}

#[test]
fn old_papers_bring_nobody_back_control_rules_4_16_and_17() {
    let mut node = Victim::new();
    let (member, old) = node.member(50);
    let expired = {
        let long_ago = UnixTime(node.wall().0 - Duration::from_secs(60 * DAY));
        node.authority.issue(key(51), Roles::NONE, long_ago)
    };
    node.session(key(51));
    node.show(key(51), expired);
    assert_refused(&mut node, 51, "expired long ago");
    let id = Membership::verify(&old, &node.authority.trust).unwrap().node;
    node.authority.revoke(id);
    let wall = node.wall();
    let signed = node.authority.sign(wall);
    let times = tombolo_noise::clock::Now { boot: tombolo_noise::clock::Instant::from_nanos(node.now), wall };
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    node.node.install(&signed.trust, &signed.network, &signed.head, times, &mut rng).unwrap();
    node.session(member);
    node.show(member, old);
    assert_refused(&mut node, 50, "revoked");
}

#[test]
fn a_stranger_that_pulls_documents_meets_silence_control_rule_8() {
    let mut node = Victim::new();
    let (member, paper) = node.member(50);
    node.session(member);
    node.take_frames();
    let hash = node.node.verifier().network().unwrap().hash();
    let pulls = [Frame::PullTrust, Frame::PullBlock(PullBlock { hash, index: 0 })];
    let answers = |node: &mut Victim| {
        pulls.iter().for_each(|pull| node.frame(member, pull));
        let frames = node.take_frames().into_iter().filter(|(to, _)| *to == member);
        frames.filter(|(_, frame)| matches!(frame, Frame::Trust(_) | Frame::Block(_))).count()
    };
    for _ in 0..10 {
        assert_eq!(answers(&mut node), 0);
    }
    assert!(node.take_frames().is_empty(), "nor is anything else said");
    // Who has shown a membership has both.
    node.show(member, paper);
    assert_eq!(answers(&mut node), 2);
}

#[test]
fn a_membership_that_nobody_renews_is_an_alarm_from_half_of_its_life_on_control_rule_16() {
    let mut node = Victim::new();
    let warned = |node: &Victim| {
        node.alarms.iter().filter(|alarm| matches!(alarm, NodeAlarm::NotRenewed { .. })).count()
    };
    // It lasts for 14 days.
    node.pass(Duration::from_secs(7 * DAY - 120));
    assert_eq!(warned(&node), 0);
    node.pass(Duration::from_secs(240));
    assert_eq!(warned(&node), 1);
    node.pass(Duration::from_secs(DAY));
    assert_eq!(warned(&node), 1, "said once, and shown for as long as it lasts");
}
