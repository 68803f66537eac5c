//! Sending and receiving UDP, in every way the socket knows, between the two hosts of
//! [`crate::wire`].

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_udp::{BindOptions, Family, RECEIVE_SLOT, SendOutcome, Socket, Transmit, UdpSocket};

use super::timing::{sample, time};
use super::{BATCH, PACKET, Report};
use crate::Result;
use crate::wire::Wire;

const RUNS: usize = 30;
/// A packet of 1420 bytes as a message.
const MESSAGE: usize = PACKET + 32;
/// Packets in a run: they fit into the receive buffer.
const PACKETS: usize = BATCH * 20;

struct Variant {
    name: &'static str,
    udp_segmentation: bool,
    gso: bool,
    gro: bool,
    /// Datagrams that are handed over in one call.
    at_once: usize,
    /// Reads that one call may give.
    slots: usize,
}

pub(super) fn measure(report: &mut Report<'_>) -> Result {
    let plain = Variant {
        name: "one at a time",
        udp_segmentation: true,
        gso: false,
        gro: false,
        at_once: 1,
        slots: 1,
    };
    for variant in [
        Variant { ..plain },
        Variant { name: "batches of 44", at_once: BATCH, slots: 64, ..plain },
        Variant { name: "UDP_SEGMENT and UDP_GRO", gso: true, gro: true, at_once: BATCH, slots: 16, ..plain },
        Variant {
            name: "UDP_SEGMENT in software",
            udp_segmentation: false,
            gso: true,
            gro: true,
            at_once: BATCH,
            slots: 16,
        },
    ] {
        let pair = Pair::set_up(&variant)?;
        report(sample("UDP send", variant.name, RUNS, || {
            let sent = pair.send()?;
            pair.receive(sent.1)?;
            Ok(sent)
        })?);
        report(sample("UDP receive", variant.name, RUNS, || {
            let (_, datagrams) = pair.send()?;
            pair.receive(datagrams)
        })?);
    }
    Ok(())
}

struct Pair {
    from: UdpSocket,
    to: UdpSocket,
    destination: SocketAddr,
    at_once: usize,
    slots: usize,
    _wire: Wire,
}

impl Pair {
    fn set_up(variant: &Variant) -> Result<Self> {
        let wire = Wire::lay()?;
        wire.set_udp_segmentation(variant.udp_segmentation)?;
        let options = BindOptions { gso: variant.gso, gro: variant.gro, ..BindOptions::default() };
        let bind = || Ok(UdpSocket::bind(Family::V4, 0, &options)?);
        let (from, to) = (wire.east.namespace.enter(bind)?, wire.west.namespace.enter(bind)?);
        let destination = SocketAddr::from((wire.west.outer, to.local_port()));
        Ok(Self { from, to, destination, at_once: variant.at_once, slots: variant.slots, _wire: wire })
    }

    fn send(&self) -> Result<(Duration, usize)> {
        let contents = vec![0x42; MESSAGE * self.at_once];
        let segment_size = NonZeroU16::new(MESSAGE as u16);
        let transmit = Transmit { segment_size, ..Transmit::new(self.destination, &contents) };
        let mut outcome = SendOutcome::default();
        let (duration, datagrams) = time(|| {
            let mut datagrams = 0;
            for _ in 0..PACKETS / self.at_once {
                self.from.send(&[transmit], &mut outcome);
                datagrams += outcome.datagrams;
            }
            datagrams
        });
        Ok((duration, usize::try_from(datagrams)?))
    }

    /// Takes what was sent; the time is that of receiving alone.
    fn receive(&self, sent: usize) -> Result<(Duration, usize)> {
        let (mut arena, mut reads) = (vec![0; self.slots * RECEIVE_SLOT], Vec::new());
        let (mut duration, mut datagrams) = (Duration::ZERO, 0);
        while datagrams < sent {
            let mut descriptors = [PollFd::from_borrowed_fd(self.to.fd(), PollFlags::IN)];
            if poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))? == 0 {
                break; // The rest was lost.
            }
            let (took, result) = time(|| -> Result<usize> {
                let mut datagrams = 0;
                while self.to.receive(&mut arena, &mut reads)? > 0 {
                    datagrams += reads.iter().map(|read| read.len.div_ceil(read.stride)).sum::<usize>();
                }
                Ok(datagrams)
            });
            duration += took;
            datagrams += result?;
        }
        Ok((duration, datagrams))
    }
}
