use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_noise::clock::{Instant, Now};

use crate::document::{Issuer, Membership, Roles};
use crate::frame::names::{AskNames, Names, Tag, tag_of};
use crate::frame::{Frame, LookUp, Order, Show, Target, Versions};
use crate::lighthouse::LighthouseOptions;
use crate::node::{Event, NamedNode, Node, NodeOptions, Output, Saved, SavedDocuments};
use crate::path::Path;
use crate::test_support::*;
use crate::verifier::Pins;

/// Node 9, with a verified session with the lighthouse, node 200.
struct World {
    node: Node,
    rng: ChaCha20Rng,
    milliseconds: u64,
}

pub(super) fn signed(membership: &Membership) -> Vec<u8> {
    membership.sign(&issuer(), &verified_trust()).unwrap()
}

pub(super) fn saved(membership: &Membership) -> Saved {
    let pins = Pins { network: network_id(), root: root().verifying_key().fingerprint(), overlay: None };
    let documents = SavedDocuments {
        pins,
        floor: None,
        trust: Some(verified_trust().encoded().to_vec()),
        network: Some(network().sign(&issuer(), &verified_trust()).unwrap()),
        head: None,
    };
    Saved { documents, membership: signed(membership), time: day(TODAY), epoch: 1, peers: Vec::new() }
}

fn lighthouse() -> Membership {
    Membership { roles: Roles::LIGHTHOUSE, ..membership(200) }
}

impl World {
    fn new() -> Self {
        let saved = saved(&membership(9));
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let now = Now { boot: Instant::from_nanos(0), wall: day(TODAY) };
        let node = Node::restore(static_key(9), &saved, NodeOptions::default(), now, &mut rng);
        let mut world = Self { node, rng, milliseconds: 0 };
        world.node.follow_names(Vec::new(), now);
        let path = Path::Direct("192.0.2.1:8662".parse().unwrap());
        world.event(Event::Established {
            peer: static_key(200),
            path,
            initiator: true,
            handshake_hash: [1; 32],
        });
        let order = Order { epoch: 1, sequence: 1 };
        let trust_hash = verified_trust().hash();
        let versions = Versions { order, trust_epoch: 1, trust_hash, head: None };
        world.told(Frame::Show(Show { membership: signed(&lighthouse()), versions, answer: false }));
        world
    }

    fn now(&self) -> Now {
        Now { boot: Instant::from_nanos(self.milliseconds * 1_000_000), wall: day(TODAY) }
    }

    /// Lets time pass, and gives the frames that went to the lighthouse.
    fn event(&mut self, event: Event<'_>) -> Vec<Frame> {
        let now = self.now();
        self.node.handle_event(event, now, &mut self.rng);
        self.milliseconds += 10;
        let now = self.now();
        self.node.handle_timeout(now, &mut self.rng);
        let mut frames = Vec::new();
        while let Some(output) = self.node.poll_output() {
            if let Output::Send(outgoing) = output {
                frames.push(outgoing.frame);
            }
        }
        frames
    }

    fn told(&mut self, frame: Frame) -> Vec<Frame> {
        let bytes = frame.to_bytes().unwrap();
        let path = Path::Direct("192.0.2.1:8662".parse().unwrap());
        self.event(Event::Message { from: static_key(200), path, message: &bytes })
    }

    fn lists(&mut self, tags: Vec<Tag>) -> Vec<Frame> {
        self.told(Frame::Names(Names { epoch: 5, first: 0, total: tags.len() as u64, tags }))
    }

    fn knows(&self, name: &str) -> bool {
        self.node.addresses_of(&name.parse().unwrap()).is_some()
    }
}

#[test]
fn a_lying_lighthouse_makes_up_no_name_and_moves_none_control_rule_7() {
    let mut world = World::new();
    // One that nobody of the network signed, and one with a victim's name and its own address.
    let mut other = trust();
    other.issuers = vec![Issuer { key: stranger().verifying_key(), limits: limits() }];
    let forged = membership(2).sign(&stranger(), &verify_trust(&other)).unwrap();
    let thief =
        Membership { node: node(4), key: static_key(4), addresses: set(&["10.86.0.4"]), ..membership(1) };
    let revoked = membership(66);
    let tags = [&membership(1), &membership(2), &thief, &revoked].map(tag_of).to_vec();
    let asked = world.lists(tags.clone());
    let wanted = asked.iter().find_map(|frame| match frame {
        Frame::AskMembers(tags) => Some(tags.len()),
        _ => None,
    });
    assert_eq!(wanted, Some(4), "{asked:?}");
    world.told(Frame::Member(signed(&membership(1))));
    assert!(world.knows("db-1"));
    let first = world.node.addresses_of(&"db-1".parse().unwrap()).cloned();
    world.told(Frame::Member(signed(&thief)));
    assert_eq!(world.node.addresses_of(&"db-1".parse().unwrap()).cloned(), first, "who has a name keeps it");
    world.told(Frame::Member(forged));
    let mut broken = signed(&membership(2));
    broken[40] ^= 1;
    world.told(Frame::Member(broken));
    assert!(!world.knows("db-2"), "what no issuer has signed is no name");
    world.told(Frame::Member(signed(&revoked)));
    assert!(!world.knows("db-66"), "nor is what was revoked");
    // True, and not listed.
    world.told(Frame::Member(signed(&membership(3))));
    assert!(!world.knows("db-3"));
    world.told(Frame::Member(signed(&membership(2))));
    assert!(world.knows("db-2") && world.knows("db-9"), "the true one, and one's own");
}

#[test]
fn a_lost_answer_is_asked_for_again_and_a_new_list_read_anew() {
    let mut world = World::new();
    let asks = |frames: &[Frame]| frames.iter().any(|frame| matches!(frame, Frame::AskMembers(_)));
    assert!(asks(&world.lists(vec![tag_of(&membership(1))])));
    assert!(!asks(&world.told(Frame::Challenge([1; 16]))), "not at once");
    world.milliseconds += 1000;
    assert!(asks(&world.told(Frame::Challenge([1; 16]))), "it may have been lost");
    world.told(Frame::Member(signed(&membership(1))));
    assert!(world.knows("db-1"));
    // The lighthouse has restarted: what is known by its tag is not asked for again.
    let tags = vec![tag_of(&membership(1))];
    let frames = world.told(Frame::Names(Names { epoch: 6, first: 0, total: 1, tags }));
    assert!(!asks(&frames) && world.knows("db-1"));
}

#[test]
fn who_shows_a_newer_name_is_called_by_it() {
    let mut world = World::new();
    let known = world.node.names().find(|named| named.node == node(200)).unwrap();
    let old = NamedNode { name: "old".parse().unwrap(), serial: 0, ..known };
    let now = world.now();
    world.node.follow_names(vec![old], now);
    assert!(world.knows("old"));
    let order = Order { epoch: 1, sequence: 2 };
    let versions = Versions { order, trust_epoch: 1, trust_hash: verified_trust().hash(), head: None };
    world.told(Frame::Show(Show {
        membership: signed(&Membership { serial: 2, ..lighthouse() }),
        versions,
        answer: false,
    }));
    let names: Vec<String> = world.node.names().map(|named| named.name.to_string()).collect();
    assert!(names.contains(&"db-200".to_owned()) && !names.contains(&"old".to_owned()), "{names:?}");
}

#[test]
fn a_lighthouse_that_has_the_register_lists_whom_it_has_not_heard_yet_control_rule_12() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let now = Now { boot: Instant::from_nanos(0), wall: day(TODAY) };
    let mut server =
        Node::restore(static_key(200), &saved(&lighthouse()), NodeOptions::default(), now, &mut rng);
    server.serve_lighthouse(LighthouseOptions::default(), now);
    for number in [1, 2] {
        server.know(&signed(&membership(number)), now, &mut rng).unwrap();
    }
    assert!(server.know(&signed(&membership(66)), now, &mut rng).is_err(), "it was revoked");
    let lighthouse = server.lighthouse().unwrap();
    assert!(lighthouse.is_empty(), "where anybody is, nobody knows");

    // Node 9 is the first to come back.
    let (peer, path) = (static_key(9), Path::Direct("198.51.100.9:8662".parse().unwrap()));
    let began = Event::Established { peer, path, initiator: false, handshake_hash: [1; 32] };
    server.handle_event(began, now, &mut rng);
    let order = Order { epoch: 1, sequence: 1 };
    let versions = Versions { order, trust_epoch: 1, trust_hash: verified_trust().hash(), head: None };
    let show = Show { membership: signed(&membership(9)), versions, answer: false };
    let look_up = LookUp { id: 7, target: Target::Node(node(1)) };
    for frame in [Frame::Show(show), Frame::AskNames(AskNames { epoch: 0, index: 0 }), Frame::LookUp(look_up)]
    {
        let message = frame.to_bytes().unwrap();
        server.handle_event(Event::Message { from: peer, path, message: &message }, now, &mut rng);
    }
    let (mut listed, mut found) = (Vec::new(), None);
    while let Some(output) = server.poll_output() {
        match output {
            Output::Send(sent) if sent.to == peer => match sent.frame {
                Frame::Names(names) => listed = names.tags,
                Frame::LookUpAnswer(answer) => found = answer.found,
                _ => {}
            },
            _ => {}
        }
    }
    let own = server.membership().unwrap();
    for known in [tag_of(&membership(1)), tag_of(&membership(2)), tag_of(own)] {
        assert!(listed.contains(&known), "{listed:?}");
    }
    assert!(!listed.contains(&tag_of(&membership(66))));
    let found = found.unwrap();
    assert_eq!((found.membership, found.candidates), (signed(&membership(1)), Vec::new()));
}
