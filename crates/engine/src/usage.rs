//! Whether IP packets go to a peer or come from it, for an owner that looks now and then and wants to be told of the first of them.

use std::sync::atomic::{AtomicU8, Ordering};

/// No packets since two looks: the next one is announced.
const SILENT: u8 = 0;
/// None since the last look.
const WATCHED: u8 = 1;
/// Some since the last look.
const USED: u8 = 2;

/// Set by the workers, looked at by the control thread.
#[derive(Debug, Default)]
pub(crate) struct Usage(AtomicU8);

impl Usage {
    /// There is a packet. `true`: the owner has to be told, which one worker is told once.
    #[inline]
    pub(crate) fn note(&self) -> bool {
        // Reading first keeps the cache line shared between the workers.
        self.0.load(Ordering::Relaxed) != USED && self.0.swap(USED, Ordering::Relaxed) == SILENT
    }

    /// Whether there were packets since the last look.
    pub(crate) fn take(&self) -> bool {
        match self.0.load(Ordering::Relaxed) {
            SILENT => false,
            WATCHED => {
                // A packet that comes in between has its turn at the next look.
                let _ = self.0.compare_exchange(WATCHED, SILENT, Ordering::Relaxed, Ordering::Relaxed);
                false
            }
            _ => self.0.swap(WATCHED, Ordering::Relaxed) == USED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_after_two_silent_looks_is_announced() {
        let usage = Usage::default();
        assert!(usage.note(), "the first of all");
        assert!(!usage.note());
        assert!(usage.take());
        assert!(!usage.note(), "looked at lately: the next look sees it");
        assert!(usage.take());
        assert!(!usage.take());
        assert!(!usage.take());
        assert!(usage.note());
    }
}
