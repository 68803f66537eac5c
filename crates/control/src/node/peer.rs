//! What a node keeps of a peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tombolo_noise::Tai64n;
use tombolo_noise::clock::Instant;

use crate::document::Roles;
use crate::frame::Order;
use crate::path::Path;
use crate::{HostEndpoint, NodeId};

/// Initiations to a candidate that has not answered (control rule 13).
pub(super) const INITIATIONS: u8 = 3;
/// Candidates that are kept.
const CANDIDATES: usize = 12;
/// Paths that are measured.
const PATHS: usize = 16;

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
    pub(super) moved: Option<Moved>,
    /// When the path in use failed; none while it works.
    pub(super) failing: Option<Instant>,
    pub(super) next_probe: Option<Instant>,
    pub(super) next_explore: Instant,
    /// Last traffic or wish for it.
    pub(super) used: Instant,
    pub(super) installed: bool,
    /// Of a lighthouse: packets were exchanged, so that it is called after a restart.
    pub(super) saved: bool,
    /// It presents stock WireGuard peers that are known here.
    pub(super) presents: bool,
    pub(super) last_versions: Option<Instant>,
    pub(super) last_pull: Option<Instant>,
    pub(super) timestamp: Option<Tai64n>,
}

#[derive(Debug)]
pub(super) struct ServerPeer {
    pub(super) node: NodeId,
    pub(super) roles: Roles,
    pub(super) endpoints: Vec<HostEndpoint>,
    pub(super) next_keepalive: Instant,
    pub(super) asked: Option<Order>,
    pub(super) unanswered: u8,
    pub(super) observed: Option<SocketAddr>,
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
    pub(super) asked: Option<([u8; 16], Instant)>,
    /// When it was answered last.
    pub(super) answered: Option<Instant>,
    pub(super) misses: u8,
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
            moved: None,
            failing: None,
            next_probe: None,
            next_explore: now,
            used: now,
            installed: false,
            saved: false,
            presents: false,
            last_versions: None,
            last_pull: None,
            timestamp: None,
        }
    }

    pub(super) fn is_verified(&self) -> bool {
        self.session.is_some_and(|session| session.verified)
    }

    pub(super) fn has_role(&self, role: Roles) -> bool {
        self.server.as_ref().is_some_and(|server| server.roles.contains(role))
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
