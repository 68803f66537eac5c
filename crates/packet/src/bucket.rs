//! Token buckets in eight bytes, for limits of which there are many.

/// How much may pass: so much a second, and so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units a second; 0 lets nothing pass.
    pub per_second: u64,
    /// Units at once.
    pub burst: u64,
}

impl Rate {
    /// The time that `units` take at this rate, in nanoseconds.
    fn nanos(self, units: u64) -> u64 {
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.per_second.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// A token bucket, kept as the time at which it is full again (the generic cell rate algorithm, ITU-T I.371).
/// Times are nanoseconds of any clock that does not go back. The default is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes `units`, or nothing where there are not so many.
    pub fn take(&mut self, rate: Rate, units: u64, now: u64) -> bool {
        if rate.per_second == 0 || units > rate.burst {
            return false;
        }
        let full_at = self.full_at.max(now).saturating_add(rate.nanos(units));
        if full_at - now > rate.nanos(rate.burst) {
            return false;
        }
        self.full_at = full_at;
        true
    }

    /// Whether it is as if it was never used.
    pub fn is_full(&self, now: u64) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (rate, mut bucket) = (Rate { per_second: 10, burst: 5 }, Bucket::default());
        let passed = (0..20).filter(|_| bucket.take(rate, 1, SECOND)).count();
        assert_eq!(passed, 5);
        assert!(!bucket.take(rate, 1, SECOND + SECOND / 10 - 1));
        assert!(bucket.take(rate, 1, SECOND + SECOND / 10));
        assert!(!bucket.is_full(SECOND + SECOND / 2) && bucket.is_full(2 * SECOND));
        assert!(!bucket.take(rate, 6, 9 * SECOND), "more than a burst never passes");
        assert!(!bucket.take(Rate { per_second: 0, burst: 5 }, 1, 9 * SECOND));
    }

    #[test]
    fn over_a_long_time_the_rate_holds() {
        let (rate, mut bucket) = (Rate { per_second: 1000, burst: 100 }, Bucket::default());
        let passed = (0..100_000_u64).filter(|i| bucket.take(rate, 1, i * SECOND / 10_000)).count();
        assert!((10_000..=10_101).contains(&passed), "{passed} in ten seconds");
    }
}
