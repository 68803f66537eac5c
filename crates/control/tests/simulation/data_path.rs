//! A model of the data path. A session is a number that both ends know, in place of keys; everything else is as in the
//! engine.

use std::net::IpAddr;

use ipnet::IpNet;
use rand_core::Rng;
use tombolo_control::document::Roles;
use tombolo_control::node::Event;
use tombolo_control::{NodeId, Path};
use tombolo_noise::PublicKey;

use crate::world::{Item, Machine, SECOND, World};

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Confirm,
    Frame(Vec<u8>),
    Packet { source: IpAddr, destination: IpAddr, token: u64, reply: bool },
    Relayed { node: NodeId, to_relay: bool, inner: Box<Datagram> },
}

#[derive(Clone, Debug)]
pub(crate) enum Datagram {
    Initiation { from: PublicKey, to: PublicKey, id: u64 },
    Response { from: PublicKey, id: u64 },
    Data { from: PublicKey, id: u64, content: Content },
}

#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(super) current: Option<u64>,
    previous: Option<u64>,
    /// Answered, and not used by the initiator yet.
    next: Option<u64>,
    /// The initiation that waits for its response, and when the last one went out.
    pending: Option<u64>,
    initiated: Option<u64>,
    /// When the next one is due, and by which ways it goes.
    retransmission: Option<u64>,
    ways: Vec<Path>,
    pub(super) path: Option<Path>,
}

/// Between two initiations to one peer (requirement 5), with its jitter.
const REKEY_TIMEOUT: u64 = 5 * SECOND;
const JITTER: u64 = SECOND / 3;

impl Session {
    pub(super) fn is_open(&self) -> bool {
        self.current.is_some()
    }
}

impl World {
    pub(super) fn send_data(&mut self, number: usize, to: PublicKey, path: Option<Path>, content: Content) {
        let machine = &self.machines[number];
        let from = machine.key;
        let Some(session) = machine.sessions.get(&to) else { return };
        let (Some(id), Some(path)) = (session.current, path.or(session.path)) else { return };
        self.send_by(number, to, path, Datagram::Data { from, id, content });
    }

    pub(super) fn send_by(&mut self, number: usize, to: PublicKey, path: Path, datagram: Datagram) {
        match path {
            Path::Direct(address) => {
                for (to, seen, delay) in self.underlay.send(number, address, &mut self.rng) {
                    self.put(self.now + delay, Item::Arrival { to, seen, datagram: datagram.clone() });
                }
            }
            // Nothing is relayed twice.
            Path::Relayed(_)
                if matches!(datagram, Datagram::Data { content: Content::Relayed { .. }, .. }) => {}
            Path::Relayed(relay) => {
                let (Some(&node), Some(&relay)) = (self.nodes.get(&to), self.keys.get(&relay)) else {
                    return;
                };
                let content = Content::Relayed { node, to_relay: true, inner: Box::new(datagram) };
                self.send_data(number, relay, None, content);
            }
        }
    }

    /// As the engine does: an initiation that is under way goes by these ways too, as a copy; a new one waits until Rekey-Timeout is over.
    pub(super) fn handshake(&mut self, number: usize, key: PublicKey, paths: Vec<Path>) {
        let (now, machine) = (self.now, &mut self.machines[number]);
        machine.handshakes += 1;
        let session = machine.sessions.entry(key).or_default();
        let new = paths.iter().filter(|path| !session.ways.contains(path)).copied().collect::<Vec<_>>();
        session.ways.extend(new);
        if let Some(id) = session.pending {
            self.initiate(number, key, id, &paths);
        } else if session.initiated.is_some_and(|at| now < at + REKEY_TIMEOUT) {
            let due = session.initiated.unwrap_or_default() + REKEY_TIMEOUT;
            if session.retransmission.is_none() {
                self.retransmit_at(number, key, due);
            }
        } else {
            self.retransmission_due(number, key);
        }
    }

    fn initiate(&mut self, number: usize, to: PublicKey, id: u64, paths: &[Path]) {
        let from = self.machines[number].key;
        for path in paths {
            self.send_by(number, to, *path, Datagram::Initiation { from, to, id });
        }
    }

    pub(super) fn retransmit(&mut self, number: usize, key: PublicKey) {
        let session = self.machines[number].sessions.get(&key);
        if session.and_then(|session| session.retransmission) == Some(self.now) {
            self.retransmission_due(number, key);
        }
    }

    fn retransmission_due(&mut self, number: usize, key: PublicKey) {
        let (now, id) = (self.now, self.rng.next_u64());
        let session = self.machines[number].sessions.entry(key).or_default();
        (session.pending, session.initiated) = (Some(id), Some(now));
        let ways = session.ways.clone();
        self.retransmit_at(number, key, now + REKEY_TIMEOUT);
        self.initiate(number, key, id, &ways);
    }

    fn retransmit_at(&mut self, number: usize, key: PublicKey, earliest: u64) {
        let due = earliest + self.rng.next_u64() % JITTER;
        self.machines[number].sessions.entry(key).or_default().retransmission = Some(due);
        self.put(due, Item::Retransmission { from: number, to: key });
    }

    pub(super) fn arrive(&mut self, number: usize, path: Path, datagram: Datagram) {
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
                // A response goes back the way that the initiation came.
                self.send_by(number, from, path, answer);
            }
            Datagram::Response { from, id } => {
                let machine = &mut self.machines[number];
                let Some(session) = machine.sessions.get_mut(&from) else { return };
                if session.pending.take_if(|pending| *pending == id).is_none() {
                    return;
                }
                session.retransmission = None;
                session.ways.clear();
                session.previous = session.current.replace(id);
                session.path.get_or_insert(path);
                self.send_data(number, from, Some(path), Content::Confirm);
                self.established(number, from, path, true, id);
            }
            Datagram::Data { from, id, content } => {
                let machine = &mut self.machines[number];
                let Some(session) = machine.sessions.get_mut(&from) else { return };
                if session.next == Some(id) {
                    (session.next, session.pending, session.retransmission) = (None, None, None);
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
            Content::Relayed { to_relay: false, inner, .. } => {
                // Stamped by the relay, whose role the session's membership says.
                let relay = self.machines[number].node.as_ref().and_then(|own| {
                    let times = own.times(self.clock(number));
                    let member = own.verifier().authorised(&from, times)?.0;
                    member.roles.contains(Roles::RELAY).then_some(member.node)
                });
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
    pub(crate) fn path_to(&self, key: &PublicKey) -> Option<Path> {
        self.node.as_ref()?.path_to(key)
    }
}
