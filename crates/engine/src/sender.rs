//! From packets to sealed messages in a batch.

use std::sync::Arc;

use tombolo_noise::clock::Instant;
use tombolo_noise::{Keypair, padded_len};
use tombolo_packet::ip::IpPacket;
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{DropReason, Endpoint, VnetHeader};

use crate::assist::{Order, SealingLine};
use crate::options::Sockets;
use crate::relay::Via;
use crate::send_batch::{SendBatch, may_send};
use crate::shared::{Peer, Shared};

/// Seals for peers and sends, for the length of one turn.
pub(crate) struct Sender<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) sockets: &'a Sockets,
    pub(crate) batch: &'a mut SendBatch,
    /// What leaves before the batch, where idle workers help with it.
    pub(crate) line: Option<&'a mut SealingLine>,
    pub(crate) now: Instant,
}

/// What it takes to seal for a peer.
struct Session<'a> {
    peer: &'a Peer,
    keypair: Arc<Keypair>,
    endpoint: Endpoint,
}

impl<'a> Session<'a> {
    /// For IP packets. `None`: there is no session that may carry them, or nowhere to send to.
    fn of(peer: &'a Peer, now: Instant) -> Option<Self> {
        let keypair = peer.link.sending_keypair(now)?;
        Some(Self { peer, keypair, endpoint: peer.link.endpoint()? })
    }

    /// For keepalives, which a session also carries that may carry nothing else.
    fn any(peer: &'a Peer, now: Instant) -> Option<Self> {
        let keypair = peer.link.session_keypair(now)?;
        Some(Self { peer, keypair, endpoint: peer.link.endpoint()? })
    }
}

/// Writes packet `index` of `packet` into `message`, which is as long as [`sealed_len`] says, and seals it.
pub(crate) fn seal_segment(
    keypair: &Keypair,
    counter: u64,
    packet: &SuperPacket<'_>,
    index: usize,
    message: &mut [u8],
) {
    let end = message.len() - TAG_LEN;
    let plaintext = &mut message[TRANSPORT_HEADER_LEN..end];
    let written = packet.write_segment(index, plaintext);
    plaintext[written..].fill(0);
    keypair.seal(counter, message);
}

/// Bytes of the message that a packet of so many bytes becomes.
pub(crate) fn sealed_len(packet_len: usize, mtu: usize) -> usize {
    TRANSPORT_HEADER_LEN + padded_len(packet_len, mtu) + TAG_LEN
}

impl Sender<'_> {
    /// Up to what length packets to the peer are padded.
    fn mtu(&self, peer: &Peer) -> usize {
        self.shared.mtu().min(peer.path.limit())
    }

    /// Hands what is sealed to the sockets.
    pub(crate) fn flush(&mut self) {
        if let Some(line) = &mut self.line {
            line.finish(self.sockets, self.shared);
        }
        self.batch.flush(self.sockets, self.shared);
    }

    /// Whether others seal something of this.
    pub(crate) fn is_helped(&self) -> bool {
        self.line.as_ref().is_some_and(|line| !line.is_empty())
    }

    /// Sends what is sealed, but for what is behind something that others still seal. For a turn that is followed by another.
    pub(crate) fn pass_on(&mut self) {
        if let Some(line) = self.line.as_mut().filter(|line| !line.is_empty()) {
            line.send_done(self.sockets, self.shared);
            if !line.is_empty() {
                return;
            }
        }
        self.flush();
    }

    /// Seals a packet out of the TUN into the batch, or lets it wait for a session.
    pub(crate) fn send(&mut self, peer: &Peer, packet: &SuperPacket<'_>) -> Result<(), DropReason> {
        match self.begin(peer, packet)? {
            Some((session, first_counter)) => self.seal(&session, first_counter, packet),
            None => Ok(()),
        }
    }

    /// Whether a large packet had better be ordered than sealed here.
    pub(crate) fn wants_help(&mut self) -> bool {
        let Some(line) = &mut self.line else { return false };
        line.wants_help(self.now) && line.has_room(self.sockets, self.shared)
    }

    /// What it takes for somebody else to seal a packet that was made to fit into `limit` bytes. `None`: it is sealed here already, or
    /// waits for a session.
    pub(crate) fn order(
        &mut self,
        peer: &Peer,
        packet: &SuperPacket<'_>,
        limit: usize,
    ) -> Result<Option<Order>, DropReason> {
        let Some((session, first_counter)) = self.begin(peer, packet)? else { return Ok(None) };
        let (mtu, segments) = (self.mtu(peer), packet.segments());
        let bytes: usize = (0..segments).map(|index| sealed_len(packet.segment_len(index), mtu)).sum();
        if session.endpoint.is_relayed() || bytes > SendBatch::LEN {
            self.seal(&session, first_counter, packet)?;
            return Ok(None);
        }
        self.note_sent(&session, segments as u64, bytes as u64, true);
        Ok(Some(Order {
            keypair: session.keypair,
            link: Arc::clone(&peer.link),
            endpoint: session.endpoint,
            traffic_class: self.shared.outer_traffic_class(packet.traffic_class()),
            first_counter,
            segments,
            mtu,
            limit,
        }))
    }

    /// Puts an order with its packet behind all that was sealed or ordered before; see [`SealingLine::offer`].
    pub(crate) fn offer(&mut self, order: Order, header: VnetHeader, buffer: &mut Box<[u8]>, len: usize) {
        if let Some(line) = &mut self.line {
            if line.is_empty() {
                self.batch.flush(self.sockets, self.shared);
            }
            line.offer(order, header, buffer, len, self.batch);
        }
    }

    /// Reserves nonces for a packet. `None`: it waits for a session.
    fn begin<'p>(
        &mut self,
        peer: &'p Peer,
        packet: &SuperPacket<'_>,
    ) -> Result<Option<(Session<'p>, u64)>, DropReason> {
        if peer.link.endpoint().is_none() {
            return Err(DropReason::NoEndpoint);
        }
        if !may_send(self.shared) {
            return Err(DropReason::NotReady);
        }
        self.shared.note_use(peer);
        let Some(session) = Session::of(peer, self.now) else {
            self.stage(peer, packet);
            return Ok(None);
        };
        if peer.staging.is_occupied() {
            self.flush();
            self.flush_staged(peer);
        }
        if peer.link.is_path_limited() {
            // Control rule 10: nothing is sealed that may not go there.
            let mtu = self.mtu(peer);
            let sealed = (0..packet.segments()).map(|index| sealed_len(packet.segment_len(index), mtu));
            peer.link.destination(sealed.sum::<usize>() as u64)?;
        }
        let Ok(first_counter) = session.keypair.reserve(packet.segments() as u64) else {
            self.stage(peer, packet);
            return Ok(None);
        };
        Ok(Some((session, first_counter)))
    }

    fn seal(
        &mut self,
        session: &Session<'_>,
        first_counter: u64,
        packet: &SuperPacket<'_>,
    ) -> Result<(), DropReason> {
        let Session { peer, keypair, endpoint } = session;
        let mut via = self.via(endpoint)?;
        let traffic_class = self.shared.outer_traffic_class(packet.traffic_class());
        let mtu = self.mtu(peer);
        let mut bytes = 0;
        self.batch.keep_together(packet.segments(), sealed_len(packet.segment_len(0), mtu));
        for index in 0..packet.segments() {
            let len = sealed_len(packet.segment_len(index), mtu);
            let message = self.room(via.as_ref(), len).ok_or(DropReason::PacketTooBig)?;
            seal_segment(keypair, first_counter + index as u64, packet, index, message);
            match &mut via {
                None => self.batch.commit(Some(&peer.link), *endpoint, traffic_class, len),
                Some(via) => via.commit(self.batch, len, traffic_class)?,
            }
            bytes += len as u64;
        }
        if let Some(via) = via {
            via.finish(self.shared, self.now);
        }
        self.note_sent(session, packet.segments() as u64, bytes, true);
        Ok(())
    }

    /// The relay by which the endpoint is reached, if it is.
    fn via(&self, endpoint: &Endpoint) -> Result<Option<Via>, DropReason> {
        if !endpoint.is_relayed() {
            return Ok(None);
        }
        Via::of(endpoint, &self.shared.snapshot.load(), self.shared, self.now)
    }

    /// Room for a message of `len` bytes, in that to the relay where there is one.
    fn room(&mut self, via: Option<&Via>, len: usize) -> Option<&mut [u8]> {
        let whole = via.map_or(len, |via| via.wrapped_len(len));
        if self.batch.room(whole).is_none() {
            self.flush();
            self.batch.grow(whole);
        }
        let room = self.batch.room(whole)?;
        Some(match via {
            None => room,
            Some(via) => via.datagram(room, len),
        })
    }

    fn note_sent(&self, session: &Session<'_>, messages: u64, bytes: u64, data: bool) {
        let Session { peer, keypair, endpoint } = session;
        let outer = if endpoint.remote.is_ipv4() { 20 + 8 } else { 40 + 8 };
        peer.rate_limit.charge(self.now, bytes + messages * outer);
        if let Some(event) = peer.link.note_sent(keypair, self.now, messages, bytes, data) {
            self.shared.raise(event);
        }
    }

    /// Keeps the packet for when there is a session, and asks for one.
    fn stage(&mut self, peer: &Peer, packet: &SuperPacket<'_>) {
        let mut segment = vec![0; packet.segment_len(0)];
        for index in 0..packet.segments() {
            let len = packet.write_segment(index, &mut segment);
            peer.staging.push(&segment[..len], &self.shared.staging_budget, &self.shared.drops);
        }
        if let Some(event) = peer.link.want_handshake() {
            self.shared.raise(event);
        }
        // A session may have come meanwhile, and its flush have found nothing staged.
        if peer.link.sending_keypair(self.now).is_some() {
            self.flush();
            self.flush_staged(peer);
        }
    }

    /// Seals and sends what waited for a session. Returns how many packets went.
    pub(crate) fn flush_staged(&mut self, peer: &Peer) -> usize {
        let Some(session) = Session::of(peer, self.now) else { return 0 };
        let shared = self.shared;
        let taken = peer.staging.flush(&shared.staging_budget, |packet| {
            let inner = IpPacket::parse(packet).map_or(0, |packet| packet.traffic_class());
            self.seal_one(&session, packet, true, shared.outer_traffic_class(inner))
        });
        self.flush();
        taken
    }

    /// Seals an empty message into the batch and sends it (§6.5). `false`: there is no session.
    pub(crate) fn send_keepalive(&mut self, peer: &Peer) -> bool {
        let Some(session) = Session::any(peer, self.now) else { return false };
        let sent = self.seal_one(&session, &[], false, 0);
        self.flush();
        sent
    }

    /// `false`: no counter is left, or the path is unproven and has had enough.
    fn seal_one(&mut self, session: &Session<'_>, packet: &[u8], data: bool, traffic_class: u8) -> bool {
        let Session { peer, keypair, endpoint } = session;
        let len = sealed_len(packet.len(), self.mtu(peer));
        if peer.link.destination(len as u64).is_err() {
            self.shared.drops.count(DropReason::PathUnproven);
            return false;
        }
        let mut via = match self.via(endpoint) {
            Ok(via) => via,
            Err(reason) => {
                self.shared.drops.count(reason);
                return false;
            }
        };
        let Ok(counter) = keypair.reserve(1) else { return false };
        let Some(message) = self.room(via.as_ref(), len) else { return false };
        let plaintext = &mut message[TRANSPORT_HEADER_LEN..len - TAG_LEN];
        plaintext[..packet.len()].copy_from_slice(packet);
        plaintext[packet.len()..].fill(0);
        keypair.seal(counter, message);
        match &mut via {
            None => self.batch.commit(Some(&peer.link), *endpoint, traffic_class, len),
            Some(via) => {
                if let Err(reason) = via.commit(self.batch, len, traffic_class) {
                    self.shared.drops.count(reason);
                    return false;
                }
            }
        }
        if let Some(via) = via {
            via.finish(self.shared, self.now);
        }
        self.note_sent(session, 1, len as u64, data);
        true
    }
}
