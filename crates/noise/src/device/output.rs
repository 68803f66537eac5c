//! What the device hands out.

use crate::clock::UnixTime;
use crate::keys::{PresharedKey, PublicKey};
use crate::standing::Standing;
use crate::tai64n::Tai64n;
use arrayvec::ArrayVec;
use std::net::SocketAddr;
use std::time::Duration;
use tombolo_packet::message::INITIATION_LEN;
use tombolo_packet::{Endpoint, PeerId};

/// DSCP AF41, no ECN (requirement 21).
pub const HANDSHAKE_TRAFFIC_CLASS: u8 = 0x88;

/// Something for the shell to do: from [`Device::poll_output`](crate::Device::poll_output), in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a handshake message or a cookie reply.
    Datagram {
        /// The peer, if it is known; none for a cookie reply.
        peer: Option<PeerId>,
        /// Where to.
        destination: Endpoint,
        /// The message.
        contents: ArrayVec<u8, INITIATION_LEN>,
        /// Value of the IPv4 TOS or IPv6 traffic class field (requirement 21).
        traffic_class: u8,
    },
    /// Flush what is staged, or else seal an empty message and send it (requirements 7 and 10).
    Keepalive {
        /// The peer.
        peer: PeerId,
    },
    /// There is a new keypair to send with: flush what is staged. The initiator, if nothing was
    /// staged, sends an empty message, because the responder may not send before it got one (requirement 12).
    SessionReady {
        /// The peer.
        peer: PeerId,
        /// Whether we initiated.
        initiator: bool,
    },
    /// A worker asked for a handshake when there was a keypair: something may have been staged just
    /// before that. Flush it.
    FlushStaged {
        /// The peer.
        peer: PeerId,
    },
    /// The handshake was given up, or the link went down: drop what is staged (requirement 6).
    DropStaged {
        /// The peer.
        peer: PeerId,
    },
    /// The peer does not answer: resolve the name of its endpoint anew, if it has one. Comes with every
    /// repeated initiation, so that a query that is under way is to be shared. The sticky source is
    /// already forgotten (requirement 20).
    ResolveEndpoint {
        /// The peer.
        peer: PeerId,
    },
    /// An unknown key completed its half of a handshake: there is a provisional peer of which the shell knows
    /// nothing yet. Comes before its response, so that workers know the peer before anything of it arrives (control rule 8).
    PeerAppeared {
        /// The peer.
        peer: PeerId,
    },
    /// The device removed the peer on its own: a provisional one whose time was up. The slot may be in use by another
    /// already, of which [`PeerAppeared`](Self::PeerAppeared) comes later.
    PeerGone {
        /// The slot it had.
        peer: PeerId,
        /// Its key.
        public_key: PublicKey,
    },
    /// A peer that is no static one was heard from another address. Where
    /// [`Link::is_path_limited`](crate::Link::is_path_limited), a challenge is to be sent there, and its answer told to
    /// [`Device::path_validated`](crate::Device::path_validated) (control rule 10).
    EndpointMoved {
        /// The peer.
        peer: PeerId,
    },
    /// The key is in use in two places: the peer made new keys from one address, and seconds later old ones are used from
    /// another. At most once for each session (control rule 19).
    KeyInTwoPlaces {
        /// The peer, whose link has the newer address.
        peer: PeerId,
        /// The other address.
        other: SocketAddr,
    },
    /// The greatest timestamp sent to or received from the peer grew: keep it on disk (requirement 11).
    TimestampAdvanced {
        /// The peer.
        peer: PeerId,
    },
}

impl Output {
    /// The peer that it is about, and with which it goes.
    pub(crate) fn peer(&self) -> Option<PeerId> {
        match *self {
            Self::Datagram { peer, .. } => peer,
            // It outlives the peer.
            Self::PeerGone { .. } => None,
            Self::Keepalive { peer }
            | Self::SessionReady { peer, .. }
            | Self::FlushStaged { peer }
            | Self::DropStaged { peer }
            | Self::ResolveEndpoint { peer }
            | Self::PeerAppeared { peer }
            | Self::EndpointMoved { peer }
            | Self::KeyInTwoPlaces { peer, .. }
            | Self::TimestampAdvanced { peer } => Some(peer),
        }
    }
}

/// Whether data can flow to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// No session, and none is being made.
    Idle,
    /// A handshake is under way.
    Connecting,
    /// There is a keypair to send with.
    Established,
}

/// What the device knows of a peer. Byte counts and the endpoint are on its [`Link`](crate::Link).
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// What the peer is to us.
    pub standing: Standing,
    /// The preshared key; all zeros for none.
    pub preshared_key: PresharedKey,
    /// When the last handshake was completed.
    pub last_handshake: Option<UnixTime>,
    /// Seconds between persistent keepalives, if switched on.
    pub persistent_keepalive: Option<u16>,
    /// Whether data can flow.
    pub state: SessionState,
    /// Initiations sent without an answer since a handshake was last asked for (requirement 6).
    pub attempts: u8,
    /// Greatest TAI64N received.
    pub last_received_timestamp: Option<Tai64n>,
    /// How far that timestamp was ahead of our wall clock when it was received; zero if it was not.
    /// More than a little means that one of the two clocks is wrong, and that the peer, once its clock is put back, is
    /// not heard before that time (requirement 11, CVE-2021-46873).
    pub timestamp_ahead: Duration,
    /// Greatest TAI64N sent.
    pub last_sent_timestamp: Option<Tai64n>,
    /// Time since anything authenticated came from the peer.
    pub last_received_age: Option<Duration>,
}
