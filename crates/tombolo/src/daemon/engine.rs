//! Starting the engine.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::mpsc;
use tombolo_engine::{Engine, EngineEvent, EngineOptions, SocketBinder, Sockets};
use tombolo_tun::Device;
use tombolo_udp::{BindError, BindOptions, Socket, bind_pair};

use crate::cli::Failure;
use crate::random;

/// Binds the sockets of an engine, in the network namespace of the thread that asks.
pub(crate) struct UdpBinder {
    /// Whether `UDP_SEGMENT` may be used.
    pub(crate) gso: bool,
    /// Whether `UDP_GRO` may be used.
    pub(crate) gro: bool,
}

impl SocketBinder for UdpBinder {
    fn bind(&mut self, port: u16, mark: u32) -> io::Result<Sockets> {
        let options = BindOptions { mark, gso: self.gso, gro: self.gro, ..BindOptions::default() };
        let pair = bind_pair(port, &options).map_err(|error| match error {
            BindError::PortInUse { .. } => io::Error::from(Errno::ADDRINUSE),
            BindError::System { source, .. } => source,
            other => io::Error::other(other),
        })?;
        let port = pair.port();
        let v6 = pair.v6.map(|socket| Arc::new(socket) as Arc<dyn Socket>);
        Ok(Sockets { v4: Some(Arc::new(pair.v4)), v6, port })
    }
}

/// Starts an engine on the first queue of a device; its events go to `events`.
pub(crate) fn start<E: From<EngineEvent> + Send + 'static>(
    options: EngineOptions,
    device: &Device,
    binder: UdpBinder,
    events: mpsc::UnboundedSender<E>,
) -> Result<Engine, Failure> {
    let queue = device
        .queues()
        .first()
        .cloned()
        .ok_or_else(|| Failure::Runtime(format!("the interface {} has no queue", device.name())))?;
    let generator =
        random::generator().map_err(|error| Failure::runtime("the system gives no randomness", error))?;
    let report = move |event| {
        // The daemon is stopping when nobody listens any more.
        let _ = events.send(E::from(event));
    };
    Engine::start(options, queue, binder, generator, report)
        .map_err(|error| Failure::Runtime(error.to_string()))
}
