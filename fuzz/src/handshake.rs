//! The target of `tombolo-noise`: two devices on a network that the fuzzer owns.

use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::keys::{RemoteStatic, StaticIdentity};
use tombolo_noise::{Device, Output, PresharedKey, PrivateKey, Received};
use tombolo_packet::message::Transport;
use tombolo_packet::{Endpoint, PeerId};

use crate::Script;

/// Messages on their way that the network remembers at the most; the oldest are lost.
const MAX_ON_THE_WAY: usize = 32;

/// One side.
struct Side {
    device: Device,
    peer: PeerId,
    address: Endpoint,
    /// To write macs that this side accepts.
    as_remote: RemoteStatic,
}

struct Network {
    sides: [Side; 2],
    rng: ChaCha8Rng,
    now: Now,
    /// To which side, and what.
    on_the_way: Vec<(usize, Vec<u8>)>,
}

impl Network {
    fn new() -> Self {
        // The same for each input, so that a seed stays what it is.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let keys = [PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng)];
        let now = Now {
            boot: Instant::from_nanos(1_000_000_000),
            wall: UnixTime(Duration::from_secs(1_700_000_000)),
        };
        let mut side = |own: usize| {
            let (private, other) = (keys[own].clone(), keys[1 - own].clone());
            let as_remote = RemoteStatic::new(&StaticIdentity::new(other.clone()), private.public());
            let mut device = Device::new();
            device.set_private_key(Some(private), now, &mut rng);
            let peer = device.add_peer(other.public()).expect("a new device has room");
            device.set_preshared_key(peer, PresharedKey::from_bytes([7; 32]));
            let endpoint = |side: usize| Endpoint::new(SocketAddr::from(([192, 0, 2, side as u8], 8662)));
            device.set_endpoint(peer, Some(endpoint(1 - own)), now, &mut rng);
            Side { device, peer, address: endpoint(own), as_remote }
        };
        let sides = [side(0), side(1)];
        Self { sides, rng, now, on_the_way: Vec::new() }
    }

    /// Takes what `side` wants done.
    fn drain(&mut self, side: usize) {
        let mut count = 0;
        while let Some(output) = self.sides[side].device.poll_output() {
            count += 1;
            assert!(count < 100, "one step has few outputs");
            match output {
                Output::Datagram { contents, .. } => self.on_the_way.push((1 - side, contents.to_vec())),
                Output::Keepalive { .. } | Output::SessionReady { .. } | Output::FlushStaged { .. } => {
                    self.send(side, &[]);
                }
                _ => {}
            }
        }
        let excess = self.on_the_way.len().saturating_sub(MAX_ON_THE_WAY);
        self.on_the_way.drain(..excess);
    }

    /// Seals as a worker would.
    fn send(&mut self, side: usize, plaintext: &[u8]) {
        let link = self.sides[side].device.link(self.sides[side].peer).expect("the peer stays").clone();
        let Some(keypair) = link.sending_keypair(self.now.boot) else {
            let event = link.want_handshake();
            return self.handle_event(side, event);
        };
        let Ok(counter) = keypair.reserve(1) else { return };
        let mut message = vec![0; 16 + plaintext.len() + 16];
        message[16..16 + plaintext.len()].copy_from_slice(plaintext);
        keypair.seal(counter, &mut message);
        let event = link.note_sent(&keypair, self.now.boot, 1, message.len() as u64, !plaintext.is_empty());
        self.on_the_way.push((1 - side, message));
        self.handle_event(side, event);
    }

    fn handle_event(&mut self, side: usize, event: Option<tombolo_noise::Event>) {
        if let Some(event) = event {
            self.sides[side].device.handle_event(event, self.now, &mut self.rng);
        }
    }

    /// Delivers one datagram.
    fn receive(&mut self, side: usize, datagram: &[u8], depth: u8) {
        let from = self.sides[1 - side].address;
        if Transport::parse(datagram).is_ok() {
            self.open(side, datagram, from);
        } else {
            let _ = self.sides[side].device.handle_message(
                datagram,
                from,
                usize::from(depth),
                64,
                self.now,
                &mut self.rng,
            );
        }
        self.drain(side);
    }

    /// Opens as a worker would.
    fn open(&mut self, side: usize, datagram: &[u8], from: Endpoint) {
        let Ok(view) = Transport::parse(datagram) else { return };
        let Some(entry) = self.sides[side].device.index_table().lookup(view.receiver_index()) else { return };
        let keypair = entry.keypair();
        if !keypair.can_receive(self.now.boot) {
            return;
        }
        let mut message = datagram.to_vec();
        let Ok((counter, plaintext)) = keypair.open(&mut message) else { return };
        let data = !plaintext.is_empty();
        let mut fresh = Vec::new();
        keypair.commit(&[counter, counter], &mut fresh);
        assert!(!fresh[1], "a counter is fresh once");
        if fresh[0] {
            let batch = Received { messages: 1, bytes: datagram.len() as u64, data, moves: true };
            let event = entry.link().note_received(keypair, from, self.now.boot, &batch);
            self.handle_event(side, event);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.boot = self.now.boot + time;
        self.now.wall.0 += time;
        for side in 0..2 {
            self.sides[side].device.handle_timeout(self.now, &mut self.rng);
            self.drain(side);
        }
    }
}

/// Steps of a network: time passes, data is sent, messages are delivered, lost, repeated, damaged, made up.
pub fn handshake(data: &[u8]) {
    play(&mut Network::new(), data);
}

fn play(network: &mut Network, data: &[u8]) {
    let mut script = Script(data);
    let mut steps = 0;
    while !script.is_empty() && steps < 200 {
        steps += 1;
        let step = script.byte();
        let side = usize::from(step >> 7);
        match step & 0x0f {
            0 => network.pass(Duration::from_millis(u64::from(script.number()))),
            1 => network.pass(Duration::from_secs(u64::from(script.byte()))),
            2 => {
                let (now, rng) = (network.now, &mut network.rng);
                let peer = network.sides[side].peer;
                network.sides[side].device.initiate(peer, now, rng);
                network.drain(side);
            }
            3 => {
                network.send(side, script.bytes());
                network.drain(side);
            }
            // The oldest message arrives, or a copy of any.
            4 if !network.on_the_way.is_empty() => {
                let (to, message) = network.on_the_way.remove(0);
                network.receive(to, &message, 0);
            }
            5 | 6 => {
                let index = usize::from(script.byte());
                let Some((to, message)) = network.on_the_way.get(index % MAX_ON_THE_WAY).cloned() else {
                    continue;
                };
                let depth = if step & 0x0f == 6 { 64 } else { 0 };
                network.receive(to, &message, depth);
            }
            // A damaged copy; its mac1 may be made good again.
            7 | 8 => {
                let index = usize::from(script.byte());
                let (at, value) = (usize::from(script.number()), script.byte());
                let Some((to, mut message)) = network.on_the_way.get(index % MAX_ON_THE_WAY).cloned() else {
                    continue;
                };
                let len = message.len();
                message[at % len] ^= value;
                if step & 0x0f == 8 {
                    network.write_mac1(to, &mut message);
                }
                network.receive(to, &message, 0);
            }
            // Something made up.
            9 => network.receive(side, script.bytes(), 0),
            10 => {
                let mut message = script.bytes().to_vec();
                network.write_mac1(side, &mut message);
                network.receive(side, &message, 0);
            }
            // Everything arrives.
            11 => {
                for (to, message) in std::mem::take(&mut network.on_the_way) {
                    network.receive(to, &message, 0);
                }
            }
            12 => network.on_the_way.clear(),
            13 => {
                let (now, rng) = (network.now, &mut network.rng);
                network.sides[side].device.expire_all(now, rng);
                network.drain(side);
            }
            14 => {
                let up = script.byte() & 1 == 0;
                let (now, rng) = (network.now, &mut network.rng);
                network.sides[side].device.set_link_up(up, now, rng);
                network.drain(side);
            }
            // The wall clock is set, also backwards.
            _ => network.now.wall.0 = Duration::from_secs(u64::from(script.number()) << 16),
        }
    }
}

impl Network {
    /// Gives a handshake message the mac1 that `to` asks for.
    fn write_mac1(&mut self, to: usize, message: &mut [u8]) {
        if matches!(message.len(), 148 | 92) {
            let mut jar = tombolo_noise::cookie::CookieJar::default();
            jar.write_macs(message, &self.sides[to].as_remote, self.now.boot);
        }
    }
}

/// One genuine message of each kind, by name.
pub fn sample_messages() -> Vec<(&'static str, Vec<u8>)> {
    let mut network = Network::new();
    let (now, peer) = (network.now, network.sides[0].peer);
    network.sides[0].device.initiate(peer, now, &mut network.rng);
    network.drain(0);
    let mut samples = Vec::new();
    let take = |network: &mut Network| network.on_the_way.pop().map_or(Vec::new(), |(_, message)| message);
    let initiation = take(&mut network);
    // Under load the answer is a cookie; a second later it is not.
    network.receive(1, &initiation, 64);
    samples.push(("cookie_reply", take(&mut network)));
    network.now.boot = network.now.boot + Duration::from_secs(2);
    network.receive(1, &initiation, 0);
    samples.push(("initiation", initiation));
    let response = take(&mut network);
    network.receive(0, &response, 0);
    samples.push(("response", response));
    samples.push(("keepalive", take(&mut network)));
    network.send(0, b"sixteen bytes ..");
    samples.push(("transport", take(&mut network)));
    samples
}

#[cfg(test)]
mod tests {
    use tombolo_packet::message::MessageType;

    use super::*;

    #[test]
    fn the_network_carries_a_handshake() {
        let kinds: Vec<_> = sample_messages()
            .into_iter()
            .map(|(name, message)| (name, MessageType::classify(&message).unwrap(), message.len()))
            .collect();
        assert_eq!(
            kinds,
            [
                ("cookie_reply", MessageType::CookieReply, 64),
                ("initiation", MessageType::Initiation, 148),
                ("response", MessageType::Response, 92),
                ("keepalive", MessageType::Transport, 32),
                ("transport", MessageType::Transport, 48),
            ]
        );
    }

    #[test]
    fn the_seeds_reach_a_session() {
        for name in ["session", "rekeys", "cookie", "both_initiate", "suspended"] {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/handshake/");
            let mut network = Network::new();
            play(&mut network, &std::fs::read(format!("{folder}{name}")).unwrap());
            for side in &network.sides {
                let link = side.device.link(side.peer).unwrap();
                assert!(link.sending_keypair(network.now.boot).is_some(), "{name}");
                assert!(link.received_bytes() > 32, "{name}");
            }
        }
    }

    #[test]
    fn a_repaired_mac1_is_accepted() {
        let mut network = Network::new();
        let (now, peer) = (network.now, network.sides[0].peer);
        network.sides[0].device.initiate(peer, now, &mut network.rng);
        network.drain(0);
        let (to, mut message) = network.on_the_way.pop().unwrap();
        let (intact, from) = (message.clone(), network.sides[0].address);
        let result = |network: &mut Network, message: &[u8]| {
            let now = network.now;
            network.sides[to].device.handle_message(message, from, 0, 64, now, &mut network.rng)
        };
        message[120] ^= 1;
        assert_eq!(result(&mut network, &message), Err(tombolo_packet::DropReason::InvalidMac1));
        network.write_mac1(to, &mut message);
        assert_eq!(message, intact);
        assert_eq!(result(&mut network, &message), Ok(()));
    }
}
