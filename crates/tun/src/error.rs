//! Errors of the device, by who can mend them.

use std::io;

/// Why a TUN device could not be opened or set up. Every message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// `/dev/net/tun` does not exist.
    #[error(
        "there is no /dev/net/tun: load the module (modprobe tun), or in a container pass the device (--device /dev/net/tun)"
    )]
    NoTunDriver,
    /// The process may not make or open TUN devices.
    #[error(
        "not permitted to open the TUN interface {name}: run as root, or grant CAP_NET_ADMIN (setcap, AmbientCapabilities= in the unit, --cap-add NET_ADMIN for a container)"
    )]
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// Another process holds the interface.
    #[error(
        "another process holds the interface {name}: stop the other daemon (see who has /dev/net/tun open), or choose another interface name"
    )]
    Busy {
        /// The interface.
        name: String,
    },
    /// The name belongs to an interface of another kind.
    #[error(
        "the interface name {name} is taken by an interface that is not a TUN device: choose another name, or remove that interface (ip link delete {name})"
    )]
    NameTaken {
        /// The interface.
        name: String,
    },
    /// A persistent TUN device of this name exists, and cannot be opened as asked.
    #[error(
        "the interface {name} was left behind with other settings ({settings}): remove it (ip link delete {name}), and start again"
    )]
    OtherMode {
        /// The interface.
        name: String,
        /// What is different.
        settings: String,
    },
    /// The name cannot be the name of an interface.
    #[error(
        "{name:?} cannot be an interface name: use 1 to 15 characters without spaces, slashes, colons or percent signs, other than . and .."
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The MTU is out of range.
    #[error(
        "the MTU {mtu} is out of range: use 576 to 65535 bytes, and at least 1280 where the overlay has IPv6"
    )]
    MtuOutOfRange {
        /// Bytes.
        mtu: u32,
    },
    /// The descriptor that was handed over is not a TUN device.
    #[error(
        "file descriptor {fd} is not a TUN device: open /dev/net/tun and set the interface before handing it over (WG_TUN_FD)"
    )]
    NotATun {
        /// The descriptor.
        fd: i32,
    },
    /// A system call failed in a way that has no mend of its own.
    #[error("cannot {action} the interface {name}: {source}")]
    System {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The interface.
        name: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel refused to set the interface up.
    #[error(transparent)]
    Netlink(crate::netlink::NetlinkError),
}
