//! What an outward worker sends, alone and with helpers: opened by another implementation of the AEAD, it is to be what Linux would have sent,
//! to the byte, in order, padded with zeros.
//!
//! Each run draws other packets and prints its seed; `TOMBOLO_ORACLE_SEED` repeats one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::handshake::consume_initiation_static;
use tombolo_noise::keys::{RemoteStatic, StaticIdentity};
use tombolo_noise::{Device, Output, PresharedKey, PrivateKey};
use tombolo_oracle::receive::flow_of;
use tombolo_oracle::{Random, Spec, VNET_HEADER_LEN, draw, transmit};
use tombolo_packet::message::{Initiation, TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::{Endpoint, VnetHeader};
use tombolo_route::AllowedIps;
use tombolo_tun::Offloads;
use tombolo_tun::memory::{MemoryHost, MemoryQueue, pair};
use tombolo_udp::memory::{MemoryNetwork, MemorySocket};
use tombolo_udp::{RECEIVE_SLOT, Socket};

use super::tests::pool_of;
use super::{Helper, SealingLine};
use crate::clock;
use crate::offload::TunOffloads;
use crate::options::Sockets;
use crate::outbound::Outbound;
use crate::shared::{Peer, Shared, Snapshot, Tables};
use crate::worker::Turn;

const MTU: usize = 1420;
const PORT: u16 = 8662;
/// The receiver's index, which messages name.
const INDEX: u32 = 0x0bad_cafe;
/// The longest payload whose packet is no longer than IP allows, whatever options it has.
const LONGEST: usize = 65_000;

type Bytes = [u8; VNET_HEADER_LEN];

/// A worker's TUN queue with the machine behind it, and a receiver who made the session with steps of the handshake and knows its key.
struct Scene {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    queue: MemoryQueue,
    host: MemoryHost,
    heard: MemorySocket,
    cipher: ChaCha20Poly1305,
    /// Counter of the next message.
    next: u64,
    _device: Device,
}

impl Scene {
    fn new(random: &mut Random) -> Self {
        let network = MemoryNetwork::new(1);
        let addresses: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let [own, heard] = addresses.map(|address| network.socket(&[address], PORT));
        heard.set_offloads(true, false);

        let (mut rng, now) = (ChaCha20Rng::seed_from_u64(random.next()), clock::now());
        let [private, remote] = [(); 2].map(|()| PrivateKey::generate(&mut rng));
        let public = private.public();
        let identity = StaticIdentity::new(remote);
        let mut device = Device::new();
        device.set_private_key(Some(private), now, &mut rng);
        let id = device.add_peer(*identity.public_key()).unwrap();
        let endpoint = Endpoint::new((addresses[1], PORT).into());
        device.set_endpoint(id, Some(endpoint), now, &mut rng);
        device.initiate(id, now, &mut rng);
        let initiation = std::iter::from_fn(|| device.poll_output())
            .find_map(
                |output| if let Output::Datagram { contents, .. } = output { Some(contents) } else { None },
            )
            .unwrap();
        let remote = RemoteStatic::new(&identity, public);
        let received =
            consume_initiation_static(&identity, &Initiation::parse(&initiation).unwrap()).unwrap();
        let responder = received.consume_timestamp(&remote).unwrap();
        let (mut response, secrets) =
            responder.create_response(&PresharedKey::default(), INDEX, &mut rng).unwrap();
        CookieJar::new().write_macs(&mut response, &remote, now.boot);
        device.handle_message(&response, endpoint, 0, 1024, now, &mut rng).unwrap();

        let sockets = Sockets { v4: Some(Arc::new(own)), port: PORT, ..Sockets::default() };
        let tables = Tables { indices: device.index_table(), sources: device.source_table() };
        let shared =
            Shared::new(tables, sockets, TunOffloads::of(None), MTU as u16, 0, Vec::new(), false).unwrap();
        shared.ready.store(true, Ordering::SeqCst);
        let peer = Arc::new(Peer::new(Arc::clone(device.link(id).unwrap())));
        let mut networks = AllowedIps::default();
        for all in ["0.0.0.0/0", "::/0"] {
            networks.insert(all.parse().unwrap(), id);
        }
        let mut peers = vec![None; id.0 as usize + 1];
        peers[id.0 as usize] = Some(Arc::clone(&peer));
        shared.snapshot.store(Arc::new(Snapshot { routes: networks.snapshot(), peers }));
        let (queue, host) = pair(Offloads::ALL).unwrap();
        let cipher = ChaCha20Poly1305::new(&secrets.receiving.into());
        Self { shared: Arc::new(shared), peer, queue, host, heard, cipher, next: 0, _device: device }
    }

    /// Runs one worker of `workers` until its queue is empty; the others help. `offer` hands packets to the queue.
    fn run(&self, workers: usize, offer: impl FnOnce(&mut dyn FnMut())) {
        let pool = pool_of(workers);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for seat in 1..workers {
                let (helper, stop) = (Helper::new(Arc::clone(&pool), seat), &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        helper.help();
                        thread::yield_now();
                    }
                });
            }
            let mut outbound = Outbound::new(&self.shared, &self.queue, 0, SealingLine::new(&pool, 0));
            let mut turn = || match outbound.turn() {
                Ok(turn) => turn,
                Err(_) => panic!("the worker cannot go on"),
            };
            offer(&mut || {
                turn();
            });
            while turn() == Turn::More {}
            stop.store(true, Ordering::SeqCst);
        });
    }

    /// Hands the machine's packet to the queue. `false`: there is no such header, which reading would have refused.
    fn offer(&self, (header, packet): &(Bytes, Vec<u8>)) -> bool {
        let Ok(header) = VnetHeader::parse(header) else { return false };
        self.host.send(header, packet).unwrap();
        true
    }

    /// The packets in all that was sent, in the order in which it was sent.
    fn hear(&mut self) -> Vec<Vec<u8>> {
        let (mut arena, mut received) = (vec![0; 4 * RECEIVE_SLOT], Vec::new());
        let mut packets = Vec::new();
        while self.heard.receive(&mut arena, &mut received).unwrap() > 0 {
            for message in received.iter().flat_map(|read| read.segments(&arena)) {
                packets.push(self.open(message));
            }
        }
        packets
    }

    /// Opens one message, and takes the padding off (requirement 17).
    fn open(&mut self, message: &[u8]) -> Vec<u8> {
        let (header, sealed) = message.split_at(TRANSPORT_HEADER_LEN);
        let mut expected = vec![4, 0, 0, 0];
        expected.extend(INDEX.to_le_bytes());
        expected.extend(self.next.to_le_bytes());
        assert_eq!(header, expected, "type, index, and the counter after the last one's");
        let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().unwrap();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.next.to_le_bytes());
        let mut plaintext = ciphertext.to_vec();
        self.cipher
            .decrypt_inout_detached(&nonce.into(), &[], plaintext.as_mut_slice().into(), &(*tag).into())
            .expect("an authentic message");
        self.next += 1;
        let len = match plaintext[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([plaintext[2], plaintext[3]])),
            _ => 40 + usize::from(u16::from_be_bytes([plaintext[4], plaintext[5]])),
        };
        let padding = plaintext.split_off(len);
        assert!(padding.iter().all(|&byte| byte == 0) && padding.len() < 16);
        let mtu = MTU.min(self.peer.path.limit());
        if len <= mtu {
            assert_eq!(len + padding.len(), len.next_multiple_of(16).min(mtu), "padded to 16, up to the MTU");
        }
        plaintext
    }

    fn dropped(&self) -> u64 {
        self.shared.drops.iter().map(|drop| drop.1).sum()
    }
}

/// Sessions of several cases each: a handshake takes longer than to seal all packets of one.
#[derive(Default)]
struct Scenes {
    scene: Option<Scene>,
    cases: usize,
}

impl Scenes {
    const CASES: usize = 64;

    fn next(&mut self, random: &mut Random) -> &mut Scene {
        if self.cases.is_multiple_of(Self::CASES) {
            self.scene = None;
        }
        self.cases += 1;
        self.scene.get_or_insert_with(|| Scene::new(random))
    }
}

/// A packet of which everything fits into `limit` bytes, TCP at least after it was cut smaller; and what Linux would send.
fn packet(random: &mut Random, kind: Option<(bool, bool)>, limit: usize) -> ((Bytes, Vec<u8>), Vec<Vec<u8>>) {
    let longest = [200, 3000, LONGEST][random.below(3)];
    let mut spec = loop {
        let spec = Spec::draw(random, longest);
        if kind.is_none_or(|kind| kind == (spec.ipv6, spec.tcp)) {
            break spec;
        }
    };
    // Few flows, or there is no order to be kept.
    spec.hosts = (1, 2 + random.byte() % 2);
    spec.ports = if kind.is_some() { (1, 2) } else { (1, 2 + random.number() % 3) };
    if kind.is_some() {
        spec.hosts = (1, 2);
    }
    let room = limit - spec.headers_len();
    let size =
        [8 + random.below(room), room, room - random.below(9), spec.payload.len() + 1][random.below(4)];
    let mut size = size.max(spec.payload.len() / 60).max(8);
    if !spec.tcp {
        size = size.min(room);
    }
    match random.below(6) {
        0 => {
            spec.payload.truncate(room);
            let header = spec.vnet_header_bytes(0);
            let sent = transmit(&header, &spec.build_partial()).unwrap();
            ((header, spec.build_partial()), sent)
        }
        1 => {
            spec.payload.truncate(room);
            (([0; VNET_HEADER_LEN], spec.build()), vec![spec.build()])
        }
        _ => {
            let size = size.min(usize::from(u16::MAX));
            let sent = spec.segments(size.min(room));
            ((spec.vnet_header_bytes(size as u16), spec.build_partial()), sent)
        }
    }
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<&Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        flows.entry(flow_of(packet).expect("TCP and UDP have flows")).or_default().push(packet);
    }
    flows
}

/// Draws packets and lets `workers` workers seal them. How many super-packets helpers sealed of one session, at most.
fn seal(packets: u64, workers: impl Fn(&mut Random) -> usize) -> u64 {
    let (mut helped, mut scenes) = (0, Scenes::default());
    let drawn = draw("packets to be sealed", packets, |random| {
        let scene = scenes.next(random);
        let limit = [MTU, MTU, 900, 1280][random.below(4)];
        scene.peer.path.set_limit(Some(limit as u16));
        let kind = random.chance(2).then(|| (random.chance(2), random.chance(2)));
        let count = 1 + random.below(30);
        let (offered, sent): (Vec<_>, Vec<_>) = (0..count).map(|_| packet(random, kind, limit)).unzip();
        let sent = sent.concat();
        let pauses: Vec<bool> = offered.iter().map(|_| random.chance(6)).collect();
        let workers = workers(random);
        scene.run(workers, |turn| {
            for (packet, pause) in offered.iter().zip(pauses) {
                assert!(scene.offer(packet));
                if pause {
                    turn();
                }
            }
        });
        let heard = scene.hear();
        assert_eq!((heard.len(), scene.dropped()), (sent.len(), 0));
        if kind.is_some() {
            assert!(heard == sent, "one flow is in one order");
        }
        assert!(by_flow(&heard) == by_flow(&sent), "each flow is in its order");
        let keypair = scene.peer.link.sending_keypair(clock::boot()).unwrap();
        assert_eq!(keypair.sent_messages(), scene.next, "no nonce is left over");
        assert!(scene.host.try_receive().is_none(), "nobody is told anything");
        helped = helped.max(scene.shared.assisted.status().sealed);
        sent.len() as u64
    });
    assert!(drawn >= packets);
    helped
}

/// Headers and packets of which some bytes are not what Linux would have written: sent as Linux would, or dropped and counted.
fn hostile(packets: u64) {
    let (mut taken, mut refused, mut scenes) = (0, 0, Scenes::default());
    let drawn = draw("hostile headers to be sealed", packets, |random| {
        let scene = scenes.next(random);
        for _ in 0..50 {
            let ((mut header, mut packet), _) = packet(random, None, MTU);
            for _ in 0..1 + random.below(3) {
                let number = [0, 1, 0xffff, packet.len() as u16, random.number()][random.below(5)];
                match random.below(7) {
                    0 => header[0] = random.byte(),
                    1 => header[1] = random.byte() & 0x87,
                    2 => header[2..4].copy_from_slice(&number.to_le_bytes()),
                    3 => header[4..6].copy_from_slice(&number.to_le_bytes()),
                    4 => header[6..8].copy_from_slice(&number.to_le_bytes()),
                    5 => header[8..10].copy_from_slice(&number.to_le_bytes()),
                    _ => {
                        let at = random.below(packet.len().min(80));
                        packet[at] = random.byte();
                    }
                }
            }
            let before = scene.dropped();
            let offered = (header, packet);
            let mut known = true;
            scene.run(1, |_| known = scene.offer(&offered));
            let heard = scene.hear();
            if heard.is_empty() {
                refused += 1;
                assert_eq!(scene.dropped() - before, u64::from(known), "a drop has a reason");
            } else {
                taken += 1;
                assert_eq!(Ok(&heard), transmit(&offered.0, &offered.1).as_ref(), "{offered:?}");
            }
        }
        50
    });
    assert!(drawn >= packets && taken > packets / 10 && refused > packets / 10, "{taken} and {refused}");
}

#[test]
fn what_a_worker_seals_alone_is_what_linux_would_have_sent() {
    assert_eq!(seal(12_000, |_| 1), 0);
}

#[test]
fn what_workers_seal_together_is_what_linux_would_have_sent_and_in_order() {
    assert!(seal(12_000, |random| 2 + random.below(3)) > 0, "helpers sealed some of it");
}

#[test]
fn hostile_headers_are_sealed_as_linux_would_have_sent_them_or_dropped() {
    hostile(2_000);
}

#[test]
#[ignore = "millions of packets"]
fn millions_of_packets_are_sealed_as_linux_would_have_sent_them() {
    seal(2_000_000, |_| 1);
    assert!(seal(2_000_000, |random| 2 + random.below(3)) > 0, "helpers sealed some of it");
    hostile(200_000);
}
