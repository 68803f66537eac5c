//! Control frames on their way from the data workers to the control thread (control rule 11).

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crossbeam_queue::ArrayQueue;
use tombolo_noise::clock::Instant;
use tombolo_noise::{Keypair, Standing};
use tombolo_packet::bucket::{Bucket, Rate};
use tombolo_packet::{DropReason, Endpoint};

use crate::path_mtu::{HEADER_LEN, PathFrame, is_path_frame};
use crate::shared::{Peer, Shared};

/// Frames that wait for the control thread at most, of all peers.
const QUEUE_LEN: usize = 1024;
/// And of one peer, so that none takes the room of all others.
const MAX_OF_ONE_PEER: u16 = 64;
/// And of all whom nobody knows yet, so that members are heard beside them: a quarter.
const MAX_OF_STRANGERS: u16 = QUEUE_LEN as u16 / 4;
/// What one stranger may say. A join is a few frames; whoever has newer documents than we gives them in 260.
const STRANGER: Rate = Rate { per_second: 64, burst: 64 };
/// What all strangers may say. Each frame may cost the owner a signature or two, 60 µs each: a quarter of one processor, as for their
/// handshakes (control rule 8).
const STRANGERS: Rate = Rate { per_second: 4000, burst: 1000 };
/// Frames that the owner of the engine has been told of and has not let go of: what all nodes of a large network say at once, and 8 MB
/// at most.
const MAX_WITH_OWNER: usize = 8192;
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
    /// While it is a stranger.
    said: Mutex<Bucket>,
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
    /// Of a stranger, when it came.
    stranger: bool,
}

/// A bounded queue of frames.
pub(crate) struct FrameQueue {
    waiting: ArrayQueue<ReceivedFrame>,
    strangers_waiting: AtomicU16,
    strangers_said: Mutex<Bucket>,
    with_owner: AtomicUsize,
}

impl Default for FrameQueue {
    fn default() -> Self {
        Self {
            waiting: ArrayQueue::new(QUEUE_LEN),
            strangers_waiting: AtomicU16::new(0),
            strangers_said: Mutex::default(),
            with_owner: AtomicUsize::new(0),
        }
    }
}

/// One of the frames that the owner of an engine may have at a time, until it is dropped: while there are too many the others wait, and
/// are bounded there. Equal to any other.
#[derive(Debug, Default)]
pub struct FrameCredit(Weak<Shared>);

impl PartialEq for FrameCredit {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for FrameCredit {}

/// A copy counts for nothing.
impl Clone for FrameCredit {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl FrameCredit {
    /// Control thread: the owner is about to be told of a frame.
    pub(crate) fn take(shared: &Arc<Shared>) -> Self {
        shared.frames.with_owner.fetch_add(1, Ordering::Relaxed);
        Self(Arc::downgrade(shared))
    }
}

impl Drop for FrameCredit {
    fn drop(&mut self) {
        let Some(shared) = self.0.upgrade() else { return };
        if shared.frames.with_owner.fetch_sub(1, Ordering::AcqRel) == MAX_WITH_OWNER {
            shared.wake_control();
        }
    }
}

fn take(bucket: &Mutex<Bucket>, rate: Rate, now: Instant) -> bool {
    bucket.lock().unwrap_or_else(PoisonError::into_inner).take(rate, 1, now.as_nanos())
}

fn counted(counter: &AtomicU16, most: u16) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| (held < most).then_some(held + 1))
        .is_ok()
}

impl FrameQueue {
    /// Worker: keeps the frame for the control thread, which must then be woken.
    ///
    /// # Errors
    /// [`DropReason::UnknownFrame`]: the peer is none that sends frames, or it is malformed.
    /// [`DropReason::ProvisionalBudget`]: strangers have said enough for now.
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
        let stranger = peer.link.standing() == Standing::Provisional;
        // Those of the path cost next to nothing, and are answered within a limit of their own.
        if stranger
            && !is_path_frame(frame)
            && !(take(&peer.frames.said, STRANGER, received)
                && take(&self.strangers_said, STRANGERS, received))
        {
            return Err(DropReason::ProvisionalBudget);
        }
        if !counted(&peer.frames.waiting, MAX_OF_ONE_PEER) {
            return Err(DropReason::FrameQueueFull);
        }
        if stranger && !counted(&self.strangers_waiting, MAX_OF_STRANGERS) {
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
            stranger,
        };
        self.waiting.push(frame).map_err(|refused| {
            self.uncount(&refused);
            DropReason::FrameQueueFull
        })
    }

    fn uncount(&self, frame: &ReceivedFrame) {
        frame.peer.frames.waiting.fetch_sub(1, Ordering::Relaxed);
        if frame.stranger {
            self.strangers_waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Control thread: the oldest frame; none while the owner of the engine has enough.
    pub(crate) fn pop(&self) -> Option<ReceivedFrame> {
        if self.with_owner.load(Ordering::Acquire) >= MAX_WITH_OWNER {
            return None;
        }
        let frame = self.waiting.pop()?;
        self.uncount(&frame);
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
