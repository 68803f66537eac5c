//! What one node believes: the state behind every decision about documents and members.
//!
//! It never goes back in version, keeps the owner it has (control rule 4), and drops what a newer document voids.
//! Documents come in as bytes; what was dropped by them comes out, so that live tunnels can be cut.

mod alarm;
mod documents;
mod members;
mod memberships;
mod routes;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use crate::document::{
    DocumentError, Membership, NetworkDocument, TrustDocument, Validity, Verified, Version,
};
use crate::{DocumentHash, Domain, Fingerprint, NetworkId, NodeId, NodeName};

use alarm::Alarms;
pub use alarm::{Alarm, DocumentKind, Owned};
pub use documents::{InstallError, Installed, Wanted};
use members::Members;
use memberships::validity;
pub use memberships::{Accepted, Refusal};
pub use routes::{RouteRefusal, admit_prefix, admit_route};
pub use time::{CLOCK_SKEW, ClockFault, NetworkTime, Times};

/// What is pinned: changed by nobody from afar (control rule 5), but for the root key, which names its own heir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Which network.
    pub network: NetworkId,
    /// The root key.
    pub root: Fingerprint,
    /// The overlay; none until the first network document, which pins it.
    pub overlay: Option<Overlay>,
}

/// The overlay's prefixes and domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Addresses of members lie in one of these.
    pub cidrs: BTreeSet<IpNet>,
    /// The domain of their names.
    pub domain: Domain,
}

/// What one node believes.
#[derive(Debug)]
pub struct Verifier {
    pins: Pins,
    trust: Option<Verified<TrustDocument>>,
    network: Option<Verified<NetworkDocument>>,
    /// The greatest version ever held, also when its issuer is dead since.
    floor: Option<(Version, DocumentHash)>,
    members: Members,
    /// Newer than what is held, and not taken.
    not_understood: BTreeMap<DocumentKind, NotUnderstood>,
    alarms: Alarms,
}

/// A document that only a newer version of the program takes.
#[derive(Debug)]
struct NotUnderstood {
    error: DocumentError,
    hash: DocumentHash,
}

impl Verifier {
    /// A node with these pins. `floor` is what [`Verifier::floor`] gave before a restart.
    pub fn new(pins: Pins, floor: Option<(Version, DocumentHash)>) -> Self {
        Self {
            pins,
            trust: None,
            network: None,
            floor,
            members: Members::default(),
            not_understood: BTreeMap::new(),
            alarms: Alarms::default(),
        }
    }

    /// What is pinned. To be saved when a document was taken, in one with it: a new root key is of no use with an
    /// old document, nor the other way.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Greatest version of a network document ever held, and its hash. To be saved when a document was taken.
    pub fn floor(&self) -> Option<(Version, DocumentHash)> {
        self.floor
    }

    /// The newest trust document.
    pub fn trust(&self) -> Option<&Verified<TrustDocument>> {
        self.trust.as_ref()
    }

    /// The newest network document, unless its issuer is dead.
    pub fn network(&self) -> Option<&Verified<NetworkDocument>> {
        self.network.as_ref()
    }

    /// The newest issue time of what is held: it is at least that late (control rule 18).
    pub fn newest_issue(&self) -> Option<UnixTime> {
        let trust = self.trust.as_ref().map(|document| document.issued);
        trust.max(self.network.as_ref().map(|document| document.issued))
    }

    /// Whether the network document is older than it should be: somebody withholds it, or no authority is up.
    pub fn is_stale(&self, times: Times) -> bool {
        self.network.as_ref().is_none_or(|document| document.is_stale(times.estimate))
    }

    /// The trust or network document that is newer than the one held and is not understood here, if there is one, and what is
    /// not known of it (control rule 6): it is taken after an upgrade.
    pub fn not_understood(&self) -> impl Iterator<Item = (DocumentKind, &DocumentError)> {
        self.not_understood.iter().map(|(kind, refused)| (*kind, &refused.error))
    }

    /// The next alarm that nobody has taken yet.
    pub fn poll_alarm(&mut self) -> Option<Alarm> {
        self.alarms.poll()
    }

    /// The membership that authorises a session with this remote static key, and how it stands: what a later
    /// handshake inherits (control rule 9). None once it has expired for good, and none for who is presented by another.
    pub fn authorised(&self, remote: &PublicKey, times: Times) -> Option<(&Verified<Membership>, Validity)> {
        let membership = self.members.by_key(remote).filter(|membership| membership.presenter.is_none())?;
        validity(membership, true, times).ok().map(|validity| (membership, validity))
    }

    /// Whether a membership that is held has not expired for good.
    pub fn holds(&self, membership: &Membership, times: Times) -> bool {
        validity(membership, true, times).is_ok()
    }

    /// The stock WireGuard peers that a node presents (control rule 20), among those that are known here.
    pub fn presented_by(&self, presenter: &NodeId) -> impl Iterator<Item = &Verified<Membership>> {
        self.members.presented_by(presenter)
    }

    /// The membership of a node.
    pub fn member(&self, node: &NodeId) -> Option<&Verified<Membership>> {
        self.members.get(node)
    }

    /// The membership of the node whose newest static key this is, however it stands.
    pub fn member_of_key(&self, key: &PublicKey) -> Option<&Verified<Membership>> {
        self.members.by_key(key)
    }

    /// The membership that owns an overlay address.
    pub fn member_at(&self, address: IpAddr) -> Option<&Verified<Membership>> {
        self.members.by_address(address)
    }

    /// The membership that owns a name.
    pub fn member_named(&self, name: &NodeName) -> Option<&Verified<Membership>> {
        self.members.by_name(name)
    }

    /// All memberships held, in no order. To be saved.
    pub fn members(&self) -> impl Iterator<Item = &Verified<Membership>> {
        self.members.iter()
    }

    /// Forgets memberships that have expired with grace and skew, and gives their keys.
    pub fn prune(&mut self, times: Times) -> Vec<PublicKey> {
        self.members.prune(times.confirmed)
    }
}

#[cfg(test)]
mod tests;
