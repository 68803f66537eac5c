//! What both halves need, and what is about both.

mod documents;
mod memberships;

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
fn alarms_are_bounded() {
    let mut verifier = verifier();
    for counter in 0..200 {
        verifier.alarms.raise(Alarm::SerialFork { node: node(1), serial: counter / 2 });
    }
    assert_eq!(alarms(&mut verifier).len(), 64);
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
