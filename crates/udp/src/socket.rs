//! The socket of the operating system.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use tombolo_packet::{Offload, OffloadState};

use crate::bind::{Fragmentation, set_fragmentation};
use crate::control::{self, RawAddress};
use crate::receiving::{ReceiveState, Verdict};
use crate::send::{DatagramSender, SendState, send_all};
use crate::sys::{self, Incoming, Outgoing};
use crate::{
    Capabilities, FallbackCounters, RECEIVE_SLOT, Received, SendError, SendOutcome, Socket, Transmit,
};

/// Longest wait for room in the send buffer at a time.
const SEND_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Errors of earlier datagrams (ICMP) and interruptions that one call of `receive` passes over.
const MAX_STRAY_ERRORS: u32 = 64;

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6 alone: no IPv4-mapped addresses.
    V6,
}

impl Family {
    pub(crate) fn raw(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::INET,
            Self::V6 => AddressFamily::INET6,
        }
    }

    fn includes(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// A UDP socket of the operating system; made by [`bind_pair`](crate::bind_pair) or
/// [`UdpSocket::bind`].
#[derive(Debug)]
pub struct UdpSocket {
    pub(crate) descriptor: OwnedFd,
    pub(crate) family: Family,
    pub(crate) port: u16,
    pub(crate) receiving: ReceiveState,
    pub(crate) receive_buffer: usize,
    pub(crate) send_buffer: usize,
    pub(crate) fragmentation: Fragmentation,
    pub(crate) mark: AtomicU32,
    pub(crate) sending: SendState,
}

impl UdpSocket {
    /// The address family.
    pub fn family(&self) -> Family {
        self.family
    }
}

impl Socket for UdpSocket {
    fn capabilities(&self) -> Capabilities {
        let gso = self.sending.gso();
        Capabilities {
            gso,
            gro: self.receiving.gro(),
            max_segments: if gso { self.sending.max_segments() } else { 1 },
            receive_buffer: self.receive_buffer,
            send_buffer: self.send_buffer,
        }
    }

    fn offload_states(&self) -> [(Offload, OffloadState); 2] {
        [(Offload::Gso, self.sending.gso_state()), (Offload::Gro, self.receiving.gro_state())]
    }

    fn counters(&self) -> FallbackCounters {
        self.receiving.count_in(self.sending.counters())
    }

    fn reaches(&self, destination: IpAddr) -> bool {
        self.family.includes(destination)
    }

    fn send(&self, transmits: &[Transmit<'_>], outcome: &mut SendOutcome) {
        send_all(self, &self.sending, transmits, outcome);
    }

    fn send_unfragmented(&self, transmit: &Transmit<'_>) -> Result<(), SendError> {
        // The rule belongs to the socket: Linux takes none along with a datagram over IPv4. Probing is the rule
        // that sets the bit and asks the device alone, not what ICMP messages made the kernel believe (ip(7)).
        let system = |error: io::Error| SendError::System(error.raw_os_error().unwrap_or(libc::EIO));
        set_fragmentation(self.fd(), self.family, Fragmentation::Probe).map_err(system)?;
        let mut outcome = SendOutcome::default();
        send_all(self, &self.sending, std::slice::from_ref(transmit), &mut outcome);
        set_fragmentation(self.fd(), self.family, self.fragmentation).map_err(system)?;
        outcome.failures.first().map_or(Ok(()), |failure| Err(failure.error))
    }

    fn receive(&self, arena: &mut [u8], received: &mut Vec<Received>) -> io::Result<usize> {
        received.clear();
        if arena.len() < RECEIVE_SLOT {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the arena holds less than one slot"));
        }
        let mut stray_errors_left = MAX_STRAY_ERRORS;
        loop {
            let result = sys::receive_messages(self.fd(), arena, RECEIVE_SLOT, |message| {
                let (read, verdict) = accept(&message, message.slot * RECEIVE_SLOT, self.receiving.gro());
                received.extend(read);
                if self.receiving.is_enough(verdict) {
                    let off = sys::set_option(self.fd(), libc::SOL_UDP, libc::UDP_GRO, 0);
                    self.receiving.give_up_gro(off.is_ok());
                }
            });
            match result {
                // A batch of nothing but broken messages is no reason to call the queue empty.
                Ok(count) if count > 0 && received.is_empty() => {}
                Ok(_) => return Ok(received.len()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(0),
                    Some(code) if stray_errors_left > 0 && is_stray(code) => stray_errors_left -= 1,
                    _ => return Err(error),
                },
            }
        }
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        if self.mark.load(Ordering::Relaxed) != mark {
            sys::set_option(self.fd(), libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
            self.mark.store(mark, Ordering::Relaxed);
        }
        Ok(())
    }

    fn local_port(&self) -> u16 {
        self.port
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl DatagramSender for UdpSocket {
    fn send(&self, messages: &[Outgoing<'_>]) -> io::Result<usize> {
        sys::send_messages(self.fd(), messages)
    }

    fn wait_writable(&self) {
        // Whether there is room or not shows when sending is tried again.
        let _ = poll(&mut [PollFd::new(&self.descriptor, PollFlags::OUT)], Some(&SEND_WAIT));
    }

    fn path_mtu(&self, destination: SocketAddr) -> Option<usize> {
        // Only a connected socket can be asked; connecting a UDP socket sends nothing.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let probe = socket_with(self.family.raw(), SocketType::DGRAM, flags, None).ok()?;
        let mark = self.mark.load(Ordering::Relaxed);
        if mark != 0 {
            sys::set_option(probe.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed()).ok()?;
        }
        connect(&probe, &destination).ok()?;
        let (level, name) = match self.family {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        usize::try_from(sys::get_option(probe.as_fd(), level, name).ok()?).ok()
    }

    fn reaches(&self, destination: IpAddr) -> bool {
        self.family.includes(destination)
    }
}

/// The read that a message makes, if it is of any use, and what is wrong with it.
fn accept(message: &Incoming<'_>, offset: usize, gro: bool) -> (Option<Received>, Verdict) {
    if message.control_truncated && gro {
        // Without the stride, several datagrams would look like one.
        return (None, Verdict::Undivided);
    }
    let control = control::decode(message.control);
    let verdict = match (message.truncated, control.stride) {
        _ if control.stride_is_wrong => Verdict::Undivided,
        (true, Some(_)) => Verdict::CutRun,
        (true, None) => Verdict::Cut,
        (false, _) => Verdict::Whole,
    };
    let Some(source) = RawAddress::decode(message.name) else { return (None, Verdict::Cut) };
    let mut len = message.len;
    if message.truncated {
        // Of a coalesced run that was too long for the slot, the datagrams that fit are whole.
        match control.stride.map(|stride| len - len % stride) {
            None | Some(0) => return (None, verdict),
            Some(whole) => len = whole,
        }
    }
    let stride = control.stride.unwrap_or(len).min(len).max(1);
    let read =
        Received { source, local: control.local, traffic_class: control.traffic_class, offset, len, stride };
    (Some(read), verdict)
}

/// Errors that ICMP answers to earlier datagrams leave on a socket, and interruptions.
fn is_stray(error: i32) -> bool {
    matches!(
        error,
        libc::EINTR
            | libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::EMSGSIZE
            | libc::EPROTO
            | libc::ENOPROTOOPT
            | libc::EACCES
            | libc::EOPNOTSUPP
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(len: usize, name: &'a [u8], control: &'a [u8]) -> Incoming<'a> {
        Incoming { slot: 0, len, truncated: false, control_truncated: false, name, control }
    }

    /// A `UDP_GRO` control message, as the system writes it.
    fn stride(size: i32) -> Vec<u8> {
        let mut bytes = (size_of::<usize>() + 12).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes.extend_from_slice(&libc::UDP_GRO.to_ne_bytes());
        bytes.extend_from_slice(&size.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_truncated_datagram_is_dropped_and_a_truncated_run_keeps_what_is_whole() {
        let name = RawAddress::encode("192.0.2.1:7".parse().unwrap());
        let cut = Incoming { truncated: true, ..message(1000, name.as_bytes(), &[]) };
        assert_eq!(accept(&cut, 0, true), (None, Verdict::Cut));

        let control = stride(300);
        let cut = Incoming { truncated: true, ..message(1000, name.as_bytes(), &control) };
        let (read, verdict) = accept(&cut, 5, true);
        let read = read.unwrap();
        assert_eq!((read.offset, read.len, read.stride, verdict), (5, 900, 300, Verdict::CutRun));

        let control = stride(1001);
        let cut = Incoming { truncated: true, ..message(1000, name.as_bytes(), &control) };
        assert_eq!(accept(&cut, 0, true), (None, Verdict::CutRun));
    }

    #[test]
    fn a_message_with_a_strange_sender_is_dropped_and_one_without_its_control_data_where_that_may_divide_it()
    {
        let name = RawAddress::encode("192.0.2.1:7".parse().unwrap());
        let cut = Incoming { control_truncated: true, ..message(1000, name.as_bytes(), &[]) };
        assert_eq!(accept(&cut, 0, true), (None, Verdict::Undivided));
        let (read, verdict) = accept(&cut, 0, false);
        assert_eq!((read.unwrap().len, verdict), (1000, Verdict::Whole));
        assert_eq!(accept(&message(1000, &[1, 0, 0, 0], &[]), 0, true), (None, Verdict::Cut));
    }

    #[test]
    fn a_stride_that_is_none_is_told_from_one_that_is_not_there() {
        let name = RawAddress::encode("192.0.2.1:7".parse().unwrap());
        for (size, verdict) in [
            (i32::MIN, Verdict::Undivided),
            (0, Verdict::Undivided),
            (1, Verdict::Whole),
            (65_535, Verdict::Whole),
            (65_536, Verdict::Undivided),
        ] {
            assert_eq!(accept(&message(100, name.as_bytes(), &stride(size)), 0, true).1, verdict, "{size}");
        }
        assert_eq!(accept(&message(100, name.as_bytes(), &stride(7)[..18]), 0, true).1, Verdict::Whole);
    }

    #[test]
    fn no_stride_from_the_system_divides_by_zero_or_goes_out_of_bounds() {
        let name = RawAddress::encode("192.0.2.1:7".parse().unwrap());
        let arena = [0; 64];
        for size in [i32::MIN, -1, 0, 1, 63, 64, 65, i32::MAX] {
            for len in [0, 1, 64] {
                for truncated in [false, true] {
                    let control = stride(size);
                    let message = Incoming { truncated, ..message(len, name.as_bytes(), &control) };
                    if let (Some(read), _) = accept(&message, 0, true) {
                        assert_eq!(read.segments(&arena).map(<[u8]>::len).sum::<usize>(), read.len);
                    }
                }
            }
        }
    }
}
