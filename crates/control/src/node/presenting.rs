//! Stock WireGuard peers: members that have no Tombolo, and so a tunnel with one node only, which presents them (control
//! rule 20). That node renews their memberships, brings their packets on, and shows them to whom they talk with;
//! everybody else sends what is for them to that node.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now};

use super::event::{EngineChange, Output, Save, SavedPeer};
use super::peer::Peer;
use super::{Call, Node};
use crate::NodeId;
use crate::document::{DocumentError, Membership, Roles, Verified};
use crate::frame::{Frame, RenewRefusal};
use crate::verifier::Refusal;

/// Members that one stock WireGuard peer is shown to at the same time.
const TALKS_WITH: usize = 1024;
/// Between two attempts to renew.
const RETRY: Duration = Duration::from_secs(120);
/// After a restart nobody knows when the last renewal was.
const FIRST_RENEWAL: Duration = Duration::from_secs(60);

/// Whom this node presents.
#[derive(Debug, Default)]
pub(super) struct Presenting {
    attached: HashMap<PublicKey, Attached>,
    /// Something was shown that lacks a document: it is to be asked for again once that is there.
    incomplete: bool,
}

#[derive(Debug)]
struct Attached {
    node: NodeId,
    serial: u64,
    membership: Vec<u8>,
    next_renewal: Instant,
    talks_with: HashSet<PublicKey>,
}

/// Whether what is lacking may still come.
fn is_early(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::NeedsNetwork(_) | Refusal::NoTrust | Refusal::Document(DocumentError::UnknownIssuer(_))
    )
}

impl Node {
    fn presents(&self, member: &Membership) -> bool {
        self.own.as_ref().is_some_and(|own| member.presenter == Some(own.node))
    }

    /// The membership of a stock WireGuard peer was taken.
    pub(super) fn take_presented(&mut self, member: &Verified<Membership>, call: &mut Call<'_>) {
        let Some(presenter) = member.presenter else { return };
        self.list_member(member, call);
        // Who has the register needs no other memory.
        if self.lighthouse.is_none() {
            let membership = member.encoded().to_vec();
            let saved = SavedPeer { membership, endpoint: None };
            self.outbox.push_back(Output::Save(Save::Peer(saved)));
        }
        if self.presents(member) {
            self.attach(member, call);
        } else if let Some(key) = self.verifier.member(&presenter).map(|presenter| presenter.key)
            && self.peers.get(&key).is_some_and(|peer| peer.installed)
        {
            self.install_peer(&key, call);
        }
    }

    fn attach(&mut self, member: &Verified<Membership>, call: &mut Call<'_>) {
        let (key, now) = (member.key, call.now.boot);
        let known = self.presenting.attached.get_mut(&key);
        if known.as_ref().is_some_and(|known| known.serial >= member.serial) {
            return;
        }
        if known.is_none() && self.presenting.attached.len() >= self.options.peers {
            self.dropped += 1;
            return;
        }
        let every = self.options.renewal.min(member.lifetime() / 3);
        let jitter = Duration::from_secs(call.below((every.as_secs() / 6).max(1)));
        let fresh = Attached {
            node: member.node,
            serial: member.serial,
            membership: member.encoded().to_vec(),
            next_renewal: now + FIRST_RENEWAL.min(every),
            talks_with: HashSet::new(),
        };
        match self.presenting.attached.get_mut(&key) {
            Some(known) => {
                let talks_with = std::mem::take(&mut known.talks_with);
                *known = Attached { next_renewal: now + every.saturating_sub(jitter), talks_with, ..fresh };
            }
            None => drop(self.presenting.attached.insert(key, fresh)),
        }
        let networks = member.addresses.iter().map(|address| (*address).into()).collect();
        self.engine(EngineChange::Attach { key, name: member.name.clone(), networks });
        self.show_attached(&key);
    }

    /// Shows a stock WireGuard peer to lighthouses, and to whom it talks with.
    fn show_attached(&mut self, key: &PublicKey) {
        let Some(attached) = self.presenting.attached.get(key) else { return };
        let talking = attached.talks_with.iter().copied();
        let mut to: Vec<PublicKey> = self.lighthouses().chain(talking).collect();
        to.sort_unstable();
        to.dedup();
        to.retain(|key| self.peers.get(key).is_some_and(Peer::is_verified));
        let frame = Frame::Present(attached.membership.clone());
        for key in to {
            self.push(key, None, frame.clone());
        }
    }

    /// There is a session with a member: shows it the stock WireGuard peers that concern it, and asks an authority for
    /// those that we are to present.
    pub(super) fn present_to(&mut self, key: PublicKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let (lighthouse, authority) = (peer.has_role(Roles::LIGHTHOUSE), peer.has_role(Roles::AUTHORITY));
        let attached = self.presenting.attached.values();
        let concerned = attached.filter(|attached| lighthouse || attached.talks_with.contains(&key));
        let frames: Vec<Frame> =
            concerned.map(|attached| Frame::Present(attached.membership.clone())).collect();
        for frame in frames {
            self.push(key, None, frame);
        }
        if authority && self.may_present() {
            self.push(key, None, Frame::AskPresented);
        }
    }

    fn may_present(&self) -> bool {
        let roles = self.own.as_ref().map_or(Roles::NONE, |own| own.roles);
        roles.contains(Roles::GATEWAY) || roles.contains(Roles::LIGHTHOUSE)
    }

    /// Packets of a stock WireGuard peer go to a member: without its membership they would be nobody's there.
    pub(super) fn handle_forwarded(&mut self, source: &PublicKey, destination: PublicKey) {
        let Some(attached) = self.presenting.attached.get_mut(source) else { return };
        if attached.talks_with.len() < TALKS_WITH {
            attached.talks_with.insert(destination);
        }
        let frame = Frame::Present(attached.membership.clone());
        if self.peers.get(&destination).is_some_and(Peer::is_verified) {
            self.push(destination, None, frame);
        }
    }

    /// The authority says whom we present, or a node says whom it presents.
    pub(super) fn handle_present(&mut self, from: PublicKey, bytes: &[u8], call: &mut Call<'_>) {
        let accepted = match self.verifier.accept_told(bytes, call.times) {
            Ok(accepted) => accepted,
            Err(refusal) if is_early(&refusal) => {
                self.presenting.incomplete = true;
                self.send_versions(from, call);
                return;
            }
            Err(_) => {
                self.dropped += 1;
                return;
            }
        };
        if let Some(replaced) = accepted.replaced {
            self.let_go(replaced);
        }
        let member = accepted.membership;
        let by_presenter = member
            .presenter
            .and_then(|presenter| self.verifier.member(&presenter))
            .is_some_and(|presenter| presenter.key == from);
        let by_authority = self.peers.get(&from).is_some_and(|peer| peer.has_role(Roles::AUTHORITY));
        if by_presenter || (by_authority && self.presents(&member)) {
            self.take_presented(&member, call);
        } else {
            self.dropped += 1;
        }
    }

    /// What the authority says to the renewal of a stock WireGuard peer's membership.
    pub(super) fn handle_presented_renewal(
        &mut self,
        node: NodeId,
        outcome: Result<Vec<u8>, RenewRefusal>,
        call: &mut Call<'_>,
    ) {
        match outcome {
            Ok(membership) => match self.verifier.accept_told(&membership, call.times) {
                Ok(accepted) if accepted.membership.node == node => {
                    self.take_presented(&accepted.membership, call);
                }
                Err(refusal) if is_early(&refusal) => self.presenting.incomplete = true,
                _ => self.dropped += 1,
            },
            Err(RenewRefusal::Revoked | RenewRefusal::NotPresented) => {
                let gone = self.presenting.attached.iter().find(|(_, attached)| attached.node == node);
                if let Some(key) = gone.map(|(key, _)| *key) {
                    self.let_go(key);
                }
            }
            Err(_) => {}
        }
    }

    /// Renews in time, and lets go who is no member any more.
    pub(super) fn tend_presented(&mut self, call: &mut Call<'_>) {
        let held = |node: &NodeId| self.verifier.member(node).is_some_and(|member| self.presents(member));
        let valid = |attached: &Attached| {
            held(&attached.node)
                && self
                    .verifier
                    .member(&attached.node)
                    .is_some_and(|member| self.verifier.holds(member, call.times))
        };
        let gone = self.presenting.attached.iter().filter(|(_, attached)| !valid(attached));
        for key in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.let_go(key);
        }
        let now = call.now.boot;
        let mut due = Vec::new();
        for attached in self.presenting.attached.values_mut().filter(|held| held.next_renewal <= now) {
            attached.next_renewal = now + RETRY;
            due.push(attached.node);
        }
        for node in due {
            self.ask_authority(Frame::Renew(Some(node)));
        }
    }

    /// A document was taken: memberships that waited for it may come again, and who presents somebody that is gone
    /// presents him no more.
    pub(super) fn review_presented(&mut self, call: &mut Call<'_>) {
        if std::mem::take(&mut self.presenting.incomplete) && self.may_present() {
            self.ask_authority(Frame::AskPresented);
        }
        let presenters = self.peers.iter().filter(|(_, peer)| peer.presents && peer.installed);
        for key in presenters.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.install_peer(&key, call);
        }
    }

    /// A key is nobody's any more: of whom we present, or of a peer.
    pub(super) fn let_go(&mut self, key: PublicKey) {
        match self.presenting.attached.remove(&key) {
            Some(attached) => {
                if let Some(lighthouse) = &mut self.lighthouse {
                    lighthouse.forget(&key);
                }
                self.engine(EngineChange::Detach { key });
                self.outbox.push_back(Output::Save(Save::Forget(attached.node)));
            }
            None => self.cut(key),
        }
    }

    /// Takes a membership from the register of this machine: it is known here before its node shows it, and a stock WireGuard peer
    /// that this node presents is a peer.
    ///
    /// # Errors
    /// Says why the membership is not taken.
    pub fn know(&mut self, membership: &[u8], now: Now, rng: &mut dyn CryptoRng) -> Result<(), Refusal> {
        let mut call = self.call(now, rng);
        let accepted = self.verifier.accept_saved(membership, call.times)?;
        if accepted.membership.presenter.is_none() {
            self.list_member(&accepted.membership, &call);
        }
        self.take_presented(&accepted.membership, &mut call);
        self.collect(&mut call);
        Ok(())
    }

    /// Tells a member its own newest membership, for which it did not ask.
    pub fn tell(&mut self, node: &NodeId, now: Now) {
        let Some(member) = self.verifier.member(node).filter(|member| member.presenter.is_none()) else {
            return;
        };
        let (key, membership) = (member.key, member.encoded().to_vec());
        if key != self.key {
            self.tell_membership(key, membership, now);
        }
    }
}
