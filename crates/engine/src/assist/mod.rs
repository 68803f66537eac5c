//! Idle workers help busy ones.
//!
//! A worker that owns a stream of work (a TUN queue, a socket) may have more to seal or to open than one processor
//! can do, while other workers sleep. It then puts whole jobs, with everything that they need in buffers of their own, on
//! its [`Desk`], from where workers take them that have nothing else to do. What holds:
//!
//! - **Order.** A [`Line`] takes jobs in order and gives them back in that very order, each one done. So whoever
//!   reserves nonces before and sends after keeps nonces serial and the wire in order, with the AEAD in parallel between the two;
//!   and whoever opens between receiving and the replay window keeps that exact.
//! - **Nobody waits for help.** What no helper has begun, the owner does itself, the oldest first. It waits only for
//!   a job that a helper is in the midst of, when nothing else is left to do.
//! - **No lock, no allocation.** Jobs are boxes that move through bounded queues without locks and are used again. A helper
//!   is woken only when it sleeps.
//! - **A helper's own work comes first.** Between any two jobs it looks at what it waits for itself.
//! - **Help that does not help stops:** [`processors`] tells whether one is free, [`benefit`] whether it paid.
//! - **A helper that panics gives its job back.** Its owner does it again.

mod benefit;
mod desk;
mod line;
mod opening;
mod pool;
mod processors;
mod sealing;
#[cfg(test)]
mod sealing_oracle;
#[cfg(test)]
mod tests;

use line::{Line, Load};
pub(crate) use opening::OpeningLine;
pub(crate) use pool::{Helper, Pool};
pub(crate) use sealing::{Order, SealingLine};

use std::sync::atomic::{AtomicU64, Ordering};

/// When idle workers help a busy one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assist {
    /// Never: each worker does its own work.
    Never,
    /// While there is much to do, a processor is free, and it pays.
    #[default]
    WhenIdle,
    /// Whenever a worker sleeps, whatever else the processors do. For tests.
    Always,
}

/// Something to be done on any thread.
pub(crate) trait Work: Send {
    /// Does it. Must not block. After a panic in the midst of it, it is called again.
    fn work(&mut self);
}

/// What workers did for each other. Only ever grows.
#[derive(Debug, Default)]
pub(crate) struct AssistCounters {
    sealed: AtomicU64,
    opened: AtomicU64,
}

impl AssistCounters {
    pub(crate) fn add_sealed(&self, packets: u64) {
        self.sealed.fetch_add(packets, Ordering::Relaxed);
    }

    pub(crate) fn add_opened(&self, reads: u64) {
        self.opened.fetch_add(reads, Ordering::Relaxed);
    }

    pub(crate) fn status(&self) -> AssistStatus {
        AssistStatus {
            sealed: self.sealed.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
        }
    }
}

/// What idle workers did for busy ones since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssistStatus {
    /// Super-packets out of the TUN that another worker than the queue's sealed.
    pub sealed: u64,
    /// Reads from a socket, of one datagram or many, that another worker than the socket's opened.
    pub opened: u64,
}
