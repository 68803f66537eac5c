//! Copies of a virtual machine: the kernel (from 6.8 on) tells of another generation id with a uevent (control rule 19).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The kernel's own notices (linux/netlink.h, group 1 of NETLINK_KOBJECT_UEVENT); what udev sends on is another group.
const KERNEL: u32 = 1;
/// Longer than any notice (lib/kobject_uevent.c, UEVENT_BUFFER_SIZE, and the header before it).
const NOTICE_MAX: usize = 8192;

/// A socket that tells of copies.
#[derive(Debug)]
pub(crate) struct GenerationWatch {
    socket: OwnedFd,
}

impl GenerationWatch {
    /// # Errors
    /// The system has no such notices, or keeps them from us.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self { socket })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what there is. `true`: this machine is a copy from now on, or was set back to an earlier state.
    pub(crate) fn read(&self) -> bool {
        let mut notice = vec![0; NOTICE_MAX];
        let mut copied = false;
        loop {
            match recv(&self.socket, &mut notice[..], RecvFlags::empty()) {
                Ok((length, _)) if length > 0 => copied |= tells_of_copy(&notice[..length]),
                // Some were lost: rather once too often.
                Err(rustix::io::Errno::NOBUFS) => copied = true,
                Err(rustix::io::Errno::INTR) => {}
                _ => return copied,
            }
        }
    }
}

/// A notice is `change@PATH` and lines of `NAME=VALUE`, each ended by a zero.
fn tells_of_copy(notice: &[u8]) -> bool {
    notice.split(|byte| *byte == 0).any(|line| line == b"NEW_VMGENID=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_generation_is_told_from_other_notices_control_rule_19() {
        let notice = b"change@/devices/platform/VMGENCTR:00\0ACTION=change\0SUBSYSTEM=platform\0NEW_VMGENID=1\0SEQNUM=9\0";
        assert!(tells_of_copy(notice));
        assert!(!tells_of_copy(b"add@/devices/x\0ACTION=add\0NAME=NEW_VMGENID=1\0"));
        assert!(!tells_of_copy(b""));
        let watch = GenerationWatch::open().unwrap();
        assert!(!watch.read(), "nothing has happened");
    }
}
