//! The shared half of a peer: what data workers see of it.
//!
//! The [`Device`](crate::Device) owns the peer; a `Link` carries what crosses between the threads,
//! all of it atomic. Workers report once per batch and get back what the control thread has to be
//! told, which is rare.

use crate::activity::Activity;
use crate::clock::{Instant, UnixTime};
use crate::keypair::Keypair;
use crate::keys::PublicKey;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tombolo_packet::{Endpoint, PeerId};

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
}

impl Event {
    /// The peer that it is about.
    pub fn peer(self) -> PeerId {
        match self {
            Self::HandshakeWanted(peer) | Self::Armed(peer) | Self::Confirmed { peer, .. } => peer,
        }
    }
}

/// What a batch of authenticated messages of one keypair amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Messages that passed the replay window, keepalives included.
    pub messages: u64,
    /// Their bytes, with headers and tags.
    pub bytes: u64,
    /// Whether any of them was no keepalive, whatever became of its inner packet.
    pub data: bool,
}

/// The shared half of a peer.
#[derive(Debug)]
pub struct Link {
    peer: PeerId,
    public_key: PublicKey,
    endpoint: ArcSwapOption<Endpoint>,
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
    pub(crate) fn new(peer: PeerId, public_key: PublicKey) -> Self {
        Self {
            peer,
            public_key,
            endpoint: ArcSwapOption::empty(),
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

    /// Where the peer is, as far as we know.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.load().as_deref().copied()
    }

    /// The keypair to seal with, if there is one that may be used now. If `None`: stage the packet
    /// first, and then hand on what [`want_handshake`](Self::want_handshake) returns. In that order no packet is forgotten:
    /// if a session came in between, the event is answered by
    /// [`FlushStaged`](crate::Output::FlushStaged).
    pub fn sending_keypair(&self, now: Instant) -> Option<Arc<Keypair>> {
        let keypair = self.sending.load();
        keypair.as_ref().filter(|keypair| keypair.can_send(now)).map(Arc::clone)
    }

    /// Something is to be sent and there is no key for it. Returns the event once; it is returned
    /// again after the next retransmission, after a session, or after the handshake was given up (requirement 6).
    pub fn want_handshake(&self) -> Option<Event> {
        let raised = self.removed.load(Ordering::Relaxed)
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
        // `timers.c` data_sent: requirement 8.
        let armed = data && self.activity.unanswered_send.start(now);
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
        // Requirement 19. A node in membership mode restricts this to sessions that showed a membership.
        self.move_endpoint(from);
        let confirmed = keypair.confirm();
        // `receive.c` keep_key_fresh: requirement 3. It is the current keypair that may not last,
        // whichever one this batch came under.
        let due = self.sending.load().as_ref().is_some_and(|current| current.take_due_on_receive(now));
        self.activity.received(now);
        // A keepalive is never answered: requirement 7.
        let armed = batch.data && self.activity.unanswered_receive.start(now);
        let wanted = if due { self.want_handshake() } else { None };
        if confirmed {
            return Some(Event::Confirmed { peer: self.peer, local_index: keypair.local_index() });
        }
        wanted.or(armed.then_some(Event::Armed(self.peer)))
    }

    /// A send from the sticky source `failed` did not work: the kernel chooses the source from now on
    /// (requirement 20). An endpoint that has changed since is left alone.
    pub fn forget_source(&self, failed: Endpoint) {
        self.endpoint.rcu(|endpoint| match endpoint.as_deref() {
            Some(current) if *current == failed => Some(Arc::new(Endpoint::new(failed.remote))),
            _ => endpoint.clone(),
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

    /// Roaming (requirement 19).
    pub(crate) fn move_endpoint(&self, from: Endpoint) {
        // Reading first: the endpoint is stored, and allocated, when it changes and not for every batch.
        if self.endpoint.load().as_deref() != Some(&from) {
            self.endpoint.store(Some(Arc::new(from)));
        }
    }

    pub(crate) fn set_endpoint(&self, endpoint: Option<Endpoint>) {
        self.endpoint.store(endpoint.map(Arc::new));
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

    /// A handshake message of the peer was authenticated.
    pub(crate) fn note_handshake_received(&self, from: Endpoint, now: Instant, bytes: usize) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.move_endpoint(from);
        self.activity.received(now);
    }

    pub(crate) fn set_last_handshake(&self, now: UnixTime) {
        let nanos = u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.last_handshake.store(nanos, Ordering::Relaxed);
    }

    /// The peer is gone. Workers may still hold the link for a batch.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        self.set_sending(None);
    }
}
