//! The whole device against boringtun, which shares no code with us, in virtual time: both roles,
//! rekeys over days, and a differential test over a network that loses and reorders.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

use boringtun::noise::{Tunn, TunnResult};
use mock_instant::MockClock;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{
    Device, Event, Keypair, Link, MembershipOptions, Output, PresharedKey, PrivateKey, Received,
    TRANSPORT_OVERHEAD, padded_len,
};
use tombolo_packet::Endpoint;
use tombolo_packet::message::{MessageType, Transport};

const THEIRS: &str = "192.0.2.9:51820";
/// boringtun looks at its timers when it is told to, and rounds to this.
const TICK: Duration = Duration::from_millis(250);
/// boringtun accepts no initiation that is not newer, and draws its time from the machine's clock.
const WALL_AT_START: Duration = Duration::from_secs(1_790_000_000);

/// Which side a datagram goes to, or a packet comes out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

struct Interop {
    now: Instant,
    rng: ChaCha20Rng,
    device: Device,
    link: Arc<Link>,
    staged: VecDeque<Vec<u8>>,
    tunn: Tunn,
    /// In the order of sending.
    wire: VecDeque<(Side, Vec<u8>)>,
    delivered: Vec<(Side, Vec<u8>)>,
    initiations: [usize; 2],
}

/// An IPv4 packet that carries its number.
fn inner_packet(number: u32, len: u16) -> Vec<u8> {
    let mut packet = vec![0; usize::from(len.max(24))];
    let total = packet.len() as u16;
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

fn endpoint() -> Endpoint {
    Endpoint::new(THEIRS.parse::<SocketAddr>().unwrap())
}

impl Interop {
    fn new(seed: u64, preshared: bool) -> Self {
        MockClock::set_time(Duration::from_secs(1));
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let (ours, theirs) = (PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng));
        let preshared_key =
            if preshared { PresharedKey::generate(&mut rng) } else { PresharedKey::default() };
        let tunn = Tunn::new(
            boringtun::x25519::StaticSecret::from(*theirs.as_bytes()),
            boringtun::x25519::PublicKey::from(*ours.public().as_bytes()),
            preshared.then(|| *preshared_key.as_bytes()),
            None,
            7,
            None,
        );
        let mut device = Device::new();
        let now = Now { boot: Instant::from_nanos(1_000_000_000), wall: UnixTime(WALL_AT_START) };
        device.set_private_key(Some(ours), now, &mut rng);
        let peer = device.add_peer(theirs.public()).unwrap();
        device.set_preshared_key(peer, preshared_key);
        device.set_endpoint(peer, Some(endpoint()), now, &mut rng);
        let link = Arc::clone(device.link(peer).unwrap());
        Self {
            now: now.boot,
            rng,
            device,
            link,
            staged: VecDeque::new(),
            tunn,
            wire: VecDeque::new(),
            delivered: Vec::new(),
            initiations: [0; 2],
        }
    }

    fn now(&self) -> Now {
        Now { boot: self.now, wall: UnixTime(WALL_AT_START + Duration::from_nanos(self.now.as_nanos())) }
    }

    fn put(&mut self, to: Side, datagram: &[u8]) {
        if MessageType::classify(datagram) == Ok(MessageType::Initiation) {
            self.initiations[usize::from(to == Side::Ours)] += 1;
        }
        self.wire.push_back((to, datagram.to_vec()));
    }

    fn send(&mut self, from: Side, packet: &[u8]) {
        match from {
            Side::Ours => match self.link.sending_keypair(self.now) {
                Some(keypair) => self.seal(&keypair, packet),
                None => {
                    self.staged.push_back(packet.to_vec());
                    let event = self.link.want_handshake();
                    self.report(event);
                }
            },
            Side::Theirs => {
                let mut buffer = vec![0; 2048];
                if let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(packet, &mut buffer) {
                    let datagram = datagram.to_vec();
                    self.put(Side::Ours, &datagram);
                }
            }
        }
    }

    fn seal(&mut self, keypair: &Arc<Keypair>, packet: &[u8]) {
        let counter = keypair.reserve(1).unwrap();
        let mut message = vec![0; padded_len(packet.len(), 1420) + TRANSPORT_OVERHEAD];
        message[16..16 + packet.len()].copy_from_slice(packet);
        keypair.seal(counter, &mut message);
        let event = self.link.note_sent(keypair, self.now, 1, message.len() as u64, !packet.is_empty());
        self.put(Side::Theirs, &message);
        self.report(event);
    }

    fn report(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            let now = self.now();
            self.device.handle_event(event, now, &mut self.rng);
        }
        self.run_outputs();
    }

    fn run_outputs(&mut self) {
        while let Some(output) = self.device.poll_output() {
            match output {
                Output::Datagram { contents, .. } => self.put(Side::Theirs, &contents),
                Output::Keepalive { .. } => self.flush(true),
                Output::SessionReady { initiator, .. } => self.flush(initiator),
                Output::FlushStaged { .. } => self.flush(false),
                Output::DropStaged { .. } => self.staged.clear(),
                Output::ResolveEndpoint { .. } | Output::TimestampAdvanced { .. } => {}
                other => panic!("a static peer has no part in membership mode: {other:?}"),
            }
        }
    }

    fn flush(&mut self, or_keepalive: bool) {
        let Some(keypair) = self.link.sending_keypair(self.now) else { return };
        if self.staged.is_empty() && or_keepalive {
            self.seal(&keypair, &[]);
        }
        for packet in std::mem::take(&mut self.staged) {
            self.seal(&keypair, &packet);
        }
    }

    /// Delivers the datagram at a place of the wire.
    fn deliver(&mut self, place: usize) {
        let Some((to, datagram)) = self.wire.remove(place) else { return };
        self.arrive(to, datagram);
    }

    fn arrive(&mut self, to: Side, mut datagram: Vec<u8>) {
        match to {
            Side::Theirs => self.arrive_theirs(&datagram),
            Side::Ours if MessageType::classify(&datagram) == Ok(MessageType::Transport) => {
                self.arrive_transport(&mut datagram);
            }
            Side::Ours => {
                let now = self.now();
                // What it refuses is for the test to notice by what is delivered.
                let _ = self.device.handle_message(&datagram, endpoint(), 0, 1024, now, &mut self.rng);
                self.run_outputs();
            }
        }
    }

    fn arrive_theirs(&mut self, datagram: &[u8]) {
        let mut buffer = vec![0; 2048];
        let mut input = datagram;
        loop {
            match self.tunn.decapsulate(None, input, &mut buffer) {
                TunnResult::WriteToNetwork(answer) => {
                    let answer = answer.to_vec();
                    self.put(Side::Ours, &answer);
                    input = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) => {
                    self.delivered.push((Side::Theirs, packet.to_vec()));
                    break;
                }
                _ => break,
            }
        }
    }

    fn arrive_transport(&mut self, datagram: &mut [u8]) {
        let index = Transport::parse(datagram).unwrap().receiver_index();
        let Some(entry) = self.device.index_table().lookup(index) else { return };
        if !entry.keypair().can_receive(self.now) {
            return;
        }
        let bytes = datagram.len() as u64;
        let Ok((counter, plaintext)) = entry.keypair().open(datagram) else { return };
        let mut fresh = Vec::new();
        entry.keypair().commit(&[counter], &mut fresh);
        if fresh != [true] {
            return;
        }
        let data = !plaintext.is_empty();
        if data {
            self.delivered.push((Side::Ours, plaintext.to_vec()));
        }
        let received = Received { messages: 1, bytes, data, moves: true };
        let event = self.link.note_received(entry.keypair(), endpoint(), self.now, &received);
        self.report(event);
    }

    /// Everything that is on the wire, and what comes of it, arrives.
    fn settle(&mut self) {
        while !self.wire.is_empty() {
            self.deliver(0);
        }
    }

    /// Lets time pass on both sides. What the timers send is delivered, unless the network is `cut`.
    fn advance(&mut self, duration: Duration, cut: bool) {
        let end = self.now + duration;
        while self.now < end {
            self.now = (self.now + TICK).min(end);
            MockClock::set_time(Duration::from_nanos(self.now.as_nanos()));
            if self.device.poll_timeout().is_some_and(|deadline| deadline <= self.now) {
                let now = self.now();
                self.device.handle_timeout(now, &mut self.rng);
                self.run_outputs();
            }
            let mut buffer = vec![0; 2048];
            if let TunnResult::WriteToNetwork(datagram) = self.tunn.update_timers(&mut buffer) {
                let datagram = datagram.to_vec();
                self.put(Side::Ours, &datagram);
            }
            if cut {
                self.wire.clear();
            }
            self.settle();
        }
    }

    fn delivered_to(&self, side: Side) -> Vec<&[u8]> {
        self.delivered.iter().filter(|delivered| delivered.0 == side).map(|delivered| &*delivered.1).collect()
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Ours => Side::Theirs,
        Side::Theirs => Side::Ours,
    }
}

#[test]
fn a_session_begun_by_either_side_carries_data_both_ways() {
    for initiator in [Side::Ours, Side::Theirs] {
        for preshared in [false, true] {
            let mut interop = Interop::new(1, preshared);
            interop.send(initiator, &inner_packet(1, 100));
            interop.settle();
            interop.advance(Duration::from_secs(1), false);
            interop.send(other(initiator), &inner_packet(2, 1400));
            interop.settle();
            for (side, number, len) in [(other(initiator), 1, 100), (initiator, 2, 1400)] {
                let delivered = interop.delivered_to(side);
                assert_eq!(delivered.len(), 1, "to {side:?}, begun by {initiator:?}");
                assert_eq!(
                    delivered[0][..usize::from(len)],
                    inner_packet(number, len),
                    "and zeros, if padded"
                );
            }
        }
    }
}

#[test]
fn a_configured_stock_peer_notices_nothing_of_membership_mode_control_rule_9() {
    for initiator in [Side::Ours, Side::Theirs] {
        let mut interop = Interop::new(5, true);
        let now = Now { boot: interop.now, wall: UnixTime(WALL_AT_START) };
        interop.device.set_membership(Some(MembershipOptions::node()), now);
        interop.send(initiator, &inner_packet(0, 60));
        interop.settle();
        assert_eq!(interop.delivered_to(other(initiator)).len(), 1, "no cookie, no second attempt");
        for number in 1..300 {
            interop.advance(Duration::from_secs(7), false);
            interop.send(initiator, &inner_packet(number, 60));
            interop.send(other(initiator), &inner_packet(number, 60));
            interop.settle();
        }
        assert_eq!(interop.delivered_to(other(initiator)).len(), 300);
        assert_eq!(interop.delivered_to(initiator).len(), 299);
    }
}

#[test]
fn data_flows_through_the_rekeys_of_two_days() {
    for initiator in [Side::Ours, Side::Theirs] {
        let mut interop = Interop::new(2, true);
        interop.send(initiator, &inner_packet(0, 60));
        interop.settle();
        interop.advance(Duration::from_secs(1), false);
        let mut sent = 1;
        let two_days = 2 * 24 * 3600;
        while interop.now < Instant::from_nanos(two_days * 1_000_000_000) {
            interop.advance(Duration::from_secs(7), false);
            for from in [Side::Ours, Side::Theirs] {
                interop.send(from, &inner_packet(sent, 60));
                interop.settle();
            }
            sent += 1;
        }
        let delivered = [Side::Ours, Side::Theirs].map(|side| interop.delivered_to(side).len());
        let expected = sent as usize - 1;
        assert!(
            delivered.iter().all(|count| (expected..=expected + 1).contains(count)),
            "{delivered:?} of {expected}"
        );
        let handshakes = interop.initiations[0] + interop.initiations[1];
        let rekeys = usize::try_from(two_days / 120).unwrap();
        assert!(
            handshakes > rekeys * 9 / 10 && handshakes < rekeys * 12 / 10,
            "{handshakes} for {rekeys} rekeys"
        );
    }
}

#[test]
fn a_cut_cable_heals() {
    for initiator in [Side::Ours, Side::Theirs] {
        let mut interop = Interop::new(3, false);
        interop.send(initiator, &inner_packet(0, 60));
        interop.settle();
        interop.advance(Duration::from_secs(1), false);
        for outage in [20, 100, 200, 700] {
            interop.advance(Duration::from_secs(outage), true);
            for from in [Side::Ours, Side::Theirs] {
                interop.send(from, &inner_packet(1, 60));
            }
            interop.settle();
            interop.advance(Duration::from_secs(20), false);
            interop.delivered.clear();
            for from in [Side::Ours, Side::Theirs] {
                interop.send(from, &inner_packet(2, 60));
            }
            interop.settle();
            interop.advance(Duration::from_secs(10), false);
            for side in [Side::Ours, Side::Theirs] {
                assert!(!interop.delivered_to(side).is_empty(), "to {side:?} after {outage} s");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(Side, u16),
    /// Delivers the datagram at this place, of those that wait.
    Deliver(usize),
    Drop(usize),
    Repeat(usize),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let side = prop_oneof![Just(Side::Ours), Just(Side::Theirs)];
    prop::collection::vec(
        prop_oneof![
            6 => (side, 24..1400_u16).prop_map(|(side, len)| Step::Send(side, len)),
            6 => (0..8_usize).prop_map(Step::Deliver),
            1 => (0..8_usize).prop_map(Step::Drop),
            2 => (0..8_usize).prop_map(Step::Repeat),
            1 => (1..2_000_u16).prop_map(Step::Wait),
        ],
        1..120,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Within the life of one session: a payload comes out if and only if one copy of its datagram arrived, once,
    /// and unchanged; on their side as on ours.
    #[test]
    fn a_payload_is_delivered_exactly_if_its_datagram_arrives(
        initiator in prop_oneof![Just(Side::Ours), Just(Side::Theirs)],
        steps in steps(),
    ) {
        let mut interop = Interop::new(4, false);
        interop.send(initiator, &inner_packet(0, 60));
        interop.settle();
        interop.send(other(initiator), &inner_packet(0, 60));
        interop.settle();
        interop.delivered.clear();
        let mut expected: Vec<(Side, Vec<u8>)> = Vec::new();
        // Datagrams that wait in the network, with the payload that each carries.
        let mut waiting: Vec<(Side, Vec<u8>, Vec<u8>)> = Vec::new();
        let mut number = 0;
        let mut waited = 0;
        for step in steps {
            match step {
                Step::Send(from, len) => {
                    number += 1;
                    let packet = inner_packet(number, len);
                    interop.send(from, &packet);
                    // Established, so that it went out at once, as the one datagram.
                    let (to, datagram) = interop.wire.pop_back().unwrap();
                    prop_assert_eq!(to, other(from));
                    waiting.push((to, datagram, packet));
                }
                Step::Deliver(place) | Step::Repeat(place) if place < waiting.len() => {
                    let (to, datagram, packet) = waiting[place].clone();
                    interop.arrive(to, datagram);
                    if !expected.contains(&(to, packet.clone())) {
                        expected.push((to, packet));
                    }
                    if matches!(step, Step::Deliver(_)) {
                        waiting.remove(place);
                    }
                }
                Step::Drop(place) if place < waiting.len() => {
                    waiting.remove(place);
                }
                Step::Wait(millis) if waited < 8_000 => {
                    waited += u32::from(millis);
                    interop.now = interop.now + Duration::from_millis(millis.into());
                    MockClock::set_time(Duration::from_nanos(interop.now.as_nanos()));
                }
                _ => {}
            }
            prop_assert!(interop.wire.is_empty(), "nobody says anything of his own accord");
        }
        let delivered: Vec<_> = interop
            .delivered
            .iter()
            .map(|(side, packet)| {
                let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                assert!(packet[len..].iter().all(|byte| *byte == 0) && packet.len() < len + 16);
                (*side, packet[..len].to_vec())
            })
            .collect();
        prop_assert_eq!(delivered, expected);
    }
}
