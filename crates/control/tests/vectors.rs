//! The test vectors of `docs/control-protocol.md`, made anew from the inputs that stand there and compared.
//!
//! Only the public interface is used: what another program would do.

use std::collections::BTreeMap;
use std::time::Duration;

use tombolo_control::document::{
    GroupLimit, Head, Issuer, Limits, Membership, NetworkDocument, Policy, Revocation, Roles, Route, Server,
    TrustDocument, Verified, Version,
};
use tombolo_control::frame::admin::{
    AdminAnswer, AdminRequest, NetworkChange, NetworkInfo, NodeChange, NodeDetail, NodeInfo, NodeSelector,
    NodeSpec, Operation, Page, Reply, RevokeTarget, TokenGrant, TokenInfo, TokenSpec,
};
use tombolo_control::frame::{
    AdminRefusal, Block, Found, Frame, Introduce, JoinAnswer, JoinRefusal, JoinRequest, Keepalive,
    KeepaliveAnswer, LookUp, LookUpAnswer, Order, PullBlock, RenewAnswer, RenewRefusal, Show, ShowRefusal,
    ShowRefused, Target, Ticket, Versions, names,
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
        rotation: None,
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
        presenter: None,
    }
}

/// A stock WireGuard peer's.
fn presented() -> Membership {
    Membership {
        node: NodeId::from_bytes([0x0a; 16]),
        key: static_key(0x0a),
        name: parse("phone"),
        addresses: [parse("10.86.0.10"), parse("fd86::a")].into(),
        groups: [parse("staff")].into(),
        routes: [].into(),
        roles: Roles::NONE,
        presenter: Some(NodeId::from_bytes([9; 16])),
        ..membership()
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
        ("show", Frame::Show(Show { membership: vec![4, 5, 6], versions: versions.clone(), answer: false })),
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
            Frame::Introduce(Introduce {
                node,
                key: static_key(9),
                candidates: candidates.clone(),
                membership: vec![4, 5, 6],
            }),
        ),
        ("keepalive", Frame::Keepalive(Keepalive { order, candidates, relays: vec![node] })),
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
        ("explore", Frame::Explore([0xcc; 16])),
        ("path-probe", Frame::PathProbe { id: 5 }),
        ("path-answer", Frame::PathAnswer { id: 5, size: 1420 }),
    ]
    .into_iter()
    .chain(lists())
    .chain(renewals())
    .chain(administration())
    .collect()
}

fn lists() -> Vec<(&'static str, Frame)> {
    let tag = names::tag_of(&membership());
    let list = names::Names { epoch: 1_788_480_000 << 16, first: 96, total: 97, tags: vec![tag] };
    vec![
        ("ask-names", Frame::AskNames(names::AskNames { epoch: 1_788_480_000 << 16, index: 96 })),
        ("names", Frame::Names(list)),
        ("ask-members", Frame::AskMembers(vec![tag])),
        ("member", Frame::Member(vec![4, 5, 6])),
    ]
}

fn renewals() -> Vec<(&'static str, Frame)> {
    let (node, time) = (NodeId::from_bytes([9; 16]), seconds(1_788_480_000));
    let answer = |node, outcome| Frame::RenewAnswer(RenewAnswer { time, node, outcome });
    vec![
        ("renew", Frame::Renew(None)),
        ("renew-presented", Frame::Renew(Some(node))),
        ("renewed", answer(None, Ok(vec![4, 5, 6]))),
        ("renew-refused", answer(Some(node), Err(RenewRefusal::NotPresented))),
        ("ask-ticket", Frame::AskTicket),
        ("ticket", Frame::Ticket(Ticket { ticket: [0x71; 32], expires: time })),
        ("rotate", Frame::Rotate([0x71; 32])),
        ("leave", Frame::Leave),
        ("left", Frame::Left(time)),
        ("ask-presented", Frame::AskPresented),
        ("present", Frame::Present(vec![4, 5, 6])),
    ]
}

fn administration() -> Vec<(&'static str, Frame)> {
    let (node, time, id) = (NodeId::from_bytes([9; 16]), seconds(1_788_480_000), 5);
    let (token, day) = (seed(5).verifying_key(), Duration::from_secs(86_400));
    let by_name = NodeSelector::Name(parse("db-1"));
    let spec = TokenSpec {
        lifetime: Some(day),
        uses: Some(3),
        name: Some(parse("db-1")),
        groups: [parse("databases")].into(),
        routes: [parse("192.168.7.0/24")].into(),
        roles: Roles::GATEWAY,
        ephemeral: Some(day),
        admin: true,
        ..TokenSpec::new(token)
    };
    let info = NodeInfo {
        node,
        name: parse("db-1"),
        addresses: [parse("10.86.0.9"), parse("fd86::9")].into(),
        roles: Roles::GATEWAY,
        not_after: seconds(1_789_689_600),
        last_seen: Some(time),
        ephemeral: false,
    };
    let token_info = TokenInfo {
        id: token.key_id(),
        expires: time,
        uses_left: 0,
        first_spender: Some(node),
        name: Some(parse("db-1")),
        replaces: Some(node),
        ephemeral: false,
    };
    let presented = NodeSpec {
        key: static_key(9),
        name: parse("phone"),
        groups: [parse("staff")].into(),
        presented_by: Some(NodeSelector::Node(node)),
    };
    let detail = NodeDetail {
        info: info.clone(),
        key: static_key(9),
        serial: 1,
        groups: [parse("databases")].into(),
        routes: [parse("192.168.7.0/24")].into(),
        joined: time,
        token: Some(token.key_id()),
        presented_by: Some(node),
        endpoints: vec![parse("vpn.example.net:8662")],
    };
    let network_info = NetworkInfo {
        network: trust().network,
        root: seed(1).verifying_key().fingerprint(),
        version: network().version,
        expires: time,
        cidrs: network().cidrs,
        domain: network().domain,
        nodes: 2,
        revocations: 3,
        admin_groups: [parse("staff")].into(),
        lifetime: day,
        grace: day,
        refuse_when_stale: true,
        recovering_until: Some(time),
        rotation: None,
        groups: [parse("databases"), parse("staff")].into(),
    };
    let grant = TokenGrant {
        network: trust().network,
        server_key: static_key(0xc8),
        root: seed(1).verifying_key().fingerprint(),
        endpoints: vec![parse("vpn.example.net:8662")],
        expires: time,
    };
    let change = NodeChange {
        add_groups: [parse("databases")].into(),
        remove_groups: [parse("staff")].into(),
        add_roles: Roles::GATEWAY,
        remove_roles: Roles::RELAY,
        add_routes: [parse("192.168.7.0/24")].into(),
        remove_routes: [parse("192.168.8.0/24")].into(),
        admin: true,
    };
    let request = |operation| Frame::AdminRequest(AdminRequest { id, operation });
    let set = |change| Frame::AdminRequest(AdminRequest { id, operation: Operation::NetworkSet(change) });
    let answer = |reply| Frame::AdminAnswer(AdminAnswer { id, reply });
    let route = network().routes.into_iter().next().expect("a route");
    let server = network().servers.into_iter().next().expect("a server");
    let refused = Reply::Refused { reason: AdminRefusal::NotFound, detail: "no node is called db-2".into() };
    vec![
        ("token-new", request(Operation::TokenNew(TokenSpec::new(token)))),
        ("token-list", request(Operation::TokenList(Some(token.key_id())))),
        ("token-revoke", request(Operation::TokenRevoke(token.key_id()))),
        ("node-list", request(Operation::NodeList(Some(parse("db-1"))))),
        ("node-show", request(Operation::NodeShow(by_name.clone()))),
        ("node-add", request(Operation::NodeAdd(presented))),
        ("node-replace", request(Operation::NodeReplace(by_name.clone(), spec))),
        ("node-revoke", request(Operation::NodeRevoke(RevokeTarget::Node(NodeSelector::Node(node))))),
        ("node-revoke-key", request(Operation::NodeRevoke(RevokeTarget::Key(static_key(9))))),
        ("node-revoke-serial", request(Operation::NodeRevoke(RevokeTarget::Serial(node, 3)))),
        ("node-rename", request(Operation::NodeRename(by_name, parse("db-2")))),
        ("node-set", request(Operation::NodeSet(NodeSelector::Node(node), change))),
        ("network-show", request(Operation::NetworkShow)),
        ("network-set-group", set(NetworkChange::AddGroup(parse("staff")))),
        ("network-set-no-group", set(NetworkChange::RemoveGroup(parse("staff")))),
        ("network-set-admin-group", set(NetworkChange::AddAdminGroup(parse("staff")))),
        ("network-set-no-admin-group", set(NetworkChange::RemoveAdminGroup(parse("staff")))),
        ("network-set-route", set(NetworkChange::AddRoute(route))),
        ("network-set-no-route", set(NetworkChange::RemoveRoute(parse("192.168.7.0/24")))),
        ("network-set-server", set(NetworkChange::AddServer(server))),
        ("network-set-no-server", set(NetworkChange::RemoveServer(node))),
        ("network-set-refuse", set(NetworkChange::RefuseWhenStale(true))),
        ("network-set-lifetimes", set(NetworkChange::Lifetimes { membership: day, grace: day })),
        ("done", answer(Reply::Done)),
        ("granted", answer(Reply::Granted(grant))),
        ("tokens", answer(Reply::Tokens(Page { items: vec![token_info], more: true }))),
        ("nodes", answer(Reply::Nodes(Page { items: vec![info], more: false }))),
        ("node", answer(Reply::Node(Box::new(detail)))),
        ("network", answer(Reply::Network(Box::new(network_info)))),
        ("refused", answer(refused)),
    ]
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

fn ours() -> BTreeMap<String, String> {
    let (trust, network, head) = verified();
    let sign = |membership: Membership| {
        let bytes = membership.sign(&seed(3), &trust).expect("signed");
        assert_eq!(*Membership::verify(&bytes, &trust).expect("verified"), membership);
        bytes
    };
    let (membership, presented) = (sign(membership()), sign(presented()));
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
        ("membership-presented", hex(&presented)),
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
