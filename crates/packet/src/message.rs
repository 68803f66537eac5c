//! WireGuard's four messages (paper §5.4): checked views of received ones, writers for our own.
//!
//! Each view has one checked constructor and accessors that cannot fail. All integers on the wire
//! are little-endian. Nothing here is authenticated: a view says only that the length and the type
//! are right (requirement 1).

use crate::DropReason;

/// Length in bytes of a handshake initiation (§5.4.2).
pub const INITIATION_LEN: usize = 148;
/// Length in bytes of a handshake response (§5.4.3).
pub const RESPONSE_LEN: usize = 92;
/// Length in bytes of a cookie reply (§5.4.7).
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes before the ciphertext of a transport message (§5.4.6).
pub const TRANSPORT_HEADER_LEN: usize = 16;
/// Length in bytes of a Poly1305 tag.
pub const TAG_LEN: usize = 16;
/// Length in bytes of the shortest transport message: a keepalive, an empty plaintext.
pub const TRANSPORT_MIN_LEN: usize = TRANSPORT_HEADER_LEN + TAG_LEN;
/// Length in bytes of mac1 and of mac2 (§5.4.4).
pub const MAC_LEN: usize = 16;

/// Which of the four messages a datagram holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MessageType {
    /// The first message of a handshake.
    Initiation = 1,
    /// The second message of a handshake.
    Response = 2,
    /// The answer of a loaded responder.
    CookieReply = 3,
    /// Encrypted data, or a keepalive.
    Transport = 4,
}

impl MessageType {
    /// Reads the type, a 32-bit number of which the three upper bytes are reserved and zero, and
    /// checks the length that goes with it: exact, but for transport data, which has at least
    /// [`TRANSPORT_MIN_LEN`] bytes (requirement 1).
    ///
    /// # Errors
    /// [`DropReason::MalformedMessage`].
    #[inline]
    pub fn classify(datagram: &[u8]) -> Result<Self, DropReason> {
        let (&type_field, _) = datagram.split_first_chunk::<4>().ok_or(DropReason::MalformedMessage)?;
        match (u32::from_le_bytes(type_field), datagram.len()) {
            (4, TRANSPORT_MIN_LEN..) => Ok(Self::Transport),
            (1, INITIATION_LEN) => Ok(Self::Initiation),
            (2, RESPONSE_LEN) => Ok(Self::Response),
            (3, COOKIE_REPLY_LEN) => Ok(Self::CookieReply),
            _ => Err(DropReason::MalformedMessage),
        }
    }

    /// The type field as it stands on the wire.
    const fn to_bytes(self) -> [u8; 4] {
        (self as u32).to_le_bytes()
    }
}

/// `N` bytes of a message whose length the view's constructor fixed.
#[inline]
fn field<const N: usize>(message: &[u8], offset: usize) -> &[u8; N] {
    message[offset..].first_chunk().expect("the offsets of a view lie within the length it was parsed with")
}

/// `message` as an array, if it is a message of type `expected`.
fn exact<const N: usize>(message: &[u8], expected: MessageType) -> Result<&[u8; N], DropReason> {
    if MessageType::classify(message)? != expected {
        return Err(DropReason::MalformedMessage);
    }
    message.try_into().map_err(|_| DropReason::MalformedMessage)
}

/// A handshake initiation (§5.4.2).
///
/// | bytes | field |
/// |---|---|
/// | 0..4 | type 1 |
/// | 4..8 | sender index |
/// | 8..40 | ephemeral public key |
/// | 40..88 | encrypted static public key |
/// | 88..116 | encrypted TAI64N timestamp |
/// | 116..132 | mac1 |
/// | 132..148 | mac2 |
#[derive(Clone, Copy, Debug)]
pub struct Initiation<'a>(&'a [u8; INITIATION_LEN]);

impl<'a> Initiation<'a> {
    /// # Errors
    /// [`DropReason::MalformedMessage`] unless type and length are those of an initiation.
    pub fn parse(message: &'a [u8]) -> Result<Self, DropReason> {
        exact(message, MessageType::Initiation).map(Self)
    }

    /// An initiation with both macs zero.
    pub fn write(
        sender_index: u32,
        ephemeral: &[u8; 32],
        encrypted_static: &[u8; 48],
        encrypted_timestamp: &[u8; 28],
    ) -> [u8; INITIATION_LEN] {
        let mut message = [0; INITIATION_LEN];
        message[..4].copy_from_slice(&MessageType::Initiation.to_bytes());
        message[4..8].copy_from_slice(&sender_index.to_le_bytes());
        message[8..40].copy_from_slice(ephemeral);
        message[40..88].copy_from_slice(encrypted_static);
        message[88..116].copy_from_slice(encrypted_timestamp);
        message
    }

    /// The index that answers are to name.
    pub fn sender_index(&self) -> u32 {
        u32::from_le_bytes(*field(self.0, 4))
    }

    /// The initiator's ephemeral public key.
    pub fn ephemeral(&self) -> &'a [u8; 32] {
        field(self.0, 8)
    }

    /// The initiator's static public key, encrypted, with its tag.
    pub fn encrypted_static(&self) -> &'a [u8; 48] {
        field(self.0, 40)
    }

    /// The TAI64N timestamp, encrypted, with its tag.
    pub fn encrypted_timestamp(&self) -> &'a [u8; 28] {
        field(self.0, 88)
    }

    /// What mac1 covers.
    pub fn bytes_before_mac1(&self) -> &'a [u8] {
        &self.0[..INITIATION_LEN - 2 * MAC_LEN]
    }

    /// The first mac.
    pub fn mac1(&self) -> &'a [u8; MAC_LEN] {
        field(self.0, INITIATION_LEN - 2 * MAC_LEN)
    }

    /// What mac2 covers.
    pub fn bytes_before_mac2(&self) -> &'a [u8] {
        &self.0[..INITIATION_LEN - MAC_LEN]
    }

    /// The second mac.
    pub fn mac2(&self) -> &'a [u8; MAC_LEN] {
        field(self.0, INITIATION_LEN - MAC_LEN)
    }

    /// The whole message.
    pub fn as_bytes(&self) -> &'a [u8; INITIATION_LEN] {
        self.0
    }
}

/// A handshake response (§5.4.3).
///
/// | bytes | field |
/// |---|---|
/// | 0..4 | type 2 |
/// | 4..8 | sender index |
/// | 8..12 | receiver index |
/// | 12..44 | ephemeral public key |
/// | 44..60 | encrypted nothing: a tag |
/// | 60..76 | mac1 |
/// | 76..92 | mac2 |
#[derive(Clone, Copy, Debug)]
pub struct Response<'a>(&'a [u8; RESPONSE_LEN]);

impl<'a> Response<'a> {
    /// # Errors
    /// [`DropReason::MalformedMessage`] unless type and length are those of a response.
    pub fn parse(message: &'a [u8]) -> Result<Self, DropReason> {
        exact(message, MessageType::Response).map(Self)
    }

    /// A response with both macs zero.
    pub fn write(
        sender_index: u32,
        receiver_index: u32,
        ephemeral: &[u8; 32],
        encrypted_nothing: &[u8; 16],
    ) -> [u8; RESPONSE_LEN] {
        let mut message = [0; RESPONSE_LEN];
        message[..4].copy_from_slice(&MessageType::Response.to_bytes());
        message[4..8].copy_from_slice(&sender_index.to_le_bytes());
        message[8..12].copy_from_slice(&receiver_index.to_le_bytes());
        message[12..44].copy_from_slice(ephemeral);
        message[44..60].copy_from_slice(encrypted_nothing);
        message
    }

    /// The index that transport data to the responder is to name.
    pub fn sender_index(&self) -> u32 {
        u32::from_le_bytes(*field(self.0, 4))
    }

    /// The sender index of the initiation that this answers.
    pub fn receiver_index(&self) -> u32 {
        u32::from_le_bytes(*field(self.0, 8))
    }

    /// The responder's ephemeral public key.
    pub fn ephemeral(&self) -> &'a [u8; 32] {
        field(self.0, 12)
    }

    /// The tag over an empty plaintext.
    pub fn encrypted_nothing(&self) -> &'a [u8; 16] {
        field(self.0, 44)
    }

    /// What mac1 covers.
    pub fn bytes_before_mac1(&self) -> &'a [u8] {
        &self.0[..RESPONSE_LEN - 2 * MAC_LEN]
    }

    /// The first mac.
    pub fn mac1(&self) -> &'a [u8; MAC_LEN] {
        field(self.0, RESPONSE_LEN - 2 * MAC_LEN)
    }

    /// What mac2 covers.
    pub fn bytes_before_mac2(&self) -> &'a [u8] {
        &self.0[..RESPONSE_LEN - MAC_LEN]
    }

    /// The second mac.
    pub fn mac2(&self) -> &'a [u8; MAC_LEN] {
        field(self.0, RESPONSE_LEN - MAC_LEN)
    }

    /// The whole message.
    pub fn as_bytes(&self) -> &'a [u8; RESPONSE_LEN] {
        self.0
    }
}

/// A cookie reply (§5.4.7).
///
/// | bytes | field |
/// |---|---|
/// | 0..4 | type 3 |
/// | 4..8 | receiver index |
/// | 8..32 | nonce |
/// | 32..64 | encrypted cookie |
#[derive(Clone, Copy, Debug)]
pub struct CookieReply<'a>(&'a [u8; COOKIE_REPLY_LEN]);

impl<'a> CookieReply<'a> {
    /// # Errors
    /// [`DropReason::MalformedMessage`] unless type and length are those of a cookie reply.
    pub fn parse(message: &'a [u8]) -> Result<Self, DropReason> {
        exact(message, MessageType::CookieReply).map(Self)
    }

    /// A cookie reply.
    pub fn write(
        receiver_index: u32,
        nonce: &[u8; 24],
        encrypted_cookie: &[u8; 32],
    ) -> [u8; COOKIE_REPLY_LEN] {
        let mut message = [0; COOKIE_REPLY_LEN];
        message[..4].copy_from_slice(&MessageType::CookieReply.to_bytes());
        message[4..8].copy_from_slice(&receiver_index.to_le_bytes());
        message[8..32].copy_from_slice(nonce);
        message[32..64].copy_from_slice(encrypted_cookie);
        message
    }

    /// The sender index of the handshake message that this answers.
    pub fn receiver_index(&self) -> u32 {
        u32::from_le_bytes(*field(self.0, 4))
    }

    /// The nonce of the XChaCha20-Poly1305 box.
    pub fn nonce(&self) -> &'a [u8; 24] {
        field(self.0, 8)
    }

    /// The cookie, encrypted, with its tag.
    pub fn encrypted_cookie(&self) -> &'a [u8; 32] {
        field(self.0, 32)
    }
}

/// Transport data (§5.4.6).
///
/// | bytes | field |
/// |---|---|
/// | 0..4 | type 4 |
/// | 4..8 | receiver index |
/// | 8..16 | counter |
/// | 16.. | ciphertext with its tag |
#[derive(Clone, Copy, Debug)]
pub struct Transport<'a>(&'a [u8]);

impl<'a> Transport<'a> {
    /// # Errors
    /// [`DropReason::MalformedMessage`] unless the type is that of transport data and there are at
    /// least [`TRANSPORT_MIN_LEN`] bytes.
    #[inline]
    pub fn parse(message: &'a [u8]) -> Result<Self, DropReason> {
        match MessageType::classify(message)? {
            MessageType::Transport => Ok(Self(message)),
            _ => Err(DropReason::MalformedMessage),
        }
    }

    /// The index of the receiver's keypair.
    #[inline]
    pub fn receiver_index(&self) -> u32 {
        u32::from_le_bytes(*field(self.0, 4))
    }

    /// The nonce counter.
    #[inline]
    pub fn counter(&self) -> u64 {
        u64::from_le_bytes(*field(self.0, 8))
    }

    /// The ciphertext with its tag: at least [`TAG_LEN`] bytes.
    #[inline]
    pub fn ciphertext(&self) -> &'a [u8] {
        &self.0[TRANSPORT_HEADER_LEN..]
    }
}

/// Writes the 16 bytes that stand before the ciphertext of transport data.
#[inline]
pub fn write_transport_header(header: &mut [u8; TRANSPORT_HEADER_LEN], receiver_index: u32, counter: u64) {
    header[..4].copy_from_slice(&MessageType::Transport.to_bytes());
    header[4..8].copy_from_slice(&receiver_index.to_le_bytes());
    header[8..].copy_from_slice(&counter.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting<const N: usize>(from: u8) -> [u8; N] {
        std::array::from_fn(|i| from.wrapping_add(i as u8))
    }

    #[test]
    fn lengths_and_reserved_bytes_decide_the_type_requirement_1() {
        let lengths = [INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN];
        for kind in 0..=255_u32 {
            for len in 0..200 {
                let mut message = vec![0; len];
                if len >= 4 {
                    message[..4].copy_from_slice(&kind.to_le_bytes());
                }
                let expected = match kind {
                    1..=3 => len == lengths[kind as usize - 1],
                    4 => len >= 32,
                    _ => false,
                };
                assert_eq!(MessageType::classify(&message).is_ok(), expected, "type {kind}, {len} bytes");
            }
        }
        for (kind, len) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1500)] {
            for reserved in 1..4 {
                let mut message = vec![0; len];
                message[0] = kind;
                assert!(MessageType::classify(&message).is_ok());
                message[reserved] = 1;
                assert_eq!(MessageType::classify(&message), Err(DropReason::MalformedMessage));
            }
        }
    }

    #[test]
    fn an_initiation_reads_as_written() {
        let message = Initiation::write(0x0403_0201, &counting(10), &counting(50), &counting(100));
        let view = Initiation::parse(&message).unwrap();
        assert_eq!(message[..9], [1, 0, 0, 0, 1, 2, 3, 4, 10]);
        assert_eq!(view.sender_index(), 0x0403_0201);
        assert_eq!(view.ephemeral(), &counting::<32>(10));
        assert_eq!(view.encrypted_static(), &counting::<48>(50));
        assert_eq!(view.encrypted_timestamp(), &counting::<28>(100));
        assert_eq!((view.mac1(), view.mac2()), (&[0; 16], &[0; 16]));
        assert_eq!((view.bytes_before_mac1().len(), view.bytes_before_mac2().len()), (116, 132));
        assert!(Response::parse(&message).is_err() && Transport::parse(&message).is_err());
    }

    #[test]
    fn a_response_reads_as_written() {
        let message = Response::write(7, 0x0403_0201, &counting(10), &counting(50));
        let view = Response::parse(&message).unwrap();
        assert_eq!((view.sender_index(), view.receiver_index()), (7, 0x0403_0201));
        assert_eq!(message[..13], [2, 0, 0, 0, 7, 0, 0, 0, 1, 2, 3, 4, 10]);
        assert_eq!(view.ephemeral(), &counting::<32>(10));
        assert_eq!(view.encrypted_nothing(), &counting::<16>(50));
        assert_eq!((view.bytes_before_mac1().len(), view.bytes_before_mac2().len()), (60, 76));
        assert!(Initiation::parse(&message).is_err() && CookieReply::parse(&message).is_err());
    }

    #[test]
    fn a_cookie_reply_reads_as_written() {
        let message = CookieReply::write(9, &counting(1), &counting(60));
        let view = CookieReply::parse(&message).unwrap();
        assert_eq!(view.receiver_index(), 9);
        assert_eq!(view.nonce(), &counting::<24>(1));
        assert_eq!(view.encrypted_cookie(), &counting::<32>(60));
        assert_eq!((message[0], message[8], message[32]), (3, 1, 60));
    }

    #[test]
    fn transport_data_reads_as_written() {
        let mut message = [0xaa; 48];
        write_transport_header(message.first_chunk_mut().unwrap(), 5, 0x0807_0605_0403_0201);
        assert_eq!(message[..16], [4, 0, 0, 0, 5, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let view = Transport::parse(&message).unwrap();
        assert_eq!((view.receiver_index(), view.counter()), (5, 0x0807_0605_0403_0201));
        assert_eq!(view.ciphertext(), [0xaa; 32]);
    }
}
