//! What becomes of packets that are larger than the path to their peer.

use std::io::IoSlice;

use tombolo_noise::clock::Instant;
use tombolo_packet::{
    DropReason, IPV6_MINIMUM_MTU, IpPacket, IpVersion, SuperPacket, TOO_BIG_ANSWER_MAX, VnetHeader,
    too_big_answer,
};
use tombolo_tun::{MAX_PACKET, Queue};

use crate::bucket::Bucket;

/// Answers a second, and at once (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
const ANSWERS_PER_SECOND: u32 = 100;
const ANSWERS_AT_ONCE: u32 = 50;

/// How many senders one worker tells.
pub(crate) struct Answers(Bucket);

impl Default for Answers {
    fn default() -> Self {
        Self(Bucket::new(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE))
    }
}

impl Answers {
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        self.0.allow(now)
    }
}

/// One worker's answers to packets that are too big.
pub(crate) struct TooBig {
    answers: Answers,
}

impl TooBig {
    pub(crate) fn new() -> Self {
        Self { answers: Answers::default() }
    }

    /// Makes the packets that come out fit into `limit` bytes. Where that cannot be, they go as they are if somebody may fragment
    /// them on the way: over IPv4 whoever sent them leaves it open, and IPv6 has to carry 1280 bytes whatever lies below
    /// (RFC 2473 §7.1). The sender of all others is told.
    ///
    /// # Errors
    /// [`DropReason::PacketTooBig`].
    #[inline]
    pub(crate) fn fit(
        &mut self,
        packet: &mut SuperPacket<'_>,
        limit: usize,
        queue: &dyn Queue,
        now: Instant,
    ) -> Result<(), DropReason> {
        if packet.fit(limit) || may_be_fragmented(packet) {
            return Ok(());
        }
        self.answer(packet, limit, queue, now);
        Err(DropReason::PacketTooBig)
    }

    #[cold]
    fn answer(&mut self, packet: &SuperPacket<'_>, limit: usize, queue: &dyn Queue, now: Instant) {
        if !self.answers.allow(now) {
            return;
        }
        // The first of what would have come out: what the sender's kernel knows of is its own datagram.
        let mut first = vec![0; packet.segment_len(0).min(MAX_PACKET)];
        packet.write_segment(0, &mut first);
        let mut answer = [0; TOO_BIG_ANSWER_MAX];
        if let Ok(first) = IpPacket::parse(&first)
            && let Some(len) = too_big_answer(&first, limit, &mut answer)
        {
            // A full queue loses it, and the next packet brings another.
            let _ = queue.write(VnetHeader::default(), &[IoSlice::new(&answer[..len])]);
        }
    }
}

/// Whether somebody on the way may.
pub(crate) fn may_be_fragmented(packet: &SuperPacket<'_>) -> bool {
    match packet.ip().version() {
        IpVersion::V4 => !packet.ip().dont_fragment(),
        IpVersion::V6 => packet.segment_len(0) <= IPV6_MINIMUM_MTU,
    }
}
