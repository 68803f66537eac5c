//! What the TUN hands over unfinished and wrong: counted, and given up where it does not stop.
//!
//! A kernel that leaves headers or checksums to us says in the virtio-net header what is left to do. Where that does not fit the packet, the
//! packet is lost; and where it happens again and again, the kernel (or what stands between it and us) gets it wrong, and is asked to finish such
//! packets itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tombolo_noise::clock::Instant;
use tombolo_packet::{GsoType, IpPacket, Offload, OffloadState, VnetHeader};
use tombolo_tun::{Queue, Reads};

/// So many within [`WINDOW`], and it is given up. Single ones are somebody's experiment with raw sockets, and nobody's fault.
const FAULTS_MAX: u32 = 8;
const WINDOW: Duration = Duration::from_secs(10);

/// Offloads that can be given up one by one, in the order of [`State::faults`].
const OFFLOADS: [Offload; 3] = [Offload::Checksum, Offload::Tso, Offload::Uso];
const CHECKSUM: usize = 0;
const TSO: usize = 1;
const USO: usize = 2;

/// Of one device. The lock is taken for malformed packets alone, and for `status`.
#[derive(Default)]
pub(crate) struct ReadFaults(Mutex<State>);

#[derive(Default)]
struct State {
    faults: [Faults; 3],
}

#[derive(Default)]
struct Faults {
    count: u64,
    given_up: bool,
    /// Since when, and how many.
    recent: Option<(Instant, u32)>,
}

impl Faults {
    /// One more; whether it is enough.
    fn note(&mut self, now: Instant) -> bool {
        self.count += 1;
        let (since, count) = match self.recent {
            Some((since, count)) if now.saturating_duration_since(since) < WINDOW => (since, count + 1),
            _ => (now, 1),
        };
        self.recent = Some((since, count));
        count >= FAULTS_MAX
    }
}

impl ReadFaults {
    /// A packet that `queue` gave was malformed, according to this header.
    #[cold]
    pub(crate) fn note_packet(&self, queue: &dyn Queue, header: VnetHeader, packet: &[u8], now: Instant) {
        let suspect = match header.gso_type {
            GsoType::Tcp4 | GsoType::Tcp6 => TSO,
            GsoType::Udp => USO,
            // The packet is whole, so that it was what is said of its checksum.
            GsoType::None if header.needs_checksum && IpPacket::parse(packet).is_ok() => CHECKSUM,
            GsoType::None => return,
        };
        self.note(queue, &[suspect], now);
    }

    /// A header could not be read: it speaks of super-packets that nobody asked for.
    #[cold]
    pub(crate) fn note_header(&self, queue: &dyn Queue, now: Instant) {
        self.note(queue, &[TSO, USO], now);
    }

    fn note(&self, queue: &dyn Queue, suspects: &[usize], now: Instant) {
        let mut state = self.state();
        let mut enough = false;
        for &suspect in suspects {
            let faults = &mut state.faults[suspect];
            enough |= faults.note(now) && !faults.given_up;
        }
        if !enough {
            return;
        }
        let gone = |index: usize| state.faults[index].given_up || suspects.contains(&index);
        let reads = Reads { checksum: !gone(CHECKSUM), tso: !gone(TSO), uso: !gone(USO) };
        if queue.limit_reads(reads).is_ok() {
            suspects.iter().for_each(|&suspect| state.faults[suspect].given_up = true);
        }
    }

    /// What became of an offload that was in use at start, and how often it was wrong. `None`: it is none that is read with.
    pub(crate) fn report(&self, offload: Offload) -> Option<(Option<OffloadState>, u64)> {
        let index = OFFLOADS.iter().position(|known| *known == offload)?;
        let state = self.state();
        let reason = if state.faults[CHECKSUM].given_up {
            Some("the system left checksums to be completed that lie outside of their packets")
        } else if state.faults[index].given_up {
            Some("the system handed over super-packets that are none")
        } else {
            None
        };
        Some((reason.map(OffloadState::Abandoned), state.faults[index].count))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Counters and flags are whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_tun::Offloads;
    use tombolo_tun::memory::pair;

    const SUPER: VnetHeader =
        VnetHeader { gso_type: GsoType::Tcp4, needs_checksum: true, gso_size: 1000, ..DEFAULT };
    const DEFAULT: VnetHeader = VnetHeader {
        needs_checksum: false,
        data_valid: false,
        gso_type: GsoType::None,
        ecn: false,
        header_len: 0,
        gso_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };
    const START: Instant = Instant::from_nanos(0);

    #[test]
    fn few_faults_at_long_intervals_change_nothing_and_many_at_once_end_it() {
        let (queue, host) = pair(Offloads::ALL).unwrap();
        let faults = ReadFaults::default();
        let mut now = START;
        for _ in 0..5 * FAULTS_MAX {
            now = now + WINDOW / (FAULTS_MAX - 2);
            faults.note_packet(&queue, SUPER, b"", now);
        }
        assert_eq!(host.reads(), Reads::ALL);
        assert_eq!(faults.report(Offload::Tso), Some((None, u64::from(5 * FAULTS_MAX))));
        now = now + WINDOW;
        for number in 0..FAULTS_MAX {
            assert!(host.reads().tso, "after {number}");
            faults.note_packet(&queue, SUPER, b"", now);
        }
        assert_eq!(host.reads(), Reads { tso: false, ..Reads::ALL });
        assert!(faults.report(Offload::Tso).unwrap().0.is_some());
        assert_eq!(faults.report(Offload::Uso).unwrap(), (None, 0));
        assert_eq!(faults.report(Offload::VnetHeader), None);
    }

    #[test]
    fn a_refusal_to_give_up_leaves_it_in_use_until_the_next_attempt() {
        let (queue, host) = pair(Offloads::ALL).unwrap();
        let faults = ReadFaults::default();
        host.fail_limit(22);
        for _ in 0..FAULTS_MAX {
            faults.note_packet(&queue, VnetHeader { gso_type: GsoType::Udp, ..SUPER }, b"", START);
        }
        assert_eq!((host.reads(), faults.report(Offload::Uso).unwrap().0), (Reads::ALL, None));
        faults.note_packet(&queue, VnetHeader { gso_type: GsoType::Udp, ..SUPER }, b"", START);
        assert_eq!(host.reads(), Reads { uso: false, ..Reads::ALL });
        assert!(faults.report(Offload::Uso).unwrap().0.is_some());
    }

    #[test]
    fn what_was_given_up_before_stays_given_up_when_more_is() {
        let (queue, host) = pair(Offloads::ALL).unwrap();
        let faults = ReadFaults::default();
        for _ in 0..FAULTS_MAX {
            faults.note_packet(&queue, VnetHeader { gso_type: GsoType::Udp, ..SUPER }, b"", START);
        }
        for _ in 0..FAULTS_MAX {
            faults.note_packet(&queue, SUPER, b"", START);
        }
        assert_eq!(host.reads(), Reads { checksum: true, tso: false, uso: false });
    }

    #[test]
    fn a_header_that_cannot_be_read_is_held_against_all_super_packets() {
        let (queue, host) = pair(Offloads::ALL).unwrap();
        let faults = ReadFaults::default();
        for _ in 0..FAULTS_MAX {
            faults.note_header(&queue, START);
        }
        assert_eq!(host.reads(), Reads { checksum: true, tso: false, uso: false });
    }
}
