//! Opening of received datagrams by whoever has time, delivered in the order in which they came.

use std::sync::Arc;
use std::time::Duration;

use tombolo_noise::clock::Instant;

use super::line::Finished;
use super::{Line, Load, Pool, Work};
use crate::arena::Arena;
use crate::shared::Shared;

/// Bytes from which on a batch is worth handing over.
const LEAST: usize = 48 * 1024;

/// The most batches of one worker in progress: each has half a megabyte.
const MAX_DEPTH: usize = 6;

/// For how long arenas are kept that are not used.
const KEEP_ARENAS: Duration = Duration::from_secs(1);

impl Work for Arena {
    fn work(&mut self) {
        self.open();
    }
}

/// One inward worker's batches in progress.
pub(crate) struct OpeningLine {
    line: Line<Arena>,
    load: Load,
    #[allow(clippy::vec_box, reason = "in boxes they go to helpers")]
    spare: Vec<Box<Arena>>,
    used: Instant,
}

impl OpeningLine {
    pub(crate) fn new(pool: &Arc<Pool>, seat: usize) -> Self {
        Self {
            line: pool.opening_line(seat),
            load: Load::default(),
            spare: Vec::new(),
            used: Instant::from_nanos(0),
        }
    }

    /// Nothing waits to be received any more.
    pub(crate) fn drained(&mut self, now: Instant) {
        self.load.drained();
        if !self.spare.is_empty() && now.saturating_duration_since(self.used) >= KEEP_ARENAS {
            self.spare = Vec::new();
        }
    }

    /// The arena was filled, and more waits: whether others may be asked to open it.
    pub(crate) fn wants_help(&mut self, arena: &Arena) -> bool {
        if arena.received.iter().map(|read| read.len).sum::<usize>() < LEAST {
            return false;
        }
        self.load.found();
        self.line.wants_help(&self.load, arena.now)
    }

    /// Puts what was received last in the line, and an arena to be filled in its place.
    pub(crate) fn offer(&mut self, arena: &mut Box<Arena>) {
        self.used = arena.now;
        let spare = self.spare.pop().unwrap_or_else(|| Box::new(arena.another()));
        self.line.offer(std::mem::replace(arena, spare));
    }

    /// Gives everything that is done to `deliver`, up to the first that is not; and does some of it if that is too much.
    pub(crate) fn deliver_done(&mut self, shared: &Shared, mut deliver: impl FnMut(&mut Arena)) {
        loop {
            while let Some(finished) = self.line.next_done() {
                self.pass(finished, shared, &mut deliver);
            }
            if self.line.len() < self.line.depth().min(MAX_DEPTH) || !self.line.work() {
                return;
            }
        }
    }

    /// Gives everything to `deliver`.
    pub(crate) fn finish(&mut self, shared: &Shared, mut deliver: impl FnMut(&mut Arena)) {
        while let Some(finished) = self.line.next() {
            self.pass(finished, shared, &mut deliver);
        }
    }

    fn pass(&mut self, finished: Finished<Arena>, shared: &Shared, deliver: &mut impl FnMut(&mut Arena)) {
        let Finished { job: mut arena, helped } = finished;
        if helped {
            shared.assisted.add_opened(arena.received.len() as u64);
        }
        deliver(&mut arena);
        // A session that ends takes its keys along.
        arena.messages.clear();
        self.spare.push(arena);
    }
}
