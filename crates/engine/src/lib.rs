//! Worker threads that carry packets between TUN and UDP through noise and route.
//!
//! [`Engine::start`] takes a TUN queue, something that binds UDP sockets, and a random number
//! generator, and runs three kinds of blocking threads: *out* (TUN to UDP), *in* (UDP to TUN) and
//! *control* (handshakes, timers, configuration). Workers hold immutable snapshots and shared
//! [`tombolo_noise::Link`]s; the control thread alone owns the protocol state. The engine knows
//! nothing of files, names, netlink or tokio.
#![forbid(unsafe_code)]

mod clock;
mod control;
mod engine;
mod handle;
mod inbound;
mod options;
mod outbound;
mod probe;
mod send_batch;
mod shared;
mod staging;
mod status;
mod suspend;
mod transaction;

pub use engine::{Engine, StartError};
pub use handle::{EngineHandle, ProbeError, Stopped};
pub use options::{EngineEvent, EngineOptions, SocketBinder, Sockets};
pub use status::{EngineStatus, OffloadStatus, PeerState, PeerStatus};
pub use transaction::{AllowedIpChange, ApplyError, PeerChange, Transaction};
