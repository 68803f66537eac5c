//! What the threads share: snapshots, queues, counters and the ways to wake each other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use crossbeam_queue::{ArrayQueue, SegQueue};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use tombolo_noise::{Event, IndexTable, Keypair, Link, SourceTable, Standing};
use tombolo_packet::ip::ecn_encapsulate;
use tombolo_packet::{DropCounters, DropReason, Endpoint, PeerId};
use tombolo_route::RouteTable;

use crate::assist::AssistCounters;
use crate::fair_queue::FlowHasher;
use crate::frames::{FrameGate, FrameQueue};
use crate::gateway::Gateway;
use crate::held::{Held, HeldBudget};
use crate::offload::TunOffloads;
use crate::options::Sockets;
use crate::path_mtu::PeerPath;
use crate::probe::ProbeWatch;
use crate::rate_limit::RateLimit;
use crate::relay::Relays;
use crate::seeking::Seeking;
use crate::staging::{Staging, StagingBudget};
use crate::usage::Usage;

/// Handshake datagrams that wait for the control thread. The kernel's module holds 4096; ours are
/// taken by one thread at 10 000 a second or more, so that 1024 are a tenth of a second.
pub(crate) const HANDSHAKE_QUEUE_LEN: usize = 1024;

/// Longest handshake datagram in bytes: an initiation.
const HANDSHAKE_MAX_LEN: usize = tombolo_packet::message::INITIATION_LEN;

/// A handshake datagram as it came in.
pub(crate) struct HandshakeDatagram {
    bytes: [u8; HANDSHAKE_MAX_LEN],
    len: usize,
    pub(crate) source: Endpoint,
}

impl HandshakeDatagram {
    /// `None` if it is longer than any handshake message.
    pub(crate) fn new(datagram: &[u8], source: Endpoint) -> Option<Self> {
        let mut bytes = [0; HANDSHAKE_MAX_LEN];
        bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Self { bytes, len: datagram.len(), source })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A peer as the data workers see it.
pub(crate) struct Peer {
    pub(crate) link: Arc<Link>,
    pub(crate) staging: Staging,
    /// How large a packet to it may be.
    pub(crate) path: PeerPath,
    pub(crate) frames: FrameGate,
    pub(crate) rate_limit: RateLimit,
    /// What came before it was verified.
    pub(crate) held: Held,
    /// It may bring datagrams of others, and take ours for them (control rule 14).
    pub(crate) relay: AtomicBool,
    pub(crate) usage: Usage,
    /// It has a tunnel with us alone: what it sends to others is brought on, and what others send to it.
    pub(crate) forward: AtomicBool,
}

impl Peer {
    /// A peer of which nothing is known yet.
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            staging: Staging::default(),
            path: PeerPath::new(),
            frames: FrameGate::default(),
            rate_limit: RateLimit::default(),
            held: Held::default(),
            relay: AtomicBool::new(false),
            forward: AtomicBool::new(false),
            usage: Usage::default(),
        }
    }

    pub(crate) fn is_relay(&self) -> bool {
        self.relay.load(Ordering::Relaxed)
    }
}

/// An immutable view of routes and peers.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) routes: RouteTable,
    pub(crate) peers: Vec<Option<Arc<Peer>>>,
}

impl Snapshot {
    pub(crate) fn peer(&self, id: PeerId) -> Option<&Arc<Peer>> {
        self.peers.get(id.0 as usize)?.as_ref()
    }
}

/// Wakes one thread out of its wait. A wake of a thread that is awake costs one atomic swap.
pub(crate) struct Waker {
    eventfd: OwnedFd,
    sleeping: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { eventfd, sleeping: AtomicBool::new(false) })
    }

    /// Wakes the thread if it sleeps or is about to.
    pub(crate) fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // A full counter (EAGAIN) is a pending wake-up already.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        }
    }

    /// Whether the thread waits or is about to.
    pub(crate) fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::SeqCst)
    }

    /// Announces that the thread is about to wait. It must look at its queues once more afterwards.
    pub(crate) fn prepare(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
    }

    /// Takes back [`Waker::prepare`], and any wake-up that came meanwhile.
    pub(crate) fn finish(&self) {
        // Whoever wakes lowers the flag and then writes; where it is still up there is nothing to read.
        if !self.sleeping.swap(false, Ordering::SeqCst) {
            let mut counter = [0; 8];
            let _ = rustix::io::read(&self.eventfd, &mut counter);
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// What workers look up of the protocol's state.
pub(crate) struct Tables {
    pub(crate) indices: Arc<IndexTable>,
    pub(crate) sources: Arc<SourceTable>,
}

/// Everything that more than one thread touches.
pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) sockets: ArcSwap<Sockets>,
    pub(crate) indices: Arc<IndexTable>,
    pub(crate) drops: DropCounters,
    pub(crate) mtu: AtomicU32,
    /// The interface is up and there is a private key (requirement 10).
    pub(crate) ready: AtomicBool,
    /// For the control thread. Bounded, because each peer's events are de-duplicated by flags.
    pub(crate) events: SegQueue<Event>,
    /// Peers with packets after a silence. Bounded, because each is here once.
    pub(crate) peers_used: SegQueue<PeerId>,
    /// Of sources with a live session, which are served first (control rule 8).
    known_handshakes: ArrayQueue<HandshakeDatagram>,
    /// Of all others.
    handshakes: ArrayQueue<HandshakeDatagram>,
    sources: Arc<SourceTable>,
    pub(crate) frames: FrameQueue,
    /// Peers that are spoken to again after a rest. Bounded, because each is announced once.
    pub(crate) paths_used: SegQueue<PeerId>,
    /// Whether TCP connections are told what the path carries.
    pub(crate) clamp_mss: bool,
    pub(crate) probes: ProbeWatch,
    pub(crate) staging_budget: StagingBudget,
    /// Packets whose tunnel is to come.
    pub(crate) seeking: Seeking,
    pub(crate) held_budget: HeldBudget,
    pub(crate) relays: Relays,
    pub(crate) gateway: Gateway,
    /// Peers of which something was held while they were promoted. Bounded as what is held.
    pub(crate) held_late: SegQueue<PeerId>,
    pub(crate) tun_gone: AtomicBool,
    pub(crate) tun_offloads: TunOffloads,
    pub(crate) failures: SegQueue<String>,
    pub(crate) flow_hasher: FlowHasher,
    /// What idle workers did for busy ones.
    pub(crate) assisted: AssistCounters,
    /// The outer header tells the inner packet's DSCP.
    pub(crate) copy_dscp: bool,
    /// Instructions that the control thread has not taken yet.
    pub(crate) instructions: AtomicUsize,
    stop: AtomicBool,
    control: Waker,
    /// Of the data threads.
    workers: Vec<Arc<Waker>>,
}

impl Shared {
    pub(crate) fn new(
        Tables { indices, sources }: Tables,
        sockets: Sockets,
        tun_offloads: TunOffloads,
        mtu: u16,
        magic: u64,
        workers: Vec<Arc<Waker>>,
        clamp_mss: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            sockets: ArcSwap::from_pointee(sockets),
            indices,
            drops: DropCounters::default(),
            mtu: AtomicU32::new(mtu.into()),
            ready: AtomicBool::new(false),
            events: SegQueue::new(),
            peers_used: SegQueue::new(),
            known_handshakes: ArrayQueue::new(HANDSHAKE_QUEUE_LEN),
            handshakes: ArrayQueue::new(HANDSHAKE_QUEUE_LEN),
            sources,
            frames: FrameQueue::default(),
            paths_used: SegQueue::new(),
            clamp_mss,
            probes: ProbeWatch::new(magic),
            staging_budget: StagingBudget::default(),
            seeking: Seeking::new(),
            held_budget: HeldBudget::default(),
            relays: Relays::default(),
            gateway: Gateway::new(),
            held_late: SegQueue::new(),
            tun_gone: AtomicBool::new(false),
            tun_offloads,
            failures: SegQueue::new(),
            flow_hasher: FlowHasher::new([0; 2]),
            assisted: AssistCounters::default(),
            copy_dscp: false,
            instructions: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            control: Waker::new()?,
            workers,
        })
    }

    /// Hands an event to the control thread.
    pub(crate) fn raise(&self, event: Event) {
        self.events.push(event);
        self.wake_control();
    }

    /// There is a packet to or from the peer: the control thread is told of the first after a silence.
    #[inline]
    pub(crate) fn note_use(&self, peer: &Peer) {
        if peer.usage.note() {
            self.peers_used.push(peer.link.peer());
            self.wake_control();
        }
    }

    /// A worker has packets for the peer: the control thread is told if it waits for that.
    #[inline]
    pub(crate) fn note_path_use(&self, peer: &Peer) {
        if peer.path.note_use() {
            self.paths_used.push(peer.link.peer());
            self.wake_control();
        }
    }

    /// Keeps a packet of a peer that is not verified yet (control rule 9). Of whoever is authorised no more, or never to be, it
    /// is dropped.
    pub(crate) fn hold(
        &self,
        peer: &Peer,
        message: &[u8],
        ecn: u8,
        now: tombolo_noise::clock::Instant,
    ) -> Result<(), DropReason> {
        if !matches!(peer.link.standing(), Standing::Provisional | Standing::Unverified) {
            return Err(DropReason::NotAuthorised);
        }
        peer.held.push(message, ecn, now, &self.held_budget)?;
        // The promotion may have come meanwhile, and have found nothing held.
        if peer.link.may_carry_packets(now) {
            self.held_late.push(peer.link.peer());
            self.wake_control();
        }
        Ok(())
    }

    /// Hands a control frame of a peer to the control thread, which is to be woken once for those of a batch.
    pub(crate) fn enqueue_frame(
        &self,
        peer: &Arc<Peer>,
        keypair: &Arc<Keypair>,
        from: Endpoint,
        message: &[u8],
        now: tombolo_noise::clock::Instant,
    ) {
        if let Err(reason) = self.frames.push(peer, keypair, from, message, now) {
            self.drops.count(reason);
        }
    }

    /// Hands a handshake datagram to the control thread, or drops it if too many wait.
    pub(crate) fn enqueue_handshake(&self, datagram: HandshakeDatagram) {
        if self.queue_handshake(datagram) {
            self.wake_control();
        }
    }

    /// The same for the control thread itself. `false`: it was dropped.
    pub(crate) fn queue_handshake(&self, datagram: HandshakeDatagram) -> bool {
        let known = self.sources.contains(datagram.source.remote);
        let queue = if known { &self.known_handshakes } else { &self.handshakes };
        let queued = queue.push(datagram).is_ok();
        if !queued {
            self.drops.count(DropReason::HandshakeQueueFull);
        }
        queued
    }

    /// Control thread: the next handshake datagram, and how many there were in its queue.
    pub(crate) fn next_handshake(&self) -> Option<(usize, HandshakeDatagram)> {
        [&self.known_handshakes, &self.handshakes]
            .into_iter()
            .find_map(|queue| Some((queue.len(), queue.pop()?)))
    }

    pub(crate) fn wake_control(&self) {
        self.control.wake();
    }

    pub(crate) fn control_waker(&self) -> &Waker {
        &self.control
    }

    /// Asks all threads to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.control.wake();
        self.wake_workers();
    }

    /// Makes every data thread look at what it waits for anew.
    pub(crate) fn wake_workers(&self) {
        for waker in &self.workers {
            waker.wake();
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// A worker found the TUN deleted.
    pub(crate) fn report_tun_gone(&self) {
        self.tun_gone.store(true, Ordering::SeqCst);
        self.wake_control();
    }

    /// A worker cannot go on.
    pub(crate) fn report_failure(&self, what: String) {
        self.failures.push(what);
        self.wake_control();
    }

    /// The traffic class of the datagram that an inner packet of this class travels in: its ECN field always
    /// (RFC 6040 §4.1), its DSCP where the user says so (RFC 2983 §3, the uniform model outwards).
    pub(crate) fn outer_traffic_class(&self, inner: u8) -> u8 {
        if self.copy_dscp { inner } else { ecn_encapsulate(inner) }
    }

    pub(crate) fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed) as usize
    }
}

/// Waits until one of `fds` is readable, the waker is woken or `timeout` is over, and says which of `fds` are.
/// `waker` must be prepared.
pub(crate) fn wait_readable<const COUNT: usize>(
    waker: &Waker,
    fds: [Option<BorrowedFd<'_>>; COUNT],
    timeout: Option<Duration>,
) -> io::Result<[bool; COUNT]> {
    let mut polled: ArrayVec<PollFd<'_>, 4> = ArrayVec::new();
    polled.push(PollFd::from_borrowed_fd(waker.fd(), PollFlags::IN));
    for fd in fds.iter().flatten() {
        polled.push(PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    }
    // A time-out too long for the system is none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok([false; COUNT]),
        Err(error) => return Err(error.into()),
    }
    let mut answers = polled.iter().skip(1).map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && answers.next().unwrap_or(false)))
}
