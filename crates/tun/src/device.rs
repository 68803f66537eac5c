//! A TUN device of the Linux kernel: making it, opening it again, taking it over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use tombolo_packet::VnetHeader;

use crate::netlink::{LinkChange, Netlink, NetlinkError, TunMode};
use crate::offload::negotiate;
use crate::{DeviceError, OffloadSwitches, Offloads, Queue, TunQueue, sys};

/// Smallest MTU in bytes that an IPv4 host must take (RFC 791).
pub const MIN_MTU: u32 = 576;

/// Largest MTU in bytes of a TUN device.
pub const MAX_MTU: u32 = 65_535;

/// Longest name of an interface in bytes.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// How to open a device.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Name of the interface.
    pub name: String,
    /// The interface, its addresses and the sockets bound to them outlive this process.
    pub persistent: bool,
    /// Number of queues wanted, at least 1. A persistent interface that was made with one keeps
    /// one: see [`Device::queues`].
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
///
/// # When the interface moves to another network namespace
/// The queues keep working, wherever the interface goes (`ip link set … netns …`). The kernel
/// takes addresses and routes away and sets it down; in the namespace of the daemon it is
/// missing, so [`Watch`](crate::netlink::Watch) reports
/// [`LinkState::Missing`](crate::netlink::LinkState::Missing) although nothing is
/// [`Gone`](crate::Fault::Gone). [`Device::place`] tells the two apart. Whoever moved it sets it up where
/// it is now; its plan is not followed there, since a [`Netlink`] stays in its own namespace.
pub struct Device {
    name: String,
    index: u32,
    queues: Vec<Arc<TunQueue>>,
}

/// Where the interface of a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the network namespace of the calling thread.
    Here,
    /// In another network namespace.
    Elsewhere,
    /// Deleted.
    Gone,
}

impl Device {
    /// Makes the interface, or opens the persistent one of that name.
    ///
    /// # Errors
    /// See [`DeviceError`]. A device of which another process holds a queue is
    /// [`DeviceError::Busy`], also where the kernel would allow one more queue.
    pub fn open(options: &DeviceOptions) -> Result<Self, DeviceError> {
        let name = options.name.as_str();
        check_name(name)?;
        if let Some(mtu) = options.mtu {
            check_mtu(mtu)?;
        }
        let mut netlink = Netlink::open()?;
        let multi_queue = match netlink.link_by_name(name)? {
            None => options.queues > 1,
            Some(link) => {
                let mode = link.tun.ok_or_else(|| DeviceError::NameTaken { name: name.to_owned() })?;
                check_mode(name, mode)?;
                mode.multi_queue
            }
        };
        let count = if multi_queue { options.queues.max(1) } else { 1 };

        let (first, offloads) = open_first(name, multi_queue, options.offloads)?;
        let mut first =
            TunQueue::new(first, offloads, options.offloads).map_err(|e| system("open", name, e))?;
        first.probe_writes();
        let mut queues = vec![Arc::new(first)];
        while queues.len() < count {
            let fd = attach(name, queue_flags(multi_queue, offloads.vnet_header))?;
            let queue = queues[0].sibling(fd).map_err(|e| system("open", name, e))?;
            queues.push(Arc::new(queue));
        }
        let link = netlink
            .link_by_name(name)?
            .ok_or_else(|| system("find", name, io::Error::from_raw_os_error(libc::ENODEV)))?;
        // The kernel lets two processes share a multi-queue device; two daemons must not.
        if link.tun.is_some_and(|mode| mode.queues as usize > queues.len()) {
            return Err(DeviceError::Busy { name: name.to_owned() });
        }
        let device = Self { name: name.to_owned(), index: link.index, queues };
        device.set_persistent(options.persistent)?;
        if let Some(mtu) = options.mtu {
            netlink.set_link(link.index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() })?;
        }
        Ok(device)
    }

    /// Takes over an open TUN descriptor as one queue, with the offloads that its virtio-net
    /// header allows.
    ///
    /// # Errors
    /// [`DeviceError::NotATun`], [`DeviceError::OtherMode`] for a TAP or one with packet
    /// information, or those of the system calls.
    pub fn from_fd(fd: OwnedFd, switches: OffloadSwitches) -> Result<Self, DeviceError> {
        let number = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let (name, flags) = sys::interface(fd.as_fd()).map_err(|_| DeviceError::NotATun { fd: number })?;
        check_mode(&name, TunMode { tap: flags & libc::IFF_TAP != 0, ..TunMode::default() })?;
        if flags & libc::IFF_NO_PI == 0 {
            return Err(DeviceError::OtherMode {
                name,
                settings: "packet information, IFF_NO_PI is not set".into(),
            });
        }
        let mut switches = switches;
        let offloads = if flags & libc::IFF_VNET_HDR != 0 {
            // The header was chosen by whoever opened it, and has to be read in any case.
            if !switches.vnet_header {
                switches = OffloadSwitches { vnet_header: true, ..OffloadSwitches::all(false) };
            }
            prepare_header(&fd)
                .and_then(|()| negotiate(&fd, switches))
                .map_err(|e| system("set the offloads of", &name, e))?
        } else {
            Offloads::NONE
        };
        let mut queue = TunQueue::new(fd, offloads, switches).map_err(|e| system("take over", &name, e))?;
        queue.probe_writes();
        let index = Netlink::open()?.link_by_name(&name)?.map_or(0, |link| link.index);
        Ok(Self { name, index, queues: vec![Arc::new(queue)] })
    }

    /// As [`Device::from_fd`], for a descriptor inherited under this number (`WG_TUN_FD`). The
    /// number itself stays open beside the device.
    ///
    /// # Errors
    /// As [`Device::from_fd`].
    pub fn from_inherited(number: i32, switches: OffloadSwitches) -> Result<Self, DeviceError> {
        let fd = sys::duplicate(number).map_err(|_| DeviceError::NotATun { fd: number })?;
        Self::from_fd(fd, switches).map_err(|error| match error {
            DeviceError::NotATun { .. } => DeviceError::NotATun { fd: number },
            error => error,
        })
    }

    /// Name of the interface when it was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of the interface in the namespace in which it was opened, 0 if it was not there.
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

    /// Lets the interface outlive this process, or not.
    ///
    /// # Errors
    /// [`DeviceError::System`].
    pub fn set_persistent(&self, persistent: bool) -> Result<(), DeviceError> {
        match self.queues.first() {
            Some(queue) => sys::set_persistent(queue.fd(), persistent)
                .map_err(|error| system("set the persistence of", &self.name, error)),
            None => Ok(()),
        }
    }

    /// Where the interface is now. Without the privilege to ask, one that still exists is taken
    /// to be here.
    ///
    /// # Errors
    /// [`DeviceError::System`].
    pub fn place(&self) -> Result<Place, DeviceError> {
        let Some(queue) = self.queues.first() else { return Ok(Place::Gone) };
        match queue.interface_name() {
            Ok(None) => return Ok(Place::Gone),
            Ok(Some(_)) => {}
            Err(error) => return Err(system("find", &self.name, error)),
        }
        match queue.is_in_this_namespace() {
            Ok(true) => Ok(Place::Here),
            Ok(false) => Ok(Place::Elsewhere),
            Err(error) => match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => Ok(Place::Here),
                Some(libc::EBADFD) => Ok(Place::Gone),
                _ => Err(system("find", &self.name, error)),
            },
        }
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), DeviceError> {
    let legal = (1..=MAX_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte));
    if legal { Ok(()) } else { Err(DeviceError::BadName { name: name.to_owned() }) }
}

fn check_mtu(mtu: u32) -> Result<(), DeviceError> {
    if (MIN_MTU..=MAX_MTU).contains(&mtu) { Ok(()) } else { Err(DeviceError::MtuOutOfRange { mtu }) }
}

fn check_mode(name: &str, mode: TunMode) -> Result<(), DeviceError> {
    if mode.tap {
        return Err(DeviceError::OtherMode {
            name: name.to_owned(),
            settings: "a TAP device, which carries Ethernet frames".into(),
        });
    }
    if mode.queues > 0 {
        return Err(DeviceError::Busy { name: name.to_owned() });
    }
    Ok(())
}

fn queue_flags(multi_queue: bool, vnet_header: bool) -> libc::c_int {
    libc::IFF_TUN
        | libc::IFF_NO_PI
        | if vnet_header { libc::IFF_VNET_HDR } else { 0 }
        | if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 }
}

/// The best queue that the kernel has.
fn open_first(
    name: &str,
    multi_queue: bool,
    switches: OffloadSwitches,
) -> Result<(OwnedFd, Offloads), DeviceError> {
    if switches.vnet_header {
        match attach(name, queue_flags(multi_queue, true)) {
            Ok(fd) => {
                if let Ok(offloads) = prepare_header(&fd).and_then(|()| negotiate(&fd, switches)) {
                    return Ok((fd, offloads));
                }
            }
            // The kernel knows no virtio-net header on a TUN; anything else is told.
            Err(DeviceError::System { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let fd = if multi_queue {
        attach(name, queue_flags(true, false))?
    } else {
        sys::open_plain(name).map_err(|error| {
            let error = match error {
                tun::Error::Io(error) => error,
                error => io::Error::other(error),
            };
            open_error(name, error)
        })?
    };
    // What an earlier process switched on of a persistent device would now arrive without header.
    sys::set_offload(fd.as_fd(), 0).map_err(|e| system("switch off the offloads of", name, e))?;
    Ok((fd, Offloads::NONE))
}

fn attach(name: &str, flags: libc::c_int) -> Result<OwnedFd, DeviceError> {
    let flags_of_file = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/net/tun", flags_of_file, Mode::empty())
        .map_err(|error| open_error(name, error.into()))?;
    sys::set_interface(fd.as_fd(), name, flags).map_err(|error| open_error(name, error))?;
    Ok(fd)
}

fn prepare_header(fd: &OwnedFd) -> io::Result<()> {
    // The length of the header is an int to the kernel; 10 fits.
    sys::set_header_length(fd.as_fd(), VnetHeader::LEN as libc::c_int)?;
    sys::set_little_endian(fd.as_fd())
}

fn open_error(name: &str, error: io::Error) -> DeviceError {
    let name = name.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::NoTunDriver,
        Some(libc::EPERM | libc::EACCES) => DeviceError::NotPermitted { name },
        Some(libc::EBUSY | libc::E2BIG) => DeviceError::Busy { name },
        Some(libc::EEXIST) => DeviceError::NameTaken { name },
        _ => system("open", &name, error),
    }
}

fn system(action: &'static str, name: &str, source: io::Error) -> DeviceError {
    DeviceError::System { action, name: name.to_owned(), source }
}

impl From<NetlinkError> for DeviceError {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_or_change_are_refused() {
        for name in ["", ".", "..", "a/b", "a b", "a:1", "tun%d", "sixteen-letters-", "naïve"] {
            assert!(matches!(check_name(name), Err(DeviceError::BadName { .. })), "{name}");
        }
        for name in ["tombolo0", "fifteen-letters", "a.b", "x"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_mtu_out_of_range_is_refused() {
        for mtu in [0, 575, 65_536, u32::MAX] {
            assert!(matches!(check_mtu(mtu), Err(DeviceError::MtuOutOfRange { .. })), "{mtu}");
        }
        assert!(check_mtu(576).is_ok() && check_mtu(65_535).is_ok());
    }

    #[test]
    fn every_error_says_what_to_do() {
        for (errno, word) in
            [(libc::ENOENT, "modprobe tun"), (libc::EPERM, "CAP_NET_ADMIN"), (libc::EBUSY, "stop the other")]
        {
            let text = open_error("t0", io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
