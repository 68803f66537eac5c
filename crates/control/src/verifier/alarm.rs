//! What somebody should look at.

use std::collections::VecDeque;
use std::net::IpAddr;

use tombolo_noise::PublicKey;

use crate::document::{DocumentError, Version};
use crate::{DocumentHash, NodeId, NodeName};

/// What one node id owns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owned {
    /// An overlay address.
    Address(IpAddr),
    /// A name.
    Name(NodeName),
    /// A static key.
    Key(PublicKey),
}

/// Something that happens by nobody's mistake but a taken or a broken key's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alarm {
    /// Two trust documents of one epoch.
    TrustFork {
        /// Their epoch.
        epoch: u64,
        /// Hash of the one held.
        held: DocumentHash,
        /// Hash of the other.
        other: DocumentHash,
    },
    /// Two network documents of one version.
    NetworkFork {
        /// Their version.
        version: Version,
        /// Hash of the one held.
        held: DocumentHash,
        /// Hash of the other.
        other: DocumentHash,
    },
    /// Two memberships of one node and serial.
    SerialFork {
        /// The node.
        node: NodeId,
        /// The serial.
        serial: u64,
    },
    /// A membership claims what another node owns (control rule 4). The owner held is kept.
    OwnerConflict {
        /// What is claimed.
        owned: Owned,
        /// Who has it.
        holder: NodeId,
        /// Who claims it.
        claimant: NodeId,
    },
    /// The network document names other prefixes or another domain than were pinned at the join (control rule
    /// 5). The pinned ones hold.
    OverlayChanged {
        /// The document's version.
        version: Version,
    },
    /// A document is well signed and says something that this version does not know and may not pass over (control
    /// rule 6). The one held stays; only a newer version of the program takes it.
    NotUnderstood {
        /// Which.
        document: DocumentKind,
        /// What is not known.
        error: DocumentError,
    },
}

/// Which of the signed documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocumentKind {
    /// The trust document.
    Trust,
    /// The network document, or its head.
    Network,
    /// A membership.
    Membership,
}

/// The alarms that nobody has taken yet: a bounded number, none twice.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    waiting: VecDeque<Alarm>,
}

impl Alarms {
    const MAX: usize = 64;

    pub(super) fn raise(&mut self, alarm: Alarm) {
        if self.waiting.len() < Self::MAX && !self.waiting.contains(&alarm) {
            self.waiting.push_back(alarm);
        }
    }

    pub(super) fn poll(&mut self) -> Option<Alarm> {
        self.waiting.pop_front()
    }
}
