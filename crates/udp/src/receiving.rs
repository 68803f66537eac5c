//! What a socket has learnt about receiving, and when it does without `UDP_GRO`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tombolo_packet::OffloadState;

use crate::FallbackCounters;

/// Reads that the system got wrong before it is asked for datagrams one by one. A right one never is, whatever anybody sends: no
/// datagram is longer than a slot, and the lengths are the system's own.
const FAULTS_MAX: u64 = 8;

/// What is wrong with a message that the system gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Whole,
    /// It is a datagram that was cut off, or from nobody.
    Cut,
    /// It is several that were put together, and was cut off.
    CutRun,
    /// It may be several that were put together, and does not say how to take them apart.
    Undivided,
}

/// Shared by all threads that use the socket.
#[derive(Debug)]
pub(crate) struct ReceiveState {
    at_start: OffloadState,
    gro: AtomicBool,
    faults: AtomicU64,
    truncated: AtomicU64,
}

impl ReceiveState {
    pub(crate) fn new(gro: OffloadState) -> Self {
        Self {
            at_start: gro,
            gro: AtomicBool::new(gro.is_on()),
            faults: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
        }
    }

    pub(crate) fn gro(&self) -> bool {
        self.gro.load(Ordering::Relaxed)
    }

    /// What became of `UDP_GRO`.
    pub(crate) fn gro_state(&self) -> OffloadState {
        if self.at_start.is_on() && !self.gro() {
            OffloadState::Abandoned("the system put datagrams together that could not be taken apart")
        } else {
            self.at_start
        }
    }

    /// `counters` with those of receiving.
    pub(crate) fn count_in(&self, counters: FallbackCounters) -> FallbackCounters {
        FallbackCounters {
            gro_faults: self.faults.load(Ordering::Relaxed),
            truncated: self.truncated.load(Ordering::Relaxed),
            ..counters
        }
    }

    /// Counts what is wrong with a message. `true`: `UDP_GRO` is in use and to be switched off, see [`ReceiveState::give_up_gro`].
    #[inline]
    pub(crate) fn is_enough(&self, verdict: Verdict) -> bool {
        verdict != Verdict::Whole && self.note(verdict)
    }

    #[cold]
    fn note(&self, verdict: Verdict) -> bool {
        self.truncated.fetch_add(1, Ordering::Relaxed);
        if verdict == Verdict::Cut {
            return false;
        }
        let faults = 1 + self.faults.fetch_add(1, Ordering::Relaxed);
        faults >= FAULTS_MAX && self.gro()
    }

    /// `UDP_GRO` was switched off, if `done`. If not, it is tried again upon the next fault.
    pub(crate) fn give_up_gro(&self, done: bool) {
        if done {
            self.gro.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_end_it_and_datagrams_that_were_cut_do_not() {
        let state = ReceiveState::new(OffloadState::On);
        for _ in 0..100 {
            assert!(!state.is_enough(Verdict::Whole) && !state.is_enough(Verdict::Cut));
        }
        for number in 1..FAULTS_MAX {
            let verdict = if number % 2 == 0 { Verdict::CutRun } else { Verdict::Undivided };
            assert!(!state.is_enough(verdict), "{number}");
        }
        assert!(state.is_enough(Verdict::Undivided));
        state.give_up_gro(false);
        assert_eq!(state.gro_state(), OffloadState::On);
        assert!(state.is_enough(Verdict::Undivided), "it is tried again");
        state.give_up_gro(true);
        assert!(matches!(state.gro_state(), OffloadState::Abandoned(_)));
        assert!(!state.is_enough(Verdict::Undivided), "it is off");
        let counters = state.count_in(FallbackCounters::default());
        assert_eq!((counters.gro_faults, counters.truncated), (FAULTS_MAX + 2, 100 + FAULTS_MAX + 2));
    }

    #[test]
    fn what_was_off_at_the_start_keeps_its_reason() {
        let state = ReceiveState::new(OffloadState::SwitchedOff);
        assert!((0..2 * FAULTS_MAX).all(|_| !state.is_enough(Verdict::Undivided)));
        assert_eq!(state.gro_state(), OffloadState::SwitchedOff);
    }
}
