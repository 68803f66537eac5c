//! What goes into [`Socket::send`](crate::Socket::send) and comes out of
//! [`Socket::receive`](crate::Socket::receive).

use std::net::SocketAddr;
use std::num::NonZeroU16;

use tombolo_packet::{Endpoint, LocalAddress};

/// One datagram to send, or several of equal length to the same destination.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Where to.
    pub destination: SocketAddr,
    /// The source address to send from; `None` leaves it to the routing table.
    pub source: Option<LocalAddress>,
    /// The traffic class of the outer header: DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// The payload, or the payloads one after the other.
    pub contents: &'a [u8],
    /// Length of each payload in `contents` but the last, which may be shorter; `None`: one payload.
    pub segment_size: Option<NonZeroU16>,
}

impl<'a> Transmit<'a> {
    /// One datagram of traffic class 0, its source left to the routing table.
    pub const fn new(destination: SocketAddr, contents: &'a [u8]) -> Self {
        Self { destination, source: None, traffic_class: 0, contents, segment_size: None }
    }

    /// Number of datagrams; an empty `contents` is one empty datagram.
    pub fn datagrams(&self) -> usize {
        self.contents.len().div_ceil(self.stride()).max(1)
    }

    /// Length in bytes of each datagram but the last; at least 1.
    pub(crate) fn stride(&self) -> usize {
        self.segment_size.map_or(self.contents.len().max(1), |size| usize::from(size.get()))
    }
}

/// One read: a datagram, or several of equal length from the same source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Where from.
    pub source: SocketAddr,
    /// Our address and interface that it came in on.
    pub local: Option<LocalAddress>,
    /// The traffic class of the outer header.
    pub traffic_class: u8,
    /// Where in the arena the read starts, in bytes.
    pub offset: usize,
    /// Length in bytes of the whole read.
    pub len: usize,
    /// Length in bytes of each datagram in it but the last, which may be shorter; at least 1.
    pub stride: usize,
}

impl Received {
    /// The sender, with the sticky source for replies to it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { remote: self.source, local: self.local }
    }

    /// The datagrams, in order. The arena is the one that was given to `receive`.
    pub fn segments<'a>(&self, arena: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        arena[self.offset..self.offset + self.len].chunks(self.stride)
    }
}

/// What became of the transmits of one [`Socket::send`](crate::Socket::send). Meant to be reused.
#[derive(Debug, Default)]
pub struct SendOutcome {
    /// Datagrams that the system took.
    pub datagrams: u64,
    /// Transmits of which at least one datagram was not taken, in order.
    pub failures: Vec<SendFailure>,
    /// Indices of transmits that only went (or failed) once their sticky source was left out. The
    /// caller should forget that source (requirement 20).
    pub stale_sources: Vec<usize>,
}

impl SendOutcome {
    /// Forgets everything but the memory.
    pub fn clear(&mut self) {
        self.datagrams = 0;
        self.failures.clear();
        self.stale_sources.clear();
    }
}

/// A transmit that was not sent, or not wholly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// Index in the slice given to `send`.
    pub index: usize,
    /// Datagrams of it that were lost.
    pub datagrams: usize,
    /// Why the first of them was lost.
    pub error: SendError,
}

/// Why a datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// Larger than the path or UDP allows, and not to be fragmented (`EMSGSIZE`).
    #[error("the datagram is too large for the path")]
    TooBig,
    /// The send buffer stayed full.
    #[error("the send buffer is full")]
    BufferFull,
    /// The destination is of the family that this socket does not carry.
    #[error("the destination is of another address family")]
    WrongFamily,
    /// Any other error of the system, by its number.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    System(i32),
}
