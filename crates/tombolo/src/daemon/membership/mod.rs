//! A network by membership: drives the state machines of node and authority from the daemon's main loop.
//!
//! Events of the engine, results of the store, answers of the resolver and requests of the control socket go in; what comes
//! out is done at once and in order: frames, changes of the engine, writes, transactions. Nothing here waits.

mod alarms;
mod answers;
mod asking;
mod attached;
mod candidates;
mod data_path;
mod join;
mod relaying;
mod rotation;
mod server;
mod start;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use tokio::sync::oneshot;
use tombolo_control::authority::{Outcome, TransactionId};
use tombolo_control::document::Roles;
use tombolo_control::frame::Frame;
use tombolo_control::lighthouse::LighthouseOptions;
use tombolo_control::node::{Event as NodeEvent, Node, Output, Save};
use tombolo_control::path::Path;
use tombolo_control::{HostEndpoint, NodeName};
use tombolo_engine::{EngineEvent, now};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use super::{Daemon, Event};
use crate::cli::Failure;
use crate::control::Answer;
use crate::membership::MembershipState;
use crate::resolver;

pub(super) use answers::admin_request;
use asking::Asking;
use join::Joining;
use relaying::Relaying;
use server::Server;

/// How often it is looked at with whom packets are exchanged, while they are.
const USE_INTERVAL: Duration = Duration::from_secs(1);
/// The same while there were none; the engine tells of the first of a silent member, mostly.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);

/// The membership of this machine in one network.
pub(super) struct Member {
    node: Node,
    /// This machine's.
    key: PublicKey,
    /// Roles that the file does not switch off.
    served: Roles,
    /// Of a server.
    server: Option<Server>,
    state: MembershipState,
    random: ChaCha20Rng,
    /// The newest session of each key, by the engine's number.
    sessions: HashMap<PublicKey, u64>,
    /// The way by which the engine reaches each key.
    paths: HashMap<PublicKey, Path>,
    /// Of a relay: who may send to whom.
    relaying: Option<Relaying>,
    joining: Option<Joining>,
    /// The UDP port.
    port: u16,
    /// Where servers and members were reached: what packets to them leave from is where others may reach this machine.
    remotes: Vec<SocketAddr>,
    /// Where the names of servers led to last.
    resolved: HashMap<String, Vec<SocketAddr>>,
    /// Where this machine is told to be.
    local: Vec<SocketAddr>,
    /// Requests to an authority that is elsewhere.
    asking: Asking,
    /// Who waits for the end of the membership.
    leaving: Option<oneshot::Sender<Answer>>,
    /// Who waits for another key.
    rotating: Option<rotation::Waiting>,
    /// What happened that somebody should look at, the newest of each kind.
    alarms: HashMap<&'static str, alarms::Happened>,
    /// When it is looked at next with whom packets are exchanged.
    next_look: Instant,
    /// Stock WireGuard peers that this machine presents.
    attached: HashSet<PublicKey>,
}

impl Member {
    /// What this machine serves follows from its membership, and from what its file switches off. `true`: it is a
    /// relay from now on.
    fn take_roles(&mut self) -> bool {
        let Some((node, roles)) = self.node.membership().map(|own| (own.node, own.roles)) else {
            return false;
        };
        let serves = |role| roles.contains(role) && self.served.contains(role);
        let (lighthouse, relay) = (serves(Roles::LIGHTHOUSE), serves(Roles::RELAY));
        if lighthouse && self.node.lighthouse().is_none() {
            self.node.serve_lighthouse(LighthouseOptions::default(), now());
        }
        if relay && self.relaying.is_none() {
            self.relaying = Some(Relaying::new(node));
            return true;
        }
        false
    }

    /// Whether there is a session of a verified member with this key.
    pub(super) fn has_session(&self, key: &PublicKey) -> bool {
        self.node.path_to(key).is_some()
    }

    /// Whether the key is a member's.
    pub(super) fn knows(&self, key: &PublicKey) -> bool {
        self.node.verifier().member_of_key(key).is_some()
    }

    pub(super) fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// When something is due, as time from now.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let server = self.server.as_ref().and_then(Server::poll_timeout);
        let joining = self.joining.as_ref().map(Joining::deadline);
        let waiting = [self.rotation_deadline(), self.asking.poll_timeout()].into_iter().flatten().min();
        let next = [self.node.poll_timeout(), server, joining, waiting].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(now().boot))
    }

    /// When the members in use are to be looked at, as time from now.
    pub(super) fn look_in(&self) -> Duration {
        self.next_look.saturating_duration_since(now().boot)
    }

    fn handle_event(&mut self, event: NodeEvent<'_>) {
        self.node.handle_event(event, now(), &mut self.random);
    }

    /// Packets wait for an address to which there is no tunnel.
    pub(super) fn handle_wanted(&mut self, address: IpAddr) {
        self.handle_event(NodeEvent::Wanted { address });
    }

    /// Somebody wants to reach a node by its name.
    pub(super) fn handle_wanted_name(&mut self, name: &NodeName) {
        self.handle_event(NodeEvent::WantedName { name: name.clone() });
    }

    /// From now on the names of all nodes are kept at hand.
    pub(super) fn follow_names(&mut self) {
        let known = self.state.names();
        self.node.follow_names(known, now());
    }

    /// Writes the names down, for a start without any server.
    pub(super) fn save_names(&mut self) {
        if let Err(error) = self.state.save_names(self.node.names()) {
            self.alarm("disk", error.to_string());
        }
    }

    /// What this machine takes of the network's routes from now on (control rule 5).
    pub(super) fn accept_routes(&mut self, prefixes: &[IpNet]) {
        self.node.accept_routes(prefixes.to_vec(), now(), &mut self.random);
        self.look_at_addresses();
    }

    fn note_session(&mut self, key: PublicKey, session: &tombolo_engine::Session, path: Option<Path>) {
        let Some(path) = path else { return };
        if let Some(remote) = path.direct()
            && (self.remotes.is_empty() || !self.paths.contains_key(&key))
        {
            self.note_local(&[remote]);
        }
        let newest = self.sessions.entry(key).or_insert(0);
        if session.epoch <= *newest {
            return;
        }
        *newest = session.epoch;
        // The engine's own way follows the answer to a handshake of ours; one of the peer's moves it from one address to another at
        // most, never from or to a relay (control rule 14). What is not known is said with the next use of a path.
        let moves_along = session.initiator
            || (path.direct().is_some() && self.paths.get(&key).is_some_and(|held| !held.is_relayed()));
        if moves_along {
            self.paths.insert(key, path);
        } else if self.paths.get(&key) != Some(&path) {
            self.paths.remove(&key);
        }
        if let Some(joining) = &mut self.joining {
            joining.note_session(&key);
        }
        self.handle_event(NodeEvent::Established {
            peer: key,
            path,
            initiator: session.initiator,
            handshake_hash: session.handshake_hash,
        });
    }

    /// A path of the engine's as the control plane has it.
    fn path(&self, path: tombolo_engine::Path) -> Option<Path> {
        match path {
            tombolo_engine::Path::Direct(remote) => Some(Path::Direct(remote)),
            tombolo_engine::Path::Relayed { relay, .. } => {
                let servers = &self.node.verifier().network()?.servers;
                servers.iter().find(|server| server.key == relay).map(|server| Path::Relayed(server.node))
            }
        }
    }

    /// Takes what the engine tells of members. `false`: it is for somebody else.
    pub(super) fn handle_engine(&mut self, event: &EngineEvent) -> bool {
        match event {
            EngineEvent::MemberSession { public_key, session, path, .. } => {
                let path = path.and_then(|path| self.path(path));
                self.note_session(*public_key, session, path);
            }
            EngineEvent::ControlFrame { public_key, session, path, bytes, .. } => {
                let path = path.and_then(|path| self.path(path));
                // The frame may have overtaken the news of its session.
                if self.sessions.get(public_key).is_none_or(|newest| *newest < session.epoch) {
                    self.note_session(*public_key, session, path);
                    // How it came says nothing of how the engine sends.
                    self.paths.remove(public_key);
                }
                self.handle_frame(*public_key, path, bytes);
            }
            EngineEvent::TunnelWanted(address) => self.handle_wanted(*address),
            EngineEvent::MemberUsed(key) => self.note_use(*key),
            EngineEvent::Forwarded { source, destination } => {
                self.handle_event(NodeEvent::Forwarded { source: *source, destination: *destination });
            }
            EngineEvent::PeerGone(key) => self.forget(key),
            EngineEvent::MemberMoved { public_key, remote, .. } => {
                self.paths.insert(*public_key, Path::Direct(*remote));
                self.handle_event(NodeEvent::Moved { peer: *public_key, address: *remote });
            }
            EngineEvent::KeyInTwoPlaces { public_key, newer, older } => self.alarm(
                "two places",
                format!(
                    "the key {public_key} is in use at {newer} and at {older}: a copied disk, or a stolen key; \
                     `tombolo node replace` gives one of them another"
                ),
            ),
            _ => return false,
        }
        true
    }

    fn handle_frame(&mut self, from: PublicKey, path: Option<Path>, bytes: &[u8]) {
        let Some(path) = path else { return };
        match Frame::parse(bytes) {
            Ok(Frame::AdminAnswer(answer)) => {
                self.asking.handle_answer(from, answer.id, bytes);
                return;
            }
            Ok(Frame::JoinAnswer(answer)) => {
                if let Some(joining) = &mut self.joining {
                    joining.note_answer(&answer, now());
                }
            }
            _ => {}
        }
        if let Some(server) = &mut self.server {
            server.note_seen(&from);
        }
        self.handle_event(NodeEvent::Message { from, path, message: bytes });
    }

    /// Packets were exchanged with a member; whether they go on is looked at again soon.
    fn note_use(&mut self, key: PublicKey) {
        self.next_look = self.next_look.min(now().boot + USE_INTERVAL);
        self.handle_event(NodeEvent::Traffic { peer: key });
    }

    fn forget(&mut self, key: &PublicKey) {
        self.sessions.remove(key);
        self.paths.remove(key);
        self.handle_event(NodeEvent::Ended { peer: *key });
    }

    pub(super) fn handle_resolved(
        &mut self,
        endpoint: &HostEndpoint,
        result: Result<Vec<SocketAddr>, String>,
    ) {
        match result {
            Ok(addresses) => {
                if let Some(joining) = &mut self.joining {
                    joining.note_addresses(&addresses);
                }
                self.note_local(&addresses);
                self.resolved.insert(endpoint.as_str().to_owned(), addresses.clone());
                self.handle_event(NodeEvent::Resolved { endpoint: endpoint.clone(), addresses });
            }
            Err(error) => {
                tracing::warn!("the server {} is not found: {error}", endpoint.as_str());
                if let Some(joining) = &mut self.joining {
                    joining.note_unresolved(endpoint, &error);
                }
            }
        }
    }

    pub(super) fn handle_store(&mut self, id: TransactionId, outcome: Outcome) {
        if let Some(server) = &mut self.server {
            server.handle_store(id, outcome, &mut self.random);
        }
    }

    pub(super) fn handle_timeout(&mut self) -> Result<(), Failure> {
        let time = now();
        if self.node.poll_timeout().is_some_and(|due| due <= time.boot) {
            self.node.handle_timeout(time, &mut self.random);
        }
        if let Some(server) = &mut self.server {
            server.handle_timeout(&mut self.random);
        }
        let again = self.asking.handle_timeout(time.boot, |key| self.sessions.get(key).copied());
        for (authority, frame) in again {
            self.node.send(authority, frame);
        }
        self.check_rotation();
        match &self.joining {
            Some(joining) => joining.check(time),
            None => Ok(()),
        }
    }

    pub(super) fn leave(&mut self, reply: oneshot::Sender<Answer>) {
        if self.server.is_some() {
            let message = "this machine is the network's server: without it nobody joins or renews; \
                           stop it with `tombolo down`, or remove its state by hand"
                .to_owned();
            let _ = reply.send(Answer::Error { message });
            return;
        }
        self.leaving = Some(reply);
        self.node.leave();
    }

    /// What was decided is written, and the register is free for others.
    pub(super) fn stop(self) {
        if let Some(server) = self.server {
            server.stop();
        }
    }

    /// Writes what was gathered.
    pub(super) fn flush(&mut self) {
        if let Err(error) = self.state.flush() {
            self.alarm("disk", error.to_string());
        }
    }
}

impl Daemon {
    /// Does what the state machines of the membership want.
    pub(super) fn drive_member(&mut self) -> Result<(), Failure> {
        let Some(mut member) = self.member.take() else { return Ok(()) };
        let result = self.drive(&mut member);
        self.hand_over();
        self.member = Some(member);
        result
    }

    fn drive(&mut self, member: &mut Member) -> Result<(), Failure> {
        loop {
            if let Some(output) = member.node.poll_output() {
                self.carry_out(member, output)?;
            } else if let Some(server) = &mut member.server
                && server.drive(&mut member.node, &mut member.random)
            {
                continue;
            } else {
                return Ok(());
            }
        }
    }

    fn carry_out(&mut self, member: &mut Member, output: Output) -> Result<(), Failure> {
        match output {
            Output::Send(outgoing) => self.send_frame(member, &outgoing),
            Output::Engine(change) => self.change_data_path(member, change),
            Output::Save(save) => {
                if let (Save::Documents(documents), Some(server)) = (&save, &mut member.server) {
                    server.handle_documents(documents, &mut member.random);
                }
                let renewed = matches!(save, Save::Membership(_));
                let dated = matches!(save, Save::Time(_) | Save::Documents(_));
                if let Err(error) = member.state.save(save) {
                    member.alarm("disk", error.to_string());
                }
                if renewed {
                    member.note_renewed();
                }
                if dated {
                    self.tell_time(member);
                }
                self.save_wanted |= member.state.is_dirty();
                if renewed && member.take_roles() {
                    self.tell_relaying_of(member);
                }
            }
            Output::Alarm(alarm) => member.take_alarm(&alarm),
            Output::Resolve(endpoint) => self.resolve_server(endpoint),
            Output::Authority { from, handshake_hash, frame } => {
                // What this machine asks for itself needs no session.
                let own = from == member.key;
                let authorised =
                    own || member.node.verifier().authorised(&from, member.node.times(now())).is_some();
                if let Some(server) = &mut member.server {
                    server.handle_frame(from, handshake_hash, authorised, &frame, &mut member.random);
                }
            }
            Output::ChangeKey(key) => self.change_key(member, key),
            Output::KeyChanged(key) => self.key_changed(member, key),
            Output::Names => self.names_changed = true,
            Output::Joined(Ok(())) => self.joined(member)?,
            Output::Joined(Err(refusal)) => {
                let joining = member.joining.take();
                return Err(join::refused(refusal, joining.as_ref()));
            }
            Output::Left => {
                if let Some(joining) = &member.joining {
                    joining.check_refused()?;
                }
                if let Some(reply) = member.leaving.take() {
                    let _ = reply.send(Answer::Done);
                }
            }
        }
        Ok(())
    }

    /// What is confirmed of the time, for the timestamps of handshakes (control rule 18).
    fn tell_time(&self, member: &Member) {
        if let Ok(handle) = self.slot.handle() {
            // It fails only when the engine has stopped.
            let _ = handle.set_time_floor(member.node.times(now()).confirmed);
        }
    }

    fn resolve_server(&self, endpoint: HostEndpoint) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = resolver::resolve_all(endpoint.host(), endpoint.port()).await;
            // Nobody listens when the daemon is stopping.
            let _ = events.send(Event::ServerResolved(endpoint, result));
        });
    }
}
