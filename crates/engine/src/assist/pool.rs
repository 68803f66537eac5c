//! The workers of an engine, as those who may help each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tombolo_noise::clock::Instant;

use super::desk::Desk;
use super::line::Line;
use super::processors::Processors;
use super::sealing::Sealing;
use super::{Assist, Work};
use crate::arena::Arena;
use crate::shared::Waker;

/// The most jobs of one owner in progress: for each who works, two.
const MAX_DEPTH: usize = 12;

/// How often a helper looks for another job before it sleeps: a fraction of the time that waking it would take.
const LOOKS: u32 = 600;

/// Shared by all data threads of an engine.
pub(crate) struct Pool {
    seats: Box<[Seat]>,
    /// Workers that were woken to help and have not gone to sleep since.
    summoned: AtomicUsize,
    processors: Processors,
    assist: Assist,
}

/// One worker.
struct Seat {
    waker: Arc<Waker>,
    summoned: AtomicBool,
    sealing: Arc<Desk<Sealing>>,
    opening: Arc<Desk<Arena>>,
}

impl Pool {
    /// Of the workers that these wake.
    pub(crate) fn new(wakers: &[Arc<Waker>], assist: Assist) -> Self {
        let depth = depth_for(wakers.len(), assist);
        let seat = |waker: &Arc<Waker>| Seat {
            waker: Arc::clone(waker),
            summoned: AtomicBool::new(false),
            sealing: Arc::new(Desk::new(depth)),
            opening: Arc::new(Desk::new(depth)),
        };
        Self {
            seats: wakers.iter().map(seat).collect(),
            summoned: AtomicUsize::new(0),
            processors: Processors::new(),
            assist,
        }
    }

    /// How many jobs of one owner are in progress at most; 0: there is nobody who could help.
    pub(super) fn depth(&self) -> usize {
        depth_for(self.seats.len(), self.assist)
    }

    /// Whether help is asked for however little there is to do.
    pub(super) fn insists(&self) -> bool {
        self.assist == Assist::Always
    }

    pub(super) fn processor_is_free(&self, now: Instant) -> bool {
        self.processors.one_is_free(self.summoned.load(Ordering::Relaxed) > 0, now)
    }

    /// Whether another worker sleeps, or helps already.
    pub(super) fn somebody_has_time(&self, seat: usize) -> bool {
        self.others(seat).any(|other| other.summoned.load(Ordering::Relaxed) || other.waker.is_sleeping())
    }

    /// Wakes one more worker, if more jobs wait than workers are awake to help.
    pub(super) fn summon(&self, seat: usize, waiting: usize) {
        if waiting <= self.summoned.load(Ordering::Relaxed) {
            return;
        }
        let sleeper = self
            .others(seat)
            .find(|other| other.waker.is_sleeping() && !other.summoned.swap(true, Ordering::AcqRel));
        if let Some(other) = sleeper {
            self.summoned.fetch_add(1, Ordering::Relaxed);
            other.waker.wake();
        }
    }

    #[cfg(test)]
    pub(super) fn seats_awake(&self) -> Vec<bool> {
        self.seats.iter().map(|seat| seat.summoned.load(Ordering::Relaxed)).collect()
    }

    /// All but one, its neighbour first.
    fn others(&self, seat: usize) -> impl Iterator<Item = &Seat> {
        let (before, rest) = self.seats.split_at(seat.min(self.seats.len()));
        rest.iter().skip(1).chain(before)
    }

    pub(super) fn sealing_line(self: &Arc<Self>, seat: usize) -> Line<Sealing> {
        Line::new(Arc::clone(self), seat, self.seat_desk(seat, |seat| &seat.sealing))
    }

    pub(super) fn opening_line(self: &Arc<Self>, seat: usize) -> Line<Arena> {
        Line::new(Arc::clone(self), seat, self.seat_desk(seat, |seat| &seat.opening))
    }

    fn seat_desk<J: Work>(&self, seat: usize, which: impl Fn(&Seat) -> &Arc<Desk<J>>) -> Arc<Desk<J>> {
        self.seats.get(seat).map_or_else(|| Arc::new(Desk::new(0)), |seat| Arc::clone(which(seat)))
    }
}

fn depth_for(workers: usize, assist: Assist) -> usize {
    if assist == Assist::Never || workers < 2 { 0 } else { (2 * workers).min(MAX_DEPTH) }
}

/// A worker as a helper of the others.
pub(crate) struct Helper {
    pool: Arc<Pool>,
    seat: usize,
}

impl Helper {
    pub(crate) fn new(pool: Arc<Pool>, seat: usize) -> Self {
        Self { pool, seat }
    }

    /// Whether somebody could use help. To be asked once more after the worker has said that it is about to sleep.
    pub(crate) fn is_wanted(&self) -> bool {
        self.pool.others(self.seat).any(|seat| seat.sealing.has_offers() || seat.opening.has_offers())
    }

    /// Does a job of somebody else, if there is one, and then looks a short while for another one.
    pub(crate) fn help(&self) {
        if self.pool.others(self.seat).any(|seat| seat.sealing.help() || seat.opening.help()) {
            let mut looks = 0;
            while looks < LOOKS && !self.is_wanted() {
                std::hint::spin_loop();
                looks += 1;
            }
        }
    }

    /// The worker goes to sleep, or ends.
    pub(crate) fn rest(&self) {
        let Some(seat) = self.pool.seats.get(self.seat) else { return };
        if seat.summoned.load(Ordering::Relaxed) && seat.summoned.swap(false, Ordering::AcqRel) {
            self.pool.summoned.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.rest();
    }
}
