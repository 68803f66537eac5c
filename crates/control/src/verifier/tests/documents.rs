//! Trust and network document (control rules 1, 2 and 6).

use super::*;

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
fn stale_documents_can_refuse_new_peers_control_rule_2() {
    let mut verifier = verifier();
    let stale = at(TODAY + 1);
    assert!(verifier.is_stale(stale) && !verifier.is_stale(at(TODAY)));
    assert!(show(&mut verifier, &membership(9), stale).is_ok(), "unless asked for, strangers are taken");
    verifier.install_network(&later(1, |document| document.refuse_when_stale = true), at(TODAY)).unwrap();
    assert_eq!(show(&mut verifier, &membership(10), stale).map(drop), Err(Refusal::Stale));
    assert!(show(&mut verifier, &membership(9), stale).is_ok(), "known peers go on");
}
