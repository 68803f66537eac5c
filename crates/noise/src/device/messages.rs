//! Handshake messages and cookie replies from the network. None of it can panic, and nothing is
//! answered, logged or remembered before the sender is authenticated (requirement 15).

use super::{Device, MEMBER_MAX_TIMESTAMP_AHEAD};
use crate::clock::{Instant, Now};
use crate::cookie::{HandshakeMessage, verify_mac1};
use crate::handshake::consume_initiation_static;
use crate::keys::StaticIdentity;
use crate::peer::{Claim, Peer};
use crate::tai64n::Tai64n;
use crate::timers::REKEY_TIMEOUT;
use rand_core::CryptoRng;
use std::sync::Arc;
use std::time::Duration;
use tombolo_packet::message::{CookieReply, Initiation, MessageType, Response};
use tombolo_packet::{DropReason, Endpoint, PeerId};

use super::Output;

/// Between two initiations of one peer that are consumed (requirement 11): 50 a second.
const MIN_INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// We are under load until the handshake queue was short for this long (requirement 13).
const UNDER_LOAD_AFTER_TIME: Duration = Duration::from_secs(1);

/// We are under load when this part of the queue is in use: 128 of 1024 (requirement 13).
const UNDER_LOAD_DIVISOR: usize = 8;

/// So many initiations of nobody within [`JUNK_WINDOW`] are load as well: 2000 a second, about a twelfth of a processor.
const MAX_JUNK: u32 = 200;
const JUNK_WINDOW: Duration = Duration::from_millis(100);

impl Device {
    /// Takes an initiation, a response or a cookie reply. `source` is the outer source, and our address
    /// that it was sent to; `queue_depth` of `queue_capacity` handshake messages were waiting with it, in the
    /// queue that the [`source_table`](Self::source_table) chose.
    ///
    /// # Errors
    /// Why the message was dropped. [`DropReason::CookieRequired`] comes with an answer, as the one reason of all; in a flood some
    /// are [`DropReason::RateLimited`] in its place. Transport data is
    /// [`DropReason::MalformedMessage`] here: it is for the workers.
    pub fn handle_message(
        &mut self,
        datagram: &[u8],
        source: Endpoint,
        queue_depth: usize,
        queue_capacity: usize,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(), DropReason> {
        let kind = MessageType::classify(datagram)?;
        // Requirement 10: without a key or with the link down there is no answer.
        let identity = self.identity.clone().filter(|_| self.link_up).ok_or(DropReason::NotReady)?;
        match kind {
            MessageType::Initiation => {
                let message = Initiation::parse(datagram)?;
                let stranger = self.is_stranger(source);
                let load = self.is_under_load(stranger, queue_depth, queue_capacity, now.boot)
                    || (stranger && self.is_strangers_time_up(now.boot));
                let admitted = self.admit(&message, &identity, source, load, now.boot, rng);
                let taken = admitted.and_then(|proven| {
                    if stranger {
                        self.spend_on_stranger(now.boot)?;
                    }
                    self.consume_initiation(&message, &identity, source, proven, now, rng)
                });
                match taken {
                    Err(DropReason::HandshakeFailed | DropReason::UnknownPeer) if stranger => {
                        self.note_junk(now.boot);
                    }
                    Err(DropReason::CookieRequired | DropReason::RateLimited) if stranger && load => {
                        self.note_junk(now.boot);
                    }
                    _ => {}
                }
                taken
            }
            MessageType::Response => {
                let message = Response::parse(datagram)?;
                let stranger = self.is_stranger(source);
                let load = self.is_under_load(stranger, queue_depth, queue_capacity, now.boot);
                self.admit(&message, &identity, source, load, now.boot, rng)?;
                self.consume_response(&message, &identity, source, now)
            }
            MessageType::CookieReply => {
                let id = self.consume_cookie_reply(&CookieReply::parse(datagram)?, now.boot)?;
                self.resend_for_cookie(id, now, rng);
                Ok(())
            }
            MessageType::Transport => Err(DropReason::MalformedMessage),
        }
    }

    /// Requirement 13 (`receive.c`).
    fn is_under_load(
        &mut self,
        stranger: bool,
        queue_depth: usize,
        queue_capacity: usize,
        now: Instant,
    ) -> bool {
        let last_under_load = &mut self.last_under_load[usize::from(stranger)];
        if queue_capacity > 0 && queue_depth >= queue_capacity.div_ceil(UNDER_LOAD_DIVISOR) {
            *last_under_load = Some(now);
        }
        last_under_load.take_if(|last| now.saturating_duration_since(*last) >= UNDER_LOAD_AFTER_TIME);
        last_under_load.is_some()
    }

    /// An initiation has cost a Diffie-Hellman and was of nobody, or would have cost it under load. A flood of those that is slow
    /// enough to be worked off would never fill the queue, and take most of a processor.
    fn note_junk(&mut self, now: Instant) {
        let (since, count) = &mut self.junk;
        if now.saturating_duration_since(*since) >= JUNK_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count >= MAX_JUNK {
            self.last_under_load[1] = Some(now);
        }
    }

    /// Whether so many handshake messages came within the last second that senders are asked for cookies (requirement 13).
    pub fn is_flooded(&self, now: Instant) -> bool {
        let lasts = |last: &Instant| now.saturating_duration_since(*last) < UNDER_LOAD_AFTER_TIME;
        self.last_under_load.iter().flatten().any(lasts)
    }

    /// mac1 first, always. Under load mac2 as well, or a cookie reply; then the rate of the source,
    /// which is known to be real by then (requirement 13, §5.3). Says whether the source holds a cookie of ours, if that matters.
    fn admit(
        &mut self,
        message: &impl HandshakeMessage,
        identity: &StaticIdentity,
        source: Endpoint,
        under_load: bool,
        now: Instant,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<bool, DropReason> {
        if !verify_mac1(message, identity) {
            return Err(DropReason::InvalidMac1);
        }
        if !under_load && self.membership.is_none() {
            return Ok(false);
        }
        let proven = self.cookies.verify_mac2(message, source.remote, now);
        if !under_load {
            return Ok(proven);
        }
        if !proven {
            return Err(self.demand_cookie(message, identity, source, now, rng));
        }
        if self.rate_limiter.allow(source.remote.ip(), now) { Ok(true) } else { Err(DropReason::RateLimited) }
    }

    fn demand_cookie(
        &mut self,
        message: &impl HandshakeMessage,
        identity: &StaticIdentity,
        source: Endpoint,
        now: Instant,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> DropReason {
        if !self.reply_budget.allow(source.remote.ip(), now, rng) {
            return DropReason::RateLimited;
        }
        let reply = self.cookies.create_reply(identity, message, source.remote, now, rng);
        self.push_datagram(None, source, &reply);
        DropReason::CookieRequired
    }

    fn consume_initiation(
        &mut self,
        message: &Initiation<'_>,
        identity: &StaticIdentity,
        source: Endpoint,
        proven: bool,
        now: Now,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(), DropReason> {
        let received = consume_initiation_static(identity, message)?;
        let known = self.peer_by_key(received.remote_static());
        let known_peer = known.and_then(|id| self.peer(id));
        // Control rule 8: an unknown key is asked for a cookie, load or not; outside of membership mode it is met with silence.
        if known_peer.is_none_or(Peer::is_provisional) {
            if self.membership.is_none() {
                return Err(DropReason::UnknownPeer);
            }
            if !proven {
                return Err(self.demand_cookie(message, identity, source, now.boot, rng));
            }
        }
        let (id, responder) = match (known, known_peer) {
            (Some(id), Some(peer)) => {
                if peer.is_provisional() && !Self::may_begin_again(peer, source) {
                    return Err(DropReason::ProvisionalLimit);
                }
                let remote = peer.remote.as_ref().ok_or(DropReason::NotReady)?;
                (id, received.consume_timestamp(remote)?)
            }
            _ => self.admit_provisional(received, identity, source, now)?,
        };
        let timestamp = responder.timestamp();
        let ahead = self.check_timestamp(id, timestamp, now)?;
        let index = self.unused_index(id, rng);
        let peer = self.peer_mut(id).ok_or(DropReason::UnknownPeer)?;
        let (mut response, secrets) = responder.create_response(&peer.preshared_key, index, rng)?;
        // Nothing fails from here on.
        if let Some(remote) = &peer.remote {
            peer.cookie_jar.write_macs(&mut response, remote, now.boot);
        }
        peer.past_mut().last_initiation_consumed = Some(now.boot);
        let bytes = message.as_bytes().len();
        if peer.is_static() {
            // As in stock WireGuard a valid initiation moves the timestamp and the endpoint. Our own initiation, if one is under way,
            // stays: each side then answers the other's, and both sessions hold. Whether the peer's implementation keeps its own does not matter.
            peer.past_mut().last_received_timestamp = timestamp;
            peer.past_mut().timestamp_ahead = ahead;
            peer.link.note_handshake_received(source, now.boot, bytes);
            peer.past_mut().last_handshake_sent = Some(now.boot);
            peer.link.note_handshake_sent(now.boot, response.len());
            self.outputs.push_back(Output::TimestampAdvanced { peer: id });
        } else {
            // Control rule 10: it may be a replay. Timestamp, endpoint and timers wait for the first transport message.
            peer.past_mut().claim = Some(Box::new(Claim { timestamp, ahead, made: now.boot }));
            peer.link.count_handshake(bytes, response.len());
        }
        self.add_session(id, &secrets, Some(source.remote), now);
        self.watch_persistent_keepalive(id, now.boot);
        self.update_timers(id);
        self.push_datagram(Some(id), source, &response);
        Ok(())
    }

    /// Requirement 11, control rule 10. Returns how far the timestamp is ahead of our clock.
    fn check_timestamp(&self, id: PeerId, timestamp: Tai64n, now: Now) -> Result<Duration, DropReason> {
        let peer = self.peer(id).ok_or(DropReason::UnknownPeer)?;
        let ahead = timestamp.to_unix().0.saturating_sub(self.wall(now).0);
        if timestamp <= peer.past().last_received_timestamp {
            return Err(DropReason::StaleTimestamp);
        }
        // An initiation that was answered a moment ago and has not been followed by its first message: the same once more, or
        // one from before, would only put its session out. An honest peer comes with a later one.
        if peer.past().claim.as_ref().is_some_and(|claim| {
            timestamp <= claim.timestamp && now.boot.saturating_duration_since(claim.made) < REKEY_TIMEOUT
        }) {
            return Err(DropReason::StaleTimestamp);
        }
        let member_bound = (!peer.is_static()).then_some(MEMBER_MAX_TIMESTAMP_AHEAD);
        if [self.max_timestamp_ahead, member_bound].into_iter().flatten().any(|bound| ahead > bound) {
            return Err(DropReason::TimestampAhead);
        }
        match peer.past().last_initiation_consumed {
            Some(last) if now.boot.saturating_duration_since(last) < MIN_INITIATION_INTERVAL => {
                Err(DropReason::InitiationFlood)
            }
            _ => Ok(ahead),
        }
    }

    fn consume_response(
        &mut self,
        message: &Response<'_>,
        identity: &Arc<StaticIdentity>,
        source: Endpoint,
        now: Now,
    ) -> Result<(), DropReason> {
        let index = message.receiver_index();
        let id = *self.pending.get(&index).ok_or(DropReason::UnexpectedResponse)?;
        let peer = self.peer_mut(id).ok_or(DropReason::UnexpectedResponse)?;
        // Requirement 27: the state is taken, and comes back only if the response was not the true one. What answers an
        // initiation that was replaced, or was answered already, finds no index.
        let initiator = peer.pending.take().ok_or(DropReason::UnexpectedResponse)?;
        let secrets = match initiator.consume_response(message, identity, &peer.preshared_key) {
            Ok(secrets) => secrets,
            Err((initiator, reason)) => {
                peer.pending = Some(initiator);
                return Err(reason);
            }
        };
        // Where the initiation went; a response from elsewhere says nothing of that path.
        let endpoint = peer.link.endpoint().map(|endpoint| endpoint.remote);
        if endpoint != Some(source.remote) && peer.past().ways.iter().any(|way| way.remote == source.remote) {
            peer.link.set_endpoint(Some(source));
        }
        let past = peer.past_mut();
        past.ways = Vec::new();
        past.initiation = None;
        let proven_remote = peer.link.endpoint().map(|endpoint| endpoint.remote);
        let proven_remote = proven_remote.filter(|&remote| remote == source.remote);
        peer.link.note_handshake_received(source, now.boot, message.as_bytes().len());
        if let Some(remote) = proven_remote {
            peer.link.prove_path(remote);
        }
        self.pending.remove(&index);
        self.add_session(id, &secrets, proven_remote, now);
        self.complete_handshake(id, now);
        self.update_timers(id);
        self.outputs.push_back(Output::SessionReady { peer: id, initiator: true });
        Ok(())
    }

    /// Requirement 14. To a static peer the message is repeated when its time comes; the endpoint stays. Gives the peer.
    fn consume_cookie_reply(
        &mut self,
        message: &CookieReply<'_>,
        now: Instant,
    ) -> Result<PeerId, DropReason> {
        let index = message.receiver_index();
        // It answers an initiation, or a response, whose index is that of its keypair.
        let id = match self.pending.get(&index) {
            Some(&id) => id,
            None => self.index_table.lookup(index).ok_or(DropReason::UnexpectedResponse)?.link().peer(),
        };
        let peer = self.peer_mut(id).ok_or(DropReason::UnexpectedResponse)?;
        let remote = peer.remote.as_ref().ok_or(DropReason::UnexpectedResponse)?;
        peer.cookie_jar.consume_reply(message, remote, now)?;
        Ok(id)
    }
}
