//! Strangers in membership mode: how many, how long, and at what price (control rule 8).

use super::{Device, MEMBER_MAX_TIMESTAMP_AHEAD, MembershipOptions, Output, PROVISIONAL_LIFETIME};
use crate::clock::{Instant, Now};
use crate::handshake::{ReceivedInitiation, Responder};
use crate::keys::{PublicKey, RemoteStatic, StaticIdentity};
use crate::peer::Peer;
use crate::rate_limit::Source;
use crate::standing::Standing;
use crate::tai64n::Tai64n;
use crate::timers::Timer;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tombolo_packet::{DropReason, Endpoint, PeerId};

/// X25519 operations that read who sent an initiation.
const KEY_READING: u32 = 1;
/// Those that a stranger's handshake takes beyond that: the static-static secret, an ephemeral key, and two for the response.
const REST_OF_HANDSHAKE: u32 = 4;
/// Strangers get this part of the handshake time.
const SHARE: u32 = 4;
/// Time that strangers have not used is kept up to this: 100 handshakes of half a millisecond.
const MAX_SAVED: Duration = Duration::from_millis(50);

/// Keys without a peer whose greatest timestamp is remembered.
const REMEMBERED_MAX: usize = 65_536;

/// The state of membership mode.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) options: MembershipOptions,
    /// Provisional peers.
    pub(super) count: usize,
    /// As many entries as provisional peers at most.
    pub(super) per_source: BTreeMap<Source, usize>,
    /// The greatest timestamps of members that are no peers now: what was recorded of them before is refused (control rule 10).
    pub(super) remembered: HashMap<PublicKey, Tai64n>,
    /// Time that may be spent on strangers.
    saved: Duration,
    updated: Instant,
}

impl Membership {
    pub(super) fn new(options: MembershipOptions, now: Instant) -> Self {
        let (per_source, remembered) = (BTreeMap::new(), HashMap::new());
        Self { options, count: 0, per_source, remembered, saved: MAX_SAVED, updated: now }
    }

    pub(super) fn remember(&mut self, key: PublicKey, timestamp: Tai64n) {
        if self.remembered.len() >= REMEMBERED_MAX
            && !self.remembered.contains_key(&key)
            && let Some(one) = self.remembered.keys().next().copied()
        {
            self.remembered.remove(&one);
        }
        let held = self.remembered.entry(key).or_insert(timestamp);
        *held = timestamp.max(*held);
    }

    /// Whether strangers have time left for so many X25519 operations.
    pub(super) fn affords(&mut self, operations: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.updated);
        self.updated = self.updated.max(now);
        self.saved = self.saved.saturating_add(passed / SHARE).min(MAX_SAVED);
        self.saved >= self.cost(operations)
    }

    fn spend(&mut self, operations: u32, now: Instant) -> Result<(), DropReason> {
        if !self.affords(operations, now) {
            return Err(DropReason::ProvisionalBudget);
        }
        self.saved = self.saved.saturating_sub(self.cost(operations));
        Ok(())
    }

    fn cost(&self, operations: u32) -> Duration {
        self.options.diffie_hellman_cost.saturating_mul(operations)
    }

    fn has_room(&self, source: Source) -> bool {
        self.count < self.options.max_provisional
            && self.per_source.get(&source).copied().unwrap_or(0) < self.options.max_provisional_per_source
    }
}

impl Device {
    /// In membership mode: no initiation of this key is taken whose timestamp is not greater than this, also while it is no peer. For what
    /// was kept on disk (control rule 10); what is known of members that are removed is remembered by itself. At most 65 536 keys.
    pub fn remember_timestamp(&mut self, key: PublicKey, timestamp: Tai64n) {
        match (self.by_key.get(&key), &mut self.membership) {
            (Some(&known), _) => self.set_last_timestamp(known, timestamp),
            (None, Some(membership)) => membership.remember(key, timestamp),
            (None, None) => {}
        }
    }

    /// Whether a handshake message is from none of the sources with a live session.
    pub(super) fn is_stranger(&self, source: Endpoint) -> bool {
        !self.sources.contains(source.remote)
    }

    /// Whether the time of strangers is used up, so that cookies are demanded before any other work.
    pub(super) fn is_strangers_time_up(&mut self, now: Instant) -> bool {
        self.membership.as_mut().is_some_and(|membership| !membership.affords(KEY_READING, now))
    }

    /// Takes the time of reading a stranger's key.
    pub(super) fn spend_on_stranger(&mut self, now: Instant) -> Result<(), DropReason> {
        self.membership.as_mut().map_or(Ok(()), |membership| membership.spend(KEY_READING, now))
    }

    /// Whether a provisional peer may begin once more: only from where it began, and only while its first handshake
    /// has not been completed, since a provisional session is not renewed.
    pub(super) fn may_begin_again(peer: &Peer, source: Endpoint) -> bool {
        let same = peer.link.endpoint().is_some_and(|endpoint| endpoint.remote == source.remote);
        same && peer.keypairs.current.is_none()
            && peer.keypairs.next.as_ref().is_none_or(|next| !next.is_confirmed())
    }

    /// An initiation with a valid cookie, of a key that is not known: makes room for it, authenticates it, and gives it a peer.
    pub(super) fn admit_provisional(
        &mut self,
        received: ReceivedInitiation,
        identity: &StaticIdentity,
        source: Endpoint,
        now: Now,
    ) -> Result<(PeerId, Responder), DropReason> {
        let place = Source::of(source.remote.ip());
        let membership = self.membership.as_mut().ok_or(DropReason::UnknownPeer)?;
        if !membership.has_room(place) {
            return Err(DropReason::ProvisionalLimit);
        }
        let public_key = *received.remote_static();
        // Control rule 3: two encodings of one key would be two members.
        if !public_key.is_canonical() || public_key == *identity.public_key() {
            return Err(DropReason::HandshakeFailed);
        }
        membership.spend(REST_OF_HANDSHAKE, now.boot)?;
        let responder = received.consume_timestamp(&RemoteStatic::new(identity, public_key))?;
        let ahead = responder.timestamp().to_unix().0.saturating_sub(self.wall(now).0);
        if ahead > MEMBER_MAX_TIMESTAMP_AHEAD {
            return Err(DropReason::TimestampAhead);
        }
        let remembered =
            self.membership.as_ref().and_then(|membership| membership.remembered.get(&public_key));
        if remembered.is_some_and(|last| responder.timestamp() <= *last) {
            return Err(DropReason::StaleTimestamp);
        }
        let id = self
            .add_peer_of_standing(public_key, Standing::Provisional)
            .map_err(|_| DropReason::ProvisionalLimit)?;
        if let Some(membership) = &mut self.membership {
            membership.count += 1;
            *membership.per_source.entry(place).or_default() += 1;
        }
        if let Some(peer) = self.peer_mut(id) {
            peer.provisional_source = Some(Box::new(place));
            peer.link.set_provisional_endpoint(source);
            peer.timers.set(Timer::Provisional, Some(now.boot + PROVISIONAL_LIFETIME));
        }
        self.outputs.push_back(Output::PeerAppeared { peer: id });
        self.update_timers(id);
        Ok((id, responder))
    }

    /// A provisional peer's time is up, or the mode has ended.
    pub(super) fn drop_provisional(&mut self, id: PeerId) {
        let Some(peer) = self.peer(id).filter(|peer| peer.is_provisional()) else { return };
        let public_key = *peer.link.public_key();
        self.remove_peer(id);
        self.outputs.push_back(Output::PeerGone { peer: id, public_key });
    }

    pub(super) fn drop_provisional_peers(&mut self) {
        for id in self.peer_ids() {
            self.drop_provisional(id);
        }
    }

    /// The peer is counted as provisional no more.
    pub(super) fn release_provisional(&mut self, id: PeerId) {
        let Some(source) = self.peer_mut(id).and_then(|peer| peer.provisional_source.take()) else { return };
        let Some(membership) = &mut self.membership else { return };
        membership.count = membership.count.saturating_sub(1);
        if let Some(count) = membership.per_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                membership.per_source.remove(&source);
            }
        }
    }

    /// Brings the table of known sources up to date with one peer: where it is, while it has keys that it has used or an
    /// initiation of ours is under way.
    pub(super) fn update_known_source(&mut self, id: PeerId) {
        let Some(peer) = self.peer(id) else { return };
        let live = peer.keypairs.current.is_some()
            || peer.pending.is_some()
            || (peer.is_static() && peer.keypairs.next.is_some());
        let known = peer.link.endpoint().map(|endpoint| endpoint.remote);
        let known = known.filter(|_| live && !peer.is_provisional());
        let former = peer.known_source.as_deref().copied();
        if known == former {
            return;
        }
        if let Some(former) = former {
            self.sources.remove(former);
        }
        if let Some(known) = known {
            self.sources.insert(known);
        }
        if let Some(peer) = self.peer_mut(id) {
            peer.known_source = known.map(Box::new);
        }
    }
}
