//! The handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (§5.4), one message each way.
//!
//! A step consumes the state it starts from, so none can be taken twice (requirement 27):
//!
//! ```text
//! create_initiation() → Initiator ── consume_response() ──────────────────────────→ SessionSecrets
//! consume_initiation_static() → ReceivedInitiation ── consume_timestamp() → Responder
//!                                                    Responder ── create_response() → SessionSecrets
//! ```
//!
//! A response that does not authenticate gives the [`Initiator`] back. The macs of the messages are the
//! concern of [`crate::cookie`]: they are zero in what is created here, and to be verified before
//! anything is consumed here.
//!
//! ```
//! # use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//! # use tombolo_noise::{keys::*, handshake::*, tai64n::Tai64n};
//! # use tombolo_packet::message::{Initiation, Response};
//! # let rng = &mut ChaCha20Rng::from_seed([0; 32]);
//! let alice = StaticIdentity::new(PrivateKey::generate(rng));
//! let bob = StaticIdentity::new(PrivateKey::generate(rng));
//! let alices_bob = RemoteStatic::new(&alice, *bob.public_key());
//! let bobs_alice = RemoteStatic::new(&bob, *alice.public_key());
//! let none = PresharedKey::default();
//!
//! let (initiator, message) =
//!     create_initiation(&alice, &alices_bob, Tai64n::default(), 1, rng).expect("not of low order");
//!
//! let received = consume_initiation_static(&bob, &Initiation::parse(&message)?)?;
//! assert_eq!(received.remote_static(), alice.public_key());
//! let responder = received.consume_timestamp(&bobs_alice)?;
//! let (message, bobs) = responder.create_response(&none, 2, rng)?;
//!
//! let response = Response::parse(&message)?;
//! let alices = initiator.consume_response(&response, &alice, &none).map_err(|(_, reason)| reason)?;
//! assert_eq!(alices.sending, bobs.receiving);
//! # Ok::<(), tombolo_packet::DropReason>(())
//! ```

mod initiator;
mod pattern;
mod responder;
mod symmetric;
#[cfg(test)]
mod tests;

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

pub use initiator::{Initiator, create_initiation};
pub use responder::{ReceivedInitiation, Responder, consume_initiation_static};

/// `CONSTRUCTION` (§5.4): the name of the Noise protocol.
const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";

/// `IDENTIFIER` (§5.4): the Noise prologue.
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Which side of the handshake we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We sent the initiation: it is we who rekey when time is up (requirement 3).
    Initiator,
    /// We sent the response: we send data only once the initiator has shown the key (requirement 12).
    Responder,
}

/// What a handshake gives: the keys of a session. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SessionSecrets {
    /// Key of what we send.
    pub sending: [u8; 32],
    /// Key of what we receive.
    pub receiving: [u8; 32],
    /// The Noise handshake hash: the same on both sides, and different for each session.
    pub handshake_hash: [u8; 32],
    /// The index that the peer names in what it sends us.
    #[zeroize(skip)]
    pub local_index: u32,
    /// The index that we name in what we send the peer.
    #[zeroize(skip)]
    pub remote_index: u32,
    /// Our side of the handshake.
    #[zeroize(skip)]
    pub role: Role,
}

impl fmt::Debug for SessionSecrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SessionSecrets")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}
