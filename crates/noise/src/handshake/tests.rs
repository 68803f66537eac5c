//! The handshake against the published Noise vector, against itself, and against those who meddle.

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use tombolo_packet::DropReason;
use tombolo_packet::message::{INITIATION_LEN, Initiation, RESPONSE_LEN, Response};

use super::symmetric::Symmetric;
use super::*;
use crate::clock::Instant;
use crate::cookie::{CookieJar, verify_mac1};
use crate::crypto;
use crate::keys::{PresharedKey, PrivateKey, PublicKey, RemoteStatic, StaticIdentity};
use crate::tai64n::Tai64n;
use crate::test_support::{Side, bytes, hex, pair, seeded_rng};

/// The vector of this very protocol among those of cacophony: "vectors/cacophony.txt".
mod vector {
    pub(super) const PROLOGUE: &str = "4a6f686e2047616c74";
    pub(super) const PRESHARED_KEY: &str = "54686973206973206d7920417573747269616e20706572737065637469766521";
    pub(super) const INITIATOR_STATIC: &str =
        "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1";
    pub(super) const INITIATOR_EPHEMERAL: &str =
        "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
    pub(super) const RESPONDER_STATIC: &str =
        "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893";
    pub(super) const RESPONDER_PUBLIC: &str =
        "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62";
    pub(super) const RESPONDER_EPHEMERAL: &str =
        "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
    /// What is called the handshake hash there was taken before the psk token and the last payload.
    pub(super) const HASH_AFTER_RESPONDER_EPHEMERAL: &str =
        "fe20f6e898ad41a1f4290b0f0ff97261b9536f0d5d95f5237e2a322f0d784414";
    /// Payload and message: two of the handshake, then four of the session, by turns.
    pub(super) const MESSAGES: [(&str, &str); 6] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb5\
             6253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985\
             464cf17e51ee93109008399a21f7e13f",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab03222\
             17755c0632f365717edbf34d33e87a",
        ),
        ("462e20412e20486179656b", "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7"),
        ("4361726c204d656e676572", "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef"),
        (
            "4a65616e2d426170746973746520536179",
            "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
        ),
        (
            "457567656e2042f6686d20766f6e2042617765726b",
            "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
        ),
    ];
}

fn private(text: &str) -> PrivateKey {
    PrivateKey::from_hex(text).unwrap()
}

#[test]
fn the_core_gives_the_published_vector_of_noise_ikpsk2() {
    let initiator = StaticIdentity::new(private(vector::INITIATOR_STATIC));
    let responder = StaticIdentity::new(private(vector::RESPONDER_STATIC));
    assert_eq!(responder.public_key().to_hex(), vector::RESPONDER_PUBLIC);
    let to_responder = RemoteStatic::new(&initiator, *responder.public_key());
    let to_initiator = RemoteStatic::new(&responder, *initiator.public_key());
    let prologue = hex(vector::PROLOGUE);
    let preshared_key = bytes(&hex(vector::PRESHARED_KEY));
    let mut ours = Symmetric::new(CONSTRUCTION, &prologue, responder.public_key().as_bytes());
    let mut theirs = ours.clone();

    let (payload, message) = (hex(vector::MESSAGES[0].0), hex(vector::MESSAGES[0].1));
    let ephemeral = private(vector::INITIATOR_EPHEMERAL).agreement();
    let mut sealed = [&payload[..], &[0; 16]].concat();
    let encrypted_static =
        pattern::write_first(&mut ours, &initiator, &to_responder, &ephemeral, &mut sealed).unwrap();
    assert_eq!([&ephemeral.public()[..], &encrypted_static[..], &sealed[..]].concat(), message);

    let remote_ephemeral = bytes(&message[..32]);
    let claimed =
        pattern::read_first_static(&mut theirs, &responder, &remote_ephemeral, &bytes(&message[32..80]));
    assert_eq!(claimed, Ok(*initiator.public_key()));
    let mut opened = vec![0; payload.len()];
    pattern::read_first_payload(&mut theirs, &to_initiator, &message[80..], &mut opened).unwrap();
    assert_eq!(opened, payload);

    let (payload, message) = (hex(vector::MESSAGES[1].0), hex(vector::MESSAGES[1].1));
    let mut half_way = theirs.clone();
    half_way.mix_hash(&message[..32]);
    assert_eq!(half_way.hash()[..], hex(vector::HASH_AFTER_RESPONDER_EPHEMERAL));
    let responder_ephemeral = private(vector::RESPONDER_EPHEMERAL).agreement();
    let keys = pattern::ResponderKeys {
        ephemeral: &responder_ephemeral,
        remote_ephemeral: &remote_ephemeral,
        remote_static: initiator.public_key(),
        preshared_key: &preshared_key,
    };
    let mut sealed = [&payload[..], &[0; 16]].concat();
    pattern::write_second(&mut theirs, &keys, &mut sealed).unwrap();
    assert_eq!([&responder_ephemeral.public()[..], &sealed[..]].concat(), message);

    let mut opened = vec![0; payload.len()];
    let remote_ephemeral = bytes(&message[..32]);
    let encrypted_payload = &message[32..];
    pattern::read_second(
        &mut ours,
        &initiator,
        &ephemeral,
        &remote_ephemeral,
        &preshared_key,
        encrypted_payload,
        &mut opened,
    )
    .unwrap();
    assert_eq!(opened, payload);

    assert_eq!(theirs.hash(), ours.hash());
    assert_eq!(theirs.split(), ours.split());
    let (from_initiator, from_responder) = ours.split();
    for (index, (payload, message)) in vector::MESSAGES[2..].iter().enumerate() {
        let key = [&from_initiator, &from_responder][index % 2];
        let mut sealed = [hex(payload), vec![0; 16]].concat();
        crypto::seal(key, index as u64 / 2, &[], &mut sealed);
        assert_eq!(sealed, hex(message));
    }
}

fn timestamp() -> Tai64n {
    Tai64n::from_bytes([0x40, 0, 0, 0, 0x5f, 1, 2, 3, 4, 0, 0, 0])
}

fn initiate(side: &Side, sender_index: u32, rng: &mut ChaCha20Rng) -> (Initiator, [u8; INITIATION_LEN]) {
    create_initiation(&side.identity, &side.remote, timestamp(), sender_index, rng).unwrap()
}

fn receive(side: &Side, message: &[u8]) -> Result<Responder, DropReason> {
    consume_initiation_static(&side.identity, &Initiation::parse(message)?)?.consume_timestamp(&side.remote)
}

/// A handshake up to its response.
struct Exchange {
    initiator: Initiator,
    response: [u8; RESPONSE_LEN],
    responder_secrets: SessionSecrets,
}

fn exchange(ours: &Side, theirs: &Side, preshared_key: &PresharedKey, rng: &mut ChaCha20Rng) -> Exchange {
    let (initiator, message) = initiate(ours, 0x1122_3344, rng);
    let responder = receive(theirs, &message).unwrap();
    let (response, responder_secrets) = responder.create_response(preshared_key, 0x5566_7788, rng).unwrap();
    Exchange { initiator, response, responder_secrets }
}

#[test]
fn both_sides_derive_the_same_session() {
    let rng = &mut seeded_rng(1);
    let (ours, theirs) = pair(rng);
    for preshared_key in [PresharedKey::default(), PresharedKey::generate(rng)] {
        let (initiator, message) = initiate(&ours, 0x1122_3344, rng);
        let view = Initiation::parse(&message).unwrap();
        assert_eq!((view.sender_index(), initiator.local_index()), (0x1122_3344, 0x1122_3344));
        let received = consume_initiation_static(&theirs.identity, &view).unwrap();
        assert_eq!(received.remote_static(), ours.identity.public_key());
        let responder = received.consume_timestamp(&theirs.remote).unwrap();
        assert_eq!(responder.timestamp(), timestamp());
        assert_eq!(responder.remote_static(), ours.identity.public_key());
        let (message, theirs) = responder.create_response(&preshared_key, 0x5566_7788, rng).unwrap();
        let response = Response::parse(&message).unwrap();
        assert_eq!((response.sender_index(), response.receiver_index()), (0x5566_7788, 0x1122_3344));
        let ours = initiator.consume_response(&response, &ours.identity, &preshared_key).unwrap();

        assert_eq!((ours.sending, ours.receiving), (theirs.receiving, theirs.sending));
        assert_ne!(ours.sending, ours.receiving);
        assert_eq!(ours.handshake_hash, theirs.handshake_hash);
        assert_eq!((ours.role, theirs.role), (Role::Initiator, Role::Responder));
        assert_eq!((ours.local_index, ours.remote_index), (0x1122_3344, 0x5566_7788));
        assert_eq!((theirs.local_index, theirs.remote_index), (0x5566_7788, 0x1122_3344));
    }
}

#[test]
fn no_two_sessions_have_a_key_in_common() {
    let rng = &mut seeded_rng(2);
    let (ours, theirs) = pair(rng);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let secrets = exchange(&ours, &theirs, &PresharedKey::default(), rng).responder_secrets;
        assert!(seen.insert(secrets.sending) && seen.insert(secrets.receiving));
    }
}

#[test]
fn other_preshared_keys_do_not_agree() {
    let rng = &mut seeded_rng(3);
    let (ours, theirs) = pair(rng);
    let exchange = exchange(&ours, &theirs, &PresharedKey::generate(rng), rng);
    let response = Response::parse(&exchange.response).unwrap();
    let refused =
        exchange.initiator.consume_response(&response, &ours.identity, &PresharedKey::generate(rng));
    assert_eq!(refused.err().map(|(_, reason)| reason), Some(DropReason::HandshakeFailed));
}

/// Requirement 13 and §5.4.4: mac1 covers all before it, type and indices included. mac2 alone may be
/// anything as long as it is not asked for.
#[test]
fn a_flipped_bit_anywhere_before_mac2_is_refused() {
    let rng = &mut seeded_rng(4);
    let (ours, theirs) = pair(rng);
    let (_, mut message) = initiate(&ours, 7, rng);
    CookieJar::new().write_macs(&mut message, &ours.remote, Instant::from_nanos(1));
    assert!(verify_mac1(&Initiation::parse(&message).unwrap(), &theirs.identity));
    let before_mac2 = (INITIATION_LEN - 16) * 8;
    for bit in 0..before_mac2 {
        let mut changed = message;
        changed[bit / 8] ^= 1 << (bit % 8);
        let accepted = Initiation::parse(&changed).is_ok_and(|view| verify_mac1(&view, &theirs.identity));
        assert!(!accepted, "bit {bit}");
    }
}

/// Everyone who knows the responder's public key can make a mac1: the rest has to hold without it.
#[test]
fn a_flipped_bit_in_an_initiation_is_refused_also_under_a_valid_mac1() {
    let rng = &mut seeded_rng(5);
    let (ours, theirs) = pair(rng);
    let (_, message) = initiate(&ours, 7, rng);
    assert!(receive(&theirs, &message).is_ok());
    for bit in 8 * 8..116 * 8 {
        let mut changed = message;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(receive(&theirs, &changed).is_err(), "bit {bit}");
    }
}

/// Requirement 27: what is forged changes nothing, and the true response is still consumed.
#[test]
fn forged_responses_leave_the_initiator_usable_requirement_27() {
    let rng = &mut seeded_rng(6);
    let (ours, theirs) = pair(rng);
    let preshared_key = PresharedKey::generate(rng);
    let Exchange { mut initiator, response, responder_secrets } =
        exchange(&ours, &theirs, &preshared_key, rng);
    for bit in 8 * 8..60 * 8 {
        let mut changed = response;
        changed[bit / 8] ^= 1 << (bit % 8);
        let view = Response::parse(&changed).unwrap();
        let (state, reason) = initiator.consume_response(&view, &ours.identity, &preshared_key).unwrap_err();
        let expected =
            if bit < 12 * 8 { DropReason::UnexpectedResponse } else { DropReason::HandshakeFailed };
        assert_eq!(reason, expected, "bit {bit}");
        initiator = state;
    }
    let view = Response::parse(&response).unwrap();
    let secrets = initiator.consume_response(&view, &ours.identity, &preshared_key).unwrap();
    assert_eq!(secrets.sending, responder_secrets.receiving);
    assert_eq!(secrets.receiving, responder_secrets.sending);
}

#[test]
fn a_response_to_an_earlier_initiation_is_unexpected_requirement_27() {
    let rng = &mut seeded_rng(7);
    let (ours, theirs) = pair(rng);
    let earlier = exchange(&ours, &theirs, &PresharedKey::default(), rng);
    let (later, _) = initiate(&ours, 0x0bad_cafe, rng);
    let view = Response::parse(&earlier.response).unwrap();
    let (later, reason) =
        later.consume_response(&view, &ours.identity, &PresharedKey::default()).unwrap_err();
    assert_eq!((reason, later.local_index()), (DropReason::UnexpectedResponse, 0x0bad_cafe));
    // Even if the index were drawn a second time, the keys are others.
    let (same_index, _) = initiate(&ours, 0x1122_3344, rng);
    let refused = same_index.consume_response(&view, &ours.identity, &PresharedKey::default());
    assert_eq!(refused.err().map(|(_, reason)| reason), Some(DropReason::HandshakeFailed));
}

#[test]
fn an_initiation_to_somebody_else_is_refused() {
    let rng = &mut seeded_rng(8);
    let (ours, theirs) = pair(rng);
    let stranger = StaticIdentity::new(PrivateKey::generate(rng));
    let (_, message) = initiate(&ours, 7, rng);
    let view = Initiation::parse(&message).unwrap();
    assert_eq!(consume_initiation_static(&stranger, &view).err(), Some(DropReason::HandshakeFailed));
    // And the key that was read cannot be taken for another peer's.
    let received = consume_initiation_static(&theirs.identity, &view).unwrap();
    let other = RemoteStatic::new(&theirs.identity, *stranger.public_key());
    assert_eq!(received.consume_timestamp(&other).err(), Some(DropReason::HandshakeFailed));
    // Not even where the secret is the same, since X25519 ignores the highest bit of a public key.
    let received = consume_initiation_static(&theirs.identity, &view).unwrap();
    let mut other = *ours.identity.public_key().as_bytes();
    other[31] |= 0x80;
    let other = RemoteStatic::new(&theirs.identity, PublicKey::from_bytes(other));
    assert_eq!(received.consume_timestamp(&other).err(), Some(DropReason::HandshakeFailed));
}

/// Whoever knows a peer's public key alone can name it, but cannot prove it.
#[test]
fn a_static_key_without_its_private_half_is_refused() {
    let rng = &mut seeded_rng(9);
    let (ours, theirs) = pair(rng);
    let forger = StaticIdentity::new(PrivateKey::generate(rng));
    let ephemeral = PrivateKey::generate(rng).agreement();
    let mut symmetric = Symmetric::new(CONSTRUCTION, IDENTIFIER, theirs.identity.public_key().as_bytes());
    symmetric.mix_ephemeral(&ephemeral.public());
    let theirs_public = theirs.identity.public_key().as_bytes();
    let key = symmetric.mix_key(&ephemeral.agree(theirs_public).unwrap());
    let mut encrypted_static = [0; 48];
    encrypted_static[..32].copy_from_slice(ours.identity.public_key().as_bytes());
    symmetric.seal_and_hash(&key, &mut encrypted_static);
    let forged_secret = forger.agreement().agree(theirs_public).unwrap();
    let key = symmetric.mix_key(&forged_secret);
    let mut encrypted_timestamp = [0; 28];
    symmetric.seal_and_hash(&key, &mut encrypted_timestamp);
    let message = Initiation::write(1, &ephemeral.public(), &encrypted_static, &encrypted_timestamp);
    let received =
        consume_initiation_static(&theirs.identity, &Initiation::parse(&message).unwrap()).unwrap();
    assert_eq!(received.remote_static(), ours.identity.public_key());
    assert_eq!(received.consume_timestamp(&theirs.remote).err(), Some(DropReason::HandshakeFailed));
}

/// The encodings of points of order 1, 2, 4 and 8 on curve and twist, those above the prime included.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

fn low_order_keys() -> impl Iterator<Item = PublicKey> {
    LOW_ORDER.iter().flat_map(|text| {
        let mut with_high_bit = bytes::<32>(&hex(text));
        with_high_bit[31] |= 0x80;
        [PublicKey::from_hex(text).unwrap(), PublicKey::from_bytes(with_high_bit)]
    })
}

#[test]
fn low_order_peers_are_accepted_and_never_spoken_to_requirement_24() {
    let rng = &mut seeded_rng(10);
    let identity = StaticIdentity::new(PrivateKey::generate(rng));
    for key in low_order_keys() {
        assert!(key.is_low_order(), "{key}");
        let remote = RemoteStatic::new(&identity, key);
        assert!(!remote.is_reachable());
        assert!(create_initiation(&identity, &remote, timestamp(), 1, rng).is_none());
    }
    for _ in 0..8 {
        let key = PrivateKey::generate(rng).public();
        assert!(!key.is_low_order() && RemoteStatic::new(&identity, key).is_reachable());
    }
    // Next to those of low order, at both ends of the field and past it: as Diffie-Hellman itself has it.
    for low in 0..=255 {
        for rest in [[0; 31], {
            let mut rest = [0xff; 31];
            rest[30] = 0x7f;
            rest
        }] {
            let key = PublicKey::from_bytes(bytes(&[&[low], &rest[..]].concat()));
            assert_eq!(key.is_low_order(), !RemoteStatic::new(&identity, key).is_reachable(), "{key}");
        }
    }
}

/// The secret of a zero Diffie-Hellman is known to all: with it, an initiation could be made that names a
/// low-order peer.
#[test]
fn low_order_peers_are_never_answered_requirement_24() {
    let rng = &mut seeded_rng(11);
    let (_, theirs) = pair(rng);
    for key in low_order_keys() {
        let ephemeral = PrivateKey::generate(rng).agreement();
        let theirs_public = theirs.identity.public_key().as_bytes();
        let mut symmetric = Symmetric::new(CONSTRUCTION, IDENTIFIER, theirs_public);
        symmetric.mix_ephemeral(&ephemeral.public());
        let first = symmetric.mix_key(&ephemeral.agree(theirs_public).unwrap());
        let mut encrypted_static = [0; 48];
        encrypted_static[..32].copy_from_slice(key.as_bytes());
        symmetric.seal_and_hash(&first, &mut encrypted_static);
        let second = symmetric.mix_zero();
        let mut encrypted_timestamp = [0; 28];
        symmetric.seal_and_hash(&second, &mut encrypted_timestamp);
        let message = Initiation::write(1, &ephemeral.public(), &encrypted_static, &encrypted_timestamp);
        let received =
            consume_initiation_static(&theirs.identity, &Initiation::parse(&message).unwrap()).unwrap();
        assert_eq!(*received.remote_static(), key);
        let remote = RemoteStatic::new(&theirs.identity, key);
        assert_eq!(received.consume_timestamp(&remote).err(), Some(DropReason::HandshakeFailed));
    }
}

#[test]
fn a_low_order_ephemeral_key_is_refused_requirement_24() {
    let rng = &mut seeded_rng(12);
    let (ours, theirs) = pair(rng);
    for key in low_order_keys() {
        // In an initiation whose static key is encrypted under the secret that all know.
        let mut symmetric = Symmetric::new(CONSTRUCTION, IDENTIFIER, theirs.identity.public_key().as_bytes());
        symmetric.mix_ephemeral(key.as_bytes());
        let first = symmetric.mix_zero();
        let mut encrypted_static = [0; 48];
        encrypted_static[..32].copy_from_slice(ours.identity.public_key().as_bytes());
        symmetric.seal_and_hash(&first, &mut encrypted_static);
        let message = Initiation::write(1, key.as_bytes(), &encrypted_static, &[0; 28]);
        let view = Initiation::parse(&message).unwrap();
        assert_eq!(
            consume_initiation_static(&theirs.identity, &view).err(),
            Some(DropReason::HandshakeFailed)
        );

        // In a response: both of its secrets would be known, and none is secret without a preshared key.
        let (initiator, message) = initiate(&ours, 1, rng);
        let mut symmetric = initiator.symmetric_for_tests().clone();
        symmetric.mix_ephemeral(key.as_bytes());
        symmetric.mix_zero();
        symmetric.mix_zero();
        let last = symmetric.mix_preshared_key(&[0; 32]);
        let mut tag = [0; 16];
        symmetric.seal_and_hash(&last, &mut tag);
        assert!(receive(&theirs, &message).is_ok());
        let forged = Response::write(2, 1, key.as_bytes(), &tag);
        let view = Response::parse(&forged).unwrap();
        let refused = initiator.consume_response(&view, &ours.identity, &PresharedKey::default());
        assert_eq!(refused.err().map(|(_, reason)| reason), Some(DropReason::HandshakeFailed));
    }
}

#[test]
fn nothing_secret_is_shown_by_debug() {
    let rng = &mut seeded_rng(13);
    let (ours, theirs) = pair(rng);
    let Exchange { initiator, responder_secrets, .. } =
        exchange(&ours, &theirs, &PresharedKey::default(), rng);
    let shown = format!("{initiator:?} {responder_secrets:?} {:?} {:?}", ours.identity, ours.remote);
    let secrets = [ours.identity.private_key().as_bytes(), &responder_secrets.sending];
    for secret in secrets {
        assert!(!shown.contains(&format!("{secret:?}")) && !shown.contains(&format!("{:?}", &secret[..4])));
    }
    assert!(shown.contains("local_index"));
}

proptest! {
    /// Whatever arrives with the right type and length: no panic, no acceptance, no harm.
    #[test]
    fn arbitrary_messages_are_refused(
        seed in any::<u64>(),
        mut initiation in any::<[u8; INITIATION_LEN]>(),
        mut response in any::<[u8; RESPONSE_LEN]>(),
    ) {
        let rng = &mut seeded_rng(seed);
        let (ours, theirs) = pair(rng);
        initiation[..4].copy_from_slice(&[1, 0, 0, 0]);
        prop_assert!(!verify_mac1(&Initiation::parse(&initiation).unwrap(), &theirs.identity));
        prop_assert_eq!(receive(&theirs, &initiation).err(), Some(DropReason::HandshakeFailed));

        let (initiator, _) = initiate(&ours, 1, rng);
        response[..4].copy_from_slice(&[2, 0, 0, 0]);
        response[8..12].copy_from_slice(&1_u32.to_le_bytes());
        let view = Response::parse(&response).unwrap();
        let refused = initiator.consume_response(&view, &ours.identity, &PresharedKey::default());
        prop_assert_eq!(refused.err().map(|(_, reason)| reason), Some(DropReason::HandshakeFailed));
    }
}
