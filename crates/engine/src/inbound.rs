//! UDP to TUN: receive, find the session, open in place, check replay and source, coalesce, write.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tombolo_noise::clock::Instant;
use tombolo_noise::{IndexEntry, Received as Batch};
use tombolo_packet::coalesce::{CoalesceOptions, Coalescer};
use tombolo_packet::ip::{IpPacket, ecn_decapsulate};
use tombolo_packet::relay::is_relayed;
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{DropCounters, DropReason, Endpoint, GsoType, VnetHeader, clamp_mss};
use tombolo_tun::{Fault, Queue, gso_max_size_for};
use tombolo_udp::Received;

use crate::arena::{Arena, Messages, Opened};
use crate::assist::OpeningLine;
use crate::deference::Found;
use crate::gateway::{Turned, Turner};
use crate::options::Sockets;
use crate::path_mtu;
use crate::relay::{Forwarder, Taken};
use crate::shared::{Peer, Shared, Snapshot};
use crate::worker::{End, Turn};

/// The inward half of a data thread.
pub(crate) struct Inbound<'a> {
    lane: usize,
    snapshots: Cache<&'a ArcSwap<Snapshot>, Arc<Snapshot>>,
    sockets: Cache<&'a ArcSwap<Sockets>, Arc<Sockets>>,
    /// Which of the IPv4 and the IPv6 socket may have something.
    readable: [bool; 2],
    arena: Box<Arena>,
    line: OpeningLine,
    delivery: Delivery<'a>,
}

impl<'a> Inbound<'a> {
    /// Receives from the sockets of `lane` and writes to `queue`; others may help through `line`.
    pub(crate) fn new(shared: &'a Arc<Shared>, queue: &'a dyn Queue, lane: usize, line: OpeningLine) -> Self {
        Self {
            lane,
            snapshots: Cache::new(&shared.snapshot),
            sockets: Cache::new(&shared.sockets),
            readable: [true; 2],
            arena: Box::new(Arena::new(Arc::clone(shared))),
            line,
            delivery: Delivery::new(shared, queue),
        }
    }

    /// The sockets of this moment, IPv4 first: readable when a turn would find something.
    pub(crate) fn descriptors(&mut self) -> [Option<BorrowedFd<'_>>; 2] {
        let sockets = self.sockets.load().lane(self.lane);
        [&sockets.v4, &sockets.v6].map(|socket| socket.as_ref().map(|socket| socket.fd()))
    }

    /// Says which of [`Inbound::descriptors`] are readable.
    pub(crate) fn set_readable(&mut self, readable: [bool; 2]) {
        self.readable = readable;
    }

    /// What was delivered since this was asked last.
    pub(crate) fn take_found(&mut self) -> Found {
        std::mem::take(&mut self.delivery.found)
    }

    /// Receives and delivers some of what waits: one batch of each family, so that neither waits for the
    /// other.
    pub(crate) fn turn(&mut self) -> Result<Turn, End> {
        let sockets = self.sockets.load().lane(self.lane);
        let snapshot = self.snapshots.load();
        let delivery = &mut self.delivery;
        let shared = delivery.shared;
        for (socket, readable) in [&sockets.v4, &sockets.v6].into_iter().zip(&mut self.readable) {
            let Some(socket) = socket.as_ref().filter(|_| *readable) else {
                *readable = false;
                continue;
            };
            match self.arena.receive(socket.as_ref()) {
                Ok(full) => {
                    *readable = full;
                    if full && self.line.wants_help(&self.arena) {
                        self.line.offer(&mut self.arena);
                    } else {
                        self.arena.open();
                        self.line.finish(shared, |arena| delivery.deliver(arena, snapshot, sockets));
                        delivery.deliver(&mut self.arena, snapshot, sockets);
                    }
                }
                Err(error) if recoverable(&error) => {}
                Err(error) => return Err(End::failed("receiving from UDP", &error)),
            }
        }
        let more = self.readable.contains(&true);
        if more {
            self.line.deliver_done(shared, |arena| delivery.deliver(arena, snapshot, sockets));
        } else {
            self.line.finish(shared, |arena| delivery.deliver(arena, snapshot, sockets));
            self.line.drained(self.arena.now);
        }
        if delivery.tun_gone {
            return Err(End::TunGone);
        }
        Ok(if more { Turn::More } else { Turn::Empty })
    }
}

/// ICMP errors and short memory come out of a UDP socket as errors of the next call, and pass.
pub(crate) fn recoverable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [
        Errno::CONNREFUSED,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::MSGSIZE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::INTR,
        Errno::NETDOWN,
        Errno::PROTO,
    ];
    passing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// What the TUN takes as one write.
fn coalesce_options(queue: &dyn Queue) -> CoalesceOptions {
    let offloads = queue.offloads();
    CoalesceOptions { tcp: offloads.write_tcp, udp: offloads.write_udp, ..CoalesceOptions::default() }
}

/// The longest super-packet in bytes that goes to the TUN. What the kernel then forwards out of the TUN
/// again, to another peer, it splits where it is as long as the interface's limit (`gso_features_check`), at
/// the price of one read for each segment.
fn longest_write(mtu: usize) -> usize {
    gso_max_size_for(u32::try_from(mtu).unwrap_or(u32::MAX)) as usize - 1
}

/// Where the messages of a batch came from.
#[derive(Clone, Copy)]
enum Sources<'a> {
    /// From the network.
    Reads { received: &'a [Received] },
    /// By relays.
    Relayed(&'a [Taken]),
}

impl Sources<'_> {
    fn endpoint(self, source: usize) -> Endpoint {
        match self {
            Self::Reads { received, .. } => received[source].endpoint(),
            Self::Relayed(taken) => taken[source].endpoint,
        }
    }
}

/// Everything after the tag was verified: strictly in the order in which it came.
struct Delivery<'a> {
    shared: &'a Shared,
    queue: &'a dyn Queue,
    mtu: usize,
    options: CoalesceOptions,
    coalescer: Coalescer,
    fresh: Vec<bool>,
    counters: Vec<u64>,
    /// Brought by relays in this batch.
    taken: Vec<Taken>,
    inner: Messages,
    forwarder: Forwarder,
    turner: Turner,
    /// The control thread has frames that it was not woken for.
    frames: bool,
    tun_gone: bool,
    found: Found,
}

impl<'a> Delivery<'a> {
    fn new(shared: &'a Shared, queue: &'a dyn Queue) -> Self {
        Self {
            shared,
            queue,
            mtu: 0,
            options: coalesce_options(queue),
            coalescer: Coalescer::new(coalesce_options(queue)),
            fresh: Vec::new(),
            counters: Vec::new(),
            taken: Vec::new(),
            inner: Messages::default(),
            forwarder: Forwarder::default(),
            turner: Turner::default(),
            frames: false,
            tun_gone: false,
            found: Found::default(),
        }
    }

    fn follow_mtu(&mut self) {
        let mtu = self.shared.mtu();
        if mtu != self.mtu {
            self.mtu = mtu;
            self.options.max_len = longest_write(mtu);
            self.coalescer.set_options(self.options);
        }
    }

    /// Takes what was opened, once per session and in counter order.
    fn deliver(&mut self, arena: &mut Arena, snapshot: &Snapshot, sockets: &Sockets) {
        if arena.messages.opened.is_empty() {
            return;
        }
        self.follow_mtu();
        arena.messages.put_in_order();
        let Arena { bytes, received, messages: Messages { opened, sessions, .. }, now, .. } = arena;
        for group in opened.chunk_by(|a, b| a.session == b.session) {
            let reads = Sources::Reads { received };
            self.session_batch(&sessions[group[0].session], group, bytes, reads, snapshot, *now);
        }
        if !self.taken.is_empty() {
            self.deliver_taken(bytes, snapshot, *now);
        }
        if !self.turner.turned.is_empty() {
            self.turner.flush(bytes, snapshot, sockets, self.queue, self.shared, *now);
        }
        self.forwarder.flush(bytes, sockets, self.shared, *now);
        self.write(bytes);
        if std::mem::take(&mut self.frames) {
            self.shared.wake_control();
        }
    }

    /// Opens what relays have brought, where it lies, and takes it as if it came from endpoints of its own.
    fn deliver_taken(&mut self, bytes: &mut [u8], snapshot: &Snapshot, now: Instant) {
        let taken = std::mem::take(&mut self.taken);
        let mut messages = std::mem::take(&mut self.inner);
        for (source, datagram) in taken.iter().enumerate() {
            if let Err(reason) =
                messages.open(self.shared, bytes, datagram.range.clone(), datagram.ecn, source, now)
            {
                self.shared.drops.count(reason);
            }
        }
        messages.put_in_order();
        for group in messages.opened.chunk_by(|a, b| a.session == b.session) {
            let session = &messages.sessions[group[0].session];
            self.session_batch(session, group, bytes, Sources::Relayed(&taken), snapshot, now);
        }
        messages.clear();
        self.inner = messages;
        self.taken = taken;
        self.taken.clear();
    }

    fn session_batch(
        &mut self,
        session: &IndexEntry,
        group: &[Opened],
        arena: &mut [u8],
        sources: Sources<'_>,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        self.counters.clear();
        self.counters.extend(group.iter().map(|opened| opened.counter));
        self.fresh.clear();
        session.keypair().commit(&self.counters, &mut self.fresh);
        let link = session.link();
        // A peer that was removed a moment ago may have left its slot to another one.
        let current = snapshot.peer(link.peer()).filter(|peer| Arc::ptr_eq(&peer.link, link));
        // Control rule 9: once for each batch.
        let authorised = link.may_carry_packets(now);
        let mut batch = Batch::default();
        let (mut newest, mut moving): (Option<&Opened>, Option<&Opened>) = (None, None);
        let (mut frames, mut relayed) = (false, false);
        let fresh = std::mem::take(&mut self.fresh);
        for (opened, &fresh) in group.iter().zip(&fresh) {
            if !fresh {
                self.shared.drops.count(DropReason::ReplayedCounter);
                continue;
            }
            batch.messages += 1;
            batch.bytes += opened.message_len as u64;
            newest = Some(opened);
            let message = &arena[opened.plaintext.clone()];
            if !path_mtu::is_exploring(message) {
                moving = newest;
            }
            if message.is_empty() {
                continue;
            }
            if path_mtu::is_frame(message) {
                frames = true;
                batch.data |= !path_mtu::is_path_frame(message);
                continue;
            }
            batch.data = true;
            let Some(peer) = current else { continue };
            if !authorised {
                if let Err(reason) = self.shared.hold(peer, message, opened.ecn, now) {
                    self.shared.drops.count(reason);
                }
                continue;
            }
            if is_relayed(message) {
                relayed = true;
                continue;
            }
            self.shared.note_use(peer);
            if let Err(reason) = self.packet(opened, arena, snapshot, link.peer(), now) {
                self.shared.drops.count(reason);
            }
        }
        batch.moves = moving.is_some();
        if let Some(newest) = moving.or(newest) {
            let endpoint = sources.endpoint(newest.source);
            if let Some(event) = link.note_received(session.keypair(), endpoint, now, &batch) {
                self.shared.raise(event);
            }
        }
        // Behind the event, which may be what lets the control thread answer.
        if let Some(peer) = current.filter(|_| frames) {
            for (opened, _) in group.iter().zip(&fresh).filter(|(_, fresh)| **fresh) {
                let message = &arena[opened.plaintext.clone()];
                if path_mtu::is_frame(message) {
                    let from = sources.endpoint(opened.source);
                    self.shared.enqueue_frame(peer, session.keypair(), from, message, now);
                    self.frames = true;
                }
            }
        }
        if let Some(peer) = current.filter(|_| relayed) {
            self.found = Found::Other;
            self.relayed(peer, group, &fresh, arena, sources, snapshot, now);
        }
        self.fresh = fresh;
    }

    /// The relayed datagrams of an authorised batch: to be brought on, or brought to us (control rule 14).
    #[allow(clippy::too_many_arguments, reason = "what there is of a batch")]
    fn relayed(
        &mut self,
        peer: &Arc<Peer>,
        group: &[Opened],
        fresh: &[bool],
        arena: &[u8],
        sources: Sources<'_>,
        snapshot: &Snapshot,
        now: Instant,
    ) {
        let messages = group.iter().zip(fresh).filter(|(_, fresh)| **fresh).map(|(opened, _)| opened);
        let messages = messages.filter(|opened| is_relayed(&arena[opened.plaintext.clone()]));
        match sources {
            Sources::Relayed(_) => self.shared.drops.add(DropReason::RelayNested, messages.count() as u64),
            Sources::Reads { .. } => {
                let brought = |opened: &&Opened| arena[opened.plaintext.clone()].get(1) == Some(&1);
                for opened in messages.clone().filter(brought) {
                    match Taken::take(peer, arena, opened.plaintext.clone(), opened.ecn, self.shared) {
                        Ok(taken) => self.taken.extend(taken),
                        Err(reason) => self.shared.drops.count(reason),
                    }
                }
                let messages = messages.filter(|opened| !brought(opened));
                let messages = messages.map(|opened| (opened.plaintext.clone(), opened.ecn));
                self.forwarder.gather(peer, messages, arena, snapshot, self.shared, now);
            }
        }
    }

    /// An authenticated, fresh, inner packet.
    fn packet(
        &mut self,
        opened: &Opened,
        arena: &mut [u8],
        snapshot: &Snapshot,
        peer: tombolo_packet::PeerId,
        now: Instant,
    ) -> Result<(), DropReason> {
        let start = opened.plaintext.start;
        if opened.ecn != 0 {
            let bytes = &mut arena[opened.plaintext.clone()];
            let len = IpPacket::parse(bytes)?.total_len();
            ecn_decapsulate(&mut bytes[..len], opened.ecn)?;
        }
        let packet = IpPacket::parse(&arena[opened.plaintext.clone()])?;
        self.found.note(packet.as_bytes());
        if snapshot.routes.lookup(packet.source()) != Some(peer) {
            return Err(DropReason::SourceNotAllowed);
        }
        if self.shared.probes.take(&packet, packet.as_bytes(), now) {
            return Ok(());
        }
        if self.shared.gateway.is_active()
            && let Some(way) = self.shared.gateway.way(snapshot, peer, packet.destination())
        {
            self.turner.turned.push(Turned { range: start..start + packet.total_len(), from: peer, way });
            return Ok(());
        }
        if packet.is_tcp_syn() && self.shared.clamp_mss {
            let path = snapshot.peer(peer).map_or(usize::MAX, |peer| peer.path.limit());
            let range = start..start + packet.total_len();
            clamp_mss(&mut arena[range.clone()], path.min(self.shared.mtu()));
            self.coalescer.push(arena, range);
        } else {
            self.coalescer.push_packet(arena, start, packet);
        }
        Ok(())
    }

    /// Writes what was gathered. What the kernel refuses as super-packets it gets as plain packets, at once and from now on: some
    /// stable kernels refuse all of them.
    fn write(&mut self, arena: &mut [u8]) {
        let (queue, shared) = (self.queue, self.shared);
        let (mut gone, mut refused_tcp, mut refused_udp) = (false, false, false);
        self.coalescer.for_each_output(arena, |header: VnetHeader, slices| {
            let Err(error) = queue.write(header, slices) else { return };
            let fault = Fault::of(&error);
            gone |= fault == Fault::Gone;
            if fault != Fault::Refused || header.gso_type == GsoType::None {
                shared.drops.count(DropReason::TunWriteFailed);
                return;
            }
            match header.gso_type {
                GsoType::Udp => refused_udp = true,
                _ => refused_tcp = true,
            }
            shared.tun_offloads.write_refused(header.gso_type, &error);
            gone |= write_segments(queue, header, slices, &shared.drops);
        });
        self.tun_gone |= gone;
        if refused_tcp || refused_udp {
            self.options.tcp &= !refused_tcp;
            self.options.udp &= !refused_udp;
            self.coalescer.set_options(self.options);
        }
    }
}

/// Writes a super-packet packet by packet. Those that are not taken are counted; `true`: the device is gone.
#[cold]
fn write_segments(
    queue: &dyn Queue,
    header: VnetHeader,
    slices: &[IoSlice<'_>],
    drops: &DropCounters,
) -> bool {
    let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
    let packet = match SuperPacket::parse(header, &mut bytes) {
        Ok(packet) => packet,
        Err(reason) => {
            drops.count(reason);
            return false;
        }
    };
    let mut gone = false;
    let mut segment = vec![0; packet.segment_len(0)];
    for index in 0..packet.segments() {
        let len = packet.write_segment(index, &mut segment);
        if let Err(error) = queue.write(VnetHeader::default(), &[IoSlice::new(&segment[..len])]) {
            drops.count(DropReason::TunWriteFailed);
            gone |= Fault::of(&error) == Fault::Gone;
        }
    }
    gone
}
