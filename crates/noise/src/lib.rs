//! The WireGuard protocol without input and output.
//!
//! [`Device`] owns identities, peers, handshakes and timers; it is driven by one thread (or one
//! test) that hands it datagrams, events and the time, and takes outputs from it. Data threads never
//! touch it: they hold [`Link`]s and [`Keypair`]s, which are shared, and seal and open through `&self`.
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
pub mod tai64n;
