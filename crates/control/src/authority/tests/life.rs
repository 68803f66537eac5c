//! Joining, renewing, rotating, leaving.

use super::*;
use crate::authority::audit::ChangeKind;
use crate::document::{Revocation, Validity};
use crate::verifier::CLOCK_SKEW;

#[test]
fn a_token_admits_one_node_for_an_hour_without_groups_control_rule_15() {
    let mut world = World::new(1);
    let token = world.token();
    assert_eq!((token.server_key(), *token.root()), (&server_key(), world.root.fingerprint()));
    let key = world.fresh_key();
    let membership = world.join(&token, key, Some("db-1")).unwrap();
    assert_eq!((membership.key, membership.name.as_str()), (key, "db-1"));
    assert!(membership.groups.is_empty() && membership.roles == Roles::NONE);
    assert_eq!(membership.addresses.len(), 2);
    assert_eq!(membership.validity(world.now.wall, CLOCK_SKEW), Validity::Valid);
    let late = world.token();
    world.pass(Duration::from_secs(3600));
    let key = world.fresh_key();
    assert_eq!(world.join(&late, key, None), Err(JoinRefusal::Expired));
}

#[test]
fn the_same_keys_retry_gets_the_same_membership_and_anothers_raises_an_alarm_control_rule_15() {
    let mut world = World::new(2);
    let (token, key, thief) = (world.token(), world.fresh_key(), world.fresh_key());
    let membership = world.join(&token, key, None).unwrap();
    world.restart();
    assert_eq!(world.join(&token, key, Some("other")), Ok(membership.clone()));
    assert_eq!(world.join(&token, thief, None), Err(JoinRefusal::Spent));
    let alarm = Event::TokenReused {
        token: token.public_key().key_id(),
        first_spender: membership.node,
        first_key: key,
        key: thief,
    };
    assert_eq!(world.events.pop_back(), Some(alarm.clone()));
    // It stands in the audit log with the first spender's name and the thief's key; once, however often he tries.
    assert_eq!(world.join(&token, thief, None), Err(JoinRefusal::Spent));
    assert_eq!(world.events.pop_back(), Some(alarm));
    let tried = |world: &World| -> Vec<Change> {
        world.store.changes().into_iter().filter(|change| change.kind == ChangeKind::TokenReused).collect()
    };
    let entry = tried(&world);
    let [change] = entry.as_slice() else { panic!("{entry:?}") };
    let id = token.public_key().key_id();
    assert_eq!((change.node, change.token, change.key), (Some(membership.node), Some(id), Some(thief)));
    assert!(change.text.as_ref().is_some_and(|text| text.contains(&key.to_string())), "{change:?}");
    world.pass(Duration::from_secs(3700));
    assert_eq!(world.join(&token, thief, None), Err(JoinRefusal::Spent));
    assert_eq!(tried(&world).len(), 2, "an hour later he is at it still");
}

#[test]
fn a_server_whose_clock_jumps_ahead_ends_nobodys_membership_control_rule_18() {
    let mut world = World::new(30);
    let (session, first) = world.member("db-1");
    world.pass(Duration::from_secs(5));
    let right = world.now;
    for ahead in [DAY * 30, DAY * 3652] {
        world.now.wall = UnixTime(world.now.wall.0 + ahead);
        world.pass(Duration::from_secs(3600));
        let now = UnixTime(right.wall.0 + world.now.boot.saturating_duration_since(right.boot));
        assert_eq!(world.authority.clock_ahead(world.now), Some(ahead));
        let document = world.authority.document().unwrap();
        assert!(document.issued <= now && document.expires > now, "signed, and by the boot clock");
        let renewed = world.renew(&session).unwrap();
        assert!(renewed.serial > first.serial && renewed.not_before <= now);
        world.now.wall = now;
    }
    // It was set right, and is followed again.
    world.pass(Duration::from_secs(5));
    assert_eq!(world.authority.clock_ahead(world.now), None);
}

#[test]
fn a_server_that_starts_with_a_clock_far_ahead_waits_for_it_to_be_set_control_rule_18() {
    let mut world = World::new(31);
    let (session, _) = world.member("db-1");
    let right = world.now;
    world.now.wall = UnixTime(right.wall.0 + DAY * 30);
    world.restart();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.renew(&session), Err(RenewRefusal::Busy));
    assert!(world.authority.document().unwrap().issued <= right.wall);
    // It was right: the machine was off.
    world.pass(Duration::from_secs(61));
    assert_eq!(world.authority.clock_ahead(world.now), None);
    assert_eq!(
        world.renew(&session).map(|renewed| renewed.not_before.0.as_secs()),
        Ok(world.now.wall.0.as_secs())
    );
}

#[test]
fn a_proof_is_good_in_its_own_session_alone_control_rule_15() {
    let mut world = World::new(3);
    let (token, key, thief) = (world.token(), world.fresh_key(), world.fresh_key());
    let mine = world.fresh_session(key);
    let overheard = request(&token, &mine, None);
    for wrong in [Session { handshake_hash: [9; 32], ..mine }, Session { key: thief, ..mine }] {
        let Frame::JoinAnswer(answer) = world.ask(&wrong, &overheard) else { panic!() };
        assert_eq!(answer.outcome, Err(JoinRefusal::UnknownToken));
    }
    let stranger =
        Token::new(*token.network(), server_key(), *token.root(), token.endpoints().to_vec(), issuer_key());
    assert_eq!(world.join(&stranger.unwrap(), thief, None), Err(JoinRefusal::UnknownToken));
    assert!(world.join(&token, key, None).is_ok());
}

#[test]
fn a_name_and_an_address_have_one_owner_control_rule_4() {
    // Six host addresses, of which the server has one.
    let mut world = World::with_cidrs(4, &["10.86.0.0/29"]);
    let (_, first) = world.member("db-1");
    let token = world.token();
    let key = world.fresh_key();
    assert_eq!(world.join(&token, key, Some("db-1")), Err(JoinRefusal::NameTaken));
    let mut addresses = first.addresses.clone();
    assert!(world.join(&token, key, Some("db-2")).map(|m| addresses.extend(m.addresses)).is_ok());
    for name in ["db-3", "db-4", "db-5"] {
        addresses.extend(world.member(name).1.addresses);
    }
    assert_eq!(addresses.len(), 5);
    let (token, key) = (world.token(), world.fresh_key());
    assert_eq!(world.join(&token, key, None), Err(JoinRefusal::Full));
    // Who is revoked makes room, in the transaction that revokes.
    let target = crate::frame::admin::RevokeTarget::Node(crate::frame::admin::NodeSelector::Node(first.node));
    assert_eq!(world.local(Operation::NodeRevoke(target)), Reply::Done);
    let next = world.join(&token, key, Some("db-1")).unwrap();
    assert_eq!(next.addresses, first.addresses);
    assert!(world.revokes(&first) && !world.revokes(&next));
    assert_eq!(next.network_version, world.authority.document().unwrap().version);
}

#[test]
fn what_expired_for_good_passes_on_and_not_before_control_rule_4() {
    let mut world = World::new(5);
    let (_, first) = world.member("db-1");
    world.pass(DAY * 44);
    let (token, key) = (world.token(), world.fresh_key());
    assert_eq!(world.join(&token, key, Some("db-1")), Err(JoinRefusal::NameTaken));
    world.pass(CLOCK_SKEW);
    let next = world.join(&token, key, Some("db-1")).unwrap();
    assert_ne!(next.node, first.node);
}

#[test]
fn memberships_are_renewed_over_an_authorised_session_alone_control_rule_16() {
    let mut world = World::new(6);
    let (session, first) = world.member("db-1");
    world.pass(HALF_DAY);
    let renewed = world.renew(&session).unwrap();
    assert_eq!((renewed.node, renewed.serial, &renewed.addresses), (first.node, 2, &first.addresses));
    assert_eq!(renewed.not_after.0, first.not_after.0 + HALF_DAY);
    let provisional = Session { authorised: false, ..session };
    assert_eq!(world.renew(&provisional), Err(RenewRefusal::NotAMember));
    let stranger = super::session(9, world.fresh_key(), true);
    assert_eq!(world.renew(&stranger), Err(RenewRefusal::NotAMember));
}

#[test]
fn a_key_is_rotated_by_a_ticket_and_the_old_one_revoked_after_a_minute_control_rule_17() {
    let mut world = World::new(7);
    let (session, first) = world.member("db-1");
    let Frame::Ticket(ticket) = world.ask(&session, &Frame::AskTicket) else { panic!("no ticket") };
    let (new, thief) = (world.fresh_key(), world.fresh_key());
    let (new, thief) = (world.fresh_session(new), world.fresh_session(thief));
    let mut guessed = ticket.ticket;
    guessed[31] ^= 1;
    assert_eq!(world.renewal(&new, &Frame::Rotate(guessed)), Err(RenewRefusal::UnknownTicket));
    let rotate = Frame::Rotate(ticket.ticket);
    let rotated = world.renewal(&new, &rotate).unwrap();
    assert_eq!((rotated.node, rotated.key, rotated.serial), (first.node, new.key, 2));
    // Once: but the same key may have lost the answer.
    assert!(world.renewal(&new, &rotate).is_ok());
    assert_eq!(world.renewal(&thief, &rotate), Err(RenewRefusal::UnknownTicket));
    world.pass(Duration::from_secs(55));
    assert!(!world.revokes(&first));
    world.pass(Duration::from_secs(10));
    assert!(world.revokes(&first) && !world.revokes(&rotated));
    assert!(world.authority.document().unwrap().revocations.contains(&Revocation::Key(first.key)));
    assert_eq!(world.renewal(&thief, &rotate), Err(RenewRefusal::UnknownTicket), "nor later");
    assert_eq!(world.renew(&session), Err(RenewRefusal::Revoked));
    // The old key joins no more.
    let token = world.token();
    assert_eq!(world.join(&token, first.key, None), Err(JoinRefusal::Revoked));
}

#[test]
fn who_leaves_is_revoked_and_may_come_back_as_another_node_control_rule_16() {
    let mut world = World::new(8);
    let (session, first) = world.member("db-1");
    assert!(matches!(world.ask(&session, &Frame::Leave), Frame::Left(_)));
    assert!(world.revokes(&first));
    assert!(matches!(world.ask(&session, &Frame::Leave), Frame::Left(_)), "the answer was lost");
    let token = world.token();
    let again = world.join(&token, first.key, Some("db-1")).unwrap();
    assert_ne!(again.node, first.node);
    assert!(!world.revokes(&again));
}

#[test]
fn an_ephemeral_node_is_gone_a_while_after_it_was_last_seen_control_rule_20() {
    let mut world = World::new(9);
    let (key, mut spec) = world.spec();
    spec.ephemeral = Some(Duration::from_secs(600));
    let token = world.grant(key, Operation::TokenNew(spec));
    let key = world.fresh_key();
    let membership = world.join(&token, key, None).unwrap();
    for _ in 0..4 {
        world.pass(Duration::from_secs(300));
        world.authority.note_seen(&key, world.now);
    }
    world.pass(Duration::from_secs(595));
    assert!(!world.revokes(&membership));
    // A restart forgets when it was seen, and gives it another while.
    world.restart();
    world.pass(Duration::from_secs(595));
    assert!(!world.revokes(&membership));
    world.pass(Duration::from_secs(10));
    assert!(world.revokes(&membership));
    assert!(world.authority.nodes().all(|node| node.node != membership.node));
}

#[test]
fn the_document_is_signed_anew_every_hour_and_forgets_what_has_expired_control_rule_2() {
    let mut world = World::new(10);
    let (session, first) = world.member("db-1");
    world.ask(&session, &Frame::Leave);
    let version = world.authority.document().unwrap().version;
    world.pass(Duration::from_secs(3599));
    assert_eq!(world.authority.document().unwrap().version, version);
    world.pass(Duration::from_secs(1));
    let document = world.authority.document().unwrap();
    assert!(document.version > version && world.revokes(&first));
    assert_eq!(document.audit_head, world.store.head.map(|head| head.hash), "with the head of the audit log");
    assert!(!document.is_stale(world.now.wall));
    // A clock that is set back takes no version back.
    let version = document.version;
    world.now.wall = day(TODAY - 100);
    world.pass(PUBLISH_INTERVAL);
    assert!(world.authority.document().unwrap().version > version);
    world.now.wall = day(TODAY);
    world.pass(DAY * 44);
    world.pass(DAY);
    assert!(!world.revokes(&first), "its memberships have expired with their grace");
    let kinds: Vec<_> = world.store.changes().into_iter().map(|change| change.kind.text()).collect();
    assert_eq!(&kinds[..4], ["network created", "token made", "node joined", "node left"]);
}

#[test]
fn a_store_that_cannot_write_is_said_and_nothing_is_acknowledged_control_rule_21() {
    let mut world = World::new(11);
    let (token, key) = (world.token(), world.fresh_key());
    let session = world.fresh_session(key);
    world.authority.handle_frame(&session, &request(&token, &session, None), world.now, &mut world.rng);
    let transaction = world.authority.poll_store().unwrap();
    assert_eq!(world.authority.poll_frame(), None, "nothing before the commit");
    world.authority.handle_store(transaction.id, Outcome::Failed, world.now, &mut world.rng);
    let Some((_, Frame::JoinAnswer(answer))) = world.authority.poll_frame() else { panic!() };
    assert_eq!(answer.outcome, Err(JoinRefusal::Busy));
    assert!(world.join(&token, key, None).is_ok(), "and the next try is free to succeed");
}
