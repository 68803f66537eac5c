//! Handshakes and cookies with boringtun, which shares no code with us: both roles, with and without a
//! preshared key.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is how it fails")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tombolo_noise::aead::AeadKey;
use tombolo_noise::clock::{Instant, UnixTime};
use tombolo_noise::cookie::{CookieChecker, CookieJar, verify_mac1};
use tombolo_noise::handshake::{Initiator, SessionSecrets, consume_initiation_static, create_initiation};
use tombolo_noise::keys::{PresharedKey, PrivateKey, PublicKey, RemoteStatic, StaticIdentity};
use tombolo_noise::tai64n::Tai64n;
use tombolo_packet::message::{
    CookieReply, INITIATION_LEN, Initiation, Response, TAG_LEN, TRANSPORT_HEADER_LEN, Transport,
    write_transport_header,
};

/// Ours on the left, theirs on the right.
struct Interop {
    identity: StaticIdentity,
    remote: RemoteStatic,
    preshared_key: PresharedKey,
    jar: CookieJar,
    checker: CookieChecker,
    timestamp: Tai64n,
    now: Instant,
    rng: ChaCha20Rng,
    theirs: Tunn,
}

const SOURCE: &str = "192.0.2.9:51820";

fn source() -> SocketAddr {
    SOURCE.parse().unwrap()
}

/// An IPv4 packet that says how long it is, with nothing in it: boringtun looks at no more.
fn inner_packet(len: u8) -> Vec<u8> {
    let mut packet = vec![0; len.into()];
    packet[0] = 0x45;
    packet[3] = len;
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

impl Interop {
    fn new(seed: u64, with_preshared_key: bool, their_limit: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let identity = StaticIdentity::new(PrivateKey::generate(&mut rng));
        let their_private = PrivateKey::generate(&mut rng);
        let remote = RemoteStatic::new(&identity, their_private.public());
        let preshared_key =
            if with_preshared_key { PresharedKey::generate(&mut rng) } else { PresharedKey::default() };
        let their_public = boringtun::x25519::PublicKey::from(*remote.public_key().as_bytes());
        let theirs = Tunn::new(
            boringtun::x25519::StaticSecret::from(*their_private.as_bytes()),
            boringtun::x25519::PublicKey::from(*identity.public_key().as_bytes()),
            with_preshared_key.then(|| *preshared_key.as_bytes()),
            None,
            77,
            Some(Arc::new(RateLimiter::new(&their_public, their_limit))),
        );
        Self {
            identity,
            remote,
            preshared_key,
            jar: CookieJar::new(),
            checker: CookieChecker::new(),
            timestamp: Tai64n::from_unix(UnixTime(Duration::from_secs(1_700_000_000))),
            now: Instant::from_nanos(1 << 40),
            rng,
            theirs,
        }
    }

    /// What boringtun answers to a datagram, if anything.
    fn deliver(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = [0; 256];
        match self.theirs.decapsulate(Some(source().ip()), datagram, &mut buffer) {
            TunnResult::WriteToNetwork(answer) => Some(answer.to_vec()),
            TunnResult::Done => None,
            other => panic!("boringtun refuses it: {other:?}"),
        }
    }

    fn initiate(&mut self) -> (Initiator, [u8; INITIATION_LEN]) {
        self.timestamp = self.timestamp.next_after();
        let (initiator, mut message) =
            create_initiation(&self.identity, &self.remote, self.timestamp, 0x0102_0304, &mut self.rng)
                .unwrap();
        self.jar.write_macs(&mut message, &self.remote, self.now);
        (initiator, message)
    }

    fn consume(&self, initiator: Initiator, message: &[u8]) -> SessionSecrets {
        let response = Response::parse(message).unwrap();
        assert!(verify_mac1(&response, &self.identity));
        initiator.consume_response(&response, &self.identity, &self.preshared_key).unwrap()
    }

    /// We initiate, boringtun answers.
    fn as_initiator(&mut self) -> SessionSecrets {
        let (initiator, message) = self.initiate();
        let response = self.deliver(&message).expect("boringtun answers an initiation");
        self.consume(initiator, &response)
    }

    fn their_initiation(&mut self) -> Vec<u8> {
        let mut buffer = [0; 256];
        match self.theirs.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("boringtun does not initiate: {other:?}"),
        }
    }

    fn respond(&mut self, initiation: &[u8]) -> ([u8; 92], SessionSecrets) {
        let view = Initiation::parse(initiation).unwrap();
        assert!(verify_mac1(&view, &self.identity));
        let received = consume_initiation_static(&self.identity, &view).unwrap();
        assert_eq!(received.remote_static(), self.remote.public_key());
        let responder = received.consume_timestamp(&self.remote).unwrap();
        let (mut message, secrets) =
            responder.create_response(&self.preshared_key, 0x0506_0708, &mut self.rng).unwrap();
        self.jar.write_macs(&mut message, &self.remote, self.now);
        (message, secrets)
    }

    /// Boringtun initiates, we answer; it confirms with a keepalive.
    fn as_responder(&mut self) -> SessionSecrets {
        let initiation = self.their_initiation();
        let (message, secrets) = self.respond(&initiation);
        let keepalive = self.deliver(&message).expect("boringtun confirms");
        assert_eq!(open(&secrets, &keepalive), Vec::<u8>::new());
        secrets
    }

    /// One packet each way.
    fn exchange_data(&mut self, secrets: &SessionSecrets) {
        let packet = inner_packet(48);
        let message = seal(secrets, 3, &packet);
        let mut buffer = [0; 256];
        match self.theirs.decapsulate(Some(source().ip()), &message, &mut buffer) {
            TunnResult::WriteToTunnelV4(opened, _) => assert_eq!(opened, packet),
            other => panic!("boringtun does not open it: {other:?}"),
        }
        let packet = inner_packet(64);
        let message = match self.theirs.encapsulate(&packet, &mut buffer) {
            TunnResult::WriteToNetwork(message) => message.to_vec(),
            other => panic!("boringtun does not send: {other:?}"),
        };
        assert_eq!(open(secrets, &message), packet);
    }
}

fn seal(secrets: &SessionSecrets, counter: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut message = [&[0; TRANSPORT_HEADER_LEN], plaintext, &[0; TAG_LEN]].concat();
    let (header, rest) = message.split_first_chunk_mut().unwrap();
    write_transport_header(header, secrets.remote_index, counter);
    let (buffer, tag) = rest.split_last_chunk_mut().unwrap();
    AeadKey::new(&secrets.sending).seal_in_place(counter, buffer, tag);
    message
}

fn open(secrets: &SessionSecrets, message: &[u8]) -> Vec<u8> {
    let view = Transport::parse(message).unwrap();
    assert_eq!(view.receiver_index(), secrets.local_index);
    let mut ciphertext = view.ciphertext().to_vec();
    AeadKey::new(&secrets.receiving).open_in_place(view.counter(), &mut ciphertext).unwrap().to_vec()
}

#[test]
fn we_initiate() {
    for with_preshared_key in [false, true] {
        let mut interop = Interop::new(1, with_preshared_key, u64::MAX);
        let secrets = interop.as_initiator();
        interop.exchange_data(&secrets);
        // And again, as a rekey.
        let secrets = interop.as_initiator();
        interop.exchange_data(&secrets);
    }
}

#[test]
fn we_respond() {
    for with_preshared_key in [false, true] {
        let mut interop = Interop::new(2, with_preshared_key, u64::MAX);
        let secrets = interop.as_responder();
        interop.exchange_data(&secrets);
        let secrets = interop.as_responder();
        interop.exchange_data(&secrets);
    }
}

#[test]
fn another_preshared_key_is_refused_by_both() {
    let mut interop = Interop::new(3, true, u64::MAX);
    interop.preshared_key = PresharedKey::generate(&mut interop.rng);
    let (initiator, message) = interop.initiate();
    let response = interop.deliver(&message).unwrap();
    let view = Response::parse(&response).unwrap();
    assert!(initiator.consume_response(&view, &interop.identity, &interop.preshared_key).is_err());

    let initiation = interop.their_initiation();
    let (response, _) = interop.respond(&initiation);
    let mut buffer = [0; 256];
    let result = interop.theirs.decapsulate(Some(source().ip()), &response, &mut buffer);
    assert!(matches!(result, TunnResult::Err(_)), "{result:?}");
}

/// Boringtun with a limit of nothing is always under load.
#[test]
fn we_use_their_cookie_requirement_14() {
    for with_preshared_key in [false, true] {
        let mut interop = Interop::new(4, with_preshared_key, 0);
        let (_, message) = interop.initiate();
        let reply = interop.deliver(&message).expect("a cookie reply");
        let view = CookieReply::parse(&reply).unwrap();
        assert_eq!(view.receiver_index(), 0x0102_0304);
        interop.jar.consume_reply(&view, &interop.remote, interop.now).unwrap();
        let secrets = interop.as_initiator();
        interop.exchange_data(&secrets);
    }
}

#[test]
fn they_use_our_cookie_requirement_14() {
    let mut interop = Interop::new(5, true, u64::MAX);
    let first = interop.their_initiation();
    let view = Initiation::parse(&first).unwrap();
    assert!(!interop.checker.verify_mac2(&view, source(), interop.now));
    let reply =
        interop.checker.create_reply(&interop.identity, &view, source(), interop.now, &mut interop.rng);
    assert_eq!(interop.deliver(&reply), None);

    let second = interop.their_initiation();
    let view = Initiation::parse(&second).unwrap();
    assert!(verify_mac1(&view, &interop.identity));
    assert!(interop.checker.verify_mac2(&view, source(), interop.now));
    let elsewhere = SocketAddr::new(IpAddr::from([192, 0, 2, 9]), 51821);
    assert!(!interop.checker.verify_mac2(&view, elsewhere, interop.now));

    let (response, secrets) = interop.respond(&second);
    interop.deliver(&response).expect("boringtun confirms");
    interop.exchange_data(&secrets);
}

/// A response under load is answered with a cookie too, and the next handshake carries it.
#[test]
fn they_answer_our_response_with_a_cookie() {
    let mut interop = Interop::new(6, false, 0);
    let initiation = interop.their_initiation();
    let (response, _) = interop.respond(&initiation);
    let reply = interop.deliver(&response).expect("a cookie reply");
    let view = CookieReply::parse(&reply).unwrap();
    assert_eq!(view.receiver_index(), 0x0506_0708);
    interop.jar.consume_reply(&view, &interop.remote, interop.now).unwrap();
    let initiation = interop.their_initiation();
    let (response, secrets) = interop.respond(&initiation);
    interop.deliver(&response).expect("boringtun confirms");
    interop.exchange_data(&secrets);
}

#[test]
fn public_keys_are_the_same() {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    for _ in 0..16 {
        let private = PrivateKey::generate(&mut rng);
        let theirs = boringtun::x25519::StaticSecret::from(*private.as_bytes());
        let public = boringtun::x25519::PublicKey::from(&theirs).to_bytes();
        assert_eq!(private.public(), PublicKey::from_bytes(public));
    }
}
