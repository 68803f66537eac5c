//! The requirements on the protocol, by number, in virtual time (docs/protocol.md).

#[expect(unreachable_pub, clippy::unwrap_used, reason = "the furniture of one test binary")]
mod harness;

mod configuration;
mod handshakes;
mod keepalives;
mod load;
mod rekeying;
mod roaming;
mod simulation;
