//! The requirements on the protocol, by number, in virtual time (docs/protocol.md).

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

#[expect(unreachable_pub, reason = "the furniture of one test binary")]
mod harness;

mod configuration;
mod handshakes;
mod keepalives;
mod load;
mod members;
mod provisional;
mod provisional_flood;
mod rekeying;
mod roaming;
mod simulation;
