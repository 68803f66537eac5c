//! TUN to UDP: read, find the peer, wait fairly, reserve nonces, split, seal, send.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use arrayvec::ArrayVec;
use tombolo_noise::clock::Instant;
use tombolo_packet::ip::IpPacket;
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{DropReason, GsoType, PeerId, VnetHeader, clamp_mss};
use tombolo_tun::{Fault, Queue};

use crate::assist::SealingLine;
use crate::clock;
use crate::deference::Found;
use crate::fair_queue::{FlowId, Popped};
use crate::options::Sockets;
use crate::seeking::seek;
use crate::send_batch::SendBatch;
use crate::sender::Sender;
use crate::shared::{Shared, Snapshot};
use crate::too_big::TooBig;
use crate::waiting::{LARGE_BUFFER, WaitingRoom};
use crate::worker::{End, Turn};

/// Reads of one turn. More than packets are sealed in one, so that what waits, waits here and in fair order and
/// not in the device's own queue, which knows none; not many more, so that in a flood of small packets
/// most of the time is not spent on packets that are dropped.
const READS_PER_TURN: usize = 64;

/// Bytes from which on a packet waits rather than be sealed when the turn's share is used up. To seal and send a shorter one takes
/// hardly longer than to read it, so that those behind it would gain nothing.
const WORTH_WAITING: usize = 512;

/// Bytes that only packets of several segments have. Of TCP, they are a connection's in bulk.
const LONG_PACKET: usize = 4 * 1024;

/// Segments from which on a packet takes so long to seal that what is ready does not wait for it.
const LONG: usize = 8;

/// Packets sealed in one turn, at most. Never waited for: an empty queue ends a turn.
const PACKETS_PER_TURN: usize = 32;

/// Bytes sealed in one turn; the last packet may exceed them. A sparse packet waits for at most one turn.
const BYTES_PER_TURN: usize = 32 * 1024;

/// The same while there is one flow only: nobody waits for its turn to end but, on one core, the other direction.
const BYTES_PER_TURN_ALONE: usize = 256 * 1024;

/// For how long two flows count as sharing the tunnel after both have sent. A request and its answer recur sooner
/// wherever their delay matters.
const COMPANY: Duration = Duration::from_millis(200);

/// How long buffers are kept when nothing waits any more.
const KEEP_BUFFERS: Duration = Duration::from_secs(1);

/// The outward half of a data thread.
pub(crate) struct Outbound<'a> {
    shared: &'a Shared,
    queue: &'a dyn Queue,
    lane: usize,
    snapshots: Cache<&'a ArcSwap<Snapshot>, Arc<Snapshot>>,
    sockets: Cache<&'a ArcSwap<Sockets>, Arc<Sockets>>,
    batch: SendBatch,
    line: SealingLine,
    waiting: WaitingRoom,
    company: Company,
    /// The last turn found one packet: so will this one, which if it is short need not wait for the look behind it.
    one_by_one: bool,
    found: Found,
    too_big: TooBig,
    /// When a turn has something to do though nothing can be read.
    wake_at: Option<Instant>,
    /// When the buffers are given back.
    release_at: Option<Instant>,
}

impl<'a> Outbound<'a> {
    /// Reads from `queue` and sends from the sockets of `lane`; others may help through `line`.
    pub(crate) fn new(shared: &'a Shared, queue: &'a dyn Queue, lane: usize, line: SealingLine) -> Self {
        Self {
            shared,
            queue,
            lane,
            snapshots: Cache::new(&shared.snapshot),
            sockets: Cache::new(&shared.sockets),
            batch: SendBatch::new(),
            line,
            waiting: WaitingRoom::new(shared.flow_hasher),
            company: Company::default(),
            one_by_one: false,
            found: Found::default(),
            too_big: TooBig::new(),
            wake_at: None,
            release_at: None,
        }
    }

    /// Readable when a turn would find something.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'a> {
        self.queue.fd()
    }

    /// After what time a turn is due though nothing can be read; `None`: none is.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.wake_at.map(|at| at.saturating_duration_since(clock::boot()))
    }

    /// What was read since this was asked last.
    pub(crate) fn take_found(&mut self) -> Found {
        std::mem::take(&mut self.found)
    }

    /// Reads all that can be read, as far as possible, and then sends some of what waits. As long as nothing waits, a
    /// packet is sealed where it was read; so a lone packet is not queued, and neither is anything while
    /// this thread keeps up, or while one flow has the tunnel to itself: memory that is filled now and read later has
    /// left the cache in between, which costs a tenth of the throughput, and there is nobody to be fair to.
    pub(crate) fn turn(&mut self) -> Result<Turn, End> {
        let now = clock::boot();
        let (shared, waiting) = (self.shared, &mut self.waiting);
        let mut share = Share {
            snapshot: self.snapshots.load(),
            sender: Sender {
                shared,
                sockets: self.sockets.load().lane(self.lane),
                batch: &mut self.batch,
                line: Some(&mut self.line),
                now,
            },
            queue: self.queue,
            too_big: &mut self.too_big,
            packets: 0,
            bytes: 0,
            used_up: false,
            shared_tunnel: self.company.is_there(now),
        };
        let (mut drained, mut reads) = (false, 0);
        for _ in 0..READS_PER_TURN {
            if share.used_up && !share.shared_tunnel {
                break;
            }
            match self.queue.read(waiting.reading()) {
                Ok(Some((header, len))) => {
                    reads += 1;
                    let packet = &mut waiting.reading()[..len];
                    self.found.note(packet);
                    let taken = share.peer_of(packet).and_then(|peer| {
                        let (flow, is_tcp) = waiting.flow_read(peer, len)?;
                        self.company.note(flow, is_tcp && len >= LONG_PACKET, now);
                        share.shared_tunnel = self.company.is_there(now);
                        let late = share.used_up && len >= WORTH_WAITING;
                        if late || !waiting.is_empty() || share.gate(peer).is_some() {
                            waiting.keep(peer, header, len, &shared.drops)
                        } else {
                            share.seal(peer, header, waiting.reading(), len)
                        }
                    });
                    let taken = match taken {
                        Err(DropReason::NoRoute) if shared.seeking.is_active() => {
                            seek(shared, self.queue, header, &mut waiting.reading()[..len], now)
                        }
                        taken => taken,
                    };
                    if let Err(reason) = taken {
                        shared.drops.count(reason);
                        if reason == DropReason::MalformedPacket {
                            let packet = waiting.reading().get(..len).unwrap_or_default();
                            shared.tun_offloads.reads.note_packet(self.queue, header, packet, now);
                        }
                    }
                    if self.one_by_one && reads == 1 && len < LONG_PACKET {
                        share.sender.flush();
                    }
                }
                Ok(None) => {
                    drained = true;
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    shared.drops.count(DropReason::MalformedPacket);
                    shared.tun_offloads.reads.note_header(self.queue, now);
                }
                Err(error) if Fault::of(&error) == Fault::Gone => return Err(End::TunGone),
                Err(_) => {
                    drained = true;
                    break;
                }
            }
        }
        self.one_by_one = reads == 1;
        self.wake_at = None;
        let mut idle = false;
        while !share.used_up {
            match waiting.next(now, |peer| share.gate(peer)) {
                Popped::Packet(mut packet) => {
                    // Looked up again: the peer's slot may be another's by now.
                    let header = packet.header;
                    let (buffer, len) = packet.buffer();
                    let peer = share.peer_of(&buffer[..len]);
                    let sealed = peer.and_then(|peer| share.seal(peer, header, buffer, len));
                    if let Err(reason) = sealed {
                        shared.drops.count(reason);
                        if reason == DropReason::MalformedPacket {
                            let packet = buffer.get(..len).unwrap_or_default();
                            shared.tun_offloads.reads.note_packet(self.queue, header, packet, now);
                        }
                    }
                    waiting.give_back(packet);
                    self.release_at = Some(now + KEEP_BUFFERS);
                }
                Popped::Later(at) => {
                    (self.wake_at, idle) = (Some(at), true);
                    break;
                }
                Popped::Empty => {
                    idle = true;
                    break;
                }
            }
        }
        if share.sender.is_helped() {
            self.release_at = Some(now + KEEP_BUFFERS);
        }
        if !drained || !idle {
            share.sender.pass_on();
            return Ok(Turn::More);
        }
        share.sender.flush();
        self.line.drained();
        if self.release_at.is_some_and(|at| at <= now) {
            waiting.release_memory();
            self.line.release_memory();
            self.release_at = None;
        }
        self.wake_at = [self.wake_at, self.release_at].into_iter().flatten().min();
        Ok(Turn::Empty)
    }
}

/// Bulk TCP connections that are known at a time. Of more, some count as others.
const BULK_FLOWS: usize = 8;

/// Whether there is somebody to be fair to: two flows have sent lately, and not only TCP connections in bulk. Those find their
/// shares by congestion control, as everywhere, and are not worth a queue; whoever sends little, or heeds nothing, is.
#[derive(Default)]
struct Company {
    /// With the time until which each counts.
    bulk: ArrayVec<(FlowId, Instant), BULK_FLOWS>,
    last_other: Option<FlowId>,
    /// Until when bulk counts as present, and anything else, and two others.
    bulk_until: Option<Instant>,
    other_until: Option<Instant>,
    others_until: Option<Instant>,
}

impl Company {
    fn note(&mut self, flow: FlowId, is_bulk: bool, now: Instant) {
        let until = now + COMPANY;
        let known = self.bulk.iter_mut().find(|(known, _)| *known == flow);
        if is_bulk {
            self.bulk_until = Some(until);
            match known {
                Some(known) => known.1 = until,
                None => {
                    if self.bulk.is_full()
                        && let Some(oldest) = (0..BULK_FLOWS).min_by_key(|&index| self.bulk[index].1)
                    {
                        self.bulk.swap_remove(oldest);
                    }
                    self.bulk.push((flow, until));
                }
            }
        } else if known.is_none_or(|known| known.1 <= now) {
            self.other_until = Some(until);
            if self.last_other.replace(flow).is_some_and(|last| last != flow) {
                self.others_until = Some(until);
            }
        }
    }

    fn is_there(&self, now: Instant) -> bool {
        let lasts = |until: Option<Instant>| until.is_some_and(|until| now < until);
        lasts(self.others_until) || lasts(self.other_until) && lasts(self.bulk_until)
    }
}

/// What one turn seals.
struct Share<'a> {
    snapshot: &'a Snapshot,
    sender: Sender<'a>,
    queue: &'a dyn Queue,
    too_big: &'a mut TooBig,
    /// Sealed since the last flush.
    packets: usize,
    bytes: usize,
    used_up: bool,
    /// More than one flow sends.
    shared_tunnel: bool,
}

impl Share<'_> {
    fn peer_of(&self, packet: &[u8]) -> Result<PeerId, DropReason> {
        let destination = IpPacket::parse(packet)?.destination();
        self.snapshot.routes.lookup(destination).ok_or(DropReason::NoRoute)
    }

    /// Until when the peer's rate limit lets nothing go.
    fn gate(&self, peer: PeerId) -> Option<Instant> {
        self.snapshot.peer(peer)?.rate_limit.wait(self.sender.now)
    }

    /// Seals a packet of which `peer` was found in this snapshot. The last of the share leaves at once, with all before it.
    /// It lies in the first `len` bytes of `buffer`, which may be exchanged for another one.
    fn seal(
        &mut self,
        peer: PeerId,
        header: VnetHeader,
        buffer: &mut Box<[u8]>,
        len: usize,
    ) -> Result<(), DropReason> {
        let buffer_is_large = buffer.len() == LARGE_BUFFER;
        let bytes = &mut buffer[..len];
        self.packets += 1;
        self.bytes += len;
        let mut packet = SuperPacket::parse(header, bytes)?;
        let peer = self.snapshot.peer(peer).ok_or(DropReason::NoRoute)?;
        let shared = self.sender.shared;
        let limit = peer.path.limit();
        if shared.clamp_mss && packet.ip().is_tcp_syn() && packet.segments() == 1 {
            clamp_mss(bytes, shared.mtu().min(limit));
            packet = SuperPacket::parse(VnetHeader::default(), bytes)?;
        }
        self.too_big.fit(&mut packet, limit, self.queue, self.sender.now)?;
        shared.note_path_use(peer);
        let long = packet.segments() >= LONG;
        if long && header.gso_type != GsoType::None && buffer_is_large && self.sender.wants_help() {
            if let Some(order) = self.sender.order(peer, &packet, limit)? {
                self.sender.offer(order, header, buffer, len);
            }
        } else {
            if self.shared_tunnel && long {
                self.sender.pass_on();
            }
            self.sender.send(peer, &packet)?;
        }
        let used_up = if self.shared_tunnel {
            self.packets >= PACKETS_PER_TURN || self.bytes >= BYTES_PER_TURN
        } else {
            self.bytes >= BYTES_PER_TURN_ALONE
        };
        if used_up {
            self.sender.pass_on();
            (self.packets, self.bytes, self.used_up) = (0, 0, true);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(hash: u64) -> FlowId {
        FlowId { peer: PeerId(1), hash }
    }

    #[test]
    fn two_flows_are_company_until_one_has_been_alone_for_a_while() {
        let start = Instant::from_nanos(0);
        let mut company = Company::default();
        company.note(flow(1), false, start);
        company.note(flow(1), false, start + COMPANY);
        assert!(!company.is_there(start + COMPANY), "one flow is nobody's company");
        company.note(flow(2), false, start + COMPANY);
        assert!(company.is_there(start + COMPANY));
        company.note(flow(2), false, start + COMPANY + COMPANY / 2);
        assert!(company.is_there(start + COMPANY + COMPANY / 2));
        assert!(!company.is_there(start + COMPANY + COMPANY), "the first has been silent");
    }

    #[test]
    fn connections_in_bulk_are_no_company_to_each_other_but_to_all_else() {
        let start = Instant::from_nanos(0);
        let mut company = Company::default();
        for hash in 1..=4 {
            company.note(flow(hash), true, start);
        }
        company.note(flow(3), false, start);
        assert!(!company.is_there(start), "the short end of a burst is of the bulk");
        company.note(flow(5), false, start + COMPANY / 2);
        assert!(company.is_there(start + COMPANY / 2));
        assert!(!company.is_there(start + COMPANY), "the bulk has ended");
        company.note(flow(1), true, start + COMPANY);
        assert!(company.is_there(start + COMPANY), "a heartbeat was there a moment ago");
        company.note(flow(1), true, start + 2 * COMPANY);
        assert!(!company.is_there(start + 2 * COMPANY));
    }

    #[test]
    fn any_number_of_connections_in_bulk_is_taken() {
        let start = Instant::from_nanos(0);
        let mut company = Company::default();
        for hash in 0..1000 {
            company.note(flow(hash), true, start + Duration::from_nanos(hash));
            assert!(!company.is_there(start));
        }
        company.note(flow(0), false, start);
        assert!(company.is_there(start), "forgotten, it is as good as a new one");
    }
}
