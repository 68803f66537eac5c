//! How a batch of transmits is brought out: cut into messages the system takes, sent many at a
//! time, and replayed with less (no segmentation, no sticky source) where the system refuses it.
//!
//! Knows the system only through [`DatagramSender`], so that tests can refuse what they like.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use tombolo_packet::{LocalAddress, OffloadState};

use crate::control::{self, RawAddress};
use crate::sys::{BATCH, Outgoing};
use crate::{FallbackCounters, MAX_DATAGRAM, SendError, SendFailure, SendOutcome, Transmit};

/// Waits for room in the send buffer during one call of `send`; each lasts 5 ms at most.
const MAX_WAITS: u32 = 4;
/// Errors of earlier datagrams (ICMP) and interruptions that are passed over during one call.
const MAX_STRAY_ERRORS: u32 = 64;

/// What sending needs of the system.
pub(crate) trait DatagramSender {
    /// Sends some of `messages`, at least the first; returns how many. An error is the first's.
    fn send(&self, messages: &[Outgoing<'_>]) -> io::Result<usize>;

    /// Waits a few milliseconds for room in the send buffer.
    fn wait_writable(&self);

    /// The path MTU to an address as far as the system knows it, in bytes of IP packet.
    fn path_mtu(&self, destination: SocketAddr) -> Option<usize>;

    /// Whether the address is of the socket's family.
    fn reaches(&self, destination: IpAddr) -> bool;
}

/// What a socket has learnt about sending; shared by all threads that use it.
#[derive(Debug)]
pub(crate) struct SendState {
    gso: AtomicBool,
    gso_at_start: OffloadState,
    /// The errno for which segmentation was given up last; 0: it was not.
    gso_error: AtomicI32,
    max_segments: usize,
    gso_demotions: AtomicU64,
    gso_replays: AtomicU64,
    stale_sources: AtomicU64,
    send_waits: AtomicU64,
    send_buffer_full: AtomicU64,
    send_errors: AtomicU64,
}

impl SendState {
    pub(crate) fn new(gso: OffloadState, max_segments: usize) -> Self {
        Self {
            gso: AtomicBool::new(gso.is_on()),
            gso_at_start: gso,
            gso_error: AtomicI32::new(0),
            max_segments,
            gso_demotions: AtomicU64::new(0),
            gso_replays: AtomicU64::new(0),
            stale_sources: AtomicU64::new(0),
            send_waits: AtomicU64::new(0),
            send_buffer_full: AtomicU64::new(0),
            send_errors: AtomicU64::new(0),
        }
    }

    pub(crate) fn gso(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    /// What became of segmentation.
    pub(crate) fn gso_state(&self) -> OffloadState {
        match self.gso_error.load(Ordering::Relaxed) {
            0 => self.gso_at_start,
            errno => OffloadState::Demoted(errno),
        }
    }

    pub(crate) fn max_segments(&self) -> usize {
        self.max_segments
    }

    pub(crate) fn counters(&self) -> FallbackCounters {
        FallbackCounters {
            gso_demotions: self.gso_demotions.load(Ordering::Relaxed),
            gso_replays: self.gso_replays.load(Ordering::Relaxed),
            stale_sources: self.stale_sources.load(Ordering::Relaxed),
            send_waits: self.send_waits.load(Ordering::Relaxed),
            send_buffer_full: self.send_buffer_full.load(Ordering::Relaxed),
            send_errors: self.send_errors.load(Ordering::Relaxed),
            ..FallbackCounters::default()
        }
    }

    fn demote_gso(&self, errno: i32) {
        self.gso_error.store(errno, Ordering::Relaxed);
        if self.gso.swap(false, Ordering::Relaxed) {
            self.gso_demotions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends all of `transmits`; see [`crate::Socket::send`].
pub(crate) fn send_all(
    sender: &impl DatagramSender,
    state: &SendState,
    transmits: &[Transmit<'_>],
    outcome: &mut SendOutcome,
) {
    outcome.clear();
    Sending {
        sender,
        state,
        transmits,
        outcome,
        next: Position { index: 0, offset: 0 },
        without_source: None,
        without_gso: None,
        waits_left: MAX_WAITS,
        stray_errors_left: MAX_STRAY_ERRORS,
    }
    .run();
}

/// The first byte that was not dealt with yet.
#[derive(Clone, Copy)]
struct Position {
    index: usize,
    offset: usize,
}

/// What goes out as one message: one datagram, or several as a super-datagram.
#[derive(Clone)]
struct Piece {
    index: usize,
    bytes: Range<usize>,
    datagrams: usize,
}

struct Sending<'a, S> {
    sender: &'a S,
    state: &'a SendState,
    transmits: &'a [Transmit<'a>],
    outcome: &'a mut SendOutcome,
    next: Position,
    /// The transmit whose sticky source was refused.
    without_source: Option<usize>,
    /// The transmit that goes datagram by datagram although the socket can do better.
    without_gso: Option<usize>,
    waits_left: u32,
    stray_errors_left: u32,
}

impl<S: DatagramSender> Sending<'_, S> {
    fn run(mut self) {
        while let Some(transmit) = self.transmits.get(self.next.index) {
            if !self.sender.reaches(transmit.destination.ip()) {
                self.fail_rest(SendError::WrongFamily);
                continue;
            }
            let mut pieces: ArrayVec<Piece, BATCH> = ArrayVec::new();
            let mut messages: ArrayVec<Outgoing<'_>, BATCH> = ArrayVec::new();
            let mut position = self.next;
            while !pieces.is_full() {
                let Some(transmit) = self.transmits.get(position.index) else { break };
                if !self.sender.reaches(transmit.destination.ip()) {
                    break;
                }
                let piece = self.piece_at(position, transmit);
                position = self.position_after(&piece);
                messages.push(outgoing(transmit, &piece, self.source_of(piece.index), piece.datagrams > 1));
                pieces.push(piece);
            }
            match self.sender.send(&messages) {
                Ok(sent) => {
                    for piece in pieces.iter().take(sent) {
                        self.passed(piece);
                    }
                    if sent == 0 {
                        // Cannot happen by the interface; never try the same for ever.
                        self.fail_rest(SendError::System(libc::EIO));
                    }
                }
                Err(error) => self.rescue(&pieces[0], errno(&error)),
            }
        }
    }

    fn piece_at(&self, position: Position, transmit: &Transmit<'_>) -> Piece {
        let stride = transmit.stride();
        let datagrams = if self.state.gso() && self.without_gso != Some(position.index) {
            (MAX_DATAGRAM / stride).clamp(1, self.state.max_segments)
        } else {
            1
        };
        let end = (position.offset + stride * datagrams).min(transmit.contents.len());
        let datagrams = (end - position.offset).div_ceil(stride).max(1);
        Piece { index: position.index, bytes: position.offset..end, datagrams }
    }

    fn position_after(&self, piece: &Piece) -> Position {
        if piece.bytes.end >= self.transmits[piece.index].contents.len() {
            Position { index: piece.index + 1, offset: 0 }
        } else {
            Position { index: piece.index, offset: piece.bytes.end }
        }
    }

    fn source_of(&self, index: usize) -> Option<LocalAddress> {
        self.transmits[index].source.filter(|_| self.without_source != Some(index))
    }

    fn passed(&mut self, piece: &Piece) {
        self.outcome.datagrams += piece.datagrams as u64;
        self.next = self.position_after(piece);
    }

    /// The piece at `self.next` was refused: brings it out some other way, or gives up the rest of
    /// its transmit. Either way `self.next` moves on, or the error was one that passes.
    fn rescue(&mut self, piece: &Piece, first_error: i32) {
        let mut error = match self.pass_over(first_error) {
            Passing::Over => return,
            Passing::BufferFull => return self.fail_everything(),
            Passing::No => first_error,
        };
        let source = self.source_of(piece.index);
        if source.is_some() && blames_source(error) {
            match self.attempt(piece, None, piece.datagrams > 1) {
                Ok(()) => {
                    self.forget_source(piece.index);
                    return self.passed(piece);
                }
                Err(other) => error = other,
            }
        }
        if piece.datagrams > 1 && blames_segmentation(error) {
            // One datagram tells whether it was the segmentation.
            let transmit = &self.transmits[piece.index];
            let end = piece.bytes.start + transmit.stride();
            let first = Piece { index: piece.index, bytes: piece.bytes.start..end, datagrams: 1 };
            let mut result = self.attempt(&first, source, false);
            if source.is_some() && result.is_err_and(blames_source) {
                result = self.attempt(&first, None, false);
                self.forget_source(piece.index);
            }
            match result {
                Ok(()) => {
                    self.state.gso_replays.fetch_add(1, Ordering::Relaxed);
                    if error != libc::EMSGSIZE && !self.exceeds_path_mtu(transmit) {
                        self.state.demote_gso(error);
                    }
                    self.without_gso = Some(piece.index);
                    return self.passed(&first);
                }
                Err(other) => error = other,
            }
        } else if source.is_some() && blames_source(error) {
            self.forget_source(piece.index);
        }
        match error {
            libc::EAGAIN | libc::ENOBUFS => self.fail_everything(),
            libc::EMSGSIZE => self.fail_rest(SendError::TooBig),
            other => self.fail_rest(SendError::System(other)),
        }
    }

    /// Sends one piece by itself, waiting and repeating as needed; the error is an errno.
    fn attempt(&mut self, piece: &Piece, source: Option<LocalAddress>, segmented: bool) -> Result<(), i32> {
        loop {
            let message = outgoing(&self.transmits[piece.index], piece, source, segmented);
            let error = match self.sender.send(std::slice::from_ref(&message)) {
                Ok(0) => libc::EIO,
                Ok(_) => return Ok(()),
                Err(error) => errno(&error),
            };
            match self.pass_over(error) {
                Passing::Over => {}
                Passing::BufferFull | Passing::No => return Err(error),
            }
        }
    }

    /// Deals with errors that have nothing to do with what is being sent.
    fn pass_over(&mut self, error: i32) -> Passing {
        match error {
            // ECONNREFUSED is an ICMP answer to some earlier datagram.
            libc::EINTR | libc::ECONNREFUSED if self.stray_errors_left > 0 => {
                self.stray_errors_left -= 1;
                Passing::Over
            }
            libc::EAGAIN | libc::ENOBUFS if self.waits_left > 0 => {
                self.waits_left -= 1;
                self.state.send_waits.fetch_add(1, Ordering::Relaxed);
                self.sender.wait_writable();
                Passing::Over
            }
            libc::EAGAIN | libc::ENOBUFS => Passing::BufferFull,
            _ => Passing::No,
        }
    }

    /// Before it said EMSGSIZE, Linux said EINVAL to super-datagrams whose segments exceed the path
    /// MTU. That is one peer's affair and no reason to send to all others without segmentation.
    fn exceeds_path_mtu(&self, transmit: &Transmit<'_>) -> bool {
        let headers = if transmit.destination.is_ipv4() { 20 + 8 } else { 40 + 8 };
        self.sender.path_mtu(transmit.destination).is_some_and(|mtu| transmit.stride() + headers > mtu)
    }

    fn forget_source(&mut self, index: usize) {
        self.without_source = Some(index);
        self.outcome.stale_sources.push(index);
        self.state.stale_sources.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up what is left of the current transmit.
    fn fail_rest(&mut self, error: SendError) {
        let Position { index, offset } = self.next;
        let transmit = &self.transmits[index];
        let datagrams = (transmit.contents.len() - offset).div_ceil(transmit.stride()).max(1);
        let counter = match error {
            SendError::BufferFull => &self.state.send_buffer_full,
            _ => &self.state.send_errors,
        };
        counter.fetch_add(datagrams as u64, Ordering::Relaxed);
        self.outcome.failures.push(SendFailure { index, datagrams, error });
        self.next = Position { index: index + 1, offset: 0 };
    }

    /// The send buffer stays full: whoever sends is faster than the link, and must lose something.
    fn fail_everything(&mut self) {
        while self.next.index < self.transmits.len() {
            self.fail_rest(SendError::BufferFull);
        }
    }
}

enum Passing {
    /// Try again.
    Over,
    /// All waits are used up.
    BufferFull,
    /// The error is about the datagram itself.
    No,
}

fn outgoing<'a>(
    transmit: &Transmit<'a>,
    piece: &Piece,
    source: Option<LocalAddress>,
    segmented: bool,
) -> Outgoing<'a> {
    let segment_size = transmit.segment_size.filter(|_| segmented).map(u16::from);
    Outgoing {
        destination: RawAddress::encode(transmit.destination),
        control: control::encode(transmit.destination.ip(), source, transmit.traffic_class, segment_size),
        contents: &transmit.contents[piece.bytes.clone()],
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Errors that a source address brings which is gone, or from which there is no route (requirement 20).
fn blames_source(error: i32) -> bool {
    matches!(
        error,
        libc::EINVAL | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::ENODEV
    )
}

/// Errors that segmentation brings: EIO where the device or an xfrm policy cannot, EINVAL from some
/// drivers, EMSGSIZE where a segment exceeds the path MTU.
fn blames_segmentation(error: i32) -> bool {
    matches!(error, libc::EIO | libc::EINVAL | libc::EOPNOTSUPP | libc::EMSGSIZE)
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
