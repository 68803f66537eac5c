//! Lighthouses, relays and authorities: a tunnel with a few of each is kept, with keepalives that must be answered
//! (control rule 11).

use std::net::SocketAddr;
use std::time::Duration;

use tombolo_noise::PublicKey;

use super::event::{EngineChange, NodeAlarm, Output, Save, SavedPeer};
use super::peer::{Attempt, Peer, ServerPeer};
use super::{Call, Node, Task};
use crate::document::{Membership, Roles, Server, Verified};
use crate::frame::{Frame, Keepalive, KeepaliveAnswer};
use crate::path::Path;
use crate::signing::sha256;
use crate::{HostEndpoint, NodeId};

/// Of each role.
const SERVERS: usize = 3;
/// A keepalive that has no answer by then is sent once more; then a handshake begins.
const ANSWER: Duration = Duration::from_secs(3);
const MISSES: u8 = 2;
/// Where members who are reached by it do not answer either, three round trips are waited, within these bounds.
const ANSWER_SOON: [Duration; 2] = [Duration::from_millis(300), ANSWER];

impl Node {
    /// Keeps tunnels with servers as the newest document has them.
    pub(super) fn tend_servers(&mut self, call: &mut Call<'_>) {
        let Some(network) = self.verifier.network() else { return };
        if self.own.is_none() {
            return;
        }
        let own = self.own.as_ref().map_or([0; 16], |own| *own.node.as_bytes());
        let others = network.servers.iter().filter(|server| server.key != self.key);
        let mut servers: Vec<Server> = others.cloned().collect();
        // Each node prefers others, so that servers share the nodes (rendezvous hashing).
        servers.sort_by_cached_key(|server| sha256(&[&own, server.node.as_bytes()]));
        let mut chosen: Vec<Server> = Vec::new();
        for role in [Roles::LIGHTHOUSE, Roles::RELAY, Roles::AUTHORITY] {
            let of_role = servers.iter().filter(|server| server.roles.contains(role)).take(SERVERS);
            for server in of_role {
                if !chosen.iter().any(|held| held.key == server.key) {
                    chosen.push(server.clone());
                }
            }
        }
        let gone: Vec<PublicKey> = self
            .peers
            .iter()
            .filter(|(key, peer)| {
                peer.server.is_some()
                    && !servers.iter().any(|server| server.key == **key)
                    && !self.life.is_joining_with(key)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.server = None;
            }
        }
        for server in chosen {
            self.tend_server(&server, call);
        }
    }

    pub(super) fn tend_server(&mut self, server: &Server, call: &mut Call<'_>) {
        self.be_server(server.key, server.node, server.roles, &server.endpoints, call);
    }

    /// Makes a key one that we keep a tunnel with. Its endpoints are signed, or stand in a token: nothing forbids them.
    pub(super) fn be_server(
        &mut self,
        key: PublicKey,
        node: NodeId,
        roles: Roles,
        endpoints: &[HostEndpoint],
        call: &mut Call<'_>,
    ) {
        if !self.peers.contains_key(&key) && !self.make_room() {
            return;
        }
        let now = call.now.boot;
        let peer = self.peers.entry(key).or_insert_with(|| Peer::new(now));
        match &mut peer.server {
            Some(server) => {
                let moved = server.endpoints != endpoints;
                (server.node, server.roles) = (node, roles);
                server.endpoints = endpoints.to_vec();
                if !moved {
                    return self.begin_attempt_if_alone(key, call);
                }
            }
            None => {
                peer.server = Some(ServerPeer {
                    node,
                    roles,
                    endpoints: endpoints.to_vec(),
                    next_keepalive: now,
                    asked: None,
                    unanswered: 0,
                    heard: None,
                    doubted: false,
                    observed: None,
                    wanted: None,
                });
            }
        }
        for endpoint in endpoints {
            match endpoint.address() {
                Some(address) => peer.add_candidate(address, true),
                None => self.outbox.push_back(Output::Resolve(endpoint.clone())),
            }
        }
        self.begin_attempt_if_alone(key, call);
    }

    fn begin_attempt_if_alone(&mut self, key: PublicKey, call: &mut Call<'_>) {
        if self.peers.get(&key).is_some_and(|peer| peer.session.is_none()) {
            self.begin_attempt(key, Duration::ZERO, call);
        } else {
            self.schedule(key);
        }
    }

    pub(super) fn handle_resolved(
        &mut self,
        endpoint: &HostEndpoint,
        addresses: &[SocketAddr],
        call: &mut Call<'_>,
    ) {
        let mut keys = Vec::new();
        for (key, peer) in &mut self.peers {
            if peer.server.as_ref().is_some_and(|server| server.endpoints.contains(endpoint)) {
                for address in addresses.iter().take(8) {
                    peer.add_candidate(*address, true);
                }
                if let Some(attempt) = peer.attempt.as_mut().filter(|_| peer.session.is_none()) {
                    *attempt = Attempt { next: call.now.boot, ..*attempt };
                }
                keys.push(*key);
            }
        }
        for key in keys {
            self.schedule(key);
        }
    }

    /// Sends a keepalive to a server that is due for one.
    pub(super) fn keepalive(&mut self, key: PublicKey, peer: &mut Peer, call: &mut Call<'_>) {
        let now = call.now.boot;
        let (verified, relayed) = (peer.is_verified(), peer.is_relayed());
        let (soon, usable) = (peer.answer_expected(ANSWER_SOON), peer.is_usable_relay());
        let Some(server) = peer.server.as_mut().filter(|server| verified && server.next_keepalive <= now)
        else {
            return;
        };
        if relayed && server.is_wanted(now) {
            // It is not to be answered, for there is no address to tell; other ways are looked for meanwhile.
            server.next_keepalive = now + ANSWER;
            return;
        }
        if server.asked.take().is_some() {
            server.unanswered += 1;
        }
        if server.unanswered >= MISSES {
            // It has restarted, or we are elsewhere: the session is of no use.
            (server.unanswered, server.doubted) = (0, false);
            peer.session = None;
            peer.attempt = Some(Attempt { next: now, round: 0 });
            let resolve = server.endpoints.iter().filter(|endpoint| endpoint.address().is_none());
            self.outbox.extend(resolve.cloned().map(Output::Resolve));
            return self.attempt(key, peer, call);
        }
        server.next_keepalive = now + if server.doubted { soon } else { ANSWER };
        let order = self.next_order();
        server.asked = Some(order);
        let own = usable.then_some(server.node);
        let (candidates, relays) = (self.local.clone(), self.relays_held(own));
        self.push(key, None, Frame::Keepalive(Keepalive { order, candidates, relays }));
    }

    /// The servers of the network that are among the peers, of whom a server has twenty thousand.
    pub(super) fn held_servers(&self) -> impl Iterator<Item = (PublicKey, &Peer)> {
        let servers = self.verifier.network().map_or(&[][..], |network| &network.servers);
        servers.iter().filter_map(|server| Some((server.key, self.peers.get(&server.key)?)))
    }

    /// Relays that can be used; `taken` is one that is in hand, and not among the peers at the moment.
    fn relays_held(&self, taken: Option<NodeId>) -> Vec<NodeId> {
        let held = self.held_servers().filter(|(_, peer)| peer.is_usable_relay());
        let held = held.filter_map(|(_, peer)| peer.server.as_ref().map(|server| server.node));
        taken.into_iter().chain(held).take(4).collect()
    }

    pub(super) fn handle_keepalive(
        &mut self,
        member: &Verified<Membership>,
        path: Path,
        keepalive: &Keepalive,
        call: &mut Call<'_>,
    ) {
        let now = call.now;
        if let Some(lighthouse) = &mut self.lighthouse {
            lighthouse.handle_keepalive(member, keepalive, path, &self.verifier, now, &mut *call.rng);
        } else if let Path::Direct(observed) = path {
            let answer = KeepaliveAnswer {
                order: keepalive.order,
                observed,
                trust_epoch: self.verifier.trust().map_or(0, |trust| trust.epoch),
                network_counter: self.verifier.network().map_or(0, |network| network.version.counter),
            };
            self.push(member.key, Some(path), Frame::KeepaliveAnswer(answer));
        }
    }

    pub(super) fn handle_keepalive_answer(
        &mut self,
        from: PublicKey,
        answer: &KeepaliveAnswer,
        call: &mut Call<'_>,
    ) {
        let every = self.options.keepalive;
        let jitter = Duration::from_millis(call.below((every.as_millis() as u64 / 8).max(1)));
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(server) = &mut peer.server else { return };
        if server.asked != Some(answer.order) {
            return;
        }
        (server.asked, server.unanswered) = (None, 0);
        (server.heard, server.doubted) = (Some(call.now.boot), false);
        server.observed = Some(answer.observed);
        server.next_keepalive = call.now.boot + every.saturating_sub(jitter);
        self.schedule(from);
        let ours = self.verifier.network().map_or(0, |network| network.version.counter);
        let trust = self.verifier.trust().map_or(0, |trust| trust.epoch);
        if (answer.trust_epoch, answer.network_counter) != (trust, ours) {
            // One of us has missed something.
            self.send_versions(from, call);
        }
    }

    /// What is due now and then.
    pub(super) fn tick_upkeep(&mut self, call: &mut Call<'_>) {
        self.deadlines.set(Task::Upkeep, call.now.boot + self.options.upkeep);
        self.reverify(call);
        if !self.verifier.prune(call.times).is_empty() {
            self.review_presented(call);
        }
        self.tend_presented(call);
        self.tend_servers(call);
        self.tend_membership(call);
        self.tend_names(call);
        let now = call.now.boot;
        let (idle, provisional) = (self.options.idle, Duration::from_secs(10));
        let gone = |peer: &Peer| {
            let unused = now.saturating_duration_since(peer.used);
            let stranger = peer.session.is_some_and(|session| {
                !session.verified && now.saturating_duration_since(session.since) > provisional
            });
            peer.server.is_none() && (stranger || (unused > idle && peer.session.is_none()))
        };
        let gone = self.peers.iter().filter(|(key, peer)| gone(peer) && !self.life.is_joining_with(key));
        let gone: Vec<PublicKey> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            self.cut(key);
        }
        self.outbox.push_back(Output::Save(Save::Time(call.times.confirmed)));
        let stale = self.verifier.network().is_some() && self.verifier.is_stale(call.times);
        if self.life.note_stale(stale) {
            self.outbox.push_back(Output::Alarm(NodeAlarm::Stale));
        }
        let fault = self.clock_fault(call.now);
        if self.life.note_fault(fault.is_some())
            && let Some(fault) = fault
        {
            self.outbox.push_back(Output::Alarm(NodeAlarm::Clock(fault)));
        }
    }

    /// Gives the data path a member's addresses, and what lies behind it and is accepted here.
    pub(super) fn install_peer(&mut self, key: &PublicKey, call: &Call<'_>) {
        let Some((member, _)) = self.verifier.authorised(key, call.times) else { return };
        let mut networks: std::collections::BTreeSet<_> =
            member.addresses.iter().map(|address| ipnet::IpNet::from(*address)).collect();
        for route in self.verifier.network().iter().flat_map(|network| &network.routes) {
            let behind = route.gateways.contains(&member.node) && member.routes.contains(&route.prefix);
            if behind && self.admit_route(route.prefix).is_ok() {
                networks.insert(route.prefix);
            }
        }
        let own = networks.len();
        let presented = self.verifier.presented_by(&member.node);
        let valid = presented.filter(|presented| self.verifier.holds(presented, call.times));
        networks.extend(
            valid.flat_map(|presented| &presented.addresses).map(|address| ipnet::IpNet::from(*address)),
        );
        let presents = networks.len() > own;
        let until = member.released_at(Duration::ZERO);
        self.engine(EngineChange::Install { key: *key, networks, until });
        if let Some(peer) = self.peers.get_mut(key) {
            peer.presents = presents;
            if !std::mem::replace(&mut peer.installed, true) {
                self.save_peer(key);
            }
        }
    }

    /// Which routes hold, or are taken here, has changed: gateways that have a tunnel are given to the data path anew.
    pub(super) fn review_routes(&mut self, call: &Call<'_>) {
        let routes = |key| self.verifier.member_of_key(key).is_some_and(|member| !member.routes.is_empty());
        let held = self.peers.iter().filter(|(key, peer)| peer.installed && routes(key));
        let gateways: Vec<PublicKey> = held.map(|(key, _)| *key).collect();
        for key in gateways {
            self.install_peer(&key, call);
        }
    }

    /// Writes down where a peer is, so that it is reached after a restart without any server.
    pub(super) fn save_peer(&mut self, key: &PublicKey) {
        let Some(peer) = self.peers.get(key) else { return };
        // Who serves everybody is called by everybody, and after a restart calls those only who lose packets meanwhile.
        if self.lighthouse.is_some() && !peer.saved {
            return;
        }
        let Some(member) = self.verifier.member_of_key(key) else { return };
        let endpoint = peer.current.and_then(Path::direct);
        let saved = SavedPeer { membership: member.encoded().to_vec(), endpoint };
        self.outbox.push_back(Output::Save(Save::Peer(saved)));
    }
}
