//! What is to be decided, from the asking to the commit.
//!
//! A job becomes a decision, a decision a transaction, and a transaction that is committed an answer. Where one of its
//! conditions did not hold, the job is decided anew; where another decision about one of its keys is on its way, it
//! waits for that.

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Now;

use super::mirror::Plan;
use super::register::Key;
use super::transaction::{Outcome, Transaction, TransactionId};
use super::{Authority, Caller, Event, Session, SessionId};
use crate::NodeId;
use crate::frame::admin::{AdminAnswer, AdminRequest, Reply};
use crate::frame::{AdminRefusal, Frame, JoinRefusal, JoinRequest, RenewAnswer, RenewRefusal, TICKET_LEN};

/// Most transactions on their way.
const IN_FLIGHT_MAX: usize = 1024;

/// Most decisions that wait for a transaction on its way.
const WAITING_MAX: usize = 4096;

/// A decision that so many others have overtaken is given up.
const ATTEMPTS_MAX: u32 = 16;

/// What leaves when a decision is committed.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Frame(SessionId, Box<Frame>),
    Event(Event),
}

/// Something to decide.
#[derive(Clone, Debug)]
pub(super) enum Job {
    Join { session: Session, request: JoinRequest },
    Renew { session: Session, node: Option<NodeId> },
    Rotate { session: Session, ticket: [u8; TICKET_LEN] },
    Leave { session: Session },
    Admin { caller: Caller, request: AdminRequest },
    Publish,
    Due,
    Trust { bytes: Vec<u8> },
    Adopt { session: Session, membership: Vec<u8> },
    Document { bytes: Vec<u8> },
}

/// What is decided.
pub(super) enum Decision {
    /// Nothing is to be written.
    Answer(Vec<Effect>),
    /// To be decided again when the transaction about this key is through.
    Wait(Key),
    /// To be written first.
    Commit(Box<Plan>),
}

/// A job, and how often it was overtaken.
#[derive(Debug)]
pub(super) struct Pending {
    job: Job,
    attempts: u32,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pending: Pending,
    transaction: Transaction,
    effects: Vec<Effect>,
}

/// By whom, and which, if it is a request that may come again.
fn repeatable(job: &Job) -> Option<(PublicKey, u64)> {
    match job {
        Job::Admin { caller: Caller::Session(session), request } => Some((session.key, request.id)),
        _ => None,
    }
}

/// Why a job was not done, by no fault of who asked.
#[derive(Clone, Copy)]
enum Failure {
    Busy,
    Store,
}

impl Authority {
    /// Takes what came of a transaction. Results of transactions that are not known are let be.
    pub fn handle_store(&mut self, id: TransactionId, outcome: Outcome, now: Now, rng: &mut dyn CryptoRng) {
        let Some(InFlight { mut pending, transaction, effects }) = self.in_flight.remove(&id) else { return };
        self.mirror.release(&transaction.conditions);
        let keys: Vec<Key> = transaction.conditions.iter().map(|condition| condition.key.clone()).collect();
        match outcome {
            Outcome::Committed { revision, audit } => {
                if audit.map(|head| head.sequence) > self.audit.map(|head| head.sequence) {
                    self.audit = audit;
                }
                self.commit(transaction, revision, now);
                self.remember(&pending.job, &effects);
                self.emit(effects);
            }
            Outcome::Conflict { current } => {
                current.into_iter().for_each(|stored| self.take(stored));
                pending.attempts += 1;
                if pending.attempts < ATTEMPTS_MAX {
                    self.decide_and_submit(pending, now, rng);
                } else {
                    self.refuse(&pending.job, Failure::Busy, now);
                }
            }
            Outcome::Failed => self.refuse(&pending.job, Failure::Store, now),
        }
        for key in keys {
            let waiting = self.waiting.remove(&key).unwrap_or_default();
            self.waiting_count -= waiting.len();
            waiting.into_iter().for_each(|pending| self.decide_and_submit(pending, now, rng));
        }
    }

    /// The next transaction for the store.
    pub fn poll_store(&mut self) -> Option<Transaction> {
        let id = self.to_store.pop_front()?;
        self.in_flight.get(&id).map(|in_flight| in_flight.transaction.clone())
    }

    pub(super) fn run(&mut self, job: Job, now: Now, rng: &mut dyn CryptoRng) {
        self.decide_and_submit(Pending { job, attempts: 0 }, now, rng);
    }

    fn decide_and_submit(&mut self, pending: Pending, now: Now, rng: &mut dyn CryptoRng) {
        match self.decide(&pending.job, now, rng) {
            Decision::Answer(effects) => {
                self.forget(&pending.job);
                self.emit(effects);
            }
            Decision::Wait(key) => self.wait(key, pending, now),
            Decision::Commit(plan) => {
                let busy = self.mirror.first_busy(plan.keys()).cloned();
                if let Some(key) = busy {
                    return self.wait(key, pending, now);
                }
                if self.in_flight.len() >= IN_FLIGHT_MAX {
                    return self.refuse(&pending.job, Failure::Busy, now);
                }
                let id = TransactionId(self.next_id);
                self.next_id += 1;
                let (transaction, effects) = plan.into_transaction(id);
                self.mirror.reserve(&transaction.conditions);
                self.in_flight.insert(id, InFlight { pending, transaction, effects });
                self.to_store.push_back(id);
            }
        }
    }

    fn decide(&mut self, job: &Job, now: Now, rng: &mut dyn CryptoRng) -> Decision {
        match job {
            Job::Join { session, request } => self.decide_join(session, request, now, rng),
            Job::Renew { session, node } => self.decide_renew(session, *node, now),
            Job::Rotate { session, ticket } => self.decide_rotate(session, ticket, now),
            Job::Leave { session } => self.decide_leave(session, now),
            Job::Admin { caller, request } => self.decide_admin(caller, request, now, rng),
            Job::Publish => self.decide_publish(now),
            Job::Due => self.decide_due(now),
            Job::Trust { bytes } => self.decide_trust(bytes, now),
            Job::Adopt { session, membership } => self.decide_adopt(session, membership, now),
            Job::Document { bytes } => self.decide_document(bytes, now),
        }
    }

    fn wait(&mut self, key: Key, pending: Pending, now: Now) {
        if matches!(pending.job, Job::Publish | Job::Due) {
            // It comes again by itself.
            return;
        }
        if self.waiting_count >= WAITING_MAX {
            return self.refuse(&pending.job, Failure::Busy, now);
        }
        self.waiting_count += 1;
        self.waiting.entry(key).or_default().push_back(pending);
    }

    fn emit(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Frame(session, frame) => self.frames.push_back((session, *frame)),
                Effect::Event(event) => self.events.push_back(event),
            }
        }
    }

    /// What was done is not done again when the request comes once more.
    fn remember(&mut self, job: &Job, effects: &[Effect]) {
        let Some(id) = repeatable(job) else { return };
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::Frame(_, frame) if matches!(**frame, Frame::AdminAnswer(_)) => Some((**frame).clone()),
            _ => None,
        });
        if let Some(answer) = answer {
            self.repeated.done(id, answer);
        }
    }

    /// Nothing was done.
    fn forget(&mut self, job: &Job) {
        if let Some(id) = repeatable(job) {
            self.repeated.refused(id);
        }
    }

    /// Says that a job was not done.
    fn refuse(&mut self, job: &Job, failure: Failure, now: Now) {
        self.forget(job);
        let time = self.time(now);
        match job {
            Job::Join { session, .. } => self.answer_join(*session, Err(JoinRefusal::Busy), now),
            Job::Renew { session, node } => {
                let outcome = Err(RenewRefusal::Busy);
                let frame = Frame::RenewAnswer(RenewAnswer { time, node: *node, outcome });
                self.frames.push_back((session.id, frame));
            }
            Job::Rotate { session, .. } => {
                let outcome = Err(RenewRefusal::Busy);
                let frame = Frame::RenewAnswer(RenewAnswer { time, node: None, outcome });
                self.frames.push_back((session.id, frame));
            }
            Job::Admin { caller, request } => {
                let (reason, detail) = match failure {
                    Failure::Busy => (AdminRefusal::Busy, "the authority is busy; try again in a moment"),
                    Failure::Store => (
                        AdminRefusal::Store,
                        "the register could not be written: look for a full or failing disk under the server's state \
                         directory, then try again; run 'tombolo doctor' on the server",
                    ),
                };
                let reply = Reply::Refused { reason, detail: detail.to_owned() };
                let frame = Frame::AdminAnswer(AdminAnswer { id: request.id, reply });
                self.frames.push_back((caller.id(), frame));
            }
            Job::Trust { .. } => self.events.push_back(Event::CannotSign(
                "the register could not be written, so that the new trust document does not hold yet"
                    .to_owned(),
            )),
            // Asked again by the node, or due again.
            Job::Leave { .. } | Job::Publish | Job::Due | Job::Adopt { .. } | Job::Document { .. } => {}
        }
    }
}
