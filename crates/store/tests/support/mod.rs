//! A network whose register lies in a directory.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tombolo_control::authority::audit::Actor;
use tombolo_control::authority::{Authority, Genesis, Outcome, Server, Session, SessionId};
use tombolo_control::authority::{Caller, Key, Record, Snapshot, Transaction};
use tombolo_control::document::{GroupLimit, Issuer, Limits, Roles};
use tombolo_control::frame::admin::{AdminAnswer, AdminRequest, Operation, Reply, TokenSpec};
use tombolo_control::frame::{Frame, JoinRequest};
use tombolo_control::root::RootKeys;
use tombolo_control::token::Token;
use tombolo_control::{NodeId, SigningKey};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{PrivateKey, PublicKey};
use tombolo_store::Register;

pub(crate) fn now() -> Now {
    Now { boot: Instant::from_nanos(1), wall: UnixTime(Duration::from_secs(1_790_000_000)) }
}

pub(crate) fn issuer() -> SigningKey {
    SigningKey::from_seed([3; 32])
}

pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect(text)
}

/// What an empty register is filled with.
pub(crate) fn genesis() -> Transaction {
    let mut root = RootKeys::create(&mut ChaCha20Rng::seed_from_u64(1));
    let limits = Limits {
        addresses: [parse("10.86.0.0/16"), parse("fd86::/64")].into(),
        routes: [].into(),
        groups: GroupLimit::Any,
        roles: Roles::ALL,
        lifetime: Duration::from_secs(14 * 86_400),
        expires: UnixTime(now().wall.0 + Duration::from_secs(365 * 86_400)),
    };
    let trust =
        root.sign(vec![Issuer { key: issuer().verifying_key(), limits }], now().wall).expect("signed");
    let genesis = Genesis {
        issuer: issuer(),
        trust: trust.clone(),
        cidrs: [parse("10.86.0.0/16"), parse("fd86::/64")].into(),
        domain: parse("office.internal"),
        server: Server {
            node: NodeId::from_bytes([0xc8; 16]),
            key: PrivateKey::from_bytes([0xc8; 32]).public(),
            name: parse("hub"),
            roles: Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY,
            endpoints: vec![parse("vpn.example.net:8662")],
        },
        actor: Actor::Local("uid 0".to_owned()),
    };
    genesis.transaction(now()).expect("a network")
}

/// A register that has been filled.
pub(crate) fn begin(directory: &Path) -> Register {
    let mut register = Register::create(directory).expect("made");
    let outcome = register.execute(&[genesis()]).pop().expect("an outcome").1;
    assert!(matches!(outcome, Outcome::Committed { revision: 1, .. }), "{outcome:?}");
    register
}

pub(crate) fn authority(register: &Register) -> Authority {
    Authority::new(issuer(), register.snapshot().expect("read"), now()).expect("an authority")
}

/// A token that admits so many, and the transaction that makes it good.
pub(crate) fn grant(
    authority: &mut Authority,
    register: &mut Register,
    uses: u32,
    rng: &mut ChaCha20Rng,
) -> Token {
    let key = SigningKey::generate(rng);
    let spec = TokenSpec { uses: Some(uses), ..TokenSpec::new(key.verifying_key()) };
    let caller = Caller::Local { id: SessionId(0), who: "uid 0".to_owned() };
    let request = AdminRequest { id: 1, operation: Operation::TokenNew(spec) };
    authority.handle_request(caller, request, now(), rng);
    settle(authority, register, rng);
    match authority.poll_frame() {
        Some((_, Frame::AdminAnswer(AdminAnswer { reply: Reply::Granted(grant), .. }))) => {
            grant.into_token(key).expect("a token")
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn settle(authority: &mut Authority, register: &mut Register, rng: &mut ChaCha20Rng) {
    while let Some(transaction) = authority.poll_store() {
        for (id, outcome) in register.execute(&[transaction]) {
            authority.handle_store(id, outcome, now(), rng);
        }
    }
}

/// A key and the request to join with it.
pub(crate) fn joiner(number: u64, token: &Token) -> (Session, Frame) {
    let mut bytes = [0x11; 32];
    // Not where X25519 clears bits: two numbers would be one key.
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let key: PublicKey = PrivateKey::from_bytes(bytes).public();
    let handshake_hash = bytes;
    let session = Session { id: SessionId(number), key, handshake_hash, authorised: false };
    let proof = token.prove(&handshake_hash, &key);
    (session, Frame::JoinRequest(JoinRequest { token: token.public_key(), proof, name: None }))
}

/// Names, addresses and keys of the nodes, each of which must be claimed by its node.
pub(crate) fn check_whole(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let records: BTreeMap<&Key, &Record> =
        snapshot.records.iter().filter_map(|stored| Some((&stored.key, stored.record.as_ref()?))).collect();
    let nodes = records.values().filter_map(|record| match record {
        Record::Node(node) => Some(node),
        _ => None,
    });
    let owner = |key: Key| match records.get(&key) {
        Some(Record::Claim(claim)) => Some(claim.node),
        _ => None,
    };
    nodes
        .map(|node| {
            assert_eq!(owner(Key::Name(node.name.clone())), Some(node.node));
            assert_eq!(owner(Key::StaticKey(node.key)), Some(node.node));
            assert!(node.addresses.iter().all(|address| owner(Key::Address(*address)) == Some(node.node)));
            node.membership.clone()
        })
        .collect()
}
