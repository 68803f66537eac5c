//! What a peer is to us.

/// What a peer is to us, and so which rules hold for it.
///
/// | standing | came from | carries | initiates | endpoint and TAI64N move |
/// |---|---|---|---|---|
/// | static | configuration | everything | yes | as in WireGuard |
/// | provisional | an unknown key, in membership mode | control frames, for five seconds | never | never |
/// | unverified | a membership or a token that names the key | control frames | yes | as a member's |
/// | member | a promotion | everything, until its authorisation ends | yes | with transport messages only |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Configured. Never expires, outranks memberships.
    Static,
    /// A key that nobody here knows has completed a handshake (control rule 8).
    Provisional,
    /// A key that we know and whose owner has not been verified in this session yet (control rule 9).
    Unverified,
    /// A key whose membership was verified. Past its time it carries control frames again.
    Member,
}

impl Standing {
    pub(crate) const fn to_byte(self) -> u8 {
        self as u8
    }

    pub(crate) const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Static,
            1 => Self::Provisional,
            2 => Self::Unverified,
            _ => Self::Member,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_back() {
        for standing in [Standing::Static, Standing::Provisional, Standing::Unverified, Standing::Member] {
            assert_eq!(Standing::from_byte(standing.to_byte()), standing);
        }
    }
}
