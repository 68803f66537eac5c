//! One engine alone on the machine: what gives it packets and what takes them costs next to nothing.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rustix::event::{EventfdFlags, eventfd};
use tombolo_engine::{
    AllowedIpChange, Assist, Engine, EngineOptions, PathMtuOptions, PeerChange, SocketBinder, Sockets,
    Transaction, now, queues_for,
};
use tombolo_noise::{Device, Keypair, Output, PrivateKey, PublicKey};
use tombolo_packet::{
    Endpoint, GsoType, LocalAddress, Offload, OffloadState, PeerId, Steering, SuperPacket, VnetHeader,
};
use tombolo_tests::wait::{self, wait_for};
use tombolo_tun::{Offloads, Queue, TunOffloadStates};
use tombolo_udp::memory::MemoryNetwork;
use tombolo_udp::{
    BindOptions, Capabilities, FallbackCounters, Family, RECEIVE_SLOT, Received, SendError, SendOutcome,
    Socket, Transmit, UdpSocket,
};

use crate::Result;

/// Length in bytes of the packets inside, as on Ethernet, and of the messages that they become.
const PACKET: usize = 1420;
const MESSAGE: usize = 16 + PACKET + 16;
/// Packets in a super-packet.
const SEGMENTS: usize = 44;
const HEADERS: usize = 20 + 20;
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const LIMIT: Duration = Duration::from_secs(10);

/// A descriptor that is readable while something is to be read.
#[derive(Debug)]
struct Readable(OwnedFd);

impl Readable {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    fn set(&self, readable: bool) {
        // Neither fails but for being so already.
        if readable {
            let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        } else {
            let _ = rustix::io::read(&self.0, &mut [0; 8]);
        }
    }
}

/// A super-packet of one TCP connection, from `from` to `to`.
fn super_packet(from: Ipv4Addr, to: Ipv4Addr, sequence: u32) -> (VnetHeader, Vec<u8>) {
    let len = HEADERS + SEGMENTS * (PACKET - HEADERS);
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend([0, 80, 0, 81]);
    packet.extend(sequence.to_be_bytes());
    packet.extend([0, 0, 0, 9, 0x50, 0x10, 1, 1, 0, 0, 0, 0]);
    packet.resize(len, 0x42);
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::Tcp4,
        gso_size: (PACKET - HEADERS) as u16,
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    (header, packet)
}

/// A queue that always has a super-packet, while it is open, and forgets what it is given.
struct EndlessQueue {
    packet: (VnetHeader, Vec<u8>),
    open: AtomicBool,
    readable: Readable,
    written: AtomicUsize,
    scratch: Mutex<Vec<u8>>,
}

impl EndlessQueue {
    fn new() -> io::Result<Self> {
        Ok(Self {
            packet: super_packet(OWN, OTHER, 1),
            open: AtomicBool::new(false),
            readable: Readable::new()?,
            written: AtomicUsize::new(0),
            scratch: Mutex::default(),
        })
    }

    fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
        self.readable.set(open);
    }
}

impl Queue for EndlessQueue {
    fn offloads(&self) -> Offloads {
        Offloads::ALL
    }

    fn offload_states(&self) -> TunOffloadStates {
        let all = [
            Offload::VnetHeader,
            Offload::Checksum,
            Offload::Tso,
            Offload::Uso,
            Offload::CoalesceTcp,
            Offload::CoalesceUdp,
        ];
        all.map(|offload| (offload, OffloadState::On))
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        if !self.open.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let (header, packet) = &self.packet;
        // As the kernel does.
        buffer[..packet.len()].copy_from_slice(packet);
        Ok(Some((*header, packet.len())))
    }

    fn limit_reads(&self, _reads: tombolo_tun::Reads) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _header: VnetHeader, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        scratch.clear();
        slices.iter().for_each(|slice| scratch.extend_from_slice(slice));
        self.written.fetch_add(scratch.len(), Ordering::Relaxed);
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.readable.0.as_fd()
    }
}

/// A socket that gives what was prepared, while it is open, and keeps the last datagram that it was to send.
struct PreparedSocket {
    inbox: Mutex<Inbox>,
    readable: Readable,
    sent: Mutex<Vec<u8>>,
}

#[derive(Default)]
struct Inbox {
    /// Messages of one length each, so many as one read gives.
    reads: Reads,
    next: usize,
}

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 8662);

impl PreparedSocket {
    fn new() -> io::Result<Self> {
        Ok(Self { inbox: Mutex::default(), readable: Readable::new()?, sent: Mutex::default() })
    }

    fn give(&self, reads: Reads) {
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = Inbox { reads, next: 0 };
        self.readable.set(true);
    }
}

impl Socket for PreparedSocket {
    fn capabilities(&self) -> Capabilities {
        MemoryNetwork::new(0).socket(&[PEER.ip()], PEER.port()).capabilities()
    }

    fn offload_states(&self) -> [(Offload, OffloadState); 2] {
        [(Offload::Gso, OffloadState::On), (Offload::Gro, OffloadState::On)]
    }

    fn counters(&self) -> FallbackCounters {
        FallbackCounters::default()
    }

    fn reaches(&self, destination: IpAddr) -> bool {
        destination.is_ipv4()
    }

    fn send(&self, transmits: &[Transmit<'_>], outcome: &mut SendOutcome) {
        outcome.clear();
        for transmit in transmits {
            *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = transmit.contents.to_vec();
            outcome.datagrams += transmit.datagrams() as u64;
        }
    }

    fn send_unfragmented(&self, _transmit: &Transmit<'_>) -> std::result::Result<(), SendError> {
        Ok(())
    }

    fn receive(&self, arena: &mut [u8], received: &mut Vec<Received>) -> io::Result<usize> {
        received.clear();
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, space) in arena.chunks_exact_mut(RECEIVE_SLOT).enumerate() {
            let Some((stride, read)) = inbox.reads.get(inbox.next) else {
                self.readable.set(false);
                break;
            };
            space[..read.len()].copy_from_slice(read);
            received.push(Received {
                source: PEER,
                local: Some(LocalAddress { address: Ipv4Addr::new(192, 0, 2, 1).into(), interface: 1 }),
                traffic_class: 0,
                offset: slot * RECEIVE_SLOT,
                len: read.len(),
                stride: *stride,
            });
            inbox.next += 1;
        }
        Ok(received.len())
    }

    fn set_mark(&self, _mark: u32) -> io::Result<()> {
        Ok(())
    }

    fn local_port(&self) -> u16 {
        PEER.port()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.readable.0.as_fd()
    }
}

type Reads = Arc<Vec<(usize, Vec<u8>)>>;

/// Binds what there is already.
struct Bound(Arc<dyn Socket>);

impl SocketBinder for Bound {
    fn bind(&mut self, _port: u16, _mark: u32, steering: Steering) -> io::Result<Sockets> {
        let lane = Sockets { v4: Some(Arc::clone(&self.0)), port: PEER.port(), ..Sockets::default() };
        Ok(Sockets { more: vec![lane.clone(); usize::from(steering.sockets()) - 1], ..lane })
    }
}

fn start(
    workers: usize,
    assist: Assist,
    queue: &Arc<EndlessQueue>,
    socket: Arc<dyn Socket>,
    private_key: &PrivateKey,
    peer: PublicKey,
    endpoint: Option<SocketAddr>,
) -> Result<Engine> {
    let options = EngineOptions {
        mtu: PACKET as u16,
        listen_port: PEER.port(),
        firewall_mark: 0,
        link_up: true,
        max_clock_ahead: None,
        workers,
        busy_poll: Duration::ZERO,
        assist,
        path_mtu: PathMtuOptions::off(),
        copy_dscp: false,
    };
    // One flow is on one queue, however many there are.
    let mut queues: Vec<Arc<dyn Queue>> = vec![Arc::clone(queue) as Arc<dyn Queue>];
    for _ in 1..queues_for(workers) {
        queues.push(Arc::new(EndlessQueue::new()?));
    }
    let engine = Engine::start(options, queues, Bound(socket), ChaCha20Rng::seed_from_u64(1), |_| {})?;
    let mut change = PeerChange::new(peer);
    (change.endpoint, change.initiate) = (endpoint, endpoint.is_some());
    change.allowed_ips = vec![AllowedIpChange { network: IpAddr::from(OTHER).into(), remove: false }];
    let private_key = Some(Some(private_key.clone()));
    engine.handle().apply(Transaction { private_key, peers: vec![change], ..Transaction::default() })?;
    Ok(engine)
}

/// The far end of the tunnel: no more than the protocol.
struct FarEnd {
    device: Device,
    peer: PeerId,
    random: ChaCha20Rng,
}

impl FarEnd {
    fn new(private_key: PrivateKey, peer: PublicKey) -> Result<Self> {
        let mut random = ChaCha20Rng::seed_from_u64(2);
        let mut device = Device::new();
        device.set_private_key(Some(private_key), now(), &mut random);
        let peer = device.add_peer(peer)?;
        Ok(Self { device, peer, random })
    }

    /// Takes a handshake message, and gives what there is to say to it.
    fn answer(&mut self, message: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        self.device.handle_message(message, Endpoint::new(from), 0, 1, now(), &mut self.random).ok()?;
        self.speak()
    }

    fn speak(&mut self) -> Option<Vec<u8>> {
        std::iter::from_fn(|| self.device.poll_output()).find_map(|output| match output {
            Output::Datagram { contents, .. } => Some(contents.to_vec()),
            _ => None,
        })
    }

    fn keypair(&self) -> Option<Arc<Keypair>> {
        self.device.link(self.peer)?.sending_keypair(now().boot)
    }
}

/// How many Gbit/s of messages an engine of so many workers seals of one flow, and sends to a socket of this machine that nobody reads.
///
/// # Errors
/// When a socket or a thread cannot be made.
pub fn seal(workers: usize, assist: Assist, span: Duration) -> Result<f64> {
    let [near, far] = keys();
    let options = BindOptions::default();
    let sink = UdpSocket::bind(Family::V4, 0, &options)?;
    let socket = UdpSocket::bind(Family::V4, 0, &options)?;
    let own = SocketAddr::from((Ipv4Addr::LOCALHOST, socket.local_port()));
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, sink.local_port()));
    let queue = Arc::new(EndlessQueue::new()?);
    let mut far_end = FarEnd::new(far.clone(), near.public())?;
    let engine = start(workers, assist, &queue, Arc::new(socket), &near, far.public(), Some(target))?;
    let (mut arena, mut received) = (vec![0; RECEIVE_SLOT], Vec::new());
    wait_for("a handshake", LIMIT, || {
        if sink.receive(&mut arena, &mut received)? == 0 {
            return Ok(None);
        }
        let answer = far_end.answer(&arena[..received[0].len], own);
        Ok(answer.map(|answer| sink.send(&[Transmit::new(own, &answer)], &mut SendOutcome::default())))
    })?;
    let sent = || Ok::<_, anyhow::Error>(engine.handle().status()?.peers[0].sent_bytes);
    wait_for("a session", LIMIT, || Ok((sent()? > 148).then_some(())))?;
    queue.set_open(true);
    std::thread::sleep(span / 4);
    let (start, before) = (wait::now(), sent()?);
    std::thread::sleep(span);
    let (bytes, time) = (sent()? - before, start.elapsed());
    queue.set_open(false);
    Ok(bytes as f64 * 8e-9 / time.as_secs_f64())
}

/// How many Gbit/s of messages an engine of so many workers opens of one flow, which lie ready for it. So many super-packets.
///
/// # Errors
/// When a socket or a thread cannot be made.
pub fn open(workers: usize, assist: Assist, super_packets: u32) -> Result<f64> {
    let [near, far] = keys();
    let socket = Arc::new(PreparedSocket::new()?);
    let queue = Arc::new(EndlessQueue::new()?);
    let engine =
        start(workers, assist, &queue, Arc::clone(&socket) as Arc<dyn Socket>, &near, far.public(), None)?;
    let mut far_end = FarEnd::new(far, near.public())?;
    let FarEnd { device, peer, random } = &mut far_end;
    device.set_endpoint(*peer, Some(Endpoint::new(PEER)), now(), random);
    device.initiate(*peer, now(), random);
    let initiation = far_end.speak().context("no initiation")?;
    socket.give(Arc::new(vec![(initiation.len(), initiation)]));
    let keypair = wait_for("a session", LIMIT, || {
        let answer = std::mem::take(&mut *socket.sent.lock().unwrap_or_else(PoisonError::into_inner));
        if !answer.is_empty() {
            far_end.answer(&answer, PEER);
        }
        Ok(far_end.keypair())
    })?;
    let payload = (SEGMENTS * (PACKET - HEADERS)) as u32;
    let reads = (0..super_packets).map(|number| {
        let (header, mut packet) = super_packet(OTHER, OWN, number.wrapping_mul(payload));
        let packet = SuperPacket::parse(header, &mut packet).map_err(|reason| anyhow!("{reason:?}"))?;
        let mut read = vec![0; SEGMENTS * MESSAGE];
        for (index, message) in read.chunks_exact_mut(MESSAGE).enumerate() {
            packet.write_segment(index, &mut message[16..]);
            keypair.seal(keypair.reserve(1).map_err(|reason| anyhow!("{reason:?}"))?, message);
        }
        Ok((MESSAGE, read))
    });
    let reads: Reads = Arc::new(reads.collect::<Result<_>>()?);
    let all = super_packets as usize * SEGMENTS * (PACKET - HEADERS);
    let start = wait::now();
    socket.give(reads);
    while queue.written.load(Ordering::Relaxed) < all {
        ensure!(start.elapsed() < LIMIT, "packets were lost");
        std::thread::sleep(Duration::from_micros(500));
    }
    let bytes = super_packets as usize * SEGMENTS * MESSAGE;
    let time = start.elapsed();
    drop(engine);
    Ok(bytes as f64 * 8e-9 / time.as_secs_f64())
}

fn keys() -> [PrivateKey; 2] {
    let mut random = ChaCha20Rng::seed_from_u64(3);
    [(); 2].map(|()| PrivateKey::generate(&mut random))
}
