//! Calling a peer: handshakes by all ways at once (control rules 13 and 14).
//!
//! The relay is a way like any other, and is called by from the beginning: many members can be reached in no other, and a packet is not to
//! wait for that to show. Only a member that was reached directly before gets a head start of [`HEAD_START`] for that.
//!
//! WireGuard's limits hold (requirements 5 and 11): the engine makes one new initiation in Rekey-Timeout, and what goes by several ways, and
//! again by one, are copies of it. The first copy that arrives is answered, by the way that it came; others are refused for their
//! timestamp.

use std::time::Duration;

use tombolo_noise::PublicKey;

use super::event::{EngineChange, Output};
use super::peer::{Attempt, INITIATIONS, Peer, WANTED};
use super::{Call, Node};
use crate::NodeId;
use crate::document::Roles;
use crate::path::Path;

/// When a handshake is tried again, from the one before, in milliseconds, and a quarter more at most.
const ROUNDS: [u64; 9] = [200, 200, 400, 600, 1000, 1500, 2500, 4000, 6000];
/// The round that is for relays only: a relay that did not know the pair drops the first that it sees of it, and asks. What opens
/// NATs and firewalls needs more time between its three initiations.
const RELAYS_AGAIN: u8 = 1;
/// Where a direct way is proven, relays come in with this round, by when that has answered if it is open.
pub(super) const HEAD_START: u8 = 1;
/// After so many rounds a peer that is no server is given up.
const ROUNDS_MAX: u8 = 19;
const LATER_ROUND: Duration = Duration::from_secs(8);
/// At most, in milliseconds.
const JITTER: u64 = 500;
/// The longest wait for a relay without which members in use cannot be reached.
const RELAY_ROUND: Duration = Duration::from_secs(1);
/// With how much between them those who waited for a relay call by it, in milliseconds.
const RELAY_IS_THERE: u64 = 50;

impl Node {
    pub(super) fn begin_attempt(&mut self, key: PublicKey, after: Duration, call: &Call<'_>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.attempt.is_none() {
            peer.attempt = Some(Attempt { next: call.now.boot + after, round: 0 });
            for candidate in &mut peer.candidates {
                candidate.initiations = 0;
            }
        }
        self.schedule(key);
    }

    /// One round: an initiation by each way that may still have one.
    pub(super) fn attempt(&mut self, key: PublicKey, peer: &mut Peer, call: &mut Call<'_>) {
        let Some(attempt) = peer.attempt.filter(|attempt| attempt.next <= call.now.boot) else { return };
        if attempt.round >= ROUNDS_MAX && peer.server.is_none() && !self.life.is_joining_with(&key) {
            peer.attempt = None;
            return;
        }
        let wait =
            ROUNDS.get(usize::from(attempt.round)).map_or(LATER_ROUND, |ms| Duration::from_millis(*ms));
        let wait = if self.is_relay_in_use(peer, call) { wait.min(RELAY_ROUND) } else { wait };
        let jitter = Duration::from_millis(call.below((wait.as_millis() as u64 / 4).min(JITTER)));
        let round = attempt.round.saturating_add(1);
        peer.attempt = Some(Attempt { next: call.now.boot + wait + jitter, round });
        let mut paths = Vec::new();
        for candidate in peer.candidates.iter_mut().filter(|_| attempt.round != RELAYS_AGAIN) {
            let allowed = candidate.proven
                || (candidate.initiations < INITIATIONS
                    && self.destinations.take(candidate.address.ip(), call.now.boot));
            if allowed {
                candidate.initiations = candidate.initiations.saturating_add(1);
                paths.push(Path::Direct(candidate.address));
            }
        }
        let proven = peer.candidates.iter().any(|candidate| candidate.proven);
        if !proven || attempt.round >= HEAD_START {
            paths.extend(self.relay_paths(key, peer, attempt.round > RELAYS_AGAIN, call));
        }
        // A server that moved is found by its name.
        if attempt.round % 4 == 3
            && let Some(server) = &peer.server
        {
            let resolve = server.endpoints.iter().filter(|endpoint| endpoint.address().is_none());
            self.outbox.extend(resolve.cloned().map(Output::Resolve));
        }
        if !paths.is_empty() {
            self.engine(EngineChange::Handshake { key, paths });
        }
    }

    /// Relays that both have a tunnel with; ours, where nothing is known of the peer's. With `all` ours come after those: the
    /// peer may have found others since, and what is known of it be old.
    pub(super) fn relay_paths(&self, key: PublicKey, peer: &Peer, all: bool, call: &Call<'_>) -> Vec<Path> {
        // Servers serve by their own addresses.
        if peer.server.as_ref().is_some_and(|server| !server.is_wanted(call.now.boot)) {
            return Vec::new();
        }
        let usable = self.held_servers().filter(|(relay, held)| *relay != key && held.is_usable_relay());
        let nodes = usable.filter_map(|(_, held)| held.server.as_ref().map(|server| server.node));
        let mut nodes: Vec<(bool, NodeId)> = nodes.map(|node| (!peer.is_behind(node), node)).collect();
        nodes.retain(|(unknown, _)| all || !unknown);
        nodes.sort_unstable();
        nodes.into_iter().take(3).map(|(_, node)| Path::Relayed(node)).collect()
    }

    /// Whether somebody can be reached only by this relay, as far as is known, and is asked for.
    fn is_relay_in_use(&self, relay: &Peer, call: &Call<'_>) -> bool {
        let Some(server) = relay.server.as_ref().filter(|server| server.roles.contains(Roles::RELAY)) else {
            return false;
        };
        self.peers.values().any(|peer| {
            let unused = call.now.boot.saturating_duration_since(peer.used);
            let by_it = peer.current == Some(Path::Relayed(server.node)) && unused < self.options.idle;
            let sought = peer.server.is_none() && peer.session.is_none() && unused < WANTED;
            by_it || sought
        })
    }

    /// There is a tunnel with a relay: whoever waited for one calls by it at once, and looks whether it leads on.
    pub(super) fn note_relay(&mut self, relay: PublicKey, call: &mut Call<'_>) {
        let is_relay = self.peers.get(&relay).is_some_and(Peer::is_usable_relay);
        // A new key is not known to others before the authority has signed it.
        if !is_relay || self.own.as_ref().is_none_or(|own| own.key != self.key) {
            return;
        }
        let waits = |peer: &Peer| {
            peer.server.is_none()
                && (peer.failing.is_some() || (peer.session.is_none() && peer.attempt.is_some()))
        };
        let waiting: Vec<PublicKey> =
            self.peers.iter().filter(|(_, peer)| waits(peer)).map(|(key, _)| *key).collect();
        for key in waiting {
            let soon = call.now.boot + Duration::from_millis(call.below(RELAY_IS_THERE));
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            if let Some(attempt) = &mut peer.attempt {
                // A round that is for relays, too; how often direct ways are called stays as it was.
                attempt.next = attempt.next.min(soon);
                attempt.round = attempt.round.max(HEAD_START);
            }
            if peer.failing.is_some() {
                peer.next_probe = peer.next_probe.map(|next| next.min(soon));
                peer.next_explore = soon;
            }
            self.schedule(key);
        }
    }

    /// Somebody does not answer by a relay, which may be the relay's doing: it is asked, or called without a long wait.
    pub(super) fn doubt_relay(&mut self, relay: NodeId, call: &Call<'_>) {
        let now = call.now.boot;
        let held = self
            .held_servers()
            .find(|(_, held)| held.server.as_ref().is_some_and(|server| server.node == relay));
        let Some(key) = held.map(|(key, _)| key) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(attempt) = peer.attempt.as_mut().filter(|_| peer.session.is_none()) {
            attempt.next = attempt.next.min(now + RELAY_ROUND);
        }
        if peer.is_relayed() {
            // It brings nothing before it is reached directly again.
            (peer.next_probe, peer.next_explore) = (peer.next_probe.map(|next| next.min(now)), now);
        } else if let Some(server) = &mut peer.server {
            server.doubt(now);
        }
        self.schedule(key);
    }

    /// Looks after the relays that a peer can be reached through, where we have no tunnel with them yet.
    pub(super) fn reach_relays(&mut self, key: PublicKey, call: &mut Call<'_>) {
        let Some(peer) = self.peers.get(&key) else { return };
        let Some(network) = self.verifier.network() else { return };
        let servers = network.servers.iter().filter(|server| {
            peer.relays.contains(&server.node)
                && server.key != self.key
                && server.roles.contains(Roles::RELAY)
        });
        let wanted: Vec<_> =
            servers.filter(|server| !self.peers.contains_key(&server.key)).take(2).cloned().collect();
        for server in wanted {
            self.tend_server(&server, call);
        }
    }
}
