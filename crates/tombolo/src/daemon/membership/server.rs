//! The authority of this machine, and the thread that writes its register.

use std::collections::HashMap;
use std::path::Path;

use rand_chacha::ChaCha20Rng;
use tokio::sync::oneshot;
use tombolo_control::SigningKey;
use tombolo_control::authority::{Authority, Caller, Event, Outcome, Session, SessionId, TransactionId};
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::AdminRequest;
use tombolo_control::node::Node;
use tombolo_engine::now;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;
use tombolo_store::{Register, Writer};

use crate::cli::Failure;
use crate::control::Answer;
use crate::membership::to_hex;

/// Answers that are owed at most: whoever asked and is forgotten asks again.
const OWED_MAX: usize = 8192;

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
}

impl Server {
    pub(super) fn start(
        issuer: SigningKey,
        directory: &Path,
        results: impl Fn(TransactionId, Outcome) + Send + 'static,
    ) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Runtime(error.to_string());
        let register = Register::open(directory).map_err(|error| failed(&error))?;
        let snapshot = register.snapshot().map_err(|error| failed(&error))?;
        let authority = Authority::new(issuer, snapshot, now()).map_err(|error| failed(&error))?;
        let writer = Writer::start(register, results).map_err(|error| failed(&error))?;
        Ok(Self { authority, writer, owed: HashMap::new(), next: 1 })
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
        let id = self.owe(Target::Peer(from));
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

    pub(super) fn handle_store(&mut self, id: TransactionId, outcome: Outcome, random: &mut ChaCha20Rng) {
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
        while let Some((id, frame)) = self.authority.poll_frame() {
            worked = true;
            match self.owed.remove(&id) {
                Some(Target::Peer(key)) => node.send(key, frame),
                Some(Target::Local(reply)) => {
                    let answer = match frame.to_bytes() {
                        Ok(bytes) => Answer::Admin { frame: to_hex(&bytes) },
                        Err(error) => Answer::Error { message: error.to_string() },
                    };
                    // The client may have gone.
                    let _ = reply.send(answer);
                }
                None => {}
            }
        }
        for event in later {
            self.handle_event(event, node, random);
        }
        worked
    }

    fn handle_event(&mut self, event: Event, node: &mut Node, random: &mut ChaCha20Rng) {
        match event {
            Event::Issued { membership, .. } => {
                if let Err(error) = node.admit(&membership, now(), random) {
                    tracing::warn!("a membership that was just issued is not taken here: {error}");
                }
            }
            Event::Published(published) => {
                let trust = self.authority.trust().encoded().to_vec();
                let Some(head) = published.head else { return };
                if let Err(error) = node.install(&trust, &published.network, &head, now(), random) {
                    tracing::warn!("a network document that was just signed is not taken here: {error}");
                }
            }
            Event::TokenReused { token, first_spender, key, .. } => tracing::warn!(
                "the token {token} was tried by the key {key} after node {first_spender} had spent it: it was stolen, \
                 or given to two machines"
            ),
            Event::AdoptionConflict { holder, claimant } => {
                tracing::warn!("node {claimant} claims what node {holder} has");
            }
            Event::CannotSign(reason) => tracing::error!("the network document cannot be signed: {reason}"),
            // Trust documents come with the network document that is published in the same transaction.
            _ => {}
        }
    }
}
