//! Control frames on their way from the data workers to the control thread (control rule 11).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use crossbeam_queue::ArrayQueue;
use tombolo_noise::Keypair;
use tombolo_noise::clock::Instant;
use tombolo_packet::{DropReason, Endpoint};

use crate::path_mtu::{HEADER_LEN, PathFrame};
use crate::shared::Peer;

/// Frames that wait for the control thread at most, of all peers.
const QUEUE_LEN: usize = 1024;
/// And of one peer, so that none takes the room of all others.
const MAX_OF_ONE_PEER: u16 = 64;
/// Longest frame in bytes, without filling.
const FRAME_MAX: usize = 1024;
/// By so much WireGuard fills a message up; probes alone are filled up further.
const FILLING_MAX: usize = 15;

/// What a peer may say beside IP packets, and how much of it waits.
#[derive(Debug, Default)]
pub(crate) struct FrameGate {
    /// The peer is one that speaks in frames.
    open: AtomicBool,
    waiting: AtomicU16,
}

impl FrameGate {
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

/// A frame of an authenticated, fresh message.
pub(crate) struct ReceivedFrame {
    pub(crate) peer: Arc<Peer>,
    /// Of the session that it came in: a frame means nothing without it.
    pub(crate) keypair: Arc<Keypair>,
    /// Where it came from, whatever the peer's endpoint is.
    pub(crate) from: Endpoint,
    /// Header and body.
    pub(crate) bytes: Box<[u8]>,
    /// Length in bytes of the message that it came as, filling included.
    pub(crate) message_len: usize,
    pub(crate) received: Instant,
}

/// A bounded queue of frames.
pub(crate) struct FrameQueue(ArrayQueue<ReceivedFrame>);

impl Default for FrameQueue {
    fn default() -> Self {
        Self(ArrayQueue::new(QUEUE_LEN))
    }
}

impl FrameQueue {
    /// Worker: keeps the frame for the control thread, which must then be woken.
    ///
    /// # Errors
    /// [`DropReason::UnknownFrame`]: the peer is none that sends frames, or it is malformed.
    /// [`DropReason::FrameQueueFull`].
    pub(crate) fn push(
        &self,
        peer: &Arc<Peer>,
        keypair: &Arc<Keypair>,
        from: Endpoint,
        message: &[u8],
        received: Instant,
    ) -> Result<(), DropReason> {
        if !peer.frames.is_open() {
            return Err(DropReason::UnknownFrame);
        }
        let frame = frame_of(message).ok_or(DropReason::UnknownFrame)?;
        if peer.frames.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_OF_ONE_PEER {
            peer.frames.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(DropReason::FrameQueueFull);
        }
        let frame = ReceivedFrame {
            peer: Arc::clone(peer),
            keypair: Arc::clone(keypair),
            from,
            bytes: frame.into(),
            message_len: message.len(),
            received,
        };
        self.0.push(frame).map_err(|refused| {
            refused.peer.frames.waiting.fetch_sub(1, Ordering::Relaxed);
            DropReason::FrameQueueFull
        })
    }

    /// Control thread: the oldest frame.
    pub(crate) fn pop(&self) -> Option<ReceivedFrame> {
        let frame = self.0.pop()?;
        frame.peer.frames.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(frame)
    }
}

/// Header and body of the frame in a message, whose rest must be filling.
fn frame_of(message: &[u8]) -> Option<&[u8]> {
    let &[_, _, high, low, ..] = message else { return None };
    let len = HEADER_LEN + usize::from(u16::from_be_bytes([high, low]));
    let (frame, filling) = message.split_at_checked(len)?;
    let filled_up = filling.len() <= FILLING_MAX || is_probe(frame);
    (len <= FRAME_MAX && filled_up && filling.iter().all(|&byte| byte == 0)).then_some(frame)
}

fn is_probe(frame: &[u8]) -> bool {
    matches!(PathFrame::parse(frame), Some(PathFrame::Probe { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_with_their_filling_control_rule_11() {
        let frame = [0xf1, 7, 0, 3, 1, 2, 3];
        for filling in 0..20 {
            let message = [&frame[..], &vec![0; filling]].concat();
            assert_eq!(frame_of(&message), (filling <= 15).then_some(&frame[..]), "{filling}");
        }
        assert_eq!(frame_of(&[&frame[..], &[0, 1]].concat()), None);
        for cut in 0..frame.len() {
            assert_eq!(frame_of(&frame[..cut]), None);
        }
        let mut long = vec![0xf1, 7, 0x03, 0xfd];
        long.resize(1025, 0);
        assert_eq!(frame_of(&long), None);
    }

    #[test]
    fn a_probe_is_filled_to_any_length_and_with_nothing_else() {
        let frame = PathFrame::Probe { id: 7 }.to_bytes();
        let mut message = frame.to_vec();
        message.resize(65_000, 0);
        assert_eq!(frame_of(&message), Some(&frame[..]));
        message[64_999] = 1;
        assert_eq!(frame_of(&message), None);
        let mut answer = PathFrame::Answer { id: 7, size: 9 }.to_bytes().to_vec();
        answer.resize(100, 0);
        assert_eq!(frame_of(&answer), None);
    }
}
