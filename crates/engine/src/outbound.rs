//! TUN to UDP: read, find the peer, reserve nonces, split, seal, send.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use tombolo_noise::clock::Instant;
use tombolo_noise::{Keypair, padded_len};
use tombolo_packet::ip::{IpPacket, ecn_encapsulate};
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{DropReason, Endpoint, VnetHeader, clamp_mss};
use tombolo_tun::{Fault, MAX_PACKET, Queue};

use crate::clock;
use crate::options::Sockets;
use crate::send_batch::{SendBatch, may_send};
use crate::shared::{Peer, Shared, Snapshot};
use crate::too_big::TooBig;
use crate::worker::{End, Turn};

/// Reads that share one look at the clock and the snapshot. Never waited for: an empty queue ends a batch.
const READS_PER_BATCH: usize = 32;

/// The outward half of a data thread.
pub(crate) struct Outbound<'a> {
    queue: &'a dyn Queue,
    lane: usize,
    snapshots: Cache<&'a ArcSwap<Snapshot>, Arc<Snapshot>>,
    sockets: Cache<&'a ArcSwap<Sockets>, Arc<Sockets>>,
    buffer: Vec<u8>,
    sealer: Sealer<'a>,
}

/// Where packets are sealed and gathered.
struct Sealer<'a> {
    shared: &'a Shared,
    queue: &'a dyn Queue,
    batch: SendBatch,
    /// One packet on its way into a staging queue.
    segment: Vec<u8>,
    too_big: TooBig,
}

impl<'a> Outbound<'a> {
    /// Reads from `queue` and sends from the sockets of `lane`.
    pub(crate) fn new(shared: &'a Shared, queue: &'a dyn Queue, lane: usize) -> Self {
        Self {
            queue,
            lane,
            snapshots: Cache::new(&shared.snapshot),
            sockets: Cache::new(&shared.sockets),
            buffer: vec![0; MAX_PACKET],
            sealer: Sealer {
                shared,
                queue,
                batch: SendBatch::new(),
                segment: vec![0; MAX_PACKET],
                too_big: TooBig::new(),
            },
        }
    }

    /// Readable when a turn would find something.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.queue.fd()
    }

    /// Reads and sends some of what waits.
    pub(crate) fn turn(&mut self) -> Result<Turn, End> {
        let now = clock::boot();
        let (snapshot, sockets) = (self.snapshots.load(), self.sockets.load().lane(self.lane));
        let (buffer, sealer) = (&mut self.buffer, &mut self.sealer);
        let mut turn = Turn::More;
        for _ in 0..READS_PER_BATCH {
            match self.queue.read(buffer) {
                Ok(Some((header, len))) => {
                    if let Err(reason) = sealer.packet(header, &mut buffer[..len], snapshot, sockets, now) {
                        sealer.shared.drops.count(reason);
                    }
                }
                Ok(None) => {
                    turn = Turn::Empty;
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    sealer.shared.drops.count(DropReason::MalformedPacket);
                }
                Err(error) if Fault::of(&error) == Fault::Gone => return Err(End::TunGone),
                Err(_) => {
                    turn = Turn::Empty;
                    break;
                }
            }
        }
        sealer.batch.flush(sockets, sealer.shared);
        Ok(turn)
    }
}

impl Sealer<'_> {
    fn packet(
        &mut self,
        header: VnetHeader,
        packet: &mut [u8],
        snapshot: &Snapshot,
        sockets: &Sockets,
        now: Instant,
    ) -> Result<(), DropReason> {
        let bytes = packet;
        let mut packet = SuperPacket::parse(header, bytes)?;
        let id = snapshot.routes.lookup(packet.destination()).ok_or(DropReason::NoRoute)?;
        let peer = snapshot.peer(id).ok_or(DropReason::NoRoute)?;
        let mtu = self.shared.mtu().min(peer.path.limit());
        if self.shared.clamp_mss && packet.ip().is_tcp_syn() && packet.segments() == 1 {
            clamp_mss(bytes, mtu);
            packet = SuperPacket::parse(VnetHeader::default(), bytes)?;
        }
        self.too_big.fit(&mut packet, peer.path.limit(), self.queue, now)?;
        self.shared.note_path_use(peer);
        let Some(endpoint) = peer.link.endpoint() else { return Err(DropReason::NoEndpoint) };
        if !may_send(self.shared) {
            return Err(DropReason::NotReady);
        }
        let Some(keypair) = peer.link.sending_keypair(now) else {
            self.stage(peer, &packet, sockets, now);
            return Ok(());
        };
        if peer.staging.is_occupied() {
            self.batch.flush(sockets, self.shared);
            flush_staged(peer, self.shared, sockets, &mut self.batch, now);
        }
        let segments = packet.segments();
        if peer.link.is_path_limited() {
            // Control rule 10: nothing is sealed that may not go there.
            let mtu = self.shared.mtu();
            let sealed = (0..segments).map(|index| padded_len(packet.segment_len(index), mtu));
            let sealed: usize = sealed.map(|padded| TRANSPORT_HEADER_LEN + padded + TAG_LEN).sum();
            peer.link.destination(sealed as u64)?;
        }
        let first_counter = match keypair.reserve(segments as u64) {
            Ok(counter) => counter,
            Err(_) => {
                self.stage(peer, &packet, sockets, now);
                return Ok(());
            }
        };
        let traffic_class = ecn_encapsulate(packet.traffic_class());
        let mut bytes = 0;
        for index in 0..segments {
            let plaintext_len = packet.segment_len(index);
            let padded = padded_len(plaintext_len, mtu);
            let len = TRANSPORT_HEADER_LEN + padded + TAG_LEN;
            if self.batch.room(len).is_none() {
                self.batch.flush(sockets, self.shared);
            }
            let Some(message) = self.batch.room(len) else { return Err(DropReason::PacketTooBig) };
            let plaintext = &mut message[TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + padded];
            let written = packet.write_segment(index, plaintext);
            plaintext[written..].fill(0);
            keypair.seal(first_counter + index as u64, message);
            self.batch.commit(&peer.link, endpoint, traffic_class, len);
            bytes += len as u64;
        }
        if let Some(event) = peer.link.note_sent(&keypair, now, segments as u64, bytes, true) {
            self.shared.raise(event);
        }
        Ok(())
    }

    /// Keeps the packet for when there is a session, and asks for one.
    fn stage(&mut self, peer: &Arc<Peer>, packet: &SuperPacket<'_>, sockets: &Sockets, now: Instant) {
        for index in 0..packet.segments() {
            let len = packet.write_segment(index, &mut self.segment);
            peer.staging.push(&self.segment[..len], &self.shared.staging_budget, &self.shared.drops);
        }
        if let Some(event) = peer.link.want_handshake() {
            self.shared.raise(event);
        }
        // A session may have come meanwhile, and its flush have found nothing staged.
        if peer.link.sending_keypair(now).is_some() {
            self.batch.flush(sockets, self.shared);
            flush_staged(peer, self.shared, sockets, &mut self.batch, now);
        }
    }
}

/// Seals and sends what waited for a session. Returns how many packets went.
pub(crate) fn flush_staged(
    peer: &Peer,
    shared: &Shared,
    sockets: &Sockets,
    batch: &mut SendBatch,
    now: Instant,
) -> usize {
    let (Some(keypair), Some(endpoint)) = (peer.link.sending_keypair(now), peer.link.endpoint()) else {
        return 0;
    };
    let taken = peer.staging.flush(&shared.staging_budget, |packet| {
        let traffic_class =
            IpPacket::parse(packet).map_or(0, |packet| ecn_encapsulate(packet.traffic_class()));
        seal_one(packet, true, &keypair, &endpoint, traffic_class, peer, shared, sockets, batch, now)
    });
    batch.flush(sockets, shared);
    taken
}

/// Seals an empty message into the batch and sends it (§6.5). `false`: there is no session.
pub(crate) fn send_keepalive(
    peer: &Peer,
    shared: &Shared,
    sockets: &Sockets,
    batch: &mut SendBatch,
    now: Instant,
) -> bool {
    let (Some(keypair), Some(endpoint)) = (peer.link.session_keypair(now), peer.link.endpoint()) else {
        return false;
    };
    let sent = seal_one(&[], false, &keypair, &endpoint, 0, peer, shared, sockets, batch, now);
    batch.flush(sockets, shared);
    sent
}

#[expect(clippy::too_many_arguments, reason = "the parts of one path, which differ in who owns them")]
fn seal_one(
    packet: &[u8],
    is_data: bool,
    keypair: &Keypair,
    endpoint: &Endpoint,
    traffic_class: u8,
    peer: &Peer,
    shared: &Shared,
    sockets: &Sockets,
    batch: &mut SendBatch,
    now: Instant,
) -> bool {
    let padded = padded_len(packet.len(), shared.mtu().min(peer.path.limit()));
    let len = TRANSPORT_HEADER_LEN + padded + TAG_LEN;
    if peer.link.destination(len as u64).is_err() {
        shared.drops.count(DropReason::PathUnproven);
        return false;
    }
    let Ok(counter) = keypair.reserve(1) else { return false };
    if batch.room(len).is_none() {
        batch.flush(sockets, shared);
        batch.grow(len);
    }
    let Some(message) = batch.room(len) else { return false };
    let plaintext = &mut message[TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + padded];
    plaintext[..packet.len()].copy_from_slice(packet);
    plaintext[packet.len()..].fill(0);
    keypair.seal(counter, message);
    batch.commit(&peer.link, *endpoint, traffic_class, len);
    if let Some(event) = peer.link.note_sent(keypair, now, 1, len as u64, is_data) {
        shared.raise(event);
    }
    true
}
