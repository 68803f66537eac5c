//! The interface between the packet workers and a TUN device, real or in memory.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use tombolo_packet::VnetHeader;

use crate::offload::TunOffloadStates;

/// Bytes that a buffer for [`Queue::read`] must hold: the largest IP packet.
pub const MAX_PACKET: usize = 65_535;

/// Slices that one [`Queue::write`] passes to the kernel without copying. More are allowed, and
/// are gathered into one buffer first.
pub const MAX_SLICES: usize = 128;

/// What a queue can do beyond one plain packet for each system call.
///
/// The first group tells what [`Queue::read`] may return, the `write_*` group what
/// [`Queue::write`] accepts. Both were probed when the queue was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Packets carry a virtio-net header. Without it all other fields are false, `read` returns
    /// the default header, and `write` takes no other.
    pub vnet_header: bool,
    /// Packets with an unfinished checksum may be read, and may be written.
    pub checksum: bool,
    /// TCP super-packets over IPv4 may be read.
    pub tso4: bool,
    /// TCP super-packets over IPv6 may be read.
    pub tso6: bool,
    /// TCP super-packets with CWR set may be read.
    pub tso_ecn: bool,
    /// UDP super-packets of both families may be read (Linux 6.2).
    pub uso: bool,
    /// TCP super-packets of both families may be written.
    pub write_tcp: bool,
    /// UDP super-packets of both families may be written (Linux 6.2).
    pub write_udp: bool,
}

impl Offloads {
    /// One plain packet for each system call.
    pub const NONE: Self = Self {
        vnet_header: false,
        checksum: false,
        tso4: false,
        tso6: false,
        tso_ecn: false,
        uso: false,
        write_tcp: false,
        write_udp: false,
    };

    /// Everything that the newest kernels offer.
    pub const ALL: Self = Self {
        vnet_header: true,
        checksum: true,
        tso4: true,
        tso6: true,
        tso_ecn: true,
        uso: true,
        write_tcp: true,
        write_udp: true,
    };
}

/// What may be handed to [`Queue::read`] unfinished, of what [`Offloads`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Packets with an unfinished checksum. Without it no super-packets are either.
    pub checksum: bool,
    /// TCP super-packets of both families.
    pub tso: bool,
    /// UDP super-packets of both families.
    pub uso: bool,
}

impl Reads {
    /// All that the queue was opened with.
    pub const ALL: Self = Self { checksum: true, tso: true, uso: true };
}

/// One queue of a TUN device, non-blocking. Any thread may read or write at any time.
pub trait Queue: Send + Sync {
    /// What the queue can do. Does not change while the queue lives: run-time demotion is the
    /// caller's, upon [`Fault::Refused`] and with [`Queue::limit_reads`].
    fn offloads(&self) -> Offloads;

    /// What became of each offload when the queue was opened, and why.
    fn offload_states(&self) -> TunOffloadStates;

    /// Reads one packet or super-packet into the beginning of `buffer`, which holds at least
    /// [`MAX_PACKET`] bytes, and gives its header and its length in bytes.
    ///
    /// `None`: nothing to read now; wait for [`Queue::fd`] to become readable.
    ///
    /// # Errors
    /// Those of readv(2); [`Fault::of`] tells what they mean. `InvalidData`: the header was
    /// malformed, this one packet is lost.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>>;

    /// Lets the system hand over nothing else unfinished from now on, by any queue of the device. What waits already may still come.
    ///
    /// # Errors
    /// Those of TUNSETOFFLOAD: all is as before.
    fn limit_reads(&self, reads: Reads) -> io::Result<()>;

    /// Writes one packet or super-packet, the concatenation of `slices`.
    ///
    /// # Errors
    /// Those of writev(2); [`Fault::of`] tells what they mean. `InvalidInput`: a header other than
    /// the default was given to a queue without `vnet_header`.
    fn write(&self, header: VnetHeader, slices: &[IoSlice<'_>]) -> io::Result<()>;

    /// The descriptor to wait on: readable when `read` would give a packet, and in error when the
    /// device is gone.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// What an error of [`Queue::read`] or [`Queue::write`] means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device was deleted under us (EBADFD). No later call will succeed.
    Gone,
    /// The interface is down (EIO on write): the packet is lost, nothing else.
    Down,
    /// The kernel refused this packet as it is (EINVAL). If it was a super-packet, write it again
    /// in segments, and stop writing super-packets of this kind: some stable kernels refuse all.
    Refused,
    /// The queue to the stack is full, or memory is short: the packet is lost, nothing else.
    Busy,
    /// Anything else; not expected of a TUN device.
    Other,
}

impl Fault {
    /// Classifies an error of a queue.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Self::Busy;
        }
        match error.raw_os_error() {
            Some(libc::EBADFD | libc::EBADF | libc::ENODEV) => Self::Gone,
            Some(libc::EIO | libc::ENETDOWN) => Self::Down,
            Some(libc::EINVAL) => Self::Refused,
            Some(libc::ENOBUFS | libc::ENOMEM) => Self::Busy,
            _ => Self::Other,
        }
    }
}

/// A header that asks for something needs a queue that carries headers.
pub(crate) fn check_header(offloads: Offloads, header: &VnetHeader) -> io::Result<()> {
    if offloads.vnet_header || *header == VnetHeader::default() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "this queue carries no virtio-net header: finish checksums and split before writing",
        ))
    }
}
