//! How large a packet to a peer may be: path MTU discovery within the tunnel, after RFC 8899 (DPLPMTUD).
//!
//! [`PathMtu`] is a state machine without clock or sockets. All sizes are those of *inner* packets: what a transport
//! message carries, without the 60 (IPv4) or 80 bytes (IPv6) around it. Probes are control frames, sealed like data
//! and filled up to the size that is tried, sent with the don't-fragment bit; the peer answers what it received.
//!
//! | RFC 8899 | here |
//! |---|---|
//! | Base (§5.2) | [`Purpose::Base`]: does the peer answer at all? Until it does, one small probe at a time |
//! | Searching | [`Purpose::Search`]: several sizes at once, so that a round trip tells much |
//! | Search complete | no round runs; [`PathMtu::limit`] holds |
//! | black hole detection (§4.3) | [`Purpose::Confirm`]: the size in use and the base, when silence is suspicious and by the clock |
//! | Error | [`PathMtu::is_silent`]: nothing answers; as with any WireGuard peer the route's MTU is used, unprobed |
//!
//! Only answers move the limit: no ICMP message of the underlay, which nobody authenticates, has a say, and nothing brings it
//! below [`BASE`]. All waiting is done only while packets go to the peer: an idle tunnel is silent.

mod frame;
mod shared;
#[cfg(test)]
mod tests;

use std::time::Duration;

use arrayvec::ArrayVec;
use tombolo_noise::clock::Instant;

pub(crate) use frame::{HEADER_LEN, PathFrame, is_exploring, is_frame, is_path_frame};
pub(crate) use shared::{OVERHEAD, PeerPath};

/// The inner size that every path is taken to carry: IPv6's least MTU of 1280 bytes (RFC 8200 §5), less the headers over IPv6.
pub(crate) const BASE: u16 = 1280 - OVERHEAD;

/// Sizes that links are known to have, less the headers: tried first. Mobile and tunnelled links, PPPoE, Ethernet over
/// IPv6 and over IPv4, and jumbo frames as clouds and switches have them.
const USUAL_SIZES: [u16; 10] = [1320, 1372, 1380, 1412, 1420, 1440, 1920, 3920, 8816, 8920];

/// A search is over when it knows the size to this many bytes.
const GRANULARITY: u16 = 8;
/// How often a size is tried before it counts as too large (RFC 8899 §5.1.2, MAX_PROBES).
const ATTEMPTS: u8 = 3;
/// Sizes tried at once after the first round.
const SPREAD: u32 = 4;
const MAX_CANDIDATES: usize = USUAL_SIZES.len() + 2;

/// Time to wait for an answer: three round trips, within these bounds.
const LEAST_WAIT: Duration = Duration::from_millis(200);
const MOST_WAIT: Duration = Duration::from_secs(2);
/// The same while no round trip is known (RFC 8899 §5.1.1 has 1 s as least for paths of which nothing is known).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// While packets go to a peer it is looked this often whether it is still heard.
const LOOK: Duration = Duration::from_millis(500);
/// Packets that nothing at all came back to for so long make the size a suspect.
const SUSPICIOUS_SILENCE: Duration = Duration::from_secs(1);
/// Longest time until a peer that answers no probe is tried again.
const MOST_RETRY: Duration = Duration::from_secs(600);

/// What a search may be told by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Between two confirmations of the size in use (RFC 8899 §5.1.1, CONFIRMATION_TIMER).
    pub(crate) confirm: Duration,
    /// Between two attempts to find a larger size (PMTU_RAISE_TIMER).
    pub(crate) raise: Duration,
}

/// A probe to be sent: filled up to `size` bytes of plaintext, and not to be fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) id: u64,
    pub(crate) size: u16,
}

/// What became of the packets to the peer since the last look.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Some were sent.
    pub(crate) sent: bool,
    /// For how long packets have gone out and nothing authenticated has come back.
    pub(crate) unanswered: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Base,
    Search,
    Confirm,
}

#[derive(Clone, Debug)]
struct Candidate {
    size: u16,
    /// To be sent.
    due: bool,
    answered: bool,
    sent: ArrayVec<(u64, Instant), { ATTEMPTS as usize }>,
}

/// Probes that are under way together.
#[derive(Clone, Debug)]
struct Round {
    purpose: Purpose,
    candidates: ArrayVec<Candidate, MAX_CANDIDATES>,
    attempts: u8,
    deadline: Instant,
}

/// The search for one peer's path.
#[derive(Clone, Debug)]
pub(crate) struct PathMtu {
    timing: Timing,
    limit: u16,
    /// No packet is to be larger: the interface, or the device that the route leaves by.
    ceiling: u16,
    /// Largest size that was answered on this path; 0: none yet.
    proven: u16,
    /// In a search, the smallest size that is known not to pass.
    refused: u16,
    /// The peer has shown that it knows probes.
    speaks: bool,
    round: Option<Round>,
    round_trip: Option<Duration>,
    next_id: u64,
    confirmed_at: Instant,
    raise_at: Instant,
    look_at: Instant,
    /// How long to leave a silent peer alone.
    retry: Duration,
    silent: bool,
    awake: bool,
}

impl PathMtu {
    /// A search that has not begun. Until it has found something the limit is `ceiling`, which is what would be used
    /// without it.
    pub(crate) fn new(ceiling: u16, timing: Timing) -> Self {
        let start = Instant::default();
        Self {
            timing,
            limit: ceiling.max(BASE),
            ceiling: ceiling.max(BASE),
            proven: 0,
            refused: 0,
            speaks: false,
            round: None,
            round_trip: None,
            next_id: 0,
            confirmed_at: start,
            raise_at: start,
            look_at: start,
            retry: timing.raise,
            silent: false,
            awake: false,
        }
    }

    /// Largest inner packet in bytes.
    pub(crate) fn limit(&self) -> u16 {
        self.limit
    }

    /// Whether the limit was proven by an answer on this path.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven >= self.limit
    }

    /// Whether probes are under way.
    pub(crate) fn is_searching(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.purpose != Purpose::Confirm)
    }

    /// Whether the peer leaves probes unanswered.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// The peer is at a new place, or the way there has changed: what is known of the path is void. A limit that was found
    /// holds until more is known, since most paths are alike.
    pub(crate) fn begin(&mut self, ceiling: u16, round_trip: Option<Duration>, now: Instant) {
        self.ceiling = ceiling.max(BASE);
        self.limit = if self.proven == 0 { self.ceiling } else { self.limit.min(self.ceiling) };
        self.proven = 0;
        self.round_trip = round_trip;
        self.silent = false;
        self.retry = self.timing.raise;
        self.awake = true;
        self.look_at = now + LOOK;
        if self.speaks { self.search(0, now) } else { self.start(Purpose::Base, &[BASE], now) }
    }

    /// The device or the interface takes more, or less, than before.
    pub(crate) fn set_ceiling(&mut self, ceiling: u16, now: Instant) {
        let ceiling = ceiling.max(BASE);
        if ceiling > self.ceiling {
            self.raise_at = now;
        }
        if self.silent || self.proven == 0 && self.limit == self.ceiling {
            self.limit = ceiling;
        }
        if ceiling < self.ceiling {
            // What is under way may be larger than that.
            self.round = None;
            self.proven = self.proven.min(ceiling);
        }
        self.ceiling = ceiling;
        self.limit = self.limit.min(ceiling);
    }

    /// Packets go to the peer, after a time when none did and nobody looked.
    pub(crate) fn wake(&mut self, now: Instant) {
        if !self.awake {
            self.awake = true;
            self.look_at = self.look_at.max(now);
        }
    }

    /// The peer sent a frame, so that it knows them.
    pub(crate) fn note_speaks(&mut self, now: Instant) {
        self.speaks = true;
        if std::mem::take(&mut self.silent) {
            self.awake = true;
            self.retry = self.timing.raise;
            self.search(0, now);
        }
    }

    /// An answer. What answers no probe of ours, or says another size than was sent, is nothing.
    pub(crate) fn handle_answer(&mut self, id: u64, size: u16, now: Instant) {
        let Some(round) = &mut self.round else { return };
        let found = round.candidates.iter_mut().find_map(|candidate| {
            let sent = candidate.sent.iter().find(|sent| sent.0 == id)?.1;
            (candidate.size == size).then_some((candidate, sent))
        });
        let Some((candidate, sent)) = found else { return };
        candidate.answered = true;
        let sample = now.saturating_duration_since(sent);
        self.round_trip = Some(self.round_trip.map_or(sample, |before| (before * 7 + sample) / 8));
        self.speaks = true;
        self.proven = self.proven.max(size);
        self.limit = self.limit.max(size.min(self.ceiling));
        self.advance(now);
    }

    /// The system refused the probe: it is larger than the first link takes.
    pub(crate) fn handle_too_big(&mut self, id: u64, now: Instant) {
        let Some(round) = &mut self.round else { return };
        let sent_as = |candidate: &Candidate| candidate.sent.iter().any(|sent| sent.0 == id);
        let Some(position) = round.candidates.iter().position(sent_as) else { return };
        let size = round.candidates[position].size;
        if size <= BASE {
            return;
        }
        round.candidates.retain(|candidate| candidate.size < size || candidate.answered);
        self.refused = self.refused.min(size);
        if self.limit >= size {
            self.limit = self.proven.clamp(BASE, size - 1);
        }
        self.advance(now);
    }

    /// When to call [`PathMtu::handle_timeout`] next; `None`: not before [`PathMtu::wake`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if !self.awake {
            return None;
        }
        Some(self.round.as_ref().map_or(self.look_at, |round| round.deadline))
    }

    /// Whether [`PathMtu::handle_timeout`] would ask about the traffic: telling takes the knowledge away.
    pub(crate) fn wants_traffic(&self, now: Instant) -> bool {
        self.round.is_none() && self.awake && self.look_at <= now
    }

    /// The next probe to send now.
    pub(crate) fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        let round = self.round.as_mut()?;
        let candidate = round.candidates.iter_mut().find(|candidate| candidate.due)?;
        candidate.due = false;
        let id = self.next_id;
        self.next_id += 1;
        if candidate.sent.is_full() {
            candidate.sent.remove(0);
        }
        candidate.sent.push((id, now));
        Some(Probe { id, size: candidate.size })
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, traffic: Traffic, now: Instant) {
        match &self.round {
            Some(round) if round.deadline <= now => self.unanswered(now),
            None if self.awake && self.look_at <= now => self.look(traffic, now),
            _ => {}
        }
    }

    /// No round runs: whether there is a reason for one.
    fn look(&mut self, traffic: Traffic, now: Instant) {
        if !traffic.sent {
            // The next packet wakes us.
            self.awake = false;
            self.look_at = now;
            return;
        }
        self.look_at = now + LOOK;
        if self.silent {
            if self.raise_at <= now {
                self.start(Purpose::Base, &[BASE], now);
            } else {
                self.look_at = self.raise_at;
            }
            return;
        }
        let age = now.saturating_duration_since(self.confirmed_at);
        let suspicious = traffic.unanswered >= SUSPICIOUS_SILENCE && age >= SUSPICIOUS_SILENCE;
        if self.proven == 0 {
            self.search(0, now);
        } else if suspicious || age >= self.timing.confirm {
            self.start(Purpose::Confirm, &[BASE, self.limit], now);
        } else {
            self.raise(now);
        }
    }

    /// Looks for a larger size if it is time to.
    fn raise(&mut self, now: Instant) {
        if self.limit < self.ceiling && self.raise_at <= now {
            self.search(self.limit, now);
        }
    }

    /// Begins to look for the largest size above `floor`.
    fn search(&mut self, floor: u16, now: Instant) {
        self.proven = floor;
        self.refused = self.ceiling.saturating_add(1);
        let sizes: ArrayVec<u16, MAX_CANDIDATES> = std::iter::once(BASE)
            .chain(USUAL_SIZES)
            .filter(|size| (floor + 1..self.ceiling).contains(size))
            .chain([self.ceiling])
            .collect();
        self.start(Purpose::Search, &sizes, now);
    }

    fn start(&mut self, purpose: Purpose, sizes: &[u16], now: Instant) {
        let mut candidates: ArrayVec<Candidate, MAX_CANDIDATES> = ArrayVec::new();
        for &size in sizes {
            if candidates.last().is_none_or(|last| last.size < size) {
                candidates.push(Candidate { size, due: true, answered: false, sent: ArrayVec::new() });
            }
        }
        self.round = Some(Round { purpose, candidates, attempts: 1, deadline: now + self.patience() });
    }

    fn patience(&self) -> Duration {
        self.round_trip.map_or(FIRST_WAIT, |time| (time * 3).clamp(LEAST_WAIT, MOST_WAIT))
    }

    /// Something was answered or refused: whether the round is over before its time.
    fn advance(&mut self, now: Instant) {
        let Some(round) = &self.round else { return };
        let over = match round.purpose {
            Purpose::Base => self.proven >= BASE,
            // What is smaller than an answered size passes too.
            Purpose::Search => round.candidates.iter().all(|candidate| candidate.size <= self.proven),
            Purpose::Confirm => round.candidates.last().is_none_or(|largest| largest.answered),
        };
        if over {
            self.finish(now);
        }
    }

    /// The time of a round is up.
    fn unanswered(&mut self, now: Instant) {
        let patience = self.patience();
        let (proven, attempts) = (self.proven, ATTEMPTS);
        let Some(round) = &mut self.round else { return };
        if round.attempts >= attempts {
            return self.finish(now);
        }
        round.attempts += 1;
        round.deadline = now + patience;
        let confirming = round.purpose == Purpose::Confirm;
        for candidate in &mut round.candidates {
            candidate.due = !candidate.answered && (confirming || candidate.size > proven);
        }
        // What was only taken for granted gives way to what was answered, before it is given up altogether.
        if !confirming && proven >= BASE {
            self.limit = self.limit.min(proven);
        }
    }

    /// Draws the conclusion of a round, which was answered or given up.
    fn finish(&mut self, now: Instant) {
        let Some(round) = self.round.take() else { return };
        match round.purpose {
            Purpose::Base if self.proven >= BASE => {
                self.silent = false;
                self.retry = self.timing.raise;
                self.search(self.proven, now);
            }
            Purpose::Base => {
                self.silent = true;
                self.limit = self.ceiling;
                self.raise_at = now + self.retry;
                self.retry = (self.retry * 2).min(MOST_RETRY.max(self.timing.raise));
                self.look_at = self.raise_at;
            }
            Purpose::Search if self.proven < BASE => {
                // Not even the base came through: no question of size. What was used stays.
                self.look_at = now + self.timing.confirm;
            }
            Purpose::Search => {
                self.limit = self.proven;
                let failed = round.candidates.iter().map(|candidate| candidate.size);
                let failed = failed.filter(|&size| size > self.proven).min();
                self.refused = failed.map_or(self.refused, |failed| self.refused.min(failed));
                let gap = u32::from(self.refused.saturating_sub(self.proven));
                if gap > u32::from(GRANULARITY) {
                    let part = |index| self.proven + (gap * index / (SPREAD + 1)) as u16;
                    let sizes: ArrayVec<u16, { SPREAD as usize }> = (1..=SPREAD).map(part).collect();
                    self.start(Purpose::Search, &sizes, now);
                } else {
                    if round.candidates.iter().any(|candidate| candidate.answered) {
                        self.confirmed_at = now;
                    }
                    self.raise_at = now + self.timing.raise;
                    self.look_at = now + LOOK;
                }
            }
            Purpose::Confirm => {
                let answered = |size: u16| {
                    round.candidates.iter().any(|candidate| candidate.size == size && candidate.answered)
                };
                self.confirmed_at = now;
                self.look_at = now + LOOK;
                if self.limit > BASE && !answered(self.limit) && answered(BASE) {
                    // A black hole (RFC 8899 §4.3): small packets pass, those of the size in use do not.
                    self.limit = BASE;
                    self.search(BASE, now);
                } else if answered(self.limit) {
                    self.raise(now);
                }
            }
        }
    }
}
