//! A lighthouse that lies: about endpoints, about who has what; one that aims others at a victim; and who only says that it is one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tombolo_control::NodeId;
use tombolo_control::document::Membership;
use tombolo_control::frame::{Found, Frame, Introduce, LookUpAnswer};
use tombolo_control::node::{EngineChange, Event};
use tombolo_noise::PublicKey;

use crate::victim::{Victim, key};

fn node_of(victim: &Victim, paper: &[u8]) -> NodeId {
    Membership::verify(paper, &victim.authority.trust).unwrap().node
}

fn introduce(victim: &mut Victim, from: PublicKey, number: u64, candidates: &[SocketAddr]) {
    let (member, membership) = victim.member(number);
    let node = node_of(victim, &membership);
    let introduce = Introduce { node, key: member, candidates: candidates.to_vec(), membership };
    victim.frame(from, &Frame::Introduce(introduce));
}

#[test]
fn introductions_aimed_at_a_victim_bring_few_initiations_control_rule_13() {
    let mut node = Victim::with_lighthouse();
    let target: IpAddr = "203.0.113.9".parse().unwrap();
    let lighthouse = node.lighthouse;
    // 2000 introductions of 200 members in twenty seconds, each with eight ports of one address.
    for round in 0..2000_u64 {
        let candidates: Vec<SocketAddr> =
            (0..8).map(|port| SocketAddr::new(target, 1000 + (round as u16) * 8 + port)).collect();
        introduce(&mut node, lighthouse, 100 + round % 200, &candidates);
        node.pass(Duration::from_millis(10));
    }
    node.pass(Duration::from_secs(40));
    let hits = node.take_initiations().iter().filter(|address| address.ip() == target).count();
    println!("{hits} initiations of 148 bytes in a minute, of 16000 that were asked for");
    assert!(hits > 0, "it does try");
    assert!(hits <= 24 + 2 * 61, "{hits}: 24 at once and two a second for one address");
    // Nor by frames: nothing is sent to an address but what a session has.
    assert!(node.take_frames().iter().all(|(to, _)| *to == lighthouse));
}

#[test]
fn candidates_that_can_be_nobody_are_not_called_control_rule_13() {
    let mut node = Victim::with_lighthouse();
    let lighthouse = node.lighthouse;
    let places = [
        "127.0.0.1:22",
        "[::1]:22",
        "0.0.0.0:9",
        "224.0.0.1:9",
        "255.255.255.255:9",
        "10.86.0.5:8662",
        "169.254.169.254:80",
    ];
    for (number, text) in places.iter().enumerate() {
        introduce(&mut node, lighthouse, 100 + number as u64, &[text.parse().unwrap()]);
        node.pass(Duration::from_secs(5));
    }
    // But for the lighthouse, which does not answer keepalives here.
    let lighthouse = ["192.0.2.2", "192.0.2.77"].map(|text| text.parse::<IpAddr>().unwrap());
    let mut called = node.take_initiations();
    called.retain(|address| !lighthouse.contains(&address.ip()));
    assert!(called.is_empty(), "{called:?}");
}

#[test]
fn who_is_no_lighthouse_introduces_and_answers_nothing_control_rule_13() {
    let mut node = Victim::with_lighthouse();
    let (member, paper) = node.member(50);
    node.session(member);
    node.show(member, paper);
    assert!(node.is_authorised(&member));
    node.take_changes();
    introduce(&mut node, member, 60, &["203.0.113.9:8662".parse().unwrap()]);
    node.pass(Duration::from_secs(2));
    assert!(!node.is_authorised(&key(60)));
    assert!(
        node.take_initiations()
            .iter()
            .all(|address| address.ip() != "203.0.113.9".parse::<IpAddr>().unwrap())
    );
    // Not even the answer to what the lighthouse was asked, with its number.
    let address: IpAddr = "10.86.0.77".parse().unwrap();
    node.event(Event::Wanted { address });
    let id = asked(&mut node);
    let (_, paper) = node.member(61);
    answer(&mut node, member, id, Some(paper));
    assert!(!node.is_authorised(&key(61)));
}

/// The number of the look-up that the lighthouse was just sent.
fn asked(node: &mut Victim) -> u64 {
    let lighthouse = node.lighthouse;
    let look_up = node.take_frames().into_iter().find_map(|(to, frame)| match frame {
        Frame::LookUp(look_up) if to == lighthouse => Some(look_up.id),
        _ => None,
    });
    look_up.expect("a look-up")
}

fn answer(node: &mut Victim, from: PublicKey, id: u64, membership: Option<Vec<u8>>) {
    let candidates = vec!["203.0.113.9:8662".parse().unwrap()];
    let found = membership.map(|membership| Found { membership, candidates, relays: Vec::new() });
    node.frame(from, &Frame::LookUpAnswer(LookUpAnswer { id, found }));
}

#[test]
fn a_lighthouse_gives_nobody_anothers_address_control_rules_4_and_7() {
    let elsewhere: IpAddr = "10.86.200.200".parse().unwrap();
    for lie in 0..3 {
        let mut node = Victim::with_lighthouse();
        let lighthouse = node.lighthouse;
        // Whom the victim knows, and whom the lighthouse names in place of whoever has the address.
        let (friend, friends_paper) = node.member(50);
        node.session(friend);
        node.show(friend, friends_paper.clone());
        let wanted =
            *Membership::verify(&friends_paper, &node.authority.trust).unwrap().addresses.first().unwrap();
        node.take_changes();
        node.take_frames();
        let mut forged = friends_paper;
        *forged.last_mut().unwrap() ^= 1;
        let (_, other) = node.member(51);
        let lie = [other, forged, b"nothing".to_vec()][lie].clone();
        node.event(Event::Wanted { address: elsewhere });
        let id = asked(&mut node);
        answer(&mut node, lighthouse, id, Some(lie));
        node.pass(Duration::from_secs(6));
        let changes = node.take_changes();
        let installed = |change: &EngineChange| {
            matches!(change, EngineChange::Install { networks, .. }
                if networks.iter().any(|network| network.contains(&elsewhere)))
        };
        assert!(!changes.iter().any(installed), "nobody has it");
        let dropped = |change: &EngineChange| *change == EngineChange::Drop { address: elsewhere };
        assert!(changes.iter().any(dropped), "and who waits is told");
        // Nor does any of it displace who is known (control rule 12).
        assert_eq!(node.node.verifier().member_at(wanted).map(|member| member.key), Some(friend));
    }
}

#[test]
fn what_a_lighthouse_withholds_another_member_tells_control_rule_2() {
    let mut node = Victim::with_lighthouse();
    let (member, paper) = node.member(50);
    let wall = node.wall();
    let signed = node.authority.sign(wall);
    let newest = node.authority.network.version;
    node.pass(Duration::from_secs(60));
    assert!(node.node.verifier().network().unwrap().version < newest, "the lighthouse has said nothing");
    // In the first frame of a tunnel with anybody (control rule 2).
    node.session(member);
    let trust = &node.authority.trust;
    let order = tombolo_control::frame::Order { epoch: 1, sequence: 1 };
    let (trust_epoch, trust_hash, head) = (trust.epoch, trust.hash(), Some(signed.head.clone()));
    let versions = tombolo_control::frame::Versions { order, trust_epoch, trust_hash, head };
    node.frame(
        member,
        &Frame::Show(tombolo_control::frame::Show { membership: paper, versions, answer: false }),
    );
    let asked = node.take_frames().into_iter().find_map(|(to, frame)| match frame {
        Frame::PullBlock(pull) if to == member => Some(pull),
        _ => None,
    });
    let block = tombolo_control::pull::block(&signed.network, asked.expect("a pull")).unwrap();
    node.frame(member, &Frame::Block(block));
    assert_eq!(node.node.verifier().network().unwrap().version, newest);
}
