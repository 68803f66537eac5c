//! The packet path without cryptography: super-packets from a TUN device to a UDP socket and back,
//! with the buffers, the gathering and the offloads of the engine. What it reaches is what the machine
//! leaves for a tunnel; what the engine is below it, cryptography and bookkeeping cost.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::{CoalesceOptions, Coalescer, SuperPacket};
use tombolo_tun::{Device, DeviceOptions, Fault, MAX_PACKET, Queue, TunQueue, gso_max_size_for};
use tombolo_udp::{
    BindOptions, Family, MAX_DATAGRAM, RECEIVE_SLOT, Received, SendOutcome, Socket, Transmit, UdpSocket,
};

use crate::Result;
use crate::contender::MTU;

/// Bytes that a WireGuard message adds to a packet: the same go over the wire here, as zeros.
const OVERHEAD: usize = TRANSPORT_HEADER_LEN + TAG_LEN;
/// These are the engine's own bounds: of a send batch, of reads of one turn, and of reads that are opened
/// together.
const SEND_ARENA: usize = 2 * 65_536;
const MAX_TRAINS: usize = 64;
const MAX_SEGMENTS: usize = 64;
const READS_PER_TURN: usize = 64;
const RECEIVE_SLOTS: usize = 8;

/// Forwards until the device is gone.
///
/// # Errors
/// When the device or the socket cannot be made.
pub fn run(interface: &str, port: u16, remote: SocketAddr) -> Result {
    let device = Device::open(&DeviceOptions::new(interface))?;
    let queue = device.queues().first().context("a device without a queue")?;
    let family = if remote.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = Arc::new(UdpSocket::bind(family, port, &BindOptions::default())?);
    thread::scope(|scope| {
        let out = scope.spawn(|| outbound(queue, &socket, remote));
        let back = scope.spawn(|| inbound(queue, &socket));
        for thread in [out, back] {
            thread.join().map_err(|_| anyhow!("a forwarding thread panicked"))??;
        }
        Ok(())
    })
}

fn wait_readable(descriptor: BorrowedFd<'_>) -> Result {
    match poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn outbound(queue: &TunQueue, socket: &UdpSocket, remote: SocketAddr) -> Result {
    let mut packet = vec![0; MAX_PACKET];
    let mut gathered = Gathered::new();
    let mut outcome = SendOutcome::default();
    loop {
        let mut empty = false;
        for _ in 0..READS_PER_TURN {
            let (header, len) = match queue.read(&mut packet) {
                Ok(Some(read)) => read,
                Ok(None) => {
                    empty = true;
                    break;
                }
                Err(error) if Fault::of(&error) == Fault::Gone => return Ok(()),
                Err(_) => continue,
            };
            let Ok(packets) = SuperPacket::parse(header, &mut packet[..len]) else { continue };
            gathered.keep_together(packets.segments(), packets.segment_len(0) + OVERHEAD);
            for index in 0..packets.segments() {
                let len = packets.segment_len(index) + OVERHEAD;
                if gathered.room(len).is_none() {
                    gathered.send(socket, remote, &mut outcome);
                }
                let Some(message) = gathered.room(len) else { break };
                packets.write_segment(index, &mut message[TRANSPORT_HEADER_LEN..]);
                gathered.commit(len);
            }
        }
        gathered.send(socket, remote, &mut outcome);
        if empty {
            wait_readable(queue.fd())?;
        }
    }
}

/// Messages that leave together, as the engine gathers them: those of equal length that follow each
/// other are one super-datagram, which a shorter one ends.
struct Gathered {
    arena: Vec<u8>,
    used: usize,
    trains: Vec<Train>,
}

#[derive(Debug, PartialEq, Eq)]
struct Train {
    start: usize,
    end: usize,
    stride: usize,
    closed: bool,
}

impl Gathered {
    fn new() -> Self {
        Self { arena: vec![0; SEND_ARENA], used: 0, trains: Vec::with_capacity(MAX_TRAINS) }
    }

    /// What comes next is one super-packet: it is not torn apart to fill a super-datagram.
    fn keep_together(&mut self, messages: usize, len: usize) {
        if let Some(last) = self.trains.last_mut() {
            let together = last.end - last.start + messages * len;
            last.closed |= together > MAX_DATAGRAM || together > MAX_SEGMENTS * last.stride;
        }
    }

    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.trains.len() == MAX_TRAINS {
            return None;
        }
        self.arena.get_mut(self.used..self.used + len)
    }

    fn commit(&mut self, len: usize) {
        let (start, end) = (self.used, self.used + len);
        self.used = end;
        match self.trains.last_mut() {
            Some(last)
                if !last.closed
                    && len <= last.stride
                    && start - last.start < MAX_SEGMENTS * last.stride
                    && end - last.start <= MAX_DATAGRAM =>
            {
                last.end = end;
                last.closed = len < last.stride;
            }
            _ => self.trains.push(Train { start, end, stride: len, closed: false }),
        }
    }

    fn send(&mut self, socket: &UdpSocket, remote: SocketAddr, outcome: &mut SendOutcome) {
        if self.trains.is_empty() {
            return;
        }
        let transmits: Vec<Transmit<'_>> = self
            .trains
            .iter()
            .map(|train| Transmit {
                segment_size: u16::try_from(train.stride).ok().and_then(NonZeroU16::new),
                ..Transmit::new(remote, &self.arena[train.start..train.end])
            })
            .collect();
        socket.send(&transmits, outcome);
        self.trains.clear();
        self.used = 0;
    }
}

fn inbound(queue: &TunQueue, socket: &UdpSocket) -> Result {
    let offloads = queue.offloads();
    let options = CoalesceOptions {
        tcp: offloads.write_tcp,
        udp: offloads.write_udp,
        max_len: gso_max_size_for(MTU) as usize - 1,
        // As little as there is to do.
        verify_checksums: false,
    };
    let mut coalescer = Coalescer::new(options);
    let mut arena = vec![0; RECEIVE_SLOTS * RECEIVE_SLOT];
    let mut reads: Vec<Received> = Vec::new();
    let mut gone = false;
    while !gone {
        // A read that did not fill the arena emptied the socket.
        if reads.len() < RECEIVE_SLOTS {
            wait_readable(socket.fd())?;
        }
        socket.receive(&mut arena, &mut reads)?;
        for read in &reads {
            let mut start = read.offset;
            let end = read.offset + read.len;
            while start < end {
                let next = (start + read.stride).min(end);
                if next - start > OVERHEAD {
                    coalescer.push(&arena, start + TRANSPORT_HEADER_LEN..next - TAG_LEN);
                }
                start = next;
            }
        }
        coalescer.for_each_output(&mut arena, |header, slices| {
            if let Err(error) = queue.write(header, slices) {
                gone |= Fault::of(&error) == Fault::Gone;
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trains(lengths: &[usize]) -> Vec<(usize, usize)> {
        let mut gathered = Gathered::new();
        for &len in lengths {
            assert!(gathered.room(len).is_some());
            gathered.commit(len);
        }
        gathered.trains.iter().map(|train| (train.end - train.start, train.stride)).collect()
    }

    #[test]
    fn equal_lengths_leave_as_one_and_a_shorter_one_is_the_last() {
        assert_eq!(trains(&[100, 100, 60, 60, 100]), [(260, 100), (60, 60), (100, 100)]);
        assert_eq!(trains(&[60, 100]), [(60, 60), (100, 100)]);
        let many = vec![96; MAX_SEGMENTS + 1];
        assert_eq!(trains(&many), [(96 * MAX_SEGMENTS, 96), (96, 96)]);
        assert_eq!(trains(&[1452; 46]), [(45 * 1452, 1452), (1452, 1452)]);
    }

    #[test]
    fn a_super_packet_is_not_torn() {
        let mut gathered = Gathered::new();
        for _ in 0..2 {
            gathered.keep_together(40, 1452);
            for _ in 0..40 {
                assert!(gathered.room(1452).is_some());
                gathered.commit(1452);
            }
        }
        assert_eq!(gathered.trains.len(), 2);
        assert_eq!(gathered.trains[0].end - gathered.trains[0].start, 40 * 1452);
    }

    #[test]
    fn there_is_room_for_so_many_super_datagrams_and_bytes() {
        let mut gathered = Gathered::new();
        for len in (1..=MAX_TRAINS).map(|index| 64 + index) {
            assert!(gathered.room(len).is_some());
            gathered.commit(len);
        }
        assert!(gathered.room(1).is_none());
        assert!(Gathered::new().room(SEND_ARENA + 1).is_none());
    }
}
