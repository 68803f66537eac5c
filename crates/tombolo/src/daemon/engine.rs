//! Starting the engine.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::mpsc;
use tombolo_engine::{Engine, EngineEvent, EngineOptions, Route, SocketBinder, Sockets};
use tombolo_packet::{Offload, Steering};
use tombolo_tun::netlink::Netlink;
use tombolo_tun::{Device, Queue};
use tombolo_udp::{BindError, BindOptions, Socket, bind_pairs};

use crate::cli::{Failure, failed};
use crate::config::OffloadConfig;
use crate::random;

/// Binds the sockets of an engine, in the network namespace of the thread that asks.
pub(crate) struct UdpBinder {
    /// Whether `UDP_SEGMENT` may be used.
    gso: bool,
    /// Whether `UDP_GRO` may be used.
    gro: bool,
    /// Where routes are asked for; `None`: packet sizes are the user's affair.
    routes: Option<Netlink>,
}

impl UdpBinder {
    /// With the switches of a configuration.
    pub(crate) fn new(offload: &OffloadConfig) -> Self {
        Self { gso: offload.is_on(Offload::Gso), gro: offload.is_on(Offload::Gro), routes: None }
    }

    /// Also tells the engine which way its packets leave. Without netlink there would be no interface; should it fail
    /// only now, the interface's MTU holds for all.
    pub(crate) fn with_routes(self) -> Self {
        Self { routes: Netlink::open().ok(), ..self }
    }
}

impl SocketBinder for UdpBinder {
    fn bind(&mut self, port: u16, mark: u32, steering: Steering) -> io::Result<Sockets> {
        let options = BindOptions { mark, gso: self.gso, gro: self.gro, ..BindOptions::default() };
        let bound = bind_pairs(port, &options, steering).map_err(|error| match error {
            BindError::PortInUse { .. } => io::Error::from(Errno::ADDRINUSE),
            BindError::System { source, .. } => source,
            other => io::Error::other(other),
        })?;
        let mut lanes = bound.lanes.into_iter().map(|pair| {
            let port = pair.port();
            let v6 = pair.v6.map(|socket| Arc::new(socket) as Arc<dyn Socket>);
            Sockets { v4: Some(Arc::new(pair.v4)), v6, port, ..Sockets::default() }
        });
        let first = lanes.next().unwrap_or_default();
        let more = lanes.collect();
        let handshakes = bound.handshakes.into_iter().map(|socket| Arc::new(socket) as Arc<dyn Socket>);
        Ok(Sockets { more, handshakes: handshakes.collect(), ..first })
    }

    fn route(&mut self, destination: IpAddr, mark: u32) -> Option<Route> {
        let path = self.routes.as_mut()?.path_to(destination, None, mark).ok()??;
        Some(Route { interface: path.interface, interface_mtu: path.interface_mtu, mtu: path.mtu })
    }
}

/// Starts an engine on the queues of a device; its events go to `events`, those of one turn together.
pub(crate) fn start<E: From<Vec<EngineEvent>> + Send + 'static>(
    options: EngineOptions,
    device: &Device,
    binder: UdpBinder,
    events: mpsc::UnboundedSender<E>,
) -> Result<Engine, Failure> {
    let queues = device.queues().iter().map(|queue| Arc::clone(queue) as Arc<dyn Queue>).collect();
    let generator =
        random::generator().map_err(|error| Failure::runtime("the system gives no randomness", error))?;
    let report = move |together| {
        // The daemon is stopping when nobody listens any more.
        let _ = events.send(E::from(together));
    };
    Engine::start(options, queues, binder, generator, report).map_err(failed)
}
