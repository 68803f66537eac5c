//! One queue of a TUN device.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tombolo_packet::{GsoType, VnetHeader};

use crate::offload::{self, TunOffloadStates, WriteRefusals};
use crate::queue::{MAX_SLICES, check_header};
use crate::{Fault, OffloadSwitches, Offloads, Queue, Reads, sys};

/// One queue of a [`Device`](crate::Device).
pub struct TunQueue {
    fd: OwnedFd,
    offloads: Offloads,
    switches: OffloadSwitches,
    refusals: WriteRefusals,
}

impl TunQueue {
    pub(crate) fn new(fd: OwnedFd, offloads: Offloads, switches: OffloadSwitches) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { fd, offloads, switches, refusals: WriteRefusals::default() })
    }

    /// A further queue of the same device, of which nothing has to be asked again.
    pub(crate) fn sibling(&self, fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { refusals: self.refusals, ..Self::new(fd, self.offloads, self.switches)? })
    }

    /// Name of the interface now: it may have been renamed. `None`: it was deleted.
    ///
    /// # Errors
    /// Those of TUNGETIFF.
    pub fn interface_name(&self) -> io::Result<Option<String>> {
        match sys::interface(self.fd.as_fd()) {
            Ok((name, _)) => Ok(Some(name)),
            Err(error) if Fault::of(&error) == Fault::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the interface is in the network namespace of the calling thread.
    ///
    /// # Errors
    /// EBADFD when the interface was deleted, EPERM without CAP_NET_ADMIN in its namespace.
    pub fn is_in_this_namespace(&self) -> io::Result<bool> {
        let device = rustix::fs::fstat(sys::device_namespace(self.fd.as_fd())?)?;
        let thread = rustix::fs::stat("/proc/thread-self/ns/net")?;
        Ok((device.st_dev, device.st_ino) == (thread.st_dev, thread.st_ino))
    }

    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match rustix::io::writev(&self.fd, slices) {
                // A TUN takes a packet whole or not at all.
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks the kernel which super-packets it takes, by writing some that no stack would act on.
    pub(crate) fn probe_writes(&mut self) {
        if self.offloads.vnet_header {
            let refusal = |gso_type| {
                let (header, packet) = probe_packet(gso_type);
                let error = self.write(header, &[IoSlice::new(&packet)]).err()?;
                // An interface that is down is found so only after the header was looked at.
                let refused = Fault::of(&error) != Fault::Down;
                refused.then(|| error.raw_os_error().unwrap_or(libc::EINVAL))
            };
            let tcp = refusal(GsoType::Tcp4).or_else(|| refusal(GsoType::Tcp6));
            let udp = refusal(GsoType::Udp);
            self.offloads.write_tcp &= tcp.is_none();
            self.offloads.write_udp &= udp.is_none();
            self.refusals = WriteRefusals { tcp, udp };
        }
    }
}

impl Queue for TunQueue {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn offload_states(&self) -> TunOffloadStates {
        offload::states(self.switches, self.offloads, self.refusals)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        loop {
            let mut header = [0; VnetHeader::LEN];
            let result = if self.offloads.vnet_header {
                let slices = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
                rustix::io::readv(&self.fd, slices)
            } else {
                rustix::io::read(&self.fd, &mut *buffer)
            };
            let length = match result {
                Ok(length) => length,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if !self.offloads.vnet_header {
                return Ok(Some((VnetHeader::default(), length)));
            }
            let header = VnetHeader::parse(&header).map_err(|_| malformed())?;
            let length = length.checked_sub(VnetHeader::LEN).ok_or_else(malformed)?;
            return Ok(Some((header, length)));
        }
    }

    fn limit_reads(&self, reads: Reads) -> io::Result<()> {
        if !self.offloads.vnet_header {
            // Nothing comes unfinished.
            return Ok(());
        }
        sys::set_offload(self.fd.as_fd(), offload::features(self.offloads, reads))
    }

    fn write(&self, header: VnetHeader, slices: &[IoSlice<'_>]) -> io::Result<()> {
        check_header(self.offloads, &header)?;
        let bytes;
        let mut all = [IoSlice::new(&[]); MAX_SLICES + 1];
        let mut count = 0;
        if self.offloads.vnet_header {
            bytes = header.to_bytes();
            all[0] = IoSlice::new(&bytes);
            count = 1;
        }
        if slices.len() <= MAX_SLICES {
            for (target, slice) in all[count..].iter_mut().zip(slices) {
                *target = IoSlice::new(slice);
            }
            return self.write_vectored(&all[..count + slices.len()]);
        }
        let gathered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        all[count] = IoSlice::new(&gathered);
        self.write_vectored(&all[..=count])
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed virtio-net header from the kernel")
}

/// A super-packet that the TUN driver has to judge and the IP layer then drops at once: IPv4 with
/// a wrong header checksum, IPv6 from a multicast address (RFC 4291 section 2.7).
fn probe_packet(gso_type: GsoType) -> (VnetHeader, Vec<u8>) {
    const SEGMENT: u16 = 100;
    const PAYLOAD: u16 = 2 * SEGMENT;
    let (network, transport, checksum_offset) = match gso_type {
        GsoType::Tcp6 => (40, 20, 16),
        GsoType::Udp => (20, 8, 6),
        GsoType::Tcp4 | GsoType::None => (20, 20, 16),
    };
    let length = network + transport + PAYLOAD;
    let mut packet = vec![0; usize::from(length)];
    let put = |packet: &mut [u8], offset: u16, bytes: &[u8]| {
        let offset = usize::from(offset);
        packet[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    if gso_type == GsoType::Tcp6 {
        put(&mut packet, 0, &[0x60]);
        put(&mut packet, 4, &(transport + PAYLOAD).to_be_bytes());
        put(&mut packet, 6, &[6, 64]);
        put(&mut packet, 8, &[0xff, 0x01]);
        put(&mut packet, 24, &[0xff, 0x01]);
    } else {
        put(&mut packet, 0, &[0x45]);
        put(&mut packet, 2, &length.to_be_bytes());
        put(&mut packet, 8, &[64, if gso_type == GsoType::Udp { 17 } else { 6 }]);
        put(&mut packet, 10, &[0xde, 0xad]);
        put(&mut packet, 12, &[127, 0, 0, 1, 127, 0, 0, 1]);
    }
    if gso_type == GsoType::Udp {
        put(&mut packet, network + 4, &(transport + PAYLOAD).to_be_bytes());
    } else {
        // Data offset 5, and the flag ACK.
        put(&mut packet, network + 12, &[0x50, 0x10]);
    }
    let header = VnetHeader {
        needs_checksum: true,
        gso_type,
        header_len: network + transport,
        gso_size: SEGMENT,
        checksum_start: network,
        checksum_offset,
        ..VnetHeader::default()
    };
    (header, packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stack_accepts_a_probe() {
        let (_, packet) = probe_packet(GsoType::Tcp4);
        let sum = packet[..20]
            .chunks(2)
            .fold(0_u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        assert_ne!((sum & 0xffff) + (sum >> 16), 0xffff, "the header checksum must be wrong");
        let (header, packet) = probe_packet(GsoType::Tcp6);
        assert_eq!(packet[8], 0xff, "the source must be a multicast address");
        assert_eq!(usize::from(header.header_len) + 200, packet.len());
    }
}
