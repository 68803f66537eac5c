//! The packet path without cryptography: super-packets from a TUN device to a UDP socket and back,
//! with the same buffers and offloads as the engine. What it reaches is what the machine leaves for a
//! tunnel; what the engine is below it, cryptography and bookkeeping cost.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::{CoalesceOptions, Coalescer, SuperPacket};
use tombolo_tun::{Device, DeviceOptions, Fault, MAX_PACKET, Queue, TunQueue};
use tombolo_udp::{
    BindOptions, Family, MAX_DATAGRAM, RECEIVE_SLOT, SendOutcome, Socket, Transmit, UdpSocket,
};

use crate::Result;

/// Bytes that a WireGuard message adds to a packet: the same go over the wire here, as zeros.
const OVERHEAD: usize = TRANSPORT_HEADER_LEN + TAG_LEN;
const RECEIVE_SLOTS: usize = 16;

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
    let mut packet = vec![0; MAX_PACKET + 64];
    let mut messages = vec![0; 2 * MAX_DATAGRAM];
    let mut outcome = SendOutcome::default();
    loop {
        let (header, len) = match queue.read(&mut packet) {
            Ok(Some(read)) => read,
            Ok(None) => {
                wait_readable(queue.fd())?;
                continue;
            }
            Err(error) if Fault::of(&error) == Fault::Gone => return Ok(()),
            Err(_) => continue,
        };
        let Ok(packets) = SuperPacket::parse(header, &mut packet[..len]) else { continue };
        let stride = packets.segment_len(0) + OVERHEAD;
        let mut end = 0;
        for index in 0..packets.segments() {
            let room = packets.segment_len(index) + OVERHEAD;
            let Some(message) = messages.get_mut(end..end + room) else { break };
            packets.write_segment(index, &mut message[TRANSPORT_HEADER_LEN..]);
            end += room;
        }
        let segment_size = u16::try_from(stride).ok().and_then(NonZeroU16::new);
        socket.send(&[Transmit { segment_size, ..Transmit::new(remote, &messages[..end]) }], &mut outcome);
    }
}

fn inbound(queue: &TunQueue, socket: &UdpSocket) -> Result {
    let offloads = queue.offloads();
    let options =
        CoalesceOptions { tcp: offloads.write_tcp, udp: offloads.write_udp, ..CoalesceOptions::default() };
    let mut coalescer = Coalescer::new(options);
    let mut arena = vec![0; RECEIVE_SLOTS * RECEIVE_SLOT];
    let mut reads = Vec::new();
    let mut gone = false;
    while !gone {
        if socket.receive(&mut arena, &mut reads)? == 0 {
            wait_readable(socket.fd())?;
            continue;
        }
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
