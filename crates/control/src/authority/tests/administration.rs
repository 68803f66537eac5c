//! What administrators ask for.

use super::*;
use crate::document::{self, Revocation, Route};
use crate::frame::AdminRefusal;
use crate::frame::admin::{NetworkChange, NodeChange, NodeSelector, NodeSpec, RevokeTarget};

fn named(name: &str) -> NodeSelector {
    NodeSelector::Name(name.parse().unwrap())
}

impl World {
    fn set(&mut self, change: NetworkChange) {
        assert_eq!(self.local(Operation::NetworkSet(change)), Reply::Done);
    }

    fn refusal(&mut self, operation: Operation) -> (AdminRefusal, String) {
        match self.local(operation) {
            Reply::Refused { reason, detail } => (reason, detail),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_an_admin_group_administers_from_afar_control_rule_22() {
    let mut world = World::new(20);
    let staff: crate::GroupName = "staff".parse().unwrap();
    world.set(NetworkChange::AddGroup(staff.clone()));
    world.set(NetworkChange::AddAdminGroup(staff.clone()));
    let (key, mut spec) = world.spec();
    spec.groups = [staff].into();
    let (reason, detail) = world.refusal(Operation::TokenNew(spec.clone()));
    assert_eq!(reason, AdminRefusal::Invalid);
    assert!(detail.contains("--admin"), "{detail}");
    spec.admin = true;
    let token = world.grant(key, Operation::TokenNew(spec));
    let key = world.fresh_key();
    let admin = world.join(&token, key, Some("desk")).unwrap();
    let (plain, _) = world.member("db-1");
    let desk = Session { key: admin.key, ..plain };
    let list = |id| Frame::AdminRequest(AdminRequest { id, operation: Operation::NodeList(None) });
    let names = |frame| match frame {
        Frame::AdminAnswer(AdminAnswer { id: 5, reply: Reply::Nodes(page) }) => {
            page.items.iter().map(|info| info.name.to_string()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let frame = world.ask(&desk, &list(5));
    assert_eq!(names(frame), ["db-1", "desk", "hub"]);
    for session in [plain, Session { authorised: false, ..desk }] {
        let Frame::AdminAnswer(answer) = world.ask(&session, &list(6)) else { panic!() };
        let refused = matches!(answer.reply, Reply::Refused { reason: AdminRefusal::NotAllowed, .. });
        assert!(refused);
    }
    // What is done from afar is in the log, by the node's id.
    let operation = Operation::NodeRevoke(RevokeTarget::Node(named("db-1")));
    world.ask(&desk, &Frame::AdminRequest(AdminRequest { id: 7, operation }));
    let who = Actor::Administrator(admin.node, "desk".parse().unwrap());
    assert_eq!(world.store.changes().last().unwrap().actor, who);
    // Whoever is taken out of the group is refused at once, whatever its membership says.
    let change = NodeChange { remove_groups: set(&["staff"]), ..NodeChange::default() };
    assert_eq!(world.local(Operation::NodeSet(named("desk"), change)), Reply::Done);
    let Frame::AdminAnswer(answer) = world.ask(&desk, &list(8)) else { panic!() };
    assert!(matches!(answer.reply, Reply::Refused { reason: AdminRefusal::NotAllowed, .. }));
}

#[test]
fn a_change_that_is_asked_for_again_is_done_once_control_rule_22() {
    let mut world = World::new(23);
    let staff: crate::GroupName = "staff".parse().unwrap();
    world.set(NetworkChange::AddGroup(staff.clone()));
    world.set(NetworkChange::AddAdminGroup(staff.clone()));
    let (desk, _) = world.member("desk");
    world.member("db-1");
    let rename = |id, from: &str, to: &str| {
        let operation = Operation::NodeRename(named(from), to.parse().unwrap());
        Frame::AdminRequest(AdminRequest { id, operation })
    };
    // Who is in no group is refused, and so nothing of it is remembered.
    let Frame::AdminAnswer(answer) = world.ask(&desk, &rename(9, "db-1", "db-2")) else { panic!() };
    assert!(matches!(answer.reply, Reply::Refused { reason: AdminRefusal::NotAllowed, .. }));
    let change = NodeChange { add_groups: set(&["staff"]), admin: true, ..NodeChange::default() };
    assert_eq!(world.local(Operation::NodeSet(named("desk"), change)), Reply::Done);
    let done = world.store.changes().len();
    // Three times while the store is at work: one transaction, one answer.
    for _ in 0..3 {
        world.authority.handle_frame(&desk, &rename(9, "db-1", "db-2"), world.now, &mut world.rng);
    }
    let answer = Frame::AdminAnswer(AdminAnswer { id: 9, reply: Reply::Done });
    assert_eq!(world.settle(), [(desk.id, answer.clone())]);
    assert_eq!(world.store.changes().len(), done + 1);
    // Its answer was lost: it comes once more, and nothing is renamed back meanwhile or twice.
    assert_eq!(world.local(Operation::NodeRename(named("db-2"), "db-1".parse().unwrap())), Reply::Done);
    assert_eq!(world.ask(&desk, &rename(9, "db-1", "db-2")), answer);
    assert_eq!(world.store.changes().len(), done + 2);
    assert_eq!(world.ask(&desk, &rename(10, "db-1", "db-2")), {
        Frame::AdminAnswer(AdminAnswer { id: 10, reply: Reply::Done })
    });
    assert_eq!(world.store.changes().len(), done + 3);
}

#[test]
fn lists_come_in_pages_and_lose_nobody() {
    let mut world = World::new(21);
    let (key, mut spec) = world.spec();
    spec.uses = Some(40);
    let token = world.grant(key, Operation::TokenNew(spec));
    for number in 0..40 {
        let key = world.fresh_key();
        world.join(&token, key, Some(&format!("a-rather-long-name-of-a-node-{number:02}"))).unwrap();
    }
    let key = world.fresh_key();
    assert_eq!(world.join(&token, key, None), Err(JoinRefusal::Spent));
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let Reply::Nodes(page) = world.local(Operation::NodeList(after.clone())) else { panic!() };
        after = page.items.last().map(|info| info.name.clone());
        names.extend(page.items.into_iter().map(|info| info.name));
        if !page.more {
            break;
        }
    }
    assert_eq!(names.len(), 41);
    assert!(names.is_sorted_by(|a, b| a < b));
    let Reply::Tokens(tokens) = world.local(Operation::TokenList(None)) else { panic!() };
    assert_eq!((tokens.items.len(), tokens.items[0].uses_left, tokens.more), (1, 0, false));
}

#[test]
fn a_node_is_replaced_in_one_transaction_control_rule_20() {
    let mut world = World::new(22);
    let (old, first) = world.member("db-1");
    let (key, spec) = world.spec();
    let token = world.grant(key, Operation::NodeReplace(named("db-1"), spec));
    assert!(world.renew(&old).is_ok(), "the token alone takes nothing");
    let key = world.fresh_key();
    let next = world.join(&token, key, Some("ignored")).unwrap();
    assert_eq!((&next.name, &next.addresses), (&first.name, &first.addresses));
    assert_ne!(next.node, first.node);
    assert!(world.revokes(&first) && !world.revokes(&next));
    assert_eq!(
        next.network_version,
        world.authority.document().unwrap().version,
        "with the document that revokes"
    );
    assert_eq!(world.renew(&old), Err(RenewRefusal::Revoked));
    assert_eq!(world.join(&token, key, None).map(|m| m.node), Ok(next.node), "a lost answer");
}

#[test]
fn who_replaces_a_gateway_presents_routes_and_serves_what_it_did_control_rule_20() {
    let mut world = World::new(24);
    let (key, mut spec) = world.spec();
    (spec.roles, spec.routes) = (Roles::GATEWAY | Roles::RELAY, set(&["192.168.7.0/24"]));
    let token = world.grant(key, Operation::TokenNew(spec));
    let key = world.fresh_key();
    let old = world.join(&token, key, Some("gate")).unwrap();
    let route = Route { prefix: "192.168.7.0/24".parse().unwrap(), gateways: [old.node].into() };
    world.set(NetworkChange::AddRoute(route));
    let server = document::Server {
        node: old.node,
        key: old.key,
        roles: Roles::RELAY,
        endpoints: vec!["gate.example.net:8662".parse().unwrap()],
    };
    world.set(NetworkChange::AddServer(server));
    let spec = NodeSpec {
        key: world.fresh_key(),
        name: "phone".parse().unwrap(),
        groups: set(&[]),
        presented_by: Some(named("gate")),
    };
    let Reply::Node(phone) = world.local(Operation::NodeAdd(spec)) else { panic!() };

    let (key, spec) = world.spec();
    let token = world.grant(key, Operation::NodeReplace(named("gate"), spec));
    let key = world.fresh_key();
    let new = world.join(&token, key, None).unwrap();
    let Reply::Node(after) = world.local(Operation::NodeShow(named("phone"))) else { panic!() };
    assert_eq!(after.presented_by, Some(new.node));
    assert_eq!((after.info.node, &after.info.addresses), (phone.info.node, &phone.info.addresses));
    let gate = Session { authorised: true, ..world.fresh_session(key) };
    let shown = world.renewal(&gate, &Frame::Renew(Some(phone.info.node))).unwrap();
    assert_eq!((shown.presenter, shown.key), (Some(new.node), phone.key));
    let document = world.authority.document().unwrap();
    assert!(document.routes.iter().all(|route| route.gateways == [new.node].into()), "{:?}", document.routes);
    let relay = document.servers.iter().find(|server| server.node == new.node).unwrap();
    assert_eq!((relay.key, relay.roles), (key, Roles::RELAY));
    assert!(!document.servers.iter().any(|server| server.node == old.node));
    // The machine with the register is none that a token replaces.
    let (_, spec) = world.spec();
    assert_eq!(world.refusal(Operation::NodeReplace(named("hub"), spec)).0, AdminRefusal::Invalid);
}

/// So many revocations that hold for a day.
fn fill(world: &mut World, count: u32) {
    let until = UnixTime(world.now.wall.0 + DAY);
    for number in 0..count {
        let mut node = [0xee; 16];
        node[..4].copy_from_slice(&number.to_be_bytes());
        let key = Key::Revoked(Revocation::Node(NodeId::from_bytes(node)));
        world.store.records.insert(key, (1, Record::Revoked(until)));
    }
    world.restart();
}

#[test]
fn the_revocation_behind_the_last_is_refused_and_none_is_dropped_control_rule_16() {
    let mut world = World::new(25);
    fill(&mut world, NetworkDocument::REVOCATIONS_MAX as u32 - 1);
    let revoke = |world: &mut World| {
        let key = world.fresh_key();
        Operation::NodeRevoke(RevokeTarget::Key(key))
    };
    let last = revoke(&mut world);
    assert_eq!(world.local(last), Reply::Done);
    assert_eq!(world.authority.document().unwrap().revocations.len(), 5000);
    let one_more = revoke(&mut world);
    let (reason, detail) = world.refusal(one_more.clone());
    assert_eq!(reason, AdminRefusal::Limit);
    assert!(detail.contains("holds 5000 revocations, and 5001 are needed"), "{detail}");
    assert_eq!(world.authority.document().unwrap().revocations.len(), 5000);
    // What they void has expired.
    world.pass(DAY * 2);
    assert_eq!(world.local(one_more), Reply::Done);
    assert_eq!(world.authority.document().unwrap().revocations.len(), 2);
}

#[test]
fn what_nobody_asked_for_leaves_room_for_what_somebody_revokes_control_rules_16_and_17() {
    let mut world = World::new(26);
    let (session, _) = world.member("db-1");
    fill(&mut world, 4500);
    let rotate = |world: &mut World| {
        let Frame::Ticket(ticket) = world.ask(&session, &Frame::AskTicket) else { panic!() };
        let key = world.fresh_key();
        let new = world.fresh_session(key);
        world.renewal(&new, &Frame::Rotate(ticket.ticket)).map(|membership| membership.key == key)
    };
    assert_eq!(rotate(&mut world), Err(RenewRefusal::Busy));
    assert_eq!(world.local(Operation::NodeRevoke(RevokeTarget::Node(named("db-1")))), Reply::Done);
    let mut world = World::new(26);
    let (_, _) = world.member("db-1");
    fill(&mut world, 4499);
    assert_eq!(rotate(&mut world), Ok(true));
}

#[test]
fn a_stock_peer_is_added_and_renewed_by_its_presenter_control_rule_20() {
    let mut world = World::new(23);
    let (other, _) = world.member("db-1");
    let phone = world.fresh_key();
    let spec = |by: &str| NodeSpec {
        key: phone,
        name: "phone".parse().unwrap(),
        groups: set(&[]),
        presented_by: Some(named(by)),
    };
    assert_eq!(world.refusal(Operation::NodeAdd(spec("db-1"))).0, AdminRefusal::Invalid);
    let Reply::Node(added) = world.local(Operation::NodeAdd(spec("hub"))) else { panic!() };
    assert_eq!((added.key, added.info.addresses.len()), (phone, 2));
    assert_eq!(world.refusal(Operation::NodeAdd(spec("hub"))).0, AdminRefusal::Exists);
    let renew = Frame::Renew(Some(added.info.node));
    let hub = session(900, server_key(), true);
    assert_eq!(world.renewal(&hub, &renew).map(|m| (m.key, m.serial)), Ok((phone, 2)));
    assert_eq!(world.renewal(&other, &renew), Err(RenewRefusal::NotPresented));
    // Its membership says by whom it is reached, and who presents it may ask for it.
    let shown = world.ask(&hub, &Frame::AskPresented);
    let Frame::Present(bytes) = shown else { panic!("{shown:?}") };
    let shown = Membership::verify(&bytes, world.authority.trust()).unwrap();
    assert_eq!((shown.key, shown.presenter), (phone, Some(NodeId::from_bytes([0xc8; 16]))));
    // Nobody is named: the first server that may.
    let spec = NodeSpec {
        key: world.fresh_key(),
        name: "tablet".parse().unwrap(),
        presented_by: None,
        groups: set(&[]),
    };
    let Reply::Node(tablet) = world.local(Operation::NodeAdd(spec)) else { panic!() };
    assert_eq!(tablet.presented_by, Some(NodeId::from_bytes([0xc8; 16])));
}

#[test]
fn what_a_node_may_is_changed_and_what_it_loses_is_void_at_once() {
    let mut world = World::new(29);
    let (session, first) = world.member("db-1");
    world.set(NetworkChange::AddGroup("databases".parse().unwrap()));
    let set_node = |change| Operation::NodeSet(named("db-1"), change);
    let add =
        NodeChange { add_groups: set(&["databases"]), add_roles: Roles::GATEWAY, ..NodeChange::default() };
    let (reason, detail) =
        world.refusal(set_node(NodeChange { add_groups: set(&["database"]), ..NodeChange::default() }));
    assert_eq!(reason, AdminRefusal::NotFound);
    assert!(detail.contains("did you mean databases?"), "{detail}");
    assert_eq!(world.local(set_node(add)), Reply::Done);
    let second = world.renew(&session).unwrap();
    assert_eq!((&second.groups, second.roles), (&set(&["databases"]), Roles::GATEWAY));
    assert!(!world.revokes(&first), "with less it does no harm");
    let remove = NodeChange {
        remove_groups: set(&["databases"]),
        remove_roles: Roles::GATEWAY,
        ..NodeChange::default()
    };
    assert_eq!(world.local(set_node(remove.clone())), Reply::Done);
    assert!(world.revokes(&second) && world.revokes(&first));
    let third = world.renew(&session).unwrap();
    assert!(third.groups.is_empty() && third.roles == Roles::NONE && !world.revokes(&third));
    assert_eq!(world.refusal(set_node(remove)).0, AdminRefusal::NotFound, "it is in the group no more");
    // A server keeps the roles that it serves with.
    let hub = NodeChange { remove_roles: Roles::RELAY, ..NodeChange::default() };
    let (reason, detail) = world.refusal(Operation::NodeSet(named("hub"), hub));
    assert!(reason == AdminRefusal::Invalid && detail.contains("network server"), "{detail}");
    // Whoever is mistyped is guessed.
    let (_, detail) = world.refusal(Operation::NodeShow(named("db-2")));
    assert!(detail.contains("did you mean db-1?"), "{detail}");
}

#[test]
fn nodes_keys_and_serials_are_revoked_control_rule_17() {
    let mut world = World::new(24);
    let (session, first) = world.member("db-1");
    let second = world.renew(&session).unwrap();
    let serial = RevokeTarget::Serial(first.node, 1);
    assert_eq!(world.local(Operation::NodeRevoke(serial)), Reply::Done);
    assert!(world.revokes(&first) && !world.revokes(&second));
    let key = RevokeTarget::Key(first.key);
    assert_eq!(world.local(Operation::NodeRevoke(key)), Reply::Done);
    assert!(world.revokes(&second));
    let revocations = &world.authority.document().unwrap().revocations;
    assert!(
        revocations.contains(&Revocation::Key(first.key))
            && revocations.contains(&Revocation::Node(first.node))
    );
    let (reason, detail) = world.refusal(Operation::NodeRevoke(RevokeTarget::Node(named("db-1"))));
    assert_eq!(reason, AdminRefusal::NotFound);
    assert!(detail.contains("db-1") && detail.contains("node list"), "{detail}");
    let (_, detail) = world.refusal(Operation::NodeRevoke(RevokeTarget::Node(named("hub"))));
    assert!(detail.contains("network server remove hub"), "{detail}");
}

#[test]
fn a_former_name_stays_its_owners_while_somebody_may_know_him_by_it_control_rule_4() {
    let mut world = World::new(25);
    let (session, first) = world.member("db-1");
    assert_eq!(world.local(Operation::NodeRename(named("db-1"), "db-2".parse().unwrap())), Reply::Done);
    assert_eq!(world.renew(&session).unwrap().name.as_str(), "db-2");
    let (token, key) = (world.token(), world.fresh_key());
    assert_eq!(world.join(&token, key, Some("db-1")), Err(JoinRefusal::NameTaken));
    assert_eq!(world.refusal(Operation::NodeShow(named("db-1"))).0, AdminRefusal::NotFound);
    // Its owner may take it back.
    assert_eq!(world.local(Operation::NodeRename(named("db-2"), "db-1".parse().unwrap())), Reply::Done);
    let Reply::Node(detail) = world.local(Operation::NodeShow(named("db-1"))) else { panic!() };
    assert_eq!(detail.info.node, first.node);
}

#[test]
fn the_network_is_changed_by_a_new_document() {
    let mut world = World::new(26);
    let before = world.authority.document().unwrap().version;
    world.set(NetworkChange::AddGroup("databases".parse().unwrap()));
    world.set(NetworkChange::RefuseWhenStale(true));
    let document = world.authority.document().unwrap();
    assert!(
        document.refuse_when_stale && document.groups == set(&["databases"]) && document.version > before
    );
    world.set(NetworkChange::Lifetimes { membership: DAY, grace: Duration::ZERO });
    let (_, membership) = world.member("db-1");
    assert_eq!((membership.lifetime(), membership.grace), (DAY, Duration::ZERO));
    let Reply::Network(info) = world.local(Operation::NetworkShow) else { panic!() };
    assert_eq!((info.nodes, info.lifetime, info.root), (2, DAY, world.root.fingerprint()));
    world.set(NetworkChange::RotateKeys(DAY * 7));
    assert_eq!(world.authority.document().unwrap().rotation(), DAY * 7, "control rule 17");
    let minute = NetworkChange::RotateKeys(Duration::from_secs(60));
    assert_eq!(world.refusal(Operation::NetworkSet(minute)).0, AdminRefusal::Invalid);
    let year = NetworkChange::Lifetimes { membership: DAY * 365, grace: DAY };
    assert_eq!(world.refusal(Operation::NetworkSet(year)).0, AdminRefusal::Invalid);
    let last = NetworkChange::RemoveServer(NodeId::from_bytes([0xc8; 16]));
    assert_eq!(world.refusal(Operation::NetworkSet(last)).0, AdminRefusal::Invalid);
}

#[test]
fn a_revoked_token_admits_nobody() {
    let mut world = World::new(27);
    let token = world.token();
    let id = token.public_key().key_id();
    assert_eq!(world.local(Operation::TokenRevoke(id)), Reply::Done);
    let key = world.fresh_key();
    assert_eq!(world.join(&token, key, None), Err(JoinRefusal::UnknownToken));
    assert_eq!(world.refusal(Operation::TokenRevoke(id)).0, AdminRefusal::NotFound);
}

#[test]
fn a_new_epoch_publishes_and_drops_the_issuers_that_it_does_not_name_control_rule_1() {
    let mut world = World::new(28);
    let new = SigningKey::from_seed([0x44; 32]);
    let only_new = {
        let mut other = RootKeys::from_bytes(&world.root.to_bytes()).unwrap();
        other.sign(vec![issuer(&new)], world.now.wall).unwrap().encoded().to_vec()
    };
    let error = world.authority.install_trust(&only_new, world.now, &mut world.rng);
    assert!(matches!(error, Err(GenesisError::NotNamed(_))));
    let both = world.root.reissue(|_| true, vec![issuer(&new)], world.now.wall).unwrap().encoded().to_vec();
    world.authority.install_trust(&both, world.now, &mut world.rng).unwrap();
    world.settle();
    assert_eq!(world.authority.document().unwrap().version.epoch, 2);
    let again = world.authority.install_trust(&both, world.now, &mut world.rng);
    assert_eq!(again, Err(GenesisError::Older { found: 2, held: 2 }));
    let rotated = world.root.rotate(world.now.wall, &mut world.rng).unwrap().encoded().to_vec();
    world.authority.install_trust(&rotated, world.now, &mut world.rng).unwrap();
    world.settle();
    world.restart();
    assert_eq!(world.authority.settings().root, world.root.fingerprint());
    assert_eq!(world.authority.document().unwrap().version.epoch, 3);
}
