//! Subnets behind gateways (control rule 5). In the network document 192.168.7.0/24 lies behind the nodes 7 and 8.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_noise::clock::{Instant, Now};

use super::names_tests::{saved, signed};
use crate::document::{Membership, Roles};
use crate::frame::{Frame, Order, Show, Target, Versions};
use crate::node::{EngineChange, Event, Node, NodeOptions, Output};
use crate::path::Path;
use crate::test_support::*;
use crate::verifier::RouteRefusal;

const BEHIND: &str = "192.168.7.20";

/// Node 9.
struct World {
    node: Node,
    rng: ChaCha20Rng,
    now: Duration,
    frames: Vec<Frame>,
    changes: Vec<EngineChange>,
}

impl World {
    fn new(accepted: &[&str]) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let options = NodeOptions { accept_routes: prefixes(accepted), ..NodeOptions::default() };
        let now = Now { boot: Instant::from_nanos(0), wall: day(TODAY) };
        let node = Node::restore(static_key(9), &saved(&membership(9)), options, now, &mut rng);
        Self { node, rng, now: Duration::ZERO, frames: Vec::new(), changes: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { boot: Instant::from_nanos(self.now.as_nanos() as u64), wall: day(TODAY) }
    }

    fn collect(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send(outgoing) => self.frames.push(outgoing.frame),
                Output::Engine(change) => self.changes.push(change),
                _ => {}
            }
        }
    }

    fn event(&mut self, event: Event<'_>) {
        self.node.handle_event(event, self.now(), &mut self.rng);
        self.collect();
    }

    fn accept(&mut self, accepted: &[&str]) {
        self.node.accept_routes(prefixes(accepted), self.now(), &mut self.rng);
        self.collect();
    }

    fn pass(&mut self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.now += Duration::from_secs(1);
            self.node.handle_timeout(self.now(), &mut self.rng);
            self.collect();
        }
    }

    /// A member comes and shows itself.
    fn meet(&mut self, member: &Membership) {
        let path = Path::Direct("192.0.2.7:8662".parse().unwrap());
        self.event(Event::Established { peer: member.key, path, initiator: false, handshake_hash: [1; 32] });
        let order = Order { epoch: 1, sequence: 1 };
        let versions = Versions { order, trust_epoch: 1, trust_hash: verified_trust().hash(), head: None };
        let show = Frame::Show(Show { membership: signed(member), versions, answer: false });
        self.event(Event::Message { from: member.key, path, message: &show.to_bytes().unwrap() });
    }

    fn wants(&mut self, address: &str) {
        self.event(Event::Wanted { address: address.parse::<IpAddr>().unwrap() });
    }

    /// What the data path was last given for the gateway.
    fn given(&mut self) -> Option<BTreeSet<IpNet>> {
        let changes = std::mem::take(&mut self.changes);
        changes.into_iter().rev().find_map(|change| match change {
            EngineChange::Install { key, networks, .. } if key == static_key(7) => Some(networks),
            _ => None,
        })
    }
}

fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn gateway() -> Membership {
    // It may route the second as well, but the network does not have it so.
    Membership { routes: set(&["192.168.7.0/24", "172.16.0.0/16"]), ..membership(7) }
}

fn own() -> BTreeSet<IpNet> {
    set(&["10.86.0.7/32", "fd86::7/128"])
}

fn with_subnet() -> BTreeSet<IpNet> {
    set(&["10.86.0.7/32", "fd86::7/128", "192.168.7.0/24"])
}

#[test]
fn a_gateway_may_send_for_a_subnet_only_where_that_is_accepted_control_rule_5() {
    for (accepted, given) in [
        (&["192.168.0.0/16", "172.16.0.0/12"][..], with_subnet()),
        (&["192.168.7.0/24"], with_subnet()),
        (&[], own()),
        (&["192.168.8.0/24"], own()),
        (&["192.168.7.0/25"], own()),
        (&["0.0.0.0/1", "172.16.0.0/12"], own()),
    ] {
        let mut world = World::new(accepted);
        world.meet(&gateway());
        assert_eq!(world.given(), Some(given), "{accepted:?}");
    }
}

#[test]
fn what_is_accepted_later_or_no_longer_reaches_the_data_path_at_once_control_rule_5() {
    let mut world = World::new(&[]);
    world.meet(&gateway());
    assert_eq!(world.given(), Some(own()));
    let route = "192.168.7.0/24".parse().unwrap();
    assert_eq!(world.node.admit_route(route), Err(RouteRefusal::NotAccepted));
    world.accept(&["192.168.7.0/24"]);
    assert_eq!(world.given(), Some(with_subnet()));
    assert_eq!(world.node.admit_route(route), Ok(()));
    world.accept(&[]);
    assert_eq!(world.given(), Some(own()));
}

#[test]
fn the_gateway_is_looked_for_where_its_subnet_is_accepted_alone_control_rule_5() {
    let lighthouse = Membership { roles: Roles::LIGHTHOUSE, ..membership(200) };
    for (accepted, sought) in [("192.168.7.0/24", true), ("192.168.8.0/24", false)] {
        let mut world = World::new(&[accepted]);
        world.meet(&lighthouse);
        world.wants(BEHIND);
        let asked = world
            .frames
            .iter()
            .any(|frame| matches!(frame, Frame::LookUp(look_up) if look_up.target == Target::Node(node(7))));
        assert_eq!(asked, sought, "{accepted}");
        let address: IpAddr = BEHIND.parse().unwrap();
        let dropped = world
            .changes
            .iter()
            .any(|change| matches!(change, EngineChange::Drop { address: dropped } if *dropped == address));
        assert_eq!(dropped, !sought, "{accepted}");
    }
}

#[test]
fn a_gateway_that_was_let_go_is_called_again_for_the_next_packet() {
    let mut world = World::new(&["192.168.7.0/24"]);
    world.meet(&gateway());
    world.event(Event::Ended { peer: static_key(7) });
    world.pass(Duration::from_secs(700));
    let gone =
        |change: &EngineChange| matches!(change, EngineChange::Remove { key } if *key == static_key(7));
    assert!(world.changes.iter().any(gone), "it was let go");
    world.changes.clear();
    world.wants(BEHIND);
    assert_eq!(world.given(), Some(with_subnet()));
}

#[test]
fn nobody_is_called_at_an_address_that_lies_behind_a_gateway() {
    let mut world = World::new(&["192.168.7.0/24"]);
    assert!(!world.node.is_possible("192.168.7.1:8662".parse().unwrap()));
    world.accept(&[]);
    assert!(world.node.is_possible("192.168.7.1:8662".parse().unwrap()));
}
