//! Chance that can be repeated.

use std::hash::{BuildHasher, Hasher, RandomState};

/// The variable that sets the seed of a run.
const SEED: &str = "TOMBOLO_ORACLE_SEED";

/// Calls `case` until it has drawn at least `packets` packets: it is given a generator of its own each time, and says how many packets it
/// drew. Prints the seed, which is another one in each run unless `TOMBOLO_ORACLE_SEED` sets it, and the count, which it returns.
///
/// # Panics
/// When `case` does, or draws nothing a million times in a row; or when the variable is no number.
pub fn draw(test: &str, packets: u64, mut case: impl FnMut(&mut Random) -> u64) -> u64 {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED} is no number")),
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("{test}: seed {seed} ({SEED} sets it)");
    let mut seeds = Random::new(seed);
    let (mut drawn, mut cases) = (0, 0_u64);
    while drawn < packets {
        let more = case(&mut Random::new(seeds.next()));
        (drawn, cases) = (drawn + more, cases + 1);
        assert!(drawn > 0 || cases < 1_000_000, "no case draws anything");
    }
    println!("{test}: {drawn} packets in {cases} cases, seed {seed}");
    drawn
}

/// A generator of numbers (SplitMix64; Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Any 16 bits; the extremes more often.
    pub fn number(&mut self) -> u16 {
        match self.below(16) {
            0 => 0,
            1 => u16::MAX,
            2 => u16::MAX - u16::from(self.byte()),
            _ => self.next() as u16,
        }
    }

    /// Less than `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Once in so many times.
    pub fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A length of 0 to `longest` bytes: short ones, all of them alike, and those at the upper end.
    pub fn length(&mut self, longest: usize) -> usize {
        let bound = [4, 200, 2000, longest][self.below(4)];
        let length = self.below(bound.min(longest) + 1);
        if self.chance(32) { longest - length } else { length }
    }

    /// TCP options of 0 to 40 bytes (RFC 9293 §3.1): those that connections have, of any content, those that nobody knows, and what is
    /// no list of options at all. No signatures.
    pub fn tcp_options(&mut self) -> Vec<u8> {
        let words = self.below(11);
        if self.chance(4) {
            return self.bytes(4 * words);
        }
        let mut options = Vec::new();
        for _ in 0..self.below(7) {
            // No operation; segment size, window scale, SACK permitted, SACK, time stamps, fast open; others.
            let (kind, len) = match self.below(8) {
                0 => {
                    options.push(1);
                    continue;
                }
                1 => (2, 2),
                2 => (3, 1),
                3 => (4, 0),
                4 => (5, 8 * (1 + self.below(3))),
                5 => (8, 8),
                6 => (34, self.below(17)),
                _ => (30 + self.byte() % 220, self.below(11)),
            };
            let value = self.bytes(len);
            if options.len() + 2 + len <= 40 {
                options.extend([kind, 2 + len as u8]);
                options.extend(value);
            }
        }
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        options
    }
}
