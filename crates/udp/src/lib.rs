//! Batched UDP sockets with segmentation offload and sticky source addresses.
//!
//! The crate moves datagrams between memory and the network, many per system call. It knows
//! nothing of messages, keys or peers. [`Socket`] is the interface; [`UdpSocket`] is the real one,
//! and [`memory::MemoryNetwork`] makes sockets that are joined in memory, for tests.
//!
//! ```
//! use std::net::{IpAddr, Ipv4Addr, SocketAddr};
//! use tombolo_udp::{BindOptions, RECEIVE_SLOT, SendOutcome, Socket, Transmit, bind_pair};
//!
//! let pair = bind_pair(0, &BindOptions::default())?;
//! let destination = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), pair.port());
//! let mut outcome = SendOutcome::default();
//! pair.v4.send(&[Transmit::new(destination, b"a datagram")], &mut outcome);
//! assert!(outcome.failures.is_empty());
//!
//! let (mut arena, mut received) = (vec![0; 4 * RECEIVE_SLOT], Vec::new());
//! while pair.v4.receive(&mut arena, &mut received)? == 0 { /* wait on `pair.v4.fd()` */ }
//! assert_eq!(received[0].segments(&arena).next(), Some(&b"a datagram"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(unsafe_code)]

mod bind;
mod control;
mod datagram;
mod error;
mod kernel;
pub mod memory;
mod receiving;
mod send;
mod socket;
mod sys;

pub use bind::{BindOptions, SocketPair, SteeredSockets, bind_pair, bind_pairs};
pub use datagram::{Received, SendError, SendFailure, SendOutcome, Transmit};
pub use error::BindError;
pub use socket::{Family, UdpSocket};

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use tombolo_packet::{Offload, OffloadState};

/// Bytes of the arena that [`Socket::receive`] sets aside for one read: the longest UDP datagram or
/// coalesced run of them, and a little more so that neighbouring slots do not share cache sets.
pub const RECEIVE_SLOT: usize = 65_536 + 512;

/// A UDP socket that works in batches and never blocks for long.
///
/// All methods take `&self` and may be called from any thread at the same time.
pub trait Socket: Send + Sync {
    /// What the socket can do now. Offloads go from `true` to `false` when the system refuses them
    /// at run time, never back.
    fn capabilities(&self) -> Capabilities;

    /// What became of each offload of the socket, and why.
    fn offload_states(&self) -> [(Offload, OffloadState); 2];

    /// How often the socket had to do without something.
    fn counters(&self) -> FallbackCounters;

    /// Whether the socket can send to that address (an IPv4 or an IPv6 socket; a memory socket: both).
    fn reaches(&self, destination: IpAddr) -> bool;

    /// Sends all of `transmits`, in order, and writes into `outcome` (emptied first) what was sent
    /// and what failed. Nothing is kept for later: what is neither sent nor reported was lost on
    /// the way, as UDP allows. Allocates only to report failures.
    ///
    /// A failure with a sticky source is tried again without it; the transmits for which that
    /// happened are in [`SendOutcome::stale_sources`] (requirement 20).
    fn send(&self, transmits: &[Transmit<'_>], outcome: &mut SendOutcome);

    /// Sends one datagram of which no router may make fragments, whatever the system believes of the path: only the
    /// first link may refuse it. For probes, from one thread; what others send at the same moment may be treated alike.
    ///
    /// # Errors
    /// [`SendError::TooBig`] when the first link does not take it.
    fn send_unfragmented(&self, transmit: &Transmit<'_>) -> Result<(), SendError>;

    /// Receives as many datagrams as wait and fit, without blocking; `received` is emptied first.
    ///
    /// Returns the number of entries in `received`; 0 means that nothing waits. The arena must
    /// hold at least one [`RECEIVE_SLOT`]; each further one lets one more read into the same batch.
    /// Datagrams that were cut short by the system are dropped and counted.
    ///
    /// # Errors
    /// Those of the system that are not about one datagram; ICMP errors are not reported.
    fn receive(&self, arena: &mut [u8], received: &mut Vec<Received>) -> io::Result<usize>;

    /// Sets the firewall mark of all datagrams sent from now on; 0 is none (`SO_MARK`).
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`, unless the mark is what it was.
    fn set_mark(&self, mark: u32) -> io::Result<()>;

    /// The UDP port the socket is bound to.
    fn local_port(&self) -> u16;

    /// Readable when a datagram waits. For `epoll` and `poll` alone.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// What a socket can do at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Several datagrams leave in one system call as one super-datagram (`UDP_SEGMENT`).
    pub gso: bool,
    /// Several datagrams arrive as one read (`UDP_GRO`).
    pub gro: bool,
    /// Segments of one [`Transmit`] that leave together at most; longer ones are cut up.
    pub max_segments: usize,
    /// Bytes of the receive buffer, as granted by the system.
    pub receive_buffer: usize,
    /// Bytes of the send buffer, as granted by the system.
    pub send_buffer: usize,
}

/// How often a socket had to do without something. All only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FallbackCounters {
    /// Segmentation was switched off because the system refused it (0 or 1).
    pub gso_demotions: u64,
    /// Transmits that were sent again datagram by datagram.
    pub gso_replays: u64,
    /// Reads that did not say rightly how to take them apart, of which some or all was lost. Several of them, and `UDP_GRO` is given up.
    pub gro_faults: u64,
    /// Transmits that were sent again without their sticky source.
    pub stale_sources: u64,
    /// Waits for room in the send buffer.
    pub send_waits: u64,
    /// Datagrams dropped because the send buffer stayed full.
    pub send_buffer_full: u64,
    /// Datagrams the system refused for another reason.
    pub send_errors: u64,
    /// Reads dropped or cut because the datagram or its control data was truncated.
    pub truncated: u64,
}

/// The most bytes of payload in one UDP datagram over IPv4 (65,535 less 20 and 8).
pub const MAX_DATAGRAM: usize = 65_507;
