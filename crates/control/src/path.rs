//! The way to a peer.

use std::net::SocketAddr;

use tombolo_noise::PublicKey;

use crate::NodeId;
use crate::frame::Frame;

/// The way that sealed datagrams go to a peer, or came from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// To its own address.
    Direct(SocketAddr),
    /// Through the tunnel with a relay.
    Relayed(NodeId),
}

impl Path {
    /// The address of a direct path.
    pub fn direct(self) -> Option<SocketAddr> {
        match self {
            Self::Direct(address) => Some(address),
            Self::Relayed(_) => None,
        }
    }

    /// Whether it goes through a relay.
    pub fn is_relayed(self) -> bool {
        matches!(self, Self::Relayed(_))
    }
}

/// A frame to be sent in the session with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The session's remote static key.
    pub to: PublicKey,
    /// Which way; the session's own where there is none given. To send a frame on a path moves nothing else there.
    pub path: Option<Path>,
    /// What.
    pub frame: Frame,
}
