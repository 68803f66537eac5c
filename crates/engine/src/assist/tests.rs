use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{Device, Keypair, Output, PrivateKey, padded_len};
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{DropReason, Endpoint, GsoType, PeerId, VnetHeader};
use tombolo_udp::memory::{MemoryNetwork, MemorySocket};
use tombolo_udp::{RECEIVE_SLOT, Socket};

use super::desk::Desk;
use super::*;
use crate::offload::TunOffloads;
use crate::options::Sockets;
use crate::send_batch::SendBatch;
use crate::sender::Sender;
use crate::shared::{Peer, Shared, Tables, Waker};
use crate::waiting::LARGE_BUFFER;

const NOW: Now =
    Now { boot: Instant::from_nanos(1_000_000_000), wall: UnixTime(Duration::from_secs(1_800_000_000)) };
const MTU: usize = 1420;
const PATIENCE: Duration = Duration::from_secs(20);

/// A job that counts, and does what the test says on threads of helpers.
struct Count {
    number: usize,
    done: usize,
    owner: thread::ThreadId,
    panics: bool,
    hold: Option<mpsc::Receiver<()>>,
}

impl Count {
    fn boxed(number: usize) -> Box<Self> {
        Box::new(Self { number, done: 0, owner: thread::current().id(), panics: false, hold: None })
    }
}

impl Work for Count {
    fn work(&mut self) {
        let helps = thread::current().id() != self.owner;
        if let Some(hold) = self.hold.take().filter(|_| helps) {
            hold.recv_timeout(PATIENCE).unwrap();
        }
        // Not `panic!`, whose message would stand in the test's output.
        if self.panics && helps {
            std::panic::resume_unwind(Box::new("as the test wants it"));
        }
        self.done += 1;
    }
}

fn pool_of(workers: usize) -> Arc<Pool> {
    let wakers: Vec<_> = (0..workers).map(|_| Arc::new(Waker::new().unwrap())).collect();
    for waker in &wakers {
        waker.prepare();
    }
    Arc::new(Pool::new(&wakers, Assist::Always))
}

fn line() -> (Line<Count>, Arc<Desk<Count>>) {
    let pool = pool_of(4);
    let desk = Arc::new(Desk::new(pool.depth()));
    (Line::new(pool, 0, Arc::clone(&desk)), desk)
}

/// Runs `helpers` threads at the desk while `body` runs.
fn with_helpers(helpers: usize, desk: &Desk<Count>, body: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let helped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| desk.help()));
                    if helped.is_ok_and(|helped| !helped) {
                        thread::yield_now();
                    }
                }
            });
        }
        body();
        stop.store(true, Ordering::SeqCst);
    });
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = crate::clock::boot() + PATIENCE;
    while !holds() {
        assert!(crate::clock::boot() < limit, "never happened: {what}");
        thread::yield_now();
    }
}

#[test]
fn jobs_come_back_done_once_and_in_order_with_and_without_helpers() {
    for helpers in 0..4 {
        let (mut line, desk) = line();
        with_helpers(helpers, &desk, || {
            let (mut offered, mut expected) = (0, 0);
            let mut check = |finished: line::Finished<Count>| {
                assert_eq!((finished.job.number, finished.job.done), (expected, 1));
                expected += 1;
            };
            while offered < 2000 {
                while line.len() >= line.depth() {
                    check(line.next().unwrap());
                }
                if offered % 7 == 3 {
                    let mut done = Count::boxed(offered);
                    done.work();
                    line.append_done(done);
                } else {
                    line.offer(Count::boxed(offered));
                }
                offered += 1;
                if let Some(finished) = line.next_done() {
                    check(finished);
                }
            }
            while let Some(finished) = line.next() {
                check(finished);
            }
            assert_eq!(expected, offered);
            assert!(line.is_empty());
        });
    }
}

#[test]
fn what_a_helper_does_slowly_holds_up_what_is_behind_and_nothing_else() {
    let (mut line, desk) = line();
    with_helpers(1, &desk, || {
        let (let_go, hold) = mpsc::channel();
        let mut slow = Count::boxed(0);
        slow.hold = Some(hold);
        line.offer(slow);
        until("the helper begins", || desk.offers() == 0);
        line.offer(Count::boxed(1));
        assert!(line.work(), "the owner does the next one meanwhile");
        assert!(line.next_done().is_none(), "but it does not come first");
        let_go.send(()).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| line.next()).collect();
        assert_eq!(order.iter().map(|finished| finished.job.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(order.iter().map(|finished| finished.helped).collect::<Vec<_>>(), [true, false]);
    });
}

#[test]
fn what_a_helper_could_not_do_is_done_by_its_owner() {
    let (mut line, desk) = line();
    with_helpers(2, &desk, || {
        for number in 0..100 {
            let mut job = Count::boxed(number);
            job.panics = number % 3 == 0;
            line.offer(job);
            if number % 3 == 0 {
                until("a helper tries", || desk.offers() == 0);
            }
            while line.len() >= line.depth() {
                line.work();
                if line.next_done().is_none() {
                    break;
                }
            }
            if line.len() >= line.depth() {
                drop(line.next());
            }
        }
        while let Some(finished) = line.next() {
            assert_eq!(finished.job.done, 1);
            assert!(!(finished.helped && finished.job.panics));
        }
    });
}

#[test]
fn workers_are_woken_when_there_is_more_to_do_than_workers_that_do_it() {
    let pool = pool_of(3);
    let helpers: Vec<_> = (1..3).map(|seat| Helper::new(Arc::clone(&pool), seat)).collect();
    assert!(pool.somebody_has_time(0));
    assert!(!pool_of(1).somebody_has_time(0));
    let mut line = pool.sealing_line(0);
    assert_eq!(line.depth(), 6);
    let awake = || pool.seats_awake();
    assert_eq!(awake(), [false; 3]);
    line.offer(sealing::Sealing::nothing());
    assert_eq!(awake(), [false, true, false]);
    line.offer(sealing::Sealing::nothing());
    assert_eq!(awake(), [false, true, true]);
    line.offer(sealing::Sealing::nothing());
    assert!(helpers.iter().all(Helper::is_wanted));
    assert!(!Helper::new(Arc::clone(&pool), 0).is_wanted(), "nobody helps himself");
    helpers[0].help();
    helpers[1].help();
    helpers[0].help();
    assert!(!helpers[0].is_wanted());
    assert_eq!(std::iter::from_fn(|| line.next()).filter(|finished| finished.helped).count(), 3);
    drop(helpers);
    assert_eq!(awake(), [false; 3], "who rests or ends is not counted on");
}

#[test]
fn nobody_is_asked_where_nobody_may_help() {
    let wakers: Vec<_> = (0..4).map(|_| Arc::new(Waker::new().unwrap())).collect();
    for (wakers, assist) in [(&wakers[..1], Assist::Always), (&wakers[..], Assist::Never)] {
        let pool = Arc::new(Pool::new(wakers, assist));
        let mut load = Load::default();
        (0..100).for_each(|_| load.found());
        assert!(!pool.sealing_line(0).wants_help(&load, NOW.boot));
    }
    // Everybody is busy.
    let pool = Arc::new(Pool::new(&wakers, Assist::Always));
    assert!(!pool.sealing_line(0).wants_help(&Load::default(), NOW.boot));
}

/// One end of a session, and a socket that hears what it sends.
struct Scene {
    shared: Arc<Shared>,
    sockets: Sockets,
    peer: Peer,
    keypair: Arc<Keypair>,
    heard: MemorySocket,
    _devices: [Device; 2],
}

impl Scene {
    fn new() -> Self {
        let network = MemoryNetwork::new(1);
        let addresses: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        let [own, heard] = addresses.map(|address| network.socket(&[address], 8662));
        heard.set_offloads(true, false);
        let (mut devices, endpoints) = devices(addresses);
        shake_hands(&mut devices, endpoints);
        let link = Arc::clone(devices[0].link(PeerId(0)).unwrap());
        let keypair = link.sending_keypair(NOW.boot).unwrap();
        let sockets = Sockets { v4: Some(Arc::new(own)), port: 8662, ..Sockets::default() };
        let tables = Tables { indices: devices[0].index_table(), sources: devices[0].source_table() };
        let shared =
            Shared::new(tables, sockets.clone(), TunOffloads::of(None), MTU as u16, 0, Vec::new(), false)
                .unwrap();
        shared.ready.store(true, Ordering::SeqCst);
        let peer = Peer::new(link);
        Self { shared: Arc::new(shared), sockets, peer, keypair, heard, _devices: devices }
    }

    /// All that was sent, datagram by datagram.
    fn hear(&self) -> Vec<Vec<u8>> {
        let (mut arena, mut received) = (vec![0; 16 * RECEIVE_SLOT], Vec::new());
        let mut all = Vec::new();
        while self.heard.receive(&mut arena, &mut received).unwrap() > 0 {
            all.extend(received.iter().flat_map(|read| read.segments(&arena)).map(<[u8]>::to_vec));
        }
        all
    }
}

fn devices(addresses: [IpAddr; 2]) -> ([Device; 2], [Endpoint; 2]) {
    let mut random = ChaCha20Rng::seed_from_u64(3);
    let endpoints = addresses.map(|address| Endpoint::new((address, 8662).into()));
    let keys = [(); 2].map(|()| PrivateKey::generate(&mut random));
    let public = [keys[0].public(), keys[1].public()];
    let mut other = 1;
    let devices = keys.map(|key| {
        let mut device = Device::new();
        device.set_private_key(Some(key), NOW, &mut random);
        let peer = device.add_peer(public[other]).unwrap();
        device.set_endpoint(peer, Some(endpoints[other]), NOW, &mut random);
        other = 0;
        device
    });
    (devices, endpoints)
}

fn shake_hands(devices: &mut [Device; 2], endpoints: [Endpoint; 2]) {
    let mut random = ChaCha20Rng::seed_from_u64(4);
    devices[0].initiate(PeerId(0), NOW, &mut random);
    for (from, to) in [(0, 1), (1, 0)] {
        while let Some(output) = devices[from].poll_output() {
            if let Output::Datagram { contents, .. } = output {
                devices[to].handle_message(&contents, endpoints[from], 0, 1024, NOW, &mut random).unwrap();
            }
        }
    }
}

/// A TCP super-packet over IPv4 or IPv6, or a single packet of it.
fn tcp(v6: bool, payload_len: usize, gso_size: u16, fill: u8) -> (VnetHeader, Vec<u8>) {
    let tcp_len = 20 + payload_len;
    let mut packet = if v6 {
        let mut ip = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
        ip[4..6].copy_from_slice(&(tcp_len as u16).to_be_bytes());
        ip.extend([0xfd; 16]);
        ip.extend([0xfe; 16]);
        ip
    } else {
        let mut ip = vec![0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        ip[2..4].copy_from_slice(&((20 + tcp_len) as u16).to_be_bytes());
        ip
    };
    let start = packet.len() as u16;
    packet.extend([0, 80, 0, 81, 0, 0, 1, 0, 0, 0, 0, 9, 0x50, 0x18, 1, 1, 0, 0, 0, 0]);
    packet.extend((0..payload_len).map(|index| (index as u8).wrapping_mul(31) ^ fill));
    let segmented = VnetHeader {
        needs_checksum: true,
        gso_type: if v6 { GsoType::Tcp6 } else { GsoType::Tcp4 },
        gso_size,
        checksum_start: start,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    (if payload_len > gso_size.into() { segmented } else { VnetHeader::default() }, packet)
}

/// What must leave, by one thread, one segment at a time, with nothing of what is tested but the keys.
fn oracle(packets: &[(VnetHeader, Vec<u8>)], limit: usize, keypair: &Keypair) -> Vec<Vec<u8>> {
    let (mut messages, mut counter) = (Vec::new(), 0);
    for (header, bytes) in packets {
        let mut bytes = bytes.clone();
        let mut packet = SuperPacket::parse(*header, &mut bytes).unwrap();
        packet.fit(limit);
        for index in 0..packet.segments() {
            let len = packet.segment_len(index);
            let mut message = vec![0; 16 + padded_len(len, limit) + 16];
            packet.write_segment(index, &mut message[16..16 + len]);
            keypair.seal(counter, &mut message);
            counter += 1;
            messages.push(message);
        }
    }
    messages
}

/// Sends all of it as an outward worker does; how many packets helpers have sealed.
fn send_all(scene: &Scene, packets: &[(VnetHeader, Vec<u8>)], pass_on_every: usize, workers: usize) -> u64 {
    let pool = pool_of(workers);
    let mut line = SealingLine::new(&pool, 0);
    let mut batch = SendBatch::new();
    let limit = scene.peer.path.limit().min(MTU);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seat in 1..workers {
            let helper = Helper::new(Arc::clone(&pool), seat);
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    helper.help();
                    thread::yield_now();
                }
            });
        }
        let mut buffer = vec![0; LARGE_BUFFER].into_boxed_slice();
        for (number, (header, bytes)) in packets.iter().enumerate() {
            let mut sender = Sender {
                shared: &scene.shared,
                sockets: &scene.sockets,
                batch: &mut batch,
                line: Some(&mut line),
                now: NOW.boot,
            };
            buffer[..bytes.len()].copy_from_slice(bytes);
            let mut packet = SuperPacket::parse(*header, &mut buffer[..bytes.len()]).unwrap();
            packet.fit(limit);
            if header.gso_type != GsoType::None && sender.wants_help() {
                let order = sender.order(&scene.peer, &packet, limit).unwrap().unwrap();
                sender.offer(order, *header, &mut buffer, bytes.len());
            } else {
                sender.send(&scene.peer, &packet).unwrap();
            }
            if number % pass_on_every == 0 {
                sender.pass_on();
            }
        }
        let mut sender = Sender {
            shared: &scene.shared,
            sockets: &scene.sockets,
            batch: &mut batch,
            line: Some(&mut line),
            now: NOW.boot,
        };
        sender.flush();
        stop.store(true, Ordering::SeqCst);
    });
    scene.shared.assisted.status().sealed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_leaves_is_the_same_to_the_byte_and_in_the_same_order_as_without_helpers(
        script in proptest::collection::vec(
            (any::<bool>(), prop_oneof![3 => 1_usize..64_000, 1 => 1_usize..1300], 500_u16..1380, any::<u8>()),
            1..30,
        ),
        pass_on_every in 1_usize..6,
        workers in 1_usize..5,
    ) {
        let scene = Scene::new();
        let packets: Vec<_> =
            script.into_iter().map(|(v6, len, gso, fill)| tcp(v6, len, gso, fill)).collect();
        let expected = oracle(&packets, MTU, &scene.keypair);
        let helped = send_all(&scene, &packets, pass_on_every, workers);
        prop_assert!(workers > 1 || helped == 0);
        let heard = scene.hear();
        prop_assert_eq!(heard.len(), expected.len());
        for (number, (heard, expected)) in heard.iter().zip(&expected).enumerate() {
            prop_assert!(heard == expected, "datagram {}", number);
        }
        prop_assert_eq!(scene.shared.drops.iter().map(|drop| drop.1).sum::<u64>(), 0);
        prop_assert_eq!(scene.keypair.sent_messages(), expected.len() as u64);
        let bytes: usize = expected.iter().map(Vec::len).sum();
        prop_assert!(scene.peer.link.sent_bytes() >= bytes as u64);
    }
}

#[test]
fn helpers_seal_much_of_a_long_flow() {
    let scene = Scene::new();
    let packets: Vec<_> = (0..40).map(|number| tcp(false, 60_000, 1380, number)).collect();
    let mut helped = 0;
    until("a helper has sealed something", || {
        helped = send_all(&scene, &packets, 4, 3);
        helped > 0
    });
    assert_eq!(scene.shared.drops.get(DropReason::UdpSendFailed), 0);
}

#[test]
fn a_packet_that_is_to_be_cut_smaller_is_cut_alike_by_whoever_seals_it() {
    let scene = Scene::new();
    scene.peer.path.set_limit(Some(900));
    let packets: Vec<_> = (0..10).map(|number| tcp(number % 2 == 0, 60_000, 1380, number)).collect();
    let expected = oracle(&packets, 900, &scene.keypair);
    send_all(&scene, &packets, 3, 4);
    assert!(scene.hear() == expected);
    assert!(expected.iter().all(|message| message.len() <= 900 + 32));
}
