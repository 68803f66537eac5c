//! Machines: the real cores of nodes, lighthouses and relays, on a model of the data path. A session is a number that
//! both ends know, in place of keys; everything else is as in the engine.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tombolo_control::document::{Roles, Server, Version};
use tombolo_control::lighthouse::LighthouseOptions;
use tombolo_control::node::{EngineChange, Event, Node, NodeAlarm, NodeOptions, Output, Save, Saved};
use tombolo_control::relay::Permission;
use tombolo_control::{NodeId, Outgoing, Path};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{PrivateKey, PublicKey};

use crate::authority::Authority;
use crate::underlay::{Nat, PORT, Underlay};

pub(crate) const SECOND: u64 = 1_000_000_000;
/// Some day in 2026.
const START: u64 = 20_700 * 86_400;

#[derive(Clone, Debug)]
enum Content {
    Confirm,
    Frame(Vec<u8>),
    Packet { source: IpAddr, destination: IpAddr, token: u64, reply: bool },
    Relayed { node: NodeId, to_relay: bool, inner: Box<Datagram> },
}

#[derive(Clone, Debug)]
enum Datagram {
    Initiation { from: PublicKey, to: PublicKey, id: u64 },
    Response { from: PublicKey, id: u64 },
    Data { from: PublicKey, id: u64, content: Content },
}

#[derive(Debug)]
enum Item {
    Arrival { to: usize, seen: SocketAddr, datagram: Datagram },
    Timer(usize),
}

#[derive(Debug, Default)]
struct Session {
    current: Option<u64>,
    previous: Option<u64>,
    /// Answered, and not used by the initiator yet.
    next: Option<u64>,
    /// Initiations that went out.
    pending: HashSet<u64>,
    path: Option<Path>,
}

pub(crate) struct Machine {
    pub(crate) key: PublicKey,
    pub(crate) node: Option<Node>,
    saved: Option<Saved>,
    sessions: HashMap<PublicKey, Session>,
    installed: HashMap<PublicKey, BTreeSet<IpNet>>,
    routes: HashMap<IpNet, PublicKey>,
    waiting: Vec<(IpAddr, u64)>,
    permission: Option<Permission>,
    /// Of the wall clock, in seconds.
    pub(crate) skew: i64,
    wake: Option<u64>,
    version: Option<Version>,
    pub(crate) delivered: HashMap<u64, u64>,
    pub(crate) joined_at: Option<u64>,
    pub(crate) alarms: Vec<NodeAlarm>,
    pub(crate) handshakes: u64,
    is_server: bool,
}

pub(crate) struct World {
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    items: HashMap<u64, Item>,
    sequence: u64,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) underlay: Underlay,
    pub(crate) machines: Vec<Machine>,
    pub(crate) authority: Authority,
    by_node: HashMap<NodeId, PublicKey>,
    pub(crate) owners: HashMap<IpAddr, NodeId>,
    pub(crate) options: NodeOptions,
}

fn unix(now: u64, skew: i64) -> UnixTime {
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
            items: HashMap::new(),
            sequence: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            underlay: Underlay::new(),
            machines: Vec::new(),
            authority: Authority::new(unix(SECOND, 0)),
            by_node: HashMap::new(),
            owners: HashMap::new(),
            options: NodeOptions::default(),
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
            let documents = tombolo_control::node::SavedDocuments {
                pins: tombolo_control::verifier::Pins {
                    network: world.authority.trust.network,
                    root: world.authority.trust.root.fingerprint(),
                    overlay: None,
                },
                floor: None,
                trust: Some(signed.trust.clone()),
                network: Some(signed.network.clone()),
                head: Some(signed.head.clone()),
            };
            let time = UnixTime::default();
            let machine = &mut world.machines[number];
            machine.is_server = true;
            machine.saved = Some(Saved { documents, membership, time, epoch: 0, peers: Vec::new() });
            world.start(number);
        }
        world
    }

    pub(crate) fn add_machine(&mut self, nat: Nat) -> usize {
        let number = self.underlay.add(nat);
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        self.machines.push(Machine {
            key: PrivateKey::from_bytes(bytes).public(),
            node: None,
            saved: None,
            sessions: HashMap::new(),
            installed: HashMap::new(),
            routes: HashMap::new(),
            waiting: Vec::new(),
            permission: None,
            skew: 0,
            wake: None,
            version: None,
            delivered: HashMap::new(),
            joined_at: None,
            alarms: Vec::new(),
            handshakes: 0,
            is_server: false,
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
        let Some(saved) = self.machines[number].saved.clone() else { return };
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

    pub(crate) fn address(&self, number: usize) -> Option<IpAddr> {
        let own = self.machines[number].node.as_ref()?.membership()?;
        own.addresses.first().copied()
    }

    /// Sends an overlay packet that is to be answered.
    pub(crate) fn ping(&mut self, from: usize, destination: IpAddr, token: u64) {
        let Some(&key) = self.machines[from].routes.get(&IpNet::from(destination)) else {
            return self.wait(from, destination, token);
        };
        if self.machines[from].sessions.get(&key).is_none_or(|session| session.current.is_none()) {
            return self.wait(from, destination, token);
        }
        let Some(source) = self.address(from) else { return };
        self.send_data(from, key, None, Content::Packet { source, destination, token, reply: false });
        self.event(from, Event::Traffic { peer: key });
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
        while let Some(&Reverse((at, sequence))) = self.queue.peek() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            match self.items.remove(&sequence) {
                Some(Item::Arrival { to, seen, datagram }) => self.arrive(to, Path::Direct(seen), datagram),
                Some(Item::Timer(number)) => self.timer(number),
                None => {}
            }
        }
        self.now = until;
    }

    pub(crate) fn run_for(&mut self, seconds: u64) {
        self.run_until(self.now + seconds * SECOND);
    }

    fn put(&mut self, at: u64, item: Item) {
        self.sequence += 1;
        self.items.insert(self.sequence, item);
        self.queue.push(Reverse((at, self.sequence)));
    }

    fn timer(&mut self, number: usize) {
        let offset = number as u64 * 1000 * SECOND;
        let now = self.clock(number);
        let machine = &mut self.machines[number];
        machine.wake = None;
        let Some(node) = &mut machine.node else { return };
        if node.poll_timeout().is_some_and(|at| at.as_nanos() <= self.now + offset) {
            node.handle_timeout(now, &mut self.rng);
        }
        self.work(number);
    }

    pub(crate) fn event(&mut self, number: usize, event: Event<'_>) {
        let now = self.clock(number);
        if let Some(node) = &mut self.machines[number].node {
            node.handle_event(event, now, &mut self.rng);
        }
        self.work(number);
    }

    /// Does what the node says, and checks what must always hold.
    fn work(&mut self, number: usize) {
        while let Some(output) = self.machines[number].node.as_mut().and_then(Node::poll_output) {
            self.carry_out(number, output);
        }
        let offset = number as u64 * 1000 * SECOND;
        let machine = &mut self.machines[number];
        let Some(node) = &machine.node else { return };
        let version = node.verifier().network().map(|network| network.version);
        if version.is_some() {
            assert!(version >= machine.version, "a document went back in version on machine {number}");
            machine.version = version;
        }
        let Some(at) = node.poll_timeout() else { return };
        let at = at.as_nanos().saturating_sub(offset).max(self.now);
        if machine.wake.is_none_or(|wake| at < wake) {
            machine.wake = Some(at);
            self.put(at, Item::Timer(number));
        }
    }

    fn carry_out(&mut self, number: usize, output: Output) {
        match output {
            Output::Send(Outgoing { to, path, frame }) => {
                let bytes = frame.to_bytes().expect("frames that nodes send fit");
                self.send_data(number, to, path, Content::Frame(bytes));
            }
            Output::Engine(change) => self.change(number, change),
            Output::Save(save) => self.save(number, save),
            Output::Alarm(alarm) => self.machines[number].alarms.push(alarm),
            Output::Joined(outcome) => {
                outcome.expect("let in");
                self.machines[number].joined_at = Some(self.now);
            }
            Output::Authority { from, handshake_hash, frame } => {
                let time = unix(self.now, 0);
                let (answer, admitted) = self.authority.handle(from, &handshake_hash, &frame, time);
                let now = self.clock(number);
                let (node, rng) = (self.machines[number].node.as_mut().unwrap(), &mut self.rng);
                if let Some(membership) = admitted {
                    node.admit(&membership, now, rng).unwrap();
                }
                if let Some(answer) = answer {
                    node.send(from, answer);
                }
            }
            Output::ChangeKey(new) => {
                let now = self.clock(number);
                let machine = &mut self.machines[number];
                machine.key = new;
                machine.sessions.clear();
                machine.node.as_mut().unwrap().change_key(new, now, &mut self.rng);
            }
            _ => {}
        }
    }

    fn save(&mut self, number: usize, save: Save) {
        let machine = &mut self.machines[number];
        let saved = machine.saved.get_or_insert_with(|| Saved {
            documents: tombolo_control::node::SavedDocuments {
                pins: tombolo_control::verifier::Pins {
                    network: self.authority.trust.network,
                    root: self.authority.trust.root.fingerprint(),
                    overlay: None,
                },
                floor: None,
                trust: None,
                network: None,
                head: None,
            },
            membership: Vec::new(),
            time: UnixTime::default(),
            epoch: 0,
            peers: Vec::new(),
        });
        match save {
            Save::Documents(documents) => saved.documents = documents,
            Save::Membership(membership) => saved.membership = membership,
            Save::Time(time) => saved.time = time,
            Save::Epoch(epoch) => {
                assert!(epoch > saved.epoch, "epochs grow with each start");
                saved.epoch = epoch;
            }
            Save::Peer(peer) => {
                saved.peers.retain(|held| held.membership != peer.membership);
                saved.peers.push(peer);
            }
            Save::Forget(_) => {}
        }
    }

    fn change(&mut self, number: usize, change: EngineChange) {
        match change {
            EngineChange::Install { key, networks, .. } => {
                let node = self.machines[number].node.as_ref().unwrap();
                let member = node.verifier().members().find(|member| member.key == key).unwrap();
                let id = member.node;
                self.by_node.insert(id, key);
                for network in &networks {
                    let owner = *self.owners.entry(network.addr()).or_insert(id);
                    assert_eq!(owner, id, "{} has two accepted owners", network.addr());
                    self.machines[number].routes.insert(*network, key);
                }
                self.machines[number].installed.insert(key, networks);
                self.flush(number, key);
            }
            EngineChange::Remove { key } => {
                let machine = &mut self.machines[number];
                machine.sessions.remove(&key);
                machine.installed.remove(&key);
                machine.routes.retain(|_, held| *held != key);
            }
            EngineChange::Handshake { key, paths } => {
                let id = self.rng.next_u64();
                let machine = &mut self.machines[number];
                machine.handshakes += 1;
                let from = machine.key;
                let session = machine.sessions.entry(key).or_default();
                if session.pending.len() > 4 {
                    session.pending.clear();
                }
                session.pending.insert(id);
                for path in paths {
                    self.send_by(number, path, Datagram::Initiation { from, to: key, id });
                }
            }
            EngineChange::Use { key, path } => {
                self.machines[number].sessions.entry(key).or_default().path = Some(path);
            }
            EngineChange::Drop { address } => {
                self.machines[number].waiting.retain(|(waiting, _)| *waiting != address);
            }
        }
    }

    fn flush(&mut self, number: usize, key: PublicKey) {
        let machine = &mut self.machines[number];
        if machine.sessions.get(&key).is_none_or(|session| session.current.is_none()) {
            return;
        }
        let Some(networks) = machine.installed.get(&key) else { return };
        let (go, stay): (Vec<_>, Vec<_>) =
            machine.waiting.drain(..).partition(|(address, _)| networks.contains(&IpNet::from(*address)));
        machine.waiting = stay;
        let Some(source) = self.address(number) else { return };
        for (destination, token) in go {
            self.send_data(number, key, None, Content::Packet { source, destination, token, reply: false });
        }
    }

    fn send_data(&mut self, number: usize, to: PublicKey, path: Option<Path>, content: Content) {
        let machine = &self.machines[number];
        let from = machine.key;
        let Some(session) = machine.sessions.get(&to) else { return };
        let (Some(id), Some(path)) = (session.current, path.or(session.path)) else { return };
        self.send_by(number, path, Datagram::Data { from, id, content });
    }

    fn send_by(&mut self, number: usize, path: Path, datagram: Datagram) {
        match path {
            Path::Direct(address) => {
                for (to, seen, delay) in self.underlay.send(number, address, &mut self.rng) {
                    self.put(self.now + delay, Item::Arrival { to, seen, datagram: datagram.clone() });
                }
            }
            Path::Relayed(relay) => {
                let Datagram::Data { content: Content::Relayed { .. }, .. } = &datagram else {
                    let to = match &datagram {
                        Datagram::Initiation { to, .. } => Some(*to),
                        _ => None,
                    };
                    let Some(&relay_key) = self.by_node.get(&relay) else { return };
                    let target = to.or_else(|| self.machines[number].target_of(&datagram));
                    let node = target.and_then(|key| self.node_of(&key));
                    let Some(node) = node else { return };
                    let content = Content::Relayed { node, to_relay: true, inner: Box::new(datagram) };
                    return self.send_data(number, relay_key, None, content);
                };
            }
        }
    }

    fn node_of(&self, key: &PublicKey) -> Option<NodeId> {
        self.by_node.iter().find(|(_, held)| *held == key).map(|(node, _)| *node)
    }

    fn arrive(&mut self, number: usize, path: Path, datagram: Datagram) {
        if self.machines[number].node.is_none() {
            return;
        }
        match datagram {
            Datagram::Initiation { from, to, id } => {
                let machine = &mut self.machines[number];
                if to != machine.key {
                    return;
                }
                let own = machine.key;
                let session = machine.sessions.entry(from).or_default();
                // A copy of one that was taken.
                if session.current == Some(id) || session.next == Some(id) {
                    return;
                }
                session.next = Some(id);
                let answer = Datagram::Response { from: own, id };
                self.answer(number, from, path, answer);
            }
            Datagram::Response { from, id } => {
                let machine = &mut self.machines[number];
                let Some(session) = machine.sessions.get_mut(&from) else { return };
                if !session.pending.remove(&id) {
                    return;
                }
                session.pending.clear();
                session.previous = session.current.replace(id);
                session.path.get_or_insert(path);
                self.send_data(number, from, Some(path), Content::Confirm);
                self.established(number, from, path, true, id);
            }
            Datagram::Data { from, id, content } => {
                let machine = &mut self.machines[number];
                let Some(session) = machine.sessions.get_mut(&from) else { return };
                if session.next == Some(id) {
                    session.next = None;
                    session.previous = session.current.replace(id);
                    session.path.get_or_insert(path);
                    self.established(number, from, path, false, id);
                } else if session.current != Some(id) && session.previous != Some(id) {
                    return;
                }
                self.receive(number, from, path, content);
            }
        }
    }

    fn established(&mut self, number: usize, peer: PublicKey, path: Path, initiator: bool, id: u64) {
        let mut handshake_hash = [0; 32];
        handshake_hash[..8].copy_from_slice(&id.to_be_bytes());
        self.event(number, Event::Established { peer, path, initiator, handshake_hash });
        self.flush(number, peer);
    }

    /// A response goes back the way that the initiation came.
    fn answer(&mut self, number: usize, to: PublicKey, path: Path, datagram: Datagram) {
        match path {
            Path::Direct(_) => self.send_by(number, path, datagram),
            Path::Relayed(relay) => {
                let (Some(node), Some(&key)) = (self.node_of(&to), self.by_node.get(&relay)) else { return };
                let content = Content::Relayed { node, to_relay: true, inner: Box::new(datagram) };
                self.send_data(number, key, None, content);
            }
        }
    }

    fn receive(&mut self, number: usize, from: PublicKey, path: Path, content: Content) {
        match content {
            Content::Confirm => {}
            Content::Frame(message) => self.event(number, Event::Message { from, path, message: &message }),
            Content::Packet { source, destination, token, reply } => {
                let machine = &self.machines[number];
                let allowed = machine.installed.get(&from);
                if !allowed.is_some_and(|networks| networks.contains(&IpNet::from(source)))
                    || self.address(number) != Some(destination)
                {
                    return;
                }
                if reply {
                    self.machines[number].delivered.insert(token, self.now);
                } else {
                    let back =
                        Content::Packet { source: destination, destination: source, token, reply: true };
                    self.send_data(number, from, None, back);
                }
                self.event(number, Event::Traffic { peer: from });
            }
            Content::Relayed { node, to_relay: true, inner } => self.relay(number, from, path, node, *inner),
            Content::Relayed { node, to_relay: false, inner } => {
                // Stamped by the relay, whose role the session's membership says.
                let relay = self.machines[number].node.as_ref().and_then(|own| {
                    let times = own.times(self.clock(number));
                    let member = own.verifier().authorised(&from, times)?.0;
                    member.roles.contains(Roles::RELAY).then_some(member.node)
                });
                let _ = node;
                if let Some(relay) = relay {
                    self.arrive(number, Path::Relayed(relay), *inner);
                }
            }
        }
    }

    fn relay(&mut self, number: usize, from: PublicKey, path: Path, to: NodeId, inner: Datagram) {
        let now = self.clock(number);
        let machine = &mut self.machines[number];
        let (Some(node), Some(permission)) = (&machine.node, &mut machine.permission) else { return };
        let times = node.times(now);
        let Some(member) = node.verifier().member(&to) else { return };
        let destination = node.path_to(&member.key);
        let granted = permission.authorise(node.verifier(), (&from, path), (&to, destination), times);
        if let Ok(grant) = granted {
            let content = Content::Relayed { node: grant.source, to_relay: false, inner: Box::new(inner) };
            self.send_data(number, grant.destination_key, None, content);
        }
    }
}

impl Machine {
    /// Whose session a datagram of ours belongs to.
    fn target_of(&self, datagram: &Datagram) -> Option<PublicKey> {
        let Datagram::Data { id, .. } = datagram else { return None };
        let of = |session: &Session| session.current == Some(*id);
        self.sessions.iter().find(|(_, session)| of(session)).map(|(key, _)| *key)
    }

    pub(crate) fn path_to(&self, key: &PublicKey) -> Option<Path> {
        self.node.as_ref()?.path_to(key)
    }
}
