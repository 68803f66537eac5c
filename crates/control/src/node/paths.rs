//! Which way to a peer with which there is a session: authenticated probes; direct before relayed, and the next one when one
//! fails (control rules 10, 13 and 14).

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use super::calling::HEAD_START;
use super::event::{EngineChange, Output, Save};
use super::peer::{Attempt, Moved, PathState, Peer, Session};
use super::{Call, Node, Task};
use crate::frame::{CANDIDATES_MAX, Frame};
use crate::path::Path;

/// With traffic just now a dead path is noticed within a second, without any only before a NAT forgets it.
const HOT: Duration = Duration::from_secs(3);
const PROBE_HOT: Duration = Duration::from_millis(400);
const PROBE_IDLE: Duration = Duration::from_secs(20);
/// With traffic a probe is overdue after three round trips, within these bounds, and then followed by another.
const OVERDUE: [Duration; 2] = [Duration::from_millis(100), PROBE_HOT];
/// What follows an overdue probe goes out with so much between, whatever the round trip, and the last has the time of the first.
/// So a path that has failed is left 0.4 to 1 s after the first probe that it did not bring back, and that one is no later than
/// [`PROBE_HOT`] after an answer.
const PROBE_AGAIN: Duration = Duration::from_millis(75);
/// So many in a row have no answer on a path that has failed. Of one on which each way loses a fifth they do once in a
/// minute or two, and of those most find it answering before any other.
const MISSES: u8 = 5;
/// So many, and it is found out what other addresses there are, or other relays where it is a relay that does not bring the answers.
const SUSPECT: u8 = 2;
/// What has answered so lately is taken at once.
const AT_HAND: Duration = Duration::from_secs(1);
/// A peer that does not answer, and to which nothing goes, is looked for as often as one with traffic for so long.
const FAILING_HOT: Duration = Duration::from_secs(30);
/// How many peers a lighthouse calls after a restart.
const SAVED_PEERS: usize = 512;
/// While there are so many, they are counted again so often.
const COUNT_AGAIN: Duration = Duration::from_secs(60);
/// Challenges to where the engine has moved: with `PROBE_HOT` between them they last for two seconds.
const MOVED_TRIES: u8 = 5;
/// How often other ways are looked for while a peer is reached through a relay.
const EXPLORE_HOT: Duration = Duration::from_secs(3);
/// The same while the session is [`YOUNG`]: the handshake may have come by a relay and a direct way be open by now.
const EXPLORE_YOUNG: Duration = Duration::from_millis(400);
const YOUNG: Duration = Duration::from_secs(2);
/// While nothing answers at all.
const EXPLORE_FAILING: Duration = Duration::from_millis(200);
/// After so long without any way the session itself may be lost.
const HANDSHAKE_AFTER: Duration = Duration::from_millis(600);

impl Node {
    pub(super) fn schedule(&mut self, key: PublicKey) {
        match self.peers.get(&key).and_then(Peer::deadline) {
            Some(at) => self.deadlines.set(Task::Peer(key), at),
            None => self.deadlines.clear(&Task::Peer(key)),
        }
    }

    pub(super) fn tick_peer(&mut self, key: PublicKey, call: &mut Call<'_>) {
        let Some(mut peer) = self.peers.remove(&key) else { return };
        self.attempt(key, &mut peer, call);
        self.show(key, &mut peer, call);
        self.probe(key, &mut peer, call);
        self.keepalive(key, &mut peer, call);
        self.peers.insert(key, peer);
        self.schedule(key);
    }

    pub(super) fn handle_traffic(&mut self, key: PublicKey, call: &mut Call<'_>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.note_used(call.now.boot);
        if self.lighthouse.is_some() {
            self.save_used(key, call);
        }
        self.probe_soon(key, call);
    }

    /// What a lighthouse remembers over a restart: with whom it exchanges packets, not whom it serves.
    fn save_used(&mut self, key: PublicKey, call: &Call<'_>) {
        let now = call.now.boot;
        let new = self.peers.get(&key).is_some_and(|peer| !peer.saved && peer.is_verified());
        if !new || self.saved_full_until.is_some_and(|until| now < until) {
            return;
        }
        // There may be many thousands: not counted for each packet.
        if self.peers.values().filter(|peer| peer.saved).count() >= SAVED_PEERS {
            self.saved_full_until = Some(now + COUNT_AGAIN);
            return;
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.saved = true;
        }
        self.save_peer(&key);
    }

    /// Whoever knows us by an address that is gone hears from us by another, before anything is lost.
    pub(super) fn handle_local(
        &mut self,
        mut addresses: Vec<SocketAddr>,
        forbidden: Vec<IpNet>,
        call: &mut Call<'_>,
    ) {
        addresses.truncate(CANDIDATES_MAX);
        self.forbidden = forbidden;
        if std::mem::replace(&mut self.local, addresses) == self.local {
            return;
        }
        let now = call.now.boot;
        let known: Vec<PublicKey> =
            self.peers.iter().filter(|(_, peer)| peer.is_verified()).map(|(key, _)| *key).collect();
        for key in known {
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            if let Some(server) = &mut peer.server {
                server.next_keepalive = now;
            }
            if peer.next_probe.is_some() {
                peer.next_probe = Some(now);
            }
            self.schedule(key);
        }
    }

    /// The next probe of the path in use is not far.
    pub(super) fn probe_soon(&mut self, key: PublicKey, call: &Call<'_>) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.is_verified()) else { return };
        let soon = call.now.boot + PROBE_HOT;
        peer.next_probe = Some(peer.next_probe.map_or(soon, |next| next.min(soon)));
        self.schedule(key);
    }

    /// The engine sends to another address now, and little until the peer has answered from there (control rule 10).
    pub(super) fn handle_moved(&mut self, key: PublicKey, address: SocketAddr, call: &mut Call<'_>) {
        let Some(mut peer) = self.peers.remove(&key) else { return };
        if peer.is_verified() {
            peer.add_candidate(address, false);
            peer.moved = Some(Moved { address, tries: 1 });
            self.challenge(key, &mut peer, Path::Direct(address), call);
            let soon = call.now.boot + PROBE_HOT;
            peer.next_probe = Some(peer.next_probe.map_or(soon, |next| next.min(soon)));
        }
        self.peers.insert(key, peer);
        self.schedule(key);
    }

    /// Where the engine has moved to and no answer has come from: once more, a few times.
    fn challenge_moved(&mut self, key: PublicKey, peer: &mut Peer, call: &mut Call<'_>) {
        let Some(moved) = &mut peer.moved else { return };
        let path = Path::Direct(moved.address);
        if moved.tries == MOVED_TRIES {
            peer.moved = None;
        } else {
            moved.tries += 1;
            self.challenge(key, peer, path, call);
        }
    }

    pub(super) fn note_path(&mut self, key: PublicKey, path: Path, call: &mut Call<'_>) {
        let now = call.now.boot;
        let Some(peer) = self.peers.get(&key) else { return };
        if !peer.is_verified() || peer.current == Some(path) || peer.server.is_some() {
            return;
        }
        let held = peer.paths.get(&path);
        let asked = held.and_then(|state| state.asked);
        let answered = held.and_then(|state| state.answered);
        let within = |at, span| now.saturating_duration_since(at) < span;
        // Its answer comes by this way too: without a pause two would ask each other for ever. Whose own way has failed asks soon,
        // since the peer may have left it before.
        let pauses = match peer.failing {
            Some(_) => [EXPLORE_FAILING; 2],
            None => [Duration::from_secs(1), EXPLORE_HOT],
        };
        if asked.is_some_and(|(_, at)| within(at, pauses[0]))
            || answered.is_some_and(|at| within(at, pauses[1]))
        {
            return;
        }
        let Some(mut peer) = self.peers.remove(&key) else { return };
        if let Path::Direct(address) = path {
            peer.add_candidate(address, false);
        }
        self.challenge(key, &mut peer, path, call);
        self.peers.insert(key, peer);
    }

    fn challenge(&mut self, key: PublicKey, peer: &mut Peer, path: Path, call: &mut Call<'_>) {
        let nonce = call.nonce();
        let Some(state) = peer.path(path) else { return };
        state.ask(nonce, call.now.boot);
        let in_use =
            peer.current == Some(path) || peer.moved.is_some_and(|moved| Path::Direct(moved.address) == path);
        let frame = if in_use { Frame::Challenge(nonce) } else { Frame::Explore(nonce) };
        self.push(key, Some(path), frame);
    }

    fn probe(&mut self, key: PublicKey, peer: &mut Peer, call: &mut Call<'_>) {
        let now = call.now.boot;
        if !peer.is_verified() {
            peer.next_probe = None;
        }
        if peer.next_probe.is_none_or(|next| next > now) {
            return;
        }
        self.challenge_moved(key, peer, call);
        let unused = now.saturating_duration_since(peer.used);
        let hot = unused < HOT;
        // Between a server and those whom it serves there are keepalives, and that is enough while no packets go there. Else a
        // region that goes away would be called by each server, all of it and twice a second.
        let served = self.lighthouse.is_some() && !peer.saved;
        let kept = peer.server.is_some() && !peer.is_relayed();
        if (kept || served) && !hot && peer.failing.is_none() {
            peer.next_probe = peer.moved.is_some().then_some(now + PROBE_HOT);
            return;
        }
        if unused > self.options.idle {
            peer.next_probe = None;
            if self.lighthouse.is_some()
                && std::mem::take(&mut peer.saved)
                && let Some(member) = self.verifier.member_of_key(&key)
            {
                self.outbox.push_back(Output::Save(Save::Forget(member.node)));
            }
            return;
        }
        if let Some(path) = peer.current {
            let misses = peer.path(path).map_or(0, PathState::miss);
            if misses >= MISSES && peer.failing.is_none() {
                (peer.failing, peer.next_explore) = (Some(now), now);
                if let Some(path) = peer.at_hand(now, AT_HAND) {
                    self.take_path(key, peer, path, now);
                }
            }
            if misses == SUSPECT && peer.failing.is_none() {
                self.try_all(key, peer, call);
            }
            if let (Path::Relayed(relay), 1..) = (path, misses) {
                self.doubt_relay(relay, call);
            }
            let path = peer.current.unwrap_or(path);
            self.challenge(key, peer, path, call);
        }
        let relayed = peer.current.is_none_or(Path::is_relayed);
        if (relayed || peer.failing.is_some()) && peer.next_explore <= now {
            self.try_all(key, peer, call);
            if hot {
                self.look_up_again(key, peer, call);
            }
            let young = |session: Session| now.saturating_duration_since(session.since) < YOUNG;
            peer.next_explore = now
                + match peer.failing {
                    Some(_) => EXPLORE_FAILING,
                    None if peer.session.is_some_and(young) => EXPLORE_YOUNG,
                    None if hot => EXPLORE_HOT,
                    None => PROBE_IDLE,
                };
        }
        if let Some(since) = peer.failing
            && now.saturating_duration_since(since) > HANDSHAKE_AFTER
            && peer.attempt.is_none()
        {
            peer.attempt = Some(Attempt { next: now, round: HEAD_START });
        }
        // Whoever is gone and not asked for is looked for now and then, and no more.
        let given_up = peer.failing.is_some_and(|since| now.saturating_duration_since(since) > FAILING_HOT);
        let waiting = peer.paths.values().any(|state| state.misses > 0) && !given_up;
        let next = match peer.failing {
            Some(_) if hot => EXPLORE_FAILING,
            None if hot && (1..MISSES - 1).contains(&peer.misses()) => PROBE_AGAIN,
            None if hot => peer.answer_expected(OVERDUE),
            _ if waiting => PROBE_HOT,
            _ => PROBE_IDLE,
        };
        // One that is overdue has waited for long enough.
        let jitter = if hot { 0 } else { call.below(next.as_millis() as u64 / 8) };
        peer.next_probe = Some(now + next + Duration::from_millis(jitter));
    }

    /// Challenges by all ways at once; the first that comes back is taken, the best in the end.
    fn try_all(&mut self, key: PublicKey, peer: &mut Peer, call: &mut Call<'_>) {
        let mut paths: Vec<Path> = Vec::new();
        for candidate in &peer.candidates {
            if candidate.proven || self.destinations.take(candidate.address.ip(), call.now.boot) {
                paths.push(Path::Direct(candidate.address));
            }
        }
        // One relay is held against the others, which are at hand should it fail.
        if peer.failing.is_some() || peer.current.is_none_or(Path::is_relayed) {
            let doubted = peer.failing.is_some() || peer.misses() >= SUSPECT;
            paths.extend(self.relay_paths(key, peer, doubted, call));
        }
        paths.retain(|path| peer.current != Some(*path));
        for path in paths {
            self.challenge(key, peer, path, call);
            // No relay leads to the peer: they may all be other ones than they were.
            if let (Path::Relayed(relay), true) = (path, peer.failing.is_some()) {
                self.doubt_relay(relay, call);
            }
        }
    }

    fn take_path(&mut self, key: PublicKey, peer: &mut Peer, path: Path, now: Instant) {
        peer.set_current(path, now);
        peer.failing = None;
        if let Some(state) = peer.path(path) {
            state.misses = 0;
        }
        self.engine(EngineChange::Use { key, path });
    }

    /// The peer has made a session by a relay, as whoever restarts does, and our path to it is a direct one: that is the last probe
    /// which it may leave unanswered.
    pub(super) fn suspect(&mut self, key: PublicKey, call: &Call<'_>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(state) = peer.current.and_then(|path| peer.path(path)) {
            (state.asked, state.misses) = (None, MISSES - 1);
        }
        peer.next_probe = Some(call.now.boot);
        peer.used = call.now.boot;
    }

    pub(super) fn explore(&mut self, key: PublicKey, call: &mut Call<'_>) {
        let Some(mut peer) = self.peers.remove(&key) else { return };
        if peer.is_verified() {
            self.try_all(key, &mut peer, call);
            peer.next_explore = call.now.boot + EXPLORE_HOT;
        }
        self.peers.insert(key, peer);
    }

    pub(super) fn handle_challenge_answer(&mut self, key: PublicKey, nonce: &[u8; 16], call: &mut Call<'_>) {
        let now = call.now.boot;
        if let Some(lighthouse) = &mut self.lighthouse
            && lighthouse.handle_challenge_answer(&key, nonce, now)
        {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let mut paths = peer.paths.iter_mut();
        let answered = paths.find_map(|(path, state)| Some((*path, state.answer(nonce, now)?)));
        let Some((path, round_trip)) = answered else { return };
        // It was expected sooner than the next probe is due.
        if peer.current == Some(path) && peer.failing.is_none() && peer.moved.is_none() {
            let jitter = Duration::from_millis(call.below(PROBE_HOT.as_millis() as u64 / 8));
            peer.next_probe = peer.next_probe.map(|next| next.max(now + (PROBE_HOT - jitter)));
        }
        if let Path::Direct(address) = path {
            peer.add_candidate(address, true);
        }
        // What the engine does already needs no weighing, only to be told that the peer is there.
        let moved = peer.moved.take_if(|moved| Path::Direct(moved.address) == path).is_some();
        let held = peer.current.filter(|_| peer.failing.is_none() || peer.current == Some(path));
        let better = match held {
            _ if moved => true,
            None => true,
            Some(held) if held == path => false,
            Some(held) if held.is_relayed() != path.is_relayed() => held.is_relayed(),
            Some(held) => {
                let of_held = peer.paths.get(&held).and_then(|state| state.round_trip);
                of_held.is_none_or(|of_held| round_trip + of_held / 5 + Duration::from_millis(2) < of_held)
            }
        };
        if better || peer.current == Some(path) {
            peer.failing = None;
        }
        if better {
            let relayed = peer.is_relayed();
            peer.set_current(path, now);
            let direct_again = relayed && !peer.is_relayed();
            if let Some(server) = peer.server.as_mut().filter(|_| direct_again) {
                server.next_keepalive = now;
            }
            self.engine(EngineChange::Use { key, path });
            self.save_peer(&key);
            if direct_again {
                self.schedule(key);
                self.note_relay(key, call);
            }
        }
    }
}
