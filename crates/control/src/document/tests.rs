use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tombolo_noise::clock::UnixTime;

use super::*;
use crate::cbor::{Item, MapBuilder};
use crate::test_support::*;
use crate::{NodeName, cbor};

fn verify_membership(bytes: &[u8]) -> Result<Verified<Membership>, DocumentError> {
    Membership::verify(bytes, &verified_trust())
}

fn verify_network(bytes: &[u8]) -> Result<Verified<NetworkDocument>, DocumentError> {
    NetworkDocument::verify(bytes, &verified_trust())
}

fn verify_any_trust(bytes: &[u8]) -> Result<Verified<TrustDocument>, DocumentError> {
    TrustDocument::verify(bytes, &network_id(), &[root().verifying_key().fingerprint()])
}

fn head_bytes() -> Vec<u8> {
    let network = verify_network(&network().sign(&issuer(), &trust()).unwrap()).unwrap();
    Head::of(&verified_trust(), &network).sign(&issuer(), &trust()).unwrap()
}

#[test]
fn documents_are_read_as_they_were_signed_control_rules_1_to_3() {
    let verified = verify_any_trust(&trust().sign(&root()).unwrap()).unwrap();
    assert_eq!((verified.epoch, verified.next_root, verified.issuers.len()), (1, trust().next_root, 2));
    assert_eq!(verified.issuer(small_issuer().verifying_key().key_id()).unwrap().limits, small_limits());
    let bytes = network().sign(&issuer(), &trust()).unwrap();
    let verified = verify_network(&bytes).unwrap();
    assert_eq!(*verified, network());
    assert_eq!((&**verified.encoded(), verified.hash()), (&bytes[..], DocumentHash::of(&bytes)));
    let verified = verify_membership(&membership(9).sign(&issuer(), &trust()).unwrap()).unwrap();
    assert_eq!(*verified, membership(9));
    let head = Head::verify(&head_bytes(), &verified_trust()).unwrap();
    assert_eq!((head.network_hash, head.network_size as usize), (DocumentHash::of(&bytes), bytes.len()));
}

/// Every byte of each document, changed in all of its bits, one at a time and together.
#[test]
fn every_single_byte_mutation_is_refused_control_rule_6() {
    fn mutations(bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
        for index in 0..bytes.len() {
            for change in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut changed = bytes.to_vec();
                changed[index] ^= change;
                assert!(refused(&changed), "byte {index} changed by {change:#x}");
            }
            assert!(refused(&bytes[..index]), "cut at {index}");
        }
        assert!(refused(&[bytes, &[0]].concat()), "a byte more");
    }
    let trust_held = verified_trust();
    mutations(&trust().sign(&root()).unwrap(), |bytes| verify_any_trust(bytes).is_err());
    mutations(&membership(9).sign(&issuer(), &trust()).unwrap(), |bytes| {
        Membership::verify(bytes, &trust_held).is_err()
    });
    mutations(&network().sign(&issuer(), &trust()).unwrap(), |bytes| {
        NetworkDocument::verify(bytes, &trust_held).is_err()
    });
    mutations(&head_bytes(), |bytes| Head::verify(bytes, &trust_held).is_err());
}

#[test]
fn the_network_says_how_old_static_keys_get_and_a_machine_shortens_it_control_rule_17() {
    let mut document = network();
    assert_eq!(document.rotation(), DAY * 30);
    document.rotation = Some(DAY * 7);
    let bytes = document.sign(&issuer(), &trust()).unwrap();
    let held = NetworkDocument::verify(&bytes, &verified_trust()).unwrap();
    let of = |sooner| held.rotation_of(sooner);
    assert_eq!([of(None), of(Some(DAY * 90)), of(Some(DAY))], [DAY * 7, DAY * 7, DAY]);
    document.rotation = Some(Duration::from_secs(1));
    assert!(document.sign(&issuer(), &trust()).is_err());
}

#[test]
fn no_type_passes_for_another_control_rule_6() {
    let all = [
        trust().sign(&root()).unwrap(),
        network().sign(&issuer(), &trust()).unwrap(),
        membership(9).sign(&issuer(), &trust()).unwrap(),
        head_bytes(),
    ];
    let trust = verified_trust();
    for (index, bytes) in all.iter().enumerate() {
        let outcomes = [
            verify_any_trust(bytes).map(drop),
            NetworkDocument::verify(bytes, &trust).map(drop),
            Membership::verify(bytes, &trust).map(drop),
            Head::verify(bytes, &trust).map(drop),
        ];
        for (verifier, outcome) in outcomes.into_iter().enumerate() {
            if verifier == index {
                assert_eq!(outcome, Ok(()));
            } else {
                let size = matches!(outcome, Err(DocumentError::Cbor(CborError::TooLarge { .. })));
                assert!(size || outcome == Err(DocumentError::ContentType), "{index} as {verifier}");
            }
        }
    }
}

#[test]
fn no_network_takes_anothers_documents_control_rule_6() {
    // The same root, issuer and fields: only the network differs.
    let other = NetworkId::from_bytes([77; 16]);
    let foreign_trust = TrustDocument { network: other, ..trust() };
    let bytes = foreign_trust.sign(&root()).unwrap();
    assert_eq!(verify_any_trust(&bytes), Err(DocumentError::Network(other)));
    let bytes = Membership { network: other, ..membership(9) }.sign(&issuer(), &trust()).unwrap();
    assert_eq!(verify_membership(&bytes), Err(DocumentError::Network(other)));
    let bytes = NetworkDocument { network: other, ..network() }.sign(&issuer(), &trust()).unwrap();
    assert_eq!(verify_network(&bytes), Err(DocumentError::Network(other)));
    // A payload that names ours, signed for the other.
    let payload = cbor::encode(&Content::to_value(&membership(9)));
    let bytes = cose::sign(Membership::CONTENT_TYPE, &other, &issuer(), payload);
    assert_eq!(verify_membership(&bytes), Err(DocumentError::Signature));
}

#[test]
fn forged_issuers_are_refused_control_rule_1() {
    let payload = cbor::encode(&Content::to_value(&membership(9)));
    let bytes = cose::sign(Membership::CONTENT_TYPE, &network_id(), &stranger(), payload);
    let stranger_id = stranger().verifying_key().key_id();
    assert_eq!(verify_membership(&bytes), Err(DocumentError::UnknownIssuer(stranger_id)));
    assert_eq!(
        membership(9).sign(&stranger(), &trust()),
        Err(DocumentError::UnknownIssuer(stranger_id)),
        "nor does ours sign it"
    );
    let own_root = TrustDocument { root: stranger().verifying_key(), ..trust() };
    let fingerprint = stranger().verifying_key().fingerprint();
    assert_eq!(
        verify_any_trust(&own_root.sign(&stranger()).unwrap()),
        Err(DocumentError::UnknownRoot(fingerprint))
    );
    assert_eq!(trust().sign(&stranger()), Err(DocumentError::UnknownRoot(fingerprint)));
    // An issuer is not the root.
    let payload = cbor::encode(&Content::to_value(&trust()));
    let bytes = cose::sign(TrustDocument::CONTENT_TYPE, &network_id(), &issuer(), payload);
    assert_eq!(verify_any_trust(&bytes), Err(DocumentError::Signature));
    // Who is dropped is dead, with all that it signed.
    let bytes = membership(9).sign(&issuer(), &trust()).unwrap();
    let mut newer = TrustDocument { epoch: 2, ..trust() };
    newer.issuers.retain(|listed| listed.key != issuer().verifying_key());
    assert_eq!(
        Membership::verify(&bytes, &verify_trust(&newer)),
        Err(DocumentError::UnknownIssuer(issuer().verifying_key().key_id()))
    );
}

/// What the limits of the small issuer allow.
fn laptop() -> Membership {
    Membership {
        addresses: set(&["10.86.200.1"]),
        groups: set(&["laptops"]),
        not_after: day(TODAY + 1),
        ..membership(9)
    }
}

#[test]
fn an_issuer_is_held_to_its_limits_control_rule_1() {
    let check = |change: &dyn Fn(&mut Membership)| {
        let mut wanted = laptop();
        change(&mut wanted);
        // Signed by force: our own issuer refuses.
        let payload = cbor::encode(&Content::to_value(&wanted));
        let forced = cose::sign(Membership::CONTENT_TYPE, &network_id(), &small_issuer(), payload);
        let refused = wanted.sign(&small_issuer(), &trust()).map(drop);
        let outcome = verify_membership(&forced).map(drop);
        assert_eq!(outcome, refused, "signer and verifier agree");
        outcome
    };
    assert_eq!(check(&|_| {}), Ok(()));
    let (address, group) = ("10.86.0.9".parse().unwrap(), "databases".parse().unwrap());
    for (outcome, error) in [
        (check(&|wanted| wanted.addresses.extend([address])), LimitError::Address(address)),
        (
            check(&|wanted| wanted.routes = set(&["192.168.1.0/24"])),
            LimitError::Route("192.168.1.0/24".parse().unwrap()),
        ),
        (check(&|wanted| wanted.groups = set(&["databases"])), LimitError::Group(group)),
        (check(&|wanted| wanted.roles = Roles::LIGHTHOUSE), LimitError::Roles(Roles::LIGHTHOUSE)),
        (
            check(&|wanted| wanted.not_after.0 += Duration::from_secs(1)),
            LimitError::Lifetime(DAY + Duration::from_secs(1)),
        ),
        (
            check(&|wanted| {
                wanted.not_before = day(TODAY + 29);
                wanted.not_before.0 += Duration::from_secs(1);
                wanted.not_after = UnixTime(day(TODAY + 30).0 + Duration::from_secs(1));
            }),
            LimitError::Expiry,
        ),
    ] {
        assert_eq!(outcome, Err(DocumentError::Limit(error)));
    }
}

#[test]
fn network_documents_come_from_authorities_before_their_end_control_rules_1_and_2() {
    assert_eq!(
        network().sign(&small_issuer(), &trust()),
        Err(DocumentError::Limit(LimitError::NetworkDocument))
    );
    let late = NetworkDocument { issued: day(TODAY + 366), expires: day(TODAY + 367), ..network() };
    assert_eq!(late.sign(&issuer(), &trust()), Err(DocumentError::Limit(LimitError::Expiry)));
    let mut ahead = network();
    ahead.version.epoch = 2;
    assert_eq!(
        ahead.sign(&issuer(), &trust()),
        Err(DocumentError::Limit(LimitError::Epoch { epoch: 2, held: 1 }))
    );
}

fn signed_fields(value: Value) -> Vec<u8> {
    cose::sign(Membership::CONTENT_TYPE, &network_id(), &issuer(), cbor::encode(&value))
}

fn with_field(document: Value, key: u64, field: Value) -> Value {
    let Value::Map(mut entries) = document else { panic!("documents are maps") };
    entries.retain(|(present, _)| *present != key.to_value());
    entries.push((key.to_value(), field));
    entries.sort_by_cached_key(|(key, _)| cbor::encode(key));
    Value::Map(entries)
}

#[test]
fn unknown_fields_are_ignored_unless_critical_control_rule_6() {
    let value = Content::to_value(&membership(9));
    let extended = with_field(value.clone(), 100, Value::Text("later".into()));
    assert_eq!(*verify_membership(&signed_fields(extended.clone())).unwrap(), membership(9));
    let list = |keys: &[u64]| Value::Array(keys.iter().map(Item::to_value).collect());
    let critical = with_field(extended.clone(), 0, list(&[100]));
    assert_eq!(verify_membership(&signed_fields(critical)), Err(DocumentError::Critical(100)));
    for (keys, problem) in [
        (&[][..], Problem::Empty),
        (&[101], Problem::Contradiction),
        (&[4], Problem::Contradiction),
        (&[100, 100], Problem::Order),
    ] {
        let bytes = signed_fields(with_field(extended.clone(), 0, list(keys)));
        assert_eq!(verify_membership(&bytes), Err(FieldError::new("crit", problem).into()), "{keys:?}");
    }
}

#[test]
fn unknown_policy_keys_refuse_the_document_control_rule_6() {
    let sign = |policy: Value| {
        let value = with_field(Content::to_value(&network()), 8, policy);
        cose::sign(NetworkDocument::CONTENT_TYPE, &network_id(), &issuer(), cbor::encode(&value))
    };
    assert!(verify_network(&sign(MapBuilder::default().put(1, &0_u64).build())).is_ok());
    for policy in [
        MapBuilder::default().put(1, &0_u64).put(2, &0_u64).build(),
        MapBuilder::default().put(1, &1_u64).build(),
    ] {
        let error = FieldError::new("policy", Problem::UnknownField);
        assert_eq!(verify_network(&sign(policy)), Err(error.into()));
    }
}

#[test]
fn fields_out_of_bounds_are_refused_control_rules_3_and_5() {
    let check = |change: &dyn Fn(&mut Membership)| {
        let mut wanted = membership(9);
        change(&mut wanted);
        match verify_membership(&signed_fields(Content::to_value(&wanted))) {
            Err(DocumentError::Field(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let error = FieldError::new;
    assert_eq!(check(&|m| m.serial = 0), error("serial", Problem::Range));
    assert_eq!(check(&|m| m.addresses.clear()), error("addresses", Problem::Missing));
    assert_eq!(check(&|m| m.addresses = set(&["224.0.0.1"])), error("addresses", Problem::Address));
    assert_eq!(check(&|m| m.routes = set(&["0.0.0.0/0"])), error("routes", Problem::Range));
    assert_eq!(check(&|m| m.routes = set(&["::/0"])), error("routes", Problem::Range));
    assert_eq!(check(&|m| m.not_after = m.not_before), error("not_after", Problem::Contradiction));
    assert_eq!(check(&|m| m.grace = DAY * 91), error("grace", Problem::Range));
    assert_eq!(
        check(&|m| m.key = tombolo_noise::PublicKey::from_bytes([0; 32])),
        error("key", Problem::Key),
        "low order, control rule 3"
    );
    let reserved = with_field(Content::to_value(&membership(9)), 5, Value::Text("wpad".into()));
    assert_eq!(
        verify_membership(&signed_fields(reserved)),
        Err(error("name", Problem::Text).into()),
        "control rule 22"
    );
}

#[test]
fn a_generous_membership_stays_under_600_bytes() {
    let generous = Membership {
        name: "mongodb-replica-12-eu-central-1b-production".parse().unwrap(),
        groups: set(&[
            "databases",
            "mongodb-replicas",
            "production",
            "eu-central-1",
            "backup-clients",
            "monitored",
        ]),
        routes: set(&["192.168.10.0/24", "192.168.20.0/24", "172.16.0.0/16", "2001:db8:1::/48"]),
        roles: Roles::ALL,
        serial: 5000,
        ..membership(9)
    };
    let bytes = generous.sign(&issuer(), &trust()).unwrap();
    assert!(bytes.len() < 480, "{}", bytes.len());
    let groups = (0..16).map(|i| format!("a-group-with-a-long-name-{i}").parse().unwrap()).collect();
    let too_much = Membership { groups, ..generous }.sign(&issuer(), &trust());
    assert!(
        matches!(too_much, Err(DocumentError::Cbor(CborError::TooLarge { limit: 600, .. }))),
        "{too_much:?}"
    );
}

#[test]
fn a_full_trust_document_fits_one_frame() {
    let issuers: Vec<Issuer> = (10..16)
        .map(|i| Issuer { key: SigningKey::from_seed([i; 32]).verifying_key(), limits: limits() })
        .collect();
    let bytes = TrustDocument { issuers, ..trust() }.sign(&root()).unwrap();
    assert!(bytes.len() <= TRUST_MAX, "six issuers take {} bytes", bytes.len());
    let twice = TrustDocument { issuers: vec![trust().issuers[0].clone(); 2], ..trust() };
    assert_eq!(twice.sign(&root()), Err(FieldError::new("issuers", Problem::Order).into()));
    let no_heir = TrustDocument { next_root: root().verifying_key().fingerprint(), ..trust() };
    assert_eq!(no_heir.sign(&root()), Err(FieldError::new("next_root", Problem::Contradiction).into()));
}

#[test]
fn memberships_begin_expire_and_have_a_grace_control_rule_16() {
    let membership = membership(9);
    let skew = Duration::from_secs(600);
    let at = |time: UnixTime| membership.validity(time, skew);
    let second = Duration::from_secs(1);
    assert_eq!(at(day(TODAY - 1)), Validity::NotYet(DAY - skew));
    assert_eq!(at(UnixTime(day(TODAY).0 - skew - second)), Validity::NotYet(second));
    assert_eq!(at(UnixTime(day(TODAY).0 - skew)), Validity::Valid);
    assert_eq!(at(UnixTime(day(TODAY + 14).0 - second)), Validity::Valid);
    assert_eq!(at(day(TODAY + 14)), Validity::Grace);
    assert_eq!(at(day(TODAY + 44)), Validity::Expired);
    let person = Membership { grace: Duration::ZERO, ..membership.clone() };
    assert_eq!(person.validity(day(TODAY + 14), skew), Validity::Expired, "none for sessions of people");
    assert_eq!(membership.released_at(skew), UnixTime(day(TODAY + 44).0 + skew));
}

#[test]
fn revocation_is_by_node_key_and_serial_control_rules_6_and_17() {
    let document = network();
    let (free, other) = (node(9), static_key(9));
    assert!(!document.revokes(&free, &other, 1));
    assert!(document.revokes(&node(66), &other, 9999), "a node id, with whatever key");
    assert!(document.revokes(&free, &static_key(67), 9999), "a key, with whatever node id");
    assert!(document.revokes(&node(68), &other, 2) && document.revokes(&node(68), &other, 3));
    assert!(!document.revokes(&node(68), &other, 4), "a later membership of the node");
}

#[test]
fn stale_documents_show_control_rule_2() {
    assert!(!network().is_stale(UnixTime(network().expires.0 - Duration::from_secs(1))));
    assert!(network().is_stale(network().expires));
}

fn any_membership() -> impl Strategy<Value = Membership> {
    let name = "[a-z][a-z0-9]{0,20}".prop_filter("reserved", |name| name.parse::<NodeName>().is_ok());
    let groups = proptest::collection::btree_set("[a-z][a-z0-9-]{0,6}[a-z]", 0..6);
    let routes = proptest::collection::btree_set((any::<u8>(), 16_u8..=24), 0..4);
    (
        any::<[u8; 16]>(),
        1_u64..,
        1_u8..250,
        name,
        groups,
        routes,
        any::<u8>(),
        1_u64..14,
        0_u32..90,
        any::<u64>(),
    )
        .prop_map(|(id, serial, number, name, groups, routes, host, days, grace, counter)| Membership {
            node: crate::NodeId::from_bytes(id),
            serial,
            name: name.parse().unwrap(),
            groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
            routes: routes
                .iter()
                .map(|(third, len)| {
                    format!("192.168.{third}.0/{len}").parse::<ipnet::IpNet>().unwrap().trunc()
                })
                .collect(),
            addresses: BTreeSet::from([[10, 86, host, number].into()]),
            not_after: day(TODAY + days),
            grace: DAY * grace,
            network_version: Version { epoch: 1, counter },
            presenter: None,
            ..membership(number)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memberships_round_trip(membership in any_membership()) {
        let bytes = membership.sign(&issuer(), &trust()).unwrap();
        prop_assert!(bytes.len() < MEMBERSHIP_MAX);
        let verified = verify_membership(&bytes).unwrap();
        prop_assert_eq!(&*verified, &membership);
        prop_assert_eq!(membership.sign(&issuer(), &trust()).unwrap(), bytes, "there is one encoding");
    }

    #[test]
    fn any_bytes_are_met_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify_membership(&bytes).is_err());
        prop_assert!(verify_network(&bytes).is_err());
        prop_assert!(verify_any_trust(&bytes).is_err());
    }

    /// Well-signed nonsense is refused too, and without a panic.
    #[test]
    fn any_signed_payload_is_met_without_a_panic(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
        let bytes = cose::sign(Membership::CONTENT_TYPE, &network_id(), &issuer(), payload);
        prop_assert!(verify_membership(&bytes).is_err());
    }
}
