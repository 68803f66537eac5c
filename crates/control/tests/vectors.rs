//! The test vectors of `docs/control-protocol.md`, made anew from the inputs that stand there and compared.
//!
//! Only the public interface is used: what another program would do.

use std::collections::BTreeMap;
use std::time::Duration;

use tombolo_control::document::{
    GroupLimit, Head, Issuer, Limits, Membership, NetworkDocument, Policy, Revocation, Roles, Route, Server,
    TrustDocument, Verified, Version,
};
use tombolo_control::frame::{
    Block, Found, Frame, Introduce, JoinAnswer, JoinRefusal, JoinRequest, Keepalive, KeepaliveAnswer, LookUp,
    LookUpAnswer, Order, PullBlock, Show, ShowRefusal, ShowRefused, Target, Versions,
};
use tombolo_control::token::Token;
use tombolo_control::{DocumentHash, NetworkId, NodeId, SigningKey};
use tombolo_noise::clock::UnixTime;
use tombolo_noise::{PrivateKey, PublicKey};

const PAGE: &str = include_str!("../../../docs/control-protocol.md");

/// The blocks of the page that are marked as ```` ```vector NAME ````, without their line breaks.
fn published() -> BTreeMap<String, String> {
    let mut vectors = BTreeMap::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```vector ") else { continue };
        let text: String = lines.by_ref().take_while(|line| *line != "```").map(str::trim).collect();
        assert!(vectors.insert(name.to_owned(), text).is_none(), "{name} stands twice");
    }
    vectors
}

fn seconds(seconds: u64) -> UnixTime {
    UnixTime(Duration::from_secs(seconds))
}

fn seed(byte: u8) -> SigningKey {
    SigningKey::from_seed([byte; 32])
}

fn static_key(byte: u8) -> PublicKey {
    PrivateKey::from_bytes([byte; 32]).public()
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect(text)
}

fn trust() -> TrustDocument {
    TrustDocument {
        network: NetworkId::derive(&seed(1).verifying_key()),
        epoch: 1,
        root: seed(1).verifying_key(),
        next_root: seed(2).verifying_key().fingerprint(),
        issued: seconds(1_788_480_000),
        issuers: vec![Issuer {
            key: seed(3).verifying_key(),
            limits: Limits {
                addresses: [parse("10.86.0.0/16"), parse("fd86::/64")].into(),
                routes: [parse("192.168.0.0/16")].into(),
                groups: GroupLimit::Any,
                roles: Roles::ALL,
                lifetime: Duration::from_secs(1_209_600),
                expires: seconds(1_820_016_000),
            },
        }],
    }
}

fn network() -> NetworkDocument {
    let node = |byte| NodeId::from_bytes([byte; 16]);
    NetworkDocument {
        network: trust().network,
        version: Version { epoch: 1, counter: 1_788_480_000_123 },
        issued: seconds(1_788_480_000),
        expires: seconds(1_788_487_200),
        cidrs: [parse("10.86.0.0/16"), parse("fd86::/64")].into(),
        domain: parse("office.internal"),
        groups: [parse("databases"), parse("staff")].into(),
        policy: Policy::AllMembers,
        routes: [Route { prefix: parse("192.168.7.0/24"), gateways: [node(7)].into() }].into(),
        servers: vec![Server {
            node: node(0xc8),
            key: static_key(0xc8),
            roles: Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY,
            endpoints: vec![parse("vpn.example.net:8662"), parse("192.0.2.1:8662")],
        }],
        revocations: [
            Revocation::Node(node(0x42)),
            Revocation::Key(static_key(0x43)),
            Revocation::Serial(node(0x44), 3),
        ]
        .into(),
        audit_head: Some(DocumentHash::from_bytes([0xad; 32])),
        refuse_when_stale: true,
    }
}

fn membership() -> Membership {
    Membership {
        network: trust().network,
        node: NodeId::from_bytes([9; 16]),
        serial: 1,
        key: static_key(9),
        name: parse("db-1"),
        addresses: [parse("10.86.0.9"), parse("fd86::9")].into(),
        groups: [parse("databases"), parse("staff")].into(),
        routes: [parse("192.168.7.0/24")].into(),
        roles: Roles::GATEWAY,
        not_before: seconds(1_788_480_000),
        not_after: seconds(1_789_689_600),
        grace: Duration::from_secs(2_592_000),
        network_version: network().version,
    }
}

fn token() -> Token {
    let endpoints = vec![parse("vpn.example.net:8662"), parse("[2001:db8::1]:8662")];
    let root = seed(1).verifying_key().fingerprint();
    Token::new(trust().network, static_key(0xc8), root, endpoints, seed(5)).expect("a token")
}

fn verified() -> (Verified<TrustDocument>, Verified<NetworkDocument>, Vec<u8>) {
    let (root, network_id) = (seed(1), trust().network);
    let bytes = trust().sign(&root).expect("signed");
    let trust =
        TrustDocument::verify(&bytes, &network_id, &[root.verifying_key().fingerprint()]).expect("verified");
    let network = NetworkDocument::verify(&network().sign(&seed(3), &trust).expect("signed"), &trust)
        .expect("verified");
    let head = Head::of(&trust, &network).sign(&seed(3), &trust).expect("signed");
    (trust, network, head)
}

/// One frame of each type, with small contents where those are documents.
fn frames() -> Vec<(&'static str, Frame)> {
    let (node, hash) = (NodeId::from_bytes([9; 16]), DocumentHash::from_bytes([8; 32]));
    let (order, time) = (Order { epoch: 1_788_480_000, sequence: 7 }, seconds(1_788_480_000));
    let versions = Versions { order, trust_epoch: 1, trust_hash: hash, head: Some(vec![1, 2, 3]) };
    let candidates = vec![parse("192.0.2.7:51820"), parse("[2001:db8::7]:8662")];
    let proof = token().prove(&[0x68; 32], &static_key(9));
    let found = Found { membership: vec![4, 5, 6], candidates: candidates.clone(), relays: vec![node] };
    vec![
        (
            "join-request",
            Frame::JoinRequest(JoinRequest { token: token().public_key(), proof, name: Some(parse("db-1")) }),
        ),
        ("join-answer", Frame::JoinAnswer(JoinAnswer { time, outcome: Ok(vec![4, 5, 6]) })),
        ("join-refused", Frame::JoinAnswer(JoinAnswer { time, outcome: Err(JoinRefusal::Spent) })),
        ("show", Frame::Show(Show { membership: vec![4, 5, 6], versions: versions.clone() })),
        ("show-refused", Frame::ShowRefused(ShowRefused { reason: ShowRefusal::Expired, time })),
        ("versions", Frame::Versions(versions)),
        ("pull-trust", Frame::PullTrust),
        ("trust", Frame::Trust(vec![4, 5, 6])),
        ("pull-block", Frame::PullBlock(PullBlock { hash, index: 2 })),
        ("block", Frame::Block(Block { hash, index: 2, bytes: vec![4, 5, 6] })),
        ("look-up-address", Frame::LookUp(LookUp { id: 5, target: Target::Address(parse("10.86.0.9")) })),
        ("look-up-name", Frame::LookUp(LookUp { id: 5, target: Target::Name(parse("db-1")) })),
        ("look-up-node", Frame::LookUp(LookUp { id: 5, target: Target::Node(node) })),
        ("look-up-answer", Frame::LookUpAnswer(LookUpAnswer { id: 5, found: Some(found) })),
        ("look-up-nobody", Frame::LookUpAnswer(LookUpAnswer { id: 5, found: None })),
        (
            "introduce",
            Frame::Introduce(Introduce { node, key: static_key(9), candidates: candidates.clone() }),
        ),
        ("keepalive", Frame::Keepalive(Keepalive { order, candidates, accepts_unsolicited: true })),
        (
            "keepalive-answer",
            Frame::KeepaliveAnswer(KeepaliveAnswer {
                order,
                observed: parse("192.0.2.7:51820"),
                trust_epoch: 1,
                network_counter: 1_788_480_000_123,
            }),
        ),
        ("challenge", Frame::Challenge([0xcc; 16])),
        ("challenge-answer", Frame::ChallengeAnswer([0xcc; 16])),
    ]
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

fn ours() -> BTreeMap<String, String> {
    let (trust, network, head) = verified();
    let membership = membership().sign(&seed(3), &trust).expect("signed");
    Membership::verify(&membership, &trust).expect("verified");
    let proof = token().prove(&[0x68; 32], &static_key(9));
    let mut vectors: BTreeMap<String, String> = [
        ("network-id", hex(trust.network.as_bytes())),
        ("root-fingerprint", trust.root.fingerprint().to_string()),
        ("issuer-key-id", seed(3).verifying_key().key_id().to_string()),
        ("trust-document", hex(trust.encoded())),
        ("trust-document-hash", trust.hash().to_string()),
        ("network-document", hex(network.encoded())),
        ("network-document-hash", network.hash().to_string()),
        ("head", hex(&head)),
        ("membership", hex(&membership)),
        ("token", token().to_text().to_string()),
        ("join-proof", proof.signature().to_string()),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into();
    for (name, frame) in frames() {
        let bytes = frame.to_bytes().expect("small enough");
        assert_eq!(Frame::parse(&bytes), Ok(frame));
        vectors.insert(format!("frame-{name}"), hex(&bytes));
    }
    vectors
}

/// What the page says is what this crate does, for rules 1, 2, 3, 6, 11 and 15.
#[test]
fn the_published_vectors_hold_control_rule_6() {
    let (published, ours) = (published(), ours());
    for (name, text) in &ours {
        assert_eq!(published.get(name), Some(text), "{name}");
    }
    let unknown: Vec<&String> = published.keys().filter(|name| !ours.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "vectors that nothing checks: {unknown:?}");
}

/// For who changes the format: `cargo test -p tombolo-control --test vectors -- --ignored --nocapture`.
#[test]
#[ignore = "prints the vectors for the page"]
fn print_the_vectors() {
    for (name, text) in ours() {
        println!("```vector {name}");
        for line in text.as_bytes().chunks(120) {
            println!("{}", String::from_utf8_lossy(line));
        }
        println!("```\n");
    }
}
