//! What is known of particular Linux releases.

use tombolo_packet::OffloadState;

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

    /// Whether `UDP_GRO` may be switched on: before 5.12, a socket with it could be handed packets that were
    /// coalesced for others.
    pub(crate) fn receive_offload(self) -> OffloadState {
        if self >= Self::new(5, 12, 0) {
            OffloadState::On
        } else {
            OffloadState::Avoided("Linux before 5.12 merges what is not to be merged")
        }
    }

    /// Whether `UDP_SEGMENT` may be used: 7.0 up to 7.1.4 corrupt super-datagrams whose segments are all of one
    /// length, which most of ours are.
    pub(crate) fn send_offload(self) -> OffloadState {
        if (Self::new(7, 0, 0)..Self::new(7, 1, 5)).contains(&self) {
            OffloadState::Avoided("Linux 7.0 to 7.1.4 corrupts what it sends")
        } else {
            OffloadState::On
        }
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
        assert_eq!(Release::parse("6.9.12").max_segments(), 64);
        assert_eq!(Release::parse("6.10.0").max_segments(), 128);
    }

    #[test]
    fn offloads_are_not_used_on_the_releases_that_get_them_wrong() {
        for (release, send, receive) in [
            ("nonsense", true, false),
            ("5.4.0-150-generic", true, false),
            ("5.11.22", true, false),
            ("5.12.0", true, true),
            ("6.18.44-fc-v669", true, true),
            ("6.19.12", true, true),
            ("7.0.0", false, true),
            ("7.0-rc1", false, true),
            ("7.1.4-arch1-1", false, true),
            ("7.1.5", true, true),
            ("7.2.0", true, true),
        ] {
            let found = Release::parse(release);
            assert_eq!(found.send_offload().is_on(), send, "{release}");
            assert_eq!(found.receive_offload().is_on(), receive, "{release}");
        }
    }
}
