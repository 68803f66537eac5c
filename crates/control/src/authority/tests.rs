//! A store in memory, and a network that the tests begin.

mod administration;
mod guesses;
mod interleaved;
mod life;
mod restored;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{PrivateKey, PublicKey};

use super::audit::{Actor, AuditHead, Change};
use super::*;
use crate::document::{Issuer, Membership, Roles};
use crate::frame::admin::{AdminAnswer, Operation, Reply, TokenSpec};
use crate::frame::{JoinRequest, RenewRefusal};
use crate::root::RootKeys;
use crate::test_support::{DAY, TODAY, day, limits, set};
use crate::token::Token;

/// A store with compare-and-set: what SQLite and etcd are to be alike.
#[derive(Clone, Default)]
pub(super) struct MemoryStore {
    records: BTreeMap<Key, (u64, Record)>,
    revision: u64,
    pub(super) audit: Vec<Vec<u8>>,
    head: Option<AuditHead>,
}

impl MemoryStore {
    pub(super) fn execute(&mut self, transaction: &Transaction) -> Outcome {
        let stored = |store: &Self, key: &Key| {
            let found = store.records.get(key);
            let revision = found.map_or(0, |(revision, _)| *revision);
            Stored { key: key.clone(), revision, record: found.map(|(_, record)| record.clone()) }
        };
        let current: Vec<Stored> = transaction
            .conditions
            .iter()
            .filter(|condition| stored(self, &condition.key).revision != condition.revision)
            .map(|condition| stored(self, &condition.key))
            .collect();
        if !current.is_empty() {
            return Outcome::Conflict { current };
        }
        self.revision += 1;
        for (key, record) in &transaction.writes {
            match record {
                Some(record) => {
                    // Through the bytes, as a true store does.
                    let bytes = (key.to_bytes(), record.to_bytes());
                    let key = Key::from_bytes(&bytes.0).unwrap();
                    let record = Record::from_bytes(&key, &bytes.1).unwrap();
                    drop(self.records.insert(key, (self.revision, record)));
                }
                None => drop(self.records.remove(key)),
            }
        }
        for change in &transaction.audit {
            let (entry, head) = audit::chain(self.head, change);
            self.audit.push(entry);
            self.head = Some(head);
        }
        Outcome::Committed { revision: self.revision, audit: self.head }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let record = |(key, (revision, record)): (&Key, &(u64, Record))| Stored {
            key: key.clone(),
            revision: *revision,
            record: Some(record.clone()),
        };
        Snapshot { records: self.records.iter().map(record).collect(), audit: self.head }
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        let mut head = None;
        let follow = |bytes: &Vec<u8>| {
            let (entry, next) = audit::follow(head, bytes).unwrap();
            head = Some(next);
            entry.change
        };
        self.audit.iter().map(follow).collect()
    }
}

pub(super) fn issuer_key() -> SigningKey {
    SigningKey::from_seed([0x33; 32])
}

pub(super) fn server_key() -> PublicKey {
    PrivateKey::from_bytes([0xc8; 32]).public()
}

pub(super) fn issuer(key: &SigningKey) -> Issuer {
    Issuer { key: key.verifying_key(), limits: limits() }
}

pub(super) fn session(number: u64, key: PublicKey, authorised: bool) -> Session {
    let mut handshake_hash = [0; 32];
    handshake_hash[..8].copy_from_slice(&number.to_le_bytes());
    Session { id: SessionId(number), key, handshake_hash, authorised }
}

/// An authority, its store, its clock and its randomness.
pub(super) struct World {
    pub(super) authority: Authority,
    pub(super) store: MemoryStore,
    pub(super) root: RootKeys,
    pub(super) now: Now,
    pub(super) rng: ChaCha20Rng,
    pub(super) events: VecDeque<Event>,
    next: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_cidrs(seed, &["10.86.0.0/16", "fd86::/64"])
    }

    pub(super) fn with_cidrs(seed: u64, cidrs: &[&str]) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let now = Now { boot: Instant::from_nanos(5_000_000_000), wall: day(TODAY) };
        let mut root = RootKeys::create(&mut rng);
        root.sign(vec![issuer(&issuer_key())], now.wall).unwrap();
        let genesis = genesis(&root, cidrs);
        let mut store = MemoryStore::default();
        let begun = store.execute(&genesis.transaction(now).unwrap());
        assert!(matches!(begun, Outcome::Committed { revision: 1, .. }));
        // A register is filled once.
        assert!(matches!(store.execute(&genesis.transaction(now).unwrap()), Outcome::Conflict { .. }));
        let authority = Authority::new(issuer_key(), store.snapshot(), now).unwrap();
        Self { authority, store, root, now, rng, events: VecDeque::new(), next: 1 }
    }

    pub(super) fn restart(&mut self) {
        self.authority = Authority::new(issuer_key(), self.store.snapshot(), self.now).unwrap();
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = Now { boot: self.now.boot + time, wall: UnixTime(self.now.wall.0 + time) };
        self.authority.handle_timeout(self.now, &mut self.rng);
        let frames = self.settle();
        assert!(frames.is_empty(), "nobody has asked: {frames:?}");
    }

    /// Carries out all transactions, and gives the frames that leave.
    pub(super) fn settle(&mut self) -> Vec<(SessionId, Frame)> {
        while let Some(transaction) = self.authority.poll_store() {
            let outcome = self.store.execute(&transaction);
            self.authority.handle_store(transaction.id, outcome, self.now, &mut self.rng);
        }
        self.events.extend(std::iter::from_fn(|| self.authority.poll_event()));
        std::iter::from_fn(|| self.authority.poll_frame()).collect()
    }

    /// Sends a frame over a session, and gives the one answer.
    pub(super) fn ask(&mut self, session: &Session, frame: &Frame) -> Frame {
        self.authority.handle_frame(session, frame, self.now, &mut self.rng);
        let mut frames = self.settle();
        assert_eq!(frames.len(), 1, "{frames:?}");
        let (id, frame) = frames.pop().unwrap();
        assert_eq!(id, session.id);
        // What is answered can be sent.
        assert_eq!(Frame::parse(&frame.to_bytes().unwrap()), Ok(frame.clone()));
        frame
    }

    pub(super) fn local(&mut self, operation: Operation) -> Reply {
        let caller = Caller::Local { id: SessionId(0), who: "uid 0".to_owned() };
        let request = AdminRequest { id: 77, operation };
        self.authority.handle_request(caller, request, self.now, &mut self.rng);
        let mut frames = self.settle();
        match frames.pop() {
            Some((SessionId(0), Frame::AdminAnswer(AdminAnswer { id: 77, reply }))) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// A new key pair for a token, and what is asked for with it.
    pub(super) fn spec(&mut self) -> (SigningKey, TokenSpec) {
        let key = SigningKey::generate(&mut self.rng);
        let spec = TokenSpec::new(key.verifying_key());
        (key, spec)
    }

    pub(super) fn grant(&mut self, key: SigningKey, operation: Operation) -> Token {
        match self.local(operation) {
            Reply::Granted(grant) => grant.into_token(key).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn token(&mut self) -> Token {
        let (key, spec) = self.spec();
        self.grant(key, Operation::TokenNew(spec))
    }

    pub(super) fn fresh_session(&mut self, key: PublicKey) -> Session {
        self.next += 1;
        session(self.next, key, false)
    }

    pub(super) fn fresh_key(&mut self) -> PublicKey {
        PrivateKey::generate(&mut self.rng).public()
    }

    pub(super) fn join(
        &mut self,
        token: &Token,
        key: PublicKey,
        name: Option<&str>,
    ) -> Result<Membership, JoinRefusal> {
        let session = self.fresh_session(key);
        let request = request(token, &session, name);
        match self.ask(&session, &request) {
            Frame::JoinAnswer(JoinAnswer { outcome, .. }) => outcome.map(|bytes| self.read(&bytes)),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn read(&self, membership: &[u8]) -> Membership {
        (*Membership::verify(membership, self.authority.trust()).unwrap()).clone()
    }

    pub(super) fn member(&mut self, name: &str) -> (Session, Membership) {
        let (token, key) = (self.token(), self.fresh_key());
        let membership = self.join(&token, key, Some(name)).unwrap();
        let session = Session { authorised: true, ..self.fresh_session(key) };
        (session, membership)
    }

    pub(super) fn renew(&mut self, session: &Session) -> Result<Membership, RenewRefusal> {
        self.renewal(session, &Frame::Renew(None))
    }

    pub(super) fn renewal(&mut self, session: &Session, frame: &Frame) -> Result<Membership, RenewRefusal> {
        match self.ask(session, frame) {
            Frame::RenewAnswer(answer) => answer.outcome.map(|bytes| self.read(&bytes)),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn revokes(&self, membership: &Membership) -> bool {
        let document = self.authority.document().unwrap();
        document.revokes(&membership.node, &membership.key, membership.serial)
    }
}

pub(super) fn genesis(root: &RootKeys, cidrs: &[&str]) -> Genesis {
    Genesis {
        issuer: issuer_key(),
        trust: root.trust().unwrap().clone(),
        cidrs: set(cidrs),
        domain: "office.internal".parse().unwrap(),
        server: Server {
            node: NodeId::from_bytes([0xc8; 16]),
            key: server_key(),
            name: "hub".parse().unwrap(),
            roles: Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY,
            endpoints: vec!["vpn.example.net:8662".parse().unwrap()],
        },
        actor: Actor::Local("uid 0".to_owned()),
    }
}

pub(super) fn request(token: &Token, session: &Session, name: Option<&str>) -> Frame {
    Frame::JoinRequest(JoinRequest {
        token: token.public_key(),
        proof: token.prove(&session.handshake_hash, &session.key),
        name: name.map(|name| name.parse().unwrap()),
    })
}

/// The time of a renewal is not a whole day later by chance.
pub(super) const HALF_DAY: Duration = Duration::from_secs(43_200);

#[test]
fn the_server_is_the_first_node() {
    let world = World::new(1);
    let node = world.authority.nodes().next().unwrap();
    assert_eq!(node.addresses, set(&["10.86.0.1", "fd86::1"]));
    let membership = world.read(&node.membership);
    assert_eq!((membership.key, membership.serial, membership.lifetime()), (server_key(), 1, DAY * 14));
    assert_eq!(membership.network_version, world.authority.document().unwrap().version);
}
