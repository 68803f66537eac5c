//! The authority of this machine, and the thread that writes its register.

use std::collections::HashMap;
use std::path::Path;

use rand_chacha::ChaCha20Rng;
use tokio::sync::oneshot;
use tombolo_control::authority::{Authority, Caller, Event, Outcome, Session, SessionId, TransactionId};
use tombolo_control::document::{self, NetworkDocument, Roles};
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::{AdminRequest, NetworkChange, Operation};
use tombolo_control::node::{Node, SavedDocuments};
use tombolo_control::{KeyId, NodeId, SigningKey};
use tombolo_engine::now;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;
use tombolo_store::{Register, Writer};

use super::alarms::Happened;
use crate::cli::{Failure, failed};
use crate::control::Answer;
use crate::membership::to_hex;

/// Answers that are owed at most: whoever asked and is forgotten asks again.
const OWED_MAX: usize = 8192;
/// Days before the end of the issuer key that somebody hears of it.
const ISSUER_WARNING: u64 = 60;

/// Where an answer goes.
enum Target {
    Peer(PublicKey),
    Local(oneshot::Sender<Answer>),
}

/// The authority and its store.
pub(super) struct Server {
    authority: Authority,
    writer: Writer,
    owed: HashMap<SessionId, Target>,
    next: u64,
    /// Why nothing can be written, as it was said last.
    failure: Option<String>,
    /// What happened that somebody should look at, the newest of each kind.
    happened: HashMap<&'static str, Happened>,
}

/// Who speaks for this machine itself.
const DAEMON: &str = "this server";

impl Server {
    pub(super) fn start(
        issuer: SigningKey,
        directory: &Path,
        results: impl Fn(TransactionId, Outcome) + Send + 'static,
    ) -> Result<Self, Failure> {
        let register = Register::open(directory).map_err(failed)?;
        let snapshot = register.snapshot().map_err(failed)?;
        let authority = Authority::new(issuer, snapshot, now()).map_err(failed)?;
        let writer = Writer::start(register, results).map_err(failed)?;
        let (owed, happened) = (HashMap::new(), HashMap::new());
        Ok(Self { authority, writer, owed, next: 1, failure: None, happened })
    }

    pub(super) fn stop(self) {
        drop(self.writer.stop());
    }

    /// The newest membership of each node there is.
    pub(super) fn memberships(&self) -> impl Iterator<Item = &[u8]> {
        self.authority.nodes().map(|node| node.membership.as_slice())
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.authority.poll_timeout()
    }

    pub(super) fn note_seen(&mut self, key: &PublicKey) {
        self.authority.note_seen(key, now());
    }

    fn owe(&mut self, target: Target) -> SessionId {
        if self.owed.len() >= OWED_MAX {
            self.owed.retain(|_, target| matches!(target, Target::Local(reply) if !reply.is_closed()));
        }
        let id = SessionId(self.next);
        self.next += 1;
        self.owed.insert(id, target);
        id
    }

    pub(super) fn handle_frame(
        &mut self,
        from: PublicKey,
        handshake_hash: [u8; 32],
        authorised: bool,
        frame: &Frame,
        random: &mut ChaCha20Rng,
    ) {
        // What a node shows is not answered.
        let id = if matches!(frame, Frame::Show(_)) { SessionId(0) } else { self.owe(Target::Peer(from)) };
        let session = Session { id, key: from, handshake_hash, authorised };
        self.authority.handle_frame(&session, frame, now(), random);
    }

    pub(super) fn handle_request(
        &mut self,
        request: AdminRequest,
        who: String,
        reply: oneshot::Sender<Answer>,
        random: &mut ChaCha20Rng,
    ) {
        let id = self.owe(Target::Local(reply));
        self.authority.handle_request(Caller::Local { id, who }, request, now(), random);
    }

    /// Members are told what this machine serves, where the file switches something else off than before.
    pub(super) fn settle_roles(&mut self, key: &PublicKey, served: Roles, random: &mut ChaCha20Rng) {
        let servers = &self.authority.settings().servers;
        let Some(own) = servers.iter().find(|server| server.key == *key).cloned() else { return };
        let Some(node) = self.authority.nodes().find(|node| node.key == *key) else { return };
        let named =
            [Roles::AUTHORITY, Roles::LIGHTHOUSE, Roles::RELAY].into_iter().fold(Roles::NONE, |all, role| {
                if node.roles.contains(role) && served.contains(role) { all | role } else { all }
            });
        if named != own.roles {
            tracing::info!("this server's roles are {named} from now on");
            let operation =
                Operation::NetworkSet(NetworkChange::AddServer(document::Server { roles: named, ..own }));
            let caller = Caller::Local { id: SessionId(0), who: DAEMON.to_owned() };
            self.authority.handle_request(caller, AdminRequest { id: 0, operation }, now(), random);
        }
    }

    /// A document was taken from a node: after a restore it says what the register has forgotten.
    pub(super) fn handle_documents(&mut self, documents: &SavedDocuments, random: &mut ChaCha20Rng) {
        if let Some(network) = documents.network.as_ref().filter(|_| self.authority.is_recovering(now()))
            && let Err(error) = self.authority.handle_document(network, now(), random)
        {
            tracing::debug!("a network document is of no use for the register: {error}");
        }
    }

    /// What somebody should look at.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.failure.iter().cloned().collect();
        let time = now();
        if let Some(ahead) = self.authority.clock_ahead(time) {
            warnings.push(format!(
                "this server's clock is {} days and {} hours ahead of what it has signed, and is not followed: set it right; if it is right, \
                 restart the daemon, which believes it after two minutes",
                ahead.as_secs() / 86_400,
                ahead.as_secs() / 3600 % 24
            ));
        }
        if self.authority.settings().recovering_until.is_some() && self.authority.is_recovering(time) {
            let until = self.authority.settings().recovering_until.unwrap_or_default();
            let left = until.0.saturating_sub(time.wall.0).as_secs();
            warnings.push(if left > 0 {
                format!("the register was restored: what nodes have is gathered for {left} s more, and nothing is issued")
            } else {
                "the register was restored, and a node has told of a newer document that has not come yet: nothing is \
                 issued before"
                    .to_owned()
            });
        }
        let (revocations, most) = (self.authority.revocations(time), NetworkDocument::REVOCATIONS_MAX);
        if revocations >= most / 10 * 9 {
            warnings.push(format!(
                "the network document has {revocations} of {most} revocations: keys are not changed until some are over, and the rest is for \
                 `tombolo node revoke`; shorter memberships (`tombolo network set --lifetime --grace`) end them sooner"
            ));
        }
        let trust = self.authority.trust();
        let expires =
            self.authority.issuer().and_then(|key| trust.issuer(key)).map(|issuer| issuer.limits.expires);
        match expires.map(|expires| expires.0.saturating_sub(time.wall.0).as_secs() / 86_400) {
            None => warnings.push(
                "the trust document does not name this server's issuer: nothing can be issued; run `tombolo server trust \
                 rotate-issuer`"
                    .to_owned(),
            ),
            Some(days) if days < ISSUER_WARNING => warnings.push(format!(
                "this server's issuer key is good for {days} days only: run `tombolo server trust rotate-issuer`"
            )),
            Some(_) => {}
        }
        warnings.extend(self.happened.values().filter_map(|happened| happened.shown(time.boot)));
        warnings
    }

    fn alarm(&mut self, kind: &'static str, text: String) {
        tracing::warn!("{text}");
        self.happened.insert(kind, Happened::now(text));
    }

    /// A node's name where the register has one.
    fn named(&self, node: &NodeId) -> String {
        let known = self.authority.nodes().find(|known| known.node == *node);
        known.map_or_else(|| node.to_string(), |known| known.name.to_string())
    }

    pub(super) fn handle_store(&mut self, id: TransactionId, outcome: Outcome, random: &mut ChaCha20Rng) {
        let failure = self.writer.failure();
        match &failure {
            Some(reason) if self.failure.as_ref() != Some(reason) => tracing::error!("{reason}"),
            None if self.failure.is_some() => tracing::info!("the register can be written again"),
            _ => {}
        }
        self.failure = failure;
        self.authority.handle_store(id, outcome, now(), random);
    }

    pub(super) fn handle_timeout(&mut self, random: &mut ChaCha20Rng) {
        let time = now();
        if self.authority.poll_timeout().is_some_and(|due| due <= time.boot) {
            self.authority.handle_timeout(time, random);
        }
    }

    /// Does one round of what the authority wants. `false`: there was nothing.
    pub(super) fn drive(&mut self, node: &mut Node, random: &mut ChaCha20Rng) -> bool {
        let mut worked = false;
        while let Some(transaction) = self.authority.poll_store() {
            worked = true;
            let id = transaction.id;
            if self.writer.submit(transaction).is_err() {
                self.authority.handle_store(id, Outcome::Failed, now(), random);
            }
        }
        // Who was let in has a tunnel of a member when it hears of it, for which the document that its membership builds
        // on is to be here; and who leaves hears of it before it is cut off.
        let mut events = Vec::from_iter(std::iter::from_fn(|| self.authority.poll_event()));
        worked |= !events.is_empty();
        let issued = events.iter().rposition(|event| matches!(event, Event::Issued { .. }));
        let later = events.split_off(issued.map_or(0, |last| last + 1));
        for event in events {
            self.handle_event(event, node, random);
        }
        let mut answered = Vec::new();
        while let Some((id, frame)) = self.authority.poll_frame() {
            worked = true;
            // There may be more than one for the same.
            if let Some(Target::Peer(key)) = self.owed.get(&id) {
                node.send(*key, frame);
                answered.push(id);
                continue;
            }
            if let Some(Target::Local(reply)) = self.owed.remove(&id) {
                let answer = match frame.to_bytes() {
                    Ok(bytes) => Answer::Admin { frame: to_hex(&bytes) },
                    Err(error) => Answer::Error { message: error.to_string() },
                };
                // The client may have gone.
                let _ = reply.send(answer);
            }
        }
        for id in answered {
            self.owed.remove(&id);
        }
        for event in later {
            self.handle_event(event, node, random);
        }
        worked
    }

    fn handle_event(&mut self, event: Event, node: &mut Node, random: &mut ChaCha20Rng) {
        match event {
            Event::Issued { node: id, membership, unasked } => match node.admit(&membership, now(), random) {
                Ok(()) if unasked => node.tell(&id, now()),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!("a membership that was just issued is not taken here: {error}");
                }
            },
            Event::Published(published) => {
                let trust = self.authority.trust().encoded().to_vec();
                let Some(head) = published.head else { return };
                if let Err(error) = node.install(&trust, &published.network, &head, now(), random) {
                    tracing::warn!("a network document that was just signed is not taken here: {error}");
                }
            }
            Event::TokenReused { token, first_spender, key, .. } => {
                let name = self.named(&first_spender);
                self.alarm("token", token_text(token, &name, key));
            }
            Event::AdoptionConflict { holder, claimant, key } => {
                let text = format!(
                    "node {claimant} (key {key}) claims a name, an address or a key that is {}'s, and is not taken into the \
                     restored register: it joins anew with a token, or one of the two is revoked",
                    self.named(&holder)
                );
                self.alarm("adoption", text);
            }
            Event::CannotSign(reason) => tracing::error!("the network document cannot be signed: {reason}"),
            // Trust documents come with the network document that is published in the same transaction.
            _ => {}
        }
    }
}

fn token_text(token: KeyId, first_spender: &str, key: PublicKey) -> String {
    format!(
        "the token {token} was tried by the key {key} after {first_spender} had spent it: it was stolen, or given to two machines. If \
         {first_spender} is not the machine that it was made for, `tombolo node revoke {first_spender}`; `tombolo audit` has the entry"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tried_twice_is_told_with_its_first_spender_and_the_mend_control_rule_15() {
        let text = token_text(KeyId::from_bytes([7; 8]), "db-1", PublicKey::from_bytes([9; 32]));
        assert!(text.starts_with("the token 0707070707070707 was tried by the key "), "{text}");
        assert!(
            text.contains("after db-1 had spent it") && text.contains("`tombolo node revoke db-1`"),
            "{text}"
        );
    }
}
