//! What one node believes: the state behind every decision about documents and members.
//!
//! It never goes back in version, keeps the owner it has (control rule 4), and drops what a newer document voids.
//! Documents come in as bytes; what was dropped by them comes out, so that live tunnels can be cut.

mod alarm;
mod members;
mod routes;
mod time;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use crate::document::{
    DocumentError, Head, Membership, NetworkDocument, TrustDocument, Validity, Verified, Version,
};
use crate::frame::ShowRefusal;
use crate::pull::Pull;
use crate::{DocumentHash, Domain, Fingerprint, NetworkId, NodeId, NodeName};

use alarm::Alarms;
pub use alarm::{Alarm, Owned};
use members::{Conflict, Members};
pub use routes::{RouteRefusal, admit_route};
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

/// A document was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// It is newer than the one held.
    Newer {
        /// Keys whose memberships hold no more: their tunnels are to be cut.
        dropped: Vec<PublicKey>,
    },
    /// It is the one held.
    Same,
}

/// Why a document is not taken. The one held stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// It does not verify.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// There is no trust document yet to verify it by.
    #[error("there is no trust document yet")]
    NoTrust,
    /// Its issuer has expired: a key that leaks later signs nothing new with an old date.
    #[error("its issuer has expired")]
    IssuerExpired,
    /// It is older than what was held once.
    #[error("it is older than the one that is held")]
    Older,
    /// It has the version of the one held and another content: an alarm was raised.
    #[error("it has the version of the one that is held, and another content")]
    Fork,
}

/// Why a membership is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It does not verify.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// There is no trust document yet to verify it by.
    #[error("there is no trust document yet")]
    NoTrust,
    /// The network document that it was issued under, or a later one, is to be had first.
    #[error("it needs version {0} of the network document, or a later one")]
    NeedsNetwork(Version),
    /// It is another key's than the handshake's.
    #[error("it is of another key than the session's")]
    AnotherKey,
    /// It is that of a stock WireGuard peer, for whom another node speaks (control rule 20).
    #[error("it is of a stock WireGuard peer, who shows nothing by itself")]
    Presented,
    /// Node id, key or serial are revoked.
    #[error("it is revoked")]
    Revoked,
    /// It begins later: the clocks differ by this much more than they may.
    #[error("it begins {0:?} from now: compare the clocks of both machines")]
    NotYet(Duration),
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// The network document is stale, and says that no new peers are taken then.
    #[error("the network document is stale, and the network takes no new peers then")]
    Stale,
    /// An address lies outside of the pinned overlay.
    #[error("{0} lies outside of the overlay that was pinned at the join")]
    OutsideOverlay(IpAddr),
    /// A later membership of the node has another key.
    #[error("a later membership of the node is known, with serial {0}")]
    Superseded(u64),
    /// The serial of the membership held, with another content: an alarm was raised.
    #[error("it has the serial of the one that is held, and another content")]
    Fork,
    /// Another node owns what it claims: an alarm was raised.
    #[error("{owned:?} belongs to node {holder}")]
    Owned {
        /// What it claims.
        owned: Owned,
        /// Who has it.
        holder: NodeId,
    },
}

impl Refusal {
    /// What the peer is told: enough to mend it, and nothing that only members may know.
    pub fn told(&self) -> ShowRefusal {
        match self {
            Self::NoTrust
            | Self::NeedsNetwork(_)
            // The peer may have the newer trust document.
            | Self::Document(DocumentError::UnknownIssuer(_)) => ShowRefusal::Later,
            Self::Document(_) | Self::AnotherKey | Self::Presented | Self::OutsideOverlay(_) => {
                ShowRefusal::Invalid
            }
            Self::Revoked | Self::Superseded(_) => ShowRefusal::Revoked,
            Self::NotYet(_) => ShowRefusal::NotYet,
            Self::Expired => ShowRefusal::Expired,
            Self::Stale => ShowRefusal::Stale,
            Self::Owned { .. } | Self::Fork => ShowRefusal::Owned,
        }
    }
}

/// A membership was taken.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The one that holds: the one shown, or a later one of the same node and key.
    pub membership: Verified<Membership>,
    /// [`Validity::Valid`] or [`Validity::Grace`].
    pub validity: Validity,
    /// The node's former key, to be cut off.
    pub replaced: Option<PublicKey>,
}

/// What a peer's head says against what is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The peer has a newer trust document, of this epoch.
    pub trust: Option<u64>,
    /// The peer has a newer network document.
    pub network: Option<Pull>,
    /// The peer has an older document than we: it is to be told.
    pub peer_is_behind: bool,
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
    alarms: Alarms,
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

    /// The next alarm that nobody has taken yet.
    pub fn poll_alarm(&mut self) -> Option<Alarm> {
        self.alarms.poll()
    }

    /// How many alarms there were too many to keep.
    pub fn lost_alarms(&self) -> u64 {
        self.alarms.lost()
    }

    /// Takes a trust document that is signed by the pinned root key or by the heir that the one held names. The
    /// heir is pinned from then on.
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn install_trust(&mut self, bytes: &[u8]) -> Result<Installed, InstallError> {
        let heir = self.trust.as_ref().map(|held| held.next_root);
        let roots: Vec<Fingerprint> = [Some(self.pins.root), heir].into_iter().flatten().collect();
        let document = TrustDocument::verify(bytes, &self.pins.network, &roots)?;
        if let Some(held) = &self.trust {
            if held.hash() == document.hash() {
                return Ok(Installed::Same);
            }
            if document.epoch == held.epoch {
                let (held, other) = (held.hash(), document.hash());
                self.alarms.raise(Alarm::TrustFork { epoch: document.epoch, held, other });
                return Err(InstallError::Fork);
            }
            if document.epoch < held.epoch {
                return Err(InstallError::Older);
            }
        }
        self.pins.root = document.root.fingerprint();
        let former = self.trust.replace(document);
        Ok(Installed::Newer { dropped: self.apply_trust(former.as_deref()) })
    }

    /// An issuer that is not in the newest trust document is dead, with all that it signed (control rule 1).
    fn apply_trust(&mut self, former: Option<&TrustDocument>) -> Vec<PublicKey> {
        let Some(trust) = &self.trust else { return Vec::new() };
        let alive = |signer| {
            let issuer = trust.issuer(signer)?;
            // The same id must still mean the same key.
            let same =
                former.is_none_or(|former| former.issuer(signer).is_some_and(|old| old.key == issuer.key));
            same.then_some(&issuer.limits)
        };
        self.network = self.network.take().filter(|document| {
            alive(document.signer()).is_some_and(|limits| limits.check_network(document.expires).is_ok())
        });
        self.members.release_of_dead(|signer| alive(signer).is_some());
        self.members.retain(|membership| {
            alive(membership.signer()).is_some_and(|limits| limits.check_membership(membership).is_ok())
        })
    }

    /// Takes a network document that is newer than every one ever held. The first one pins the overlay.
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn install_network(&mut self, bytes: &[u8], times: Times) -> Result<Installed, InstallError> {
        let trust = self.trust.as_ref().ok_or(InstallError::NoTrust)?;
        let document = NetworkDocument::verify(bytes, trust)?;
        let version = document.version;
        // What was taken once comes back from the disk whatever the time is.
        let taken_before = self.floor == Some((version, document.hash()));
        let end =
            trust.issuer(document.signer()).map(|issuer| issuer.limits.expires.0.saturating_add(CLOCK_SKEW));
        if !taken_before && end.is_none_or(|end| times.confirmed.0 > end) {
            return Err(InstallError::IssuerExpired);
        }
        if let Some((floor, hash)) = self.floor {
            if version < floor {
                return Err(InstallError::Older);
            }
            if version == floor && !taken_before {
                self.alarms.raise(Alarm::NetworkFork { version, held: hash, other: document.hash() });
                return Err(InstallError::Fork);
            }
            if taken_before && self.network.is_some() {
                return Ok(Installed::Same);
            }
        }
        let overlay = Overlay { cidrs: document.cidrs.clone(), domain: document.domain.clone() };
        if *self.pins.overlay.get_or_insert_with(|| overlay.clone()) != overlay {
            self.alarms.raise(Alarm::OverlayChanged { version });
        }
        self.floor = Some((version, document.hash()));
        let dropped =
            self.members.retain(|member| !document.revokes(&member.node, &member.key, member.serial));
        self.network = Some(document);
        Ok(Installed::Newer { dropped })
    }

    /// Compares what a peer says to have with what is held (control rule 2). The same version with another
    /// hash raises an alarm.
    ///
    /// # Errors
    /// [`DocumentError::UnknownIssuer`] where the peer may have a newer trust document; else says what is wrong
    /// with the head.
    pub fn compare(&mut self, head: &[u8]) -> Result<Wanted, InstallError> {
        let trust = self.trust.as_ref().ok_or(InstallError::NoTrust)?;
        let head = Head::verify(head, trust)?;
        let mut wanted = Wanted::default();
        let (held, other) = (trust.hash(), head.trust_hash);
        match head.trust_epoch.cmp(&trust.epoch) {
            std::cmp::Ordering::Greater => wanted.trust = Some(head.trust_epoch),
            std::cmp::Ordering::Equal if held != other => {
                self.alarms.raise(Alarm::TrustFork { epoch: trust.epoch, held, other });
            }
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Less => wanted.peer_is_behind = true,
        }
        let pull = Some(Pull::of(&head));
        match self.floor.map(|(version, hash)| (head.network_version.cmp(&version), hash)) {
            None | Some((std::cmp::Ordering::Greater, _)) => wanted.network = pull,
            Some((std::cmp::Ordering::Less, _)) => wanted.peer_is_behind = true,
            Some((std::cmp::Ordering::Equal, held)) if held != head.network_hash => {
                let (version, other) = (head.network_version, head.network_hash);
                self.alarms.raise(Alarm::NetworkFork { version, held, other });
            }
            // Held once, and not any more: a restart left the version alone.
            Some(_) if self.network.is_none() => wanted.network = pull,
            Some(_) => {}
        }
        Ok(wanted)
    }

    /// Takes a membership that a peer shows over its own session: `remote` is the handshake's remote static key
    /// (control rule 3).
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn accept_shown(
        &mut self,
        bytes: &[u8],
        remote: &PublicKey,
        times: Times,
    ) -> Result<Accepted, Refusal> {
        self.accept(bytes, Some(remote), false, times)
    }

    /// Takes a membership that somebody else shows: in the answer to a look-up, say. It authorises nobody until its
    /// key has made a handshake.
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn accept_told(&mut self, bytes: &[u8], times: Times) -> Result<Accepted, Refusal> {
        self.accept(bytes, None, false, times)
    }

    /// Takes a membership from our own disk: the peer is known, and so has its grace (control rule 16).
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn accept_saved(&mut self, bytes: &[u8], times: Times) -> Result<Accepted, Refusal> {
        self.accept(bytes, None, true, times)
    }

    /// Looks at a membership that somebody else shows, as [`Verifier::accept_told`] does, and keeps nothing of it: for
    /// names that are only written down.
    ///
    /// # Errors
    /// Says why it would not be taken.
    pub fn check_told(&self, bytes: &[u8], times: Times) -> Result<Verified<Membership>, Refusal> {
        let trust = self.trust.as_ref().ok_or(Refusal::NoTrust)?;
        let membership = Membership::verify(bytes, trust)?;
        let network = self.network_for(&membership)?;
        let held = self.members.get(&membership.node).filter(|held| held.serial > membership.serial);
        if let Some(held) = held {
            return Err(Refusal::Superseded(held.serial));
        }
        validity(&membership, true, times)?;
        self.check_addresses(&membership)?;
        match self.members.conflict(&membership, network, times.confirmed) {
            Some(Conflict { owned, holder }) => Err(Refusal::Owned { owned, holder }),
            None => Ok(membership),
        }
    }

    /// The network document, if it is late enough to judge a membership, and does not revoke it.
    fn network_for(&self, membership: &Membership) -> Result<&Verified<NetworkDocument>, Refusal> {
        let needed = membership.network_version;
        let network = self.network.as_ref().filter(|network| network.version >= needed);
        let network = network.ok_or(Refusal::NeedsNetwork(needed))?;
        if network.revokes(&membership.node, &membership.key, membership.serial) {
            return Err(Refusal::Revoked);
        }
        Ok(network)
    }

    fn check_addresses(&self, membership: &Membership) -> Result<(), Refusal> {
        let overlay = self.pins.overlay.as_ref().map(|overlay| &overlay.cidrs);
        let inside =
            |address: &IpAddr| overlay.is_some_and(|cidrs| cidrs.iter().any(|cidr| cidr.contains(address)));
        match membership.addresses.iter().find(|address| !inside(address)) {
            Some(&address) => Err(Refusal::OutsideOverlay(address)),
            None => Ok(()),
        }
    }

    fn accept(
        &mut self,
        bytes: &[u8],
        remote: Option<&PublicKey>,
        saved: bool,
        times: Times,
    ) -> Result<Accepted, Refusal> {
        let trust = self.trust.as_ref().ok_or(Refusal::NoTrust)?;
        let membership = Membership::verify(bytes, trust)?;
        if remote.is_some_and(|remote| *remote != membership.key) {
            return Err(Refusal::AnotherKey);
        }
        if remote.is_some() && membership.presenter.is_some() {
            return Err(Refusal::Presented);
        }
        let network = self.network_for(&membership)?;
        let held = self.members.get(&membership.node);
        let known = saved || held.is_some_and(|held| held.key == membership.key);
        let validity = validity(&membership, known, times)?;
        if !known && network.refuse_when_stale && network.is_stale(times.estimate) {
            return Err(Refusal::Stale);
        }
        self.check_addresses(&membership)?;
        if let Some(held) = held {
            if held.serial == membership.serial && held.hash() != membership.hash() {
                let (node, serial) = (membership.node, membership.serial);
                self.alarms.raise(Alarm::SerialFork { node, serial });
                return Err(Refusal::Fork);
            }
            if held.serial >= membership.serial {
                if held.key != membership.key {
                    return Err(Refusal::Superseded(held.serial));
                }
                // The same machine with an older paper: what holds is the later one.
                let validity = self::validity(held, true, times)?;
                return Ok(Accepted { membership: held.clone(), validity, replaced: None });
            }
        }
        if let Some(conflict) = self.members.conflict(&membership, network, times.confirmed) {
            let (owned, holder) = (conflict.owned, conflict.holder);
            let claimant = membership.node;
            self.alarms.raise(Alarm::OwnerConflict { owned: owned.clone(), holder, claimant });
            return Err(Refusal::Owned { owned, holder });
        }
        let replaced = self.members.insert(membership.clone());
        Ok(Accepted { membership, validity, replaced })
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

/// How a membership stands. Who is new is admitted by the best guess of the time and without grace; who is known
/// is cut by what is confirmed (control rules 16 and 18).
fn validity(membership: &Membership, known: bool, times: Times) -> Result<Validity, Refusal> {
    let now = if known { times.confirmed } else { times.estimate };
    // Nothing begins too early for the later of the two times.
    if let Validity::NotYet(early) = membership.validity(times.estimate, CLOCK_SKEW) {
        return Err(Refusal::NotYet(early));
    }
    match membership.validity(now, CLOCK_SKEW) {
        Validity::Valid | Validity::NotYet(_) => Ok(Validity::Valid),
        Validity::Grace if known => Ok(Validity::Grace),
        Validity::Grace | Validity::Expired => Err(Refusal::Expired),
    }
}

#[cfg(test)]
mod tests;
