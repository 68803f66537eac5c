//! Frames as an honest sender makes them, of each type.

use std::collections::BTreeSet;
use std::time::Duration;

use tombolo_control::SigningKey;
use tombolo_control::document::NetworkDocument;
use tombolo_control::document::{Roles, Route, Server};
use tombolo_control::frame::admin::{
    AdminAnswer, AdminRequest, NetworkChange, NodeChange, NodeSelector, NodeSpec, Operation, Reply,
    RevokeTarget, TokenGrant, TokenSpec,
};
use tombolo_control::frame::names::{AskNames, Names, tag_of};
use tombolo_control::frame::{
    Found, Frame, Introduce, JoinAnswer, JoinRefusal, Keepalive, KeepaliveAnswer, LookUp, LookUpAnswer,
    Order, PullBlock, RenewAnswer, RenewRefusal, Show, ShowRefusal, ShowRefused, Target, Ticket, Versions,
};
use tombolo_noise::clock::UnixTime;

use super::papers::{
    BEGIN, ENDPOINT, JOINER, MEMBER, OTHER, OWN, Papers, SERVER, STOCK, STRANGER, clock, join_request, key,
    parse,
};

const ORDER: Order = Order { epoch: 1 << 40, sequence: 1 };

fn versions() -> Versions {
    let papers = Papers::get();
    let (trust_epoch, trust_hash) = (papers.trust.epoch, papers.trust.hash());
    Versions { order: ORDER, trust_epoch, trust_hash, head: papers.published.head.clone() }
}

/// A node shows its membership.
pub(super) fn show(number: u8) -> Frame {
    let papers = Papers::get();
    // Who has none shows somebody else's.
    let number = if number == STRANGER { MEMBER } else { number };
    Frame::Show(Show { membership: papers.membership(number).to_vec(), versions: versions(), answer: false })
}

/// All types. `sent` is what the machine has asked before: answers fit that.
pub(super) fn all(sent: &[Frame]) -> Vec<Frame> {
    let papers = Papers::get();
    let time = clock(BEGIN).wall;
    let paper = |number: u8| papers.membership(number).to_vec();
    let network = NetworkDocument::verify(&papers.published.network, &papers.trust).expect("just signed");
    let hash = network.hash();
    let block = tombolo_control::pull::block(&papers.published.network, PullBlock { hash, index: 0 });
    let candidates = vec![parse("203.0.113.7:8662"), parse("[2001:db8::7]:8662")];
    let relays = vec![papers.node(SERVER)];
    let found = Found { membership: paper(OTHER), candidates: candidates.clone(), relays: relays.clone() };
    let asked = sent.iter().find_map(|frame| match frame {
        Frame::LookUp(look_up) => Some(look_up.id),
        _ => None,
    });
    let id = asked.unwrap_or(1);
    let order = sent.iter().find_map(|frame| match frame {
        Frame::Keepalive(keepalive) => Some(keepalive.order),
        _ => None,
    });
    let nonce = sent.iter().find_map(|frame| match frame {
        Frame::Challenge(nonce) | Frame::Explore(nonce) => Some(*nonce),
        _ => None,
    });
    let tags = vec![tag_of(&papers.member(OTHER)), tag_of(&papers.member(MEMBER))];
    let mut frames = vec![
        join_request(&papers.token, STRANGER),
        join_request(&papers.token, MEMBER),
        Frame::JoinAnswer(JoinAnswer { time, outcome: Ok(paper(OTHER)) }),
        Frame::JoinAnswer(JoinAnswer { time, outcome: Err(JoinRefusal::Busy) }),
        Frame::JoinAnswer(JoinAnswer { time, outcome: Err(JoinRefusal::Spent) }),
        show(MEMBER),
        show(SERVER),
        show(OTHER),
        Frame::ShowRefused(ShowRefused { reason: ShowRefusal::Later, time }),
        Frame::ShowRefused(ShowRefused { reason: ShowRefusal::Revoked, time: UnixTime(Duration::MAX) }),
        Frame::Versions(versions()),
        Frame::Versions(Versions { head: None, ..versions() }),
        Frame::Versions(Versions { trust_epoch: 9, ..versions() }),
        Frame::PullTrust,
        Frame::Trust(papers.trust.encoded().to_vec()),
        Frame::PullBlock(PullBlock { hash, index: 0 }),
        Frame::PullBlock(PullBlock { hash, index: u32::MAX }),
        Frame::LookUp(LookUp { id: 5, target: Target::Address(papers.address(OTHER)) }),
        Frame::LookUp(LookUp { id: 6, target: Target::Name(parse("hub")) }),
        Frame::LookUp(LookUp { id: 7, target: Target::Node(papers.node(MEMBER)) }),
        Frame::LookUpAnswer(LookUpAnswer { id, found: Some(found) }),
        Frame::LookUpAnswer(LookUpAnswer { id, found: None }),
        Frame::Introduce(Introduce {
            node: papers.node(OTHER),
            key: key(OTHER),
            candidates: candidates.clone(),
            membership: paper(OTHER),
        }),
        Frame::Keepalive(Keepalive { order: ORDER, candidates, relays }),
        Frame::KeepaliveAnswer(KeepaliveAnswer {
            order: order.unwrap_or(ORDER),
            observed: parse("203.0.113.9:1024"),
            trust_epoch: 1,
            network_counter: u64::MAX,
        }),
        Frame::Challenge([1; 16]),
        Frame::Explore([3; 16]),
        Frame::ChallengeAnswer(nonce.unwrap_or([2; 16])),
        Frame::AskNames(AskNames { epoch: 0, index: 0 }),
        Frame::AskNames(AskNames { epoch: u64::MAX, index: u64::MAX }),
        Frame::Names(Names { epoch: 1, first: 0, total: 2, tags: tags.clone() }),
        Frame::Names(Names { epoch: u64::MAX, first: u64::MAX, total: u64::MAX, tags: tags.clone() }),
        Frame::AskMembers(tags),
        Frame::Member(paper(OTHER)),
        Frame::Renew(None),
        Frame::Renew(Some(papers.node(STOCK))),
        Frame::RenewAnswer(RenewAnswer { time, node: None, outcome: Ok(paper(OWN)) }),
        Frame::RenewAnswer(RenewAnswer { time, node: Some(papers.node(STOCK)), outcome: Ok(paper(STOCK)) }),
        Frame::RenewAnswer(RenewAnswer { time, node: None, outcome: Err(RenewRefusal::Revoked) }),
        Frame::AskTicket,
        Frame::Ticket(Ticket { ticket: [9; 32], expires: time }),
        Frame::Rotate([9; 32]),
        Frame::Leave,
        Frame::Left(time),
        Frame::AskPresented,
        Frame::Present(paper(STOCK)),
        Frame::PathProbe { id: 1 },
        Frame::PathAnswer { id: 1, size: 1200 },
    ];
    frames.extend(block.map(Frame::Block));
    frames.extend(
        operations().into_iter().map(|operation| Frame::AdminRequest(AdminRequest { id: 9, operation })),
    );
    let granted = TokenGrant {
        network: papers.trust.network,
        server_key: key(SERVER),
        root: papers.trust.root.fingerprint(),
        endpoints: vec![parse(ENDPOINT)],
        expires: time,
    };
    let replies = papers.replies.iter().cloned().chain([Reply::Done, Reply::Granted(granted)]);
    frames.extend(replies.map(|reply| Frame::AdminAnswer(AdminAnswer { id: 9, reply })));
    frames
}

fn operations() -> Vec<Operation> {
    let papers = Papers::get();
    let spec = TokenSpec {
        lifetime: Some(Duration::from_secs(60)),
        uses: Some(3),
        name: Some(parse("fresh")),
        groups: [parse("ops")].into(),
        routes: [parse("192.168.7.0/24")].into(),
        roles: Roles::GATEWAY,
        ephemeral: Some(Duration::from_secs(600)),
        admin: true,
        ..TokenSpec::new(SigningKey::from_seed([8; 32]).verifying_key())
    };
    let by_name = || NodeSelector::Name(parse("printer"));
    let by_id = || NodeSelector::Node(papers.node(OTHER));
    let route = Route { prefix: parse("192.168.7.0/24"), gateways: [papers.node(OWN)].into() };
    let server = Server {
        node: papers.node(OWN),
        key: key(OWN),
        roles: Roles::RELAY,
        endpoints: vec![parse("relay.example.net:8662")],
    };
    let change = NodeChange {
        add_groups: [parse("ops")].into(),
        remove_groups: BTreeSet::new(),
        add_roles: Roles::RELAY,
        remove_roles: Roles::GATEWAY,
        add_routes: [parse("192.168.8.0/24")].into(),
        remove_routes: [parse("192.168.9.0/24")].into(),
        admin: true,
    };
    let mut operations = vec![
        Operation::TokenNew(spec.clone()),
        Operation::TokenList(None),
        Operation::TokenList(Some(papers.token.public_key().key_id())),
        Operation::TokenRevoke(papers.token.public_key().key_id()),
        Operation::NodeList(None),
        Operation::NodeList(Some(parse("hub"))),
        Operation::NodeShow(by_name()),
        Operation::NodeShow(by_id()),
        Operation::NodeAdd(NodeSpec {
            key: key(JOINER),
            name: parse("scanner"),
            groups: BTreeSet::new(),
            presented_by: Some(NodeSelector::Node(papers.node(OWN))),
        }),
        Operation::NodeReplace(by_id(), spec),
        Operation::NodeRename(by_name(), parse("plotter")),
        Operation::NodeSet(by_id(), change),
        Operation::NodeRevoke(RevokeTarget::Node(by_name())),
        Operation::NodeRevoke(RevokeTarget::Key(key(OTHER))),
        Operation::NodeRevoke(RevokeTarget::Serial(papers.node(MEMBER), 1)),
        Operation::NetworkShow,
    ];
    let lifetimes = NetworkChange::Lifetimes {
        membership: Duration::from_secs(86_400),
        grace: Duration::from_secs(86_400),
    };
    let changes = [
        NetworkChange::AddGroup(parse("staff")),
        NetworkChange::RemoveGroup(parse("staff")),
        NetworkChange::AddAdminGroup(parse("ops")),
        NetworkChange::RemoveAdminGroup(parse("ops")),
        NetworkChange::AddRoute(route),
        NetworkChange::RemoveRoute(parse("192.168.7.0/24")),
        NetworkChange::AddServer(server),
        NetworkChange::RemoveServer(papers.node(OWN)),
        NetworkChange::RefuseWhenStale(true),
        lifetimes,
    ];
    operations.extend(changes.map(Operation::NetworkSet));
    operations
}
