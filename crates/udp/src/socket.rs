//! The socket of the operating system.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{BindError, Capabilities, FallbackCounters, Received, SendOutcome, Socket, Transmit};

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
    /// Whether IPv4 datagrams carry the don't-fragment bit and larger ones are refused.
    pub dont_fragment: bool,
    /// Whether several sockets of this user may share the port, one for each worker.
    pub reuse_port: bool,
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
            reuse_port: false,
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
        self.v4.local_port()
    }
}

/// Binds all addresses of both families to one port; port 0 picks a free one.
///
/// # Errors
/// [`BindError::PortInUse`] when either family's port is taken. A system without IPv6 is no error:
/// see [`SocketPair::v6_error`].
pub fn bind_pair(port: u16, _options: &BindOptions) -> Result<SocketPair, BindError> {
    Err(BindError::System { port, step: "bind", source: io::ErrorKind::Unsupported.into() })
}

/// A UDP socket of the operating system.
#[derive(Debug)]
pub struct UdpSocket {
    descriptor: OwnedFd,
}

impl Socket for UdpSocket {
    fn capabilities(&self) -> Capabilities {
        Capabilities { gso: false, gro: false, max_segments: 1, receive_buffer: 0, send_buffer: 0 }
    }
    fn counters(&self) -> FallbackCounters {
        FallbackCounters::default()
    }
    fn reaches(&self, _destination: IpAddr) -> bool {
        false
    }
    fn send(&self, _transmits: &[Transmit<'_>], outcome: &mut SendOutcome) {
        outcome.clear();
    }
    fn receive(&self, _arena: &mut [u8], received: &mut Vec<Received>) -> io::Result<usize> {
        received.clear();
        Ok(0)
    }
    fn set_mark(&self, _mark: u32) -> io::Result<()> {
        Ok(())
    }
    fn local_port(&self) -> u16 {
        0
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
