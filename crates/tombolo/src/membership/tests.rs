use tombolo_control::document::Version;
use tombolo_control::verifier::{Overlay, Pins};
use tombolo_control::{DocumentHash, Fingerprint, NetworkId};
use tombolo_noise::PrivateKey;

use super::*;

fn documents() -> SavedDocuments {
    SavedDocuments {
        pins: Pins {
            network: NetworkId::from_bytes([1; 16]),
            root: Fingerprint::from_bytes([2; 32]),
            overlay: Some(Overlay {
                cidrs: ["10.86.0.0/16".parse().unwrap()].into(),
                domain: "office.internal".parse().unwrap(),
            }),
        },
        floor: Some((Version { epoch: 1, counter: 7 }, DocumentHash::from_bytes([3; 32]))),
        trust: Some(vec![4; 5]),
        network: Some(vec![6; 7]),
        head: None,
    }
}

#[test]
fn what_was_saved_is_read_back_and_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("prod");
    let mut state = MembershipState::open(&directory).unwrap();
    assert!(state.saved().is_none() && state.key().unwrap().is_none());
    let key = PrivateKey::generate(&mut crate::random::generator().unwrap());
    state.set_key(&key).unwrap();
    state.save(Save::Documents(documents())).unwrap();
    state.save(Save::Membership(vec![9; 9])).unwrap();
    state.save(Save::Epoch(12)).unwrap();
    let again = MembershipState::open(&directory).unwrap();
    let saved = again.saved().unwrap();
    assert_eq!((saved.documents, saved.membership, saved.epoch), (documents(), vec![9; 9], 12));
    assert_eq!(again.key().unwrap().unwrap().public(), key.public());
    for entry in fs::read_dir(&directory).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_damaged_file_is_told_with_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(MEMBERSHIP), b"{").unwrap();
    let error = MembershipState::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("membership.json is damaged") && error.contains("join anew"), "{error}");
}

#[test]
fn a_new_key_is_the_machines_once_the_membership_names_it_control_rule_17() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = MembershipState::open(folder.path()).unwrap();
    let [old, new] = [(); 2].map(|()| PrivateKey::generate(&mut crate::random::generator().unwrap()));
    state.set_key(&old).unwrap();
    state.set_next_key(&new).unwrap();
    state.save(Save::Documents(documents())).unwrap();
    state.save(Save::Membership(vec![9; 9])).unwrap();
    // Nothing says that the new key is anybody's.
    let again = MembershipState::open(folder.path()).unwrap();
    assert_eq!(again.key().unwrap().unwrap().public(), old.public());
    assert_eq!(again.next_key().unwrap().unwrap().public(), new.public());
}
