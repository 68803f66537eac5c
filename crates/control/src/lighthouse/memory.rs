//! What a lighthouse remembers of each node.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use crate::NodeId;
use crate::document::Membership;
use crate::frame::{CANDIDATES_MAX, Keepalive, Order};
use crate::path::Path;

/// After so long without a keepalive a node is not introduced any more: three are missing.
const HERE: Duration = Duration::from_secs(80);
/// After so long it is forgotten.
const REMEMBERED: Duration = Duration::from_secs(300);
/// A proof of a candidate holds so long.
const PROOF: Duration = Duration::from_secs(600);
/// A candidate that was challenged is not challenged again for so long.
const CHALLENGE_AGAIN: Duration = Duration::from_secs(60);
/// So many returns to the place before, within [`TURNS_WITHIN`], are two machines and no roaming.
const TURNS: u8 = 3;
const TURNS_WITHIN: Duration = Duration::from_secs(120);

/// Whether an address means something only near its owner: handed out as it is told, for who sits behind the same NAT.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            // 100.64.0.0/10 is what carriers number their customers with (RFC 6598).
            v4.is_private() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[derive(Debug)]
struct Place {
    key: PublicKey,
    /// None before the first announcement of this key.
    order: Option<Order>,
    observed: Option<SocketAddr>,
    former: Option<SocketAddr>,
    /// Returns to the former place, and since when they are counted.
    turns: u8,
    turning_since: Instant,
    told: Vec<Candidate>,
    relays: Vec<NodeId>,
    heard: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    address: SocketAddr,
    proven: Option<Instant>,
    challenged: Option<Instant>,
}

impl Candidate {
    fn may_be_told(&self, now: Instant) -> bool {
        let fresh = |proven: Instant| now.saturating_duration_since(proven) < PROOF;
        is_private(self.address.ip()) || self.proven.is_some_and(fresh)
    }
}

/// What a keepalive leaves to be done.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) to_prove: Vec<SocketAddr>,
    pub(super) two_places: Option<(SocketAddr, SocketAddr)>,
}

#[derive(Debug)]
pub(super) struct Memory {
    capacity: usize,
    places: HashMap<NodeId, Place>,
    nodes: HashMap<PublicKey, NodeId>,
}

impl Memory {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, places: HashMap::new(), nodes: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Takes a keepalive that is later than the last one, by its sender's own count (control rule 11).
    pub(super) fn hear(
        &mut self,
        member: &Membership,
        keepalive: &Keepalive,
        path: Path,
        now: Instant,
    ) -> News {
        let mut news = News::default();
        if self.places.len() >= self.capacity && !self.places.contains_key(&member.node) {
            self.sweep(now);
            if self.places.len() >= self.capacity {
                return news;
            }
        }
        let place = self.places.entry(member.node).or_insert_with(|| Place {
            key: member.key,
            order: None,
            observed: None,
            former: None,
            turns: 0,
            turning_since: now,
            told: Vec::new(),
            relays: Vec::new(),
            heard: now,
        });
        if place.key != member.key {
            self.nodes.remove(&place.key);
            (place.key, place.order) = (member.key, None);
        }
        self.nodes.insert(member.key, member.node);
        news.two_places = place.turn(path.direct(), &keepalive.candidates, now);
        if place.order.is_some_and(|order| keepalive.order <= order) {
            return news;
        }
        place.order = Some(keepalive.order);
        place.heard = now;
        place.observed = path.direct();
        place.relays.clone_from(&keepalive.relays);
        let before = std::mem::take(&mut place.told);
        for &address in keepalive.candidates.iter().take(CANDIDATES_MAX) {
            let known = before.iter().find(|candidate| candidate.address == address).copied();
            let mut candidate = known.unwrap_or(Candidate { address, proven: None, challenged: None });
            let age = |at: Instant| now.saturating_duration_since(at);
            if place.observed != Some(address)
                && !is_private(address.ip())
                && candidate.challenged.is_none_or(|at| age(at) >= CHALLENGE_AGAIN)
                && candidate.proven.is_none_or(|at| age(at) > PROOF / 2)
            {
                candidate.challenged = Some(now);
                news.to_prove.push(address);
            }
            place.told.push(candidate);
        }
        news
    }

    pub(super) fn prove(&mut self, node: &NodeId, address: SocketAddr, now: Instant) {
        let told = self.places.get_mut(node).into_iter().flat_map(|place| &mut place.told);
        for candidate in told.filter(|candidate| candidate.address == address) {
            candidate.proven = Some(now);
        }
    }

    /// Where a node may be tried: where it was seen, then what it told and has been proven or is private.
    pub(super) fn candidates(&self, node: &NodeId, now: Instant) -> Vec<SocketAddr> {
        let Some(place) = self.places.get(node) else { return Vec::new() };
        let told = place.told.iter().filter(|candidate| candidate.may_be_told(now));
        let mut candidates: Vec<SocketAddr> = place.observed.into_iter().collect();
        candidates.extend(told.map(|told| told.address).filter(|told| place.observed != Some(*told)));
        candidates.truncate(CANDIDATES_MAX);
        candidates
    }

    pub(super) fn relays(&self, node: &NodeId) -> Vec<NodeId> {
        self.places.get(node).map_or_else(Vec::new, |place| place.relays.clone())
    }

    pub(super) fn is_here(&self, node: &NodeId, now: Instant) -> bool {
        self.places.get(node).is_some_and(|place| now.saturating_duration_since(place.heard) < HERE)
    }

    pub(super) fn forget(&mut self, key: &PublicKey) {
        if let Some(node) = self.nodes.remove(key) {
            self.places.remove(&node);
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        let nodes = &mut self.nodes;
        self.places.retain(|_, place| {
            let keep = now.saturating_duration_since(place.heard) < REMEMBERED;
            if !keep {
                nodes.remove(&place.key);
            }
            keep
        });
    }
}

impl Place {
    /// Notes where a message came from, also one that is older by its count: two machines with one disk count alike. A machine
    /// that speaks by its two addresses tells of both from either; a thief may tell of his victim's, but that one does not of his.
    fn turn(
        &mut self,
        from: Option<SocketAddr>,
        own: &[SocketAddr],
        now: Instant,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let (from, observed) = (from?, self.observed?);
        if from == observed {
            return None;
        }
        let back =
            self.former == Some(from) && now.saturating_duration_since(self.turning_since) <= TURNS_WITHIN;
        let both_own = own.contains(&observed) && self.told.iter().any(|told| told.address == from);
        (self.former, self.observed) = (Some(observed), Some(from));
        if back {
            self.turns = self.turns.saturating_add(u8::from(!both_own));
        } else {
            (self.turns, self.turning_since) = (0, now);
        }
        (back && !both_own && self.turns == TURNS).then_some((from, observed))
    }
}
