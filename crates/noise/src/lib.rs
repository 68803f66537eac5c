//! The WireGuard protocol without input and output.
//!
//! [`Device`] owns identities, peers, handshakes and timers; it is driven by one thread (or one
//! test) that hands it datagrams, events and the time, and takes outputs from it. Data threads never
//! touch it: they hold [`Link`]s and [`Keypair`]s, which are shared, and seal and open through `&self`.
//!
//! In *membership mode* ([`Device::set_membership`]) a device answers keys that it does not know as well: with *provisional*
//! sessions, which carry control frames only and last seconds, until their owner is known to be a member. See
//! [`Standing`] for what holds for whom.
//!
//! The crate reads no clock and draws no randomness: `now` and the generator are arguments.
//! Sections cited as "§5.4.2" are those of the WireGuard paper (Donenfeld, NDSS 2017).
#![forbid(unsafe_code)]

pub mod aead;
pub mod clock;
pub mod cookie;
mod crypto;
pub mod handshake;
pub mod keys;
pub mod rate_limit;
mod reply_budget;
pub mod tai64n;
#[cfg(test)]
mod test_support;

mod activity;
mod device;
mod index_table;
mod keypair;
mod link;
mod path;
mod peer;
mod replay;
mod source_table;
mod standing;
mod timers;

pub use activity::{KEEPALIVE_TIMEOUT, NEW_HANDSHAKE_TIMEOUT};
pub use device::{
    AddPeerError, Device, HANDSHAKE_TRAFFIC_CLASS, MAX_UNVERIFIED_ATTEMPTS, MEMBER_MAX_TIMESTAMP_AHEAD,
    MembershipOptions, Output, PROVISIONAL_LIFETIME, PeerStatus, SessionState,
};
pub use index_table::{IndexEntry, IndexTable};
pub use keypair::{
    Keypair, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_ON_RECEIVE_AFTER_TIME, ReplayGuard, TRANSPORT_OVERHEAD, padded_len,
};
pub use keys::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use link::{Event, Link, Received};
pub use replay::ReplayWindow;
pub use source_table::SourceTable;
pub use standing::Standing;
pub use tai64n::Tai64n;
pub use timers::{MAX_HANDSHAKE_ATTEMPTS, REKEY_TIMEOUT, REKEY_TIMEOUT_JITTER_MAX, ZERO_KEYS_AFTER_TIME};
