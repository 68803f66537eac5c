use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::document::{NetworkDocument, Revocation};
use crate::frame::Order;
use crate::test_support::*;

struct World {
    verifier: Verifier,
    lighthouse: Lighthouse,
    rng: ChaCha20Rng,
    sequence: u64,
}

fn at(seconds: u64) -> Now {
    Now { boot: Instant::from_nanos(seconds * 1_000_000_000), wall: day(TODAY) }
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn challenges(sent: &[Outgoing]) -> Vec<(SocketAddr, [u8; 16])> {
    let challenge = |sent: &Outgoing| match (&sent.frame, sent.path) {
        (Frame::Explore(nonce), Some(Path::Direct(address))) => Some((address, *nonce)),
        _ => None,
    };
    sent.iter().filter_map(challenge).collect()
}

impl World {
    fn new(members: std::ops::Range<u8>) -> Self {
        let mut verifier = crate::test_support::verifier();
        for number in members {
            let bytes = membership(number).sign(&issuer(), &verified_trust()).unwrap();
            verifier.accept_told(&bytes, times()).unwrap();
        }
        let options = LighthouseOptions { nodes: 10, ..LighthouseOptions::default() };
        let lighthouse = Lighthouse::new(options, at(0).boot);
        Self { verifier, lighthouse, rng: ChaCha20Rng::seed_from_u64(1), sequence: 0 }
    }

    fn member(&self, number: u8) -> Verified<Membership> {
        self.verifier.member(&node(number)).unwrap().clone()
    }

    fn sent(&mut self) -> Vec<Outgoing> {
        std::iter::from_fn(|| self.lighthouse.poll_output()).collect()
    }

    fn keepalive(&mut self, number: u8, from: &str, candidates: &[&str], seconds: u64) -> Vec<Outgoing> {
        self.sequence += 1;
        let order = Order { epoch: 1, sequence: self.sequence };
        self.ordered(number, order, from, candidates, seconds)
    }

    fn ordered(&mut self, who: u8, order: Order, from: &str, told: &[&str], seconds: u64) -> Vec<Outgoing> {
        let keepalive = Keepalive {
            order,
            candidates: told.iter().map(|text| socket(text)).collect(),
            relays: vec![node(200)],
        };
        let (member, path, now) = (self.member(who), Path::Direct(socket(from)), at(seconds));
        self.lighthouse.handle_keepalive(&member, &keepalive, path, &self.verifier, now, &mut self.rng);
        self.sent()
    }

    fn look_up(&mut self, number: u8, target: Target, seconds: u64) -> Vec<Outgoing> {
        let (member, path) = (self.member(number), Path::Direct(socket("198.51.100.1:1")));
        let (look_up, now) = (LookUp { id: 7, target }, at(seconds).boot);
        self.lighthouse.handle_look_up(&member, path, &look_up, &self.verifier, times(), now);
        self.sent()
    }

    fn candidates(&mut self, number: u8, target: u8, seconds: u64) -> Vec<SocketAddr> {
        let sent = self.look_up(number, Target::Node(node(target)), seconds);
        let Some(Frame::LookUpAnswer(LookUpAnswer { found: Some(found), .. })) =
            sent.into_iter().map(|sent| sent.frame).next()
        else {
            panic!("no answer")
        };
        found.candidates
    }
}

#[test]
fn a_look_up_tells_both_ends_of_each_other_control_rule_13() {
    let mut world = World::new(9..12);
    let sent = world.keepalive(9, "192.0.2.9:9", &[], 1);
    assert!(matches!(&sent[..], [Outgoing { frame: Frame::KeepaliveAnswer(answer), .. }]
        if answer.observed == socket("192.0.2.9:9") && answer.trust_epoch == 1));
    world.keepalive(10, "192.0.2.10:10", &["10.1.1.1:5"], 1);
    let sent = world.look_up(9, Target::Address("10.86.0.10".parse().unwrap()), 2);
    let [answer, introduction] = &sent[..] else { panic!("{sent:?}") };
    let Frame::LookUpAnswer(LookUpAnswer { id: 7, found: Some(found) }) = &answer.frame else { panic!() };
    assert_eq!(found.candidates, [socket("192.0.2.10:10"), socket("10.1.1.1:5")]);
    assert_eq!(found.relays, [node(200)]);
    assert_eq!(introduction.to, static_key(10));
    let Frame::Introduce(introduce) = &introduction.frame else { panic!() };
    assert_eq!(introduce.node, node(9));
    assert_eq!(introduce.candidates, [socket("198.51.100.1:1"), socket("192.0.2.9:9")]);
    assert_eq!(introduce.membership, world.member(9).encoded().to_vec());
}

#[test]
fn a_question_for_a_name_introduces_nobody() {
    let mut world = World::new(9..12);
    world.keepalive(10, "192.0.2.10:10", &[], 1);
    assert_eq!(world.look_up(9, Target::Name("db-10".parse().unwrap()), 2).len(), 1);
}

#[test]
fn nobody_is_nobody_whatever_the_reason_control_rule_12() {
    let mut world = World::new(9..12);
    world.keepalive(10, "192.0.2.10:10", &[], 1);
    let unknown = world.look_up(9, Target::Node(node(77)), 2);
    let mut document: NetworkDocument = network();
    document.version.counter += 1;
    document.revocations.insert(Revocation::Node(node(10)));
    world.verifier.install_network(&document.sign(&issuer(), &verified_trust()).unwrap(), times()).unwrap();
    assert_eq!(world.look_up(9, Target::Node(node(10)), 2), unknown);
}

#[test]
fn public_candidates_are_proven_first_control_rule_13() {
    let mut world = World::new(9..12);
    let victim = "203.0.113.5:53";
    let sent = world.keepalive(9, "192.0.2.9:9", &["192.0.2.9:9", victim, "10.0.0.1:1"], 1);
    let asked = challenges(&sent);
    let [(address, nonce)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(address, socket(victim));
    let told = ["192.0.2.9:9", "10.0.0.1:1"].map(socket);
    assert_eq!(world.candidates(10, 9, 2), told);
    // Nobody else's answer proves it, and no guess does.
    assert!(!world.lighthouse.handle_challenge_answer(&static_key(10), &nonce, at(2).boot));
    assert!(!world.lighthouse.handle_challenge_answer(&static_key(9), &[0; 16], at(2).boot));
    assert_eq!(world.candidates(10, 9, 2), told);
    assert!(world.lighthouse.handle_challenge_answer(&static_key(9), &nonce, at(2).boot));
    assert!(world.candidates(10, 9, 2).contains(&socket(victim)));
    assert_eq!(world.keepalive(9, "192.0.2.9:9", &[victim], 3).len(), 1, "not asked again at once");
}

#[test]
fn a_victim_gets_few_challenges_whoever_names_it_control_rule_13() {
    let mut world = World::new(9..19);
    let victim = |number: u8| format!("203.0.113.5:{number}");
    let mut sent = 0;
    for number in 9..19 {
        let told = [victim(number), victim(number + 100)];
        sent += challenges(&world.keepalive(number, "192.0.2.9:9", &[&told[0], &told[1]], 1)).len();
    }
    assert_eq!(sent, 4);
}

#[test]
fn a_member_that_names_many_places_takes_nobodys_challenges_control_rule_13() {
    let mut world = World::new(9..12);
    let mut sent = 0;
    for round in 0..1000 {
        let told: Vec<String> = (0..8).map(|number| format!("[2001:db8:{round:x}::{number}]:9")).collect();
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        sent += challenges(&world.keepalive(9, "192.0.2.9:9", &told, 1)).len();
    }
    assert_eq!(sent, 16);
    assert_eq!(challenges(&world.keepalive(10, "192.0.2.10:10", &["203.0.113.5:9"], 1)).len(), 1);
}

#[test]
fn answers_go_where_the_session_is_and_not_where_a_question_seems_to_come_from_control_rule_10() {
    let mut world = World::new(9..12);
    world.keepalive(10, "192.0.2.10:10", &[], 1);
    for target in [Target::Node(node(10)), Target::Name("db-10".parse().unwrap()), Target::Node(node(77))] {
        let sent = world.look_up(9, target, 2);
        assert!(sent.iter().all(|sent| sent.path.is_none()), "{sent:?}");
    }
}

#[test]
fn older_announcements_change_nothing_control_rule_11() {
    let mut world = World::new(9..12);
    let order = |epoch, sequence| Order { epoch, sequence };
    world.ordered(9, order(5, 5), "192.0.2.9:9", &["10.0.0.5:5"], 1);
    for old in [order(5, 5), order(5, 4), order(4, 99)] {
        world.ordered(9, old, "192.0.2.9:9", &["10.0.0.6:6"], 2);
        assert!(world.candidates(10, 9, 2).contains(&socket("10.0.0.5:5")), "{old:?}");
    }
    world.ordered(9, order(6, 0), "192.0.2.9:9", &["10.0.0.7:7"], 3);
    assert_eq!(world.candidates(10, 9, 3), ["192.0.2.9:9", "10.0.0.7:7"].map(socket));
}

#[test]
fn look_ups_and_introductions_are_limited_for_each_member_control_rule_12() {
    let mut world = World::new(9..12);
    world.keepalive(10, "192.0.2.10:10", &[], 1);
    let answers =
        |sent: &[Outgoing]| sent.iter().filter(|sent| matches!(sent.frame, Frame::LookUpAnswer(_))).count();
    let (mut answered, mut introduced) = (0, 0);
    for _ in 0..1000 {
        let sent = world.look_up(9, Target::Node(node(10)), 1);
        answered += answers(&sent);
        introduced += sent.len() - answers(&sent);
    }
    assert_eq!((answered, introduced), (200, 100));
    assert_eq!(world.lighthouse.counters().look_ups_limited, 800);
    assert_eq!(answers(&world.look_up(11, Target::Node(node(10)), 1)), 1, "others are not held back");
}

#[test]
fn memory_is_bounded_and_forgets_the_silent() {
    let mut world = World::new(9..30);
    for number in 9..30 {
        world.keepalive(number, "192.0.2.9:9", &[], 1);
    }
    assert_eq!(world.lighthouse.len(), 10);
    world.lighthouse.handle_timeout(at(400).boot);
    assert!(world.lighthouse.is_empty());
    world.keepalive(9, "192.0.2.9:9", &[], 401);
    world.lighthouse.forget(&static_key(9));
    assert!(world.lighthouse.is_empty());
}

#[test]
fn who_was_not_heard_lately_is_not_introduced() {
    let mut world = World::new(9..12);
    world.keepalive(10, "192.0.2.10:10", &[], 1);
    let sent = world.look_up(9, Target::Node(node(10)), 100);
    assert_eq!(sent.len(), 1, "an answer, and no introduction");
}

#[test]
fn a_cloned_disk_is_noticed_and_a_move_is_not_control_rule_19() {
    let mut world = World::new(9..12);
    let order = |sequence| Order { epoch: 1, sequence };
    for sequence in 1..6 {
        // A laptop that moves on and on.
        world.ordered(10, order(sequence), &format!("192.0.2.{sequence}:1"), &[], sequence);
    }
    assert_eq!(world.lighthouse.poll_alarm(), None);
    // A machine whose lines fail by turns.
    let lines = ["192.0.2.11:1", "[2001:db8::11]:1"];
    for sequence in 1..10 {
        world.ordered(11, order(sequence), lines[sequence as usize % 2], &lines, sequence * 10);
    }
    assert_eq!(world.lighthouse.poll_alarm(), None);
    // A thief who tells of his victim's address too, and is always ahead of it.
    for sequence in 1..6 {
        world.ordered(
            11,
            order(20 + sequence),
            "203.0.113.66:1",
            &["203.0.113.66:1", lines[0]],
            200 + sequence * 10,
        );
        world.ordered(11, order(sequence), lines[0], &lines, 201 + sequence * 10);
    }
    let alarm = world.lighthouse.poll_alarm();
    assert!(
        matches!(alarm, Some(LighthouseAlarm::TwoPlaces { node: who, .. }) if who == node(11)),
        "{alarm:?}"
    );
    // Two machines count alike: the second one's keepalives are old, and come from elsewhere all the same.
    for sequence in 1..6 {
        world.ordered(9, order(sequence), "192.0.2.9:9", &[], sequence * 10);
        world.ordered(9, order(sequence), "203.0.113.9:9", &[], sequence * 10 + 1);
    }
    let alarm = world.lighthouse.poll_alarm();
    assert!(
        matches!(alarm, Some(LighthouseAlarm::TwoPlaces { node: who, .. }) if who == node(9)),
        "{alarm:?}"
    );
}
