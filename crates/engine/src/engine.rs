//! Starting and stopping the threads.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rand_core::CryptoRng;
use tombolo_noise::Device;
use tombolo_tun::Queue;

use crate::control::{Control, ControlParts};
use crate::handle::EngineHandle;
use crate::inbound;
use crate::options::{EngineEvent, EngineOptions, SocketBinder, Sockets};
use crate::outbound;
use crate::shared::Shared;

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
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the threads. `events` is called on the control thread and must not block.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        options: EngineOptions,
        queue: Arc<dyn Queue>,
        mut binder: impl SocketBinder,
        mut random: impl CryptoRng + Send + 'static,
        events: impl Fn(EngineEvent) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let port = options.listen_port;
        let sockets =
            binder.bind(port, options.firewall_mark).map_err(|source| StartError::Bind { port, source })?;
        let mut device = Device::new();
        device.set_max_timestamp_ahead(options.max_clock_ahead);
        let magic = random.next_u64();
        let shared = Shared::new(device.index_table(), sockets, queue.offloads(), options.mtu, magic)
            .map_err(StartError::Worker)?;
        let shared = Arc::new(shared);
        let (commands, receiver) = mpsc::channel();
        let control = Control::new(ControlParts {
            shared: Arc::clone(&shared),
            device,
            random,
            binder,
            events: Box::new(events),
            commands: receiver,
            firewall_mark: options.firewall_mark,
            link_up: options.link_up,
        })
        .map_err(StartError::Worker)?;
        let handle = EngineHandle { commands, shared: Arc::clone(&shared) };
        let mut engine = Self { handle, threads: Vec::with_capacity(3) };
        let (out_shared, out_queue) = (Arc::clone(&shared), Arc::clone(&queue));
        engine.spawn("tombolo-out", move || outbound::run(&out_shared, out_queue.as_ref()))?;
        engine.spawn("tombolo-in", move || inbound::run(&shared, queue.as_ref()))?;
        engine.spawn("tombolo-control", move || control.run())?;
        Ok(engine)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(body).map_err(StartError::Worker)?;
        self.threads.push(thread);
        Ok(())
    }

    /// The way in for other threads.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Stops the threads and waits for them. Peers are not told; the TUN stays as it is.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.shared.stop();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on standard error; there is nothing left to wait for.
            let _ = thread.join();
        }
        // Handles outlive the engine; the port must not.
        self.handle.shared.sockets.store(Arc::new(Sockets { v4: None, v6: None, port: 0 }));
    }
}
