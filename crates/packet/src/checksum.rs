//! The Internet checksum (RFC 1071).
//!
//! A sum of 16-bit words in one's complement does not care for the byte order of the words, nor for how
//! many are added at once. So words are taken as they lie in memory, 32 bits at a time into
//! 64-bit lanes, which compilers turn into vector code, and the order is put right at the end.

/// A running one's complement sum, of up to 2^32 words without overflow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes`; an odd last byte is padded with zero.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self::ZERO.add_bytes(bytes)
    }

    /// Adds `bytes`, which must stand at an even offset of what is summed.
    #[inline]
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let (chunks, rest) = bytes.as_chunks::<64>();
        let mut lanes = [0_u64; 16];
        for chunk in chunks {
            for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        Self(self.0 + lanes.iter().sum::<u64>()).add_short(rest)
    }

    /// Adds a few bytes: headers, and what is left over from the lanes.
    #[inline]
    fn add_short(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = self.0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds one 16-bit number.
    #[inline]
    #[must_use]
    pub const fn add_u16(self, number: u16) -> Self {
        Self(self.0 + number.to_be() as u64)
    }

    /// Adds one 32-bit number.
    #[inline]
    #[must_use]
    pub const fn add_u32(self, number: u32) -> Self {
        Self(self.0 + number.to_be() as u64)
    }

    /// Takes one 16-bit number out again, by adding its complement.
    #[inline]
    #[must_use]
    pub const fn subtract_u16(self, number: u16) -> Self {
        self.add_u16(!number)
    }

    /// Adds another sum.
    #[inline]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.fold_native() as u64)
    }

    /// The sum in 16 bits, in the byte order of memory.
    #[inline]
    const fn fold_native(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The sum in 16 bits: what stands in the checksum field of a packet that is still to be completed.
    #[inline]
    pub const fn folded(self) -> u16 {
        u16::from_be(self.fold_native())
    }

    /// The checksum: the complement of the sum.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum where zero means "none" and is sent as 0xffff, its equal in one's complement (UDP,
    /// RFC 768).
    #[inline]
    pub const fn checksum_not_zero(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether a sum that took in its own checksum is right.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The sum of a pseudo-header: both addresses (4 or 16 bytes each), the protocol, and the length in
/// bytes of transport header and payload (RFC 9293 §3.1, RFC 768, RFC 8200 §8.1).
#[inline]
pub fn pseudo_header(source: &[u8], destination: &[u8], protocol: u8, transport_len: usize) -> Sum {
    Sum::ZERO
        .add_short(source)
        .add_short(destination)
        .add_u16(u16::from(protocol))
        .add_u32(transport_len as u32)
}

/// `checksum` after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.add_u16(!checksum).subtract_u16(old).add_u16(new).checksum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_packets::slow_sum;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    #[test]
    fn the_longest_sums_do_not_overflow() {
        for len in [65_534, 65_535] {
            let bytes = vec![0xff; len];
            assert_eq!(Sum::of(&bytes).folded(), slow_sum(&bytes));
            let twice = [&bytes[..len & !1], &bytes[..]].concat();
            assert_eq!(Sum::of(&bytes[..len & !1]).add(Sum::of(&bytes)).folded(), slow_sum(&twice));
        }
    }

    proptest! {
        #[test]
        fn sums_equal_the_slow_sum(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::of(&bytes).folded(), slow_sum(&bytes));
        }

        #[test]
        fn parts_add_up(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..150_usize) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let (front, back) = bytes.split_at(cut);
            prop_assert_eq!(Sum::of(front).add_bytes(back).folded(), slow_sum(&bytes));
            prop_assert_eq!(Sum::of(front).add(Sum::of(back)).folded(), slow_sum(&bytes));
        }

        #[test]
        fn an_updated_checksum_equals_one_made_anew(
            mut bytes in prop::collection::vec(any::<u8>(), 20), word in 0..10_usize, new in any::<u16>(),
        ) {
            let before = Sum::of(&bytes).checksum();
            let old = u16::from_be_bytes([bytes[2 * word], bytes[2 * word + 1]]);
            bytes[2 * word..2 * word + 2].copy_from_slice(&new.to_be_bytes());
            prop_assume!(bytes.iter().any(|&byte| byte != 0));
            prop_assert_eq!(update(before, old, new), Sum::of(&bytes).checksum());
        }

        #[test]
        fn numbers_add_as_their_bytes_do(short in any::<u16>(), long in any::<u32>()) {
            let mut bytes = short.to_be_bytes().to_vec();
            bytes.extend(long.to_be_bytes());
            let sum = Sum::ZERO.add_u16(short).add_u32(long);
            prop_assert_eq!(sum.folded(), slow_sum(&bytes));
            prop_assert!(sum.add_u16(sum.checksum()).is_valid());
        }
    }
}
