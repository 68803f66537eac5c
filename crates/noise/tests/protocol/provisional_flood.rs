//! Strangers by the thousand, and in every order: control rule 8.

use crate::harness::{World, millis, seconds};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use tombolo_noise::clock::Instant;
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::handshake::create_initiation;
use tombolo_noise::keys::{RemoteStatic, StaticIdentity};
use tombolo_noise::{MembershipOptions, Output, PrivateKey, Standing, Tai64n};
use tombolo_packet::message::{CookieReply, MessageType};
use tombolo_packet::{DropReason, Endpoint};

const MEMBERS: usize = 20;
const QUEUE: usize = 1024;
/// What a Diffie-Hellman is said to cost, in microseconds.
const DIFFIE_HELLMAN: u64 = 100;

/// A stranger with a key of its own.
struct Attacker {
    source: SocketAddr,
    remote: RemoteStatic,
    jar: CookieJar,
    initiation: Vec<u8>,
}

fn attackers(world: &mut World, count: u16) -> Vec<Attacker> {
    let mut rng = ChaCha20Rng::seed_from_u64(99);
    let timestamp = Tai64n::from_unix(world.now_of(0).wall);
    let server = world.nodes[0].public_key();
    (0..count)
        .map(|number| {
            let identity = StaticIdentity::new(PrivateKey::generate(&mut rng));
            let remote = RemoteStatic::new(&identity, server);
            let (_, message) =
                create_initiation(&identity, &remote, timestamp, number.into(), &mut rng).unwrap();
            let source = SocketAddr::from(([203, 0, 113, number as u8], 1000 + number));
            Attacker { source, remote, jar: CookieJar::new(), initiation: message.to_vec() }
        })
        .collect()
}

impl Attacker {
    fn message(&mut self, now: Instant) -> Vec<u8> {
        let mut message = self.initiation.clone();
        self.jar.write_macs(&mut message, &self.remote, now);
        message
    }
}

/// The control thread of the server with its two queues, in virtual time: what it does costs what it is said to cost.
struct ControlThread {
    queues: [VecDeque<(SocketAddr, Vec<u8>, Instant)>; 2],
    /// Virtual microseconds spent on Diffie-Hellman for strangers.
    stranger_work: u64,
    completed: BTreeMap<SocketAddr, Duration>,
    members_dropped: Vec<DropReason>,
    admitted: usize,
}

impl ControlThread {
    fn new() -> Self {
        Self {
            queues: [VecDeque::new(), VecDeque::new()],
            stranger_work: 0,
            completed: BTreeMap::new(),
            members_dropped: Vec::new(),
            admitted: 0,
        }
    }

    fn enqueue(&mut self, world: &World, source: SocketAddr, message: Vec<u8>) {
        let known = world.nodes[0].device.source_table().contains(source);
        let queue = &mut self.queues[usize::from(!known)];
        if queue.len() < QUEUE {
            queue.push_back((source, message, world.now));
        }
    }

    /// Works for a millisecond: the known first.
    fn work(&mut self, world: &mut World, attackers: &mut [Attacker]) {
        let mut left: u64 = 1_000;
        while left > 0 {
            let class = usize::from(self.queues[0].is_empty());
            let depth = self.queues[class].len();
            let Some((source, message, arrived)) = self.queues[class].pop_front() else { return };
            let now = world.now_of(0);
            let result = world.nodes[0].device.handle_message(
                &message,
                Endpoint::new(source),
                depth,
                QUEUE,
                now,
                &mut world.rng,
            );
            let work = match result {
                Ok(()) => 5 * DIFFIE_HELLMAN,
                Err(DropReason::ProvisionalLimit | DropReason::HandshakeFailed) => DIFFIE_HELLMAN,
                Err(_) => 0,
            };
            left = left.saturating_sub(work + 5);
            if class == 1 {
                self.stranger_work += work;
                self.admitted += usize::from(result.is_ok());
            } else if let Err(reason) = result {
                self.members_dropped.push(reason);
            } else {
                self.completed.insert(source, world.now.saturating_duration_since(arrived));
            }
            self.carry_outputs(world, attackers);
        }
    }

    fn carry_outputs(&mut self, world: &mut World, attackers: &mut [Attacker]) {
        let server = world.nodes[0].address;
        while let Some(output) = world.nodes[0].device.poll_output() {
            let Output::Datagram { destination, contents, .. } = output else { continue };
            let to = destination.remote;
            if let Some(node) = world.nodes.iter().position(|node| node.address == to) {
                world.receive(node, server, contents.to_vec());
                // The member's first message under the new keys.
                for sent in world.sent(node, MessageType::Transport) {
                    world.receive(0, to, sent.contents);
                }
                world.wire.clear();
            } else if let (Ok(reply), Some(attacker)) =
                (CookieReply::parse(&contents), attackers.iter_mut().find(|attacker| attacker.source == to))
            {
                let _ = attacker.jar.consume_reply(&reply, &attacker.remote, world.now);
            }
        }
    }
}

#[test]
fn rekeys_of_members_go_through_ten_thousand_provisional_handshakes_a_second_control_rule_8() {
    let mut world = World::joined(1, MEMBERS);
    world.set_membership(
        0,
        MembershipOptions {
            diffie_hellman_cost: Duration::from_micros(DIFFIE_HELLMAN),
            ..MembershipOptions::server()
        },
    );
    // All have answered each other, so that nothing is due.
    world.advance(seconds(30));
    // Nothing travels but through the queues of the control thread.
    world.faults.loss = 1000;
    world.wire.clear();
    let mut attackers = attackers(&mut world, 150);
    let mut thread = ControlThread::new();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let epochs: Vec<u64> =
        (1..=MEMBERS).map(|node| world.link(0, node).session_keypair(world.now).unwrap().epoch()).collect();
    let start = world.now;
    let mut most_provisional = 0;
    for tick in 0..1_500_usize {
        for _ in 0..10 {
            let number = rng.next_u32() as usize % attackers.len();
            let message = attackers[number].message(world.now);
            // Half of them from where they are, half from wherever they like to be.
            let forged = SocketAddr::from((rng.next_u32().to_be_bytes(), 5));
            let source = if rng.next_u32() % 2 == 0 { attackers[number].source } else { forged };
            thread.enqueue(&world, source, message);
        }
        if tick % 50 == 25 && tick / 50 < MEMBERS {
            let node = tick / 50 + 1;
            world.initiate(node, 0);
            let initiation = world.sent(node, MessageType::Initiation).remove(0).contents;
            let source = world.nodes[node].address;
            thread.enqueue(&world, source, initiation);
            world.wire.clear();
        }
        thread.work(&mut world, &mut attackers);
        let device = &world.nodes[0].device;
        let provisional =
            device.peers().filter(|&id| device.link(id).unwrap().standing() == Standing::Provisional).count();
        most_provisional = most_provisional.max(provisional);
        world.advance(millis(1));
    }
    assert_eq!(thread.members_dropped, [], "not even a cookie is demanded of them");
    assert_eq!(thread.completed.len(), MEMBERS);
    let slowest = thread.completed.values().max().unwrap();
    assert!(*slowest <= millis(2), "{slowest:?}");
    for (node, before) in (1..=MEMBERS).zip(epochs) {
        let epoch = world.link(0, node).session_keypair(world.now).unwrap().epoch();
        assert!(epoch > before, "member {node} has new keys");
    }
    let elapsed = world.now.saturating_duration_since(start).as_micros() as u64;
    assert!(thread.stranger_work <= elapsed / 4 + 50_000, "{} of {elapsed} µs", thread.stranger_work);
    assert!(thread.admitted > 50, "strangers are served as well: {}", thread.admitted);
    assert!((50..=256).contains(&most_provisional), "{most_provisional}");
}

#[test]
fn strangers_get_a_quarter_of_the_handshake_time_and_then_none_control_rule_8() {
    let mut world = World::server(2, 0);
    let options = MembershipOptions {
        max_provisional: 10_000,
        max_provisional_per_source: 10_000,
        diffie_hellman_cost: millis(1),
    };
    world.set_membership(0, options);
    let mut attackers = attackers(&mut world, 40);
    let mut admitted = 0;
    for round in 0..40 {
        attackers.retain_mut(|attacker| {
            let message = attacker.message(world.now);
            world.receive(0, attacker.source, message);
            let answer = world.wire.pop();
            if let Some(answer) = &answer
                && let Ok(reply) = CookieReply::parse(&answer.contents)
            {
                let _ = attacker.jar.consume_reply(&reply, &attacker.remote, world.now);
            }
            answer.is_none_or(|answer| answer.kind != MessageType::Response)
        });
        admitted = world.nodes[0].count_outputs(|output| matches!(output, Output::PeerAppeared { .. }));
        // 50 ms saved at the start, then a quarter of 100 ms a round; 5 ms for each.
        assert!(admitted <= (50 + 25 * round) / 5, "{admitted} in round {round}");
        world.advance(millis(100));
    }
    assert_eq!(admitted, 40, "all had their turn");
    assert!(world.nodes[0].dropped(DropReason::ProvisionalBudget) > 0);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Handshake(usize),
    Frame(usize),
    Packet(usize),
    Move(usize, u8),
    Replies(usize),
    Promote(usize, u16),
    Reject(usize),
    Revoke(usize),
    Configure(usize),
    Meet(usize),
    Pass(u16),
}

const STRANGERS: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    let node = 1..=STRANGERS;
    prop_oneof![
        4 => node.clone().prop_map(Step::Handshake),
        3 => node.clone().prop_map(Step::Frame),
        2 => node.clone().prop_map(Step::Packet),
        1 => (node.clone(), 0..3_u8).prop_map(|(node, host)| Step::Move(node, host)),
        2 => node.clone().prop_map(Step::Replies),
        2 => (node.clone(), 1..20_000_u16).prop_map(|(node, millis)| Step::Promote(node, millis)),
        1 => node.clone().prop_map(Step::Reject),
        1 => node.clone().prop_map(Step::Revoke),
        1 => node.clone().prop_map(Step::Configure),
        1 => node.prop_map(Step::Meet),
        4 => (1..4_000_u16).prop_map(Step::Pass),
    ]
}

/// Until when a key may carry packets: what the device is held against.
type Oracle = BTreeMap<usize, Instant>;

fn take(world: &mut World, step: Step, oracle: &mut Oracle) {
    let id = |world: &World, node: usize| {
        let key = world.nodes[node].public_key();
        world.nodes[0].device.peer_by_key(&key)
    };
    match step {
        Step::Handshake(node) => world.initiate(node, 0),
        Step::Frame(node) => {
            world.send_control(node, 0, &[1; 60]);
        }
        Step::Packet(node) => {
            // Its side trusts the server, and sends what it likes.
            world.promote(node, 0, seconds(1_000));
            world.send(node, 0, &node.to_be_bytes());
        }
        Step::Move(node, host) => {
            let port = world.nodes[node].address.port();
            world.nodes[node].address = SocketAddr::from(([198, 51, 100, host], port));
        }
        Step::Replies(node) => {
            for _ in 0..30 {
                if id(world, node).is_none() || !world.send_control(0, node, &[2; 200]) {
                    break;
                }
            }
        }
        Step::Promote(node, lifetime) => {
            let Some(peer) = id(world, node) else { return };
            let now = world.now_of(0);
            let until = now.boot + millis(lifetime.into());
            if world.nodes[0].device.promote(peer, until, now) {
                oracle.insert(node, until);
            }
            world.run_outputs(0);
        }
        Step::Reject(node) => {
            let Some(peer) = id(world, node) else { return };
            if world.nodes[0].device.reject(peer) {
                assert_eq!(oracle.get(&node), None, "a member is not rejected");
            }
        }
        Step::Revoke(node) => {
            let Some(peer) = id(world, node) else { return };
            if world.nodes[0].device.revoke(peer) {
                oracle.remove(&node);
            }
        }
        Step::Configure(node) => {
            let key = world.nodes[node].public_key();
            let _ = world.nodes[0].device.add_peer(key);
            oracle.insert(node, Instant::from_nanos(u64::MAX));
        }
        Step::Meet(node) => {
            let key = world.nodes[node].public_key();
            let _ = world.nodes[0].device.add_unverified_peer(key);
        }
        Step::Pass(time) => world.advance(millis(time.into())),
    }
    world.advance(millis(25));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: packets pass for exactly those keys, and exactly as long, as the owner has said; the
    /// limits hold; and a provisional peer has five seconds, one address, and three times its own bytes.
    #[test]
    fn no_order_of_events_opens_a_tunnel_that_nobody_opened_control_rules_8_and_9(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::server(seed, STRANGERS);
        world.set_membership(0, MembershipOptions {
            max_provisional: 3,
            max_provisional_per_source: 2,
            ..MembershipOptions::server()
        });
        let mut oracle = Oracle::new();
        let mut appeared: BTreeMap<u32, (Instant, SocketAddr)> = BTreeMap::new();
        let mut seen = 0;
        for step in steps {
            let delivered = world.nodes[0].delivered.len();
            take(&mut world, step, &mut oracle);
            let node = &world.nodes[0];
            for (at, output) in &node.outputs[seen..] {
                if let Output::PeerAppeared { peer } = output
                    && let Some(endpoint) = node.device.link(*peer).and_then(|link| link.endpoint())
                {
                    appeared.insert(peer.0, (*at, endpoint.remote));
                }
            }
            seen = node.outputs.len();
            for (_, packet) in &node.delivered[delivered..] {
                let from = usize::from_be_bytes(packet[..8].try_into().unwrap());
                prop_assert!(oracle.contains_key(&from), "{} was never let in", from);
            }
            let mut sources: BTreeMap<std::net::IpAddr, usize> = BTreeMap::new();
            for of in 1..=STRANGERS {
                let Some(id) = node.device.peer_by_key(&world.nodes[of].public_key()) else { continue };
                let link = node.device.link(id).unwrap();
                let allowed = oracle.get(&of).is_some_and(|&until| world.now < until);
                prop_assert_eq!(link.may_carry_packets(world.now), allowed);
                prop_assert!(allowed || link.sending_keypair(world.now).is_none());
                if link.standing() != Standing::Provisional {
                    continue;
                }
                let (since, home) = appeared[&id.0];
                prop_assert!(world.now.saturating_duration_since(since) < seconds(5));
                prop_assert_eq!(link.endpoint().unwrap().remote, home);
                prop_assert!(link.sent_bytes() <= 3 * link.received_bytes());
                *sources.entry(home.ip()).or_default() += 1;
            }
            prop_assert!(sources.values().sum::<usize>() <= 3);
            prop_assert!(sources.values().all(|&count| count <= 2));
        }
    }
}
