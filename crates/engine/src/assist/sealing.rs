//! Sealing of super-packets by whoever has time, sent in the order of their nonces.

use std::sync::Arc;

use tombolo_noise::clock::Instant;
use tombolo_noise::{Keypair, Link};
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{DropReason, Endpoint, VnetHeader};

use super::line::Finished;
use super::{Line, Load, Pool, Work};
use crate::options::Sockets;
use crate::send_batch::SendBatch;
use crate::sender::{seal_segment, sealed_len};
use crate::shared::Shared;

/// What it takes to seal a packet whose nonces are reserved.
pub(crate) struct Order {
    pub(crate) keypair: Arc<Keypair>,
    pub(crate) link: Arc<Link>,
    pub(crate) endpoint: Endpoint,
    /// Of the outer header.
    pub(crate) traffic_class: u8,
    pub(crate) first_counter: u64,
    /// So many nonces are reserved.
    pub(crate) segments: usize,
    /// Up to what length a packet is padded, and what length of it was made to fit.
    pub(crate) mtu: usize,
    pub(crate) limit: usize,
}

/// A super-packet to be sealed, or messages that are.
pub(crate) struct Sealing {
    batch: SendBatch,
    header: VnetHeader,
    packet: Box<[u8]>,
    len: usize,
    order: Option<Order>,
}

impl Sealing {
    fn new(buffer_len: usize) -> Box<Self> {
        Box::new(Self {
            batch: SendBatch::new(),
            header: VnetHeader::default(),
            packet: vec![0; buffer_len].into_boxed_slice(),
            len: 0,
            order: None,
        })
    }

    #[cfg(test)]
    pub(super) fn nothing() -> Box<Self> {
        Self::new(0)
    }

    fn seal(&mut self) -> Result<(), DropReason> {
        let Some(order) = &self.order else { return Ok(()) };
        let mut packet = SuperPacket::parse(self.header, &mut self.packet[..self.len])?;
        packet.fit(order.limit);
        // Never past what is reserved; both are what the owner found.
        for index in 0..packet.segments().min(order.segments) {
            let len = sealed_len(packet.segment_len(index), order.mtu);
            let message = self.batch.room(len).ok_or(DropReason::PacketTooBig)?;
            seal_segment(&order.keypair, order.first_counter + index as u64, &packet, index, message);
            self.batch.commit(Some(&order.link), order.endpoint, order.traffic_class, len);
        }
        Ok(())
    }
}

impl Work for Sealing {
    fn work(&mut self) {
        self.batch.clear();
        // Both errors were excluded before it was offered; what is sealed leaves all the same.
        let _ = self.seal();
    }
}

/// One outward worker's super-packets in progress.
pub(crate) struct SealingLine {
    line: Line<Sealing>,
    load: Load,
    spare: Vec<Box<Sealing>>,
}

impl SealingLine {
    pub(crate) fn new(pool: &Arc<Pool>, seat: usize) -> Self {
        Self { line: pool.sealing_line(seat), load: Load::default(), spare: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Nothing waits to be read any more.
    pub(crate) fn drained(&mut self) {
        self.load.drained();
    }

    /// A super-packet is to be sealed: whether others may be asked to.
    #[inline]
    pub(crate) fn wants_help(&mut self, now: Instant) -> bool {
        self.load.found();
        self.line.wants_help(&self.load, now)
    }

    /// Whether an order may go into the line now.
    pub(crate) fn has_room(&mut self, sockets: &Sockets, shared: &Shared) -> bool {
        self.send_done(sockets, shared);
        while self.line.len() >= self.line.depth() {
            if !self.line.work() {
                return false;
            }
            self.send_done(sockets, shared);
        }
        true
    }

    /// Puts the packet of `len` bytes in `buffer` last in the line, behind what is sealed in `batch`, which is left empty. The
    /// buffer is exchanged for another one of the same length.
    pub(crate) fn offer(
        &mut self,
        order: Order,
        header: VnetHeader,
        buffer: &mut Box<[u8]>,
        len: usize,
        batch: &mut SendBatch,
    ) {
        if !batch.is_empty() {
            let mut sealed = self.take_spare(buffer.len());
            sealed.batch.clear();
            std::mem::swap(&mut sealed.batch, batch);
            self.line.append_done(sealed);
        }
        let mut job = self.take_spare(buffer.len());
        std::mem::swap(&mut job.packet, buffer);
        (job.header, job.len, job.order) = (header, len, Some(order));
        self.line.offer(job);
    }

    fn take_spare(&mut self, buffer_len: usize) -> Box<Sealing> {
        self.spare.pop().unwrap_or_else(|| Sealing::new(buffer_len))
    }

    /// Sends what is done, up to the first that is not.
    pub(crate) fn send_done(&mut self, sockets: &Sockets, shared: &Shared) {
        while let Some(finished) = self.line.next_done() {
            self.send(finished, sockets, shared);
        }
    }

    /// Sends everything.
    pub(crate) fn finish(&mut self, sockets: &Sockets, shared: &Shared) {
        while let Some(finished) = self.line.next() {
            self.send(finished, sockets, shared);
        }
    }

    fn send(&mut self, finished: Finished<Sealing>, sockets: &Sockets, shared: &Shared) {
        let Finished { mut job, helped } = finished;
        job.batch.flush(sockets, shared);
        job.order = None;
        if helped {
            shared.assisted.add_sealed(1);
        }
        self.spare.push(job);
    }

    /// Gives back the buffers that are not in use.
    pub(crate) fn release_memory(&mut self) {
        self.spare = Vec::new();
    }
}
