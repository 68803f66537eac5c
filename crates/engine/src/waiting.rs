//! What was read from the TUN and waits to be sealed: packets in buffers that are used again.

use tombolo_noise::clock::Instant;
use tombolo_packet::VnetHeader;
use tombolo_packet::ip::{IpPacket, protocol};
use tombolo_packet::{DropCounters, DropReason, PeerId};
use tombolo_tun::MAX_PACKET;

use crate::fair_queue::{FairQueue, FlowHasher, FlowId, Limits, Popped};

/// Sizes of buffers in bytes: small packets, plain packets, jumbo packets and small bursts, and super-packets. What is read into a large
/// buffer and would fit into a smaller one is copied there, which costs less than the memory.
const SIZES: [usize; 4] = [256, 2 * 1024, 16 * 1024, MAX_PACKET.next_multiple_of(4096)];

/// The class that holds every packet.
const LARGEST: usize = SIZES.len() - 1;

/// The length in bytes of a buffer that holds every packet.
pub(crate) const LARGE_BUFFER: usize = SIZES[LARGEST];

/// All of one worker's packets: 128 super-packets, or 4096 plain ones. The memory is taken when it is
/// needed, and given back when nothing waits any more.
const LIMITS: Limits = Limits { bytes: 8 << 20, packets: 4096 };

/// A packet out of the TUN.
pub(crate) struct Waiting {
    pub(crate) header: VnetHeader,
    bytes: Box<[u8]>,
    len: usize,
}

impl Waiting {
    /// The buffer that the packet was read into, and its length.
    pub(crate) fn buffer(&mut self) -> (&mut Box<[u8]>, usize) {
        (&mut self.bytes, self.len)
    }
}

/// Buffers for packets, and the fair queue of those that wait.
pub(crate) struct WaitingRoom {
    queue: FairQueue<Waiting>,
    hasher: FlowHasher,
    /// What the next packet is read into.
    reading: Box<[u8]>,
    spare: [Vec<Box<[u8]>>; SIZES.len()],
    spare_bytes: usize,
}

impl WaitingRoom {
    pub(crate) fn new(hasher: FlowHasher) -> Self {
        Self {
            queue: FairQueue::new(LIMITS),
            hasher,
            reading: zeroed(LARGEST),
            spare: std::array::from_fn(|_| Vec::new()),
            spare_bytes: 0,
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Where the next packet is read to: [`LARGE_BUFFER`] bytes, and not less than [`MAX_PACKET`].
    pub(crate) fn reading(&mut self) -> &mut Box<[u8]> {
        &mut self.reading
    }

    /// The flow to `peer` of the packet that was read last, of `len` bytes, and whether it is of TCP.
    pub(crate) fn flow_read(&self, peer: PeerId, len: usize) -> Result<(FlowId, bool), DropReason> {
        let packet = IpPacket::parse(&self.reading[..len])?;
        Ok((self.hasher.flow(peer, &packet), packet.protocol() == protocol::TCP))
    }

    /// Lets the packet wait that was read last, of `len` bytes and to `peer`.
    pub(crate) fn keep(
        &mut self,
        peer: PeerId,
        header: VnetHeader,
        len: usize,
        drops: &DropCounters,
    ) -> Result<(), DropReason> {
        let (flow, _) = self.flow_read(peer, len)?;
        let class = SIZES.iter().position(|&size| len <= size).unwrap_or(LARGEST);
        let mut bytes = match self.spare[class].pop() {
            Some(bytes) => {
                self.spare_bytes -= bytes.len();
                bytes
            }
            None => zeroed(class),
        };
        if class == LARGEST {
            std::mem::swap(&mut bytes, &mut self.reading);
        } else {
            bytes[..len].copy_from_slice(&self.reading[..len]);
        }
        let memory = bytes.len();
        let mut dropped = None;
        self.queue.push(flow, len, memory, Waiting { header, bytes, len }, |packet| {
            drops.count(DropReason::OutboundQueueFull);
            dropped = Some(packet);
        });
        if let Some(packet) = dropped {
            self.give_back(packet);
        }
        Ok(())
    }

    /// The next packet to be sealed; `gate` as in [`FairQueue::pop`]. It goes back with [`WaitingRoom::give_back`].
    pub(crate) fn next(
        &mut self,
        now: Instant,
        gate: impl FnMut(PeerId) -> Option<Instant>,
    ) -> Popped<Waiting> {
        self.queue.pop(now, gate)
    }

    /// Takes back the buffer of a packet that has been sent.
    pub(crate) fn give_back(&mut self, packet: Waiting) {
        let len = packet.bytes.len();
        // All classes together never hold more than the queue may.
        if self.spare_bytes + len <= LIMITS.bytes
            && let Some(class) = SIZES.iter().position(|&size| size == len)
        {
            self.spare_bytes += len;
            self.spare[class].push(packet.bytes);
        }
    }

    /// Gives back what is not needed while nothing waits.
    pub(crate) fn release_memory(&mut self) {
        self.queue.release_memory();
        self.spare = std::array::from_fn(|_| Vec::new());
        self.spare_bytes = 0;
    }
}

fn zeroed(class: usize) -> Box<[u8]> {
    vec![0; SIZES[class]].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(room: &mut WaitingRoom, len: usize, port: u8) -> usize {
        let bytes = room.reading();
        bytes[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        bytes[20..24].copy_from_slice(&[0, port, 0, 1]);
        bytes[24..len].fill(port);
        len
    }

    fn room() -> WaitingRoom {
        WaitingRoom::new(FlowHasher::new([1, 2]))
    }

    fn next(room: &mut WaitingRoom) -> Option<Waiting> {
        match room.next(Instant::from_nanos(0), |_| None) {
            Popped::Packet(packet) => Some(packet),
            _ => None,
        }
    }

    #[test]
    fn packets_of_all_sizes_come_out_as_they_went_in() {
        let (mut room, drops) = (room(), DropCounters::default());
        let sizes = [28, 256, 257, 2048, 2049, 1420, 16_384, 16_385, 65_535, 60];
        for len in sizes {
            let len = packet(&mut room, len, 7);
            room.keep(PeerId(1), VnetHeader { gso_size: 99, ..VnetHeader::default() }, len, &drops).unwrap();
        }
        for len in sizes {
            let mut waiting = next(&mut room).unwrap();
            assert_eq!(waiting.header.gso_size, 99);
            let (bytes, found) = waiting.buffer();
            assert_eq!(found, len);
            assert!(bytes[24..len].iter().all(|&byte| byte == 7));
            room.give_back(waiting);
        }
        assert!(room.is_empty() && room.spare_bytes > 0);
        room.release_memory();
        assert!(room.spare.iter().all(Vec::is_empty) && room.spare_bytes == 0);
    }

    #[test]
    fn what_is_too_much_is_counted_and_memory_stays_bounded() {
        let (mut room, drops) = (room(), DropCounters::default());
        for number in 0..10_000_u16 {
            let len = packet(&mut room, if number % 3 == 0 { 60_000 } else { 100 }, (number % 7) as u8);
            room.keep(PeerId(1), VnetHeader::default(), len, &drops).unwrap();
        }
        let mut kept = 0;
        while let Some(waiting) = next(&mut room) {
            kept += 1;
            room.give_back(waiting);
            assert!(room.spare_bytes <= LIMITS.bytes);
        }
        assert_eq!(kept + drops.get(DropReason::OutboundQueueFull), 10_000);
        assert!(kept >= 120);
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let (mut room, drops) = (room(), DropCounters::default());
        assert_eq!(room.keep(PeerId(1), VnetHeader::default(), 40, &drops), Err(DropReason::MalformedPacket));
        assert!(room.is_empty());
    }
}
