//! Taking trust and network documents: never an older one, and nothing stays that a newer one voids.

use std::cmp::Ordering;

use tombolo_noise::PublicKey;

use super::alarm::{Alarm, DocumentKind};
use super::{CLOCK_SKEW, NotUnderstood, Overlay, Times, Verifier};
use crate::document::{DocumentError, Head, NetworkDocument, TrustDocument, Verified};
use crate::pull::Pull;
use crate::{DocumentHash, Fingerprint};

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

impl Verifier {
    /// Takes a trust document that is signed by the pinned root key or by the heir that the one held names. The
    /// heir is pinned from then on.
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn install_trust(&mut self, bytes: &[u8]) -> Result<Installed, InstallError> {
        let heir = self.trust.as_ref().map(|held| held.next_root);
        let roots: Vec<Fingerprint> = [Some(self.pins.root), heir].into_iter().flatten().collect();
        let document = TrustDocument::verify(bytes, &self.pins.network, &roots);
        let document = self.understood(DocumentKind::Trust, bytes, document)?;
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
        self.not_understood.remove(&DocumentKind::Trust);
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
        let document = NetworkDocument::verify(bytes, self.trust.as_ref().ok_or(InstallError::NoTrust)?);
        let document = self.understood(DocumentKind::Network, bytes, document)?;
        let trust = self.trust.as_ref().ok_or(InstallError::NoTrust)?;
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
        self.not_understood.remove(&DocumentKind::Network);
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
        let verified = Head::verify(head, self.trust.as_ref().ok_or(InstallError::NoTrust)?);
        let head = self.understood(DocumentKind::Network, head, verified)?;
        let trust = self.trust.as_ref().ok_or(InstallError::NoTrust)?;
        let mut wanted = Wanted::default();
        let (held, other) = (trust.hash(), head.trust_hash);
        match head.trust_epoch.cmp(&trust.epoch) {
            Ordering::Greater => wanted.trust = Some(head.trust_epoch),
            Ordering::Equal if held != other => {
                self.alarms.raise(Alarm::TrustFork { epoch: trust.epoch, held, other });
            }
            Ordering::Equal => {}
            Ordering::Less => wanted.peer_is_behind = true,
        }
        // What was not understood once is not fetched again.
        let refused = self.not_understood.get(&DocumentKind::Network).map(|refused| refused.hash);
        let pull = Some(Pull::of(&head)).filter(|pull| refused != Some(pull.hash()));
        match self.floor.map(|(version, hash)| (head.network_version.cmp(&version), hash)) {
            None | Some((Ordering::Greater, _)) => wanted.network = pull,
            Some((Ordering::Less, _)) => wanted.peer_is_behind = true,
            Some((Ordering::Equal, held)) if held != head.network_hash => {
                let (version, other) = (head.network_version, head.network_hash);
                self.alarms.raise(Alarm::NetworkFork { version, held, other });
            }
            // Held once, and not any more: a restart left the version alone.
            Some(_) if self.network.is_none() => wanted.network = pull,
            Some(_) => {}
        }
        Ok(wanted)
    }

    /// Raises an alarm over a document that this version cannot understand, and remembers which it was until a newer one of
    /// its kind is taken (control rule 6). `bytes` are the document's, or of what tells of it.
    pub(super) fn understood<T>(
        &mut self,
        document: DocumentKind,
        bytes: &[u8],
        result: Result<Verified<T>, DocumentError>,
    ) -> Result<Verified<T>, DocumentError> {
        let Some(error) = result.as_ref().err().filter(|error| error.is_not_understood()) else {
            return result;
        };
        let refused = NotUnderstood { error: error.clone(), hash: DocumentHash::of(bytes) };
        let known = match document {
            // There is one for each node.
            DocumentKind::Membership => None,
            DocumentKind::Trust | DocumentKind::Network => self.not_understood.insert(document, refused),
        };
        if known.is_none_or(|known| known.error != *error) {
            self.alarms.raise(Alarm::NotUnderstood { document, error: error.clone() });
        }
        result
    }
}
