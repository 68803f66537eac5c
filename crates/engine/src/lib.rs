//! Worker threads that carry packets between TUN and UDP through noise and route.
//!
//! [`Engine::start`] takes TUN queues, something that binds UDP sockets, and a random number
//! generator, and runs blocking threads: for each queue one *out* (TUN to UDP) and one *in* (UDP to TUN),
//! or a *data* thread that is both, and one *control* (handshakes, timers, configuration). Workers hold immutable snapshots and shared
//! [`tombolo_noise::Link`]s; the control thread alone owns the protocol state. Data threads that have nothing to do help busy ones
//! ([`Assist`]). The engine knows nothing of names, netlink or tokio, and of files only where the kernel tells how busy the processors are.
#![forbid(unsafe_code)]

mod arena;
mod assist;
mod bucket;
mod busy_poll;
mod clock;
mod control;
mod deference;
mod engine;
mod fair_queue;
mod frames;
mod gateway;
mod handle;
mod held;
mod inbound;
mod instruction;
mod offload;
mod options;
mod outbound;
mod path_mtu;
mod probe;
mod rate_limit;
mod read_faults;
mod relay;
mod seeking;
mod send_batch;
mod sender;
mod shared;
mod staging;
mod status;
mod suspend;
mod too_big;
mod transaction;
mod usage;
mod waiting;
mod worker;

pub use assist::{Assist, AssistStatus};
pub use clock::now;
pub use engine::{Engine, StartError};
pub use frames::FrameCredit;
pub use handle::{EngineHandle, ProbeError, Stopped};
pub use instruction::Instruction;
pub use options::{
    EngineEvent, EngineOptions, MAX_WORKERS, Path, PathMtuOptions, Route, Session, SocketBinder, Sockets,
    queues_for,
};
pub use relay::{RelayGrant, RelayPermissions};
pub use status::{
    EngineStatus, OffloadPlace, OffloadReport, OffloadStatus, PathMtuState, PeerState, PeerStatus,
    SocketReport,
};
pub use transaction::{AllowedIpChange, ApplyError, MemberChange, PeerChange, Transaction};
