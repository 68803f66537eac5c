//! An owner's jobs in progress, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use tombolo_noise::clock::Instant;

use super::Work;
use super::benefit::Benefit;
use super::desk::{Desk, Ticket};
use super::pool::Pool;
use crate::clock;

/// How often an owner looks for a job that is in somebody else's hands before it sleeps: as long as one takes.
const LOOKS: u32 = 1000;

/// A job that is done.
pub(crate) struct Finished<J> {
    pub(crate) job: Box<J>,
    /// By another than its owner.
    pub(crate) helped: bool,
}

/// One owner's jobs in progress, the oldest first. Stays on the thread of its owner.
pub(crate) struct Line<J> {
    pool: Arc<Pool>,
    seat: usize,
    desk: Arc<Desk<J>>,
    /// `None`: not done yet.
    slots: VecDeque<Option<Finished<J>>>,
    /// Number of the first slot.
    first: u64,
    depth: usize,
    benefit: Benefit,
}

impl<J: Work> Line<J> {
    /// For the worker at `seat` of the pool, whose desk this is.
    pub(super) fn new(pool: Arc<Pool>, seat: usize, desk: Arc<Desk<J>>) -> Self {
        let depth = pool.depth();
        let slots = VecDeque::with_capacity(if depth == 0 { 0 } else { depth + 1 });
        Self { pool, seat, desk, slots, first: 0, depth, benefit: Benefit::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many jobs are in progress at most; 0: there is nobody who could help.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Whether it is worth while to offer jobs rather than to do them at once. `load`: how much there is to do.
    #[inline]
    pub(crate) fn wants_help(&mut self, load: &Load, now: Instant) -> bool {
        self.depth > 0 && load.is_high(self.pool.insists()) && self.help_is_near(now)
    }

    fn help_is_near(&mut self, now: Instant) -> bool {
        if !self.pool.somebody_has_time(self.seat) {
            return false;
        }
        self.pool.insists() || self.benefit.is_likely(now) && self.pool.processor_is_free(now)
    }

    /// Puts a job last in the line, to be done by whoever comes to it first.
    pub(crate) fn offer(&mut self, job: Box<J>) {
        self.desk.occupy();
        if self.slots.is_empty() {
            self.benefit.begin(clock::boot());
        }
        let ticket = Ticket { number: self.first + self.slots.len() as u64, job, done: false };
        match self.desk.offer(ticket) {
            Ok(()) => {
                self.slots.push_back(None);
                self.pool.summon(self.seat, self.desk.offers());
            }
            Err(mut ticket) => {
                ticket.job.work();
                self.slots.push_back(Some(Finished { job: ticket.job, helped: false }));
            }
        }
    }

    /// Puts something last in the line that is done already.
    pub(crate) fn append_done(&mut self, job: Box<J>) {
        self.slots.push_back(Some(Finished { job, helped: false }));
    }

    /// The oldest job, if it is done.
    pub(crate) fn next_done(&mut self) -> Option<Finished<J>> {
        while let Some(ticket) = self.desk.take_done() {
            self.put(ticket, true);
        }
        let finished = self.slots.front_mut()?.take()?;
        self.slots.pop_front();
        self.first += 1;
        self.benefit.count(finished.helped);
        if self.slots.is_empty() || self.benefit.is_due() {
            let now = clock::boot();
            self.benefit.end(now);
            if !self.slots.is_empty() {
                self.benefit.begin(now);
            }
        }
        Some(finished)
    }

    /// The oldest job, done; `None`: there is none. Does what nobody has begun, and waits for what somebody has.
    pub(crate) fn next(&mut self) -> Option<Finished<J>> {
        loop {
            if let Some(finished) = self.next_done() {
                return Some(finished);
            }
            if self.slots.is_empty() {
                return None;
            }
            if !self.work() {
                self.wait();
            }
        }
    }

    /// Does the oldest job that nobody has begun. `false`: there is none.
    pub(crate) fn work(&mut self) -> bool {
        let Some(mut ticket) = self.desk.take_back() else { return false };
        ticket.job.work();
        ticket.done = true;
        self.put(ticket, false);
        true
    }

    fn put(&mut self, mut ticket: Ticket<J>, helped: bool) {
        if !ticket.done {
            ticket.job.work();
        }
        let helped = helped && ticket.done;
        let position =
            ticket.number.checked_sub(self.first).and_then(|position| usize::try_from(position).ok());
        if let Some(slot) = position.and_then(|position| self.slots.get_mut(position)) {
            *slot = Some(Finished { job: ticket.job, helped });
        }
    }

    /// Waits for a job that is in a helper's hands.
    fn wait(&mut self) {
        let before = clock::boot();
        for _ in 0..LOOKS {
            if let Some(ticket) = self.desk.take_done() {
                return self.put(ticket, true);
            }
            std::hint::spin_loop();
        }
        loop {
            if let Some(ticket) = self.desk.take_done() {
                self.put(ticket, true);
                break;
            }
            self.desk.wait();
        }
        self.benefit.waited(clock::boot().saturating_duration_since(before));
    }
}

/// How much there is to do for one owner: whether more waits each time it looks.
#[derive(Default)]
pub(crate) struct Load {
    level: u32,
}

impl Load {
    /// From which level on help is asked for. A burst is over before a helper is awake.
    const HIGH: u32 = 6;
    const HIGHEST: u32 = 24;

    /// Something large was there to be done.
    pub(crate) fn found(&mut self) {
        self.level = (self.level + 1).min(Self::HIGHEST);
    }

    /// Nothing waits any more.
    pub(crate) fn drained(&mut self) {
        self.level /= 2;
    }

    fn is_high(&self, insists: bool) -> bool {
        insists || self.level >= Self::HIGH
    }
}
