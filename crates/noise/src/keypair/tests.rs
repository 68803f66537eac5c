use super::*;
use crate::keys::PrivateKey;
use crate::link::{Event, Link, Received};
use crate::peer::Peer;
use crate::standing::Standing;
use crate::test_support::seeded_rng;
use tombolo_packet::{Endpoint, PeerId};

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// The two ends of one session, created at one second.
fn pair() -> (Keypair, Keypair) {
    let secrets = |sending, receiving, local_index, remote_index, role| SessionSecrets {
        sending: [sending; 32],
        receiving: [receiving; 32],
        handshake_hash: [0; 32],
        local_index,
        remote_index,
        role,
    };
    (
        Keypair::new(&secrets(1, 2, 10, 20, Role::Initiator), 1, None, at(1)),
        Keypair::new(&secrets(2, 1, 20, 10, Role::Responder), 1, None, at(1)),
    )
}

fn link() -> Link {
    let mut rng = seeded_rng(1);
    Link::new(PeerId(3), PrivateKey::generate(&mut rng).public(), Standing::Static)
}

#[test]
fn counters_end_at_reject_after_messages_requirement_2() {
    assert_eq!(REJECT_AFTER_MESSAGES, u64::MAX - 8192);
    let (keypair, _) = pair();
    keypair.skip_to_counter(REJECT_AFTER_MESSAGES - 3);
    assert_eq!(keypair.reserve(4), Err(DropReason::ExpiredKeypair));
    assert_eq!(keypair.reserve(2), Ok(REJECT_AFTER_MESSAGES - 3), "a refusal uses nothing up");
    assert_eq!(keypair.reserve(1), Ok(REJECT_AFTER_MESSAGES - 1));
    assert!(!keypair.can_send(at(2)));
    for _ in 0..1000 {
        assert_eq!(keypair.reserve(1), Err(DropReason::ExpiredKeypair));
    }
    assert_eq!(keypair.reserve(u64::MAX), Err(DropReason::ExpiredKeypair));
}

#[test]
fn a_received_counter_past_the_limit_is_refused_requirement_2() {
    let (sender, receiver) = pair();
    let mut message = [0; TRANSPORT_OVERHEAD];
    sender.seal(REJECT_AFTER_MESSAGES - 1, &mut message);
    assert_eq!(receiver.open(&mut message).unwrap().0, REJECT_AFTER_MESSAGES - 1);
    let mut message = [0; TRANSPORT_OVERHEAD];
    sender.seal(REJECT_AFTER_MESSAGES, &mut message);
    assert_eq!(receiver.open(&mut message), Err(DropReason::ExpiredKeypair));
}

#[test]
fn either_side_renews_after_2_to_the_60_messages_requirement_2() {
    let (initiator, responder) = pair();
    for keypair in [initiator, responder] {
        let link = link();
        assert_eq!(link.note_sent(&keypair, at(2), 1, 32, false), None);
        keypair.skip_to_counter(REKEY_AFTER_MESSAGES + 1);
        let wanted = Some(Event::HandshakeWanted(PeerId(3)));
        assert_eq!(link.note_sent(&keypair, at(2), 1, 32, false), wanted);
        assert_eq!(link.note_sent(&keypair, at(2), 1, 32, false), None, "asked once");
        link.clear_handshake_wanted();
        assert_eq!(link.note_sent(&keypair, at(2), 1, 32, false), wanted);
    }
}

#[test]
fn no_counter_is_reserved_twice_by_threads() {
    let (keypair, _) = pair();
    let mut ranges: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=4)
            .map(|count| {
                let keypair = &keypair;
                scope.spawn(move || {
                    (0..500).map(|_| (keypair.reserve(count).unwrap(), count)).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    ranges.sort_unstable();
    let mut next = 0;
    for (first, count) in ranges {
        assert_eq!(first, next);
        next += count;
    }
    assert_eq!(next, 500 * (1 + 2 + 3 + 4));
}

#[test]
fn a_batch_is_committed_counter_by_counter_requirement_16() {
    let (_, receiver) = pair();
    let mut fresh = Vec::new();
    receiver.commit(&[3, 1, 3, 2], &mut fresh);
    receiver.commit(&[2, 4], &mut fresh);
    assert_eq!(fresh, [true, true, false, true, false, true]);
    assert!(!receiver.replay().is_fresh(4));
}

#[test]
fn sealing_and_opening_agree_and_a_failure_leaves_the_window_alone_requirement_16() {
    let (sender, receiver) = pair();
    let mut message = [7; 16 + 32 + 16];
    let counter = sender.reserve(1).unwrap();
    sender.seal(counter, &mut message);
    let mut forged = message;
    forged[20] ^= 1;
    assert_eq!(receiver.open(&mut forged), Err(DropReason::InvalidTag));
    assert!(receiver.replay().is_fresh(counter));
    let (opened, plaintext) = receiver.open(&mut message).unwrap();
    assert_eq!((opened, &*plaintext), (counter, &[7; 32][..]));
}

#[test]
fn padding_is_to_16_bytes_and_capped_at_the_mtu_requirement_17() {
    for (len, mtu, expected) in [
        (0, 1420, 0),
        (1, 1420, 16),
        (16, 1420, 16),
        (17, 1420, 32),
        (1409, 1420, 1420),
        (1420, 1420, 1420),
        (1419, 1420, 1420),
        (1421, 1420, 1436),
        (100, 0, 112),
        (20, 10, 20),
    ] {
        assert_eq!(padded_len(len, mtu), expected, "{len} bytes at an MTU of {mtu}");
    }
    for len in 0..5000 {
        for mtu in [0, 1, 15, 16, 576, 1280, 1420] {
            let padded = padded_len(len, mtu);
            assert!(padded >= len && padded < len + 16);
        }
    }
}

#[test]
fn a_retired_keypair_serves_nobody_requirement_9() {
    let (sender, receiver) = pair();
    let mut message = [0; 64];
    sender.seal(0, &mut message);
    sender.retire();
    receiver.retire();
    assert_eq!(sender.reserve(1), Err(DropReason::ExpiredKeypair));
    assert!(!sender.can_send(at(2)));
    assert!(!receiver.can_receive(at(2)));
    assert_eq!(receiver.open(&mut message), Err(DropReason::ExpiredKeypair));
}

#[test]
fn the_first_message_confirms_a_responder_once_requirement_12() {
    let (initiator, responder) = pair();
    assert!(initiator.is_confirmed() && !responder.is_confirmed());
    assert!(!responder.can_send(at(2)) && responder.can_receive(at(2)));
    let link = link();
    let from = Endpoint::new("192.0.2.1:1".parse().unwrap());
    let batch = Received { messages: 1, bytes: 32, data: false, moves: true };
    let confirmed = Some(Event::Confirmed { peer: PeerId(3), local_index: 20 });
    assert_eq!(link.note_received(&responder, from, at(2), &batch), confirmed);
    assert_eq!(link.note_received(&responder, from, at(2), &batch), None);
    assert_eq!(
        link.note_received(&responder, from, at(2), &Received::default()),
        None,
        "an empty batch is none"
    );
    assert!(responder.can_send(at(2)));
}

#[test]
fn an_idle_peer_takes_less_than_a_kilobyte() {
    let btree_entries = 2 * (32 + 8) + 2 * 24;
    let endpoint = size_of::<Endpoint>() + 16;
    let total = size_of::<Peer>()
        + size_of::<Link>()
        + 16
        + endpoint
        + btree_entries
        + size_of::<Option<Box<Peer>>>();
    assert!(total <= 1024, "{total} bytes");
}
