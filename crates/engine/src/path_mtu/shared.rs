//! What the data workers see of a peer's path: one number to read, and one flag to raise, once per batch.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Bytes that a tunnel adds to an inner packet at most: IPv6 40, UDP 8, transport header and tag 32.
pub(crate) const OVERHEAD: u16 = 80;

/// Nobody looks at whether packets are sent.
const UNHEEDED: u8 = 0;
/// The control thread wants to be told of the next packet.
const DORMANT: u8 = 1;
/// The control thread will look by itself.
const WATCHED: u8 = 2;
/// As [`WATCHED`], and there were packets.
const USED: u8 = 3;

/// A peer's path. The control thread writes the limit, and reads the use; workers do the opposite.
#[derive(Debug)]
pub(crate) struct PeerPath {
    limit: AtomicU32,
    state: AtomicU8,
}

impl PeerPath {
    /// A path that takes what the interface takes.
    pub(crate) fn new() -> Self {
        Self { limit: AtomicU32::new(u32::MAX), state: AtomicU8::new(UNHEEDED) }
    }

    /// Largest inner packet in bytes; greater than any packet where only the interface limits it.
    #[inline]
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed) as usize
    }

    pub(crate) fn set_limit(&self, limit: Option<u16>) {
        self.limit.store(limit.map_or(u32::MAX, u32::from), Ordering::Relaxed);
    }

    /// Worker: packets go to the peer. `true`: the control thread must be told, once.
    #[inline]
    pub(crate) fn note_use(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state == UNHEEDED || state == USED {
            return false;
        }
        // Never a plain store: it would overwrite a DORMANT that the control thread wrote meanwhile.
        let result = self.state.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |state| {
            (state == DORMANT || state == WATCHED).then_some(USED)
        });
        result == Ok(DORMANT)
    }

    /// Control thread: begins to watch, or goes on, and says whether there were packets since the last time.
    pub(crate) fn watch(&self) -> bool {
        self.state.swap(WATCHED, Ordering::AcqRel) == USED
    }

    /// Control thread: stops watching until the next packet. `false`: there was one a moment ago.
    pub(crate) fn sleep(&self) -> bool {
        self.state.compare_exchange(WATCHED, DORMANT, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Control thread: is not interested any more.
    pub(crate) fn ignore(&self) {
        self.state.store(UNHEEDED, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_after_a_rest_is_announced_and_no_other() {
        let path = PeerPath::new();
        assert!(!path.note_use(), "nobody looks");
        assert!(!path.watch());
        assert!(!path.note_use() && !path.note_use());
        assert!(!path.sleep(), "packets were sent");
        assert!(path.watch() && !path.watch());
        assert!(path.sleep());
        assert!(path.note_use() && !path.note_use());
        assert!(path.watch());
    }

    #[test]
    fn no_packet_is_lost_between_threads() {
        for _ in 0..2_000 {
            let path = PeerPath::new();
            path.watch();
            let (announced, slept) = std::thread::scope(|scope| {
                let worker = scope.spawn(|| path.note_use());
                let control = scope.spawn(|| path.sleep());
                (worker.join().unwrap(), control.join().unwrap())
            });
            assert!(announced == slept, "either the sleeper saw it, or it is woken");
        }
    }
}
