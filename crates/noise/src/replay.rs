//! The replay window: which of the recent counters were seen (requirement 16, §5.4.6).
//!
//! A ring of bitmap words as in RFC 6479: moving forward clears whole words and shifts none.

const WORD_BITS: u64 = u64::BITS as u64;
/// One word more than the window needs, because the newest word is only partly in use.
const WORDS: u64 = 129;

/// Remembers which counters of one keypair were accepted.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The greatest counter accepted, plus one; zero before the first.
    next: u64,
    words: [u64; WORDS as usize],
}

impl ReplayWindow {
    /// How far behind the greatest accepted counter a counter may be, in packets. The kernel and
    /// wireguard-go have 8128.
    pub const SIZE: u64 = (WORDS - 1) * WORD_BITS;

    /// A window that has accepted nothing.
    pub const fn new() -> Self {
        Self { next: 0, words: [0; WORDS as usize] }
    }

    /// Whether [`accept`](Self::accept) would accept `counter`. Nothing changes: it may be asked
    /// before the tag of the packet is verified.
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        // `counter < next`, so `next` is at least one and the age is at least zero.
        if self.next - 1 - counter >= Self::SIZE {
            return false;
        }
        let (word, bit) = Self::position(counter);
        self.words[word] & bit == 0
    }

    /// Accepts `counter` once: true if it is neither a repetition nor older than the window. Only
    /// for counters of packets whose tag was verified.
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            self.advance_to(counter);
        }
        let (word, bit) = Self::position(counter);
        self.words[word] |= bit;
        true
    }

    /// Clears the words between the newest one and that of `counter`, which is the new greatest.
    fn advance_to(&mut self, counter: u64) {
        let newest = counter / WORD_BITS;
        let first_to_clear = match self.next.checked_sub(1) {
            Some(greatest) => greatest / WORD_BITS + 1,
            None => 0,
        };
        let clear = newest
            .saturating_sub(first_to_clear)
            .saturating_add(u64::from(newest >= first_to_clear))
            .min(WORDS);
        for offset in 0..clear {
            self.words[((newest - offset) % WORDS) as usize] = 0;
        }
        // Counters stay below Reject-After-Messages (requirement 2), so this cannot saturate.
        self.next = counter.saturating_add(1);
    }

    fn position(counter: u64) -> (usize, u64) {
        (((counter / WORD_BITS) % WORDS) as usize, 1 << (counter % WORD_BITS))
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The slow oracle: every counter ever accepted, in a set.
    #[derive(Default)]
    struct Oracle(BTreeSet<u64>);

    impl Oracle {
        fn accept(&mut self, counter: u64) -> bool {
            let too_old =
                self.0.last().is_some_and(|greatest| greatest.saturating_sub(counter) >= ReplayWindow::SIZE);
            !too_old && self.0.insert(counter)
        }
    }

    #[test]
    fn window_holds_at_least_8128_counters_requirement_16() {
        const { assert!(ReplayWindow::SIZE >= 8192) };
        let mut window = ReplayWindow::new();
        assert!(window.accept(ReplayWindow::SIZE));
        assert!(window.accept(1), "the oldest counter within the window");
        assert!(!window.accept(1), "accepted once");
        assert!(!window.accept(0), "one past the window");
    }

    #[test]
    fn looking_up_changes_nothing_requirement_16() {
        let mut window = ReplayWindow::new();
        assert!(window.is_fresh(7));
        assert!(window.is_fresh(7));
        assert!(window.accept(7));
        assert!(!window.is_fresh(7));
    }

    #[test]
    fn the_greatest_counters_are_handled_requirement_2() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(0));
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX - 1));
        assert!(!window.accept(0));
        assert!(window.accept(u64::MAX - ReplayWindow::SIZE));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_requirement_16(
            start in prop_oneof![Just(0_u64), 0..100_000_u64, (u64::MAX - 100_000)..(u64::MAX - 60_000)],
            steps in prop::collection::vec(
                prop_oneof![
                    8 => -70_i64..70,
                    3 => -9_000_i64..9_000,
                    1 => Just(8_192_i64), 1 => Just(-8_192_i64), 1 => Just(-8_191_i64), 1 => Just(8_256_i64),
                ],
                1..400,
            ),
        ) {
            let (mut window, mut oracle) = (ReplayWindow::new(), Oracle::default());
            let mut greatest = start;
            for step in steps {
                let counter = greatest.saturating_add_signed(step).min(u64::MAX - 1);
                let expected = oracle.accept(counter);
                prop_assert_eq!(window.is_fresh(counter), expected);
                prop_assert_eq!(window.accept(counter), expected);
                greatest = greatest.max(counter);
            }
        }
    }
}
