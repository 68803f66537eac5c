//! The single owner of identities, peers, handshakes and timers.

mod configure;
mod handshakes;
mod membership;
mod messages;
mod output;
mod provisional;
mod sessions;
#[cfg(test)]
mod tests;
mod timeouts;

pub use configure::AddPeerError;
pub use membership::{
    MAX_UNVERIFIED_ATTEMPTS, MEMBER_MAX_TIMESTAMP_AHEAD, MembershipOptions, PROVISIONAL_LIFETIME,
};
pub use output::{HANDSHAKE_TRAFFIC_CLASS, Output, PeerStatus, SessionState};

use crate::clock::{Instant, Now, UnixTime};
use crate::cookie::CookieChecker;
use crate::index_table::IndexTable;
use crate::keys::{PrivateKey, PublicKey, StaticIdentity};
use crate::link::Link;
use crate::peer::Peer;
use crate::rate_limit::RateLimiter;
use crate::reply_budget::ReplyBudget;
use crate::source_table::SourceTable;
use crate::tai64n::Tai64n;
use crate::timers::{Timer, TimerQueue};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tombolo_packet::{PeerId, Steering};

use provisional::Membership;

/// One WireGuard interface: an identity and its peers.
///
/// How far ahead of what is known the clock is believed: less than what members refuse (15 minutes).
const CLOCK_AHEAD: Duration = Duration::from_secs(600);

/// Driven by one thread. It takes handshake datagrams ([`handle_message`](Self::handle_message)), what workers report
/// ([`handle_event`](Self::handle_event)) and the passing of time ([`handle_timeout`](Self::handle_timeout), due at
/// [`poll_timeout`](Self::poll_timeout)); after each of these, outputs are to be taken with
/// [`poll_output`](Self::poll_output) until there are none.
pub struct Device {
    identity: Option<Arc<StaticIdentity>>,
    link_up: bool,
    peers: Vec<Option<Box<Peer>>>,
    free_slots: Vec<PeerId>,
    by_key: BTreeMap<PublicKey, PeerId>,
    index_table: Arc<IndexTable>,
    /// Sender indices of our initiations that wait for a response.
    pending: BTreeMap<u32, PeerId>,
    timers: TimerQueue,
    outputs: VecDeque<Output>,
    cookies: CookieChecker,
    reply_budget: ReplyBudget,
    rate_limiter: RateLimiter,
    /// When the handshake queue was last found long (requirement 13): that of known sources, that of others.
    last_under_load: [Option<Instant>; 2],
    /// How many initiations of no known source were of nobody, and since when they are counted.
    junk: (Instant, u32),
    max_timestamp_ahead: Option<Duration>,
    steering: Option<Steering>,
    /// The least that the wall clock can be, and when that was said (control rule 18).
    time_floor: Option<Now>,
    /// None: keys that are not known are met with silence.
    membership: Option<Membership>,
    sources: Arc<SourceTable>,
    /// Sessions made so far.
    epochs: u64,
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    /// A device without a private key and without peers, whose link is up.
    pub fn new() -> Self {
        Self {
            identity: None,
            link_up: true,
            peers: Vec::new(),
            free_slots: Vec::new(),
            by_key: BTreeMap::new(),
            index_table: Arc::new(IndexTable::new()),
            pending: BTreeMap::new(),
            timers: TimerQueue::default(),
            outputs: VecDeque::new(),
            cookies: CookieChecker::new(),
            reply_budget: ReplyBudget::new(),
            rate_limiter: RateLimiter::new(),
            last_under_load: [None; 2],
            junk: (Instant::from_nanos(0), 0),
            max_timestamp_ahead: None,
            steering: None,
            time_floor: None,
            membership: None,
            sources: Arc::new(SourceTable::new()),
            epochs: 0,
        }
    }

    /// The table that workers look receiver indices up in.
    pub fn index_table(&self) -> Arc<IndexTable> {
        Arc::clone(&self.index_table)
    }

    /// Our private key, if one is set.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.identity.as_deref().map(StaticIdentity::private_key)
    }

    /// Our public key, if a private key is set.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_deref().map(|identity| *identity.public_key())
    }

    /// The peer with this public key.
    pub fn peer_by_key(&self, public_key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(public_key).copied()
    }

    /// All peers, in the order of their slots.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.peers.iter().flatten().map(|peer| peer.link.peer())
    }

    /// The shared half of a peer.
    pub fn link(&self, id: PeerId) -> Option<&Arc<Link>> {
        self.peer(id).map(|peer| &peer.link)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest; may lie in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What is known of a peer.
    pub fn peer_status(&self, id: PeerId, now: Now) -> Option<PeerStatus> {
        let peer = self.peer(id)?;
        let known = |timestamp: Tai64n| (timestamp != Tai64n::default()).then_some(timestamp);
        let state = if peer.link.session_keypair(now.boot).is_some() {
            SessionState::Established
        } else if peer.timers.deadline(Timer::Retransmit).is_some() || peer.keypairs.next.is_some() {
            SessionState::Connecting
        } else {
            SessionState::Idle
        };
        Some(PeerStatus {
            standing: peer.link.standing(),
            preshared_key: peer.preshared_key.clone(),
            last_handshake: peer.link.last_handshake(),
            persistent_keepalive: peer.persistent_keepalive,
            state,
            attempts: peer.past().attempts,
            last_received_timestamp: known(peer.past().last_received_timestamp),
            timestamp_ahead: peer.past().timestamp_ahead,
            last_sent_timestamp: known(peer.past().last_sent_timestamp),
            last_received_age: peer
                .link
                .last_received()
                .map(|received| now.boot.saturating_duration_since(received)),
        })
    }

    /// Whether anything may be sent at all (requirement 10).
    fn is_ready(&self) -> bool {
        self.link_up && self.identity.is_some()
    }

    fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_deref()
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.0 as usize)?.as_deref_mut()
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.peers().collect()
    }

    /// What the wall clock is known to have reached (control rule 18).
    fn known_time(&self, now: Now) -> Option<UnixTime> {
        let floor = self.time_floor?;
        let since = now.boot.saturating_duration_since(floor.boot);
        Some(UnixTime(floor.wall.0.saturating_add(since)))
    }

    /// The wall clock, or what is known to be the least that it can be (control rule 18).
    fn wall(&self, now: Now) -> UnixTime {
        self.known_time(now).map_or(now.wall, |known| known.max(now.wall))
    }

    /// What our own timestamps are made of. A clock far ahead of what is known is not believed: members refuse what comes from
    /// the future, and who once took such a timestamp takes no smaller one (control rules 10 and 18). A machine that was
    /// off for long sends timestamps of then, which are behind what it sent last all the same.
    fn sending_time(&self, now: Now) -> UnixTime {
        let wall = self.wall(now);
        self.known_time(now).map_or(wall, |known| wall.min(UnixTime(known.0.saturating_add(CLOCK_AHEAD))))
    }

    /// Puts the peer's earliest deadline into the queue: the last step of whatever changes its timers.
    fn update_timers(&mut self, id: PeerId) {
        self.update_known_source(id);
        // Not through `peer_mut`, so that the queue can be borrowed as well.
        if let Some(Some(peer)) = self.peers.get_mut(id.0 as usize) {
            self.timers.update(id, &mut peer.timers);
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Device")
            .field("public_key", &self.public_key())
            .field("link_up", &self.link_up)
            .field("peers", &self.by_key.len())
            .finish_non_exhaustive()
    }
}
