//! What is known of particular Linux releases.

/// A kernel release, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Release {
    /// Reads `6.18.44-anything`; what cannot be read counts as 0, that is, as old.
    pub(crate) fn parse(release: &str) -> Self {
        let mut numbers =
            release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self { major: next(), minor: next(), patch: next() }
    }

    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Before 5.12, a socket with `UDP_GRO` could be handed packets that were coalesced for others.
    pub(crate) fn has_safe_receive_offload(self) -> bool {
        self >= Self::new(5, 12, 0)
    }

    /// 7.0 up to 7.1.4 corrupt super-datagrams whose segments are all of one length.
    pub(crate) fn corrupts_segmentation(self) -> bool {
        (Self::new(7, 0, 0)..Self::new(7, 1, 5)).contains(&self)
    }

    /// Segments of one super-datagram at most (`UDP_MAX_SEGMENTS`).
    pub(crate) fn max_segments(self) -> usize {
        if self >= Self::new(6, 10, 0) { 128 } else { 64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_ordered() {
        assert_eq!(Release::parse("6.18.44-fc-v669"), Release::new(6, 18, 44));
        assert_eq!(Release::parse("5.4-rc1"), Release::new(5, 4, 0));
        assert_eq!(Release::parse(""), Release::new(0, 0, 0));
        assert!(Release::parse("5.12.0").has_safe_receive_offload());
        assert!(!Release::parse("5.11.22").has_safe_receive_offload());
        assert!(!Release::parse("nonsense").has_safe_receive_offload());
        assert!(Release::parse("7.1.4").corrupts_segmentation());
        assert!(!Release::parse("7.1.5").corrupts_segmentation());
        assert!(!Release::parse("6.18.0").corrupts_segmentation());
        assert_eq!(Release::parse("6.9.12").max_segments(), 64);
        assert_eq!(Release::parse("6.10.0").max_segments(), 128);
    }
}
