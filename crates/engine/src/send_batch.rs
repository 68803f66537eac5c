//! Sealed messages that leave together.

use std::num::NonZeroU16;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use tombolo_noise::Link;
use tombolo_packet::message::MessageType;
use tombolo_packet::{DropReason, Endpoint};
use tombolo_udp::{MAX_DATAGRAM, SendError, SendFailure, SendOutcome, Socket, Transmit};

use crate::options::Sockets;
use crate::shared::Shared;

/// Bytes of sealed messages that one batch holds: two of the largest super-datagrams.
const ARENA_LEN: usize = 2 * 65_536;

/// The same where there are no IP packets to be sent, but for a few.
const SMALL_ARENA_LEN: usize = 32 * 1024;

/// Transmits in one batch at most; each is one entry of `sendmmsg`.
const MAX_TRANSMITS: usize = 64;

/// Datagrams in one super-datagram at most (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_SEGMENTS: usize = 64;

/// Datagrams of equal length to one endpoint.
struct Pending {
    /// None: an answer to somebody who is no peer.
    link: Option<Arc<Link>>,
    endpoint: Endpoint,
    traffic_class: u8,
    range: Range<usize>,
    segment_len: usize,
    segments: usize,
    /// A shorter datagram was added: it must be the last.
    closed: bool,
    /// Transport messages, or handshakes: the receiver's kernel steers a super-datagram by its first message.
    transport: bool,
}

/// One contiguous buffer of sealed messages, laid out as they are sent.
pub(crate) struct SendBatch {
    arena: Vec<u8>,
    used: usize,
    pending: ArrayVec<Pending, MAX_TRANSMITS>,
    outcome: SendOutcome,
}

impl SendBatch {
    /// Bytes of messages that fit into one of [`SendBatch::new`].
    pub(crate) const LEN: usize = ARENA_LEN;

    pub(crate) fn new() -> Self {
        Self { arena: vec![0; ARENA_LEN], used: 0, pending: ArrayVec::new(), outcome: SendOutcome::default() }
    }

    /// A batch for handshake messages and control frames.
    pub(crate) fn small() -> Self {
        Self { arena: vec![0; SMALL_ARENA_LEN], ..Self::new_empty() }
    }

    fn new_empty() -> Self {
        Self { arena: Vec::new(), used: 0, pending: ArrayVec::new(), outcome: SendOutcome::default() }
    }

    /// Room for a message of `len` bytes behind those already there; `None`: flush first (an empty
    /// batch of [`SendBatch::new`] has room for any message).
    pub(crate) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.pending.is_full() {
            return None;
        }
        self.arena.get_mut(self.used..self.used + len)
    }

    /// The next `messages`, of at most `len` bytes each, are of one super-packet: where the last datagram has no room for all
    /// of them they begin one of their own, so that whoever receives it has a whole super-packet at once.
    pub(crate) fn keep_together(&mut self, messages: usize, len: usize) {
        if let Some(last) = self.pending.last_mut() {
            last.closed |=
                last.segments + messages > MAX_SEGMENTS || last.range.len() + messages * len > MAX_DATAGRAM;
        }
    }

    /// Makes the arena at least `len` bytes, for a batch that is empty.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.arena.len() < len {
            self.arena.resize(len, 0);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Forgets what was not sent.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
        self.used = 0;
    }

    /// Adds the `len` bytes that were written into [`SendBatch::room`].
    pub(crate) fn commit(
        &mut self,
        link: Option<&Arc<Link>>,
        endpoint: Endpoint,
        traffic_class: u8,
        len: usize,
    ) {
        let range = self.used..self.used + len;
        self.used += len;
        let transport = MessageType::classify(&self.arena[range.clone()]) == Ok(MessageType::Transport);
        if let Some(last) = self.pending.last_mut()
            && !last.closed
            && last.transport == transport
            && last.endpoint == endpoint
            && last.traffic_class == traffic_class
            && len <= last.segment_len
            && last.segments < MAX_SEGMENTS
            && last.range.len() + len <= MAX_DATAGRAM
        {
            last.range.end = range.end;
            last.segments += 1;
            last.closed = len < last.segment_len;
            return;
        }
        self.pending.push(Pending {
            link: link.map(Arc::clone),
            endpoint,
            traffic_class,
            range,
            segment_len: len,
            segments: 1,
            closed: false,
            transport,
        });
    }

    /// Hands everything to the sockets and forgets it. What the system refuses is counted. `false`: it takes no more for now.
    pub(crate) fn flush(&mut self, sockets: &Sockets, shared: &Shared) -> bool {
        let (mut start, mut has_room) = (0, true);
        while start < self.pending.len() {
            let v4 = self.pending[start].endpoint.remote.is_ipv4();
            let same = self.pending[start..].iter().take_while(|p| p.endpoint.remote.is_ipv4() == v4).count();
            let group = &self.pending[start..start + same];
            match if v4 { &sockets.v4 } else { &sockets.v6 } {
                Some(socket) => {
                    send_group(socket.as_ref(), group, &self.arena, &mut self.outcome, shared);
                    let full = |failure: &SendFailure| matches!(failure.error, SendError::BufferFull);
                    has_room &= !self.outcome.failures.iter().any(full);
                }
                None => {
                    let lost = group.iter().map(|pending| pending.segments as u64).sum();
                    shared.drops.add(DropReason::UdpSendFailed, lost);
                }
            }
            start += same;
        }
        self.clear();
        has_room
    }
}

fn send_group(
    socket: &dyn Socket,
    group: &[Pending],
    arena: &[u8],
    outcome: &mut SendOutcome,
    shared: &Shared,
) {
    let transmits: ArrayVec<Transmit<'_>, MAX_TRANSMITS> = group
        .iter()
        .map(|pending| Transmit {
            destination: pending.endpoint.remote,
            source: pending.endpoint.local,
            traffic_class: pending.traffic_class,
            contents: &arena[pending.range.clone()],
            segment_size: if pending.segments > 1 {
                u16::try_from(pending.segment_len).ok().and_then(NonZeroU16::new)
            } else {
                None
            },
        })
        .collect();
    socket.send(&transmits, outcome);
    for failure in &outcome.failures {
        let reason = match failure.error {
            SendError::TooBig => DropReason::PacketTooBig,
            _ => DropReason::UdpSendFailed,
        };
        shared.drops.add(reason, failure.datagrams as u64);
    }
    for &index in &outcome.stale_sources {
        if let Some(link) = &group[index].link {
            link.forget_source(group[index].endpoint);
        }
    }
}

/// Whether anything may be sent at all (requirement 10).
pub(crate) fn may_send(shared: &Shared) -> bool {
    shared.ready.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmits(batch: &mut SendBatch, packets: usize, segments: usize, len: usize) -> Vec<usize> {
        let to = Endpoint::new("192.0.2.1:1".parse().unwrap());
        for _ in 0..packets {
            batch.keep_together(segments, len);
            for _ in 0..segments {
                batch.room(len).unwrap();
                batch.commit(None, to, 0, len);
            }
        }
        batch.pending.iter().map(|pending| pending.segments).collect()
    }

    #[test]
    fn handshakes_and_transport_messages_never_share_a_datagram() {
        let to = Endpoint::new("192.0.2.1:1".parse().unwrap());
        let mut batch = SendBatch::new();
        for kind in [1, 4, 4, 2, 3] {
            batch.room(92).unwrap()[0] = kind;
            batch.commit(None, to, 0, 92);
        }
        let segments: Vec<usize> = batch.pending.iter().map(|pending| pending.segments).collect();
        assert_eq!(segments, [1, 2, 2]);
    }

    #[test]
    fn a_super_packet_that_fits_one_datagram_is_not_torn_apart() {
        assert_eq!(transmits(&mut SendBatch::new(), 2, 43, 1452), [43, 43]);
        assert_eq!(transmits(&mut SendBatch::new(), 6, 10, 1452), [40, 20]);
        assert_eq!(transmits(&mut SendBatch::new(), 70, 1, 96), [64, 6]);
        assert_eq!(
            transmits(&mut SendBatch::new(), 1, 47, 1452),
            [45, 2],
            "none that does not fit is refused"
        );
    }
}
