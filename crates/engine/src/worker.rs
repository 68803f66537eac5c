//! The loop of a data thread: fair turns for what it reads from, and how it waits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::assist::Helper;
use crate::busy_poll::BusyPoll;
use crate::clock;
use crate::deference::{Deference, Found};
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::shared::{Shared, Waker, wait_readable};

/// What one turn of a half came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// More may wait.
    More,
    /// Nothing waits any more.
    Empty,
}

/// Why a data thread ends before the engine does.
pub(crate) enum End {
    /// The TUN was deleted.
    TunGone,
    /// Something that the engine cannot mend.
    Failed(String),
}

impl End {
    pub(crate) fn failed(what: &str, error: &io::Error) -> Self {
        Self::Failed(format!("{what} failed: {error}"))
    }
}

/// A data thread: out, in, or both by turns.
pub(crate) struct Worker<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) waker: Arc<Waker>,
    pub(crate) outbound: Option<Outbound<'a>>,
    pub(crate) inbound: Option<Inbound<'a>>,
    pub(crate) poll: BusyPoll,
    pub(crate) deference: Deference,
    pub(crate) helper: Helper,
}

impl Worker<'_> {
    /// Runs until the engine stops.
    pub(crate) fn run(mut self) {
        match self.serve() {
            Ok(()) => {}
            Err(End::TunGone) => self.shared.report_tun_gone(),
            Err(End::Failed(what)) => self.shared.report_failure(what),
        }
    }

    fn serve(&mut self) -> Result<(), End> {
        // What came before the first wait is looked for once.
        let (mut out_waits, mut in_waits) = (true, true);
        while !self.shared.stopping() {
            if let Some(outbound) = self.outbound.as_mut().filter(|_| out_waits) {
                out_waits = outbound.turn()? == Turn::More;
            }
            if let Some(inbound) = self.inbound.as_mut().filter(|_| in_waits) {
                in_waits = inbound.turn()? == Turn::More;
            }
            let busy = self.outbound.is_some() && out_waits || self.inbound.is_some() && in_waits;
            self.note_found();
            if busy {
                self.poll.found();
            } else if !self.helper.is_wanted() && self.deference.is_due() {
                std::thread::yield_now();
                self.deference.returned(clock::boot());
                (out_waits, in_waits) = self.look_again();
            } else if !self.helper.is_wanted() && self.poll.goes_on() {
                std::thread::yield_now();
                (out_waits, in_waits) = self.look_again();
            } else {
                (out_waits, in_waits) = self.park()?;
            }
        }
        Ok(())
    }

    /// What the turns found.
    fn note_found(&mut self) {
        let outwards = self.outbound.as_mut().map(Outbound::take_found);
        let inwards = self.inbound.as_mut().map(Inbound::take_found);
        match outwards.max(inwards) {
            None | Some(Found::Nothing) => {}
            Some(Found::Acknowledgements) => self.deference.acknowledged(clock::boot()),
            Some(Found::Other) => self.deference.interrupted(),
        }
    }

    /// Both halves look whether something can be read, without having been told.
    fn look_again(&mut self) -> (bool, bool) {
        if let Some(inbound) = &mut self.inbound {
            inbound.set_readable([true; 2]);
        }
        (true, true)
    }

    /// Sleeps until something can be read, or helps others until then; says whether something can be read by the outward and the
    /// inward half.
    fn park(&mut self) -> Result<(bool, bool), End> {
        self.waker.prepare();
        if self.shared.stopping() {
            return Ok((false, false));
        }
        // After `prepare`: whoever offers from here on wakes the thread.
        let helps = self.helper.is_wanted();
        if !helps {
            self.helper.rest();
        }
        // Also after it: whoever puts other sockets in their place wakes the thread.
        let [v4, v6] = match &mut self.inbound {
            Some(inbound) => inbound.descriptors(),
            None => [None, None],
        };
        let tun = self.outbound.as_ref().map(Outbound::descriptor);
        let timeout = self.outbound.as_ref().and_then(Outbound::timeout);
        let slept = if helps { None } else { self.poll.parks() };
        let wait = if helps { Some(Duration::ZERO) } else { timeout };
        let [tun, v4, v6] = wait_readable(&self.waker, [tun, v4, v6], wait)
            .map_err(|error| End::failed("waiting for packets", &error))?;
        self.poll.woke(slept);
        self.waker.finish();
        if helps && ![tun, v4, v6].contains(&true) {
            self.helper.help();
        }
        if let Some(inbound) = &mut self.inbound {
            inbound.set_readable([v4, v6]);
        }
        // What was parked in the queue may be due, whether or not there is more to read.
        Ok((tun || timeout.is_some_and(|time| !helps || time.is_zero()), v4 || v6))
    }
}
