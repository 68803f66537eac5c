use super::*;
use crate::document::{NetworkDocument, Revocation};
use crate::test_support::*;

const DIRECT: &str = "192.0.2.1:1";

fn direct() -> Path {
    Path::Direct(DIRECT.parse().unwrap())
}

/// A relay that knows the members 9 and 10.
fn relay() -> (Verifier, Permission) {
    let mut verifier = crate::test_support::verifier();
    for number in [9, 10] {
        let bytes = membership(number).sign(&issuer(), &verified_trust()).unwrap();
        verifier.accept_told(&bytes, times()).unwrap();
    }
    (verifier, Permission::new(node(200), 48))
}

fn ask(permission: &mut Permission, verifier: &Verifier, from: u8, to: u8) -> Result<Grant, RelayRefusal> {
    let source = static_key(from);
    permission.authorise(verifier, (&source, direct()), (&node(to), Some(direct())), times())
}

#[test]
fn both_memberships_are_checked_control_rule_14() {
    let (verifier, mut permission) = relay();
    let grant = ask(&mut permission, &verifier, 9, 10).unwrap();
    assert_eq!((grant.source, grant.destination_key), (node(9), static_key(10)));
    assert_eq!(ask(&mut permission, &verifier, 11, 10), Err(RelayRefusal::Source));
    assert_eq!(ask(&mut permission, &verifier, 9, 11), Err(RelayRefusal::Destination));
    assert_eq!(ask(&mut permission, &verifier, 9, 9), Err(RelayRefusal::Destination));
    let late = Times { estimate: day(TODAY + 60), confirmed: day(TODAY + 60) };
    let source = static_key(9);
    let expired = permission.authorise(&verifier, (&source, direct()), (&node(10), Some(direct())), late);
    assert_eq!(expired, Err(RelayRefusal::Source));
}

#[test]
fn relays_do_not_nest_and_reach_only_who_is_there_control_rule_14() {
    let (verifier, mut permission) = relay();
    let source = static_key(9);
    let relayed = Path::Relayed(node(201));
    for (from, to) in [(relayed, direct()), (direct(), relayed)] {
        let nested = permission.authorise(&verifier, (&source, from), (&node(10), Some(to)), times());
        assert_eq!(nested, Err(RelayRefusal::Nested));
    }
    let absent = permission.authorise(&verifier, (&source, direct()), (&node(10), None), times());
    assert_eq!(absent, Err(RelayRefusal::Destination));
    assert!(permission.is_empty());
}

#[test]
fn revoked_members_lose_their_grants_control_rule_14() {
    let (mut verifier, mut permission) = relay();
    ask(&mut permission, &verifier, 9, 10).unwrap();
    ask(&mut permission, &verifier, 10, 9).unwrap();
    assert_eq!(permission.retire(&verifier, times(), |_| true), []);
    let mut document: NetworkDocument = network();
    document.version.counter += 1;
    document.revocations.insert(Revocation::Node(node(10)));
    verifier.install_network(&document.sign(&issuer(), &verified_trust()).unwrap(), times()).unwrap();
    assert_eq!(permission.retire(&verifier, times(), |_| true).len(), 2, "each way");
    assert_eq!(ask(&mut permission, &verifier, 9, 10), Err(RelayRefusal::Destination));
}

#[test]
fn the_table_of_grants_is_bounded_and_no_member_takes_it_from_others_control_rule_14() {
    let (mut verifier, mut permission) = relay();
    for number in 11..60 {
        let bytes = membership(number).sign(&issuer(), &verified_trust()).unwrap();
        verifier.accept_told(&bytes, times()).unwrap();
    }
    ask(&mut permission, &verifier, 10, 9).unwrap();
    for to in 10..60 {
        ask(&mut permission, &verifier, 9, to).unwrap();
    }
    let of = |permission: &Permission, source| {
        let held = permission.grants().filter(|grant| grant.source_key == static_key(source));
        held.map(|grant| grant.destination).collect::<Vec<_>>()
    };
    assert_eq!((of(&permission, 9).len(), of(&permission, 10).len()), (12, 1), "a quarter");
    assert!(of(&permission, 9).contains(&node(59)), "the newest is there");
    for from in 11..60 {
        ask(&mut permission, &verifier, from, 9).unwrap();
    }
    assert_eq!(permission.len(), 48);
    assert!(ask(&mut permission, &verifier, 10, 9).is_ok(), "whose grant went asks again");
    assert_eq!(permission.retire(&verifier, times(), |key| *key != static_key(9)).len(), 48);
    assert!(permission.is_empty() && permission.of_source.is_empty());
}
