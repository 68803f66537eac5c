//! The transport keys of one session, shared between threads (§5.4.5, §5.4.6).
//!
//! Counters are reserved serially, sealing and opening take `&self` and run on any thread, and the
//! replay window is committed to separately, in one exclusion per batch.

use crate::aead::AeadKey;
use crate::clock::Instant;
use crate::handshake::{Role, SessionSecrets};
use crate::replay::ReplayWindow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tombolo_packet::DropReason;
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN, Transport, write_transport_header};

/// Requirement 2 (§6.1): after this many messages the keys are renewed.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Requirement 2 (§6.1): counters are below this, always.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Requirement 3 (§6.2): the initiator renews keys of this age when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Requirement 4 (§6.2): keys of this age are not used, in either direction.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Requirement 3 (§6.2): the initiator renews keys of this age when it receives, because a passive
/// keepalive and a handshake attempt would not fit into what is left:
/// Reject-After-Time − Keepalive-Timeout − Rekey-Timeout.
pub const REKEY_ON_RECEIVE_AFTER_TIME: Duration = Duration::from_secs(165);

/// Bytes that a transport message has beyond its padded plaintext.
pub const TRANSPORT_OVERHEAD: usize = TRANSPORT_HEADER_LEN + TAG_LEN;

/// The length that a plaintext of `plaintext_len` bytes is padded to with zeros before it is sealed:
/// the next multiple of 16, capped at the MTU (requirement 17, §5.4.6; `send.c`). Zero means no cap.
/// What is longer than the MTU is padded as its part beyond the last whole MTU, as the kernel does;
/// the result is never less than `plaintext_len`.
pub const fn padded_len(plaintext_len: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return plaintext_len.next_multiple_of(16);
    }
    let last_unit = if plaintext_len > mtu { plaintext_len % mtu } else { plaintext_len };
    let aligned = last_unit.next_multiple_of(16);
    plaintext_len + if aligned < mtu { aligned } else { mtu } - last_unit
}

/// The keys of one session, both directions. Dropping the last reference erases them.
pub struct Keypair {
    sending: AeadKey,
    receiving: AeadKey,
    local_index: u32,
    remote_index: u32,
    role: Role,
    handshake_hash: [u8; 32],
    epoch: u64,
    proven_remote: Option<SocketAddr>,
    created: Instant,
    /// The next counter to send with. At or above Reject-After-Messages, nothing is sent any more.
    next_counter: AtomicU64,
    /// Counters seen, and with them whether a message was ever accepted.
    replay: Mutex<ReplayWindow>,
    /// The peer has shown that it holds the keys: at once for an initiator, by a first message for a
    /// responder (requirement 12).
    confirmed: AtomicBool,
    /// Taken out of service. A worker that still holds a reference must not use it.
    retired: AtomicBool,
    /// The handshake for want of time on receive was asked for (requirement 3: once for each key).
    last_minute: AtomicBool,
}

impl Keypair {
    /// `epoch`: see [`Keypair::epoch`]. `proven_remote`: where the peer is known to receive what we send, by the very handshake.
    pub(crate) fn new(
        secrets: &SessionSecrets,
        epoch: u64,
        proven_remote: Option<SocketAddr>,
        now: Instant,
    ) -> Self {
        Self {
            sending: AeadKey::new(&secrets.sending),
            receiving: AeadKey::new(&secrets.receiving),
            local_index: secrets.local_index,
            remote_index: secrets.remote_index,
            role: secrets.role,
            handshake_hash: secrets.handshake_hash,
            epoch,
            proven_remote,
            created: now,
            next_counter: AtomicU64::new(0),
            replay: Mutex::new(ReplayWindow::new()),
            confirmed: AtomicBool::new(secrets.role == Role::Initiator),
            retired: AtomicBool::new(false),
            last_minute: AtomicBool::new(false),
        }
    }

    /// Our index: what the peer writes into its messages.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The peer's index: what we write into ours.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Which side of the handshake we were.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The Noise handshake hash: the same on both sides, another for each session, no secret. What a join proof
    /// signs, so that it holds for this session alone.
    pub fn handshake_hash(&self) -> &[u8; 32] {
        &self.handshake_hash
    }

    /// The number of the session among all of the device's, from 1: later sessions have greater ones.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The address that a message under these keys proves to be the peer's: the response went there, and was needed for it.
    pub fn proven_remote(&self) -> Option<SocketAddr> {
        self.proven_remote
    }

    /// How old the keys are.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.created)
    }

    /// Whether messages may be sealed with these keys (requirements 2, 4 and 12).
    pub fn can_send(&self, now: Instant) -> bool {
        self.is_confirmed() && self.can_receive(now) && self.sent_messages() < REJECT_AFTER_MESSAGES
    }

    /// Whether messages may be opened with these keys (requirement 4). To be asked once for a batch;
    /// [`open`](Self::open) does not know the time.
    pub fn can_receive(&self, now: Instant) -> bool {
        !self.retired.load(Ordering::Relaxed) && self.age(now) < REJECT_AFTER_TIME
    }

    /// Messages sealed so far.
    pub fn sent_messages(&self) -> u64 {
        self.next_counter.load(Ordering::Relaxed)
    }

    /// Reserves `count` consecutive counters and returns the first. Each counter is handed out once,
    /// whatever the number of threads that ask.
    ///
    /// # Errors
    /// [`DropReason::ExpiredKeypair`] if that would reach Reject-After-Messages (requirement 2), or
    /// if the keypair was taken out of service.
    pub fn reserve(&self, count: u64) -> Result<u64, DropReason> {
        self.next_counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(count).filter(|&end| end <= REJECT_AFTER_MESSAGES)
            })
            .map_err(|_| DropReason::ExpiredKeypair)
    }

    /// Seals one message in place. On entry `message` is 16 bytes of room for the header, the
    /// plaintext already padded with zeros (see [`padded_len`]), and 16 bytes of room for the tag; on return it is a
    /// transport data message. `counter` is one that [`reserve`](Self::reserve) returned, used once.
    ///
    /// # Panics
    /// If `message` is shorter than 32 bytes: a mistake of the caller.
    pub fn seal(&self, counter: u64, message: &mut [u8]) {
        let (header, rest) = message
            .split_first_chunk_mut::<TRANSPORT_HEADER_LEN>()
            .expect("the caller leaves room for the header");
        let (plaintext, tag) =
            rest.split_last_chunk_mut::<TAG_LEN>().expect("the caller leaves room for the tag");
        write_transport_header(header, self.remote_index, counter);
        self.sending.seal_in_place(counter, plaintext, tag);
    }

    /// Opens one message in place, on any thread. Returns its counter and the padded plaintext, which
    /// is empty for a keepalive. The replay window is neither read nor changed: the caller hands the
    /// counter to [`commit`](Self::commit) afterwards, and delivers nothing that is refused there (requirement 16).
    ///
    /// # Errors
    /// - [`DropReason::MalformedMessage`]: no transport data message;
    /// - [`DropReason::ExpiredKeypair`]: a counter past Reject-After-Messages (requirement 2), or a
    ///   keypair out of service;
    /// - [`DropReason::InvalidTag`]: not from this peer. The plaintext's bytes are undefined then.
    pub fn open<'message>(
        &self,
        message: &'message mut [u8],
    ) -> Result<(u64, &'message mut [u8]), DropReason> {
        let counter = Transport::parse(message)?.counter();
        if counter >= REJECT_AFTER_MESSAGES || self.retired.load(Ordering::Relaxed) {
            return Err(DropReason::ExpiredKeypair);
        }
        let (_, ciphertext) =
            message.split_first_chunk_mut::<TRANSPORT_HEADER_LEN>().ok_or(DropReason::MalformedMessage)?;
        self.receiving.open_in_place(counter, ciphertext)?;
        let (plaintext, _) =
            ciphertext.split_last_chunk_mut::<TAG_LEN>().ok_or(DropReason::MalformedMessage)?;
        Ok((counter, plaintext))
    }

    /// Brings the replay window up to date for a batch, in one exclusion (requirement 16). `fresh` is
    /// extended by one entry for each counter, in order: `false` for a message that was seen before or is too
    /// old, and is to be dropped as [`DropReason::ReplayedCounter`].
    pub fn commit(&self, counters: &[u64], fresh: &mut Vec<bool>) {
        let mut replay = self.replay();
        fresh.extend(counters.iter().map(|&counter| replay.accept(counter).is_ok()));
    }

    /// The replay window, held exclusively: once for a batch (requirement 16).
    pub fn replay(&self) -> ReplayGuard<'_> {
        // The window is consistent between any two statements, so a panic elsewhere spoils nothing.
        ReplayGuard(self.replay.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the peer has shown that it holds the keys (requirement 12).
    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Whether it is time to renew these keys because something is being sent (requirements 2 and 3).
    pub(crate) fn is_due_on_send(&self, now: Instant) -> bool {
        self.sent_messages() > REKEY_AFTER_MESSAGES
            || (self.role == Role::Initiator && self.age(now) >= REKEY_AFTER_TIME)
    }

    /// Whether it is time to renew these keys because something was received: true once for each
    /// keypair (requirement 3; `receive.c` `keep_key_fresh`).
    pub(crate) fn take_due_on_receive(&self, now: Instant) -> bool {
        self.role == Role::Initiator
            && self.age(now) >= REKEY_ON_RECEIVE_AFTER_TIME
            && !self.last_minute.swap(true, Ordering::Relaxed)
    }

    /// Notes that the peer used the keys. True the first time.
    pub(crate) fn confirm(&self) -> bool {
        !self.confirmed.load(Ordering::Acquire) && !self.confirmed.swap(true, Ordering::AcqRel)
    }

    /// Takes the keypair out of service for whoever still holds a reference.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.next_counter.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn skip_to_counter(&self, counter: u64) {
        self.next_counter.store(counter, Ordering::Relaxed);
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Keypair")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("role", &self.role)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

/// Exclusive use of a keypair's replay window.
#[derive(Debug)]
pub struct ReplayGuard<'keypair>(MutexGuard<'keypair, ReplayWindow>);

impl ReplayGuard<'_> {
    /// Whether `counter` could be accepted: may be asked before decryption, to spare the work.
    pub fn is_fresh(&self, counter: u64) -> bool {
        self.0.is_fresh(counter)
    }

    /// Accepts the counter of a message whose tag was verified.
    ///
    /// # Errors
    /// [`DropReason::ReplayedCounter`]: the message was seen before or is too old; drop it.
    pub fn accept(&mut self, counter: u64) -> Result<(), DropReason> {
        if self.0.accept(counter) { Ok(()) } else { Err(DropReason::ReplayedCounter) }
    }
}

#[cfg(test)]
mod tests;
