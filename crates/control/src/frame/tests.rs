use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::document::{HEAD_MAX, MEMBERSHIP_MAX, TRUST_MAX};
use crate::test_support::*;
use crate::token::Token;

const ORDER: Order = Order { epoch: u64::MAX, sequence: u64::MAX - 1 };

fn versions() -> Versions {
    let trust_hash = DocumentHash::from_bytes([7; 32]);
    Versions { order: ORDER, trust_epoch: u64::MAX, trust_hash, head: Some(vec![1; HEAD_MAX]) }
}

/// One of each kind, as large as it gets.
fn samples() -> Vec<Frame> {
    let token = Token::new(
        network_id(),
        static_key(200),
        root().verifying_key().fingerprint(),
        vec!["vpn.example.net:8662".parse().unwrap()],
        stranger(),
    )
    .unwrap();
    let time = UnixTime(Duration::from_secs(1 << 39));
    let candidates: Vec<SocketAddr> =
        (1..=8).map(|i| format!("[2001:db8::{i}]:8662").parse().unwrap()).collect();
    let membership = vec![2; MEMBERSHIP_MAX];
    let hash = DocumentHash::from_bytes([8; 32]);
    let found =
        Found { membership: membership.clone(), candidates: candidates.clone(), relays: vec![node(1); 4] };
    let name: NodeName = "x".repeat(63).parse().unwrap();
    vec![
        Frame::JoinRequest(JoinRequest {
            token: token.public_key(),
            proof: token.prove(&[5; 32], &static_key(9)),
            name: Some(name.clone()),
        }),
        Frame::JoinAnswer(JoinAnswer { time, outcome: Ok(membership.clone()) }),
        Frame::JoinAnswer(JoinAnswer { time, outcome: Err(JoinRefusal::Spent) }),
        Frame::Show(Show { membership, versions: versions(), answer: true }),
        Frame::ShowRefused(ShowRefused { reason: ShowRefusal::Other(200), time }),
        Frame::Versions(versions()),
        Frame::Versions(Versions { head: None, ..versions() }),
        Frame::PullTrust,
        Frame::Trust(vec![3; TRUST_MAX]),
        Frame::PullBlock(PullBlock { hash, index: u32::MAX }),
        Frame::Block(Block { hash, index: u32::MAX, bytes: vec![4; crate::pull::BLOCK_LEN] }),
        Frame::LookUp(LookUp { id: u64::MAX, target: Target::Address("fd86::9".parse().unwrap()) }),
        Frame::LookUp(LookUp { id: 0, target: Target::Name(name) }),
        Frame::LookUp(LookUp { id: 1, target: Target::Node(node(9)) }),
        Frame::LookUpAnswer(LookUpAnswer { id: u64::MAX, found: Some(found) }),
        Frame::LookUpAnswer(LookUpAnswer { id: 7, found: None }),
        Frame::Introduce(Introduce {
            node: node(9),
            key: static_key(9),
            candidates: candidates.clone(),
            membership: vec![2; MEMBERSHIP_MAX],
        }),
        Frame::Keepalive(Keepalive { order: ORDER, candidates, relays: vec![node(1); 4] }),
        Frame::KeepaliveAnswer(KeepaliveAnswer {
            order: ORDER,
            observed: "192.0.2.7:51820".parse().unwrap(),
            trust_epoch: 1,
            network_counter: u64::MAX,
        }),
        Frame::Challenge([1; 16]),
        Frame::ChallengeAnswer([2; 16]),
        Frame::Explore([3; 16]),
        Frame::AskNames(names::AskNames { epoch: u64::MAX, index: u64::MAX }),
        Frame::Names(names::Names {
            epoch: u64::MAX,
            first: u64::MAX,
            total: u64::MAX,
            tags: vec![[9; 8]; names::TAGS_MAX],
        }),
        Frame::Names(names::Names { epoch: 1, first: 0, total: 0, tags: Vec::new() }),
        Frame::AskMembers(vec![[9; 8]; names::TAGS_MAX]),
        Frame::Member(vec![2; MEMBERSHIP_MAX]),
        Frame::PathProbe { id: u64::MAX },
        Frame::PathAnswer { id: u64::MAX, size: u16::MAX },
    ]
}

#[test]
fn frames_are_read_as_they_were_written_within_1024_bytes_control_rule_11() {
    for frame in samples() {
        let bytes = frame.to_bytes().unwrap();
        assert!(bytes.len() <= FRAME_MAX, "{frame:?} takes {}", bytes.len());
        assert!(is_frame(&bytes));
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len() - 4);
        assert_eq!(Frame::parse(&bytes), Ok(frame.clone()));
        let padded = [&bytes[..], &[0; 15]].concat();
        assert_eq!(Frame::parse(&padded), Ok(frame), "WireGuard's filling is no part of it");
    }
    assert_eq!(Frame::Trust(vec![0; FRAME_MAX]).to_bytes(), Err(FrameError::Length));
    assert_eq!(Frame::Trust(vec![0; 70_000]).to_bytes(), Err(FrameError::Length));
}

#[test]
fn ip_packets_are_no_frames_control_rule_11() {
    assert!(!is_frame(&[0x45, 0]) && !is_frame(&[0x60]) && !is_frame(&[]) && !is_frame(&[0xe1]));
    assert_eq!(Frame::parse(&[0x45; 40]), Err(FrameError::NotAFrame));
    assert_eq!(Frame::parse(&[]), Err(FrameError::NotAFrame));
}

#[test]
fn unknown_versions_and_types_are_told_apart_from_mistakes_control_rule_11() {
    let bytes = Frame::PullTrust.to_bytes().unwrap();
    for version in (0..16).filter(|version| *version != FRAME_VERSION) {
        let mut other = bytes.clone();
        other[0] = 0xf0 | version;
        assert!(is_frame(&other));
        assert_eq!(Frame::parse(&other), Err(FrameError::Version(version)));
    }
    for kind in [0, 20, 255] {
        let mut other = bytes.clone();
        other[1] = kind;
        // Whatever its body is.
        other[4] = 0xff;
        assert_eq!(Frame::parse(&other), Err(FrameError::Type(kind)));
    }
}

#[test]
fn lengths_are_exact_control_rule_11() {
    for frame in samples() {
        let bytes = frame.to_bytes().unwrap();
        for cut in 1..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..cut]), Err(FrameError::Length), "cut at {cut}");
        }
        if !matches!(frame, Frame::PathProbe { .. }) {
            assert_eq!(Frame::parse(&[&bytes[..], &[0; 16]].concat()), Err(FrameError::Padding));
        }
        assert_eq!(Frame::parse(&[&bytes[..], &[0, 1]].concat()), Err(FrameError::Padding));
    }
    let mut long = vec![0xf1, 7, 0x03, 0xfd];
    long.resize(1025, 0);
    assert_eq!(Frame::parse(&long), Err(FrameError::Length));
}

#[test]
fn a_path_probe_is_filled_to_any_length_control_rule_11() {
    let frame = Frame::PathProbe { id: 5 };
    let mut bytes = frame.to_bytes().unwrap();
    bytes.resize(9000, 0);
    assert_eq!(Frame::parse(&bytes), Ok(frame));
    bytes[8999] = 1;
    assert_eq!(Frame::parse(&bytes), Err(FrameError::Padding));
}

/// A frame of one type with a body of the test's.
fn with_body(kind: u8, body: &ciborium::Value) -> Result<Frame, FrameError> {
    let body = cbor::encode(body);
    let [high, low] = u16::try_from(body.len()).unwrap().to_be_bytes();
    Frame::parse(&[&[0xf1, kind, high, low], &body[..]].concat())
}

#[test]
fn unknown_fields_of_frames_are_ignored_control_rule_6() {
    let (_, ciborium::Value::Map(mut entries)) = body::write(&Frame::Challenge([1; 16])) else { panic!() };
    entries.push((200.into(), ciborium::Value::Map(vec![(ciborium::Value::Null, 1.into())])));
    assert_eq!(with_body(15, &ciborium::Value::Map(entries.clone())), Ok(Frame::Challenge([1; 16])));
    entries.push((200.into(), ciborium::Value::Null));
    assert_eq!(with_body(15, &ciborium::Value::Map(entries)), Err(CborError::DuplicateKey.into()));
}

#[test]
fn candidates_that_can_be_none_are_left_out_control_rule_13() {
    let candidates = ["127.0.0.1:8662", "192.0.2.1:8662", "224.0.0.1:8662", "[ff02::1]:1"];
    let frame = Frame::Introduce(Introduce {
        node: node(9),
        key: static_key(9),
        candidates: candidates.iter().map(|text| text.parse().unwrap()).collect(),
        membership: vec![1],
    });
    let Ok(Frame::Introduce(read)) = Frame::parse(&frame.to_bytes().unwrap()) else { panic!() };
    assert_eq!(read.candidates, ["192.0.2.1:8662".parse().unwrap()]);
    let nine = Frame::Keepalive(Keepalive {
        order: ORDER,
        candidates: vec!["192.0.2.1:8662".parse().unwrap(); 9],
        relays: Vec::new(),
    });
    assert!(matches!(Frame::parse(&nine.to_bytes().unwrap()), Err(FrameError::Field(_))), "at most eight");
}

#[test]
fn a_look_up_asks_for_one_thing() {
    let map = |keys: &[(u64, ciborium::Value)]| {
        ciborium::Value::Map(keys.iter().map(|(key, value)| ((*key).into(), value.clone())).collect())
    };
    let (id, address) = ((1, 5.into()), (2, ciborium::Value::Bytes(vec![10, 86, 0, 1])));
    let name = (3, ciborium::Value::Text("db".into()));
    assert!(with_body(10, &map(&[id.clone(), address.clone()])).is_ok());
    assert!(matches!(with_body(10, &map(std::slice::from_ref(&id))), Err(FrameError::Field(_))));
    assert!(matches!(with_body(10, &map(&[id, address, name])), Err(FrameError::Field(_))));
}

#[test]
fn announcements_are_ordered_by_epoch_then_sequence_control_rule_11() {
    let order = |epoch, sequence| Order { epoch, sequence };
    assert!(order(2, 0) > order(1, 99) && order(1, 2) > order(1, 1));
}

#[test]
fn reasons_keep_their_numbers() {
    for code in 0..=255 {
        assert_eq!(JoinRefusal::from_code(code).code(), code);
        assert_eq!(ShowRefusal::from_code(code).code(), code);
    }
}

proptest! {
    #[test]
    fn any_message_is_met_without_a_panic(message in proptest::collection::vec(any::<u8>(), 0..1100)) {
        let _ = Frame::parse(&message);
    }

    /// With a right header, so that the body is looked at.
    #[test]
    fn any_body_is_met_without_a_panic(kind in 0_u8..20, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        if let Ok(frame) = Frame::parse(&[&[0xf1, kind], &length[..], &body].concat()) {
            let bytes = frame.to_bytes().unwrap();
            prop_assert_eq!(Frame::parse(&bytes), Ok(frame));
        }
    }

    #[test]
    fn any_damage_is_met_without_a_panic(which in 0_usize..23, index in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = samples()[which].to_bytes().unwrap();
        let index = index.index(bytes.len());
        bytes[index] = byte;
        if let Ok(frame) = Frame::parse(&bytes) {
            prop_assert_eq!(Frame::parse(&frame.to_bytes().unwrap()), Ok(frame));
        }
    }
}
