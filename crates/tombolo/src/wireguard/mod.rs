//! `tombolo-wireguard [-f] IFNAME`: one interface, driven by `wg` and `wg-quick`, as wireguard-go is.
//!
//! No configuration file, no guard, nothing that outlives the process. It ends when its interface is
//! deleted, when its socket is removed, and on a signal. While the interface is down nothing is sent
//! (requirement 10).
//!
//! The environment is wireguard-go's: `WG_PROCESS_FOREGROUND=1`, `WG_TUN_FD`, `LOG_LEVEL`
//! (`verbose`, `error`, `silent`); and ours, `TOMBOLO_WORKERS`, `TOMBOLO_BUSY_POLL`, `TOMBOLO_ASSIST` and `TOMBOLO_OFFLOAD_*`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tombolo_engine::{Engine, EngineEvent, EngineHandle, EngineOptions, PathMtuOptions, queues_for};
use tombolo_tun::netlink::{LinkChange, LinkState, Netlink, Watch};
use tombolo_tun::{Device, DeviceOptions, Place, TRANSMIT_QUEUE_LENGTH, gso_max_size_for, table_for};
use tracing_subscriber::EnvFilter;

use crate::background::{self, Outcome};
use crate::cli::args::LogFormat;
use crate::cli::{Failure, failed, logging};
use crate::config::OffloadConfig;
use crate::daemon::notify::{self, Waiting};
use crate::daemon::{engine, privileges, watching};
use crate::threads::ThreadConfig;
use crate::uapi::server::{Access, EngineSlot, UapiSocket};

/// Says to a child that its parent waits for the ready word.
const CHILD: &str = "TOMBOLO_WIREGUARD_CHILD";
/// MTU of a new interface until `wg-quick` or an administrator sets another, as wireguard-go has it.
const DEFAULT_MTU: u32 = 1420;
/// How often it is looked whether the socket is still there. Its removal is how one asks the program
/// to end, so nobody waits for it in a hurry.
const SOCKET_LOOK: Duration = Duration::from_millis(500);

/// A userspace WireGuard interface, set up with wg(8).
#[derive(Debug, Parser)]
#[command(
    name = "tombolo-wireguard",
    version,
    after_help = "Environment: WG_PROCESS_FOREGROUND=1 (as -f), WG_TUN_FD (an open TUN), LOG_LEVEL (verbose, error, silent),\n\
                  TOMBOLO_WORKERS (auto, or 1 to 64), TOMBOLO_BUSY_POLL (5us to 10ms, or 0),\n\
                  TOMBOLO_ASSIST (auto, off, or always).\n\
                  TOMBOLO_OFFLOAD_NAME=off switches an offload off, NAME being one of VNET_HEADER, CHECKSUM, TSO, USO, \
                  COALESCE_TCP, COALESCE_UDP, GSO, GRO.\n\
                  With wg-quick: WG_QUICK_USERSPACE_IMPLEMENTATION=tombolo-wireguard wg-quick up wg0"
)]
struct Arguments {
    /// Stay in the foreground.
    #[arg(short, long)]
    foreground: bool,
    /// Name of the interface.
    interface: String,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tombolo-wireguard: {failure}");
            failure.into()
        }
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let child = is_set(CHILD);
    if arguments.foreground || child || is_set("WG_PROCESS_FOREGROUND") {
        return serve(&arguments.interface, child);
    }
    // The child inherits WG_TUN_FD, if there is one.
    let outcome = background::start_relayed(std::slice::from_ref(&arguments.interface), &[(CHILD, "1")])
        .map_err(|error| Failure::runtime("the daemon cannot be started", error))?;
    match outcome {
        Outcome::Ready => Ok(()),
        Outcome::Ended(status, written) => {
            let message = written.trim_end().trim_start_matches("tombolo-wireguard: ").to_owned();
            Err(if status.code() == Some(1) { Failure::Mistake(message) } else { Failure::Runtime(message) })
        }
    }
}

fn start_logging() {
    let level = match std::env::var("LOG_LEVEL").as_deref() {
        Ok("verbose" | "debug") => "debug",
        Ok("silent") => "off",
        _ => "error",
    };
    logging::start_with(EnvFilter::new(level), LogFormat::Human);
}

fn serve(interface: &str, child: bool) -> Result<(), Failure> {
    if child {
        background::leave_session();
    }
    start_logging();
    // A port below 1024 may be asked for at any time.
    privileges::reduce(true);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .map_err(|error| Failure::runtime("the runtime cannot be started", error))?;
    let result = runtime.block_on(async {
        let mut running = Running::start(interface)?;
        notify::ready(if child { Waiting::Parent } else { Waiting::ServiceManager }, interface);
        if child {
            background::silence();
        }
        running.serve().await
    });
    runtime.shutdown_background();
    result
}

/// The one interface.
struct Running {
    device: Device,
    engine: Engine,
    events: mpsc::UnboundedReceiver<Vec<EngineEvent>>,
    notices: mpsc::Receiver<watching::Notice>,
    socket: UapiSocket,
    link: Link,
}

/// What the engine was last told of the interface.
struct Link {
    name: String,
    netlink: Netlink,
    up: bool,
    mtu: u32,
}

impl Link {
    /// Tells the engine what changed: link up or down, another MTU.
    fn follow(&mut self, engine: &EngineHandle) -> Result<(), Failure> {
        let Ok(Some(link)) = self.netlink.link_by_name(&self.name) else { return Ok(()) };
        if link.mtu != self.mtu {
            self.mtu = link.mtu;
            engine.set_mtu(engine_mtu(link.mtu)).map_err(failed)?;
            fit_queue(&mut self.netlink, &link);
        }
        if link.up != self.up {
            self.up = link.up;
            engine.set_link_up(link.up).map_err(failed)?;
        }
        Ok(())
    }

    /// In another namespace its state cannot be seen from here, and whoever moved it there is about to
    /// set it up. While it is down nothing comes out of it; keepalives and handshakes are sent.
    fn assume_up(&mut self, engine: &EngineHandle) -> Result<(), Failure> {
        if !self.up {
            self.up = true;
            engine.set_link_up(true).map_err(failed)?;
        }
        Ok(())
    }
}

/// The kernel's own length of a TUN's queue, in packets.
const KERNEL_QUEUE_LENGTH: u32 = 500;

/// Limits super-packets to what one send carries when it is sealed: a larger one needs a second send for its last two packets,
/// and at the other end a second read and a second write. And lets bursts of several connections wait to be read, unless somebody has set
/// the queue's length. A kernel that refuses leaves it slower, not wrong.
fn fit_queue(netlink: &mut Netlink, link: &tombolo_tun::netlink::Link) {
    let size = gso_max_size_for(link.mtu);
    let change = LinkChange {
        gso_max_size: link.gso_max_size.filter(|&now| now != size).map(|_| size),
        transmit_queue_length: (link.transmit_queue_length == KERNEL_QUEUE_LENGTH)
            .then_some(TRANSMIT_QUEUE_LENGTH),
        ..LinkChange::default()
    };
    if change != LinkChange::default()
        && let Err(error) = netlink.set_link(link.index, &change)
    {
        tracing::debug!("the interface's queue is left as it is: {error}");
    }
}

fn engine_mtu(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn open_device(interface: &str, queues: usize, offload: &OffloadConfig) -> Result<Device, Failure> {
    if let Ok(text) = std::env::var("WG_TUN_FD") {
        let number: i32 =
            text.parse().map_err(|_| Failure::Mistake(format!("WG_TUN_FD is `{text}`, not a number")))?;
        return Device::from_inherited(number, offload.tun()).map_err(failed);
    }
    Device::open(&DeviceOptions {
        mtu: Some(DEFAULT_MTU),
        queues,
        offloads: offload.tun(),
        ..DeviceOptions::new(interface)
    })
    .map_err(failed)
}

impl Running {
    fn start(interface: &str) -> Result<Self, Failure> {
        if !crate::config::valid_interface_name(interface) {
            return Err(Failure::Mistake(format!("`{interface}` cannot be the name of an interface")));
        }
        let threads =
            ThreadConfig::default().overridden(|name| std::env::var_os(name)).map_err(Failure::Mistake)?;
        let offload = OffloadConfig::from_environment(std::env::vars_os())
            .map_err(|problems| Failure::Mistake(problems.join("; ")))?;
        let device = open_device(interface, queues_for(threads.workers()), &offload)?;
        let name = device.name().to_owned();
        let watch = Watch::open(&name, table_for(&name)).map_err(failed)?;
        let mut netlink = Netlink::open().map_err(failed)?;
        let link = netlink.link_by_name(&name).map_err(failed)?;
        if let Some(link) = &link {
            fit_queue(&mut netlink, link);
        }
        let (up, mtu) = link.map_or((false, DEFAULT_MTU), |link| (link.up, link.mtu));
        let options = EngineOptions {
            mtu: engine_mtu(mtu),
            listen_port: 0,
            firewall_mark: 0,
            link_up: up,
            max_clock_ahead: None,
            workers: threads.workers(),
            busy_poll: threads.busy_poll,
            assist: threads.assist,
            path_mtu: PathMtuOptions::off(),
            copy_dscp: false,
        };
        let (sender, events) = mpsc::unbounded_channel();
        let engine = engine::start(options, &device, engine::UdpBinder::new(&offload), sender)?;
        if let Ok(status) = engine.handle().status() {
            for report in status.offloads.offloads.iter().filter(|report| !report.state.is_on()) {
                let (place, offload) = (report.place.name(), report.offload.name());
                tracing::debug!("{offload} of {place} is not used: {}", report.state);
            }
        }
        let notices = watching::start(watch).map_err(failed)?;
        let socket = UapiSocket::open(&name, EngineSlot::new(engine.handle()), Access::Change)
            .map_err(|error| Failure::runtime("the socket for wg cannot be served", error))?;
        Ok(Self { device, engine, events, notices, socket, link: Link { name, netlink, up, mtu } })
    }

    async fn serve(&mut self) -> Result<(), Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::runtime("signals cannot be listened for", error));
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut look = tokio::time::interval(SOCKET_LOOK);
        let handle = self.engine.handle();
        // Between the first look and the watch something may have happened.
        self.link.follow(&handle)?;
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = look.tick() => {
                    if !self.socket.is_in_place() {
                        tracing::debug!("the socket was removed");
                        return Ok(());
                    }
                }
                together = self.events.recv() => {
                    let Some(together) = together else { return Ok(()) };
                    for event in together {
                        match event {
                            EngineEvent::TunGone => return Ok(()),
                            EngineEvent::Failed(reason) => return Err(Failure::Runtime(reason)),
                            _ => {}
                        }
                    }
                }
                Some(notice) = self.notices.recv() => {
                    if notice.link != LinkState::Missing {
                        self.link.follow(&handle)?;
                        continue;
                    }
                    match self.device.place() {
                        Ok(Place::Gone) => return Ok(()),
                        Ok(Place::Elsewhere) => self.link.assume_up(&handle)?,
                        _ => {}
                    }
                }
            }
        }
    }
}
