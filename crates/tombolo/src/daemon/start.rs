//! Coming up.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;

use rand_core::Rng as _;
use rustix::process::Gid;
use tokio::sync::mpsc;
use tombolo_engine::{EngineOptions, PathMtuOptions, PeerChange, Transaction, queues_for};
use tombolo_noise::clock::UnixTime;
use tombolo_tun::DeviceError;
use tombolo_tun::netlink::Watch;

use super::engine::{self, UdpBinder};
use super::interface::{self, Interface};
use super::lock::{Lock, LockError};
use super::membership::Member;
use super::notify::{self, Waiting};
use super::report::unix_now;
use super::{Daemon, peers, privileges};
use crate::cli::{Failure, failed};
use crate::config::{self, NetworkConfig};
use crate::membership::routes;
use crate::paths::Directories;
use crate::state::{SavedPeers, StateStore};
use crate::uapi::server::{Access, EngineSlot, UapiSocket};
use crate::{control, metrics, random, user};

/// Requests that wait for the daemon at most.
const CALLS: usize = 64;
/// So that peers which all restart at once do not all call at once.
const JITTER_MILLISECONDS: u64 = 300;

/// Runs the daemon of a network until it is told to stop.
///
/// # Errors
/// What kept it from coming up, or ended it.
pub(crate) fn run(directories: Directories, network: &str, waiting: Waiting) -> Result<(), Failure> {
    let config = config::load_network(&directories, network)?;
    let ports = [config.interface.listen_port, config.interface.metrics.map_or(0, |address| address.port())];
    // While that is still allowed.
    let group = match &config.interface.control_group {
        Some(name) => Some(user::enter_group(name).map_err(|error| {
            Failure::Mistake(format!(
                "`control_group` in {}: {error}",
                directories.config_file(network).display()
            ))
        })?),
        None => None,
    };
    // Names are answered on port 53.
    privileges::reduce(config.membership.is_some() || ports.iter().any(|port| (1..1024).contains(port)));
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&directories.run)
        .map_err(|error| Failure::runtime(format!("{} cannot be made", directories.run.display()), error))?;
    // The directory lets the control socket's group in; what is made from here on is the owner's alone
    // from the moment it exists.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let _network_lock = take(&directories, network)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Probes wait there; the engine's own threads carry the packets.
        .max_blocking_threads(64)
        .build()
        .map_err(|error| Failure::runtime("the runtime cannot be started", error))?;
    let result = runtime.block_on(async {
        let (mut config, mut waiting) = (config, waiting);
        loop {
            let (mut daemon, parts) = Daemon::start(directories.clone(), network, config, group).await?;
            daemon.serve(parts, waiting).await?;
            if !daemon.again {
                return Ok(());
            }
            drop(daemon);
            // Its tasks let go of their sockets when they run next.
            tokio::time::sleep(Duration::from_millis(20)).await;
            config = config::load_network(&directories, network)?;
            // Whoever started us has its answer.
            waiting = Waiting::ServiceManager;
        }
    });
    // A probe or a look-up that still waits must not hold up the end.
    runtime.shutdown_background();
    result
}

fn take(directories: &Directories, network: &str) -> Result<Lock, Failure> {
    let path = directories.lock_file(network);
    Lock::take_patiently(&path).map_err(|error| match error {
        LockError::Held(_) => Failure::Runtime(error.to_string()),
        LockError::Io(error) => Failure::runtime(format!("{} cannot be locked", path.display()), error),
    })
}

/// What the main loop alone reads.
pub(super) struct Parts {
    pub(super) events: mpsc::UnboundedReceiver<super::Event>,
    pub(super) calls: mpsc::Receiver<control::Call>,
    pub(super) names: mpsc::Receiver<crate::names::NameQuery>,
    pub(super) watch: Watch,
    pub(super) signals: super::run::Signals,
    _interface_lock: Lock,
    _control: tokio::task::JoinSet<()>,
}

impl Daemon {
    async fn start(
        directories: Directories,
        network: &str,
        mut config: NetworkConfig,
        group: Option<Gid>,
    ) -> Result<(Self, Parts), Failure> {
        // Before anything that a signal should interrupt in an orderly way.
        let signals = super::run::Signals::listen()?;
        let Some(private_key) = config.interface.private_key.key() else {
            return Err(Failure::Runtime("the private key was not read".to_owned()));
        };
        let mut store =
            StateStore::open(&directories.state_directory(network), private_key.public()).map_err(failed)?;
        let mut notices = Vec::new();
        let saved = store.load().unwrap_or_else(|error| {
            tracing::warn!("{error}; going on without it");
            notices.push(format!("{error}; it is not used"));
            SavedPeers::new()
        });
        let name = interface::choose_name(&config, &directories.state_directory(network))?;
        let interface_lock = take(&directories, &format!("interface-{name}"))?;
        let refused_routes = routes::settle(&mut config, &directories, network, false);
        let mut interface = Interface::open(&name, &config)?;
        // Opened first, since an interface of somebody else must not be touched; it is not up yet, or
        // was left behind with its guard. Then what fails closed: guard, rules and fallback routes.
        let device = match interface::open_device(&name, &config) {
            Ok(device) => device,
            Err(error) => {
                let foreign = matches!(
                    error,
                    DeviceError::Busy { .. } | DeviceError::NameTaken { .. } | DeviceError::OtherMode { .. }
                );
                // Without an interface the addresses are still to be guarded.
                if !foreign && let Err(also) = interface.restore() {
                    tracing::debug!("{also}");
                }
                return Err(Failure::Runtime(error.to_string()));
            }
        };
        // Without addresses, as before the end of a join, there is nothing to put up.
        let joining = config.interface.addresses.is_empty();
        if !joining {
            interface.restore()?;
        }
        let queues = queues_for(config.interface.threads.workers());
        if device.queues().len() < queues {
            let notice = format!(
                "the interface {name} was made with fewer queues than the workers need ({queues}), so two workers serve each; \
                 to make it anew: tombolo down --open, tombolo up"
            );
            tracing::warn!("{notice}");
            notices.push(notice);
        }
        let watch = Watch::open(&name, interface.plan.table).map_err(failed)?;
        let (events, event_receiver) = mpsc::unbounded_channel();
        let (calls, call_receiver) = mpsc::channel(CALLS);
        let (name_queries, name_receiver) = mpsc::channel(CALLS);
        let running = engine::start(
            options(&config, &interface),
            &device,
            UdpBinder::new(&config.offload).with_routes(),
            events.clone(),
        )?;
        let slot = EngineSlot::new(running.handle());
        slot.apply(peers::everything(&config, &saved)).map_err(failed)?;
        if !joining {
            interface.restore()?;
        }
        let results = events.clone();
        let member = Member::start(&config, &directories, network, move |id, outcome| {
            // Nobody listens when the daemon is stopping.
            let _ = results.send(super::Event::Stored(id, outcome));
        })?;
        if let Some(member) = &member {
            let told = slot.handle().and_then(|handle| {
                handle.set_membership(Some(member.options(&config)))?;
                handle.instruct(peers::timestamps(&saved).collect())?;
                member.known_time().map_or(Ok(()), |time| handle.set_time_floor(time))
            });
            told.map_err(failed)?;
        }
        let access = if config.membership.is_some() { Access::Look } else { Access::Change };
        let uapi = match UapiSocket::open(&name, slot.clone(), access) {
            Ok(socket) => {
                tracing::debug!("wg can use {}", socket.path().display());
                Some(socket)
            }
            Err(error) => {
                tracing::warn!("`wg` cannot be used with {name}: {error}");
                notices.push(format!("`wg` cannot be used: {error}"));
                None
            }
        };
        let path = directories.control_socket(network);
        let serving = control::serve(&path, group, calls.clone())
            .map_err(|error| Failure::runtime(format!("{} cannot be served", path.display()), error))?;
        // It ends with the daemon.
        let mut control = tokio::task::JoinSet::new();
        control.spawn(serving);
        // The first save tells at the start, rather than at the first handshake, of a disk that is full.
        store.save(&saved, UnixTime(unix_now()));
        let daemon = Self {
            network: network.to_owned(),
            directories,
            config,
            interface,
            device,
            engine: Some(running),
            slot,
            instructions: Vec::new(),
            store,
            saved,
            member: member.map(Box::new),
            joined: false,
            save_wanted: false,
            names_changed: false,
            again: false,
            resolving: std::collections::HashMap::new(),
            events,
            calls,
            naming: super::naming::Naming::default(),
            name_queries,
            metrics: None,
            uapi,
            notices,
            refused_routes,
            started_at: unix_now().as_secs(),
        };
        let parts = Parts {
            events: event_receiver,
            calls: call_receiver,
            names: name_receiver,
            watch,
            signals,
            _interface_lock: interface_lock,
            _control: control,
        };
        Ok((daemon, parts))
    }

    /// Waits until every own address can be bound, then begins to serve and tells that it is ready.
    pub(super) async fn become_ready(&mut self, waiting: Waiting) -> Result<(), Failure> {
        // A new address of the kernel is usable at once, or, with IPv6, within milliseconds.
        const PATIENCE: u32 = 500;
        let addresses: Vec<_> = self.config.interface.addresses.iter().map(ipnet::IpNet::addr).collect();
        let mut tries = 0;
        while let Some(address) = addresses.iter().find(|address| !interface::is_bindable(**address)) {
            tries += 1;
            if tries > PATIENCE {
                return Err(Failure::Runtime(format!("the own address {address} cannot be bound")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.serve_metrics().await;
        self.start_naming().await;
        self.follow_names();
        self.write_hosts();
        self.resolve_all();
        self.call_recent_peers();
        let status = format!("{} is up on {}", self.network, self.device.name());
        tracing::info!("{status}");
        notify::ready(waiting, &status);
        Ok(())
    }

    pub(super) async fn serve_metrics(&mut self) {
        if let Some(task) = self.metrics.take() {
            task.abort();
            // Its listener is gone only when the task is.
            let _ = task.await;
        }
        let Some(address) = self.config.interface.metrics else { return };
        match metrics::serve(address, self.calls.clone()).await {
            Ok(task) => self.metrics = Some(task),
            Err(error) => {
                tracing::warn!("metrics cannot be served on {address}: {error}");
                self.notices.push(format!("metrics cannot be served on {address}: {error}"));
            }
        }
    }

    /// A restart is invisible: whoever was heard of lately learns of our new session at once, also where
    /// the configuration names no endpoint and only the peer could begin otherwise. So does a peer of
    /// which nothing is known, not even silence: the state may have gone with a container.
    fn call_recent_peers(&self) {
        let now = unix_now().as_secs();
        let recent = self.config.peers.iter().filter(|peer| {
            self.saved.get(&peer.public_key).is_none_or(|saved| peers::is_recent(saved.last_contact(), now))
        });
        let Ok(mut generator) = random::generator() else { return };
        for peer in recent {
            let delay = Duration::from_millis(u64::from(generator.next_u32()) % JITTER_MILLISECONDS);
            let (slot, key) = (self.slot.clone(), peer.public_key);
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let change = PeerChange { update_only: true, call: true, ..PeerChange::new(key) };
                // It fails only when the engine has stopped.
                let _ = slot.apply(Transaction { peers: vec![change], ..Transaction::default() });
            });
        }
    }
}

/// Settings of the engine for a configuration.
pub(super) fn options(config: &NetworkConfig, interface: &Interface) -> EngineOptions {
    EngineOptions {
        mtu: u16::try_from(interface.plan.mtu).unwrap_or(u16::MAX),
        listen_port: config.interface.listen_port,
        firewall_mark: config.interface.fwmark,
        link_up: true,
        max_clock_ahead: config.interface.max_clock_ahead,
        workers: config.interface.threads.workers(),
        busy_poll: config.interface.threads.busy_poll,
        assist: config.interface.threads.assist,
        path_mtu: PathMtuOptions {
            discover: config.interface.path_mtu_discovery,
            clamp_mss: config.interface.clamp_mss,
            raise_interval: config.interface.path_mtu_interval,
            ..PathMtuOptions::default()
        },
        copy_dscp: config.interface.copy_dscp,
    }
}
