use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::SigningKey;
use crate::document::{DocumentError, Head, Revocation, Roles};
use crate::frame::ShowRefusal;
use crate::test_support::*;

fn at(days: u64) -> Times {
    Times { estimate: day(days), confirmed: day(days) }
}

fn pins() -> Pins {
    Pins { network: network_id(), root: root().verifying_key().fingerprint(), overlay: None }
}

fn verifier() -> Verifier {
    let mut verifier = Verifier::new(pins(), None);
    verifier.install_trust(&trust().sign(&root()).unwrap()).unwrap();
    verifier.install_network(&network().sign(&issuer(), &trust()).unwrap(), at(TODAY)).unwrap();
    verifier
}

fn signed(membership: &Membership) -> Vec<u8> {
    membership.sign(&issuer(), &trust()).unwrap()
}

/// The network document, so many milliseconds later.
fn later(milliseconds: u64, change: impl Fn(&mut NetworkDocument)) -> Vec<u8> {
    let mut document = network();
    document.version.counter += milliseconds;
    change(&mut document);
    document.sign(&issuer(), &trust()).unwrap()
}

fn show(verifier: &mut Verifier, membership: &Membership, times: Times) -> Result<Accepted, Refusal> {
    verifier.accept_shown(&signed(membership), &membership.key, times)
}

fn alarms(verifier: &mut Verifier) -> Vec<Alarm> {
    std::iter::from_fn(|| verifier.poll_alarm()).collect()
}

#[test]
fn a_member_is_accepted_and_found_control_rule_3() {
    let mut verifier = verifier();
    let nine = membership(9);
    let accepted = show(&mut verifier, &nine, at(TODAY)).unwrap();
    assert_eq!((&*accepted.membership, accepted.validity, accepted.replaced), (&nine, Validity::Valid, None));
    let (found, validity) = verifier.authorised(&nine.key, at(TODAY)).unwrap();
    assert_eq!((&**found, validity), (&nine, Validity::Valid));
    assert_eq!(verifier.member(&nine.node).map(|m| m.serial), Some(1));
    assert_eq!(verifier.member_at("fd86::9".parse().unwrap()).map(|m| m.node), Some(nine.node));
    assert_eq!(verifier.member_named(&nine.name).map(|m| m.node), Some(nine.node));
    assert!(verifier.authorised(&static_key(8), at(TODAY)).is_none());
    assert_eq!(alarms(&mut verifier), []);
}

#[test]
fn a_membership_authorises_its_own_key_alone_control_rule_3() {
    let mut verifier = verifier();
    let bytes = signed(&membership(9));
    // Another member's membership, shown over one's own session.
    let outcome = verifier.accept_shown(&bytes, &static_key(10), at(TODAY)).map(drop);
    assert_eq!(outcome, Err(Refusal::AnotherKey));
    assert!(verifier.member(&node(9)).is_none());
}

#[test]
fn the_network_document_of_its_issue_is_had_first_control_rule_3() {
    let mut verifier = Verifier::new(pins(), None);
    let nine = membership(9);
    assert_eq!(show(&mut verifier, &nine, at(TODAY)).map(drop), Err(Refusal::NoTrust));
    verifier.install_trust(&trust().sign(&root()).unwrap()).unwrap();
    let needs = Err(Refusal::NeedsNetwork(nine.network_version));
    assert_eq!(show(&mut verifier, &nine, at(TODAY)).map(drop), needs, "with none");
    verifier.install_network(&network().sign(&issuer(), &trust()).unwrap(), at(TODAY)).unwrap();
    let mut newer = nine.clone();
    newer.network_version.counter += 5;
    let needs = Err(Refusal::NeedsNetwork(newer.network_version));
    assert_eq!(show(&mut verifier, &newer, at(TODAY)).map(drop), needs, "with an older one");
    verifier.install_network(&later(5, |_| {}), at(TODAY)).unwrap();
    assert!(show(&mut verifier, &newer, at(TODAY)).is_ok());
}

#[test]
fn versions_never_go_back_control_rule_2() {
    let mut verifier = verifier();
    let (first, second) = (later(0, |_| {}), later(1, |_| {}));
    assert_eq!(verifier.install_network(&first, at(TODAY)), Ok(Installed::Same));
    assert_eq!(verifier.install_network(&second, at(TODAY)), Ok(Installed::Newer { dropped: vec![] }));
    assert_eq!(verifier.install_network(&first, at(TODAY)), Err(InstallError::Older));
    assert_eq!(verifier.network().unwrap().hash(), DocumentHash::of(&second));
    let next = TrustDocument { epoch: 2, ..trust() }.sign(&root()).unwrap();
    assert!(verifier.install_trust(&next).is_ok());
    assert_eq!(verifier.install_trust(&trust().sign(&root()).unwrap()), Err(InstallError::Older));
    assert_eq!(verifier.trust().unwrap().epoch, 2);
    // Nor across a restart that has lost the document.
    let mut restarted = Verifier::new(verifier.pins().clone(), verifier.floor());
    restarted.install_trust(&next).unwrap();
    assert_eq!(restarted.install_network(&first, at(TODAY)), Err(InstallError::Older));
    assert_eq!(restarted.install_network(&second, at(TODAY)), Ok(Installed::Newer { dropped: vec![] }));
}

/// A document's payload with one more field, signed anew.
fn with_critical(bytes: &[u8], content_type: &'static str, key: &SigningKey) -> Vec<u8> {
    use crate::cbor::{self, Item};
    let payload = crate::cose::Envelope::parse(bytes, content_type, bytes.len()).unwrap().payload;
    let ciborium::Value::Map(mut entries) = cbor::decode(&payload, payload.len()).unwrap() else { panic!() };
    entries.insert(0, (0_u64.to_value(), ciborium::Value::Array(vec![100_u64.to_value()])));
    entries.push((100_u64.to_value(), 1_u64.to_value()));
    crate::cose::sign(content_type, &network_id(), key, cbor::encode(&ciborium::Value::Map(entries)))
}

const NETWORK_TYPE: &str = "application/vnd.tombolo.network+cbor";

#[test]
fn a_document_that_is_not_understood_leaves_the_old_one_and_is_told_of_control_rule_6() {
    let mut verifier = verifier();
    let held = verifier.network().unwrap().hash();
    let error = DocumentError::Critical(100);
    let not_understood = |verifier: &Verifier| -> Vec<DocumentKind> {
        verifier.not_understood().map(|(kind, _)| kind).collect()
    };
    let newer = with_critical(&later(1, |_| {}), NETWORK_TYPE, &issuer());
    let refused = Err(InstallError::Document(error.clone()));
    assert_eq!(verifier.install_network(&newer, at(TODAY)), refused);
    assert_eq!(verifier.network().unwrap().hash(), held);
    let alarm = |document| Alarm::NotUnderstood { document, error: error.clone() };
    assert_eq!(alarms(&mut verifier), [alarm(DocumentKind::Network)]);
    assert_eq!(not_understood(&verifier), [DocumentKind::Network]);
    // The next of its kind is the same trouble, and no other alarm.
    let newer = with_critical(&later(2, |_| {}), NETWORK_TYPE, &issuer());
    assert_eq!(verifier.install_network(&newer, at(TODAY)), refused);
    assert_eq!(alarms(&mut verifier), []);
    let next = TrustDocument { epoch: 2, ..trust() }.sign(&root()).unwrap();
    let next = with_critical(&next, "application/vnd.tombolo.trust+cbor", &root());
    assert_eq!(verifier.install_trust(&next), refused);
    assert_eq!(verifier.trust().unwrap().epoch, 1);
    let nine = with_critical(&signed(&membership(9)), "application/vnd.tombolo.membership+cbor", &issuer());
    let outcome = verifier.accept_shown(&nine, &static_key(9), at(TODAY)).map(drop);
    assert_eq!(outcome, Err(Refusal::Document(error.clone())));
    assert_eq!(alarms(&mut verifier), [alarm(DocumentKind::Trust), alarm(DocumentKind::Membership)]);
    assert_eq!(not_understood(&verifier), [DocumentKind::Trust, DocumentKind::Network]);
    // One that is taken ends it.
    verifier.install_network(&later(3, |_| {}), at(TODAY)).unwrap();
    assert_eq!(not_understood(&verifier), [DocumentKind::Trust]);
}

#[test]
fn a_document_that_was_not_understood_is_not_fetched_again_control_rule_6() {
    let mut verifier = verifier();
    let newer = with_critical(&later(1, |_| {}), NETWORK_TYPE, &issuer());
    let trust_held = verified_trust();
    let understood = NetworkDocument::verify(&later(1, |_| {}), &trust_held).unwrap();
    let hash = DocumentHash::of(&newer);
    let head = Head { network_hash: hash, ..Head::of(&trust_held, &understood) };
    let head = head.sign(&issuer(), &trust()).unwrap();
    assert_eq!(verifier.compare(&head).unwrap().network.map(|pull| pull.hash()), Some(hash));
    assert!(verifier.install_network(&newer, at(TODAY)).is_err());
    assert_eq!(verifier.compare(&head).unwrap().network, None);
}

#[test]
fn the_same_version_with_another_hash_is_an_alarm_control_rule_2() {
    let mut verifier = verifier();
    let other = later(0, |document| document.refuse_when_stale = true);
    let held = verifier.network().unwrap().hash();
    assert_eq!(verifier.install_network(&other, at(TODAY)), Err(InstallError::Fork));
    let version = network().version;
    let alarm = Alarm::NetworkFork { version, held, other: DocumentHash::of(&other) };
    assert_eq!(alarms(&mut verifier), vec![alarm.clone()]);
    // A head that tells of it is enough.
    let trust_held = verified_trust();
    let head = Head::of(&trust_held, &NetworkDocument::verify(&other, &trust_held).unwrap());
    let wanted = verifier.compare(&head.sign(&issuer(), &trust()).unwrap()).unwrap();
    assert_eq!((wanted, alarms(&mut verifier)), (Wanted::default(), vec![alarm]));
    let other = TrustDocument { issued: day(TODAY - 9), ..trust() }.sign(&root()).unwrap();
    assert_eq!(verifier.install_trust(&other), Err(InstallError::Fork));
    let held = verifier.trust().unwrap().hash();
    let alarm = Alarm::TrustFork { epoch: 1, held, other: DocumentHash::of(&other) };
    assert_eq!(alarms(&mut verifier), [alarm]);
}

#[test]
fn heads_say_what_to_pull_with_hash_and_size_control_rules_2_and_11() {
    let mut verifier = verifier();
    let trust_held = verified_trust();
    let head = |bytes: &[u8]| {
        let document = NetworkDocument::verify(bytes, &trust_held).unwrap();
        Head::of(&trust_held, &document).sign(&issuer(), &trust()).unwrap()
    };
    let (first, second) = (later(0, |_| {}), later(9, |_| {}));
    assert_eq!(verifier.compare(&head(&first)), Ok(Wanted::default()));
    let wanted = verifier.compare(&head(&second)).unwrap();
    let pull = wanted.network.unwrap();
    assert_eq!((pull.hash(), pull.size() as usize), (DocumentHash::of(&second), second.len()));
    assert_eq!(wanted, Wanted { network: Some(pull), ..Wanted::default() });
    verifier.install_network(&second, at(TODAY)).unwrap();
    assert_eq!(verifier.compare(&head(&first)), Ok(Wanted { peer_is_behind: true, ..Wanted::default() }));
    let newer_trust = verify_trust(&TrustDocument { epoch: 2, ..trust() });
    let ahead = Head::of(&newer_trust, &NetworkDocument::verify(&second, &trust_held).unwrap());
    let wanted = verifier.compare(&ahead.sign(&issuer(), &trust()).unwrap());
    assert_eq!(wanted, Ok(Wanted { trust: Some(2), ..Wanted::default() }));
    // Nobody but an authority makes one.
    let forged = ahead.sign(&small_issuer(), &trust());
    assert!(forged.is_err());
}

#[test]
fn a_dropped_issuer_is_dead_with_all_that_it_signed_control_rule_1() {
    let mut verifier = verifier();
    show(&mut verifier, &membership(9), at(TODAY)).unwrap();
    let heir = SigningKey::from_seed([33; 32]);
    let mut replaced = TrustDocument { epoch: 2, ..trust() };
    replaced.issuers[0].key = heir.verifying_key();
    let installed = verifier.install_trust(&replaced.sign(&root()).unwrap()).unwrap();
    assert_eq!(installed, Installed::Newer { dropped: vec![static_key(9)] });
    assert!(verifier.authorised(&static_key(9), at(TODAY)).is_none());
    assert!(verifier.network().is_none(), "its network document too");
    let refused = verifier.install_network(&later(1, |_| {}), at(TODAY));
    assert!(matches!(refused, Err(InstallError::Document(DocumentError::UnknownIssuer(_)))));
    // The heir goes on in the new epoch, whatever counter the dead one has reached.
    let mut document = network();
    document.version = Version { epoch: 2, counter: 1 };
    verifier.install_network(&document.sign(&heir, &replaced).unwrap(), at(TODAY)).unwrap();
    let ten = Membership {
        addresses: membership(9).addresses,
        network_version: document.version,
        presenter: None,
        ..membership(10)
    };
    let bytes = ten.sign(&heir, &replaced).unwrap();
    assert!(verifier.accept_told(&bytes, at(TODAY)).is_ok(), "and the dead one holds no address");
}

#[test]
fn an_expired_issuer_signs_nothing_new_control_rule_1() {
    let mut verifier = verifier();
    let end = limits().expires;
    let after = UnixTime(end.0 + CLOCK_SKEW + Duration::from_secs(1));
    let (late, backdated) = (Times { estimate: after, confirmed: after }, later(1, |_| {}));
    assert_eq!(verifier.install_network(&backdated, late), Err(InstallError::IssuerExpired));
    // By the clock alone nobody expires, and what is held comes back after a restart.
    let mut restarted = Verifier::new(verifier.pins().clone(), verifier.floor());
    restarted.install_trust(&trust().sign(&root()).unwrap()).unwrap();
    assert!(restarted.install_network(&later(0, |_| {}), late).is_ok());
    let step = Times { estimate: after, confirmed: day(TODAY) };
    assert!(verifier.install_network(&backdated, step).is_ok());
    let beyond = NetworkDocument { expires: UnixTime(end.0 + Duration::from_secs(1)), ..network() };
    assert!(beyond.sign(&issuer(), &trust()).is_err(), "nor does anything hold longer");
}

#[test]
fn limits_that_shrink_cut_what_is_beyond_control_rule_1() {
    let mut verifier = verifier();
    show(&mut verifier, &membership(9), at(TODAY)).unwrap();
    let mut narrower = TrustDocument { epoch: 2, ..trust() };
    narrower.issuers[0].limits.addresses = set(&["10.86.0.0/28"]);
    let installed = verifier.install_trust(&narrower.sign(&root()).unwrap()).unwrap();
    assert_eq!(installed, Installed::Newer { dropped: vec![static_key(9)] }, "its fd86:: address is beyond");
}

#[test]
fn the_root_key_names_its_heir_control_rule_1() {
    let mut verifier = verifier();
    let by = |key: &SigningKey, epoch| TrustDocument {
        epoch,
        root: key.verifying_key(),
        next_root: stranger().verifying_key().fingerprint(),
        ..trust()
    };
    let unknown = by(&stranger(), 2).root.fingerprint();
    let mut usurper = by(&stranger(), 2);
    usurper.next_root = next_root().verifying_key().fingerprint();
    assert_eq!(
        verifier.install_trust(&usurper.sign(&stranger()).unwrap()),
        Err(DocumentError::UnknownRoot(unknown).into())
    );
    assert!(verifier.install_trust(&by(&next_root(), 2).sign(&next_root()).unwrap()).is_ok());
    assert_eq!(verifier.pins().root, next_root().verifying_key().fingerprint(), "the heir is pinned");
    let old = TrustDocument { epoch: 3, ..trust() }.sign(&root()).unwrap();
    let refused = DocumentError::UnknownRoot(root().verifying_key().fingerprint());
    assert_eq!(verifier.install_trust(&old), Err(refused.into()), "the former root key is dead");
}

#[test]
fn revocations_cut_by_node_key_and_serial_control_rules_6_and_17() {
    for revocation in
        [Revocation::Node(node(9)), Revocation::Key(static_key(9)), Revocation::Serial(node(9), 1)]
    {
        let mut verifier = verifier();
        show(&mut verifier, &membership(9), at(TODAY)).unwrap();
        show(&mut verifier, &membership(10), at(TODAY)).unwrap();
        let bytes = later(1, |document| {
            document.revocations.insert(revocation.clone());
        });
        let installed = verifier.install_network(&bytes, at(TODAY)).unwrap();
        assert_eq!(installed, Installed::Newer { dropped: vec![static_key(9)] }, "{revocation:?}");
        assert_eq!(show(&mut verifier, &membership(9), at(TODAY)).map(drop), Err(Refusal::Revoked));
        assert!(verifier.authorised(&static_key(9), at(TODAY)).is_none());
        assert!(verifier.authorised(&static_key(10), at(TODAY)).is_some());
    }
}

/// Another node that claims an address, a name or a key of node 9.
fn rivals() -> Vec<(Membership, Owned)> {
    let nine = membership(9);
    let address = "10.86.0.9".parse().unwrap();
    vec![
        (Membership { addresses: [address].into(), ..membership(10) }, Owned::Address(address)),
        (Membership { name: nine.name.clone(), ..membership(10) }, Owned::Name(nine.name.clone())),
        (Membership { key: nine.key, ..membership(10) }, Owned::Key(nine.key)),
    ]
}

#[test]
fn the_owner_held_is_kept_and_the_other_refused_with_an_alarm_control_rule_4() {
    for (rival, owned) in rivals() {
        let mut verifier = verifier();
        show(&mut verifier, &membership(9), at(TODAY)).unwrap();
        let refusal = Refusal::Owned { owned: owned.clone(), holder: node(9) };
        assert_eq!(show(&mut verifier, &rival, at(TODAY)).map(drop), Err(refusal));
        let alarm = Alarm::OwnerConflict { owned, holder: node(9), claimant: node(10) };
        assert_eq!(alarms(&mut verifier), [alarm]);
        assert_eq!(verifier.member_at("10.86.0.9".parse().unwrap()).map(|m| m.node), Some(node(9)));
        assert!(verifier.member(&node(10)).is_none(), "nothing of it is taken, not even what is free");
        assert!(verifier.member_at("fd86::10".parse().unwrap()).is_none());
    }
}

#[test]
fn ownership_passes_by_revocation_control_rule_4() {
    for (rival, _) in rivals().into_iter().take(2) {
        let mut verifier = verifier();
        show(&mut verifier, &membership(9), at(TODAY)).unwrap();
        let bytes = later(1, |document| {
            document.revocations.insert(Revocation::Node(node(9)));
        });
        verifier.install_network(&bytes, at(TODAY)).unwrap();
        assert!(show(&mut verifier, &rival, at(TODAY)).is_ok());
    }
}

#[test]
fn ownership_passes_after_expiry_grace_and_skew_control_rule_4() {
    let released = membership(9).released_at(CLOCK_SKEW);
    let just_before = UnixTime(released.0 - Duration::from_secs(1));
    let next = |rival: &Membership| Membership {
        not_before: day(TODAY + 44),
        not_after: day(TODAY + 50),
        ..rival.clone()
    };
    for (rival, _) in rivals() {
        let mut verifier = verifier();
        show(&mut verifier, &membership(9), at(TODAY)).unwrap();
        let times = Times { estimate: just_before, confirmed: just_before };
        assert!(show(&mut verifier, &next(&rival), times).is_err());
        // A clock that runs ahead passes nothing on.
        let ahead = Times { estimate: released, confirmed: just_before };
        assert!(show(&mut verifier, &next(&rival), ahead).is_err());
        let times = Times { estimate: released, confirmed: released };
        assert!(show(&mut verifier, &next(&rival), times).is_ok());
    }
}

#[test]
fn within_one_node_id_the_greater_serial_wins_control_rule_4() {
    let mut verifier = verifier();
    let (first, second) = (membership(9), Membership { serial: 2, key: static_key(99), ..membership(9) });
    show(&mut verifier, &first, at(TODAY)).unwrap();
    let accepted = show(&mut verifier, &second, at(TODAY)).unwrap();
    assert_eq!(accepted.replaced, Some(first.key));
    assert!(verifier.authorised(&first.key, at(TODAY)).is_none());
    assert_eq!(show(&mut verifier, &first, at(TODAY)).map(drop), Err(Refusal::Superseded(2)));
    // The same key with an older paper is known by the later one.
    let older = Membership { serial: 1, key: static_key(99), ..membership(9) };
    assert_eq!(show(&mut verifier, &older, at(TODAY)).unwrap().membership.serial, 2);
    let fork = Membership { groups: set(&["staff"]), ..second };
    assert_eq!(show(&mut verifier, &fork, at(TODAY)).map(drop), Err(Refusal::Fork));
    assert_eq!(alarms(&mut verifier), [Alarm::SerialFork { node: node(9), serial: 2 }]);
}

#[test]
fn an_address_given_up_stays_owned_until_it_is_released_control_rule_4() {
    let mut verifier = verifier();
    show(&mut verifier, &membership(9), at(TODAY)).unwrap();
    let moved = Membership { serial: 2, addresses: set(&["10.86.0.77"]), ..membership(9) };
    show(&mut verifier, &moved, at(TODAY)).unwrap();
    let address: IpAddr = "10.86.0.9".parse().unwrap();
    assert!(verifier.member_at(address).is_none(), "nobody answers there");
    let heir = Membership { addresses: [address].into(), ..membership(10) };
    assert!(matches!(show(&mut verifier, &heir, at(TODAY)), Err(Refusal::Owned { .. })));
    let bytes = later(1, |document| {
        document.revocations.insert(Revocation::Serial(node(9), 1));
    });
    assert_eq!(verifier.install_network(&bytes, at(TODAY)), Ok(Installed::Newer { dropped: vec![] }));
    assert!(show(&mut verifier, &heir, at(TODAY)).is_ok());
}

#[test]
fn overlay_and_domain_are_pinned_at_the_join_control_rule_5() {
    let mut verifier = verifier();
    let pinned = verifier.pins().overlay.clone().unwrap();
    assert_eq!((pinned.cidrs, pinned.domain), (network().cidrs, network().domain));
    let bytes = later(1, |document| {
        document.cidrs = set(&["192.168.0.0/16"]);
        document.domain = "evil.internal".parse().unwrap();
    });
    verifier.install_network(&bytes, at(TODAY)).unwrap();
    let version = verifier.network().unwrap().version;
    assert_eq!(alarms(&mut verifier), [Alarm::OverlayChanged { version }]);
    assert_eq!(verifier.pins().overlay.as_ref().map(|overlay| &overlay.domain), Some(&network().domain));
    assert!(show(&mut verifier, &membership(9), at(TODAY)).is_ok());
    // Within its issuer's limits, and yet outside.
    let mut wide = limits();
    wide.addresses = set(&["0.0.0.0/0"]);
    let mut trusting = TrustDocument { epoch: 2, ..trust() };
    trusting.issuers[0].limits = wide;
    verifier.install_trust(&trusting.sign(&root()).unwrap()).unwrap();
    let outside = Membership { addresses: set(&["192.168.0.7"]), ..membership(10) };
    let bytes = outside.sign(&issuer(), &trusting).unwrap();
    let refusal = Refusal::OutsideOverlay("192.168.0.7".parse().unwrap());
    assert_eq!(verifier.accept_told(&bytes, at(TODAY)).map(drop), Err(refusal));
}

#[test]
fn strangers_need_a_valid_membership_and_known_peers_have_a_grace_control_rule_16() {
    let mut verifier = verifier();
    let nine = membership(9);
    assert_eq!(show(&mut verifier, &nine, at(TODAY + 14)).map(drop), Err(Refusal::Expired), "a stranger");
    let early = Duration::from_secs(86_400) - CLOCK_SKEW;
    assert_eq!(show(&mut verifier, &nine, at(TODAY - 1)).map(drop), Err(Refusal::NotYet(early)));
    show(&mut verifier, &nine, at(TODAY)).unwrap();
    assert_eq!(show(&mut verifier, &nine, at(TODAY + 14)).unwrap().validity, Validity::Grace);
    assert_eq!(
        verifier.authorised(&nine.key, at(TODAY + 43)).map(|(_, validity)| validity),
        Some(Validity::Grace)
    );
    assert!(verifier.authorised(&nine.key, at(TODAY + 44)).is_none());
    // From one's own disk a peer is known.
    let mut restarted = self::verifier();
    let saved = restarted.accept_saved(&signed(&nine), at(TODAY + 20)).unwrap();
    assert_eq!(saved.validity, Validity::Grace);
}

#[test]
fn a_clock_ten_years_ahead_cuts_nobody_control_rule_18() {
    let mut verifier = verifier();
    show(&mut verifier, &membership(9), at(TODAY)).unwrap();
    let ahead = Times { estimate: day(TODAY + 3652), confirmed: day(TODAY) };
    let (_, validity) = verifier.authorised(&static_key(9), ahead).unwrap();
    assert_eq!(validity, Validity::Valid);
    assert!(show(&mut verifier, &membership(9), ahead).is_ok());
    assert_eq!(verifier.prune(ahead), []);
    assert_eq!(verifier.newest_issue(), Some(network().issued));
}

#[test]
fn stale_documents_can_refuse_new_peers_control_rule_2() {
    let mut verifier = verifier();
    let stale = at(TODAY + 1);
    assert!(verifier.is_stale(stale) && !verifier.is_stale(at(TODAY)));
    assert!(show(&mut verifier, &membership(9), stale).is_ok(), "unless asked for, strangers are taken");
    verifier.install_network(&later(1, |document| document.refuse_when_stale = true), at(TODAY)).unwrap();
    assert_eq!(show(&mut verifier, &membership(10), stale).map(drop), Err(Refusal::Stale));
    assert!(show(&mut verifier, &membership(9), stale).is_ok(), "known peers go on");
}

#[test]
fn a_peer_is_told_what_it_can_mend_and_no_more() {
    let owned = Refusal::Owned { owned: Owned::Key(static_key(9)), holder: node(9) };
    for (refusal, told) in [
        (Refusal::NoTrust, ShowRefusal::Later),
        (Refusal::NeedsNetwork(network().version), ShowRefusal::Later),
        (
            Refusal::Document(DocumentError::UnknownIssuer(stranger().verifying_key().key_id())),
            ShowRefusal::Later,
        ),
        (Refusal::Document(DocumentError::Signature), ShowRefusal::Invalid),
        (Refusal::AnotherKey, ShowRefusal::Invalid),
        (Refusal::NotYet(DAY), ShowRefusal::NotYet),
        (owned, ShowRefusal::Owned),
    ] {
        assert_eq!(refusal.told(), told, "{refusal}");
    }
}

#[test]
fn what_is_released_is_forgotten() {
    let mut verifier = verifier();
    show(&mut verifier, &membership(9), at(TODAY)).unwrap();
    assert_eq!(verifier.prune(at(TODAY + 44)), []);
    assert_eq!(verifier.prune(at(TODAY + 45)), [static_key(9)]);
    assert_eq!(verifier.members().count(), 0);
    assert_eq!(verifier.members.claims_held(), 0);
}

#[test]
fn alarms_are_bounded() {
    let mut verifier = verifier();
    for counter in 0..200 {
        verifier.alarms.raise(Alarm::SerialFork { node: node(1), serial: counter / 2 });
    }
    assert_eq!(alarms(&mut verifier).len(), 64);
}

#[test]
fn roles_of_an_issuer_do_not_leak_into_its_memberships() {
    let roles = Roles::LIGHTHOUSE | Roles::RELAY;
    let mut verifier = verifier();
    let accepted = show(&mut verifier, &Membership { roles, ..membership(9) }, at(TODAY)).unwrap();
    assert!(accepted.membership.roles.contains(Roles::RELAY));
    assert!(!accepted.membership.roles.contains(Roles::AUTHORITY));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes in whatever order: versions only rise, and each address has one owner.
    #[test]
    fn no_order_of_documents_breaks_the_rules_control_rules_2_and_4(
        steps in proptest::collection::vec((0_u8..3, 0_u64..6, 1_u8..5, 1_u8..5, 1_u64..4), 1..24),
    ) {
        let mut verifier = verifier();
        let mut owners = std::collections::HashMap::new();
        for (kind, counter, who, address, serial) in steps {
            let floor = verifier.floor();
            if kind == 0 {
                let _ = verifier.install_network(&later(counter, |_| {}), at(TODAY));
            } else {
                let addresses = set(&[&format!("10.86.0.{address}")]);
                let _ = show(&mut verifier, &Membership { addresses, serial, ..membership(who) }, at(TODAY));
            }
            prop_assert!(verifier.floor() >= floor);
            for member in verifier.members() {
                for address in &member.addresses {
                    // Nothing is revoked and nothing expires here: the first owner stays.
                    prop_assert_eq!(*owners.entry(*address).or_insert(member.node), member.node);
                }
            }
        }
    }
}
