//! A peer that holds valid keys and means no good: `test (protocol core) - UDP - engine - TUN - host`.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use support::{EAST, Machine, PORT, WEST, udp, wait_until};
use tombolo_engine::{AllowedIpChange, PeerChange, Transaction};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::keys::{RemoteStatic, StaticIdentity};
use tombolo_noise::{Device, Keypair, Output, PrivateKey};
use tombolo_packet::{DropReason, Endpoint};
use tombolo_tun::Offloads;
use tombolo_udp::memory::{MemoryNetwork, MemorySocket};
use tombolo_udp::{RECEIVE_SLOT, SendOutcome, Socket, Transmit};

const NOW: Now =
    Now { boot: Instant::from_nanos(1_000_000_000), wall: UnixTime(Duration::from_secs(1_800_000_000)) };

struct Hostile {
    socket: MemorySocket,
    keypair: Arc<Keypair>,
    target: Endpoint,
}

impl Hostile {
    /// Becomes a peer of the machine and shakes hands with it.
    fn connect(network: &MemoryNetwork, machine: &Machine, tombolo: bool) -> Self {
        let mut random = ChaCha20Rng::seed_from_u64(99);
        let socket = network.socket(&["203.0.113.5".parse().unwrap()], PORT);
        let private_key = PrivateKey::generate(&mut random);
        let mut change = PeerChange::new(private_key.public());
        change.tombolo = Some(tombolo);
        change.allowed_ips = vec![AllowedIpChange { network: "10.0.0.2/32".parse().unwrap(), remove: false }];
        machine.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
        let mut device = Device::new();
        device.set_private_key(Some(private_key), NOW, &mut random);
        let peer = device.add_peer(machine.public_key).unwrap();
        let target = Endpoint::new((machine.outer, PORT).into());
        device.set_endpoint(peer, Some(target), NOW, &mut random);
        device.initiate(peer, NOW, &mut random);
        while let Some(output) = device.poll_output() {
            if let Output::Datagram { contents, .. } = output {
                socket.send(&[Transmit::new(target.remote, &contents)], &mut SendOutcome::default());
            }
        }
        let (mut arena, mut received) = (vec![0; RECEIVE_SLOT], Vec::new());
        wait_until("a response", || socket.receive(&mut arena, &mut received).unwrap() > 0);
        let response = &arena[..received[0].len];
        device.handle_message(response, target, 0, 1024, NOW, &mut random).unwrap();
        let keypair = device.link(peer).unwrap().sending_keypair(NOW.boot).unwrap();
        Self { socket, keypair, target }
    }

    /// Seals anything at all, and sends it.
    fn send(&self, plaintext: &[u8]) {
        let mut message = vec![0; 16 + plaintext.len() + 16];
        message[16..16 + plaintext.len()].copy_from_slice(plaintext);
        self.keypair.seal(self.keypair.reserve(1).unwrap(), &mut message);
        self.socket.send(&[Transmit::new(self.target.remote, &message)], &mut SendOutcome::default());
    }
}

/// Requirement 13: what comes in a flood is answered or dropped, all of it, and the control thread does the rest of its work meanwhile.
#[test]
fn a_flood_of_junk_initiations_is_worked_off_and_commands_are_heard() {
    let network = MemoryNetwork::new(4);
    let machine = Machine::start(&network, 1, Offloads::ALL);
    let socket = network.socket(&["203.0.113.5".parse().unwrap()], PORT);
    let target = (machine.outer, PORT).into();
    let mut random = ChaCha20Rng::seed_from_u64(7);
    let identity = StaticIdentity::new(PrivateKey::generate(&mut random));
    let remote = RemoteStatic::new(&identity, machine.public_key);
    let mut message = [0; 148];
    let mut sent = 0;
    let total = || machine.handle.status().unwrap().drops.iter().map(|(_, count)| count).sum::<u64>();
    let asked = DropReason::CookieRequired;
    wait_until("questions for cookies", || {
        for _ in 0..500 {
            random.fill_bytes(&mut message);
            message[..4].copy_from_slice(&[1, 0, 0, 0]);
            CookieJar::new().write_macs(&mut message, &remote, NOW.boot);
            socket.send(&[Transmit::new(target, &message)], &mut SendOutcome::default());
            sent += 1;
        }
        wait_until("all to be dropped", || total() >= sent);
        machine.dropped(asked) >= 1000
    });
    assert_eq!(total(), sent);
    let (mut arena, mut received) = (vec![0; RECEIVE_SLOT], Vec::new());
    wait_until("a cookie reply", || socket.receive(&mut arena, &mut received).unwrap() > 0);
    assert_eq!(received[0].segments(&arena).next().map(<[u8]>::len), Some(64));
}

#[test]
fn garbage_in_authentic_messages_is_dropped_and_counted() {
    for (offloads, tombolo) in [(Offloads::ALL, true), (Offloads::NONE, false), (Offloads::NONE, true)] {
        let network = MemoryNetwork::new(4);
        let machine = Machine::start(&network, 1, offloads);
        let hostile = Hostile::connect(&network, &machine, tombolo);
        let mut random = ChaCha20Rng::seed_from_u64(5);
        let good = udp(WEST, EAST, b"well formed");
        let (mut garbage, mut frames) = (0, 0);
        for len in (1..200).chain([1000, 1419, 1420, 1421, 9000, 65_000]) {
            let mut plaintext = vec![0; len];
            random.fill_bytes(&mut plaintext);
            for first in [0x00, 0x45, 0x4f, 0x60] {
                plaintext[0] = first;
                hostile.send(&plaintext);
                garbage += 1;
            }
            // Frames of no version, of ours, and of ours with the types that are read.
            for (first, second) in [(0xf0, 17), (0xff, 18), (0xf1, 0), (0xf1, 17), (0xf1, 18)] {
                plaintext[0] = first;
                if len > 1 {
                    plaintext[1] = second;
                }
                hostile.send(&plaintext);
                frames += 1;
            }
        }
        // One that ends as it should, and says what it should not.
        hostile.send(&[0xf1, 18, 0, 7, 0xa2, 1, 5, 2, 0x19, 0xff, 0xff, 1]);
        frames += 1;
        // Cut short, too long in its own words, with another's address, and then as it should be.
        hostile.send(&good[..good.len() - 1]);
        let mut boastful = good.clone();
        boastful[2..4].copy_from_slice(&u16::MAX.to_be_bytes());
        hostile.send(&boastful);
        hostile.send(&udp([10, 0, 0, 3], EAST, b"somebody else's"));
        hostile.send(&good);
        assert_eq!(machine.receive(), good);
        let malformed = machine.dropped(DropReason::MalformedPacket);
        let foreign = machine.dropped(DropReason::SourceNotAllowed);
        assert_eq!(malformed + foreign, garbage + 3, "{malformed} malformed, {foreign} foreign");
        assert!(malformed > garbage / 2 && foreign > 0);
        // Behind the good packet, since the control thread counts some of them.
        machine.wait_dropped(DropReason::UnknownFrame, frames);
        assert!(machine.host.try_receive().is_none());
    }
}
