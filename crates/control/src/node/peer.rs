//! What a node keeps of a peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use super::event::PeerPath;
use crate::document::Roles;
use crate::frame::Order;
use crate::path::Path;
use crate::{HostEndpoint, NodeId};

/// Initiations to a candidate that has not answered (control rule 13).
pub(super) const INITIATIONS: u8 = 3;
/// Candidates that are kept.
const CANDIDATES: usize = 12;
/// How much longer the answer to a keepalive may take when its server is doubted.
const ANSWERING: Duration = Duration::from_millis(400);
/// How long a server that has answered is not doubted.
const BELIEVED: Duration = Duration::from_secs(2);
/// Challenges of a path whose answers are taken although they are late.
const EARLIER: usize = 4;
/// Paths that are measured.
const PATHS: usize = 16;
/// For so long after the last packet for somebody he is asked for, where there is no session, and a server reached by a relay if need
/// be.
pub(super) const WANTED: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) server: Option<ServerPeer>,
    pub(super) session: Option<Session>,
    pub(super) showing: Option<Showing>,
    pub(super) attempt: Option<Attempt>,
    pub(super) candidates: Vec<Candidate>,
    pub(super) relays: Vec<NodeId>,
    pub(super) paths: BTreeMap<Path, PathState>,
    pub(super) current: Option<Path>,
    /// Since when.
    since: Instant,
    pub(super) moved: Option<Moved>,
    /// When the path in use failed; none while it works.
    pub(super) failing: Option<Instant>,
    pub(super) next_probe: Option<Instant>,
    pub(super) next_explore: Instant,
    /// When lighthouses were asked for it while it had no direct way.
    pub(super) looked_up: Option<Instant>,
    /// Last traffic or wish for it.
    pub(super) used: Instant,
    pub(super) installed: bool,
    /// Of a lighthouse: packets were exchanged, so that it is called after a restart.
    pub(super) saved: bool,
    /// It presents stock WireGuard peers that are known here.
    pub(super) presents: bool,
    pub(super) told: Told,
    pub(super) last_versions: Option<Instant>,
    pub(super) last_pull: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct ServerPeer {
    pub(super) node: NodeId,
    pub(super) roles: Roles,
    pub(super) endpoints: Vec<HostEndpoint>,
    pub(super) next_keepalive: Instant,
    pub(super) asked: Option<Order>,
    pub(super) unanswered: u8,
    /// When it answered last.
    pub(super) heard: Option<Instant>,
    /// Somebody who is reached by it does not answer: it is to answer soon.
    pub(super) doubted: bool,
    pub(super) observed: Option<SocketAddr>,
    /// When packets for the machine itself went to it or came from it last, or waited: what its roles need is no reason to reach it by
    /// a relay.
    pub(super) wanted: Option<Instant>,
}

impl ServerPeer {
    /// Whether it is to be reached in any way, and not by its own addresses only.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.wanted.is_some_and(|wanted| now.saturating_duration_since(wanted) < WANTED)
    }

    /// It is asked at once, unless it has answered just now.
    pub(super) fn doubt(&mut self, now: Instant) {
        if self.doubted || self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < BELIEVED) {
            return;
        }
        self.doubted = true;
        // What it was asked a moment ago it may still answer.
        let soon = if self.asked.is_some() { now + ANSWERING } else { now };
        self.next_keepalive = self.next_keepalive.min(soon);
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) handshake_hash: [u8; 32],
    /// Whether the remote key is a verified member's.
    pub(super) verified: bool,
    /// Whether its own frame of this session has said that it takes us, or it has shown itself.
    pub(super) answered: bool,
    pub(super) since: Instant,
}

/// Our membership, join request or ticket goes out until it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Showing {
    pub(super) next: Instant,
    pub(super) tries: u8,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) next: Instant,
    pub(super) round: u8,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    pub(super) initiations: u8,
    /// It has answered once, or a signed document names it.
    pub(super) proven: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PathState {
    pub(super) round_trip: Option<Duration>,
    /// The last challenge, until it is answered or missed.
    pub(super) asked: Option<Challenge>,
    /// Earlier ones, the newest first: where packets wait in a queue, their answers come late.
    earlier: [Option<Challenge>; EARLIER],
    /// When it was answered last.
    pub(super) answered: Option<Instant>,
    pub(super) misses: u8,
}

/// What was sent, and when.
pub(super) type Challenge = ([u8; 16], Instant);

impl PathState {
    pub(super) fn ask(&mut self, nonce: [u8; 16], now: Instant) {
        self.forget_asked();
        self.asked = Some((nonce, now));
    }

    /// The last challenge should have been answered by now. Gives how many in a row were not.
    pub(super) fn miss(&mut self) -> u8 {
        self.misses = self.misses.saturating_add(u8::from(self.asked.is_some()));
        self.forget_asked();
        self.misses
    }

    fn forget_asked(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.earlier.rotate_right(1);
            self.earlier[0] = Some(asked);
        }
    }

    /// Takes the answer to a challenge, and gives the round trip; `None`: it answers none of this path.
    pub(super) fn answer(&mut self, nonce: &[u8; 16], now: Instant) -> Option<Duration> {
        let held = std::iter::once(&mut self.asked).chain(&mut self.earlier);
        let mut found = held.filter_map(|held| held.take_if(|(held, _)| held == nonce));
        let (_, at) = found.next()?;
        let round_trip = now.saturating_duration_since(at);
        (self.misses, self.round_trip, self.answered) = (0, Some(round_trip), Some(now));
        Some(round_trip)
    }
}

/// What was said of the newest document that we hold, since we hold it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// How often the peer said that it has it: once is enough.
    pub(super) heard: u8,
    /// How often it was answered that we have it too.
    pub(super) answered: u8,
}

/// Where the engine has moved to without proof.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) address: SocketAddr,
    /// Challenges that went there.
    pub(super) tries: u8,
}

impl Peer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            server: None,
            session: None,
            showing: None,
            attempt: None,
            candidates: Vec::new(),
            relays: Vec::new(),
            paths: BTreeMap::new(),
            current: None,
            since: now,
            moved: None,
            failing: None,
            next_probe: None,
            next_explore: now,
            looked_up: None,
            used: now,
            installed: false,
            saved: false,
            presents: false,
            told: Told::default(),
            last_versions: None,
            last_pull: None,
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.session.is_some_and(|session| session.verified)
    }

    pub(super) fn has_role(&self, role: Roles) -> bool {
        self.server.as_ref().is_some_and(|server| server.roles.contains(role))
    }

    /// Whether there is a tunnel with a relay. One that is itself reached by a relay brings nothing to others: relays do not nest.
    pub(super) fn is_usable_relay(&self) -> bool {
        self.is_verified() && self.has_role(Roles::RELAY) && !self.is_relayed()
    }

    /// Whether what goes to it goes by a relay.
    pub(super) fn is_relayed(&self) -> bool {
        self.current.is_some_and(Path::is_relayed)
    }

    /// There are packets for it, or from it.
    pub(super) fn note_used(&mut self, now: Instant) {
        self.used = now;
        if let Some(server) = &mut self.server {
            server.wanted = Some(now);
        }
    }

    /// Adds a candidate, or proves one. The oldest that was never proven makes room.
    pub(super) fn add_candidate(&mut self, address: SocketAddr, proven: bool) {
        if let Some(candidate) = self.candidates.iter_mut().find(|held| held.address == address) {
            candidate.proven |= proven;
            return;
        }
        if self.candidates.len() >= CANDIDATES {
            let unproven = self.candidates.iter().position(|held| !held.proven);
            self.candidates.remove(unproven.unwrap_or(0));
        }
        self.candidates.push(Candidate { address, initiations: 0, proven });
    }

    /// The state of a path; none where there are too many.
    pub(super) fn path(&mut self, path: Path) -> Option<&mut PathState> {
        if !self.paths.contains_key(&path) && self.paths.len() >= PATHS {
            let (current, forgettable) = (self.current, |state: &PathState| state.round_trip.is_none());
            let old = self.paths.iter().find(|(held, state)| Some(**held) != current && forgettable(state));
            let old = old.map(|(path, _)| *path)?;
            self.paths.remove(&old);
        }
        Some(self.paths.entry(path).or_default())
    }

    /// Data goes by this path from now on, or still.
    pub(super) fn set_current(&mut self, path: Path, now: Instant) {
        if self.current.replace(path) != Some(path) {
            self.since = now;
        }
    }

    /// The path in use, and why it is no direct one.
    pub(super) fn describe(&self, key: PublicKey, now: Instant) -> PeerPath {
        let ago = |at| now.saturating_duration_since(at);
        let direct = self.paths.iter().filter(|(path, _)| !path.is_relayed());
        PeerPath {
            key,
            session: self.session.is_some(),
            verified: self.is_verified(),
            path: self.current,
            round_trip: self.current.and_then(|path| self.paths.get(&path)?.round_trip),
            in_use: self.current.map(|_| ago(self.since)),
            addresses: self.candidates.len(),
            direct_answer: direct.filter_map(|(_, state)| state.answered).max().map(ago),
        }
    }

    /// Another path that has answered within so long: a direct one, or the quickest.
    pub(super) fn at_hand(&self, now: Instant, within: Duration) -> Option<Path> {
        let others = self.paths.iter().filter(|(path, state)| {
            let answered = state.answered.is_some_and(|at| now.saturating_duration_since(at) < within);
            answered && Some(**path) != self.current
        });
        others.min_by_key(|(path, state)| (path.is_relayed(), state.round_trip)).map(|(path, _)| *path)
    }

    /// How many challenges in a row have no answer by the path in use.
    pub(super) fn misses(&self) -> u8 {
        self.current.and_then(|path| self.paths.get(&path)).map_or(0, |state| state.misses)
    }

    /// Whether a relay leads to the peer, as far as that is known: somebody has said so, or it has answered by it.
    pub(super) fn is_behind(&self, relay: NodeId) -> bool {
        let answered = || self.paths.get(&Path::Relayed(relay)).is_some_and(|state| state.answered.is_some());
        self.relays.is_empty() || self.relays.contains(&relay) || answered()
    }

    /// By when an answer by the path in use should have come: after three round trips, within bounds.
    pub(super) fn answer_expected(&self, [least, most]: [Duration; 2]) -> Duration {
        let round_trip = self.current.and_then(|path| self.paths.get(&path)?.round_trip);
        round_trip.map_or(most, |round_trip| (round_trip * 3).clamp(least, most))
    }

    /// The next thing that is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let keepalive =
            self.server.as_ref().filter(|_| self.is_verified()).map(|server| server.next_keepalive);
        let times = [
            self.showing.map(|showing| showing.next),
            self.attempt.map(|attempt| attempt.next),
            self.next_probe,
            keepalive,
        ];
        times.into_iter().flatten().min()
    }
}
