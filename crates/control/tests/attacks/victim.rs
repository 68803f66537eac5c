//! One node with all that an attacker may say to it.

use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_control::document::{Roles, Server};
use tombolo_control::frame::{Frame, Order, Show, Versions};
use tombolo_control::node::{
    EngineChange, Event, Node, NodeAlarm, NodeOptions, Output, Saved, SavedDocuments,
};
use tombolo_control::verifier::Pins;
use tombolo_control::{NodeId, Path};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{PrivateKey, PublicKey};

use crate::authority::{Authority, DAY};

const START: u64 = 20_700 * DAY;

/// A member of a network, with documents on its disk and nobody around.
pub(crate) struct Victim {
    pub(crate) node: Node,
    pub(crate) authority: Authority,
    pub(crate) lighthouse: PublicKey,
    pub(crate) lighthouse_paper: Vec<u8>,
    own: PublicKey,
    /// Nanoseconds of boot time.
    pub(crate) now: u64,
    rng: ChaCha20Rng,
    sequence: u64,
    frames: Vec<(PublicKey, Frame)>,
    changes: Vec<EngineChange>,
    pub(crate) alarms: Vec<NodeAlarm>,
}

pub(crate) fn key(number: u64) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    PrivateKey::from_bytes(bytes).public()
}

/// Where the sessions of the tests come from.
pub(crate) fn place() -> Path {
    Path::Direct("192.0.2.77:8662".parse().unwrap())
}

fn clock(now: u64) -> Now {
    Now {
        boot: Instant::from_nanos(now),
        wall: UnixTime(Duration::from_secs(START) + Duration::from_nanos(now)),
    }
}

impl Victim {
    pub(crate) fn new() -> Self {
        let now = 1_000_000_000;
        let wall = clock(now).wall;
        let mut authority = Authority::new(wall);
        let (own, lighthouse) = (key(1), key(2));
        let membership = authority.issue(own, Roles::NONE, wall);
        let roles = Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY;
        let lighthouse_paper = authority.issue(lighthouse, roles, wall);
        let mut node = [0; 16];
        node[3] = 2;
        let endpoints = vec!["192.0.2.2:8662".parse().unwrap()];
        authority.add_server(Server { node: NodeId::from_bytes(node), key: lighthouse, roles, endpoints });
        let signed = authority.sign(wall);
        let trust = &authority.trust;
        let pins = Pins { network: trust.network, root: trust.root.fingerprint(), overlay: None };
        let documents = SavedDocuments {
            pins,
            floor: None,
            trust: Some(signed.trust),
            network: Some(signed.network),
            head: Some(signed.head),
        };
        let saved = Saved { documents, membership, time: UnixTime::default(), epoch: 0, peers: Vec::new() };
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let node = Node::restore(own, &saved, NodeOptions::default(), clock(now), &mut rng);
        let (frames, changes, alarms) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            node,
            authority,
            lighthouse,
            lighthouse_paper,
            own,
            now,
            rng,
            sequence: 0,
            frames,
            changes,
            alarms,
        }
    }

    pub(crate) fn wall(&self) -> UnixTime {
        clock(self.now).wall
    }

    pub(crate) fn event(&mut self, event: Event<'_>) {
        self.node.handle_event(event, clock(self.now), &mut self.rng);
        self.drain();
    }

    /// Lets time pass, with all that is due in it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + u64::try_from(time.as_nanos()).unwrap();
        while let Some(at) = self.node.poll_timeout().filter(|at| at.as_nanos() <= until) {
            self.now = self.now.max(at.as_nanos());
            self.node.handle_timeout(clock(self.now), &mut self.rng);
            self.drain();
        }
        self.now = until;
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send(outgoing) => self.frames.push((outgoing.to, outgoing.frame)),
                Output::Engine(change) => self.changes.push(change),
                Output::Alarm(alarm) => self.alarms.push(alarm),
                _ => {}
            }
        }
    }

    pub(crate) fn take_frames(&mut self) -> Vec<(PublicKey, Frame)> {
        std::mem::take(&mut self.frames)
    }

    pub(crate) fn take_changes(&mut self) -> Vec<EngineChange> {
        std::mem::take(&mut self.changes)
    }

    /// A handshake that this key has made with the victim.
    pub(crate) fn session(&mut self, peer: PublicKey) {
        self.event(Event::Established { peer, path: place(), initiator: false, handshake_hash: [3; 32] });
    }

    pub(crate) fn message(&mut self, from: PublicKey, message: &[u8]) {
        self.event(Event::Message { from, path: place(), message });
    }

    pub(crate) fn frame(&mut self, from: PublicKey, frame: &Frame) {
        self.message(from, &frame.to_bytes().unwrap());
    }

    pub(crate) fn show(&mut self, from: PublicKey, membership: Vec<u8>) {
        self.sequence += 1;
        let order = Order { epoch: 1, sequence: self.sequence };
        let trust = &self.authority.trust;
        let versions = Versions { order, trust_epoch: trust.epoch, trust_hash: trust.hash(), head: None };
        self.frame(from, &Frame::Show(Show { membership, versions, answer: false }));
    }

    /// A further member: its key, and its membership.
    pub(crate) fn member(&mut self, number: u64) -> (PublicKey, Vec<u8>) {
        let (member, wall) = (key(number), self.wall());
        (member, self.authority.issue(member, Roles::NONE, wall))
    }

    /// The lighthouse has a session and has shown itself.
    pub(crate) fn with_lighthouse() -> Self {
        let mut victim = Self::new();
        let (lighthouse, paper) = (victim.lighthouse, victim.lighthouse_paper.clone());
        victim.session(lighthouse);
        victim.show(lighthouse, paper);
        assert!(victim.is_authorised(&lighthouse));
        (victim.frames, victim.changes) = (Vec::new(), Vec::new());
        victim
    }

    pub(crate) fn is_authorised(&self, peer: &PublicKey) -> bool {
        self.node.verifier().authorised(peer, self.node.times(clock(self.now))).is_some()
    }

    /// Initiations to addresses, of all that was changed since it was last taken.
    pub(crate) fn take_initiations(&mut self) -> Vec<SocketAddr> {
        let handshakes = self.take_changes().into_iter().filter_map(|change| match change {
            EngineChange::Handshake { paths, .. } => Some(paths),
            _ => None,
        });
        handshakes.flatten().filter_map(Path::direct).collect()
    }

    pub(crate) fn own(&self) -> PublicKey {
        self.own
    }
}
