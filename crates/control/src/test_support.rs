//! A network that the tests of this crate share.

use std::collections::BTreeSet;
use std::time::Duration;

use tombolo_noise::clock::UnixTime;
use tombolo_noise::{PrivateKey, PublicKey};

use crate::document::{
    GroupLimit, Issuer, Limits, Membership, NetworkDocument, Policy, Revocation, Roles, Route, Server,
    TrustDocument, Verified, Version,
};
use crate::verifier::Times;
use crate::{NetworkId, NodeId, SigningKey};

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Some day in 2026.
pub(crate) const TODAY: u64 = 20_700;

pub(crate) fn day(days: u64) -> UnixTime {
    UnixTime(DAY * u32::try_from(days).unwrap())
}

/// A machine whose clock is right.
pub(crate) fn times() -> Times {
    Times { estimate: day(TODAY), confirmed: day(TODAY) }
}

pub(crate) fn root() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

pub(crate) fn next_root() -> SigningKey {
    SigningKey::from_seed([2; 32])
}

/// An issuer that may do all that can be done.
pub(crate) fn issuer() -> SigningKey {
    SigningKey::from_seed([3; 32])
}

/// An issuer of memberships for laptops.
pub(crate) fn small_issuer() -> SigningKey {
    SigningKey::from_seed([4; 32])
}

pub(crate) fn stranger() -> SigningKey {
    SigningKey::from_seed([5; 32])
}

pub(crate) fn network_id() -> NetworkId {
    NetworkId::derive(&root().verifying_key())
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

pub(crate) fn static_key(number: u8) -> PublicKey {
    PrivateKey::from_bytes([number; 32]).public()
}

pub(crate) fn set<T: Ord + std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> BTreeSet<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn limits() -> Limits {
    Limits {
        addresses: set(&["10.86.0.0/16", "fd86::/64"]),
        routes: set(&["192.168.0.0/16", "172.16.0.0/12", "2001:db8::/32"]),
        groups: GroupLimit::Any,
        roles: Roles::ALL,
        lifetime: DAY * 14,
        expires: day(TODAY + 365),
    }
}

pub(crate) fn small_limits() -> Limits {
    Limits {
        addresses: set(&["10.86.128.0/17"]),
        routes: BTreeSet::new(),
        groups: GroupLimit::Only(set(&["laptops", "staff"])),
        roles: Roles::NONE,
        lifetime: DAY,
        expires: day(TODAY + 30),
    }
}

pub(crate) fn trust() -> TrustDocument {
    TrustDocument {
        network: network_id(),
        epoch: 1,
        root: root().verifying_key(),
        next_root: next_root().verifying_key().fingerprint(),
        issued: day(TODAY - 10),
        issuers: vec![
            Issuer { key: issuer().verifying_key(), limits: limits() },
            Issuer { key: small_issuer().verifying_key(), limits: small_limits() },
        ],
    }
}

pub(crate) fn verified_trust() -> Verified<TrustDocument> {
    verify_trust(&trust())
}

/// Of a document that the first root key signs.
pub(crate) fn verify_trust(document: &TrustDocument) -> Verified<TrustDocument> {
    let bytes = document.sign(&root()).unwrap();
    TrustDocument::verify(&bytes, &network_id(), &[root().verifying_key().fingerprint()]).unwrap()
}

pub(crate) fn network() -> NetworkDocument {
    NetworkDocument {
        network: network_id(),
        version: Version { epoch: 1, counter: TODAY * 86_400_000 },
        issued: day(TODAY),
        expires: UnixTime(day(TODAY).0 + Duration::from_secs(7200)),
        cidrs: set(&["10.86.0.0/16", "fd86::/64"]),
        domain: "office.internal".parse().unwrap(),
        groups: set(&["databases", "laptops", "staff"]),
        policy: Policy::AllMembers,
        routes: [Route { prefix: "192.168.7.0/24".parse().unwrap(), gateways: [node(7), node(8)].into() }]
            .into(),
        servers: vec![Server {
            node: node(200),
            key: static_key(200),
            roles: Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY,
            endpoints: vec!["vpn.example.net:8662".parse().unwrap(), "192.0.2.1:8662".parse().unwrap()],
        }],
        revocations: [
            Revocation::Node(node(66)),
            Revocation::Key(static_key(67)),
            Revocation::Serial(node(68), 3),
        ]
        .into(),
        audit_head: None,
        refuse_when_stale: false,
        rotation: None,
    }
}

pub(crate) fn membership(number: u8) -> Membership {
    Membership {
        network: network_id(),
        node: node(number),
        serial: 1,
        key: static_key(number),
        name: format!("db-{number}").parse().unwrap(),
        addresses: set(&[&format!("10.86.0.{number}"), &format!("fd86::{number}")]),
        groups: set(&["databases"]),
        routes: BTreeSet::new(),
        roles: Roles::NONE,
        not_before: day(TODAY),
        not_after: day(TODAY + 14),
        grace: DAY * 30,
        network_version: network().version,
        presenter: None,
    }
}

/// One that has the shared documents.
pub(crate) fn verifier() -> crate::verifier::Verifier {
    let pins = crate::verifier::Pins {
        network: network_id(),
        root: root().verifying_key().fingerprint(),
        overlay: None,
    };
    let mut verifier = crate::verifier::Verifier::new(pins, None);
    verifier.install_trust(verified_trust().encoded()).unwrap();
    let times = crate::verifier::Times { estimate: day(TODAY), confirmed: day(TODAY) };
    verifier.install_network(&network().sign(&issuer(), &verified_trust()).unwrap(), times).unwrap();
    verifier
}
