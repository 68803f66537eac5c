//! Memberships: whose they are, who owns what, and for how long (control rules 3, 4, 5, 16 and 18).

use super::*;

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
fn roles_of_an_issuer_do_not_leak_into_its_memberships() {
    let roles = Roles::LIGHTHOUSE | Roles::RELAY;
    let mut verifier = verifier();
    let accepted = show(&mut verifier, &Membership { roles, ..membership(9) }, at(TODAY)).unwrap();
    assert!(accepted.membership.roles.contains(Roles::RELAY));
    assert!(!accepted.membership.roles.contains(Roles::AUTHORITY));
}
