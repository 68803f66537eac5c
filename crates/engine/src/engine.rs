//! Starting and stopping the threads.

use std::io;
use std::sync::Arc;

use rand_core::CryptoRng;
use tombolo_tun::Queue;

use crate::handle::EngineHandle;
use crate::options::{EngineEvent, EngineOptions, SocketBinder};

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The UDP port could not be bound.
    #[error("UDP port {port} cannot be bound: {source}")]
    Bind {
        /// The port asked for.
        port: u16,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A thread, an eventfd or a timer could not be made.
    #[error("a worker could not be started: {0}")]
    Worker(#[source] io::Error),
}

/// A running engine. Dropping it stops its threads.
pub struct Engine {
    handle: EngineHandle,
}

impl Engine {
    /// Starts the threads. `events` is called on the control thread and must not block.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        _options: EngineOptions,
        _queue: Arc<dyn Queue>,
        _binder: impl SocketBinder,
        _random: impl CryptoRng + Send + 'static,
        _events: impl Fn(EngineEvent) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// The way in for other threads.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Stops the threads and waits for them. Peers are not told; the TUN stays as it is.
    pub fn stop(self) {}
}
