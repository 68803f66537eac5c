//! TAI64N timestamps of handshake initiations (§5.1, §5.4.2).

use std::fmt;
use std::time::Duration;

use crate::clock::UnixTime;

/// 2^62, which stands for the Unix epoch's second in TAI64, and the ten seconds by which TAI was ahead
/// of UTC at that epoch. Later leap seconds are left out, as the reference implementations do.
const UNIX_EPOCH: u64 = (1 << 62) + 10;

const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// Timestamps are rounded down to a multiple of this, 16.8 ms, so that they say little of the clock they
/// are taken from (requirement 11). It is the greatest power of two of which 50 fit into a second.
const STEP_NANOS: u32 = 1 << 24;

/// A TAI64N timestamp as it travels: eight bytes of seconds and four of nanoseconds, big-endian, so that
/// its order as bytes is its order in time. The default is before every timestamp that is ever sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tai64n([u8; Self::LEN]);

impl Tai64n {
    /// Length in bytes.
    pub const LEN: usize = 12;
    /// The default: before every timestamp that is ever sent.
    pub(crate) const NEVER: Self = Self([0; Self::LEN]);

    /// The timestamp of a wall-clock time, rounded down to 2^24 ns (requirement 11).
    pub fn from_unix(time: UnixTime) -> Self {
        let nanos = time.0.subsec_nanos();
        Self::from_parts(UNIX_EPOCH.saturating_add(time.0.as_secs()), nanos - nanos % STEP_NANOS)
    }

    /// The first timestamp that [`Tai64n::from_unix`] can give and that is later than this one: what is
    /// sent when the clock stands or was set back, since the receiver takes only what is strictly later
    /// (requirement 11). At the end of time it is `self`.
    pub fn next_after(self) -> Self {
        let (seconds, nanos) = self.parts();
        let next = nanos - nanos % STEP_NANOS;
        match next.checked_add(STEP_NANOS) {
            Some(next) if next < NANOS_PER_SECOND => Self::from_parts(seconds, next),
            _ if seconds == u64::MAX => self,
            _ => Self::from_parts(seconds + 1, 0),
        }
    }

    /// The timestamp `by` later, rounded down to what [`Tai64n::from_unix`] can give; at the end of time the last of them.
    pub fn later_by(self, by: Duration) -> Self {
        let (seconds, nanos) = self.parts();
        let sum = Duration::new(seconds, nanos % NANOS_PER_SECOND).saturating_add(by);
        let nanos = sum.subsec_nanos();
        Self::from_parts(sum.as_secs(), nanos - nanos % STEP_NANOS)
    }

    /// The wall-clock time it stands for; the Unix epoch for what is earlier. What a peer sent may be any
    /// time, also one that is far in the future.
    pub fn to_unix(self) -> UnixTime {
        let (seconds, nanos) = self.parts();
        if seconds < UNIX_EPOCH {
            return UnixTime(Duration::ZERO);
        }
        UnixTime(Duration::new(seconds - UNIX_EPOCH, nanos))
    }

    /// From the bytes of a message or of a file.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes as they travel.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    fn from_parts(seconds: u64, nanos: u32) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Self(bytes)
    }

    fn parts(self) -> (u64, u32) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.0;
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes([i, j, k, l]))
    }
}

impl fmt::Debug for Tai64n {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = self.parts();
        write!(formatter, "Tai64n({seconds:#x}.{nanos:09})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_support::hex;

    fn at(seconds: u64, nanos: u32) -> UnixTime {
        UnixTime(Duration::new(seconds, nanos))
    }

    #[test]
    fn the_epoch_is_that_of_the_reference_implementations() {
        assert_eq!(Tai64n::from_unix(at(0, 0)).as_bytes()[..], hex("400000000000000a00000000"));
        assert_eq!(Tai64n::from_unix(at(1, 0)).as_bytes()[..], hex("400000000000000b00000000"));
    }

    #[test]
    fn timestamps_are_whitened_to_2_24_nanoseconds_requirement_11() {
        for (nanos, expected) in [
            (0, 0),
            (0x00ff_ffff, 0),
            (0x0100_0000, 0x0100_0000),
            (0x01ff_ffff, 0x0100_0000),
            (999_999_999, 0x3b00_0000),
        ] {
            assert_eq!(Tai64n::from_unix(at(7, nanos)).to_unix(), at(7, expected));
        }
    }

    #[test]
    fn a_time_is_reserved_ahead_control_rule_18() {
        let time = Tai64n::from_unix(at(100, 999_999_999));
        assert_eq!(time.later_by(Duration::ZERO), time);
        assert_eq!(time.later_by(Duration::from_secs(10)), Tai64n::from_unix(at(110, 999_999_999)));
        assert_eq!(time.later_by(Duration::from_millis(500)).to_unix().0.as_secs(), 101);
        assert!(Tai64n::from_bytes([0xff; 12]).later_by(Duration::MAX) >= time);
    }

    #[test]
    fn the_ends_of_time_are_met_without_a_panic() {
        let last = Tai64n::from_unix(UnixTime(Duration::MAX));
        assert_eq!(last.as_bytes()[..8], [0xff; 8]);
        let end = std::iter::successors(Some(last), |&time| Some(time.next_after())).take(100).last();
        assert_eq!(end.map(Tai64n::next_after), end);
        // Nothing stops a peer from sending more nanoseconds than there are in a second.
        for bytes in [[0; 12], [0xff; 12]] {
            let time = Tai64n::from_bytes(bytes);
            assert!(time.next_after() >= time && time.to_unix() >= UnixTime(Duration::ZERO));
        }
        assert_eq!(Tai64n::default().to_unix(), UnixTime(Duration::ZERO));
        assert!(Tai64n::default() < Tai64n::from_unix(at(0, 0)));
    }

    proptest! {
        #[test]
        fn order_is_that_of_time(a in 0_u64..1 << 40, b in 0_u64..1 << 40, na in 0_u32..1_000_000_000, nb in 0_u32..1_000_000_000) {
            let (first, second) = (at(a, na), at(b, nb));
            let (left, right) = (Tai64n::from_unix(first), Tai64n::from_unix(second));
            // Rounding may make two times one, but never changes their order.
            let in_order = if first <= second { left <= right } else { left >= right };
            prop_assert!(in_order);
            prop_assert!(left.to_unix() <= first);
            prop_assert!(first.0 - left.to_unix().0 < Duration::from_nanos(1 << 24));
        }

        #[test]
        fn the_next_is_the_least_that_is_later(seconds in 0_u64..1 << 40, nanos in 0_u32..1_000_000_000) {
            let time = Tai64n::from_unix(at(seconds, nanos));
            let next = time.next_after();
            prop_assert!(next > time);
            // It is one that the clock gives too, and none that the clock gives lies between.
            prop_assert_eq!(Tai64n::from_unix(next.to_unix()), next);
            let just_before = UnixTime(next.to_unix().0 - Duration::from_nanos(1));
            prop_assert_eq!(Tai64n::from_unix(just_before), time);
        }
    }
}
