//! ICMP echo through the tunnel without a raw socket: requests made here, answers recognised on
//! their way to the TUN by a value that only this engine knows.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use tombolo_noise::clock::Instant;
use tombolo_packet::checksum::{Sum, pseudo_header};
use tombolo_packet::ip::IpPacket;

/// Answers that wait for the control thread at most; more are lost, and time out.
const ANSWERS: usize = 256;
/// Bytes of data in each request: the value that is ours, and the number of the probe.
const DATA_LEN: usize = 16;
const ICMP_LEN: usize = 8 + DATA_LEN;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

/// Recognises the answers to our own echo requests.
pub(crate) struct ProbeWatch {
    magic: [u8; 8],
    outstanding: AtomicUsize,
    answers: ArrayQueue<(u64, Instant)>,
}

impl ProbeWatch {
    /// `magic`: 64 random bits, so that nobody else's echo is mistaken for ours.
    pub(crate) fn new(magic: u64) -> Self {
        Self {
            magic: magic.to_be_bytes(),
            outstanding: AtomicUsize::new(0),
            answers: ArrayQueue::new(ANSWERS),
        }
    }

    /// Says how many probes wait, so that workers need not look at packets when there are none.
    pub(crate) fn set_outstanding(&self, probes: usize) {
        self.outstanding.store(probes, Ordering::Relaxed);
    }

    /// Takes the packet if it is an answer to one of our probes.
    pub(crate) fn take(&self, packet: &IpPacket<'_>, bytes: &[u8], now: Instant) -> bool {
        if self.outstanding.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let echo_reply = match packet.protocol() {
            PROTOCOL_ICMP => 0,
            PROTOCOL_ICMPV6 => 129,
            _ => return false,
        };
        let Some(message) = bytes.get(packet.transport_offset()..packet.transport_offset() + ICMP_LEN) else {
            return false;
        };
        if message[0] != echo_reply || message[8..16] != self.magic {
            return false;
        }
        let mut number = [0; 8];
        number.copy_from_slice(&message[16..24]);
        let _ = self.answers.push((u64::from_be_bytes(number), now));
        true
    }

    /// The next answer: number of the probe, and when it came.
    pub(crate) fn answer(&self) -> Option<(u64, Instant)> {
        self.answers.pop()
    }

    /// An echo request (RFC 792, RFC 4443 §4.1). `None` where the families differ.
    pub(crate) fn request(&self, number: u64, source: IpAddr, destination: IpAddr) -> Option<Vec<u8>> {
        let request_type = match source {
            IpAddr::V4(_) => 8,
            IpAddr::V6(_) => 128,
        };
        let mut icmp = [0; ICMP_LEN];
        icmp[0] = request_type;
        icmp[4..6].copy_from_slice(&self.magic[..2]);
        icmp[6..8].copy_from_slice(&number.to_be_bytes()[6..]);
        icmp[8..16].copy_from_slice(&self.magic);
        icmp[16..24].copy_from_slice(&number.to_be_bytes());
        let mut packet = Vec::with_capacity(40 + ICMP_LEN);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = [0; 20];
                header[0] = 0x45;
                header[3] = 20 + ICMP_LEN as u8;
                header[8] = 64;
                header[9] = PROTOCOL_ICMP;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                let sum = Sum::of(&header).checksum();
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                let sum = Sum::of(&icmp).checksum();
                icmp[2..4].copy_from_slice(&sum.to_be_bytes());
                packet.extend_from_slice(&header);
            }
            (IpAddr::V6(v6_source), IpAddr::V6(v6_destination)) => {
                let mut header = [0; 40];
                header[0] = 0x60;
                header[5] = ICMP_LEN as u8;
                header[6] = PROTOCOL_ICMPV6;
                header[7] = 64;
                header[8..24].copy_from_slice(&v6_source.octets());
                header[24..40].copy_from_slice(&v6_destination.octets());
                let sum =
                    pseudo_header(&v6_source.octets(), &v6_destination.octets(), PROTOCOL_ICMPV6, ICMP_LEN)
                        .add_bytes(&icmp)
                        .checksum();
                icmp[2..4].copy_from_slice(&sum.to_be_bytes());
                packet.extend_from_slice(&header);
            }
            _ => return None,
        }
        packet.extend_from_slice(&icmp);
        Some(packet)
    }
}
