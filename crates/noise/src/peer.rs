//! The control thread's half of a peer.

use crate::clock::Instant;
use crate::cookie::CookieJar;
use crate::handshake::Initiator;
use crate::keypair::Keypair;
use crate::keys::{PresharedKey, PublicKey, RemoteStatic};
use crate::link::Link;
use crate::tai64n::Tai64n;
use crate::timers::PeerTimers;
use std::sync::Arc;
use std::time::Duration;
use tombolo_packet::PeerId;

/// The three slots (requirement 12, kernel `noise.c`).
#[derive(Debug, Default)]
pub(crate) struct Keypairs {
    /// Still opened with, for what is under way.
    pub(crate) previous: Option<Arc<Keypair>>,
    /// Sealed with.
    pub(crate) current: Option<Arc<Keypair>>,
    /// Ours as responder, and not yet confirmed by the initiator.
    pub(crate) next: Option<Arc<Keypair>>,
}

/// One peer. Idle, it holds no keypair and no handshake: well below a kilobyte with its [`Link`].
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) link: Arc<Link>,
    /// What follows from the peer's key and ours; none while we have no private key.
    pub(crate) remote: Option<RemoteStatic>,
    pub(crate) preshared_key: PresharedKey,
    pub(crate) cookie_jar: CookieJar,
    /// Seconds; none if switched off.
    pub(crate) persistent_keepalive: Option<u16>,
    /// Greatest timestamp received, kept for the peer's life (requirement 11).
    pub(crate) last_received_timestamp: Tai64n,
    /// How far that was ahead of our wall clock when it came; zero if it was not.
    pub(crate) timestamp_ahead: Duration,
    pub(crate) last_sent_timestamp: Tai64n,
    pub(crate) last_initiation_consumed: Option<Instant>,
    /// When an initiation or a response was sent: no initiation for Rekey-Timeout after it.
    pub(crate) last_handshake_sent: Option<Instant>,
    /// Our initiation that waits for its response (requirement 27: taken when it is consumed).
    pub(crate) pending: Option<Initiator>,
    /// Initiations since a handshake was last asked for (requirement 6).
    pub(crate) attempts: u8,
    pub(crate) keypairs: Keypairs,
    pub(crate) timers: PeerTimers,
}

impl Peer {
    pub(crate) fn new(id: PeerId, public_key: PublicKey, remote: Option<RemoteStatic>) -> Self {
        Self {
            link: Arc::new(Link::new(id, public_key)),
            remote,
            preshared_key: PresharedKey::default(),
            cookie_jar: CookieJar::new(),
            persistent_keepalive: None,
            last_received_timestamp: Tai64n::default(),
            timestamp_ahead: Duration::ZERO,
            last_sent_timestamp: Tai64n::default(),
            last_initiation_consumed: None,
            last_handshake_sent: None,
            pending: None,
            attempts: 0,
            keypairs: Keypairs::default(),
            timers: PeerTimers::default(),
        }
    }
}
