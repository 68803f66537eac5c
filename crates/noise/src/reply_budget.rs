//! How many cookie replies are given, and to whom first (requirement 13).

use crate::clock::Instant;
use crate::rate_limit::Source;
use rand_core::CryptoRng;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// All of a second. A reply costs what a few transport messages cost: without a bound a flood takes as much of a processor
/// as it asks for.
const REPLIES_PER_SECOND: u64 = 10_000;

/// What was not used is kept for a tenth of a second.
const KEPT: u64 = REPLIES_PER_SECOND / 10;

/// Tokens are nanoseconds: a reply costs as many as pass until the next.
const COST: u64 = 1_000_000_000 / REPLIES_PER_SECOND;
const FULL: u64 = COST * KEPT;
/// Below this much it is drawn who of the few is answered, and nobody else is.
const HALF: u64 = FULL / 2;

/// A source that asked no more often within [`ROUND`] goes first. An honest peer asks once in five seconds.
const SELDOM: u8 = 8;
const ROUND: Duration = Duration::from_secs(1);

/// Counters of sources, a power of two.
const CELLS: usize = 4096;

/// The budget of cookie replies. Sources that ask seldom share all of it, and those that ask often what they leave; within each
/// it is drawn who is answered, so that nobody's flood shuts another out: neither that of one sender all others, nor that
/// of many any one of them, nor that of somebody who forges the address of a peer just this peer.
///
/// Sources share counters by chance, with another hash in each round: memory is 4 KiB whoever asks.
pub(crate) struct ReplyBudget {
    tokens: u64,
    updated: Instant,
    asked: Box<[u8; CELLS]>,
    round: Instant,
    /// Odd: what this round's hash multiplies by.
    multiplier: u64,
}

impl ReplyBudget {
    /// A full one.
    pub(crate) fn new() -> Self {
        let start = Instant::from_nanos(0);
        Self { tokens: FULL, updated: start, asked: Box::new([0; CELLS]), round: start, multiplier: 1 }
    }

    /// Whether one more message from `address`, with a valid mac1 and no valid mac2, is to be answered; if so it is counted.
    pub(crate) fn allow(
        &mut self,
        address: IpAddr,
        now: Instant,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> bool {
        let passed = now.saturating_duration_since(self.updated).as_nanos();
        self.updated = self.updated.max(now);
        self.tokens = self.tokens.saturating_add(u64::try_from(passed).unwrap_or(FULL)).min(FULL);
        let available =
            if self.is_seldom(address, now, rng) { self.tokens } else { self.tokens.saturating_sub(HALF) };
        let mut drawn = || (u64::from(rng.next_u32()) * HALF) >> 32;
        let allowed = available >= COST && (available >= HALF || drawn() < available);
        if allowed {
            self.tokens -= COST;
        }
        allowed
    }

    fn is_seldom(&mut self, address: IpAddr, now: Instant, rng: &mut (impl CryptoRng + ?Sized)) -> bool {
        if now.saturating_duration_since(self.round) >= ROUND || self.multiplier == 1 {
            self.round = now;
            self.multiplier = rng.next_u64() | 1;
            self.asked.fill(0);
        }
        let source = match Source::of(address) {
            Source::V4(address) => u64::from(address),
            Source::V6(network) => network.rotate_left(32),
        };
        // The upper bits of a product with a random odd number (Dietzfelbinger et al. 1997): two sources meet with a probability of 2 in CELLS.
        let cell = source.wrapping_mul(self.multiplier) >> (u64::BITS - CELLS.ilog2());
        let asked = &mut self.asked[cell as usize];
        *asked = asked.saturating_add(1);
        *asked <= SELDOM
    }
}

impl fmt::Debug for ReplyBudget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReplyBudget").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::seeded_rng;

    const SECONDS: u64 = 20;
    const FLOOD: u64 = 50_000;

    /// Sends [`FLOOD`] messages a second from `flooding`, each also numbered, and one a second from `honest`; counts who is answered.
    fn answered(flooding: impl Fn(u64) -> IpAddr, honest: impl Fn(u64) -> IpAddr) -> (u64, u64) {
        let mut rng = seeded_rng(1);
        let mut budget = ReplyBudget::new();
        let mut answered = (0, 0);
        for number in 0..SECONDS * FLOOD {
            let now = Instant::from_nanos(number * 1_000_000_000 / FLOOD);
            answered.0 += u64::from(budget.allow(flooding(number), now, &mut rng));
            // In the middle of the round, when who floods has shown it.
            if number % (FLOOD / 50) == FLOOD / 100 {
                answered.1 += u64::from(budget.allow(honest(number), now, &mut rng));
            }
        }
        answered
    }

    fn v4(number: u64) -> IpAddr {
        IpAddr::from((number as u32).to_be_bytes())
    }

    const MOST: u64 = SECONDS * REPLIES_PER_SECOND + KEPT;
    const ASKED: u64 = SECONDS * 50;

    #[test]
    fn the_flood_of_one_source_shuts_nobody_out_requirement_13() {
        // Honest ones from elsewhere, each once.
        let (flood, honest) = answered(|_| v4(7), |number| v4(1_000_000 + number * 77));
        assert!(flood <= MOST);
        assert!(honest >= ASKED * 99 / 100, "{honest} of {ASKED}");
        let network = |number: u64| IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(number)).to_be_bytes());
        let (flood, honest) = answered(network, |number| v4(1_000_000 + number * 77));
        assert!(flood <= MOST);
        assert!(honest >= ASKED * 99 / 100, "{honest} of {ASKED}: a /64 is one source");
    }

    #[test]
    fn of_a_flood_of_forged_addresses_a_fair_share_is_answered_requirement_13() {
        let forged = |number: u64| v4((number as u32).wrapping_mul(2_654_435_761).into());
        let (flood, honest) = answered(forged, |number| v4(1_000_000 + number * 77));
        assert!(flood <= MOST);
        // A fifth of all that ask: each try of an honest one has that chance.
        let share = ASKED * REPLIES_PER_SECOND / FLOOD;
        assert!((share / 2..=share * 2).contains(&honest), "{honest} of {ASKED}");
    }

    #[test]
    fn whoever_forges_a_peers_address_does_not_keep_it_from_a_cookie_requirement_13() {
        let (flood, honest) = answered(|_| v4(7), |_| v4(7));
        assert!(flood <= MOST);
        let share = ASKED * REPLIES_PER_SECOND / FLOOD;
        assert!((share / 2..=share * 2).contains(&honest), "{honest} of {ASKED}");
    }

    #[test]
    fn what_is_within_the_budget_is_answered_requirement_13() {
        let mut rng = seeded_rng(2);
        let mut budget = ReplyBudget::new();
        let mut answered = 0;
        for number in 0..5_000_u64 {
            let now = Instant::from_nanos(number * 1_000_000_000 / 2_500);
            answered += u64::from(budget.allow(v4(7), now, &mut rng));
        }
        assert!(answered >= 4_950, "{answered} of 5,000 in two seconds from one source");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut rng = seeded_rng(3);
        let mut budget = ReplyBudget::new();
        let late = Instant::from_nanos(9_000_000_000);
        let first = (0..5_000).filter(|&number| budget.allow(v4(number), late, &mut rng)).count() as u64;
        assert!(first <= KEPT);
        for number in 0..5_000 {
            budget.allow(v4(number), Instant::from_nanos(1), &mut rng);
        }
        let again = (0..50_000).filter(|&number| budget.allow(v4(number), late, &mut rng)).count() as u64;
        assert!(first + again <= KEPT, "{first}, {again}");
    }
}
