//! A node of a network: what it does with frames, sessions and wishes, as a state machine without input and output.
//!
//! The shell says what happened ([`Event`]), what time it is, and lends randomness; it does what comes out
//! ([`Output`]), in order. One loop drives it:
//!
//! ```no_run
//! # use tombolo_control::node::{Event, Node, Output};
//! # use tombolo_noise::clock::{Instant, Now};
//! # fn next_event(_until: Option<Instant>) -> Option<Event<'static>> { None }
//! # fn carry_out(_: Output) {}
//! # fn run(mut node: Node, now: impl Fn() -> Now, rng: &mut dyn rand_core::CryptoRng) {
//! loop {
//!     while let Some(output) = node.poll_output() {
//!         carry_out(output); // send, change the engine, write to disk, resolve
//!     }
//!     match next_event(node.poll_timeout()) {
//!         Some(event) => node.handle_event(event, now(), rng),
//!         None => node.handle_timeout(now(), rng),
//!     }
//! }
//! # }
//! ```
//!
//! A node begins with [`Node::join`] and a token, or with [`Node::restore`] and what was saved. A server is a node too:
//! [`Node::serve_lighthouse`] gives it a memory of who is where, and frames for its authority come out as
//! [`Output::Authority`]. Nothing is believed but what [`crate::verifier`] takes; a node comes up, reaches its
//! peers and verifies strangers without any server (control rules 9, 16 and 18).

mod calling;
mod documents;
mod event;
mod life;
mod look_ups;
mod names;
#[cfg(test)]
mod names_tests;
mod paths;
mod peer;
mod presenting;
mod rotation;
#[cfg(test)]
mod routes_tests;
mod servers;
mod sessions;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use ipnet::IpNet;
use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_packet::bucket::Rate;

use crate::document::{Membership, Verified};
use crate::frame::{Frame, Order, Target};
use crate::lighthouse::{Lighthouse, LighthouseOptions};
use crate::limit::{Deadlines, Destinations, Limits};
use crate::path::{Outgoing, Path};
use crate::token::Token;
use crate::verifier::{ClockFault, NetworkTime, Pins, RouteRefusal, Times, Verifier, admit_route};

pub use event::{
    EngineChange, Event, NodeAlarm, NodeOptions, NodeStatus, Output, PeerPath, Save, Saved, SavedDocuments,
    SavedPeer,
};

pub use names::NamedNode;

use documents::Pulling;
use life::Life;
use look_ups::LookUps;
use names::NameBook;
use peer::Peer;
use presenting::Presenting;

/// What may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Task {
    Peer(PublicKey),
    LookUp(u64),
    Pull,
    Announce,
    Names,
    Rotation,
    Renewal,
    Upkeep,
}

/// Time and randomness of one call.
struct Call<'a> {
    now: Now,
    times: Times,
    rng: &'a mut dyn CryptoRng,
}

impl Call<'_> {
    fn boot(&self) -> Instant {
        self.now.boot
    }

    /// A random number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.rng.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes) % limit.max(1)
    }

    fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }
}

/// A node.
#[derive(Debug)]
pub struct Node {
    key: PublicKey,
    options: NodeOptions,
    verifier: Verifier,
    time: NetworkTime,
    head: Option<Vec<u8>>,
    own: Option<Verified<Membership>>,
    order: Order,
    peers: HashMap<PublicKey, Peer>,
    deadlines: Deadlines<Task>,
    look_ups: LookUps,
    names: NameBook,
    pulling: Option<Pulling>,
    /// How often the newest document was told to all.
    announced: usize,
    life: Life,
    presenting: Presenting,
    lighthouse: Option<Lighthouse>,
    local: Vec<SocketAddr>,
    forbidden: Vec<IpNet>,
    /// Of a lighthouse: as many peers as may be are on its disk.
    saved_full_until: Option<Instant>,
    /// Initiations and challenges to addresses that others named, for each address (control rule 13).
    destinations: Destinations,
    introductions: Limits<PublicKey>,
    outbox: VecDeque<Output>,
    dropped: u64,
}

impl Node {
    fn new(key: PublicKey, pins: Pins, saved: Option<&Saved>, options: NodeOptions, now: Now) -> Self {
        let floor = saved.and_then(|saved| saved.documents.floor);
        let confirmed = saved.map_or(UnixTime::default(), |saved| saved.time);
        let time = NetworkTime::start(now.boot, confirmed);
        // Greater than any before, whatever the clock says (control rule 11).
        let seconds = time.times(now).estimate.0.as_secs();
        let epoch = seconds.max(saved.map_or(1, |saved| saved.epoch.saturating_add(1)));
        let mut node = Self {
            key,
            verifier: Verifier::new(pins, floor),
            time,
            head: None,
            own: None,
            order: Order { epoch, sequence: 0 },
            peers: HashMap::new(),
            deadlines: Deadlines::default(),
            look_ups: LookUps::default(),
            names: NameBook::default(),
            pulling: None,
            announced: 0,
            life: Life::default(),
            presenting: Presenting::default(),
            lighthouse: None,
            local: Vec::new(),
            forbidden: Vec::new(),
            saved_full_until: None,
            destinations: Destinations::new(Rate { per_second: 2, burst: 24 }, 4096),
            introductions: Limits::new(Rate { per_second: 20, burst: 100 }, 256),
            outbox: VecDeque::from([Output::Save(Save::Epoch(epoch))]),
            dropped: 0,
            options,
        };
        node.deadlines.set(Task::Upkeep, now.boot);
        node
    }

    /// A new node, which asks to be let in. `key` is its new static key; the server's endpoints come as
    /// [`Output::Resolve`], the end as [`Output::Joined`].
    pub fn join(
        key: PublicKey,
        token: Token,
        name: Option<crate::NodeName>,
        options: NodeOptions,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let pins = Pins { network: *token.network(), root: *token.root(), overlay: None };
        let mut node = Self::new(key, pins, None, options, now);
        let mut call = node.call(now, rng);
        node.begin_join(token, name, &mut call);
        node
    }

    /// A node that was a member before it stopped. Peers of whom the last endpoint is known are called at once, with
    /// jitter; no server is needed.
    pub fn restore(
        key: PublicKey,
        saved: &Saved,
        options: NodeOptions,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let mut node = Self::new(key, saved.documents.pins.clone(), Some(saved), options, now);
        let mut call = node.call(now, rng);
        node.restore_documents(&saved.documents, &mut call);
        node.restore_members(saved, &mut call);
        node
    }

    /// From now on this node is a lighthouse too. Its membership must have the role for others to believe it.
    pub fn serve_lighthouse(&mut self, options: LighthouseOptions, now: Now) {
        // All whom it remembers have a session with it.
        self.options.peers = self.options.peers.max(options.nodes);
        let mut lighthouse = Lighthouse::new(options, now.boot);
        lighthouse.set_epoch(self.order.epoch);
        // What came from the disk; others follow as they are heard.
        let members = self.verifier.members().chain(&self.own);
        members.for_each(|member| lighthouse.note_member(member, now.boot));
        self.lighthouse = Some(lighthouse);
    }

    /// Takes in what happened.
    pub fn handle_event(&mut self, event: Event<'_>, now: Now, rng: &mut dyn CryptoRng) {
        let call = &mut self.call(now, rng);
        match event {
            Event::Message { from, path, message } => match Frame::parse(message) {
                Ok(frame) => self.handle_frame(from, path, frame, call),
                Err(_) => self.dropped += 1,
            },
            Event::Established { peer, path, initiator, handshake_hash } => {
                self.handle_established(peer, path, initiator, handshake_hash, call);
            }
            Event::Ended { peer } => self.handle_ended(peer, call),
            Event::Wanted { address } => self.handle_wanted(address, call),
            Event::WantedName { name } => self.want(Target::Name(name), None, call),
            Event::Traffic { peer } => self.handle_traffic(peer, call),
            Event::Moved { peer, address } => self.handle_moved(peer, address, call),
            Event::Resolved { endpoint, addresses } => self.handle_resolved(&endpoint, &addresses, call),
            Event::Local { addresses, forbidden } => self.handle_local(addresses, forbidden, call),
            Event::Forwarded { source, destination } => self.handle_forwarded(&source, destination),
        }
        self.collect(call);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        let call = &mut self.call(now, rng);
        while let Some(task) = self.deadlines.pop_due(now.boot) {
            match task {
                Task::Peer(key) => self.tick_peer(key, call),
                Task::LookUp(id) => self.tick_look_up(id, call),
                Task::Pull => self.tick_pull(call),
                Task::Announce => self.tick_announce(call),
                Task::Names => self.tick_names(call),
                Task::Rotation => self.tick_rotation(call),
                Task::Renewal => self.tend_membership(call),
                Task::Upkeep => self.tick_upkeep(call),
            }
        }
        if let Some(lighthouse) = &mut self.lighthouse {
            lighthouse.handle_timeout(now.boot);
        }
        self.collect(call);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When [`Node::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let lighthouse = self.lighthouse.as_ref().map(Lighthouse::poll_timeout);
        [self.deadlines.next(), lighthouse].into_iter().flatten().min()
    }

    /// Sends a frame in the session with a key: an answer of the authority, a request of an administrator.
    pub fn send(&mut self, to: PublicKey, frame: Frame) {
        self.push(to, None, frame);
    }

    /// From now on these prefixes are what this machine takes of the network's routes (control rule 5).
    pub fn accept_routes(&mut self, prefixes: Vec<IpNet>, now: Now, rng: &mut dyn CryptoRng) {
        self.options.accept_routes = prefixes;
        let call = self.call(now, rng);
        self.review_routes(&call);
    }

    /// Whether a route of the network is taken here (control rule 5).
    ///
    /// # Errors
    /// Says why not.
    pub fn admit_route(&self, route: IpNet) -> Result<(), RouteRefusal> {
        admit_route(route, self.overlay(), &self.options.accept_routes)
    }

    /// The pinned prefixes of the overlay.
    fn overlay(&self) -> impl Iterator<Item = IpNet> {
        self.verifier.pins().overlay.iter().flat_map(|overlay| overlay.cidrs.iter().copied())
    }

    /// What is reached through tunnels, and so is nowhere that a tunnel itself could lead: the overlay, and the accepted
    /// prefixes.
    pub fn tunnelled(&self) -> impl Iterator<Item = IpNet> {
        self.overlay().chain(self.options.accept_routes.iter().copied())
    }

    /// What the node believes.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The node's own membership, once it has one.
    pub fn membership(&self) -> Option<&Verified<Membership>> {
        self.own.as_ref()
    }

    /// The lighthouse on this machine.
    pub fn lighthouse(&self) -> Option<&Lighthouse> {
        self.lighthouse.as_ref()
    }

    /// The two times that decisions go by.
    pub fn times(&self, now: Now) -> Times {
        self.time.times(now)
    }

    /// The path in use to a key with a session; for a relay's [`crate::relay::Permission`].
    pub fn path_to(&self, key: &PublicKey) -> Option<Path> {
        self.peers.get(key).filter(|peer| peer.session.is_some()).and_then(|peer| peer.current)
    }

    /// How a peer is reached.
    pub fn peer_path(&self, key: &PublicKey, now: Now) -> Option<PeerPath> {
        Some(self.peers.get(key)?.describe(*key, now.boot))
    }

    /// How far the system's clock is off, if it is, by what was signed and saved (control rule 18).
    pub fn clock_fault(&self, now: Now) -> Option<ClockFault> {
        self.time.fault(now).filter(|_| self.verifier.trust().is_some())
    }

    /// How the node stands.
    pub fn status(&self, now: Now) -> NodeStatus {
        let times = self.time.times(now);
        let own = self.own.as_ref().and_then(|own| self.verifier.authorised(&own.key, times));
        let observed = |peer: &Peer| peer.server.as_ref().and_then(|server| server.observed);
        let mut places: Vec<SocketAddr> = self.peers.values().filter_map(observed).collect();
        places.sort_unstable();
        places.dedup();
        NodeStatus {
            membership: own.map(|(_, validity)| validity),
            network: self.verifier.network().map(|network| network.version),
            stale: self.verifier.is_stale(times),
            observed: places,
            peers: self.peers.iter().map(|(key, peer)| peer.describe(*key, now.boot)).collect(),
            dropped: self.dropped,
        }
    }

    fn call<'a>(&self, now: Now, rng: &'a mut dyn CryptoRng) -> Call<'a> {
        Call { now, times: self.time.times(now), rng }
    }

    fn push(&mut self, to: PublicKey, path: Option<Path>, frame: Frame) {
        self.outbox.push_back(Output::Send(Outgoing { to, path, frame }));
    }

    fn engine(&mut self, change: EngineChange) {
        self.outbox.push_back(Output::Engine(change));
    }

    fn next_order(&mut self) -> Order {
        self.order.sequence += 1;
        self.order
    }

    /// Gathers what the parts have for others.
    fn collect(&mut self, call: &mut Call<'_>) {
        self.collect_names();
        while let Some(alarm) = self.verifier.poll_alarm() {
            self.outbox.push_back(Output::Alarm(NodeAlarm::Verifier(alarm)));
        }
        let Some(lighthouse) = &mut self.lighthouse else { return };
        lighthouse.tell_names(&self.verifier, call.times, call.now.boot);
        while let Some(outgoing) = lighthouse.poll_output() {
            self.outbox.push_back(Output::Send(outgoing));
        }
        while let Some(alarm) = lighthouse.poll_alarm() {
            self.outbox.push_back(Output::Alarm(NodeAlarm::Lighthouse(alarm)));
        }
    }
}
