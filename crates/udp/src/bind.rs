//! How sockets are made.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU32;

use rustix::net::{SocketFlags, SocketType, getsockname, socket_with, sockopt};
use tombolo_packet::{OffloadState, Steering};

use crate::kernel::Release;
use crate::receiving::ReceiveState;
use crate::send::SendState;
use crate::sys;
use crate::{BindError, Family, UdpSocket};

/// Ports that are tried for one that is free in both families.
const PORT_ATTEMPTS: u32 = 64;

/// Bytes of receive buffer of a socket for handshakes: some 2000 of them, as the kernel counts.
const HANDSHAKE_BUFFER: usize = 1 << 20;

/// How a socket is made.
#[derive(Clone, Debug)]
pub struct BindOptions {
    /// Firewall mark of all datagrams sent; 0: none.
    pub mark: u32,
    /// Bytes of receive buffer to ask for; less may be granted.
    pub receive_buffer: usize,
    /// Bytes of send buffer to ask for; less may be granted.
    pub send_buffer: usize,
    /// Whether segmentation offload may be used for sending.
    pub gso: bool,
    /// Whether datagrams may arrive coalesced.
    pub gro: bool,
    /// Whether IPv4 datagrams carry the don't-fragment bit, and what exceeds the path MTU is refused
    /// rather than fragmented.
    pub dont_fragment: bool,
}

impl Default for BindOptions {
    /// All offloads, 7 MB buffers, fragmentation allowed as in the Linux implementation of WireGuard.
    fn default() -> Self {
        Self {
            mark: 0,
            receive_buffer: 7 << 20,
            send_buffer: 7 << 20,
            gso: true,
            gro: true,
            dont_fragment: false,
        }
    }
}

/// An IPv4 socket and, where the system has IPv6, an IPv6-only socket on the same port.
#[derive(Debug)]
pub struct SocketPair {
    /// The IPv4 socket.
    pub v4: UdpSocket,
    /// The IPv6 socket.
    pub v6: Option<UdpSocket>,
    /// Why there is no IPv6 socket.
    pub v6_error: Option<io::Error>,
}

impl SocketPair {
    /// The port of both.
    pub fn port(&self) -> u16 {
        self.v4.port
    }

    fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten()
    }
}

/// Binds all addresses of both families to one port; port 0 picks a free one.
///
/// # Errors
/// [`BindError::PortInUse`] when either family's port is taken. A system without IPv6 is no error:
/// see [`SocketPair::v6_error`].
pub fn bind_pair(port: u16, options: &BindOptions) -> Result<SocketPair, BindError> {
    let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let v4 = UdpSocket::bind(Family::V4, port, options)?;
        match UdpSocket::bind(Family::V6, v4.port, options) {
            Ok(v6) => return Ok(SocketPair { v4, v6: Some(v6), v6_error: None }),
            Err(BindError::PortInUse { .. }) if attempts > 0 => {}
            Err(BindError::System { source, step: "socket" | "bind", .. }) if lacks_family(&source) => {
                return Ok(SocketPair { v4, v6: None, v6_error: Some(source) });
            }
            Err(error) => return Err(error),
        }
    }
}

/// The sockets of one port.
#[derive(Debug)]
pub struct SteeredSockets {
    /// One pair for each of the [`Steering`]'s sockets.
    pub lanes: Vec<SocketPair>,
    /// Where everything comes that is no transport message; none of a family where the kernel does not steer. It is bound last,
    /// and is to be closed last.
    pub handshakes: Vec<UdpSocket>,
}

/// Binds one pair of sockets for each of `steering`'s to one port, and one more for what is no transport message; port 0 picks a
/// free one. The kernel steers transport messages by receiver index.
///
/// The first pair is bound as if it were alone, and only then lets the others in: so the port is refused
/// to whoever comes later in the same way, another daemon like this one above all.
///
/// # Errors
/// As [`bind_pair`].
pub fn bind_pairs(port: u16, options: &BindOptions, steering: Steering) -> Result<SteeredSockets, BindError> {
    let first = bind_pair(port, options)?;
    let port = first.port();
    let mut pairs = vec![first];
    let failed = |step| move |source: io::Error| BindError::System { port, step, source };
    for socket in pairs[0].sockets() {
        share(socket.descriptor.as_fd()).map_err(failed("share the port"))?;
    }
    for _ in 1..steering.sockets() {
        let v4 = UdpSocket::bind_shared(Family::V4, port, options, true)?;
        let v6 = match pairs[0].v6 {
            Some(_) => Some(UdpSocket::bind_shared(Family::V6, port, options, true)?),
            None => None,
        };
        pairs.push(SocketPair { v4, v6, v6_error: None });
    }
    let mut handshakes = Vec::new();
    for socket in pairs[0].sockets() {
        // Merged with what follows it, a handshake would bring along transport messages to a socket that is not theirs.
        let further = BindOptions { receive_buffer: HANDSHAKE_BUFFER, gro: false, ..options.clone() };
        let further = UdpSocket::bind_shared(socket.family, port, &further, true)?;
        // Without it the flow decides for all, and a peer's datagrams stay together until it moves; then there is no socket
        // for handshakes alone.
        if sys::attach_steering(socket.descriptor.as_fd(), steering).is_ok() {
            handshakes.push(further);
        }
    }
    Ok(SteeredSockets { lanes: pairs, handshakes })
}

fn share(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

impl UdpSocket {
    /// Binds all addresses of one family to a port; port 0 picks a free one.
    ///
    /// # Errors
    /// [`BindError`]. Offloads, buffer sizes and the reports of address and traffic class are not
    /// among them: a socket without these still works.
    pub fn bind(family: Family, port: u16, options: &BindOptions) -> Result<Self, BindError> {
        Self::bind_shared(family, port, options, false)
    }

    fn bind_shared(
        family: Family,
        port: u16,
        options: &BindOptions,
        shared: bool,
    ) -> Result<Self, BindError> {
        let failed = |step| move |source: io::Error| BindError::System { port, step, source };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let descriptor = socket_with(family.raw(), SocketType::DGRAM, flags, None)
            .map_err(|error| failed("socket")(error.into()))?;
        let address = match family {
            Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            Family::V6 => {
                sockopt::set_ipv6_v6only(&descriptor, true)
                    .map_err(|error| failed("restrict to IPv6")(error.into()))?;
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
            }
        };
        let socket = descriptor.as_fd();
        if shared {
            share(socket).map_err(failed("share the port"))?;
        }
        if options.mark != 0 {
            set(socket, libc::SOL_SOCKET, libc::SO_MARK, options.mark.cast_signed())
                .map_err(failed("set the firewall mark"))?;
        }
        let fragmentation =
            if options.dont_fragment { Fragmentation::Refused } else { Fragmentation::Allowed };
        set_fragmentation(socket, family, fragmentation).map_err(failed("set the fragmentation rule"))?;
        report_arrival(socket, family);
        // Before binding, so that no datagram can come in while it is not in force.
        let release = Release::parse(&sys::kernel_release());
        let gro = first_obstacle(options.gro, release.receive_offload(), || {
            set(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
        });
        // Whether the network card can do it shows only when something is sent.
        let gso = first_obstacle(options.gso, release.send_offload(), || {
            sys::get_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT).map(drop)
        });
        let receive_buffer = grow(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer);
        let send_buffer = grow(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer);

        rustix::net::bind(&descriptor, &address).map_err(|error| match error {
            rustix::io::Errno::ADDRINUSE => BindError::PortInUse { port },
            other => failed("bind")(other.into()),
        })?;
        let bound = getsockname(&descriptor).map_err(|error| failed("read the port")(error.into()))?;
        let bound = SocketAddr::try_from(bound).map_err(|error| failed("read the port")(error.into()))?;
        Ok(Self {
            descriptor,
            family,
            port: bound.port(),
            receiving: ReceiveState::new(gro),
            receive_buffer,
            send_buffer,
            fragmentation,
            mark: AtomicU32::new(options.mark),
            sending: SendState::new(gso, release.max_segments()),
        })
    }
}

use sys::set_option as set;

/// The state of an offload at start: the owner decides first, then what is known of the kernel, then the kernel.
fn first_obstacle(
    switched_on: bool,
    known: OffloadState,
    ask: impl FnOnce() -> io::Result<()>,
) -> OffloadState {
    match (switched_on, known) {
        (false, _) => OffloadState::SwitchedOff,
        (true, OffloadState::On) => match ask() {
            Ok(()) => OffloadState::On,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOPROTOOPT) | None => OffloadState::Unsupported,
                Some(errno) => OffloadState::Refused(errno),
            },
        },
        (true, obstacle) => obstacle,
    }
}

/// What may become of a datagram that is larger than a link on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragmentation {
    /// Fragments may be made of it.
    Allowed,
    /// The system refuses what exceeds the path MTU that it knows, and the rest carries the don't-fragment bit.
    Refused,
    /// As [`Fragmentation::Refused`], but only the first link counts.
    Probe,
}

/// A rule is always set: by default Linux sets the bit until a router objects, whereas its own WireGuard never does.
pub(crate) fn set_fragmentation(
    socket: BorrowedFd<'_>,
    family: Family,
    rule: Fragmentation,
) -> io::Result<()> {
    match (family, rule) {
        // Anyone can send the ICMP message that says how small a path is, and the kernel would cut all that goes
        // there as small as 552 bytes for ten minutes. Over IPv4 routers cut what is too large, so that nobody has to believe it.
        (Family::V4, Fragmentation::Allowed) => {
            set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
                .or_else(|_| set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT))
        }
        (Family::V4, Fragmentation::Refused) => {
            set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
        }
        (Family::V4, Fragmentation::Probe) => {
            set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
        }
        // Over IPv6 only the sender makes fragments, and learns from ICMP how small they have to be.
        (Family::V6, rule) => {
            let value = match rule {
                Fragmentation::Allowed => libc::IPV6_PMTUDISC_DONT,
                Fragmentation::Refused => libc::IPV6_PMTUDISC_DO,
                Fragmentation::Probe => libc::IPV6_PMTUDISC_PROBE,
            };
            set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)
        }
    }
}

/// Asks for the local address and the traffic class of each datagram received.
fn report_arrival(socket: BorrowedFd<'_>, family: Family) {
    let options = match family {
        Family::V4 => [(libc::IPPROTO_IP, libc::IP_PKTINFO), (libc::IPPROTO_IP, libc::IP_RECVTOS)],
        Family::V6 => {
            [(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO), (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)]
        }
    };
    for (level, name) in options {
        // Without them `Received::local` is `None` and the traffic class 0.
        let _ = set(socket, level, name, 1);
    }
}

/// Asks for a buffer past the system's limit, which needs a privilege, and else for one within it.
/// Returns the size granted.
fn grow(socket: BorrowedFd<'_>, force: i32, plain: i32, bytes: usize) -> usize {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set(socket, libc::SOL_SOCKET, force, wanted).is_err() {
        let _ = set(socket, libc::SOL_SOCKET, plain, wanted);
    }
    // Linux reports twice what is usable: the other half is for its bookkeeping (socket(7)).
    let granted = sys::get_option(socket, libc::SOL_SOCKET, plain).unwrap_or(0);
    usize::try_from(granted).unwrap_or(0) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_obstacle_is_told_and_nothing_after_it_is_asked() {
        let never = || unreachable!("nobody needs to ask");
        let avoided = OffloadState::Avoided("known to be wrong");
        assert_eq!(first_obstacle(false, OffloadState::On, never), OffloadState::SwitchedOff);
        assert_eq!(first_obstacle(false, avoided, never), OffloadState::SwitchedOff);
        assert_eq!(first_obstacle(true, avoided, never), avoided);
        assert_eq!(first_obstacle(true, OffloadState::On, || Ok(())), OffloadState::On);
        for (errno, state) in [
            (libc::ENOPROTOOPT, OffloadState::Unsupported),
            (libc::EPERM, OffloadState::Refused(libc::EPERM)),
        ] {
            let refuse = || Err(io::Error::from_raw_os_error(errno));
            assert_eq!(first_obstacle(true, OffloadState::On, refuse), state);
        }
    }
}
