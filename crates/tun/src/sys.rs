//! The system calls that no safe library covers: the ioctls of TUN devices.
//!
//! All unsafe code of the crate is here. Every function takes plain values and gives an
//! `io::Error` on failure; none keeps a pointer past its return.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use libc::{c_char, c_int, c_short, c_ulong};

/// Attaches an open `/dev/net/tun` to the interface `name`, which is made if it does not exist,
/// and gives the name that the kernel chose.
pub(crate) fn set_interface(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<String> {
    let mut request = interface_request(name)?;
    // Both halves fit: the flags of TUNSETIFF are defined within 16 bits.
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(request_name(&request))
}

/// Name and flags of the interface to which a descriptor is attached. EBADFD: the interface was
/// deleted. ENOTTY: not a TUN descriptor.
pub(crate) fn interface(fd: BorrowedFd<'_>) -> io::Result<(String, c_int)> {
    let mut request = interface_request("")?;
    // SAFETY: TUNGETIFF writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: the kernel filled the flags, and every bit pattern is a valid c_short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // The flags are an unsigned 16-bit value in a signed field.
    Ok((request_name(&request), c_int::from(flags.cast_unsigned())))
}

/// Chooses what the kernel may hand over unfinished: a set of `TUN_F_*`. EINVAL: it knows
/// one of them not.
pub(crate) fn set_offload(fd: BorrowedFd<'_>, features: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(features)) })
}

/// Sets the length in bytes of the virtio-net header.
pub(crate) fn set_header_length(fd: BorrowedFd<'_>, length: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) })
}

/// Makes the virtio-net header little-endian, whatever the machine is.
pub(crate) fn set_little_endian(fd: BorrowedFd<'_>) -> io::Result<()> {
    let enable: c_int = 1;
    // SAFETY: TUNSETVNETLE reads one int, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETLE, &raw const enable) })
}

/// Lets the interface outlive its last descriptor, or not.
pub(crate) fn set_persistent(fd: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, c_ulong::from(persistent)) })
}

/// The network namespace in which the interface is now.
pub(crate) fn device_namespace(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument.
    let namespace = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETDEVNETNS) };
    check(namespace)?;
    // SAFETY: the call gave a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// A descriptor of our own for one that was inherited under this number.
pub(crate) fn duplicate(number: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call touches no memory; a number that is not open gives EBADF.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    check(duplicate)?;
    // SAFETY: the call gave a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain old data, for which all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the name is a C string.
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte as c_char;
    }
    Ok(request)
}

fn request_name(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.map(|character| character as u8);
    CStr::from_bytes_until_nul(&bytes).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Opens a queue that carries one plain packet with each call, through the `tun` crate.
pub(crate) fn open_plain(name: &str) -> Result<OwnedFd, tun::Error> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name);
    // Addresses and the like are set by netlink, here and for the fast path alike.
    configuration.platform_config(|platform| {
        platform.ensure_root_privileges(false);
    });
    let device = tun::create(&configuration)?;
    // SAFETY: `into_raw_fd` gives up the device's open descriptor, and with it its ownership.
    Ok(unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) })
}
