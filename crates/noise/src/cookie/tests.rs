//! mac1, mac2 and cookies between two sides of ours, in virtual time.

use std::net::{Ipv6Addr, SocketAddrV6};

use rand_chacha::ChaCha20Rng;
use tombolo_packet::message::INITIATION_LEN;

use super::*;
use crate::handshake::create_initiation;
use crate::tai64n::Tai64n;
use crate::test_support::{Side, pair, seeded_rng};

fn at(seconds: f64) -> Instant {
    // Not near zero, so that nothing is hidden by subtractions that stop there.
    Instant::from_nanos(1 << 50) + Duration::from_secs_f64(seconds)
}

fn source(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const SOURCE: &str = "198.51.100.7:4711";

struct Network {
    initiator: Side,
    responder: Side,
    jar: CookieJar,
    checker: CookieChecker,
    rng: ChaCha20Rng,
}

impl Network {
    fn new(seed: u64) -> Self {
        let mut rng = seeded_rng(seed);
        let (initiator, responder) = pair(&mut rng);
        Self { initiator, responder, jar: CookieJar::new(), checker: CookieChecker::new(), rng }
    }

    /// A fresh initiation as it is sent at `now`.
    fn initiation(&mut self, now: Instant) -> [u8; INITIATION_LEN] {
        let Self { initiator, jar, rng, .. } = self;
        let (_, mut message) =
            create_initiation(&initiator.identity, &initiator.remote, Tai64n::default(), 99, rng).unwrap();
        jar.write_macs(&mut message, &initiator.remote, now);
        message
    }

    fn reply_to(&mut self, message: &[u8], from: &str, now: Instant) -> [u8; COOKIE_REPLY_LEN] {
        let view = Initiation::parse(message).unwrap();
        self.checker.create_reply(&self.responder.identity, &view, source(from), now, &mut self.rng)
    }

    fn consume(&mut self, reply: &[u8], now: Instant) -> Result<(), DropReason> {
        self.jar.consume_reply(&CookieReply::parse(reply)?, &self.initiator.remote, now)
    }

    fn accepts(&self, message: &[u8], from: &str, now: Instant) -> bool {
        let view = Initiation::parse(message).unwrap();
        verify_mac1(&view, &self.responder.identity) && self.checker.verify_mac2(&view, source(from), now)
    }

    /// Goes through one round of a loaded responder: initiation, cookie reply.
    fn with_cookie(mut self, now: Instant) -> Self {
        let message = self.initiation(now);
        let reply = self.reply_to(&message, SOURCE, now);
        assert_eq!(self.consume(&reply, now), Ok(()));
        self
    }
}

#[test]
fn mac1_is_of_the_receiver_requirement_13() {
    let mut network = Network::new(1);
    let message = network.initiation(at(0.0));
    let view = Initiation::parse(&message).unwrap();
    assert!(verify_mac1(&view, &network.responder.identity));
    assert!(!verify_mac1(&view, &network.initiator.identity));
    assert_eq!(view.mac2(), &[0; 16]);
}

#[test]
fn a_cookie_makes_a_valid_mac2() {
    let mut network = Network::new(2);
    let first = network.initiation(at(0.0));
    assert!(!network.accepts(&first, SOURCE, at(0.0)));
    let reply = network.reply_to(&first, SOURCE, at(0.0));
    assert_eq!(CookieReply::parse(&reply).unwrap().receiver_index(), 99);
    assert!(!network.accepts(&first, SOURCE, at(0.0)), "the first message still has none");
    network.consume(&reply, at(0.1)).unwrap();
    let second = network.initiation(at(5.0));
    assert!(network.accepts(&second, SOURCE, at(5.1)));
    // Any change of what it covers, and of itself, is noticed.
    for bit in 4 * 8..INITIATION_LEN * 8 {
        let mut changed = second;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!network.accepts(&changed, SOURCE, at(5.1)), "bit {bit}");
    }
}

#[test]
fn a_cookie_is_for_one_address_and_one_port_requirement_14() {
    let mut network = Network::new(3).with_cookie(at(0.0));
    let message = network.initiation(at(1.0));
    assert!(network.accepts(&message, SOURCE, at(1.0)));
    for other in ["198.51.100.7:4712", "198.51.100.8:4711", "[2001:db8::1]:4711", "[2001:db8::1]:4712"] {
        assert!(!network.accepts(&message, other, at(1.0)), "{other}");
    }
    // A socket of both families names the same source in another way.
    assert!(network.accepts(&message, "[::ffff:198.51.100.7]:4711", at(1.0)));
}

#[test]
fn cookies_work_over_ipv6() {
    let mut network = Network::new(4);
    let from = SocketAddr::from(SocketAddrV6::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 1, 0, 0));
    let message = network.initiation(at(0.0));
    let reply = network.reply_to(&message, &from.to_string(), at(0.0));
    network.consume(&reply, at(0.0)).unwrap();
    let message = network.initiation(at(1.0));
    assert!(network.accepts(&message, &from.to_string(), at(1.0)));
    assert!(!network.accepts(&message, "[2001:db8::8]:1", at(1.0)));
}

#[test]
fn a_received_cookie_is_used_for_115_seconds_requirement_14() {
    let mut network = Network::new(5).with_cookie(at(0.0));
    let message = network.initiation(at(115.0));
    assert!(network.accepts(&message, SOURCE, at(115.0)), "used up to 115 s");
    let message = network.initiation(at(115.001));
    assert_eq!(Initiation::parse(&message).unwrap().mac2(), &[0; 16], "not used after 115 s");
    // It does not come back, whatever the clock does.
    let message = network.initiation(at(1.0));
    assert_eq!(Initiation::parse(&message).unwrap().mac2(), &[0; 16]);
}

#[test]
fn the_secret_changes_every_120_seconds_requirement_14() {
    let mut network = Network::new(6).with_cookie(at(0.0));
    let message = network.initiation(at(1.0));
    assert!(network.accepts(&message, SOURCE, at(119.9)));
    assert!(!network.accepts(&message, SOURCE, at(120.0)));
    // Another reply makes another secret: the old cookie stays invalid, the new one is good.
    let reply = network.reply_to(&message, SOURCE, at(121.0));
    assert!(!network.accepts(&message, SOURCE, at(121.0)));
    network.consume(&reply, at(121.0)).unwrap();
    let message = network.initiation(at(122.0));
    assert!(network.accepts(&message, SOURCE, at(240.9)));
    assert!(!network.accepts(&message, SOURCE, at(241.0)));
}

#[test]
fn replies_within_120_seconds_carry_one_cookie_under_many_nonces() {
    let mut network = Network::new(7);
    let message = network.initiation(at(0.0));
    let replies = [0.0, 60.0, 119.0].map(|seconds| network.reply_to(&message, SOURCE, at(seconds)));
    let nonces = replies.map(|reply| *CookieReply::parse(&reply).unwrap().nonce());
    assert!(nonces[0] != nonces[1] && nonces[1] != nonces[2]);
    network.consume(&replies[2], at(119.0)).unwrap();
    let second = network.initiation(at(119.0));
    assert!(network.accepts(&second, SOURCE, at(119.5)), "the secret is that of the first reply");
}

#[test]
fn a_reply_is_bound_to_the_message_that_was_sent_requirement_14() {
    let mut network = Network::new(8);
    let earlier = network.initiation(at(0.0));
    let reply_to_earlier = network.reply_to(&earlier, SOURCE, at(0.0));
    let later = network.initiation(at(5.0));
    assert_eq!(network.consume(&reply_to_earlier, at(5.0)), Err(DropReason::InvalidCookieReply));
    // The forged one has spoilt nothing, and what answers the message that was sent last is taken, once.
    let reply = network.reply_to(&later, SOURCE, at(5.0));
    assert_eq!(network.consume(&reply, at(5.0)), Ok(()));
    assert_eq!(network.consume(&reply, at(5.0)), Err(DropReason::UnexpectedResponse));
    let message = network.initiation(at(6.0));
    assert!(network.accepts(&message, SOURCE, at(6.0)));
}

#[test]
fn a_changed_reply_is_refused() {
    let mut network = Network::new(9);
    let message = network.initiation(at(0.0));
    let reply = network.reply_to(&message, SOURCE, at(0.0));
    for bit in 8 * 8..COOKIE_REPLY_LEN * 8 {
        let mut changed = reply;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(network.consume(&changed, at(0.0)), Err(DropReason::InvalidCookieReply), "bit {bit}");
    }
    assert_eq!(network.consume(&reply, at(0.0)), Ok(()));
}

#[test]
fn a_reply_to_nothing_is_unexpected() {
    let mut network = Network::new(10);
    let message = network.initiation(at(0.0));
    let reply = network.reply_to(&message, SOURCE, at(0.0));
    network.jar.clear();
    assert_eq!(network.consume(&reply, at(0.0)), Err(DropReason::UnexpectedResponse));
}

#[test]
fn without_a_secret_no_mac2_is_valid() {
    let mut network = Network::new(11);
    let message = network.initiation(at(0.0));
    assert!(!network.accepts(&message, SOURCE, at(0.0)));
    assert!(!network.accepts(&[&message[..132], &[0; 16]].concat(), SOURCE, at(0.0)));
}

#[test]
fn what_is_too_short_for_macs_is_left_alone() {
    let mut network = Network::new(12);
    let mut short = [5; 31];
    network.jar.write_macs(&mut short, &network.initiator.remote, at(0.0));
    assert_eq!(short, [5; 31]);
}
