//! The control thread's half of a peer.

use crate::clock::Instant;
use crate::cookie::CookieJar;
use crate::handshake::Initiator;
use crate::keypair::Keypair;
use crate::keys::{PresharedKey, PublicKey, RemoteStatic};
use crate::link::Link;
use crate::rate_limit::Source;
use crate::standing::Standing;
use crate::tai64n::Tai64n;
use crate::timers::PeerTimers;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tombolo_packet::message::INITIATION_LEN;
use tombolo_packet::{Endpoint, PeerId};

/// Ways that one initiation goes by at most: eight candidates, and relays.
pub(crate) const MAX_WAYS: usize = 12;

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

/// What an initiation claimed whose session the peer has not used yet (control rule 10).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) timestamp: Tai64n,
    pub(crate) ahead: Duration,
    pub(crate) made: Instant,
}

/// What handshakes have left behind, and what the one under way needs.
#[derive(Debug)]
pub(crate) struct Past {
    /// Greatest timestamp received, kept for the peer's life (requirement 11).
    pub(crate) last_received_timestamp: Tai64n,
    /// How far that was ahead of our wall clock when it came; zero if it was not.
    pub(crate) timestamp_ahead: Duration,
    pub(crate) last_sent_timestamp: Tai64n,
    /// Of the next keypair, for who is no static peer.
    pub(crate) claim: Option<Box<Claim>>,
    pub(crate) last_initiation_consumed: Option<Instant>,
    /// When an initiation or a response was sent: no initiation for Rekey-Timeout after it.
    pub(crate) last_handshake_sent: Option<Instant>,
    /// Initiations since a handshake was last asked for (requirement 6).
    pub(crate) attempts: u8,
    /// The initiation under way was repeated at once for a cookie; not again before its time.
    pub(crate) resent_for_cookie: bool,
    /// At most [`MAX_WAYS`]: by which ways besides the endpoint's the initiation goes, until it is answered.
    pub(crate) ways: Vec<Endpoint>,
    /// The initiation under way, for ways that are found out later.
    pub(crate) initiation: Option<Box<[u8; INITIATION_LEN]>>,
    /// The shell knows that the key is in use in two places (control rule 19).
    pub(crate) told_of_other_source: bool,
}

impl Past {
    const NONE: Self = Self {
        last_received_timestamp: Tai64n::NEVER,
        timestamp_ahead: Duration::ZERO,
        last_sent_timestamp: Tai64n::NEVER,
        claim: None,
        last_initiation_consumed: None,
        last_handshake_sent: None,
        attempts: 0,
        resent_for_cookie: false,
        ways: Vec::new(),
        initiation: None,
        told_of_other_source: false,
    };
}

/// Of a peer that had no handshake.
static NO_PAST: Past = Past::NONE;

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
    /// Our initiation that waits for its response (requirement 27: taken when it is consumed).
    pub(crate) pending: Option<Initiator>,
    /// Where a provisional tunnel is counted.
    pub(crate) provisional_source: Option<Box<Source>>,
    /// What stands in the table of known sources for this peer.
    pub(crate) known_source: Option<Box<SocketAddr>>,
    pub(crate) keypairs: Keypairs,
    pub(crate) timers: PeerTimers,
    /// None: there was no handshake.
    past: Option<Box<Past>>,
}

impl Peer {
    pub(crate) fn new(
        id: PeerId,
        public_key: PublicKey,
        remote: Option<RemoteStatic>,
        standing: Standing,
    ) -> Self {
        Self {
            link: Arc::new(Link::new(id, public_key, standing)),
            remote,
            preshared_key: PresharedKey::default(),
            cookie_jar: CookieJar::new(),
            persistent_keepalive: None,
            pending: None,
            provisional_source: None,
            known_source: None,
            keypairs: Keypairs::default(),
            timers: PeerTimers::default(),
            past: None,
        }
    }

    /// What handshakes have left behind.
    pub(crate) fn past(&self) -> &Past {
        self.past.as_deref().unwrap_or(&NO_PAST)
    }

    /// The same, to be changed: no peer that stays idle is to be asked for it.
    pub(crate) fn past_mut(&mut self) -> &mut Past {
        self.past.get_or_insert_with(|| Box::new(Past::NONE))
    }

    /// The same of a peer that has any.
    pub(crate) fn past_if_any(&mut self) -> Option<&mut Past> {
        self.past.as_deref_mut()
    }

    pub(crate) fn is_static(&self) -> bool {
        self.link.standing() == Standing::Static
    }

    pub(crate) fn is_provisional(&self) -> bool {
        self.link.standing() == Standing::Provisional
    }
}
