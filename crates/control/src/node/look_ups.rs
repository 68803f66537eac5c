//! Asking lighthouses, when a packet wants to go where there is no tunnel (control rules 12 and 13).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use super::event::{EngineChange, NodeAlarm, Output};
use super::peer::Peer;
use super::{Call, Node, Task};
use crate::NodeId;
use crate::document::{DocumentError, Membership, Revocation, Roles, Verified};
use crate::frame::{Frame, Introduce, LookUp, LookUpAnswer, Target, is_possible_candidate};
use crate::verifier::Refusal;

/// As many as the data path asks for at once, which gives each inner source a share of them (control rule 12).
const AT_ONCE: usize = 256;
const LIGHTHOUSES: usize = 3;
/// When a look-up is sent again; after the last it has failed.
const TRIES: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_millis(1200),
    Duration::from_millis(2400),
];
/// How often it is asked where somebody is with whom packets are exchanged through a relay.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(20);
/// A negative answer lasts so long (control rule 12).
const NEGATIVE: Duration = Duration::from_secs(1);
const NEGATIVES: usize = 1024;

/// A lighthouse that lies is told of as often.
const TOLD: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
pub(super) struct LookUps {
    running: HashMap<u64, Running>,
    negative: HashMap<IpAddr, Instant>,
    /// Who has lied, of the lighthouses, and when that was told.
    liars: HashMap<PublicKey, Instant>,
}

#[derive(Debug)]
struct Running {
    /// Where packets wait; none where a name was asked for.
    address: Option<IpAddr>,
    target: Target,
    tries: usize,
    asked: Vec<PublicKey>,
    nobody: Vec<PublicKey>,
}

impl Node {
    /// Whose member an address leads to: its own, or that of a gateway.
    fn target_of(&self, address: IpAddr) -> Option<Target> {
        if self.overlay().any(|cidr| cidr.contains(&address)) {
            return Some(Target::Address(address));
        }
        let routes = self.verifier.network()?.routes.iter();
        let taken =
            routes.filter(|route| route.prefix.contains(&address) && self.admit_route(route.prefix).is_ok());
        let gateways = &taken.max_by_key(|route| route.prefix.prefix_len())?.gateways;
        gateways.first().map(|gateway| Target::Node(*gateway))
    }

    fn member_of(&self, target: &Target) -> Option<&Verified<Membership>> {
        match target {
            Target::Address(address) => self.verifier.member_at(*address),
            Target::Node(node) => self.verifier.member(node),
            Target::Name(name) => self.verifier.member_named(name),
        }
    }

    pub(super) fn handle_wanted(&mut self, address: IpAddr, call: &mut Call<'_>) {
        let Some(target) = self.target_of(address) else {
            self.engine(EngineChange::Drop { address });
            return;
        };
        self.want(target, Some(address), call);
    }

    /// Packets for `address` wait, if one is given, and are dropped where nobody is found.
    pub(super) fn want(&mut self, target: Target, address: Option<IpAddr>, call: &mut Call<'_>) {
        // Who presents it may have been replaced: then it has a newer membership, which somebody knows.
        let held = self.member_of(&target).filter(|member| self.verifier.holds(member, call.times));
        let known = held.filter(|member| !self.is_stranded(member));
        let presenter = known.and_then(|member| member.presenter);
        let known = known.map(|member| member.key);
        if known == Some(self.key) {
            return;
        }
        if let Some(presenter) = presenter {
            // Whoever presents it is the way to it (control rule 20); where that is we, it has to call. Nobody presents a
            // presenter.
            if self.verifier.member(&presenter).is_some_and(|presenter| presenter.presenter.is_some()) {
                self.drop_waiting(address);
            } else if self.own.as_ref().is_none_or(|own| own.node != presenter) {
                self.want(Target::Node(presenter), address, call);
            }
            return;
        }
        if let Some(key) = known {
            // From the cache: also with every server away.
            self.connect(key, &[], &[], call);
            if self.peers.get(&key).is_some_and(Peer::is_verified) {
                return;
            }
        }
        let now = call.now.boot;
        if known.is_none()
            && address
                .and_then(|address| self.look_ups.negative.get(&address))
                .is_some_and(|until| now < *until)
        {
            self.drop_waiting(address);
            return;
        }
        if self.look_ups.running.len() >= AT_ONCE {
            self.drop_waiting(address);
            return;
        }
        self.begin_look_up(target, address, call);
    }

    /// Asks where a peer may be reached that has no direct way now: it may have moved, and so may we, which it is told with the
    /// introduction.
    pub(super) fn look_up_again(&mut self, key: PublicKey, peer: &mut Peer, call: &mut Call<'_>) {
        let now = call.now.boot;
        let lately = |at: Instant| now.saturating_duration_since(at) < LOOK_UP_AGAIN;
        // Packets that wait for somebody come first.
        let busy = self.look_ups.running.len() >= AT_ONCE / 2;
        if peer.server.is_some()
            || peer.looked_up.is_some_and(lately)
            || busy
            || self.lighthouses().next().is_none()
        {
            return;
        }
        let Some((member, _)) = self.verifier.authorised(&key, call.times) else { return };
        peer.looked_up = Some(now);
        self.begin_look_up(Target::Node(member.node), None, call);
    }

    fn begin_look_up(&mut self, target: Target, address: Option<IpAddr>, call: &mut Call<'_>) {
        if self.look_ups.running.values().any(|running| running.target == target) {
            return;
        }
        let id = u64::from_le_bytes(call.nonce()[..8].try_into().unwrap_or_default());
        let running = Running { address, target, tries: 0, asked: Vec::new(), nobody: Vec::new() };
        self.look_ups.running.insert(id, running);
        self.tick_look_up(id, call);
    }

    /// Whether it is a stock WireGuard peer whose presenter is no member any more.
    fn is_stranded(&self, member: &Membership) -> bool {
        let network = self.verifier.network();
        let revoked =
            |node| network.is_some_and(|network| network.revocations.contains(&Revocation::Node(node)));
        member.presenter.is_some_and(revoked)
    }

    pub(super) fn tick_look_up(&mut self, id: u64, call: &mut Call<'_>) {
        let asked: Vec<PublicKey> = self.lighthouses().take(LIGHTHOUSES).collect();
        let Some(running) = self.look_ups.running.get_mut(&id) else { return };
        let Some(&wait) = TRIES.get(running.tries) else {
            self.close_look_up(id, call);
            return;
        };
        running.tries += 1;
        running.asked.clone_from(&asked);
        let target = running.target.clone();
        for lighthouse in asked {
            self.push(lighthouse, None, Frame::LookUp(LookUp { id, target: target.clone() }));
        }
        self.deadlines.set(Task::LookUp(id), call.now.boot + wait);
    }

    pub(super) fn lighthouses(&self) -> impl Iterator<Item = PublicKey> {
        let lighthouse = |peer: &Peer| peer.is_verified() && peer.has_role(Roles::LIGHTHOUSE);
        self.held_servers().filter(move |(_, peer)| lighthouse(peer)).map(|(key, _)| key)
    }

    /// Nobody was found. That displaces no membership that holds (control rule 12).
    fn close_look_up(&mut self, id: u64, call: &Call<'_>) {
        self.deadlines.clear(&Task::LookUp(id));
        let Some(running) = self.look_ups.running.remove(&id) else { return };
        let known = self.member_of(&running.target);
        if known.is_some_and(|member| self.verifier.holds(member, call.times) && !self.is_stranded(member)) {
            return;
        }
        let now = call.now.boot;
        if self.look_ups.negative.len() >= NEGATIVES {
            self.look_ups.negative.retain(|_, until| now < *until);
        }
        if let Some(address) = running.address.filter(|_| self.look_ups.negative.len() < NEGATIVES) {
            self.look_ups.negative.insert(address, now + NEGATIVE);
        }
        self.drop_waiting(running.address);
    }

    fn drop_waiting(&mut self, address: Option<IpAddr>) {
        if let Some(address) = address {
            self.engine(EngineChange::Drop { address });
        }
    }

    pub(super) fn handle_look_up_answer(
        &mut self,
        from: PublicKey,
        answer: LookUpAnswer,
        call: &mut Call<'_>,
    ) {
        let Some(running) = self.look_ups.running.get_mut(&answer.id) else {
            self.handle_late_answer(from, answer, call);
            return;
        };
        if !running.asked.contains(&from) {
            self.dropped += 1;
            return;
        }
        let Some(found) = answer.found else {
            self.note_nobody(answer.id, from, call);
            return;
        };
        let target = running.target.clone();
        let accepted = match self.verifier.accept_told(&found.membership, call.times) {
            Ok(accepted) => accepted,
            Err(
                Refusal::NeedsNetwork(_)
                | Refusal::NoTrust
                | Refusal::Document(DocumentError::UnknownIssuer(_)),
            ) => {
                // It has newer documents, and says so once it hears of ours; the next try finds them here.
                self.send_versions(from, call);
                return;
            }
            Err(refusal) => {
                if matches!(refusal, Refusal::Document(error) if error.is_made_up()) {
                    self.note_lie(from, call);
                }
                self.note_nobody(answer.id, from, call);
                return;
            }
        };
        if let Some(replaced) = accepted.replaced {
            self.cut(replaced);
        }
        let member = accepted.membership;
        let fits = match &target {
            Target::Address(address) => member.addresses.contains(address),
            Target::Node(node) => member.node == *node,
            Target::Name(name) => member.name == *name,
        };
        if !fits {
            self.note_lie(from, call);
        }
        if !fits || self.is_stranded(&member) {
            self.note_nobody(answer.id, from, call);
            return;
        }
        self.deadlines.clear(&Task::LookUp(answer.id));
        let running = self.look_ups.running.remove(&answer.id);
        if member.presenter.is_some() {
            self.take_presented(&member, call);
            self.want(target, running.and_then(|running| running.address), call);
            return;
        }
        self.connect(member.key, &found.candidates, &found.relays, call);
    }

    /// Another lighthouse has answered before: where the member is may still be what only this one knows, or says. It is no more than
    /// an introduction to somebody whom we call (control rule 13).
    fn handle_late_answer(&mut self, from: PublicKey, answer: LookUpAnswer, call: &mut Call<'_>) {
        let Some(found) = answer.found else { return };
        if !self.lighthouses().any(|key| key == from) || !self.introductions.take(from, call.now.boot) {
            return;
        }
        let Ok(accepted) = self.verifier.accept_told(&found.membership, call.times) else { return };
        if let Some(replaced) = accepted.replaced {
            self.cut(replaced);
        }
        let key = accepted.membership.key;
        let sought = self
            .peers
            .get(&key)
            .is_some_and(|peer| peer.server.is_none() && peer.current.is_none_or(|path| path.is_relayed()));
        if sought {
            self.connect(key, &found.candidates, &found.relays, call);
        }
    }

    fn note_lie(&mut self, lighthouse: PublicKey, call: &Call<'_>) {
        let now = call.now.boot;
        self.look_ups.liars.retain(|_, told| now.saturating_duration_since(*told) < TOLD);
        if self.look_ups.liars.insert(lighthouse, now).is_none() {
            self.outbox.push_back(Output::Alarm(NodeAlarm::FalseAnswer { lighthouse }));
        }
    }

    fn note_nobody(&mut self, id: u64, from: PublicKey, call: &Call<'_>) {
        let Some(running) = self.look_ups.running.get_mut(&id) else { return };
        if !running.nobody.contains(&from) {
            running.nobody.push(from);
        }
        if running.asked.iter().all(|asked| running.nobody.contains(asked)) {
            self.close_look_up(id, call);
        }
    }

    /// Somebody is about to call us: we call it at once, so that both ways are open. Only a member that we can verify
    /// is called, within budgets (control rule 13).
    pub(super) fn handle_introduce(&mut self, from: PublicKey, introduce: &Introduce, call: &mut Call<'_>) {
        if !self.introductions.take(from, call.now.boot) {
            return;
        }
        let Ok(accepted) = self.verifier.accept_told(&introduce.membership, call.times) else {
            self.send_versions(from, call);
            return;
        };
        if let Some(replaced) = accepted.replaced {
            self.cut(replaced);
        }
        let member = accepted.membership;
        let other = member.key != introduce.key || member.node != introduce.node;
        if other || member.key == self.key || member.presenter.is_some() {
            self.dropped += 1;
            return;
        }
        self.connect(member.key, &introduce.candidates, &[], call);
    }

    /// Makes a peer of a member, and a session with it where there is none.
    pub(super) fn connect(
        &mut self,
        key: PublicKey,
        candidates: &[SocketAddr],
        relays: &[NodeId],
        call: &mut Call<'_>,
    ) {
        if key == self.key || (!self.peers.contains_key(&key) && !self.make_room()) {
            return;
        }
        let possible: Vec<SocketAddr> =
            candidates.iter().copied().filter(|candidate| self.is_possible(*candidate)).collect();
        let now = call.now.boot;
        let peer = self.peers.entry(key).or_insert_with(|| Peer::new(now));
        peer.note_used(now);
        for address in possible {
            peer.add_candidate(address, false);
        }
        for relay in relays {
            if peer.relays.len() < 8 && !peer.relays.contains(relay) {
                peer.relays.push(*relay);
            }
        }
        let news = !candidates.is_empty() || !relays.is_empty();
        if peer.session.is_none() {
            self.install_peer(&key, call);
            self.begin_attempt(key, Duration::ZERO, call);
        } else if news
            && self.peers.get(&key).is_some_and(|peer| peer.current.is_none_or(|path| path.is_relayed()))
        {
            self.explore(key, call);
        } else if news {
            self.probe_soon(key, call);
        }
        self.reach_relays(key, call);
        self.schedule(key);
    }

    /// Whether something may be sent to what somebody else named.
    pub(super) fn is_possible(&self, candidate: SocketAddr) -> bool {
        let tunnelled: Vec<_> = self.tunnelled().collect();
        is_possible_candidate(candidate, tunnelled.iter().chain(&self.forbidden))
            && !self.local.contains(&candidate)
    }

    /// Makes room for one more peer: the one that was used least lately goes, unless it is a server.
    pub(super) fn make_room(&mut self) -> bool {
        if self.peers.len() < self.options.peers {
            return true;
        }
        let idle = self.peers.iter().filter(|(_, peer)| peer.server.is_none() && !peer.is_verified());
        let Some(key) = idle.min_by_key(|(_, peer)| peer.used).map(|(key, _)| *key) else { return false };
        self.cut(key);
        true
    }
}
