//! Engines on TUNs and networks in memory.
#![allow(missing_docs, unreachable_pub, reason = "test support")]
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod gate;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gate::Gates;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use tombolo_engine::{
    AllowedIpChange, Assist, Engine, EngineEvent, EngineHandle, EngineOptions, Instruction, Path,
    PathMtuOptions, PeerChange, SocketBinder, Sockets, Transaction, queues_for,
};
use tombolo_noise::{PrivateKey, PublicKey};
use tombolo_packet::checksum::{Sum, pseudo_header};
use tombolo_packet::{GsoType, IpPacket, Steering, VnetHeader};
use tombolo_tun::Offloads;
use tombolo_tun::memory::{MemoryHost, queues};
use tombolo_udp::Socket;
use tombolo_udp::memory::{MemoryNetwork, MemorySocket};

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const PORT: u16 = 8662;

/// Binds sockets of a memory network, and shows the test those of the first binding.
struct MemoryBinder {
    network: MemoryNetwork,
    outer: IpAddr,
    bound: Sender<Vec<Arc<MemorySocket>>>,
    gates: Gates,
    /// Handshakes come to a socket of their own, as with a kernel that steers.
    steers: bool,
}

impl SocketBinder for MemoryBinder {
    fn bind(&mut self, _port: u16, _mark: u32, steering: Steering) -> io::Result<Sockets> {
        let mut sockets: Vec<_> = if self.steers {
            self.network.sockets_and_handshakes(&[self.outer], PORT, steering)
        } else {
            self.network.sockets(&[self.outer], PORT, steering)
        }
        .into_iter()
        .map(Arc::new)
        .collect();
        let handshakes = sockets.split_off(steering.sockets().into());
        let _ = self.bound.send(sockets.clone());
        let mut lanes = sockets.into_iter().map(|socket| Sockets {
            v4: Some(self.gates.socket(socket)),
            port: PORT,
            ..Sockets::default()
        });
        let first = lanes.next().unwrap();
        let more = lanes.collect();
        let handshakes = handshakes.into_iter().map(|socket| socket as Arc<dyn Socket>).collect();
        Ok(Sockets { more, handshakes, ..first })
    }
}

/// One machine: an engine, what is behind its TUN, and its socket.
pub struct Machine {
    pub engine: Engine,
    pub handle: EngineHandle,
    pub host: MemoryHost,
    /// One for each lane.
    pub sockets: Vec<Arc<MemorySocket>>,
    pub events: Mutex<Receiver<EngineEvent>>,
    pub private_key: PrivateKey,
    pub public_key: PublicKey,
    pub outer: IpAddr,
}

impl Machine {
    /// Hands over a control frame for a peer, which is lost where it cannot be sent.
    pub fn say(&self, to: PublicKey, frame: Vec<u8>) {
        self.say_by(to, None, frame);
    }

    /// By a path.
    pub fn say_by(&self, to: PublicKey, path: Option<Path>, frame: Vec<u8>) {
        self.handle.instruct(vec![Instruction::Frame { public_key: to, path, frame }]).unwrap();
    }

    /// Starts a machine with the number `number`, outer address 192.0.2.N, and two workers. Machines of odd numbers have a
    /// socket for handshakes, those of even numbers none.
    pub fn start(network: &MemoryNetwork, number: u8, offloads: Offloads) -> Self {
        Self::start_workers(network, number, offloads, 2, Duration::ZERO)
    }

    /// Starts a machine with so many workers.
    pub fn start_workers(
        network: &MemoryNetwork,
        number: u8,
        offloads: Offloads,
        workers: usize,
        busy_poll: Duration,
    ) -> Self {
        Self::start_with(network, number, offloads, workers, busy_poll, PathMtuOptions::default())
    }

    /// Starts a machine that finds packet sizes out in this way.
    pub fn start_with(
        network: &MemoryNetwork,
        number: u8,
        offloads: Offloads,
        workers: usize,
        busy_poll: Duration,
        path_mtu: PathMtuOptions,
    ) -> Self {
        Self::start_adjusted(network, number, offloads, |options| {
            *options = EngineOptions { workers, busy_poll, path_mtu, ..options.clone() };
        })
    }

    /// Starts a machine with other options than two workers and the defaults of the rest.
    pub fn start_adjusted(
        network: &MemoryNetwork,
        number: u8,
        offloads: Offloads,
        adjust: impl FnOnce(&mut EngineOptions),
    ) -> Self {
        Self::start_gated(network, number, offloads, &Gates::new(), adjust)
    }

    /// The same behind these gates.
    pub fn start_gated(
        network: &MemoryNetwork,
        number: u8,
        offloads: Offloads,
        gates: &Gates,
        adjust: impl FnOnce(&mut EngineOptions),
    ) -> Self {
        let mut options = EngineOptions {
            mtu: 1420,
            listen_port: PORT,
            firewall_mark: 0,
            link_up: true,
            max_clock_ahead: None,
            workers: 2,
            busy_poll: Duration::ZERO,
            assist: Assist::default(),
            path_mtu: PathMtuOptions::default(),
            copy_dscp: false,
        };
        adjust(&mut options);
        let mut random = ChaCha20Rng::seed_from_u64(number.into());
        let outer: IpAddr = [192, 0, 2, number].into();
        let (queues, host) = queues(offloads, queues_for(options.workers)).unwrap();
        let queues = queues.into_iter().map(|queue| gates.queue(queue)).collect();
        let (bound, binding) = channel();
        let (network, gates) = (network.clone(), gates.clone());
        let binder = MemoryBinder { network, outer, bound, gates, steers: number % 2 == 1 };
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let private_key = PrivateKey::generate(&mut random);
        let engine = Engine::start(options, queues, binder, random, move |events| {
            let sender = sender.lock().unwrap();
            events.into_iter().for_each(|event| drop(sender.send(event)));
        })
        .unwrap();
        let sockets = binding.recv().unwrap();
        let handle = engine.handle();
        handle
            .apply(Transaction { private_key: Some(Some(private_key.clone())), ..Transaction::default() })
            .unwrap();
        let public_key = private_key.public();
        Self { engine, handle, host, sockets, events: Mutex::new(events), private_key, public_key, outer }
    }

    /// Makes `other` a peer that has the networks `allowed_ips`.
    pub fn add_peer(&self, other: &Machine, allowed_ips: &[&str], endpoint: bool) {
        let mut change = PeerChange::new(other.public_key);
        change.endpoint = endpoint.then(|| SocketAddr::new(other.outer, PORT));
        change.allowed_ips = allowed_ips
            .iter()
            .map(|network| AllowedIpChange { network: network.parse().unwrap(), remove: false })
            .collect();
        self.handle.apply(Transaction { peers: vec![change], ..Transaction::default() }).unwrap();
    }

    pub fn send(&self, packet: &[u8]) {
        self.host.send(VnetHeader::default(), packet).unwrap();
    }

    /// Waits for the next packet that comes out of the tunnel.
    pub fn receive(&self) -> Vec<u8> {
        self.host.receive(PATIENCE).expect("a packet out of the tunnel").1
    }

    pub fn dropped(&self, reason: tombolo_packet::DropReason) -> u64 {
        let status = self.handle.status().unwrap();
        status.drops.iter().find(|drop| drop.0 == reason).map_or(0, |drop| drop.1)
    }

    /// Waits until that many packets were dropped for that reason.
    pub fn wait_dropped(&self, reason: tombolo_packet::DropReason, at_least: u64) {
        wait_until(reason.name(), || self.dropped(reason) >= at_least);
    }
}

/// Polls a condition until it holds; fails with `what` when it never does.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 2 {
        if holds() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    panic!("never happened: {what}");
}

/// Runs a test on machines of one, two, three and four workers.
pub fn for_all_workers(test: impl Fn(usize)) {
    for workers in 1..=4 {
        test(workers);
    }
}

/// Two machines that know each other: 10.0.0.1 and 10.0.0.2.
pub fn two(offloads: Offloads) -> (MemoryNetwork, Machine, Machine) {
    two_of(2, offloads)
}

/// Two machines that know each other, each with so many workers.
pub fn two_of(workers: usize, offloads: Offloads) -> (MemoryNetwork, Machine, Machine) {
    let network = MemoryNetwork::new(1);
    let start = |number| Machine::start_workers(&network, number, offloads, workers, Duration::ZERO);
    let (east, west) = (start(1), start(2));
    east.add_peer(&west, &["10.0.0.2/32", "fd00::2/128"], true);
    west.add_peer(&east, &["10.0.0.1/32", "fd00::1/128"], true);
    (network, east, west)
}

/// A UDP packet over IPv4.
pub fn udp(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    udp_ports(source, destination, 4000, 5000, payload)
}

/// A UDP packet over IPv4 with these ports.
pub fn udp_ports(
    source: [u8; 4],
    destination: [u8; 4],
    source_port: u16,
    destination_port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let udp_len = 8 + payload.len();
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + udp_len).unwrap().to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    let checksum = Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut datagram = Vec::new();
    datagram.extend(source_port.to_be_bytes());
    datagram.extend(destination_port.to_be_bytes());
    datagram.extend(u16::try_from(udp_len).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let checksum = pseudo_header(&source, &destination, 17, udp_len).add_bytes(&datagram).checksum_not_zero();
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(datagram);
    packet
}

/// What one TCP connection from east to west carries from `at` on, byte by byte [`tcp_byte`]: one packet, or a super-packet in segments of
/// `segment` bytes. Its checksum is left to others, as the kernel does.
pub fn tcp(at: u32, payload_len: usize, segment: u16) -> (VnetHeader, Vec<u8>) {
    tcp_port(80, at, payload_len, segment)
}

/// The same of the connection from this port.
pub fn tcp_port(port: u16, at: u32, payload_len: usize, segment: u16) -> (VnetHeader, Vec<u8>) {
    let len = 20 + 20 + payload_len;
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
    packet.extend([EAST, WEST].concat());
    let checksum = Sum::of(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 81]);
    packet.extend(at.to_be_bytes());
    packet.extend([0, 0, 0, 9, 0x50, 0x10, 1, 1]);
    packet.extend((!pseudo_header(&EAST, &WEST, 6, len - 20).checksum()).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend((at..).map(tcp_byte).take(payload_len));
    let segmented = payload_len > usize::from(segment);
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: if segmented { GsoType::Tcp4 } else { GsoType::None },
        gso_size: if segmented { segment } else { 0 },
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    (header, packet)
}

/// What a TCP connection carries at a place.
pub fn tcp_byte(at: u32) -> u8 {
    (at ^ (at >> 9)).wrapping_mul(7) as u8
}

/// Takes what comes of the connection, from `at` to `end`, and holds every byte against what was sent: nothing may be missing, twice,
/// or before its turn. Gives the length of each packet's payload.
pub fn expect_tcp(machine: &Machine, mut at: u32, end: u32) -> Vec<usize> {
    let mut lengths = Vec::new();
    while at < end {
        let packet = machine.receive();
        let packet = IpPacket::parse(&packet).unwrap();
        let tcp = packet.payload();
        assert_eq!(u32::from_be_bytes(tcp[4..8].try_into().unwrap()), at, "in order");
        for &found in &tcp[20..] {
            assert_eq!(found, tcp_byte(at));
            at += 1;
        }
        lengths.push(tcp.len() - 20);
    }
    assert_eq!(at, end);
    lengths
}

pub const EAST: [u8; 4] = [10, 0, 0, 1];
pub const WEST: [u8; 4] = [10, 0, 0, 2];

/// Sets the checksums of a TCP packet over IPv4 without options.
pub fn finish_checksums(packet: &mut [u8]) {
    packet[10..12].fill(0);
    packet[36..38].fill(0);
    let header = Sum::of(&packet[..20]).checksum();
    let transport = pseudo_header(&packet[12..16], &packet[16..20], 6, packet.len() - 20);
    let transport = transport.add_bytes(&packet[20..]).checksum();
    packet[10..12].copy_from_slice(&header.to_be_bytes());
    packet[36..38].copy_from_slice(&transport.to_be_bytes());
}
