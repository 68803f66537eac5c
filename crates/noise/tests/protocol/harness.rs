//! A network of devices in virtual time, with loss, reordering and duplication from a seed.

mod wire;

use std::collections::{BinaryHeap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{
    Device, Event, Link, MembershipOptions, Output, PrivateKey, PublicKey, TRANSPORT_OVERHEAD,
};
use tombolo_packet::message::MessageType;
use tombolo_packet::{DropReason, Endpoint, PeerId};

use wire::InFlight;

pub const MTU: usize = 1420;
/// The wall clock when the virtual time is zero: some day in 2026.
pub const WALL_AT_START: Duration = Duration::from_secs(1_790_000_000);

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What the network does to datagrams. Shares are of 1000.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    pub loss: u32,
    pub duplication: u32,
    pub delay: Duration,
    /// Added to the delay, at random: more than the time between two datagrams reorders them.
    pub delay_spread: Duration,
}

impl Faults {
    pub const NONE: Self =
        Self { loss: 0, duplication: 0, delay: Duration::from_millis(10), delay_spread: Duration::ZERO };
}

/// A datagram that was put on the wire, before the network had its way with it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Instant,
    pub from: usize,
    pub kind: MessageType,
    pub contents: Vec<u8>,
    pub traffic_class: u8,
}

impl Sent {
    pub fn is_keepalive(&self) -> bool {
        self.kind == MessageType::Transport && self.contents.len() == TRANSPORT_OVERHEAD
    }

    pub fn is_data(&self) -> bool {
        self.kind == MessageType::Transport && !self.is_keepalive()
    }
}

/// A control frame as it came in, with what a join proof is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub from: PublicKey,
    pub handshake_hash: [u8; 32],
    pub epoch: u64,
    pub contents: Vec<u8>,
}

/// The first byte of a control frame (docs/control-protocol.md).
const CONTROL_FRAME: u8 = 0xf1;
/// First byte of what goes by a path that its sender only looks at.
pub const EXPLORING: u8 = 0xee;

/// A device, and the least shell that it needs.
pub struct Node {
    pub device: Device,
    pub private_key: PrivateKey,
    pub address: SocketAddr,
    /// Added to the wall clock, in seconds.
    pub wall_offset: i64,
    pub link_up: bool,
    pub staged: VecDeque<(PeerId, Vec<u8>)>,
    pub delivered: Vec<(Instant, Vec<u8>)>,
    pub frames: Vec<Frame>,
    pub outputs: Vec<(Instant, Output)>,
    pub drops: Vec<(Instant, DropReason)>,
    /// What the next handshake message finds in the queue, of 1024.
    pub queue_depth: usize,
    /// Reports that workers have made and the control thread has not taken, if they are held back.
    pub held_events: Option<Vec<Event>>,
}

impl Node {
    pub fn public_key(&self) -> PublicKey {
        self.private_key.public()
    }

    pub fn dropped(&self, reason: DropReason) -> usize {
        self.drops.iter().filter(|drop| drop.1 == reason).count()
    }

    pub fn count_outputs(&self, matches: impl Fn(&Output) -> bool) -> usize {
        self.outputs.iter().filter(|output| matches(&output.1)).count()
    }
}

pub struct World {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub wire: Vec<Sent>,
    pub faults: Faults,
    pub rng: ChaCha20Rng,
    network_rng: ChaCha20Rng,
    in_flight: BinaryHeap<InFlight>,
    sequence: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Instant::from_nanos(1_000_000_000),
            nodes: Vec::new(),
            wire: Vec::new(),
            faults: Faults::NONE,
            rng: ChaCha20Rng::seed_from_u64(seed),
            network_rng: ChaCha20Rng::seed_from_u64(seed ^ 0x5eed),
            in_flight: BinaryHeap::new(),
            sequence: 0,
        }
    }

    /// Nodes 0 and 1, which know each other's key and endpoint.
    pub fn pair(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.add_node();
        world.add_node();
        world.connect(0, 1);
        world.connect(1, 0);
        world
    }

    /// As [`pair`](Self::pair), after a handshake that node 0 began, and with nothing under way.
    pub fn established(seed: u64) -> Self {
        let mut world = Self::pair(seed);
        world.send(0, 1, b"first");
        world.advance(millis(100));
        world.send(1, 0, b"answer");
        world.advance(millis(100));
        assert_eq!(world.nodes[1].delivered.len(), 1);
        assert_eq!(world.nodes[0].delivered.len(), 1);
        world.wire.clear();
        world
    }

    pub fn add_node(&mut self) -> usize {
        let private_key = PrivateKey::generate(&mut self.rng);
        let number = self.nodes.len();
        let mut device = Device::new();
        device.set_private_key(Some(private_key.clone()), self.now_at(0), &mut self.rng);
        self.nodes.push(Node {
            device,
            private_key,
            address: SocketAddr::from((Ipv4Addr::new(192, 0, 2, number as u8 + 1), 51_820)),
            wall_offset: 0,
            link_up: true,
            staged: VecDeque::new(),
            delivered: Vec::new(),
            frames: Vec::new(),
            outputs: Vec::new(),
            drops: Vec::new(),
            queue_depth: 0,
            held_events: None,
        });
        number
    }

    /// A server in membership mode, node 0, and nodes that know its key from a token.
    pub fn server(seed: u64, nodes: usize) -> Self {
        let mut world = Self::new(seed);
        world.add_node();
        world.set_membership(0, MembershipOptions::server());
        for _ in 0..nodes {
            let node = world.add_node();
            world.set_membership(node, MembershipOptions::node());
            world.meet(node, 0);
        }
        world
    }

    pub fn set_membership(&mut self, node: usize, options: MembershipOptions) {
        let now = self.now_of(node);
        self.nodes[node].device.set_membership(Some(options), now);
    }

    /// Makes `to` a peer of `from` by its membership, not verified yet.
    pub fn meet(&mut self, from: usize, to: usize) -> PeerId {
        let (public_key, endpoint) = (self.nodes[to].public_key(), Endpoint::new(self.nodes[to].address));
        let now = self.now_of(from);
        let id = self.nodes[from].device.add_unverified_peer(public_key).unwrap();
        self.nodes[from].device.set_endpoint(id, Some(endpoint), now, &mut self.rng);
        id
    }

    /// The owner's word: `of` is a member until so long from now.
    pub fn promote(&mut self, node: usize, of: usize, lifetime: Duration) -> bool {
        let (id, now) = (self.peer(node, of), self.now_of(node));
        let promoted = self.nodes[node].device.promote(id, now.boot + lifetime, now);
        self.run_outputs(node);
        promoted
    }

    /// Node 1 and node 2, say, joined at the server: sessions, both sides promoted, nothing under way.
    pub fn joined(seed: u64, nodes: usize) -> Self {
        let mut world = Self::server(seed, nodes);
        for node in 1..=nodes {
            world.initiate(node, 0);
            world.advance(seconds(1));
            world.send_control(node, 0, b"show");
            world.advance(millis(100));
            assert!(world.promote(0, node, seconds(100_000)) && world.promote(node, 0, seconds(100_000)));
            world.send_control(0, node, b"shown");
            world.advance(millis(100));
        }
        world.wire.clear();
        world
    }

    pub fn initiate(&mut self, from: usize, to: usize) {
        let (id, now) = (self.peer(from, to), self.now_of(from));
        self.nodes[from].device.initiate(id, now, &mut self.rng);
        self.run_outputs(from);
    }

    /// Begins a handshake by several ways, or goes on with it.
    pub fn initiate_by(&mut self, from: usize, to: usize, ways: &[SocketAddr]) {
        let (id, now) = (self.peer(from, to), self.now_of(from));
        let ways = ways.iter().map(|way| Endpoint::new(*way));
        self.nodes[from].device.initiate_by(id, ways, now, &mut self.rng);
        self.run_outputs(from);
    }

    /// Sends a control frame. `false`: there is no session, or the path does not allow it.
    pub fn send_control(&mut self, from: usize, to: usize, body: &[u8]) -> bool {
        let (id, link) = (self.peer(from, to), self.link(from, to));
        let Some(keypair) = link.session_keypair(self.now) else { return false };
        let sent = self.seal_and_send(from, id, &keypair, &[&[CONTROL_FRAME], body].concat());
        self.run_outputs(from);
        sent
    }

    /// Makes `to` a peer of `from`, with its endpoint.
    pub fn connect(&mut self, from: usize, to: usize) -> PeerId {
        let (public_key, endpoint) = (self.nodes[to].public_key(), Endpoint::new(self.nodes[to].address));
        let now = self.now_of(from);
        let id = self.nodes[from].device.add_peer(public_key).unwrap();
        self.nodes[from].device.set_endpoint(id, Some(endpoint), now, &mut self.rng);
        id
    }

    pub fn peer(&self, node: usize, of: usize) -> PeerId {
        self.nodes[node].device.peer_by_key(&self.nodes[of].public_key()).unwrap()
    }

    pub fn link(&self, node: usize, of: usize) -> Arc<Link> {
        Arc::clone(self.nodes[node].device.link(self.peer(node, of)).unwrap())
    }

    pub fn now_of(&self, node: usize) -> Now {
        self.now_at(self.nodes[node].wall_offset)
    }

    fn now_at(&self, wall_offset: i64) -> Now {
        let elapsed = WALL_AT_START + Duration::from_nanos(self.now.as_nanos());
        let wall = elapsed.as_secs().saturating_add_signed(wall_offset);
        Now { boot: self.now, wall: UnixTime(Duration::new(wall, elapsed.subsec_nanos())) }
    }

    /// Messages of a kind that a node put on the wire.
    pub fn sent(&self, from: usize, kind: MessageType) -> Vec<Sent> {
        self.wire.iter().filter(|sent| sent.from == from && sent.kind == kind).cloned().collect()
    }

    pub fn keepalives(&self, from: usize) -> Vec<Sent> {
        self.wire.iter().filter(|sent| sent.from == from && sent.is_keepalive()).cloned().collect()
    }

    /// Seconds since `start`, of each.
    pub fn times(sent: &[Sent], start: Instant) -> Vec<f64> {
        sent.iter().map(|sent| sent.at.saturating_duration_since(start).as_secs_f64()).collect()
    }

    /// A packet comes out of the node's TUN.
    pub fn send(&mut self, from: usize, to: usize, payload: &[u8]) {
        let id = self.peer(from, to);
        if !self.nodes[from].link_up {
            return;
        }
        match self.link(from, to).sending_keypair(self.now) {
            Some(keypair) => {
                self.seal_and_send(from, id, &keypair, payload);
            }
            None => {
                self.nodes[from].staged.push_back((id, payload.to_vec()));
                let event = self.link(from, to).want_handshake();
                self.report(from, event);
            }
        }
        self.run_outputs(from);
    }

    pub fn report(&mut self, node: usize, event: Option<Event>) {
        let Some(event) = event else { return };
        if let Some(held) = &mut self.nodes[node].held_events {
            held.push(event);
            return;
        }
        let now = self.now_of(node);
        self.nodes[node].device.handle_event(event, now, &mut self.rng);
        self.run_outputs(node);
    }

    pub fn release_events(&mut self, node: usize) {
        for event in self.nodes[node].held_events.take().unwrap_or_default() {
            self.report(node, Some(event));
        }
    }

    pub fn random(&mut self, below: u64) -> u64 {
        self.network_rng.next_u64() % below
    }
}
