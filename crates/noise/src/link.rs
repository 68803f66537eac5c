//! The shared half of a peer: what data workers see of it.
//!
//! The [`Device`](crate::Device) owns the peer; a `Link` carries what crosses between the threads,
//! all of it atomic. Workers report once per batch and get back what the control thread has to be
//! told, which is rare.

use crate::activity::Activity;
use crate::clock::{Instant, UnixTime};
use crate::handshake::Role;
use crate::keypair::Keypair;
use crate::keys::PublicKey;
use crate::path::Path;
use crate::standing::Standing;
use arc_swap::ArcSwapOption;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tombolo_packet::{DropReason, Endpoint, PeerId};

/// What a worker has to tell the control thread: to be handed to
/// [`Device::handle_event`](crate::Device::handle_event), and not to be lost, because it is not said twice. One event of a batch is enough, the weightiest: whichever it
/// is, the control thread looks at everything that the link says of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is something to send and no key for it, or the key is due for renewal.
    HandshakeWanted(PeerId),
    /// The peer used a keypair for the first time (requirement 12).
    Confirmed {
        /// The peer.
        peer: PeerId,
        /// Our index of the keypair.
        local_index: u32,
    },
    /// A timer runs that the control thread is not waiting for.
    Armed(PeerId),
    /// The peer was heard from another address (membership mode: control rules 10 and 19).
    Moved(PeerId),
}

impl Event {
    /// The peer that it is about.
    pub fn peer(self) -> PeerId {
        match self {
            Self::HandshakeWanted(peer)
            | Self::Armed(peer)
            | Self::Moved(peer)
            | Self::Confirmed { peer, .. } => peer,
        }
    }
}

/// Keys that the peer made and used are this old when older ones in use elsewhere are no latecomers any more.
const CLONE_AFTER_TIME: Duration = Duration::from_secs(5);

/// What a batch of authenticated messages of one keypair amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Messages that passed the replay window, keepalives included.
    pub messages: u64,
    /// Their bytes, with headers and tags.
    pub bytes: u64,
    /// Whether any of them was no keepalive, whatever became of its inner packet.
    pub data: bool,
    /// Whether the newest that its sender sent by the path in use came from the endpoint that is given with this; otherwise a member stays
    /// where it is, for it only looks for other paths from there (control rule 14).
    pub moves: bool,
}

/// The shared half of a peer.
#[derive(Debug)]
pub struct Link {
    peer: PeerId,
    public_key: PublicKey,
    standing: AtomicU8,
    /// The boot time, in nanoseconds, until which IP packets may go either way: 0 never, `u64::MAX` always.
    packets_until: AtomicU64,
    path: ArcSwapOption<Path>,
    /// The endpoint moved, and the control thread was told but has not looked yet.
    moved: AtomicBool,
    /// Where older keys than the current ones are still in use from, if that was seen (control rule 19).
    other_source: ArcSwapOption<SocketAddr>,
    sending: ArcSwapOption<Keypair>,
    pub(crate) activity: Activity,
    handshake_wanted: AtomicBool,
    removed: AtomicBool,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
    /// Nanoseconds since the Unix epoch; zero: never.
    last_handshake: AtomicU64,
}

impl Link {
    pub(crate) fn new(peer: PeerId, public_key: PublicKey, standing: Standing) -> Self {
        Self {
            peer,
            public_key,
            standing: AtomicU8::new(standing.to_byte()),
            packets_until: AtomicU64::new(if standing == Standing::Static { u64::MAX } else { 0 }),
            path: ArcSwapOption::empty(),
            moved: AtomicBool::new(false),
            other_source: ArcSwapOption::empty(),
            sending: ArcSwapOption::empty(),
            activity: Activity::default(),
            handshake_wanted: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            tx_bytes: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            last_handshake: AtomicU64::new(0),
        }
    }

    /// The peer's slot.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The peer's static public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// What the peer is to us.
    pub fn standing(&self) -> Standing {
        Standing::from_byte(self.standing.load(Ordering::Relaxed))
    }

    /// Whether IP packets may go either way now: always with a static peer, until its authorisation ends with
    /// a member, never with others (control rule 9). To be asked once for each batch that was received; where it is
    /// false, control frames are all that is delivered, and other packets are held or dropped
    /// as [`DropReason::NotAuthorised`]. For what is sent, [`sending_keypair`](Self::sending_keypair) asks.
    pub fn may_carry_packets(&self, now: Instant) -> bool {
        now.as_nanos() < self.packets_until.load(Ordering::Relaxed)
    }

    /// Until when [`may_carry_packets`](Self::may_carry_packets) holds, by the boot clock; nanosecond 0: never.
    pub fn packets_until(&self) -> Instant {
        Instant::from_nanos(self.packets_until.load(Ordering::Relaxed))
    }

    /// Where the peer is, as far as we know.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.path.load().as_ref().map(|path| path.endpoint)
    }

    /// Whether the path is unproven, so that [`destination`](Self::destination) has to be asked before something is sent.
    pub fn is_path_limited(&self) -> bool {
        self.path.load().as_ref().is_some_and(|path| path.is_limited())
    }

    /// Where `bytes` of whole messages may go now; they are taken off what an unproven path is allowed (control rules 8 and 10).
    ///
    /// # Errors
    /// [`DropReason::NoEndpoint`], or [`DropReason::PathUnproven`]: three times of what came from there has gone already.
    pub fn destination(&self, bytes: u64) -> Result<Endpoint, DropReason> {
        let path = self.path.load();
        let path = path.as_ref().ok_or(DropReason::NoEndpoint)?;
        if path.take(bytes) { Ok(path.endpoint) } else { Err(DropReason::PathUnproven) }
    }

    /// The keypair to seal control frames and keepalives with, if there is a session. Their destination
    /// comes from [`destination`](Self::destination).
    pub fn session_keypair(&self, now: Instant) -> Option<Arc<Keypair>> {
        let keypair = self.sending.load();
        keypair.as_ref().filter(|keypair| keypair.can_send(now)).map(Arc::clone)
    }

    /// The keypair to seal IP packets with, if there is one that may be used for that now. If `None`: stage the packet
    /// first, and then hand on what [`want_handshake`](Self::want_handshake) returns. In that order no packet is forgotten:
    /// if a session came in between, the event is answered by
    /// [`FlushStaged`](crate::Output::FlushStaged).
    pub fn sending_keypair(&self, now: Instant) -> Option<Arc<Keypair>> {
        if self.may_carry_packets(now) { self.session_keypair(now) } else { None }
    }

    /// Something is to be sent and there is no key for it. Returns the event once; it is returned
    /// again after the next retransmission, after a session, or after the handshake was given up (requirement 6).
    /// Never for a provisional peer, with which we begin nothing (control rule 8).
    pub fn want_handshake(&self) -> Option<Event> {
        let raised = self.removed.load(Ordering::Relaxed)
            || self.standing() == Standing::Provisional
            || self.handshake_wanted.load(Ordering::Relaxed)
            || self.handshake_wanted.swap(true, Ordering::AcqRel);
        (!raised).then_some(Event::HandshakeWanted(self.peer))
    }

    /// `messages` transport messages sealed with `keypair` were handed to the socket: call once for a batch.
    /// `bytes` counts whole messages with header and tag; `data` says whether any was no keepalive.
    pub fn note_sent(
        &self,
        keypair: &Keypair,
        now: Instant,
        messages: u64,
        bytes: u64,
        data: bool,
    ) -> Option<Event> {
        if messages == 0 {
            return None;
        }
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.activity.sent(now);
        if self.standing() == Standing::Provisional {
            return None;
        }
        // `timers.c` data_sent: requirement 8.
        let armed = data && self.activity.unanswered_send().start(now);
        // `send.c` keep_key_fresh: requirements 2 and 3.
        let wanted = if keypair.is_due_on_send(now) { self.want_handshake() } else { None };
        wanted.or(armed.then_some(Event::Armed(self.peer)))
    }

    /// Messages of `keypair` were authenticated and passed the replay window: call once for a batch,
    /// with the outer source of the newest one.
    pub fn note_received(
        &self,
        keypair: &Keypair,
        from: Endpoint,
        now: Instant,
        batch: &Received,
    ) -> Option<Event> {
        if batch.messages == 0 || self.removed.load(Ordering::Relaxed) {
            return None;
        }
        self.rx_bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        let standing = self.standing();
        let moved = match standing {
            // Requirement 19.
            Standing::Static => {
                self.move_endpoint(from);
                false
            }
            _ => self.note_path(standing, keypair, from, now, batch),
        };
        let confirmed = keypair.confirm();
        self.activity.received(now);
        if standing == Standing::Provisional {
            return confirmed
                .then_some(Event::Confirmed { peer: self.peer, local_index: keypair.local_index() });
        }
        // `receive.c` keep_key_fresh: requirement 3. It is the current keypair that may not last,
        // whichever one this batch came under.
        let due = self.sending.load().as_ref().is_some_and(|current| current.take_due_on_receive(now));
        // A keepalive is never answered: requirement 7.
        let armed = batch.data && self.activity.unanswered_receive().start(now);
        let wanted = if due { self.want_handshake() } else { None };
        if confirmed {
            return Some(Event::Confirmed { peer: self.peer, local_index: keypair.local_index() });
        }
        wanted.or(moved.then_some(Event::Moved(self.peer))).or(armed.then_some(Event::Armed(self.peer)))
    }

    /// Who is no static peer moves by control rule 10: with transport messages only, and not with those of keys
    /// that newer ones have replaced. Says whether the control thread has to be told.
    fn note_path(
        &self,
        standing: Standing,
        keypair: &Keypair,
        from: Endpoint,
        now: Instant,
        batch: &Received,
    ) -> bool {
        let path = self.path.load();
        if let Some(path) = path.as_ref().filter(|path| path.endpoint.remote == from.remote) {
            if standing != Standing::Provisional && keypair.proven_remote() == Some(from.remote) {
                path.lift();
            } else {
                path.note_received(batch.bytes);
            }
            if path.endpoint.local != from.local {
                self.path.store(Some(Arc::new(path.with_endpoint(from))));
            }
            return false;
        }
        if !Self::may_move(path.as_ref().map(|path| path.endpoint), from) || (path.is_some() && !batch.moves)
        {
            return false;
        }
        // Control rule 8: never roams.
        if standing == Standing::Provisional {
            return false;
        }
        if let Some(current) = self.sending.load().as_ref()
            && keypair.epoch() < current.epoch()
        {
            // The peer itself made the newer keys and has used them for a while: this is another machine with the same key.
            let clone = current.role() == Role::Responder && current.age(now) >= CLONE_AFTER_TIME;
            return clone && self.note_other_source(from.remote);
        }
        let path = if keypair.proven_remote() == Some(from.remote) {
            Path::unlimited(from)
        } else {
            let path = Path::unproven(from);
            path.note_received(batch.bytes);
            path
        };
        self.path.store(Some(Arc::new(path)));
        !self.moved.swap(true, Ordering::AcqRel)
    }

    /// Control rule 14: what comes by a relay never moves an endpoint, and what is sent by a relay goes on so, until the owner says
    /// otherwise.
    fn may_move(current: Option<Endpoint>, from: Endpoint) -> bool {
        current.is_none_or(|current| !current.is_relayed() && !from.is_relayed())
    }

    fn note_other_source(&self, source: SocketAddr) -> bool {
        let first = self.other_source.load().is_none();
        if first {
            self.other_source.store(Some(Arc::new(source)));
        }
        first
    }

    /// A send from the sticky source `failed` did not work: the kernel chooses the source from now on
    /// (requirement 20). An endpoint that has changed since is left alone.
    pub fn forget_source(&self, failed: Endpoint) {
        self.path.rcu(|path| match path {
            Some(path) if path.endpoint == failed => {
                Some(Arc::new(path.with_endpoint(Endpoint::new(failed.remote))))
            }
            path => path.clone(),
        });
    }

    /// Bytes sent to the peer: whole messages, handshakes and keepalives included.
    pub fn sent_bytes(&self) -> u64 {
        self.tx_bytes.load(Ordering::Relaxed)
    }

    /// Bytes received from the peer and authenticated: whole messages, handshakes and keepalives included.
    pub fn received_bytes(&self) -> u64 {
        self.rx_bytes.load(Ordering::Relaxed)
    }

    /// When the last handshake was completed.
    pub fn last_handshake(&self) -> Option<UnixTime> {
        match self.last_handshake.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(UnixTime(Duration::from_nanos(nanos))),
        }
    }

    /// When the last message of any kind was sent, handshakes included.
    pub fn last_sent(&self) -> Option<Instant> {
        self.activity.last_sent()
    }

    /// When the last authenticated message of any kind was received, handshakes included.
    pub fn last_received(&self) -> Option<Instant> {
        self.activity.last_received()
    }

    /// Since when data has been sent and nothing authenticated has come back; `None`: something came since.
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.activity.unanswered_send().running_since()
    }

    /// Roaming (requirement 19).
    pub(crate) fn move_endpoint(&self, from: Endpoint) {
        // Reading first: the endpoint is stored, and allocated, when it changes and not for every batch.
        let current = self.endpoint();
        if current != Some(from) && Self::may_move(current, from) {
            self.path.store(Some(Arc::new(Path::unlimited(from))));
        }
    }

    /// Where the owner says that the peer is: how much goes there is the owner's concern.
    pub(crate) fn set_endpoint(&self, endpoint: Option<Endpoint>) {
        self.path.store(endpoint.map(|endpoint| Arc::new(Path::unlimited(endpoint))));
    }

    /// A provisional peer's only endpoint.
    pub(crate) fn set_provisional_endpoint(&self, endpoint: Endpoint) {
        self.path.store(Some(Arc::new(Path::unproven(endpoint))));
    }

    /// The peer has shown that it is at `remote`. `false` if it has moved on since.
    pub(crate) fn prove_path(&self, remote: SocketAddr) -> bool {
        let path = self.path.load();
        let path = path.as_ref().filter(|path| path.endpoint.remote == remote);
        path.inspect(|path| path.lift()).is_some()
    }

    /// Changes what the peer is, and until when it may carry IP packets.
    pub(crate) fn set_standing(&self, standing: Standing, packets_until: Instant) {
        self.standing.store(standing.to_byte(), Ordering::Relaxed);
        self.packets_until.store(packets_until.as_nanos(), Ordering::Relaxed);
    }

    /// Whether the endpoint moved since this was last asked.
    pub(crate) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    /// Where else the key is in use, if that was seen; seen anew after [`forget_other_source`](Self::forget_other_source).
    pub(crate) fn other_source(&self) -> Option<SocketAddr> {
        self.other_source.load().as_deref().copied()
    }

    pub(crate) fn forget_other_source(&self) {
        self.other_source.store(None);
    }

    /// Leaves the choice of the source to the kernel again.
    pub(crate) fn forget_any_source(&self) {
        if let Some(endpoint) = self.endpoint().filter(|endpoint| endpoint.local.is_some()) {
            self.forget_source(endpoint);
        }
    }

    pub(crate) fn set_sending(&self, keypair: Option<Arc<Keypair>>) {
        self.sending.store(keypair);
    }

    pub(crate) fn is_handshake_wanted(&self) -> bool {
        self.handshake_wanted.load(Ordering::Acquire)
    }

    pub(crate) fn clear_handshake_wanted(&self) {
        self.handshake_wanted.store(false, Ordering::Release);
    }

    /// A handshake message was sent to the peer.
    pub(crate) fn note_handshake_sent(&self, now: Instant, bytes: usize) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.activity.sent(now);
    }

    /// A handshake message of the peer was authenticated. Only a static peer moves with it (requirement 19, control rule 10).
    pub(crate) fn note_handshake_received(&self, from: Endpoint, now: Instant, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.standing() == Standing::Static {
            self.move_endpoint(from);
        }
        self.activity.received(now);
    }

    /// An initiation, which may be a replay, is answered: counted, and nothing else (control rule 10). A provisional peer's comes from where it is,
    /// and the response is the first of what may go there (control rule 8).
    pub(crate) fn count_handshake(&self, received: usize, sent: usize) {
        self.rx_bytes.fetch_add(received as u64, Ordering::Relaxed);
        self.tx_bytes.fetch_add(sent as u64, Ordering::Relaxed);
        if self.standing() == Standing::Provisional
            && let Some(path) = self.path.load().as_ref()
        {
            path.note_received(received as u64);
            path.take(sent as u64);
        }
    }

    pub(crate) fn set_last_handshake(&self, now: UnixTime) {
        let nanos = u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.last_handshake.store(nanos, Ordering::Relaxed);
    }

    /// The peer is gone. Workers may still hold the link for a batch.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        self.packets_until.store(0, Ordering::Relaxed);
        self.set_sending(None);
    }
}
