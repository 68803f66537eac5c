//! Reading from and writing to a TUN device, and the split of what was read.
//!
//! ```text
//!   application -- UDP to 10.77.0.2 --> overlay 10.77.0.1/24 --> read, split
//!   application <- UDP to 10.77.0.1 --- overlay            <-- write
//! ```

use std::hint::black_box;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use anyhow::{Context, ensure};
use tombolo_packet::{CoalesceOptions, Coalescer, SuperPacket, VnetHeader};
use tombolo_tests::namespace::Namespace;
use tombolo_tun::{Device, DeviceOptions, MAX_PACKET, OffloadSwitches, Queue};
use tombolo_udp::{BindOptions, Family, RECEIVE_SLOT, SendOutcome, Socket, Transmit, UdpSocket};

use super::timing::{sample, time};
use super::{BATCH, PACKET, Report, Step};
use crate::Result;

const RUNS: usize = 30;
const PLAIN_PACKETS: usize = 400;
const SUPER_PACKETS: usize = 50;
const HEADERS: usize = 20 + 8;
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A packet as it was read, with its header.
type Packet = (VnetHeader, Vec<u8>);

pub(super) fn measure(report: &mut Report<'_>) -> Result {
    let plain = Bench::set_up(false)?;
    report(plain.read("one at a time", 1, PLAIN_PACKETS)?.0);
    report(plain.write_plain()?);
    drop(plain);
    let offloads = Bench::set_up(true)?;
    if !offloads.device.queues().first().is_some_and(|queue| queue.offloads().uso) {
        eprintln!(
            "this kernel's TUN devices have no UDP segmentation: the steps with super-packets are left out"
        );
        return Ok(());
    }
    let (step, packet) = offloads.read("super-packets of 44", BATCH, SUPER_PACKETS)?;
    report(step);
    report(split(&packet)?);
    offloads.write_super(report)
}

struct Bench {
    device: Device,
    application: UdpSocket,
    _namespace: Namespace,
}

impl Bench {
    fn set_up(vnet_header: bool) -> Result<Self> {
        let namespace = Namespace::create("micro")?;
        let (device, application) = namespace.enter(|| {
            let mut options = DeviceOptions::new("overlay");
            options.offloads = OffloadSwitches { vnet_header, ..OffloadSwitches::default() };
            options.mtu = Some(PACKET as u32);
            // An application that takes super-packets whole, or the kernel would split each one again within our
            // write, which costs more than the write itself.
            let sockets = BindOptions { gro: vnet_header, ..BindOptions::default() };
            Ok((Device::open(&options)?, UdpSocket::bind(Family::V4, 0, &sockets)?))
        })?;
        namespace.sysctl("net.ipv6.conf.overlay.disable_ipv6", "1")?;
        namespace.ip("link set overlay txqueuelen 2000 up")?;
        namespace.ip(&format!("address add {OWN}/24 dev overlay"))?;
        Ok(Self { device, application, _namespace: namespace })
    }

    /// The cost of reading what an application sent `segments` packets at a time, and one of the reads.
    fn read(&self, variant: &'static str, segments: usize, reads: usize) -> Result<(Step, Packet)> {
        let queue = self.device.queues().first().context("a device without a queue")?;
        let contents = vec![0x42; (PACKET - HEADERS) * segments];
        let segment_size = NonZeroU16::new((PACKET - HEADERS) as u16);
        let destination = SocketAddr::from((OTHER, 9));
        let mut outcome = SendOutcome::default();
        let mut buffer = vec![0; MAX_PACKET + 64];
        let mut last = (VnetHeader::default(), 0);
        let step = sample("TUN read", variant, RUNS, || {
            for _ in 0..reads {
                let transmit = Transmit { segment_size, ..Transmit::new(destination, &contents) };
                self.application.send(&[transmit], &mut outcome);
                ensure!(outcome.failures.is_empty(), "sending into the device: {outcome:?}");
            }
            let (duration, result) = time(|| -> Result<usize> {
                let mut bytes = 0;
                while let Some((header, len)) = queue.read(&mut buffer)? {
                    bytes += black_box(len) - HEADERS;
                    last = (header, len);
                }
                Ok(bytes / (PACKET - HEADERS))
            });
            Ok((duration, result?))
        })?;
        Ok((step, (last.0, buffer[..last.1].to_vec())))
    }

    /// Takes what the application was sent out of its socket.
    fn drain(&self) -> Result {
        let (mut arena, mut received) = (vec![0; 16 * RECEIVE_SLOT], Vec::new());
        while self.application.receive(&mut arena, &mut received)? > 0 {}
        Ok(())
    }

    fn write_plain(&self) -> Result<Step> {
        let queue = self.device.queues().first().context("a device without a queue")?;
        let packet = self.incoming();
        sample("TUN write", "one at a time", RUNS, || {
            self.drain()?;
            let (duration, result) = time(|| {
                (0..PLAIN_PACKETS)
                    .try_for_each(|_| queue.write(VnetHeader::default(), &[IoSlice::new(&packet)]))
            });
            result?;
            Ok((duration, PLAIN_PACKETS))
        })
    }

    fn write_super(&self, report: &mut Report<'_>) -> Result {
        let queue = self.device.queues().first().context("a device without a queue")?;
        let packet = self.incoming();
        let one: Vec<u8> = packet.repeat(BATCH);
        let mut arena = one.clone();
        let unchecked = CoalesceOptions { verify_checksums: false, ..CoalesceOptions::default() };
        let push_all = |coalescer: &mut Coalescer, arena: &[u8]| {
            for index in 0..BATCH {
                coalescer.push(arena, index * PACKET..(index + 1) * PACKET);
            }
        };
        for (variant, options) in [
            ("44 packets, written nowhere", CoalesceOptions::default()),
            ("44 packets, written nowhere, checksums not verified", unchecked),
        ] {
            let mut coalescer = Coalescer::new(options);
            report(sample("coalesce", variant, RUNS, || {
                let mut duration = std::time::Duration::ZERO;
                for _ in 0..SUPER_PACKETS {
                    arena.copy_from_slice(&one);
                    duration += time(|| {
                        push_all(&mut coalescer, &arena);
                        coalescer.for_each_output(&mut arena, |_, slices| {
                            black_box(slices.len());
                        });
                    })
                    .0;
                }
                Ok((duration, SUPER_PACKETS * BATCH))
            })?);
        }
        let mut coalescer = Coalescer::new(CoalesceOptions::default());
        // The super-packet as the coalescer makes it, once in pieces and once in one.
        arena.copy_from_slice(&one);
        push_all(&mut coalescer, &arena);
        let mut merged: Vec<(VnetHeader, Vec<Vec<u8>>)> = Vec::new();
        coalescer.for_each_output(&mut arena, |header, slices| {
            merged.push((header, slices.iter().map(|slice| slice.to_vec()).collect()));
        });
        let [(header, pieces)] = merged.as_slice() else { anyhow::bail!("one flow became several packets") };
        let flat = pieces.concat();
        let scattered: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        for (variant, slices) in [
            ("super-packet of 44, in 44 pieces", scattered.as_slice()),
            ("super-packet of 44, flat", &[IoSlice::new(&flat)]),
        ] {
            report(sample("TUN write", variant, RUNS, || {
                self.drain()?;
                let (duration, result) =
                    time(|| (0..SUPER_PACKETS).try_for_each(|_| queue.write(*header, slices)));
                result?;
                Ok((duration, SUPER_PACKETS * BATCH))
            })?);
        }
        Ok(())
    }

    /// A UDP packet from the overlay to the application, whole.
    fn incoming(&self) -> Vec<u8> {
        let payload = PACKET - HEADERS;
        let mut packet = vec![0; PACKET];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&OTHER.octets());
        packet[16..20].copy_from_slice(&OWN.octets());
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[20..22].copy_from_slice(&9_u16.to_be_bytes());
        packet[22..24].copy_from_slice(&self.application.local_port().to_be_bytes());
        packet[24..26].copy_from_slice(&((payload + 8) as u16).to_be_bytes());
        // With a pseudo-header of source, destination, protocol and length.
        let mut pseudo = packet[12..20].to_vec();
        pseudo.extend([0, 17]);
        pseudo.extend(((payload + 8) as u16).to_be_bytes());
        pseudo.extend(&packet[20..]);
        let sum = checksum(&pseudo);
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        packet
    }
}

/// RFC 1071, for an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn split((header, contents): &Packet) -> Result<Step> {
    let mut copies = vec![contents.clone(); SUPER_PACKETS];
    let mut out = vec![0; BATCH * (PACKET + 32)];
    sample("split and checksum", "super-packet of 44", RUNS, || {
        copies.iter_mut().for_each(|copy| copy.copy_from_slice(contents));
        let (duration, packets) = time(|| {
            let mut packets = 0;
            for copy in &mut copies {
                let Ok(super_packet) = SuperPacket::parse(*header, copy) else { continue };
                for (index, out) in
                    out.chunks_exact_mut(PACKET + 32).take(super_packet.segments()).enumerate()
                {
                    packets += usize::from(black_box(super_packet.write_segment(index, out)) > 0);
                }
            }
            packets
        });
        Ok((duration, packets))
    })
}
