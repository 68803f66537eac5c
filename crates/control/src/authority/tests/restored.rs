//! After a restore: a day-old backup, and no backup at all (control rule 21).

use super::*;
use crate::authority::audit::ChangeKind;
use crate::document::{Head, NetworkDocument};
use crate::frame::admin::{NodeSelector, RevokeTarget};
use crate::frame::{Order, Show, Versions};

const GATHERING: Duration = Duration::from_secs(600);

fn restoration() -> Restoration {
    Restoration { actor: Actor::Local("uid 0".into()), gathering: GATHERING, moved: None }
}

/// What a node that holds `published` shows.
fn show(world: &World, membership: &[u8], published: Option<&Published>) -> Frame {
    let head = published.and_then(|published| published.head.clone());
    let trust = world.authority.trust();
    let order = Order { epoch: 1, sequence: 1 };
    let versions = Versions { order, trust_epoch: trust.epoch, trust_hash: trust.hash(), head };
    Frame::Show(Show { membership: membership.to_vec(), versions, answer: false })
}

impl World {
    fn shown(&mut self, session: &Session, frame: &Frame) {
        self.authority.handle_frame(session, frame, self.now, &mut self.rng);
        assert!(self.settle().is_empty());
    }

    fn membership_of(&self, node: NodeId) -> Vec<u8> {
        self.authority.nodes().find(|held| held.node == node).unwrap().membership.clone()
    }

    /// A token that is good for longer than the test.
    fn long_token(&mut self) -> Token {
        let (key, mut spec) = self.spec();
        spec.lifetime = Some(DAY * 30);
        self.grant(key, Operation::TokenNew(spec))
    }

    /// A new machine: the register of a backup, or an empty one, and a new issuer key that the root has named.
    fn rebuilt(&mut self, store: MemoryStore) -> SigningKey {
        let new = SigningKey::from_seed([0x55; 32]);
        self.root.reissue(|_| true, vec![issuer(&new)], self.now.wall).unwrap();
        self.store = store;
        self.authority = Authority::new(new.clone(), self.store.snapshot(), self.now).unwrap();
        let trust = self.root.trust().unwrap().encoded().to_vec();
        if self.authority.trust().epoch < self.root.trust().unwrap().epoch {
            self.authority.install_trust(&trust, self.now, &mut self.rng).unwrap();
        }
        self.settle();
        new
    }
}

#[test]
fn a_day_old_backup_resurrects_nothing_control_rule_21() {
    let mut world = World::new(40);
    let (kept, kept_first) = world.member("db-1");
    let (_, revoked) = world.member("db-2");
    let (unspent, spent_later) = (world.long_token(), world.long_token());
    let mut backup = world.store.clone();
    world.pass(DAY);
    let revoked_bytes = world.membership_of(revoked.node);
    let target = RevokeTarget::Node(NodeSelector::Node(revoked.node));
    assert_eq!(world.local(Operation::NodeRevoke(target)), Reply::Done);
    let key = world.fresh_key();
    let late = world.join(&spent_later, key, Some("db-3")).unwrap();
    let late_bytes = world.membership_of(late.node);
    let kept_bytes = world.membership_of(kept_first.node);
    let published = world.authority.published().unwrap().clone();
    let version = world.authority.document().unwrap().version;
    world.pass(DAY);

    let transaction = restore(&backup.snapshot(), restoration(), world.now.wall).unwrap();
    assert!(matches!(backup.execute(&transaction), Outcome::Committed { .. }));
    let new = world.rebuilt(backup);
    world.events.clear();
    // Nothing is issued, and nothing is published over what the nodes hold.
    assert_eq!(world.renew(&kept), Err(RenewRefusal::Busy));
    let key = world.fresh_key();
    assert_eq!(world.join(&unspent, key, None), Err(JoinRefusal::Busy));
    assert!(world.authority.document().is_some_and(|held| held.version < version));
    // The revoked one shows itself first, with nothing but its membership.
    let revoked_session = session(500, revoked.key, true);
    let frame = show(&world, &revoked_bytes, None);
    world.shown(&revoked_session, &frame);
    // A node that joined after the backup shows itself, and tells of its newer document.
    let late_session = session(501, late.key, true);
    let frame = show(&world, &late_bytes, Some(&published));
    world.shown(&late_session, &frame);
    let wanted = world
        .events
        .iter()
        .any(|event| matches!(event, Event::DocumentWanted { session: SessionId(501), .. }));
    assert!(wanted, "{:?}", world.events);
    // As long as that document has not come, the time alone ends nothing.
    world.pass(GATHERING);
    world.pass(GATHERING);
    assert_eq!(world.renew(&kept), Err(RenewRefusal::Busy));
    world.authority.handle_document(&published.network, world.now, &mut world.rng).unwrap();
    assert!(world.settle().is_empty());
    world.pass(Duration::from_secs(5));
    assert!(!world.authority.is_recovering(world.now));

    let frame = show(&world, &kept_bytes, None);
    world.shown(&kept, &frame);
    assert_eq!(world.renew(&revoked_session), Err(RenewRefusal::Revoked));
    let renewed = world.renew(&kept).unwrap();
    // More than any serial that was given and forgotten: the same serial twice would be an alarm.
    let floor = world.authority.settings().serial_floor;
    assert_eq!((renewed.node, renewed.serial), (kept_first.node, floor));
    let adopted = world.renew(&late_session).unwrap();
    assert_eq!((adopted.node, adopted.serial, &adopted.addresses), (late.node, floor, &late.addresses));
    let document = world.authority.document().unwrap();
    assert!(document.version > version && world.revokes(&revoked));
    assert_eq!(document.signer(), new.verifying_key().key_id());
    // Tokens of before are void, also the one that nobody has spent.
    assert_eq!(world.join(&unspent, key, None), Err(JoinRefusal::UnknownToken));
    assert!(world.member("db-4").1.serial == floor);
}

#[test]
fn a_node_that_claims_what_the_restored_register_gives_to_another_is_told_of_control_rule_4() {
    let mut world = World::new(43);
    let (_, first) = world.member("db-1");
    let mut backup = world.store.clone();
    let (key, spec) = world.spec();
    let selector = NodeSelector::Node(first.node);
    let token = world.grant(key, Operation::NodeReplace(selector, spec));
    let key = world.fresh_key();
    let second = world.join(&token, key, None).unwrap();
    assert_eq!(second.addresses, first.addresses);
    let bytes = world.membership_of(second.node);
    let transaction = restore(&backup.snapshot(), restoration(), world.now.wall).unwrap();
    assert!(matches!(backup.execute(&transaction), Outcome::Committed { .. }));
    world.rebuilt(backup);
    world.events.clear();
    let frame = show(&world, &bytes, None);
    world.shown(&session(502, key, true), &frame);
    let alarm = Event::AdoptionConflict { holder: first.node, claimant: second.node, key };
    assert!(world.events.contains(&alarm), "{:?}", world.events);
    let disputed = |change: &Change| change.kind == ChangeKind::Disputed;
    let entry = world.store.changes().into_iter().find(disputed).unwrap();
    assert_eq!((entry.node, entry.key, entry.actor), (Some(first.node), Some(key), Actor::Node(second.node)));
}

#[test]
fn the_root_key_alone_brings_the_network_back_control_rule_21() {
    let mut world = World::new(41);
    let (session, first) = world.member("db-1");
    let (_, revoked) = world.member("db-2");
    let target = RevokeTarget::Node(NodeSelector::Node(revoked.node));
    assert_eq!(world.local(Operation::NodeRevoke(target)), Reply::Done);
    let bytes = world.membership_of(first.node);
    let published = world.authority.published().unwrap().clone();
    let hub = world.membership_of(NodeId::from_bytes([0xc8; 16]));

    let new = SigningKey::from_seed([0x55; 32]);
    world.root.reissue(|_| true, vec![issuer(&new)], world.now.wall).unwrap();
    let genesis = Genesis { issuer: new, ..genesis(&world.root, &["10.99.0.0/16"]) };
    let mut store = MemoryStore::default();
    store.execute(&without_backup(&genesis, None, GATHERING, world.now).unwrap());
    world.rebuilt(store);
    // Its own new epoch was signed for the rebuilt machine; nothing was published yet.
    assert!(world.authority.document().is_none());
    let frame = show(&world, &bytes, Some(&published));
    world.shown(&session, &frame);
    world.authority.handle_document(&published.network, world.now, &mut world.rng).unwrap();
    assert!(world.settle().is_empty());
    let frame = show(&world, &hub, None);
    world.shown(&super::session(600, server_key(), true), &frame);
    world.pass(GATHERING);
    let document = world.authority.document().unwrap();
    assert_eq!(document.cidrs, set(&["10.86.0.0/16", "fd86::/64"]), "as the nodes have it");
    assert!(world.revokes(&revoked) && !world.revokes(&first));
    let renewed = world.renew(&session).unwrap();
    assert_eq!((renewed.node, &renewed.addresses), (first.node, &first.addresses));
    assert!(renewed.serial > first.serial);
    assert!(world.authority.nodes().any(|node| node.key == server_key()));
}

#[test]
fn who_was_away_while_nodes_were_gathered_is_taken_in_later_control_rule_21() {
    let mut world = World::new(43);
    let token = world.long_token();
    let mut backup = world.store.clone();
    let (key, other) = (world.fresh_key(), world.fresh_key());
    let late = world.join(&token, key, Some("laptop")).unwrap();
    let bytes = world.membership_of(late.node);
    let token = world.long_token();
    let gone = world.join(&token, other, Some("gone")).unwrap();
    let gone_bytes = world.membership_of(gone.node);
    let target = RevokeTarget::Node(NodeSelector::Node(gone.node));
    assert_eq!(world.local(Operation::NodeRevoke(target)), Reply::Done);
    let published = world.authority.published().unwrap().clone();
    let transaction = restore(&backup.snapshot(), restoration(), world.now.wall).unwrap();
    backup.execute(&transaction);
    world.rebuilt(backup);
    // Somebody has the newest document; the laptop sleeps.
    world.authority.handle_document(&published.network, world.now, &mut world.rng).unwrap();
    assert!(world.settle().is_empty());
    world.pass(GATHERING * 2);
    assert!(!world.authority.is_recovering(world.now));
    let session = session(700, late.key, true);
    assert_eq!(world.renew(&session), Err(RenewRefusal::NotAMember));
    let frame = show(&world, &bytes, None);
    world.shown(&session, &frame);
    let renewed = world.renew(&session).unwrap();
    assert_eq!((renewed.node, &renewed.addresses), (late.node, &late.addresses));
    // What was revoked stays so.
    let session = super::session(701, gone.key, true);
    let frame = show(&world, &gone_bytes, None);
    world.shown(&session, &frame);
    assert!(world.renew(&session).is_err());
}

#[test]
fn a_server_without_backup_is_the_node_that_others_know_control_rule_21() {
    let mut world = World::new(44);
    let hub = NodeId::from_bytes([0xc8; 16]);
    let bytes = world.membership_of(hub);
    let first = world.authority.nodes().find(|node| node.node == hub).unwrap().clone();
    let new = SigningKey::from_seed([0x55; 32]);
    world.root.reissue(|_| true, vec![issuer(&new)], world.now.wall).unwrap();
    // Its membership and its grace are long over.
    world.now.wall = after(world.now.wall, DAY * 100);
    let genesis = Genesis { issuer: new, ..genesis(&world.root, &["10.99.0.0/16"]) };
    let mut store = MemoryStore::default();
    store.execute(&without_backup(&genesis, Some(&bytes), GATHERING, world.now).unwrap());
    world.rebuilt(store);
    world.pass(GATHERING * 2);
    let session = session(1, server_key(), true);
    let renewed = world.renew(&session).unwrap();
    assert_eq!((renewed.node, &renewed.name, &renewed.addresses), (hub, &first.name, &first.addresses));
    assert!(renewed.serial > first.serial);
}

#[test]
fn a_document_that_no_issuer_signed_is_not_taken_control_rule_21() {
    let mut world = World::new(42);
    let published = world.authority.published().unwrap().clone();
    let mut forged = published.network.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(world.authority.handle_document(&forged, world.now, &mut world.rng).is_err());
    assert!(NetworkDocument::verify(&forged, world.authority.trust()).is_err());
    assert!(Head::verify(&published.head.unwrap(), world.authority.trust()).is_ok());
    // Nor is anything taken when nothing was restored.
    world.authority.handle_document(&published.network, world.now, &mut world.rng).unwrap();
    assert!(world.authority.poll_store().is_none());
}
