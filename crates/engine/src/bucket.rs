//! A rate limit for one thread: so many a second, and some more after a pause.

use std::time::Duration;

use tombolo_noise::clock::Instant;

/// Tokens that come back with time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    per_second: u32,
    most: u32,
    tokens: u32,
    /// Up to when the time has been turned into tokens.
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) const fn new(per_second: u32, most: u32) -> Self {
        Self { per_second, most, tokens: most, filled: Instant::from_nanos(0) }
    }

    /// Takes a token, if there is one.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / self.per_second;
        let passed = now.saturating_duration_since(self.filled);
        let new = passed.as_nanos() / each.as_nanos().max(1);
        if new >= u128::from(self.most) {
            (self.tokens, self.filled) = (self.most, now);
        } else {
            let new = new as u32;
            self.tokens = (self.tokens + new).min(self.most);
            self.filled = self.filled + each * new;
        }
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 5);
        let mut now = Instant::from_nanos(u64::MAX / 2);
        let burst = (0..20).filter(|_| bucket.allow(now)).count();
        assert_eq!(burst, 5);
        let mut allowed = 0;
        for _ in 0..1000 {
            now = now + Duration::from_millis(7);
            allowed += u32::from(bucket.allow(now));
        }
        assert_eq!(allowed, 70);
        now = now + Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| bucket.allow(now)).count(), 5, "no more after a long pause");
    }
}
