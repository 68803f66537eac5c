//! Letting others run first, for threads that carry nothing but acknowledgements of somebody's bulk transfer.

use std::time::Duration;

use tombolo_noise::clock::Instant;
use tombolo_packet::ip::IpPacket;

/// What a turn found to carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Found {
    /// Nothing.
    #[default]
    Nothing,
    /// TCP acknowledgements without data, and nothing else.
    Acknowledgements,
    /// Something that somebody may wait for.
    Other,
}

impl Found {
    /// There is one more packet.
    #[inline]
    pub(crate) fn note(&mut self, packet: &[u8]) {
        // The first that is no acknowledgement decides.
        if *self != Self::Other {
            let bare = IpPacket::parse(packet).is_ok_and(|packet| packet.is_bare_acknowledgement());
            *self = if bare { Self::Acknowledgements } else { Self::Other };
        }
    }
}

/// For how long there must have been nothing but acknowledgements: whoever asks and answers besides recurs sooner.
const SETTLED: Duration = Duration::from_millis(200);
/// How often that doubles at most, to 13 s: each time something else comes all the same, so that a heartbeat meets it only a few times.
const MOST_DOUBLINGS: u32 = 6;
/// After such a pause there is another transfer, beside which nothing else has come yet.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// The longest pause between two of them: of a transfer that keeps threads busy they come by the thousand.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// How long others may run in the mean. Threads of a tunnel rest sooner; whoever computes runs for whole ticks of the scheduler.
const LONGEST_MEAN: Duration = Duration::from_millis(2);
/// The share of each in the mean: one of so many parts.
const WEIGHT: u32 = 64;
/// For how long nobody is let in after those who do not rest.
const REST: Duration = Duration::from_secs(1);

/// Whether a thread lets others in before it looks once more and sleeps. A bulk transfer is acknowledged thousands of times a second, and
/// each time two threads are woken in place of those that seal and open. Where these get to run first, fewer turns carry as many
/// acknowledgements; where nobody waits for a processor, the thread is back at once. Pure: time is an argument.
#[derive(Debug, Default)]
pub(crate) struct Deference {
    /// Since when acknowledgements alone have come, and the last ones.
    since: Option<Instant>,
    last: Option<Instant>,
    /// They have come alone for long enough.
    in_force: bool,
    doublings: u32,
    due: bool,
    /// How long others ran in the mean.
    away: Duration,
    not_before: Option<Instant>,
}

impl Deference {
    /// A turn found something that is no acknowledgement.
    pub(crate) fn interrupted(&mut self) {
        if self.in_force {
            self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
        }
        (self.since, self.in_force, self.due) = (None, false, false);
    }

    /// A turn found acknowledgements alone.
    pub(crate) fn acknowledged(&mut self, now: Instant) {
        let pause = self.last.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        if pause > LONGEST_PAUSE {
            self.since = None;
        }
        if pause > FORGOTTEN {
            self.doublings = 0;
        }
        self.last = Some(now);
        let since = *self.since.get_or_insert(now);
        self.in_force = now.saturating_duration_since(since) >= SETTLED * (1 << self.doublings);
        self.due = self.in_force && self.not_before.is_none_or(|time| time <= now);
    }

    /// Whether others are to be let in: once after each turn.
    pub(crate) fn is_due(&mut self) -> bool {
        std::mem::take(&mut self.due)
    }

    /// Others were let in, and now the thread runs again.
    pub(crate) fn returned(&mut self, now: Instant) {
        let Some(last) = self.last.replace(now) else { return };
        let away = now.saturating_duration_since(last);
        self.away = self.away - self.away / WEIGHT + away / WEIGHT;
        if self.away > LONGEST_MEAN {
            (self.away, self.not_before) = (Duration::ZERO, Some(now + REST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(microseconds: u64) -> Instant {
        Instant::from_nanos(microseconds * 1000)
    }

    /// One acknowledgement each 100 µs; the time of the last.
    fn settle(deference: &mut Deference, from: u64) -> u64 {
        let mut times = (0..=2000).map(|number| from + 100 * number);
        times.clone().for_each(|time| deference.acknowledged(at(time)));
        times.next_back().unwrap()
    }

    #[test]
    fn only_a_long_stream_of_acknowledgements_lets_others_in() {
        let mut deference = Deference::default();
        for time in (0..200_000).step_by(100) {
            deference.acknowledged(at(time));
            assert!(!deference.is_due());
        }
        deference.acknowledged(at(200_000));
        assert!(deference.is_due());
        assert!(!deference.is_due(), "once after each turn");
    }

    #[test]
    fn whatever_else_comes_ends_it_at_once_and_for_a_while() {
        let mut deference = Deference::default();
        let now = settle(&mut deference, 0);
        deference.interrupted();
        assert!(!deference.is_due());
        deference.acknowledged(at(now + 100));
        assert!(!deference.is_due());
        settle(&mut deference, now + 200);
        assert!(!deference.is_due(), "longer than before");
        settle(&mut deference, now + 200_300);
        assert!(deference.is_due());
    }

    #[test]
    fn a_heartbeat_each_second_meets_it_three_times_in_each_transfer() {
        let mut deference = Deference::default();
        for start in [0, 40_000_000] {
            let mut met = 0;
            for time in (start..start + 20_000_000).step_by(1_000) {
                deference.acknowledged(at(time));
                if time % 1_000_000 == 0 {
                    met += u32::from(deference.is_due());
                    deference.interrupted();
                }
            }
            assert_eq!(met, 3);
        }
    }

    #[test]
    fn acknowledgements_now_and_then_are_nobodys_bulk() {
        let mut deference = Deference::default();
        for time in (0..60_000_000).step_by(11_000) {
            deference.acknowledged(at(time));
            assert!(!deference.is_due());
        }
    }

    #[test]
    fn nobody_is_let_in_for_a_while_after_those_who_do_not_rest() {
        let mut deference = Deference::default();
        let mut now = settle(&mut deference, 0);
        for away in (0..1000).map(|number| if number % 8 == 0 { 4_000 } else { 200 }) {
            assert!(deference.is_due(), "most of them rest soon");
            now += away;
            deference.returned(at(now));
            deference.acknowledged(at(now));
        }
        let mut times = 0;
        while deference.is_due() {
            now += 4_000;
            deference.returned(at(now));
            deference.acknowledged(at(now));
            times += 1;
        }
        assert!(times < 50, "{times}");
        let end = now + 1_000_000;
        for time in (now..end).step_by(100) {
            deference.acknowledged(at(time));
            assert!(!deference.is_due());
        }
        deference.acknowledged(at(end));
        assert!(deference.is_due());
    }
}
