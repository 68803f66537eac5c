//! What the owner of an engine wants done without waiting for each.

use std::net::{IpAddr, SocketAddr};

use tombolo_noise::{PublicKey, Tai64n};

use crate::options::Path;
use crate::transaction::PeerChange;

/// One thing of many that are handed over together ([`EngineHandle::instruct`](crate::EngineHandle::instruct)). What is about a peer
/// that is not there, or no more, is nothing.
pub enum Instruction {
    /// Seals a frame, header and body, and sends it (control rule 11). Where that cannot be, it is lost, as a datagram may be; where that is
    /// for want of a session, a handshake is asked for, unless the peer is a provisional one.
    Frame {
        /// To whom.
        public_key: PublicKey,
        /// By this way, whichever the session uses; nothing else moves there. How much goes to one that is not proven is the owner's concern
        /// (control rule 13). `None`: the session's own.
        path: Option<Path>,
        /// At most 1024 bytes.
        frame: Vec<u8>,
    },
    /// Changes a peer, as one of a [`Transaction`](crate::Transaction) does.
    Peer(Box<PeerChange>),
    /// [`EngineHandle::handshake`](crate::EngineHandle::handshake).
    Handshake(PublicKey, Vec<Path>),
    /// [`EngineHandle::set_path`](crate::EngineHandle::set_path).
    SetPath(PublicKey, Path),
    /// [`EngineHandle::path_validated`](crate::EngineHandle::path_validated).
    PathValidated(PublicKey, SocketAddr),
    /// [`EngineHandle::revoke`](crate::EngineHandle::revoke).
    Revoke(PublicKey),
    /// The greatest timestamp that was ever taken of a member's initiation, as the disk has it: none that is older is taken, whether
    /// the member is a peer now or not (control rule 10).
    Remember(PublicKey, Tai64n),
    /// [`EngineHandle::refuse_tunnel`](crate::EngineHandle::refuse_tunnel).
    RefuseTunnel(IpAddr),
}
