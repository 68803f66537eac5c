//! The two control frames of path MTU discovery, types 17 and 18 (docs/control-protocol.md, "Frames").
//!
//! Written and read here rather than by the crate of the control plane, which does so too: the data plane would take
//! in signatures, documents and a general decoder for two maps of at most two numbers. Both keep to the vectors of that page.

use arrayvec::ArrayVec;

/// High bits of the first byte of each control frame, whatever its version: no IP packet begins so.
const MARK: u8 = 0xf0;
/// The version that is read and written here.
const VERSION: u8 = MARK | 1;
/// Bytes before the body: mark and version, type, length of the body.
pub(crate) const HEADER_LEN: usize = 4;
const PROBE: u8 = 17;
const ANSWER: u8 = 18;
/// Frames that look for another path than the one in use, and their answers: types 16 and 19.
const EXPLORING: [u8; 2] = [16, 19];
/// Longest of both frames: header, map, and two numbers with their keys.
const LONGEST: usize = HEADER_LEN + 1 + 2 * (1 + 9);

/// Whether a decrypted message is a control frame and not an IP packet (control rule 11).
#[inline]
pub(crate) fn is_frame(message: &[u8]) -> bool {
    message.first().is_some_and(|first| first & 0xf0 == MARK)
}

/// Whether a frame is one of these two, and so no data for WireGuard's timers: whoever sends one owes nothing.
pub(crate) fn is_path_frame(message: &[u8]) -> bool {
    message.get(..2).is_some_and(|start| start[0] == VERSION && [PROBE, ANSWER].contains(&start[1]))
}

/// Whether a frame was sent by a path that is only looked at, so that it says nothing of where its sender is to be answered.
#[inline]
pub(crate) fn is_exploring(message: &[u8]) -> bool {
    message.get(..2).is_some_and(|start| start[0] == VERSION && EXPLORING.contains(&start[1]))
}

/// A frame of path MTU discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathFrame {
    /// Filled up with zeros to the size that is tried.
    Probe { id: u64 },
    /// The probe `id` came, and its plaintext was `size` bytes long.
    Answer { id: u64, size: u16 },
}

impl PathFrame {
    /// Reads a decrypted message. `None`: another frame, or malformed. What follows the body is the caller's affair.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let ([mark, kind, high, low], rest) = message.split_first_chunk()?;
        if *mark != VERSION {
            return None;
        }
        let body = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
        let mut reader = Reader(body);
        let fields = reader.byte()?.checked_sub(0xa0)?;
        let (known, frame) = match *kind {
            PROBE => (1, Self::Probe { id: reader.field(1)? }),
            ANSWER => (2, Self::Answer { id: reader.field(1)?, size: reader.field(2)?.try_into().ok()? }),
            _ => return None,
        };
        // Fields of later versions stand behind these, and are ignored.
        let whole = if fields == known { reader.0.is_empty() } else { (known..24).contains(&fields) };
        whole.then_some(frame)
    }

    /// The frame, without filling.
    pub(crate) fn to_bytes(self) -> ArrayVec<u8, LONGEST> {
        let (kind, fields) = match self {
            Self::Probe { id } => (PROBE, [Some(id), None]),
            Self::Answer { id, size } => (ANSWER, [Some(id), Some(size.into())]),
        };
        let mut bytes = ArrayVec::from_iter([VERSION, kind, 0, 0]);
        bytes.push(0xa0 | fields.iter().flatten().count() as u8);
        for (key, value) in (1..).zip(fields.into_iter().flatten()) {
            bytes.push(key);
            write_number(&mut bytes, value);
        }
        bytes[3] = (bytes.len() - HEADER_LEN) as u8;
        bytes
    }
}

/// A number as short as it gets (RFC 8949 §4.2.1).
fn write_number(bytes: &mut ArrayVec<u8, LONGEST>, number: u64) {
    let be = number.to_be_bytes();
    let (first, tail) = match number {
        0..24 => (number as u8, &be[8..]),
        24..=0xff => (24, &be[7..]),
        0x100..=0xffff => (25, &be[6..]),
        0x1_0000..=0xffff_ffff => (26, &be[4..]),
        _ => (27, &be[..]),
    };
    bytes.push(first);
    bytes.extend(tail.iter().copied());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn field(&mut self, key: u8) -> Option<u64> {
        if self.byte()? != key {
            return None;
        }
        let first = self.byte()?;
        let len = match first {
            0..24 => return Some(first.into()),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return None,
        };
        let mut be = [0; 8];
        for byte in be.get_mut(8 - len..)? {
            *byte = self.byte()?;
        }
        let number = u64::from_be_bytes(be);
        // Only the shortest form (control rule 6).
        let least = match len {
            1 => 24,
            2 => 0x100,
            4 => 0x1_0000,
            _ => 0x1_0000_0000,
        };
        (number >= least).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: [u64; 12] =
        [0, 1, 23, 24, 255, 256, 1420, 65_535, 65_536, 0xffff_ffff, 0x1_0000_0000, u64::MAX];

    #[test]
    fn frames_are_read_as_they_were_written_control_rule_11() {
        for id in NUMBERS {
            for frame in [
                PathFrame::Probe { id },
                PathFrame::Answer { id, size: 0 },
                PathFrame::Answer { id, size: 65_535 },
            ] {
                let mut bytes = frame.to_bytes().to_vec();
                assert!(is_frame(&bytes));
                for cut in 0..bytes.len() {
                    assert_eq!(PathFrame::parse(&bytes[..cut]), None, "cut at {cut}");
                }
                bytes.extend([0; 2000]);
                assert_eq!(PathFrame::parse(&bytes), Some(frame));
            }
        }
    }

    /// The vectors of docs/control-protocol.md.
    #[test]
    fn the_published_vectors_hold_control_rule_11() {
        let probe = [0xf1, 17, 0, 3, 0xa1, 1, 5];
        assert_eq!(PathFrame::Probe { id: 5 }.to_bytes()[..], probe);
        let answer = [0xf1, 18, 0, 7, 0xa2, 1, 5, 2, 0x19, 0x05, 0x8c];
        assert_eq!(PathFrame::Answer { id: 5, size: 1420 }.to_bytes()[..], answer);
    }

    /// A challenge answer and an explore, as docs/control-protocol.md has them.
    #[test]
    fn what_looks_for_other_paths_is_told_from_all_else_control_rule_14() {
        for (start, exploring) in [
            (&[0xf1, 16, 0, 19, 0xa1, 1, 0x50][..], true),
            (&[0xf1, 19, 0, 19, 0xa1, 1, 0x50], true),
            (&[0xf1, 15, 0, 19, 0xa1, 1, 0x50], false),
            (&[0xf1, 13, 0, 0], false),
            (&[0xf2, 19, 0, 0], false),
            (&[0x45, 16], false),
            (&[0xf1], false),
            (&[], false),
        ] {
            assert_eq!(is_exploring(start), exploring, "{start:02x?}");
        }
    }

    proptest::proptest! {
        /// With a right start, so that the body is looked at.
        #[test]
        fn any_body_is_met_without_a_panic_control_rule_11(
            kind in 16_u8..20,
            length in 0_u16..40,
            body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let message = [&[VERSION, kind][..], &length.to_be_bytes(), &body].concat();
            if let Some(frame) = PathFrame::parse(&message) {
                proptest::prop_assert_eq!(PathFrame::parse(&frame.to_bytes()), Some(frame));
            }
        }
    }

    #[test]
    fn other_frames_and_other_encodings_are_refused_control_rule_6() {
        assert!(!is_frame(&[]) && !is_frame(&[0x45]) && !is_frame(&[0x60]));
        for bytes in [
            &[0xf2, 17, 0, 3, 0xa1, 1, 5][..],                // another version
            &[0xf1, 16, 0, 3, 0xa1, 1, 5],                    // another type
            &[0xf1, 17, 0, 4, 0xa1, 1, 5, 0],                 // more than the map
            &[0xf1, 17, 0, 4, 0xa1, 1, 24, 5],                // not the shortest number
            &[0xf1, 17, 0, 3, 0xa1, 2, 5],                    // another field
            &[0xf1, 17, 0, 3, 0xa1, 1, 0x25],                 // a negative number
            &[0xf1, 18, 0, 5, 0xa2, 1, 5, 1, 5],              // a key twice
            &[0xf1, 18, 0, 9, 0xa2, 1, 5, 2, 26, 0, 1, 0, 0], // a size that is none
        ] {
            assert_eq!(PathFrame::parse(bytes), None, "{bytes:02x?}");
        }
    }
}
