//! Machines in virtual time: the real cores of nodes, lighthouses and relays, and one queue of what comes next. A step
//! costs what its one machine does, whatever the number of machines.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tombolo_control::document::{Membership, Roles, Server, Version};
use tombolo_control::frame::Frame;
use tombolo_control::lighthouse::LighthouseOptions;
use tombolo_control::node::{Event, Node, NodeAlarm, NodeOptions, Saved, SavedDocuments, SavedPeer};
use tombolo_control::relay::Permission;
use tombolo_control::verifier::Pins;
use tombolo_control::{NodeId, Path};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{PrivateKey, PublicKey};

use crate::authority::Authority;
use crate::data_path::{Content, Datagram, Session};
use crate::underlay::{Nat, PORT, Underlay};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// Some day in 2026.
const START: u64 = 20_700 * 86_400;

#[derive(Debug)]
pub(super) enum Item {
    Arrival {
        to: usize,
        seen: SocketAddr,
        datagram: Datagram,
    },
    Timer(usize),
    /// A handshake's retransmission, or one that was put off.
    Retransmission {
        from: usize,
        to: PublicKey,
    },
}

/// An item of the queue: the earliest is the greatest, and of two at once the one that was put first.
#[derive(Debug)]
struct Scheduled {
    at: u64,
    sequence: u64,
    item: Item,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

/// The newest of each kind of document that a machine has held: it holds none that is older again, whoever tells it so.
#[derive(Debug, Default)]
pub(super) struct Newest {
    trust: u64,
    network: Option<Version>,
    revocations: usize,
    own: u64,
    serials: HashMap<NodeId, u64>,
}

impl Newest {
    fn note(&mut self, number: usize, node: &Node) {
        let verifier = node.verifier();
        if let Some(trust) = verifier.trust() {
            assert!(trust.epoch >= self.trust, "the trust document went back on machine {number}");
            self.trust = trust.epoch;
        }
        if let Some(network) = verifier.network() {
            let version = Some(network.version);
            assert!(version >= self.network, "the network document went back on machine {number}");
            if version > self.network {
                // Nobody whom the authority has revoked is ever taken back here.
                assert!(network.revocations.len() >= self.revocations, "revocations of machine {number}");
                (self.network, self.revocations) = (version, network.revocations.len());
            }
        }
        if let Some(own) = node.membership() {
            assert!(own.serial >= self.own, "the own membership went back on machine {number}");
            self.own = own.serial;
        }
    }

    /// What it holds of a member.
    pub(super) fn note_member(&mut self, number: usize, member: &Membership) {
        let newest = self.serials.entry(member.node).or_default();
        assert!(member.serial >= *newest, "{} went back on machine {number}", member.name);
        *newest = member.serial;
    }
}

/// What a machine that means harm says in place of a frame, if anything.
pub(crate) type Twist = Box<dyn Fn(Frame) -> Option<Frame>>;

pub(crate) struct Machine {
    pub(crate) key: PublicKey,
    pub(crate) node: Option<Node>,
    pub(super) saved: Option<Saved>,
    /// Of the peers on the disk, by membership.
    pub(super) saved_peers: BTreeMap<Vec<u8>, SavedPeer>,
    pub(super) sessions: HashMap<PublicKey, Session>,
    pub(super) installed: HashMap<PublicKey, BTreeSet<IpNet>>,
    pub(super) routes: HashMap<IpNet, PublicKey>,
    pub(super) waiting: Vec<(IpAddr, u64)>,
    pub(super) permission: Option<Permission>,
    /// Of the wall clock, in seconds.
    pub(crate) skew: i64,
    wake: Option<u64>,
    pub(super) newest: Newest,
    /// When which ping was answered.
    pub(crate) delivered: BTreeMap<u64, u64>,
    pub(crate) joined_at: Option<u64>,
    pub(crate) alarms: Vec<NodeAlarm>,
    pub(crate) handshakes: u64,
    /// Frames that the node has sent, and calls of it: what it costs.
    pub(crate) frames: u64,
    pub(crate) calls: u64,
    is_server: bool,
    pub(crate) twist: Option<Twist>,
}

pub(crate) struct World {
    pub(crate) now: u64,
    queue: BinaryHeap<Scheduled>,
    sequence: u64,
    next_token: u64,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) underlay: Underlay,
    pub(crate) machines: Vec<Machine>,
    pub(crate) authority: Authority,
    pub(super) keys: HashMap<NodeId, PublicKey>,
    pub(super) nodes: HashMap<PublicKey, NodeId>,
    pub(crate) owners: HashMap<IpAddr, NodeId>,
    pub(crate) options: NodeOptions,
    /// Nanoseconds on a processor so far; nothing, unless a test measures.
    pub(crate) meter: fn() -> u64,
    /// What all servers have taken of that, and all other nodes.
    pub(crate) spent: [u64; 2],
}

pub(super) fn unix(now: u64, skew: i64) -> UnixTime {
    let seconds = Duration::from_nanos(now) + Duration::from_secs(START);
    let skewed = if skew < 0 {
        seconds.saturating_sub(Duration::from_secs(skew.unsigned_abs()))
    } else {
        seconds + Duration::from_secs(skew.unsigned_abs())
    };
    UnixTime(skewed)
}

impl World {
    /// `servers` machines with public addresses are authority (the first), lighthouses and relays.
    pub(crate) fn new(seed: u64, servers: usize) -> Self {
        println!("seed {seed} (TOMBOLO_SIMULATION_SEED sets it)");
        let mut world = Self {
            now: SECOND,
            queue: BinaryHeap::new(),
            sequence: 0,
            next_token: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            underlay: Underlay::new(),
            machines: Vec::new(),
            authority: Authority::new(unix(SECOND, 0)),
            keys: HashMap::new(),
            nodes: HashMap::new(),
            owners: HashMap::new(),
            options: NodeOptions::default(),
            meter: || 0,
            spent: [0; 2],
        };
        for _ in 0..servers {
            world.add_machine(Nat::None);
        }
        let roles = Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY;
        let papers: Vec<Vec<u8>> = (0..servers)
            .map(|number| world.authority.issue(world.machines[number].key, roles, unix(world.now, 0)))
            .collect();
        for number in 0..servers {
            let mut node = [0; 16];
            node[..4].copy_from_slice(&u32::try_from(number + 1).unwrap().to_be_bytes());
            let endpoint = format!("{}:{PORT}", world.underlay.public(number));
            let roles = if number == 0 { roles } else { Roles::LIGHTHOUSE | Roles::RELAY };
            world.authority.add_server(Server {
                node: NodeId::from_bytes(node),
                key: world.machines[number].key,
                roles,
                endpoints: vec![endpoint.parse().unwrap()],
            });
        }
        let signed = world.authority.sign(unix(world.now, 0));
        for (number, membership) in papers.into_iter().enumerate() {
            let mut saved = world.nothing_saved();
            saved.membership = membership;
            saved.documents.trust = Some(signed.trust.clone());
            saved.documents.network = Some(signed.network.clone());
            saved.documents.head = Some(signed.head.clone());
            let machine = &mut world.machines[number];
            machine.is_server = true;
            machine.saved = Some(saved);
            world.start(number);
        }
        world
    }

    /// The disk of a machine that knows what a token says.
    pub(super) fn nothing_saved(&self) -> Saved {
        let trust = &self.authority.trust;
        let pins = Pins { network: trust.network, root: trust.root.fingerprint(), overlay: None };
        let documents = SavedDocuments { pins, floor: None, trust: None, network: None, head: None };
        let time = UnixTime::default();
        Saved { documents, membership: Vec::new(), time, epoch: 0, peers: Vec::new() }
    }

    pub(crate) fn add_machine(&mut self, nat: Nat) -> usize {
        let number = self.underlay.add(nat);
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        self.machines.push(Machine {
            key: PrivateKey::from_bytes(bytes).public(),
            node: None,
            saved: None,
            saved_peers: BTreeMap::new(),
            sessions: HashMap::new(),
            installed: HashMap::new(),
            routes: HashMap::new(),
            waiting: Vec::new(),
            permission: None,
            skew: 0,
            wake: None,
            newest: Newest::default(),
            delivered: BTreeMap::new(),
            joined_at: None,
            alarms: Vec::new(),
            handshakes: 0,
            frames: 0,
            calls: 0,
            is_server: false,
            twist: None,
        });
        number
    }

    pub(crate) fn clock(&self, number: usize) -> Now {
        let machine = &self.machines[number];
        // Each machine has been up for another while.
        let boot = Instant::from_nanos(self.now + number as u64 * 1000 * SECOND);
        Now { boot, wall: unix(self.now, machine.skew) }
    }

    /// Begins to join.
    pub(crate) fn join(&mut self, number: usize) {
        let endpoint = format!("{}:{PORT}", self.underlay.public(0));
        let token = self.authority.token(self.machines[0].key, &endpoint);
        let (now, key, options) = (self.clock(number), self.machines[number].key, self.options.clone());
        self.machines[number].node = Some(Node::join(key, token, None, options, now, &mut self.rng));
        self.work(number);
    }

    /// Starts from what was saved.
    pub(crate) fn start(&mut self, number: usize) {
        let (now, key) = (self.clock(number), self.machines[number].key);
        let options = NodeOptions { authority: number == 0, ..self.options.clone() };
        let Some(mut saved) = self.machines[number].saved.clone() else { return };
        saved.peers = self.machines[number].saved_peers.values().cloned().collect();
        let mut node = Node::restore(key, &saved, options, now, &mut self.rng);
        let machine = &mut self.machines[number];
        if machine.is_server {
            node.serve_lighthouse(LighthouseOptions::default(), now);
            machine.permission = node.membership().map(|own| Permission::new(own.node, 100_000));
        }
        machine.node = Some(node);
        self.underlay.dead.remove(&number);
        self.work(number);
    }

    /// Dies at once: only what was saved is left.
    pub(crate) fn kill(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.node = None;
        machine.sessions.clear();
        machine.installed.clear();
        machine.routes.clear();
        machine.waiting.clear();
        machine.permission = None;
        // What was not on the disk is not known any more; what a disk must keep is.
        machine.newest.serials.clear();
        self.underlay.dead.insert(number);
    }

    /// The authority signs anew, after a change.
    pub(crate) fn sign(&mut self) {
        let signed = self.authority.sign(unix(self.now, 0));
        let now = self.clock(0);
        let (machine, rng) = (&mut self.machines[0], &mut self.rng);
        let node = machine.node.as_mut().unwrap();
        node.install(&signed.trust, &signed.network, &signed.head, now, rng).unwrap();
        self.work(0);
    }

    /// Holds all memberships that all machines hold against those that they have held.
    pub(crate) fn check_members(&mut self) {
        for (number, machine) in self.machines.iter_mut().enumerate() {
            for member in machine.node.iter().flat_map(|node| node.verifier().members()) {
                machine.newest.note_member(number, member);
            }
        }
    }

    pub(crate) fn address(&self, number: usize) -> Option<IpAddr> {
        let own = self.machines[number].node.as_ref()?.membership()?;
        own.addresses.first().copied()
    }

    /// Sends an overlay packet that is to be answered, and gives the number that the answer will have.
    pub(crate) fn ping(&mut self, from: usize, destination: IpAddr) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        let machine = &self.machines[from];
        let key = machine.routes.get(&IpNet::from(destination)).copied();
        let open = |key: &PublicKey| machine.sessions.get(key).is_some_and(Session::is_open);
        let Some(key) = key.filter(open) else {
            self.wait(from, destination, token);
            return token;
        };
        if let Some(source) = self.address(from) {
            self.send_data(from, key, None, Content::Packet { source, destination, token, reply: false });
            self.event(from, Event::Traffic { peer: key });
        }
        token
    }

    fn wait(&mut self, from: usize, destination: IpAddr, token: u64) {
        let waiting = &mut self.machines[from].waiting;
        if waiting.len() < 128 {
            waiting.push((destination, token));
        }
        self.event(from, Event::Wanted { address: destination });
    }

    /// Runs until a time.
    pub(crate) fn run_until(&mut self, until: u64) {
        while self.queue.peek().is_some_and(|next| next.at <= until)
            && let Some(Scheduled { at, item, .. }) = self.queue.pop()
        {
            self.now = self.now.max(at);
            match item {
                Item::Arrival { to, seen, datagram } => self.arrive(to, Path::Direct(seen), datagram),
                Item::Timer(number) => self.timer(number, at),
                Item::Retransmission { from, to } => self.retransmit(from, to),
            }
        }
        self.now = until;
    }

    pub(crate) fn run_for(&mut self, seconds: u64) {
        self.run_until(self.now + seconds * SECOND);
    }

    pub(super) fn put(&mut self, at: u64, item: Item) {
        self.sequence += 1;
        self.queue.push(Scheduled { at, sequence: self.sequence, item });
    }

    fn timer(&mut self, number: usize, at: u64) {
        let offset = number as u64 * 1000 * SECOND;
        let now = self.clock(number);
        let machine = &mut self.machines[number];
        // One that was overtaken by an earlier one.
        if machine.wake != Some(at) {
            return;
        }
        machine.wake = None;
        machine.calls += 1;
        let Some(node) = &mut machine.node else { return };
        if node.poll_timeout().is_some_and(|at| at.as_nanos() <= self.now + offset) {
            let before = (self.meter)();
            node.handle_timeout(now, &mut self.rng);
            self.charge(number, before);
        }
        self.work(number);
    }

    /// Notes what a machine's node has taken since.
    pub(super) fn charge(&mut self, number: usize, before: u64) {
        let whose = usize::from(!self.machines[number].is_server);
        self.spent[whose] += (self.meter)().saturating_sub(before);
    }

    pub(crate) fn event(&mut self, number: usize, event: Event<'_>) {
        let now = self.clock(number);
        self.machines[number].calls += 1;
        if let Some(node) = &mut self.machines[number].node {
            let before = (self.meter)();
            node.handle_event(event, now, &mut self.rng);
            self.charge(number, before);
        }
        self.work(number);
    }

    /// Does what the node says, and checks what must always hold.
    pub(super) fn work(&mut self, number: usize) {
        while let Some(output) = self.machines[number].node.as_mut().and_then(Node::poll_output) {
            self.carry_out(number, output);
        }
        let offset = number as u64 * 1000 * SECOND;
        let machine = &mut self.machines[number];
        let Some(node) = &machine.node else { return };
        machine.newest.note(number, node);
        let Some(at) = node.poll_timeout() else { return };
        let at = at.as_nanos().saturating_sub(offset).max(self.now);
        if machine.wake.is_none_or(|wake| at < wake) {
            machine.wake = Some(at);
            self.put(at, Item::Timer(number));
        }
    }
}
