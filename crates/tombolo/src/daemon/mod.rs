//! The daemon: one process, one network, one interface.
//!
//! The order of the start is a promise: the guard and the routes stand before the interface is up, and
//! readiness is told only when the own addresses can be bound.

pub(crate) mod engine;
mod generation;
pub(crate) mod interface;
pub(crate) mod lock;
mod membership;
mod naming;
pub(crate) mod notify;
mod peers;
pub(crate) mod privileges;
mod reload;
pub(crate) mod report;
mod requests;
mod resolving;
mod restoring;
mod run;
mod start;
#[cfg(test)]
mod tests;
pub(crate) mod watching;

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::sync::mpsc;
use tombolo_control::HostEndpoint;
use tombolo_control::authority::{Outcome, TransactionId};
use tombolo_engine::{Engine, EngineEvent, Instruction};
use tombolo_noise::PublicKey;
use tombolo_tun::Device;

use crate::config::NetworkConfig;
use crate::control::Call;
use crate::membership::routes::{self, Refused};
use crate::paths::Directories;
use crate::state::{SavedPeers, StateStore};
use crate::uapi::server::{EngineSlot, UapiSocket};
use interface::Interface;
use resolving::Resolving;

pub(crate) use notify::Waiting;
pub(crate) use start::run;

/// Takes away what a stopped daemon left behind on purpose: `down --open`.
pub(crate) fn remove_leftovers(
    config: &NetworkConfig,
    state_directory: &std::path::Path,
) -> Result<(), crate::cli::Failure> {
    let name = interface::choose_name(config, state_directory)?;
    Interface::open(&name, config)?.remove()
}

/// Puts guard, rules and fallback routes in place without starting the network, so that nothing leaks
/// between boot and the start of the daemon.
pub(crate) fn guard(
    mut config: NetworkConfig,
    directories: &Directories,
    network: &str,
) -> Result<(), crate::cli::Failure> {
    if config.interface.addresses.is_empty() {
        // A join that is not through: there is nothing to guard yet.
        return Ok(());
    }
    routes::settle(&mut config, directories, network, false);
    let name = interface::choose_name(&config, &directories.state_directory(network))?;
    let mut interface = Interface::open(&name, &config)?;
    interface.restore()?;
    match interface.guard_state() {
        (true, _) => Ok(()),
        (false, reason) => Err(crate::cli::Failure::Runtime(
            reason.unwrap_or_else(|| "the guard is not in place".to_owned()),
        )),
    }
}

/// What happens beside requests and signals.
enum Event {
    /// Of one turn of the engine.
    Engine(Vec<EngineEvent>),
    Resolved(PublicKey, Result<SocketAddr, String>),
    /// Of a server of the network.
    ServerResolved(HostEndpoint, Result<Vec<SocketAddr>, String>),
    /// What came of a transaction of the register.
    Stored(TransactionId, Outcome),
}

impl From<Vec<EngineEvent>> for Event {
    fn from(together: Vec<EngineEvent>) -> Self {
        Self::Engine(together)
    }
}

/// A running daemon.
struct Daemon {
    network: String,
    directories: Directories,
    config: NetworkConfig,
    interface: Interface,
    device: Device,
    /// `None` for the moment in which a new one is started, and after the stop.
    engine: Option<Engine>,
    slot: EngineSlot,
    /// What the engine is to do, and has not been handed yet.
    instructions: Vec<Instruction>,
    store: StateStore,
    /// Peers that were saved by an earlier run and have not been heard in this one keep what was saved.
    saved: SavedPeers,
    /// Of a network by membership.
    member: Option<Box<membership::Member>>,
    /// A join has just come to its end, and the interface has its addresses.
    joined: bool,
    save_wanted: bool,
    /// The interface was deleted under a member: everything begins anew, from the disk.
    again: bool,
    /// Names of members are to be written.
    names_changed: bool,
    resolving: HashMap<PublicKey, Resolving>,
    events: mpsc::UnboundedSender<Event>,
    calls: mpsc::Sender<Call>,
    naming: naming::Naming,
    name_queries: mpsc::Sender<crate::names::NameQuery>,
    metrics: Option<tokio::task::JoinHandle<()>>,
    uapi: Option<UapiSocket>,
    /// Warnings that last until the next reload or restart.
    notices: Vec<String>,
    /// What `accept_routes` names and this machine cannot have.
    refused_routes: Vec<Refused>,
    started_at: u64,
}
