//! A small network: what an authority has signed for its nodes, and its register at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tombolo_control::authority::audit::Actor;
use tombolo_control::authority::{
    Authority, Caller, Genesis, Key, Outcome, Published, Record, Server, Session, SessionId, Snapshot,
    Stored, Transaction,
};
use tombolo_control::document::{GroupLimit, Issuer, Limits, Membership, Roles, TrustDocument, Verified};
use tombolo_control::frame::admin::{
    AdminAnswer, AdminRequest, NetworkChange, NodeSelector, NodeSpec, Operation, Reply, TokenSpec,
};
use tombolo_control::frame::{Frame, JoinAnswer, JoinRequest};
use tombolo_control::root::RootKeys;
use tombolo_control::token::Token;
use tombolo_control::{NodeId, SigningKey};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{PrivateKey, PublicKey};

/// Numbers of the nodes.
pub(super) const SERVER: u8 = 0;
pub(super) const OWN: u8 = 1;
pub(super) const MEMBER: u8 = 2;
pub(super) const ADMINISTRATOR: u8 = 3;
pub(super) const OTHER: u8 = 4;
pub(super) const STRANGER: u8 = 5;
pub(super) const STOCK: u8 = 6;
pub(super) const JOINER: u8 = 7;

const DAY: Duration = Duration::from_secs(86_400);
/// Nanoseconds of boot time at which everything begins.
pub(super) const BEGIN: u64 = 1_000_000_000;
pub(super) const ENDPOINT: &str = "192.0.2.1:8662";

pub(super) fn key(number: u8) -> PublicKey {
    PrivateKey::from_bytes([0x40 | number; 32]).public()
}

pub(super) fn clock(boot: u64) -> Now {
    Now { boot: Instant::from_nanos(boot), wall: UnixTime(DAY * 20_700 + Duration::from_nanos(boot)) }
}

/// Reads what stands in this file.
pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("it stands here well-formed")
}

/// A store that loses nothing and meets no conflict.
#[derive(Default)]
struct Store {
    records: BTreeMap<Key, (u64, Record)>,
    revision: u64,
}

impl Store {
    fn execute(&mut self, transaction: Transaction) -> Outcome {
        self.revision += 1;
        for (key, record) in transaction.writes {
            match record {
                Some(record) => drop(self.records.insert(key, (self.revision, record))),
                None => drop(self.records.remove(&key)),
            }
        }
        Outcome::Committed { revision: self.revision, audit: None }
    }

    fn snapshot(&self) -> Snapshot {
        let stored = |(key, (revision, record)): (&Key, &(u64, Record))| Stored {
            key: key.clone(),
            revision: *revision,
            record: Some(record.clone()),
        };
        Snapshot { records: self.records.iter().map(stored).collect(), audit: None }
    }
}

/// What was signed.
pub(super) struct Papers {
    pub(super) snapshot: Snapshot,
    pub(super) trust: Verified<TrustDocument>,
    pub(super) published: Published,
    memberships: BTreeMap<u8, Vec<u8>>,
    /// Admits a hundred.
    pub(super) token: Token,
    /// An answer to each question of administrators.
    pub(super) replies: Vec<Reply>,
}

pub(super) fn issuer() -> SigningKey {
    SigningKey::from_seed([3; 32])
}

impl Papers {
    pub(super) fn get() -> &'static Self {
        static PAPERS: LazyLock<Papers> = LazyLock::new(Papers::make);
        &PAPERS
    }

    pub(super) fn membership(&self, number: u8) -> &[u8] {
        &self.memberships[&number]
    }

    pub(super) fn member(&self, number: u8) -> Verified<Membership> {
        Membership::verify(self.membership(number), &self.trust).expect("the authority signed it")
    }

    pub(super) fn node(&self, number: u8) -> NodeId {
        self.member(number).node
    }

    pub(super) fn address(&self, number: u8) -> IpAddr {
        *self.member(number).addresses.first().expect("each node has one")
    }

    fn make() -> Self {
        let mut office = Office::open();
        office.local(Operation::NetworkSet(NetworkChange::AddGroup(parse("ops"))));
        office.local(Operation::NetworkSet(NetworkChange::AddAdminGroup(parse("ops"))));
        let mut memberships = BTreeMap::new();
        for number in [OWN, MEMBER, ADMINISTRATOR, OTHER] {
            let (token_key, mut spec) = office.spec();
            if number == ADMINISTRATOR {
                (spec.groups, spec.admin) = ([parse("ops")].into(), true);
            }
            if number == OWN {
                spec.roles = Roles::GATEWAY;
            }
            let token = office.grant(token_key, spec);
            memberships.insert(number, office.join(number, &token));
        }
        let presented_by = Some(NodeSelector::Node(
            Membership::verify(&memberships[&OWN], office.authority.trust()).expect("just signed").node,
        ));
        let stock =
            NodeSpec { key: key(STOCK), name: parse("printer"), groups: BTreeSet::new(), presented_by };
        office.local(Operation::NodeAdd(stock));
        let (token_key, spec) = office.spec();
        let token = office.grant(token_key, TokenSpec { uses: Some(100), ..spec });
        for number in [SERVER, STOCK] {
            let node = office.authority.nodes().find(|node| node.key == key(number)).expect("a node");
            memberships.insert(number, node.membership.clone());
        }
        let replies = [
            Operation::TokenList(None),
            Operation::NodeList(None),
            Operation::NodeShow(NodeSelector::Name(parse("printer"))),
            Operation::NetworkShow,
            Operation::NodeShow(NodeSelector::Name(parse("nobody"))),
        ];
        let replies = replies.map(|operation| office.local(operation)).into();
        let published = office.authority.published().expect("documents").clone();
        Self {
            snapshot: office.store.snapshot(),
            trust: office.authority.trust().clone(),
            published,
            memberships,
            token,
            replies,
        }
    }
}

/// The authority at work.
struct Office {
    authority: Authority,
    store: Store,
    rng: ChaCha20Rng,
}

impl Office {
    fn open() -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let now = clock(BEGIN);
        let mut root = RootKeys::create(&mut rng);
        let limits = Limits {
            addresses: [parse("10.86.0.0/16"), parse("fd86::/64")].into(),
            routes: [parse("192.168.0.0/16")].into(),
            groups: GroupLimit::Any,
            roles: Roles::ALL,
            lifetime: DAY * 14,
            expires: UnixTime(now.wall.0 + DAY * 365),
        };
        let issuers = vec![Issuer { key: issuer().verifying_key(), limits }];
        let trust = root.sign(issuers, now.wall).expect("a root key signs").clone();
        let genesis = Genesis {
            issuer: issuer(),
            trust,
            cidrs: [parse("10.86.0.0/16"), parse("fd86::/64")].into(),
            domain: parse("fuzz.internal"),
            server: Server {
                node: NodeId::from_bytes([0xc8; 16]),
                key: key(SERVER),
                name: parse("hub"),
                roles: Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY,
                endpoints: vec![parse(ENDPOINT)],
            },
            actor: Actor::Local("uid 0".to_owned()),
        };
        let mut store = Store::default();
        store.execute(genesis.transaction(now).expect("a network can begin so"));
        let authority = Authority::new(issuer(), store.snapshot(), now).expect("a whole register");
        Self { authority, store, rng }
    }

    fn settle(&mut self) -> Frame {
        let now = clock(BEGIN);
        while let Some(transaction) = self.authority.poll_store() {
            let id = transaction.id;
            let outcome = self.store.execute(transaction);
            self.authority.handle_store(id, outcome, now, &mut self.rng);
        }
        while self.authority.poll_event().is_some() {}
        self.authority.poll_frame().expect("an answer").1
    }

    fn local(&mut self, operation: Operation) -> Reply {
        let caller = Caller::Local { id: SessionId(0), who: "uid 0".to_owned() };
        let request = AdminRequest { id: 1, operation };
        self.authority.handle_request(caller, request, clock(BEGIN), &mut self.rng);
        match self.settle() {
            Frame::AdminAnswer(AdminAnswer { reply, .. }) => reply,
            other => panic!("{other:?} answers no administrator"),
        }
    }

    fn spec(&mut self) -> (SigningKey, TokenSpec) {
        let key = SigningKey::generate(&mut self.rng);
        let spec = TokenSpec::new(key.verifying_key());
        (key, spec)
    }

    fn grant(&mut self, key: SigningKey, spec: TokenSpec) -> Token {
        match self.local(Operation::TokenNew(spec)) {
            Reply::Granted(grant) => grant.into_token(key).expect("the server has an endpoint"),
            other => panic!("{other:?} is no token"),
        }
    }

    fn join(&mut self, number: u8, token: &Token) -> Vec<u8> {
        let session = Session {
            id: SessionId(number.into()),
            key: key(number),
            handshake_hash: [number; 32],
            authorised: false,
        };
        let frame = join_request(token, number);
        self.authority.handle_frame(&session, &frame, clock(BEGIN), &mut self.rng);
        match self.settle() {
            Frame::JoinAnswer(JoinAnswer { outcome: Ok(membership), .. }) => membership,
            other => panic!("{other:?} lets nobody in"),
        }
    }
}

/// Each session's handshake hash is made of its node's number.
pub(super) fn join_request(token: &Token, number: u8) -> Frame {
    let proof = token.prove(&[number; 32], &key(number));
    let name = Some(parse(&format!("node-{number}")));
    Frame::JoinRequest(JoinRequest { token: token.public_key(), proof, name })
}
