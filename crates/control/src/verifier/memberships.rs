//! Taking memberships: whose, by which documents, and at what time.

use std::net::IpAddr;
use std::time::Duration;

use tombolo_noise::PublicKey;

use super::alarm::{Alarm, DocumentKind, Owned};
use super::members::Conflict;
use super::{CLOCK_SKEW, Times, Verifier};
use crate::NodeId;
use crate::document::{DocumentError, Membership, NetworkDocument, Validity, Verified, Version};
use crate::frame::ShowRefusal;

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

impl Verifier {
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
        let membership = Membership::verify(bytes, self.trust.as_ref().ok_or(Refusal::NoTrust)?);
        let membership = self.understood(DocumentKind::Membership, bytes, membership)?;
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
}

/// How a membership stands. Who is new is admitted by the best guess of the time and without grace; who is known
/// is cut by what is confirmed (control rules 16 and 18).
pub(super) fn validity(membership: &Membership, known: bool, times: Times) -> Result<Validity, Refusal> {
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
