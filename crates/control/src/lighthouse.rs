//! Who is where, and introductions (control rules 7 and 11 to 13).
//!
//! A lighthouse remembers what keepalives say, answers look-ups where policy allows, and tells both ends of each other.
//! Its memory begins empty and is complete again as soon as everybody has sent a keepalive: nothing of it is worth a
//! disk. It vouches for nobody: what it hands out is signed by others, and endpoints are only tried.
//!
//! Callers hand in members whose session is authorised, and the frames of theirs that are for a lighthouse; what is to
//! be sent comes out of [`Lighthouse::poll_output`].

mod introductions;
mod memory;
pub(crate) mod names;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now};
use tombolo_packet::bucket::Rate;

use crate::NodeId;
use crate::document::{Membership, Verified};
use crate::frame::{Found, Frame, Keepalive, KeepaliveAnswer, LookUp, LookUpAnswer, Target};
use crate::limit::{Destinations, Limits};
use crate::path::{Outgoing, Path};
use crate::verifier::{Times, Verifier};

use memory::Memory;
pub use memory::is_private;

/// What a lighthouse does at most.
#[derive(Clone, Copy, Debug)]
pub struct LighthouseOptions {
    /// Nodes that are remembered.
    pub nodes: usize,
    /// Look-ups of one member.
    pub look_ups: Rate,
    /// Introductions that one member causes.
    pub introductions_by: Rate,
    /// Introductions that one member gets.
    pub introductions_of: Rate,
    /// Challenges to one address, over all who name it.
    pub challenges: Rate,
    /// Challenges to what one member names, so that none takes those of all others.
    pub challenges_by: Rate,
}

impl Default for LighthouseOptions {
    /// 20 000 nodes; 50 look-ups a second, 20 introductions caused and 20 got, one challenge in a second for an address,
    /// and for what a member names.
    fn default() -> Self {
        Self {
            nodes: 20_000,
            look_ups: Rate { per_second: 50, burst: 200 },
            introductions_by: Rate { per_second: 20, burst: 100 },
            introductions_of: Rate { per_second: 20, burst: 100 },
            challenges: Rate { per_second: 1, burst: 4 },
            challenges_by: Rate { per_second: 1, burst: 16 },
        }
    }
}

/// Something that somebody should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LighthouseAlarm {
    /// One key speaks from two places by turns: a cloned disk (control rule 19).
    TwoPlaces {
        /// Whose key.
        node: NodeId,
        /// One of the places.
        one: SocketAddr,
        /// The other.
        other: SocketAddr,
    },
}

/// What a lighthouse has done, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LighthouseCounters {
    /// Keepalives answered.
    pub keepalives: u64,
    /// Look-ups answered, also with nobody.
    pub look_ups: u64,
    /// Look-ups beyond the asker's limit.
    pub look_ups_limited: u64,
    /// Introductions sent.
    pub introductions: u64,
    /// Introductions beyond somebody's limit.
    pub introductions_limited: u64,
}

/// The memory of who is where.
#[derive(Debug)]
pub struct Lighthouse {
    memory: Memory,
    names: names::List,
    /// Nodes that are remembered.
    capacity: usize,
    look_ups: Limits<PublicKey>,
    introductions_by: Limits<NodeId>,
    introductions_of: Limits<NodeId>,
    challenges_to: Destinations,
    challenges_by: Limits<NodeId>,
    challenges: HashMap<[u8; 16], Asked>,
    outbox: VecDeque<Outgoing>,
    alarms: VecDeque<LighthouseAlarm>,
    counters: LighthouseCounters,
    next_sweep: Instant,
}

/// A challenge that went to a candidate.
#[derive(Clone, Copy, Debug)]
struct Asked {
    node: NodeId,
    key: PublicKey,
    candidate: SocketAddr,
    until: Instant,
}

const CHALLENGES_MAX: usize = 4096;
const CHALLENGE_TIME: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(30);
const ALARMS_MAX: usize = 64;

impl Lighthouse {
    /// With an empty memory.
    pub fn new(options: LighthouseOptions, now: Instant) -> Self {
        let LighthouseOptions { nodes, .. } = options;
        Self {
            memory: Memory::new(nodes),
            names: names::List::default(),
            capacity: nodes,
            look_ups: Limits::new(options.look_ups, nodes),
            introductions_by: Limits::new(options.introductions_by, nodes),
            introductions_of: Limits::new(options.introductions_of, nodes),
            challenges_to: Destinations::new(options.challenges, CHALLENGES_MAX),
            challenges_by: Limits::new(options.challenges_by, nodes),
            challenges: HashMap::new(),
            outbox: VecDeque::new(),
            alarms: VecDeque::new(),
            counters: LighthouseCounters::default(),
            next_sweep: now + SWEEP,
        }
    }

    /// A member says that it is there. The answer says from where it came, and what documents there are.
    pub fn handle_keepalive(
        &mut self,
        member: &Verified<Membership>,
        keepalive: &Keepalive,
        path: Path,
        verifier: &Verifier,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) {
        let news = self.memory.hear(member, keepalive, path, now.boot);
        if let Some((one, other)) = news.two_places
            && self.alarms.len() < ALARMS_MAX
        {
            self.alarms.push_back(LighthouseAlarm::TwoPlaces { node: member.node, one, other });
        }
        for candidate in news.to_prove {
            self.challenge(member, candidate, now.boot, rng);
        }
        if let Path::Direct(observed) = path {
            self.counters.keepalives += 1;
            let frame = Frame::KeepaliveAnswer(KeepaliveAnswer {
                order: keepalive.order,
                observed,
                trust_epoch: verifier.trust().map_or(0, |trust| trust.epoch),
                network_counter: verifier.network().map_or(0, |network| network.version.counter),
            });
            self.outbox.push_back(Outgoing { to: member.key, path: Some(path), frame });
        }
    }

    /// A public candidate that is not where the keepalive came from is handed out after a challenge that went there
    /// has come back (control rule 13).
    fn challenge(
        &mut self,
        member: &Membership,
        candidate: SocketAddr,
        now: Instant,
        rng: &mut (impl CryptoRng + ?Sized),
    ) {
        if self.challenges.len() >= CHALLENGES_MAX
            || !self.challenges_by.take(member.node, now)
            || !self.challenges_to.take(candidate.ip(), now)
        {
            return;
        }
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let until = now + CHALLENGE_TIME;
        self.challenges.insert(nonce, Asked { node: member.node, key: member.key, candidate, until });
        let path = Some(Path::Direct(candidate));
        self.outbox.push_back(Outgoing { to: member.key, path, frame: Frame::Explore(nonce) });
    }

    /// A challenge has come back. Says whether it was one of ours.
    pub fn handle_challenge_answer(&mut self, from: &PublicKey, nonce: &[u8; 16], now: Instant) -> bool {
        let Some(asked) = self.challenges.get(nonce).copied().filter(|asked| asked.key == *from) else {
            return false;
        };
        self.challenges.remove(nonce);
        if now <= asked.until {
            self.memory.prove(&asked.node, asked.candidate, now);
        }
        true
    }

    /// Whether a member may ask once more; counts it if not.
    fn admit_look_up(&mut self, asker: &Verified<Membership>, now: Instant) -> bool {
        let admitted = self.look_ups.take(asker.key, now);
        self.counters.look_ups_limited += u64::from(!admitted);
        admitted
    }

    /// A member asks who has something. Who is absent, and whom policy keeps from the asker, look alike (control rule
    /// 12). A look-up by address or node introduces the two to each other.
    pub fn handle_look_up(
        &mut self,
        asker: &Verified<Membership>,
        asker_path: Path,
        look_up: &LookUp,
        verifier: &Verifier,
        times: Times,
        now: Instant,
    ) {
        if !self.admit_look_up(asker, now) {
            return;
        }
        self.counters.look_ups += 1;
        let target = find(verifier, &look_up.target).filter(|target| {
            let allowed = verifier.network().is_some_and(|network| network.policy.allows(asker, target));
            allowed && verifier.holds(target, times)
        });
        let found = target.map(|target| Found {
            membership: target.encoded().to_vec(),
            candidates: self.memory.candidates(&target.node, now),
            relays: self.memory.relays(&target.node),
        });
        let answer = LookUpAnswer { id: look_up.id, found };
        // By the session's own way: to where the question seems to come from no more goes out than came in (control rule 10).
        self.outbox.push_back(Outgoing { to: asker.key, path: None, frame: Frame::LookUpAnswer(answer) });
        if let Some(target) = target
            && !matches!(look_up.target, Target::Name(_))
            && target.node != asker.node
            && target.presenter.is_none()
        {
            self.introduce(asker, asker_path, target, now);
        }
    }

    /// Forgets a member: it was revoked, or has left.
    pub fn forget(&mut self, key: &PublicKey) {
        self.memory.forget(key);
    }

    /// What is to be sent next.
    pub fn poll_output(&mut self) -> Option<Outgoing> {
        self.outbox.pop_front()
    }

    /// The next alarm.
    pub fn poll_alarm(&mut self) -> Option<LighthouseAlarm> {
        self.alarms.pop_front()
    }

    /// When [`Lighthouse::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        self.next_news().map_or(self.next_sweep, |news| news.min(self.next_sweep))
    }

    /// Forgets who has not been heard for long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        self.memory.sweep(now);
        self.challenges.retain(|_, asked| now <= asked.until);
    }

    /// How many nodes are remembered.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.memory.len() == 0
    }

    /// What was done so far.
    pub fn counters(&self) -> LighthouseCounters {
        self.counters
    }
}

fn find<'a>(verifier: &'a Verifier, target: &Target) -> Option<&'a Verified<Membership>> {
    match target {
        Target::Address(address) => verifier.member_at(*address),
        Target::Name(name) => verifier.member_named(name),
        Target::Node(node) => verifier.member(node),
    }
}

#[cfg(test)]
mod names_tests;
#[cfg(test)]
mod tests;
