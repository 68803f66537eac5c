//! How jobs go from their owner to helpers and back.

use std::sync::OnceLock;
use std::thread::{self, Thread};

use crossbeam_queue::ArrayQueue;

use super::Work;

/// A job with its position in its owner's line.
pub(super) struct Ticket<J> {
    pub(super) number: u64,
    pub(super) job: Box<J>,
    /// Whether it was done; a helper that panicked gives it back as it is.
    pub(super) done: bool,
}

/// One owner's jobs: those that nobody has begun, and those that helpers have done.
pub(super) struct Desk<J> {
    offers: ArrayQueue<Ticket<J>>,
    done: ArrayQueue<Ticket<J>>,
    owner: OnceLock<Thread>,
}

impl<J: Work> Desk<J> {
    /// For at most `capacity` jobs at once, offered and not yet taken back.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            offers: ArrayQueue::new(capacity.max(1)),
            done: ArrayQueue::new(capacity.max(1)),
            owner: OnceLock::new(),
        }
    }

    /// Owner: says on which thread it will [`Desk::wait`].
    pub(super) fn occupy(&self) {
        self.owner.get_or_init(thread::current);
    }

    /// Owner: offers a job to whoever has time. Gives it back where there is no room.
    pub(super) fn offer(&self, ticket: Ticket<J>) -> Result<(), Ticket<J>> {
        self.offers.push(ticket)
    }

    /// Owner: the oldest job that nobody has begun.
    pub(super) fn take_back(&self) -> Option<Ticket<J>> {
        self.offers.pop()
    }

    /// Owner: a job that a helper has done, in no order.
    pub(super) fn take_done(&self) -> Option<Ticket<J>> {
        self.done.pop()
    }

    /// Owner: sleeps until a helper has done something, or for no reason.
    pub(super) fn wait(&self) {
        thread::park();
    }

    /// Jobs that nobody has begun.
    pub(super) fn offers(&self) -> usize {
        self.offers.len()
    }

    pub(super) fn has_offers(&self) -> bool {
        !self.offers.is_empty()
    }

    /// Helper: does the oldest job that nobody has begun. `false`: there is none.
    pub(super) fn help(&self) -> bool {
        let Some(ticket) = self.offers.pop() else { return false };
        let mut held = Held { desk: self, ticket: Some(ticket) };
        held.work();
        true
    }
}

/// A job in a helper's hands: it goes back whatever happens.
struct Held<'a, J> {
    desk: &'a Desk<J>,
    ticket: Option<Ticket<J>>,
}

impl<J: Work> Held<'_, J> {
    fn work(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.job.work();
            ticket.done = true;
        }
    }
}

impl<J> Drop for Held<'_, J> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            // There is room for all that was offered.
            let _ = self.desk.done.push(ticket);
        }
        if let Some(owner) = self.desk.owner.get() {
            owner.unpark();
        }
    }
}
