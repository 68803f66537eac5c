//! Comparing, pulling, serving and saving documents (control rules 2 and 11).

use std::time::Duration;

use tombolo_noise::PublicKey;

use super::event::{Output, Save, SavedDocuments};
use super::peer::Told;
use super::{Call, Node, Task};
use crate::document::DocumentError;
use crate::frame::{Block, Frame, PullBlock, Versions};
use crate::pull::{self, Assembly, Pull};
use crate::verifier::{InstallError, Installed};

/// Blocks that are asked for at once.
const WINDOW: usize = 8;
const ROUND: Duration = Duration::from_millis(400);
/// Rounds without a block before the next source.
const ROUNDS: u8 = 4;
const SOURCES: usize = 8;
/// When a newer document is told again to whoever has not said that it has it: all within the two seconds of control rule 16.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(350),
    Duration::from_millis(450),
    Duration::from_millis(550),
];
/// So often a peer that tells us again what we have is answered.
const ANSWERS: u8 = 3;

/// The one pull that is under way.
#[derive(Debug)]
pub(super) struct Pulling {
    assembly: Assembly,
    head: Vec<u8>,
    sources: Vec<PublicKey>,
    idle: u8,
    awaited: usize,
}

impl Node {
    /// What we have; none before the trust document.
    pub(super) fn versions(&mut self) -> Option<Versions> {
        let order = self.next_order();
        let trust = self.verifier.trust()?;
        let head = self.head.clone();
        Some(Versions { order, trust_epoch: trust.epoch, trust_hash: trust.hash(), head })
    }

    pub(super) fn send_versions(&mut self, to: PublicKey, call: &Call<'_>) {
        let now = call.now.boot;
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let recent = |at| now.saturating_duration_since(at) < Duration::from_millis(100);
        if peer.last_versions.is_some_and(recent) {
            return;
        }
        peer.last_versions = Some(now);
        self.tell_versions(to);
    }

    pub(super) fn handle_versions(&mut self, from: PublicKey, versions: &Versions, call: &mut Call<'_>) {
        let ours = self.verifier.trust().map_or(0, |trust| trust.epoch);
        if versions.trust_epoch > ours {
            self.pull_trust(from, call);
            return;
        }
        let Some(head) = &versions.head else {
            if self.head.is_some() {
                self.send_versions(from, call);
            }
            return;
        };
        if self.head.as_ref() == Some(head) && self.verifier.network().is_some() {
            self.note_same(from);
            return;
        }
        match self.verifier.compare(head) {
            Ok(wanted) => {
                if wanted.trust.is_some() {
                    self.pull_trust(from, call);
                }
                if let Some(pull) = wanted.network {
                    self.begin_pull(pull, head, from, call);
                } else if self.head.is_none() && !wanted.peer_is_behind && wanted.trust.is_none() {
                    self.head = Some(head.clone());
                }
                if wanted.peer_is_behind {
                    self.send_versions(from, call);
                }
            }
            Err(InstallError::NoTrust | InstallError::Document(DocumentError::UnknownIssuer(_))) => {
                self.pull_trust(from, call);
            }
            Err(_) => self.dropped += 1,
        }
    }

    /// A peer has the document that we have. Who says so twice has not heard that we have it.
    fn note_same(&mut self, from: PublicKey) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.told.heard = peer.told.heard.saturating_add(1);
        // Two whose answers cross must not answer each other for ever.
        if peer.told.heard > 1 && peer.told.answered < ANSWERS {
            peer.told.answered += 1;
            self.tell_versions(from);
        }
    }

    fn tell_versions(&mut self, to: PublicKey) {
        if let Some(versions) = self.versions() {
            self.push(to, None, Frame::Versions(versions));
        }
    }

    /// Tells all sessions of the newest document, where they have not said that they have it.
    fn announce(&mut self, call: &Call<'_>) {
        let unaware = |peer: &super::Peer| peer.is_verified() && peer.told.heard == 0;
        let others: Vec<PublicKey> =
            self.peers.iter().filter(|(_, peer)| unaware(peer)).map(|(key, _)| *key).collect();
        let again = AGAIN.get(self.announced).filter(|_| !others.is_empty());
        match again {
            Some(wait) => self.deadlines.set(Task::Announce, call.now.boot + *wait),
            None => self.deadlines.clear(&Task::Announce),
        }
        self.announced += 1;
        for key in others {
            self.tell_versions(key);
        }
    }

    pub(super) fn tick_announce(&mut self, call: &Call<'_>) {
        if self.head.is_some() {
            self.announce(call);
        }
    }

    pub(super) fn pull_trust(&mut self, from: PublicKey, call: &Call<'_>) {
        let now = call.now.boot;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let recent = |at| now.saturating_duration_since(at) < Duration::from_millis(200);
        if !peer.last_pull.is_some_and(recent) {
            peer.last_pull = Some(now);
            self.push(from, None, Frame::PullTrust);
        }
    }

    /// The trust document, and at once what else there is.
    pub(super) fn answer_trust(&mut self, from: PublicKey) {
        let Some(trust) = self.verifier.trust() else { return };
        let frame = Frame::Trust(trust.encoded().to_vec());
        self.push(from, None, frame);
        self.tell_versions(from);
    }

    pub(super) fn answer_block(&mut self, from: PublicKey, request: PullBlock) {
        let document = self.verifier.network().filter(|network| network.hash() == request.hash);
        if let Some(block) = document.and_then(|document| pull::block(document.encoded(), request)) {
            self.push(from, None, Frame::Block(block));
        }
    }

    /// Whoever sends it: it is signed by the root key, or refused.
    pub(super) fn handle_trust(&mut self, from: PublicKey, bytes: &[u8], call: &mut Call<'_>) {
        match self.verifier.install_trust(bytes) {
            Ok(Installed::Newer { dropped }) => {
                self.head = None;
                self.pulling = None;
                self.took_document(&dropped, from, call);
                self.send_versions(from, call);
            }
            Ok(Installed::Same) => {}
            Err(_) => self.dropped += 1,
        }
    }

    fn begin_pull(&mut self, pull: Pull, head: &[u8], from: PublicKey, call: &mut Call<'_>) {
        if let Some(pulling) = &mut self.pulling
            && pulling.assembly.pull() == pull
        {
            if pulling.sources.len() < SOURCES && !pulling.sources.contains(&from) {
                pulling.sources.push(from);
            }
            return;
        }
        self.pulling = Some(Pulling {
            assembly: Assembly::new(pull),
            head: head.to_vec(),
            sources: vec![from],
            idle: 0,
            awaited: 0,
        });
        self.ask_blocks(call);
    }

    fn ask_blocks(&mut self, call: &Call<'_>) {
        let Some(pulling) = &mut self.pulling else { return };
        let Some(&source) = pulling.sources.first() else {
            self.pulling = None;
            return;
        };
        let requests: Vec<PullBlock> = pulling.assembly.missing().take(WINDOW).collect();
        pulling.awaited = requests.len();
        for request in requests {
            self.push(source, None, Frame::PullBlock(request));
        }
        self.deadlines.set(Task::Pull, call.now.boot + ROUND);
    }

    pub(super) fn tick_pull(&mut self, call: &mut Call<'_>) {
        let Some(pulling) = &mut self.pulling else { return };
        pulling.idle += 1;
        if pulling.idle > ROUNDS {
            pulling.idle = 0;
            pulling.sources.remove(0);
        }
        self.ask_blocks(call);
    }

    pub(super) fn handle_block(&mut self, from: PublicKey, block: &Block, call: &mut Call<'_>) {
        let Some(pulling) = self.pulling.as_mut().filter(|pulling| pulling.sources.contains(&from)) else {
            return;
        };
        pulling.idle = 0;
        pulling.awaited = pulling.awaited.saturating_sub(1);
        match pulling.assembly.insert(block) {
            Ok(None) if pulling.awaited == 0 => self.ask_blocks(call),
            Ok(None) => {}
            Ok(Some(bytes)) => {
                let Some(pulling) = self.pulling.take() else { return };
                self.deadlines.clear(&Task::Pull);
                match self.verifier.install_network(&bytes, call.times) {
                    Ok(Installed::Newer { dropped }) => {
                        self.head = Some(pulling.head);
                        self.took_document(&dropped, from, call);
                    }
                    Ok(Installed::Same) => {}
                    Err(_) => self.dropped += 1,
                }
            }
            Err(pull::PullError::WrongHash) => {
                // One of its blocks was wrong: another source, or none.
                pulling.sources.retain(|source| *source != from);
                self.ask_blocks(call);
            }
            Err(_) => self.dropped += 1,
        }
    }

    /// The authority of this machine has signed anew: takes the documents and tells everybody.
    ///
    /// # Errors
    /// Says which of them is not taken.
    pub fn install(
        &mut self,
        trust: &[u8],
        network: &[u8],
        head: &[u8],
        now: tombolo_noise::clock::Now,
        rng: &mut dyn rand_core::CryptoRng,
    ) -> Result<(), InstallError> {
        let mut call = self.call(now, rng);
        let mut dropped = Vec::new();
        for installed in
            [self.verifier.install_trust(trust)?, self.verifier.install_network(network, call.times)?]
        {
            if let Installed::Newer { dropped: keys } = installed {
                dropped.extend(keys);
            }
        }
        self.head = Some(head.to_vec());
        let own = self.key;
        self.took_document(&dropped, own, &mut call);
        self.collect(&mut call);
        Ok(())
    }

    /// A document was taken: cuts what it voids, saves it, passes it on.
    fn took_document(&mut self, dropped: &[PublicKey], from: PublicKey, call: &mut Call<'_>) {
        if let Some(issued) = self.verifier.newest_issue() {
            self.time.confirm(issued, call.now.boot);
            call.times = self.time.times(call.now);
        }
        let documents = SavedDocuments {
            pins: self.verifier.pins().clone(),
            floor: self.verifier.floor(),
            trust: self.verifier.trust().map(|trust| trust.encoded().to_vec()),
            network: self.verifier.network().map(|network| network.encoded().to_vec()),
            head: self.head.clone(),
        };
        self.outbox.push_back(Output::Save(Save::Documents(documents)));
        let own = self.key;
        for key in dropped.iter().filter(|key| **key != own) {
            self.let_go(*key);
        }
        self.review_presented(call);
        self.reverify(call);
        self.review_routes(call);
        self.tend_names(call);
        if self.head.is_some() {
            for peer in self.peers.values_mut() {
                peer.told = Told::default();
            }
            // Whom we have it from has it, and hears that it need not tell us again.
            if let Some(source) = self.peers.get_mut(&from) {
                source.told.heard = 1;
                self.tell_versions(from);
            }
            self.announced = 0;
            self.announce(call);
        }
        self.retry_membership(call);
        self.tend_servers(call);
    }

    /// Live sessions hold no longer than what authorises them (control rule 9).
    pub(super) fn reverify(&mut self, call: &Call<'_>) {
        let void: Vec<PublicKey> = self
            .peers
            .iter()
            .filter(|(key, peer)| peer.is_verified() && self.verifier.authorised(key, call.times).is_none())
            .map(|(key, _)| *key)
            .collect();
        for key in void {
            self.cut(key);
        }
    }

    pub(super) fn restore_documents(&mut self, saved: &SavedDocuments, call: &mut Call<'_>) {
        if let Some(trust) = &saved.trust {
            self.dropped += u64::from(self.verifier.install_trust(trust).is_err());
        }
        if let Some(network) = &saved.network {
            self.dropped += u64::from(self.verifier.install_network(network, call.times).is_err());
        }
        self.head = saved.head.clone().filter(|_| self.verifier.network().is_some());
        if let Some(issued) = self.verifier.newest_issue() {
            self.time.confirm(issued, call.now.boot);
            call.times = self.time.times(call.now);
        }
    }
}
