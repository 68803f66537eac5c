//! The authority: issues memberships, keeps the register, signs the network document.
//!
//! Sans-IO (control rule 23). Frames of identified sessions and requests of the local socket go in, frames and
//! [`Transaction`]s come out, and the results of those go in again: late, in any order, or never. Nothing is
//! answered before it is committed (control rule 21). The authority holds all of the register in memory; each
//! transaction says on which revisions it is founded, so that a store which others write to as well refuses what was
//! decided on old knowledge, and the decision is made anew.
//!
//! Two decisions about the same key of the register are never on their way together: the second waits. Decisions about
//! different keys are, which is what group commit lives by.
//!
//! ```
//! # use tombolo_control::authority::{Authority, Snapshot, Session, Outcome, Transaction, RegisterError};
//! # use tombolo_control::frame::Frame;
//! # use tombolo_control::SigningKey;
//! # use tombolo_noise::clock::Now;
//! # fn run(snapshot: Snapshot, issuer: SigningKey, now: Now, rng: &mut dyn rand_core::CryptoRng,
//! #        inbound: Vec<(Session, Frame)>, mut store: impl FnMut(Transaction) -> Outcome) -> Result<(), RegisterError> {
//! let mut authority = Authority::new(issuer, snapshot, now)?;
//! for (session, frame) in &inbound {
//!     authority.handle_frame(session, frame, now, rng); // and handle_request for the local socket
//! }
//! authority.handle_timeout(now, rng); // when poll_timeout says so
//! while let Some(transaction) = authority.poll_store() {
//!     let id = transaction.id;
//!     let outcome = store(transaction); // on the store's thread, in truth
//!     authority.handle_store(id, outcome, now, rng);
//! }
//! while let Some((session, frame)) = authority.poll_frame() { /* seal it into this session's tunnel */ }
//! while let Some(event) = authority.poll_event() { /* install documents, cut tunnels, raise alarms */ }
//! # Ok(())
//! # }
//! ```

mod admin;
pub mod audit;
mod clock;
mod due;
mod elsewhere;
mod genesis;
mod incidents;
mod issue;
mod jobs;
mod joining;
mod mirror;
mod nodes;
mod recovery;
mod register;
mod repeated;
mod transaction;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now, UnixTime};

use crate::document::{NetworkDocument, TrustDocument, Verified, Version};
use crate::frame::admin::AdminRequest;
use crate::frame::{Frame, JoinAnswer, JoinRefusal, TICKET_LEN};
use crate::verifier::CLOCK_SKEW;
use crate::{NodeId, SigningKey};

pub use admin::TOKEN_LIFETIME;
pub use genesis::{Genesis, GenesisError, Server};
use jobs::{Decision, Effect, InFlight, Job, Pending};
use mirror::Mirror;
pub use recovery::{Restoration, restore, without_backup};
pub use register::{Claim, Key, NodeRecord, Published, Record, RegisterError, Settings, TokenRecord};
use repeated::Asked;
pub use transaction::{Condition, Outcome, Snapshot, Stored, Transaction, TransactionId};

/// How often the network document is signed anew (control rule 2).
pub const PUBLISH_INTERVAL: Duration = Duration::from_secs(3600);

/// From a document's issue to its expiry: two misses, and it is stale.
pub const DOCUMENT_LIFETIME: Duration = Duration::from_secs(3 * 3600);

/// After a rotation the old key is revoked so much later (control rule 17).
pub const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// How long a rotation ticket is good.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(300);

/// Which session, or which connection of the local socket: chosen by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// The session that a frame came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where the answer goes.
    pub id: SessionId,
    /// The handshake's remote static key: who is asking (control rule 3).
    pub key: PublicKey,
    /// The handshake's hash, which a join proof covers.
    pub handshake_hash: [u8; 32],
    /// Whether a valid membership was shown over it: not a provisional session.
    pub authorised: bool,
}

/// Who asks for something that only administrators may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody at the local socket, whom the shell has let in by peer credentials.
    Local {
        /// Where the answer goes.
        id: SessionId,
        /// As the system calls them; stands in the audit log.
        who: String,
    },
    /// A member; to be in an admin group.
    Session(Session),
}

impl Caller {
    fn id(&self) -> SessionId {
        match self {
            Self::Local { id, .. } => *id,
            Self::Session(session) => session.id,
        }
    }
}

/// What the shell is to do or to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A new network document: to be installed into the server's own verifier, and told to all members.
    Published(Published),
    /// A new trust document, likewise.
    TrustInstalled(Vec<u8>),
    /// A node has a new membership.
    Issued {
        /// Which.
        node: NodeId,
        /// The membership, signed.
        membership: Vec<u8>,
        /// Whether the node did not ask for it, and is to be told.
        unasked: bool,
    },
    /// A token that was spent is tried by another key: it was stolen, or given to two machines (control rule 15).
    TokenReused {
        /// Short form of the token's public key.
        token: crate::KeyId,
        /// Who was the first to spend it.
        first_spender: NodeId,
        /// That node's key.
        first_key: PublicKey,
        /// Who tries it now.
        key: PublicKey,
    },
    /// After a restore: two nodes show memberships with the same name, address or key.
    AdoptionConflict {
        /// Who has it.
        holder: NodeId,
        /// Who claims it.
        claimant: NodeId,
        /// The claimant's key.
        key: PublicKey,
    },
    /// After a restore: a node has a newer network document, of this version. It is to be pulled from that session, and
    /// given to [`Authority::handle_document`].
    DocumentWanted {
        /// Who has it.
        session: SessionId,
        /// Its version.
        version: Version,
        /// What to pull.
        pull: crate::pull::Pull,
    },
    /// The network document could not be signed: the issuer has expired or lacks a right. Sign a new trust document
    /// with the root key.
    CannotSign(String),
}

/// A rotation ticket that was given out. Held in memory alone: after a restart another is asked for.
#[derive(Debug)]
struct OpenTicket {
    secret: [u8; TICKET_LEN],
    expires: UnixTime,
    /// Good once: for the key that showed it first.
    spent_by: Option<PublicKey>,
}

/// The state machine of the authority; see the module.
pub struct Authority {
    issuer: SigningKey,
    trust: Verified<TrustDocument>,
    document: Option<Verified<NetworkDocument>>,
    mirror: Mirror,
    audit: Option<audit::AuditHead>,
    next_id: u64,
    in_flight: HashMap<TransactionId, InFlight>,
    waiting: BTreeMap<Key, VecDeque<Pending>>,
    waiting_count: usize,
    to_store: VecDeque<TransactionId>,
    frames: VecDeque<(SessionId, Frame)>,
    events: VecDeque<Event>,
    publish_at: Instant,
    due_at: Instant,
    /// Of several servers one does what is due.
    writer: bool,
    tickets: HashMap<NodeId, OpenTicket>,
    seen: HashMap<NodeId, UnixTime>,
    /// After a restore: the greatest version that a node was heard to have.
    wanted: Option<Version>,
    started: UnixTime,
    clock: clock::SignedClock,
    incidents: incidents::Incidents,
    repeated: repeated::Repeated,
}

/// Whole seconds, which is what documents and the register have.
fn whole(time: UnixTime) -> UnixTime {
    UnixTime(Duration::from_secs(time.0.as_secs()))
}

/// `time` and so much more.
fn after(time: UnixTime, more: Duration) -> UnixTime {
    UnixTime(time.0.saturating_add(more))
}

impl Authority {
    /// An authority over what its store has. `issuer` signs; the trust document must name it, or nothing can be
    /// issued until one that does is installed.
    ///
    /// # Errors
    /// Says what of the register is missing or damaged.
    pub fn new(issuer: SigningKey, snapshot: Snapshot, now: Now) -> Result<Self, RegisterError> {
        let audit = snapshot.audit;
        let mirror = Mirror::load(snapshot)?;
        let Some(Record::Trust(trust)) = mirror.record(&Key::Trust) else {
            return Err(RegisterError::Missing("trust document"));
        };
        let settings = mirror.settings();
        let trust = TrustDocument::verify(trust, &settings.network, &[settings.root])?;
        let document = read_document(&mirror, &trust);
        let interval = if document.is_some() { PUBLISH_INTERVAL } else { Duration::ZERO };
        // What was signed an hour ago when the process ended is signed anew at once.
        let age = document.as_ref().map_or(Duration::ZERO, |held| now.wall.0.saturating_sub(held.issued.0));
        // Whoever restores a register says what time it is.
        let signed = document.as_ref().map_or(trust.issued, |held| held.issued);
        let clock = clock::SignedClock::start(signed.max(settings.recovering_until.unwrap_or_default()), now);
        Ok(Self {
            clock,
            started: whole(now.wall.min(after(signed, Self::clock_bound(settings)))),
            issuer,
            trust,
            document,
            mirror,
            audit,
            next_id: 1,
            in_flight: HashMap::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            to_store: VecDeque::new(),
            frames: VecDeque::new(),
            events: VecDeque::new(),
            publish_at: now.boot + interval.saturating_sub(age),
            due_at: now.boot + due::INTERVAL,
            writer: true,
            tickets: HashMap::new(),
            seen: HashMap::new(),
            wanted: None,
            incidents: incidents::Incidents::default(),
            repeated: repeated::Repeated::default(),
        })
    }

    /// The newest trust document.
    pub fn trust(&self) -> &Verified<TrustDocument> {
        &self.trust
    }

    /// By which key it signs; none while the trust document does not name it.
    pub fn issuer(&self) -> Option<crate::KeyId> {
        self.limits().map(|_| self.issuer.verifying_key().key_id())
    }

    /// The newest network document, if its issuer still is one.
    pub fn document(&self) -> Option<&Verified<NetworkDocument>> {
        self.document.as_ref()
    }

    /// The newest documents as they are handed out.
    pub fn published(&self) -> Option<&Published> {
        match self.mirror.record(&Key::Published) {
            Some(Record::Published(published)) => Some(published),
            _ => None,
        }
    }

    /// The nodes there are.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.mirror.nodes()
    }

    /// What holds in the network.
    pub fn settings(&self) -> &Settings {
        self.mirror.settings()
    }

    /// Notes that a member was heard: ephemeral nodes are gone a while after.
    pub fn note_seen(&mut self, key: &PublicKey, now: Now) {
        let time = self.time(now);
        if let Some(node) = self.mirror.node_of_key(*key) {
            self.seen.insert(node.node, time);
        }
    }

    /// Takes a frame that came over a session. Frames that are none of the authority's are let be.
    pub fn handle_frame(&mut self, session: &Session, frame: &Frame, now: Now, rng: &mut dyn CryptoRng) {
        let session = *session;
        match frame {
            Frame::JoinRequest(request) => {
                let network = self.mirror.settings().network;
                // Checked once, when it comes: who holds no token costs one signature and no more.
                if request.proof.verify(&request.token, &session.handshake_hash, &session.key, &network) {
                    self.run(Job::Join { session, request: request.clone() }, now, rng);
                } else {
                    self.answer_join(session, Err(JoinRefusal::UnknownToken), now);
                }
            }
            Frame::Renew(node) => self.run(Job::Renew { session, node: *node }, now, rng),
            Frame::AskTicket => self.give_ticket(session, now, rng),
            Frame::Rotate(ticket) => self.run(Job::Rotate { session, ticket: *ticket }, now, rng),
            Frame::Leave => self.run(Job::Leave { session }, now, rng),
            Frame::AskPresented => self.present(&session),
            Frame::AdminRequest(request) => {
                let asked = match request.operation.only_asks() {
                    true => Asked::First,
                    false => self.repeated.ask((session.key, request.id), now.boot),
                };
                match asked {
                    Asked::First => {
                        let job = Job::Admin { caller: Caller::Session(session), request: request.clone() };
                        self.run(job, now, rng);
                    }
                    Asked::UnderWay => {}
                    Asked::Done(answer) => self.frames.push_back((session.id, *answer)),
                }
            }
            Frame::Show(show) => self.handle_show(session, show, now, rng),
            _ => {}
        }
    }

    /// Takes a request of the local socket.
    pub fn handle_request(
        &mut self,
        caller: Caller,
        request: AdminRequest,
        now: Now,
        rng: &mut dyn CryptoRng,
    ) {
        self.run(Job::Admin { caller, request }, now, rng);
    }

    /// Takes a trust document that the root key has signed. It must name this authority's issuer key.
    ///
    /// # Errors
    /// Says why it is not taken.
    pub fn install_trust(
        &mut self,
        bytes: &[u8],
        now: Now,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), GenesisError> {
        self.check_trust(bytes)?;
        self.run(Job::Trust { bytes: bytes.to_vec() }, now, rng);
        Ok(())
    }

    /// The next frame, and over which session it goes.
    pub fn poll_frame(&mut self) -> Option<(SessionId, Frame)> {
        self.frames.pop_front()
    }

    /// The next thing that the shell is to do or to say.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Authority::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(if self.writer { self.publish_at.min(self.due_at) } else { self.due_at })
    }

    /// Signs the network document anew, revokes old keys, lets go who is gone.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        self.clock.follow(Self::clock_bound(self.mirror.settings()), now);
        if now.boot >= self.due_at {
            self.due_at = now.boot + due::INTERVAL;
            let time = self.time(now);
            self.tickets.retain(|_, ticket| ticket.expires > time);
            if self.writer {
                self.run(Job::Due, now, rng);
            }
        }
        if self.writer && now.boot >= self.publish_at {
            // Until it is committed, which sets the next time, it is tried again each minute.
            self.publish_at = now.boot + Duration::from_secs(60);
            self.run(Job::Publish, now, rng);
        }
    }

    /// The time: never behind what was signed, and never so far ahead that memberships would end by it (control rule 18).
    fn time(&self, now: Now) -> UnixTime {
        whole(self.wall(now))
    }

    fn wall(&self, now: Now) -> UnixTime {
        let issued = self.document.as_ref().map_or(self.trust.issued, |held| held.issued);
        self.clock.time(Self::clock_bound(self.mirror.settings()), now).max(issued)
    }

    /// A step of half a membership's life leaves everybody the time to renew.
    fn clock_bound(settings: &Settings) -> Duration {
        (settings.lifetime / 2).max(CLOCK_SKEW)
    }

    /// By how much the system's clock is ahead of the time that is signed, where it is not followed.
    pub fn clock_ahead(&self, now: Now) -> Option<Duration> {
        let trust = self.clock.trust(Self::clock_bound(self.mirror.settings()), now);
        (trust != clock::Trust::Followed).then(|| self.clock.ahead(now))
    }

    /// Whether the system's clock may have yet to be set, so that nothing is signed by it.
    fn is_clock_settling(&self, now: Now) -> bool {
        self.clock.trust(Self::clock_bound(self.mirror.settings()), now) == clock::Trust::Settling
    }

    fn commit(&mut self, transaction: Transaction, revision: u64, now: Now) {
        for (key, record) in transaction.writes {
            if key == Key::Published {
                self.publish_at = now.boot + PUBLISH_INTERVAL;
            }
            self.take(Stored { key, revision, record });
        }
    }

    /// Takes over a record, and what is derived from it.
    fn take(&mut self, stored: Stored) {
        let key = stored.key.clone();
        self.mirror.set(stored);
        if key == Key::Trust
            && let Some(Record::Trust(bytes)) = self.mirror.record(&key)
        {
            let settings = self.mirror.settings();
            let roots = [settings.root, self.trust.next_root];
            if let Ok(trust) = TrustDocument::verify(bytes, &settings.network, &roots) {
                self.trust = trust;
            }
        }
        if matches!(key, Key::Trust | Key::Published) {
            self.document = read_document(&self.mirror, &self.trust);
        }
    }

    fn answer_join(&mut self, session: Session, outcome: Result<Vec<u8>, JoinRefusal>, now: Now) {
        let answer = JoinAnswer { time: self.time(now), outcome };
        self.frames.push_back((session.id, Frame::JoinAnswer(answer)));
    }
}

fn read_document(mirror: &Mirror, trust: &Verified<TrustDocument>) -> Option<Verified<NetworkDocument>> {
    match mirror.record(&Key::Published) {
        Some(Record::Published(published)) => NetworkDocument::verify(&published.network, trust).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
