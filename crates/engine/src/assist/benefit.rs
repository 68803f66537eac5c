//! Whether help is worth asking for.

use std::time::Duration;

use tombolo_noise::clock::Instant;

/// Jobs after which the owner judges.
const WINDOW: u32 = 64;
/// One of so many jobs at least must have been done by helpers.
const LEAST_SHARE: u32 = 8;
/// So much of the time at most may have been spent waiting for helpers: one of so many parts.
const MOST_WAITING: u32 = 8;
/// The first pause after help that did not help.
const SHORTEST: Duration = Duration::from_millis(2);
/// The longest one: so often at most something is risked while every processor is busy.
const LONGEST: Duration = Duration::from_secs(1);

/// Learns from how jobs went. Pure: time is an argument.
#[derive(Debug, Default)]
pub(super) struct Benefit {
    jobs: u32,
    helped: u32,
    waited: Duration,
    /// With jobs in progress.
    worked: Duration,
    began: Option<Instant>,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Benefit {
    pub(super) fn is_likely(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|time| time <= now)
    }

    /// The first job is offered.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// A job is done.
    pub(super) fn count(&mut self, helped: bool) {
        self.jobs += 1;
        self.helped += u32::from(helped);
    }

    /// The owner had nothing else to do than to wait.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Whether there were enough jobs to judge.
    pub(super) fn is_due(&self) -> bool {
        self.jobs >= WINDOW
    }

    /// No job is left, or it is time to judge.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(began) = self.began.take() {
            self.worked += now.saturating_duration_since(began);
        }
        if !self.is_due() {
            return;
        }
        let paid = self.helped * LEAST_SHARE >= self.jobs && self.waited * MOST_WAITING <= self.worked;
        if paid {
            // Slowly forgiven: a processor that idles now and then is not an idle one.
            self.pause /= 2;
            self.not_before = None;
        } else {
            self.pause = (self.pause * 2).clamp(SHORTEST, LONGEST);
            self.not_before = Some(now + self.pause);
        }
        (self.jobs, self.helped, self.waited, self.worked) = (0, 0, Duration::ZERO, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_nanos(milliseconds * 1_000_000)
    }

    fn window(benefit: &mut Benefit, now: u64, helped: u32, waited: Duration) {
        benefit.begin(at(now));
        for job in 0..WINDOW {
            benefit.count(job < helped);
        }
        benefit.waited(waited);
        benefit.end(at(now + 1));
    }

    #[test]
    fn it_is_tried_ever_more_seldom_while_it_fails_and_at_once_again_when_it_works() {
        let mut benefit = Benefit::default();
        let mut tries = Vec::new();
        for now in 0..10_000 {
            if benefit.is_likely(at(now)) {
                tries.push(now);
                window(&mut benefit, now, 0, Duration::ZERO);
            }
        }
        assert_eq!(&tries[..5], [0, 3, 8, 17, 34]);
        assert!(tries.len() < 25);
        assert!(tries.windows(2).all(|pair| pair[1] - pair[0] <= 1001), "it is never given up");
        let last = tries.last().unwrap() + 1001;
        assert!(benefit.is_likely(at(last)));
        window(&mut benefit, last, WINDOW / 2, Duration::ZERO);
        assert!(benefit.is_likely(at(last + 1)));
    }

    #[test]
    fn help_that_is_waited_for_does_not_pay() {
        let mut benefit = Benefit::default();
        window(&mut benefit, 0, WINDOW, Duration::from_micros(100));
        assert!(benefit.is_likely(at(1)));
        window(&mut benefit, 1, WINDOW, Duration::from_micros(200));
        assert!(!benefit.is_likely(at(2)));
    }

    #[test]
    fn a_few_jobs_teach_nothing() {
        let mut benefit = Benefit::default();
        benefit.begin(at(0));
        benefit.count(false);
        benefit.end(at(1));
        assert!(benefit.is_likely(at(1)));
    }
}
