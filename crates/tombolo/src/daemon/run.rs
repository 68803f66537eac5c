//! The main loop: signals, requests, changes of the system, events of the engine.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tombolo_engine::{EngineEvent, EngineStatus, PeerChange, PeerState, ProbeError, Transaction};
use tombolo_noise::PublicKey;
use tombolo_tun::Place;
use tombolo_tun::netlink::LinkState;

use super::notify::{self, Waiting};
use super::report::{self, Context, unix_now};
use super::start::{Parts, options};
use super::{Daemon, Event, engine, interface, membership, peers, watching};
use crate::cli::Failure;
use crate::config::NetworkConfig;
use crate::control::{Answer, Call, Request};
use crate::resolver;
use crate::state::{SavedPeer, SavedPeers};
use crate::user;

/// Several changes usually come together; what others delete is back well within a second.
const SETTLE: Duration = Duration::from_millis(50);
/// A change of a peer is written at once, those that follow it within this time together: a daemon that
/// is killed right after its first session knows of it when it comes back.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// New names are written at once, those that follow within this time together.
const NAMES_INTERVAL: Duration = Duration::from_millis(500);
/// Of the time, writing names takes one part in so many, as long as they are not this much behind: a new name is there within two
/// seconds.
const NAMES_SHARE: u32 = 20;
const NAMES_LATEST: Duration = Duration::from_millis(1500);
/// Where the kernel does not tell of changed packet filters, they are looked at by the clock.
const LOOK_INTERVAL: Duration = Duration::from_millis(900);
/// A peer that was heard within this time is where it was heard from: roaming knows better than a name
/// server. One that is silent for longer than data goes unanswered (requirement 7) may be elsewhere.
const HEARD_LATELY: Duration = Duration::from_secs(10);
/// Between two looks for a member that is being looked for.
const LOOK_UP_PAUSE: Duration = Duration::from_millis(30);
/// Events that are taken in, about, before what they led to is done.
const EVENTS_AT_ONCE: usize = 256;
const LONGEST_PROBE: Duration = Duration::from_secs(60);
/// Pauses between attempts to resolve a name, in seconds; the last one repeats.
const RESOLVE_PAUSES: [u64; 6] = [1, 2, 4, 8, 15, 30];

/// The signals that mean something.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::runtime("signals cannot be listened for", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

/// Waits for a moment that may not be set.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn after(delay: Duration) -> Instant {
    Instant::now() + delay
}

fn not_by_membership() -> Answer {
    Answer::Error {
        message: "this network has static peers: nobody joins it, and it has no register".to_owned(),
    }
}

impl Daemon {
    /// Serves until told to stop, or until something happens that it cannot mend.
    pub(super) async fn serve(&mut self, parts: Parts, waiting: Waiting) -> Result<(), Failure> {
        let result = self.run_loop(parts, waiting).await;
        if let Err(failure) = &result
            && self.config.interface.addresses.is_empty()
        {
            self.tell_joiner(failure);
        }
        if !self.again {
            notify::stopping();
        }
        self.stop_naming().await;
        self.stop();
        result
    }

    async fn run_loop(&mut self, parts: Parts, waiting: Waiting) -> Result<(), Failure> {
        let Parts { mut events, mut calls, mut names, watch, mut signals, .. } = parts;
        let sees_filters = watch.sees_filters();
        let mut link = watch.link_state();
        let mut notices = watching::start(watch)
            .map_err(|error| Failure::runtime("changes of the system cannot be watched", error))?;
        if self.member.is_some() {
            self.tell_overlay()?;
            self.tell_relaying();
        }
        self.drive_member()?;
        if !self.is_joining() {
            self.become_ready(waiting).await?;
        }
        let watchdog = notify::watchdog_interval();
        let mut alive_at = watchdog.map(after);
        let mut look_at = (!sees_filters).then(|| after(LOOK_INTERVAL));
        let mut restore_at = None;
        let mut save_at = None;
        let mut next_save = after(Duration::ZERO);
        let mut names_at = None;
        let mut next_names = after(Duration::ZERO);
        loop {
            let member_at = self.member.as_ref().and_then(|member| member.due_in()).map(after);
            let use_at = self.member.as_ref().map(|member| after(member.look_in()));
            let name_at = self.naming.deadline();
            tokio::select! {
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                _ = signals.hangup.recv() => self.reload().await,
                Some(call) = calls.recv() => {
                    if self.answer(call).await {
                        return Ok(());
                    }
                }
                Some(event) = events.recv() => {
                    let mut taken = self.handle_event(event)?;
                    // What has come meanwhile goes with it, and what it leads to leaves together.
                    while taken < EVENTS_AT_ONCE
                        && let Ok(event) = events.try_recv()
                    {
                        taken += self.handle_event(event)?;
                    }
                }
                Some(query) = names.recv() => self.ask_name(query),
                () = until(name_at) => {}
                Some(notice) = notices.recv() => {
                    link = notice.link;
                    let concerns = notice.changes.is_none_or(|changes| changes.concern_plan() || changes.filters);
                    if notice.changes.is_none_or(|changes| changes.concern_underlay())
                        && let Ok(handle) = self.slot.handle()
                    {
                        // The address that a path left from may be gone, or no longer the best one.
                        let _ = handle.forget_sources();
                        if let Some(member) = &mut self.member {
                            member.look_at_addresses();
                        }
                    }
                    if notice.copied && let Ok(handle) = self.slot.handle() {
                        tracing::info!("this machine is a copy, or was set back: all session keys are thrown away");
                        // It fails only when the engine has stopped.
                        let _ = handle.expire_sessions();
                    }
                    if concerns && restore_at.is_none() {
                        restore_at = Some(after(SETTLE));
                    }
                }
                () = until(restore_at) => {
                    restore_at = None;
                    self.restore(link)?;
                }
                () = until(look_at) => {
                    look_at = Some(after(LOOK_INTERVAL));
                    self.restore(link)?;
                }
                () = until(save_at) => {
                    save_at = None;
                    next_save = after(SAVE_INTERVAL);
                    self.save();
                }
                () = until(names_at) => {
                    names_at = None;
                    let begun = Instant::now();
                    self.write_names();
                    // Ten thousand names take their time, and a server has other things to do.
                    next_names = after((begun.elapsed() * NAMES_SHARE).clamp(NAMES_INTERVAL, NAMES_LATEST));
                }
                () = until(member_at) => {
                    if let Some(member) = &mut self.member {
                        member.handle_timeout()?;
                    }
                }
                () = until(use_at) => {
                    self.look_at_use();
                    self.retire_relaying();
                    self.tend_key();
                }
                () = until(alive_at) => {
                    notify::alive();
                    alive_at = watchdog.map(after);
                }
            }
            if self.again {
                return Ok(());
            }
            self.drive_member()?;
            self.settle_relaying();
            self.answer_names();
            if std::mem::take(&mut self.joined) {
                self.become_ready(waiting).await?;
            }
            if std::mem::take(&mut self.names_changed) && names_at.is_none() {
                names_at = Some(next_names);
            }
            if std::mem::take(&mut self.save_wanted) && save_at.is_none() {
                save_at = Some(next_save);
            }
        }
    }

    /// What stays is meant to stay: a persistent interface with its addresses, and the guard.
    fn stop(&mut self) {
        tracing::info!("{} stops", self.network);
        self.save();
        self.uapi = None;
        if let Some(task) = self.metrics.take() {
            task.abort();
        }
        if let Some(engine) = self.engine.take() {
            engine.stop();
        }
        if let Some(member) = self.member.take() {
            member.stop();
        }
        let _ = std::fs::remove_file(self.directories.control_socket(&self.network));
    }

    /// Whoever typed `join` reads there why it came to nothing.
    fn tell_joiner(&self, failure: &Failure) {
        let word = if matches!(failure, Failure::Mistake(_)) { "refused" } else { "failed" };
        let path = crate::membership::error_file(&self.directories, &self.network);
        // The log has it too.
        let _ = crate::atomic_file::write(&path, format!("{word}\n{failure}\n").as_bytes(), 0o600);
    }

    fn is_joining(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.is_joining())
    }

    /// Puts right what somebody else changed.
    fn restore(&mut self, link: LinkState) -> Result<(), Failure> {
        if self.is_joining() {
            return Ok(());
        }
        if link == LinkState::Missing {
            match self.device.place() {
                Ok(Place::Elsewhere) => {
                    // Moved to another namespace on purpose; the tunnel works there.
                    return Ok(());
                }
                Ok(Place::Here) => {}
                Ok(Place::Gone) | Err(_) => return self.replace_device(),
            }
        }
        match self.interface.restore() {
            Ok(true) => tracing::info!("what was changed on {} was put right", self.interface.plan.interface),
            Ok(false) => {}
            // The next change, or the next look, tries again; until then `status` shows it.
            Err(error) => tracing::warn!("{error}"),
        }
        let up = self.interface.is_up();
        let told = self.slot.handle().and_then(|handle| handle.set_link_up(up));
        told.map_err(|error| Failure::Runtime(error.to_string()))
    }

    /// The device was deleted under us: another one, and another engine on it. Sessions are lost, the
    /// peers are called at once.
    fn replace_device(&mut self) -> Result<(), Failure> {
        if self.member.is_some() {
            // Sessions and peers go with the engine: the control plane comes up from the disk, as after a restart.
            tracing::warn!("the interface {} was deleted; beginning anew", self.interface.plan.interface);
            self.again = true;
            return Ok(());
        }
        tracing::warn!("the interface {} was deleted; making it anew", self.interface.plan.interface);
        self.save();
        self.slot.replace(None);
        if let Some(engine) = self.engine.take() {
            engine.stop();
        }
        // Another program may be in the middle of replacing it; the service manager starts us again if so.
        self.device = interface::open_device(&self.interface.plan.interface, &self.config)
            .map_err(|error| Failure::Runtime(error.to_string()))?;
        let running = self.start_engine()?;
        self.slot.replace(Some(running.handle()));
        self.engine = Some(running);
        let mut everything = peers::everything(&self.config, &self.saved);
        for peer in &mut everything.peers {
            peer.initiate = peer.endpoint.is_some();
        }
        self.apply(everything);
        self.interface.restore()?;
        Ok(())
    }

    /// A request that was under way may hold the old engine, and with it the port, for a moment more.
    fn start_engine(&self) -> Result<tombolo_engine::Engine, Failure> {
        const TRIES: u32 = 40;
        let mut tries = 0;
        loop {
            tries += 1;
            let binder = engine::UdpBinder::new(&self.config.offload).with_routes();
            match engine::start(
                options(&self.config, &self.interface),
                &self.device,
                binder,
                self.events.clone(),
            ) {
                Err(error) if tries < TRIES => {
                    tracing::debug!("{error}; trying again");
                    std::thread::sleep(SETTLE);
                }
                other => return other,
            }
        }
    }

    fn tend_key(&mut self) {
        let sooner = self.config.membership.as_ref().and_then(|membership| membership.rotate_key);
        if let Some(member) = &mut self.member {
            member.tend_key(sooner);
        }
    }

    fn status(&self) -> Option<EngineStatus> {
        self.slot.status().ok()
    }

    /// Lets the engine do what has gathered, without waiting for it.
    pub(super) fn hand_over(&mut self) {
        let instructions = std::mem::take(&mut self.instructions);
        if !instructions.is_empty()
            && let Ok(handle) = self.slot.handle()
        {
            // It fails only when the engine has stopped.
            let _ = handle.instruct(instructions);
        }
    }

    pub(super) fn apply(&mut self, transaction: Transaction) -> bool {
        self.hand_over();
        match self.slot.apply(transaction) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("{error}");
                self.notices.push(error.to_string());
                false
            }
        }
    }

    /// Writes what has to survive a restart.
    fn save(&mut self) {
        let Some(status) = self.status() else { return };
        let now = unix_now().as_secs();
        let mut peers = SavedPeers::new();
        // Strangers that only knocked are not worth a disk.
        let listed: HashSet<PublicKey> = self.config.peers.iter().map(|peer| peer.public_key).collect();
        let known = |key: &PublicKey| self.config.membership.is_none() || listed.contains(key);
        for peer in status.peers.iter().filter(|peer| known(&peer.public_key)) {
            let before = self.saved.get(&peer.public_key);
            let heard = peer.last_received_age.map(|age| now.saturating_sub(age.as_secs()));
            let saved = SavedPeer {
                endpoint: peer.endpoint,
                last_received_timestamp: peer.last_received_timestamp,
                last_sent_timestamp: peer.last_sent_timestamp,
                last_activity: heard.or(before.and_then(|before| before.last_activity)),
            };
            peers.insert(peer.public_key, saved);
        }
        self.store.save(&peers);
        self.saved = peers;
        if let Some(member) = &mut self.member {
            member.flush();
        }
    }

    /// Gives how many events it was.
    fn handle_event(&mut self, event: Event) -> Result<usize, Failure> {
        match event {
            Event::Engine(together) => {
                let count = together.len();
                for event in together {
                    self.handle_engine(event)?;
                }
                return Ok(count);
            }
            Event::Resolved(key, result) => self.handle_resolved(key, result),
            Event::ServerResolved(endpoint, result) => {
                if let Some(member) = &mut self.member {
                    member.handle_resolved(&endpoint, result);
                }
            }
            Event::Stored(id, outcome) => {
                if let Some(member) = &mut self.member {
                    member.handle_store(id, outcome);
                }
            }
        }
        Ok(1)
    }

    fn handle_engine(&mut self, event: EngineEvent) -> Result<(), Failure> {
        if let Some(member) = &mut self.member
            && member.handle_engine(&event)
        {
            return Ok(());
        }
        match event {
            EngineEvent::ResolveEndpoint(key) => self.resolve(key),
            EngineEvent::SessionEstablished(key) => {
                tracing::debug!("session with {}", self.label(&key));
                if let Some(resolving) = self.resolving.get_mut(&key) {
                    resolving.error = None;
                }
                self.save_wanted = true;
            }
            EngineEvent::PeerChanged(_) => self.save_wanted = true,
            EngineEvent::RelayWanted { source, destination } => self.relay_wanted(source, destination),
            EngineEvent::Resumed => {
                tracing::info!(
                    "the machine slept, was resumed from a snapshot, or its clock was set; all session keys were thrown away"
                );
            }
            // A device that we have replaced already tells of its end, too.
            EngineEvent::TunGone => {
                if matches!(self.device.place(), Ok(Place::Gone)) {
                    self.replace_device()?;
                }
            }
            EngineEvent::Failed(reason) => return Err(Failure::Runtime(reason)),
            _ => {}
        }
        Ok(())
    }

    fn label(&self, key: &PublicKey) -> String {
        let known = self.config.peers.iter().find(|peer| peer.public_key == *key);
        known.map_or_else(|| key.to_string(), |peer| peer.name.clone())
    }

    /// Begins to resolve every name of which no address is known yet.
    pub(super) fn resolve_all(&mut self) {
        let Some(status) = self.status() else { return };
        let unknown: Vec<PublicKey> =
            status.peers.iter().filter(|peer| peer.endpoint.is_none()).map(|peer| peer.public_key).collect();
        for key in unknown {
            self.resolve(key);
        }
    }

    fn resolve(&mut self, key: PublicKey) {
        let known = self.config.peers.iter().find(|peer| peer.public_key == key);
        let Some(endpoint) = known.and_then(|peer| peer.endpoint.clone()) else { return };
        let resolving = self.resolving.entry(key).or_default();
        if resolving.running {
            return;
        }
        resolving.running = true;
        let attempt = resolving.attempts;
        let pause = match &resolving.error {
            Some(_) => RESOLVE_PAUSES[attempt.min(RESOLVE_PAUSES.len() - 1)],
            None => 0,
        };
        resolving.attempts += 1;
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let result = resolver::resolve(&endpoint, attempt).await;
            // Nobody listens when the daemon is stopping.
            let _ = events.send(Event::Resolved(key, result));
        });
    }

    fn handle_resolved(&mut self, key: PublicKey, result: Result<std::net::SocketAddr, String>) {
        let resolving = self.resolving.entry(key).or_default();
        resolving.running = false;
        let address = match result {
            Ok(address) => address,
            Err(error) => {
                if resolving.error.as_ref() != Some(&error) {
                    tracing::warn!("the endpoint of {} is not known: {error}", self.label(&key));
                }
                self.resolving.entry(key).or_default().error = Some(error);
                self.resolve(key);
                return;
            }
        };
        resolving.error = None;
        let Some(status) = self.status() else { return };
        let Some(peer) = status.peers.iter().find(|peer| peer.public_key == key) else { return };
        let live = peer.last_received_age.is_some_and(|age| age < HEARD_LATELY);
        if live || peer.endpoint == Some(address) {
            return;
        }
        tracing::debug!("the endpoint of {} is {address}", self.label(&key));
        // A peer that had an endpoint was asked for because it is silent: it is called at the new one.
        let recent = self.saved.get(&key).and_then(SavedPeer::last_contact);
        let initiate = peer.state == PeerState::Connecting
            || peer.endpoint.is_some()
            || peers::is_recent(recent, unix_now().as_secs());
        let change =
            PeerChange { update_only: true, endpoint: Some(address), initiate, ..PeerChange::new(key) };
        self.apply(Transaction { peers: vec![change], ..Transaction::default() });
    }

    /// Answers a request; `true`: it was the last one.
    async fn answer(&mut self, call: Call) -> bool {
        let answer = match call.request {
            Request::Status => self.report(),
            Request::Probe { peer, timeout_milliseconds } if self.looks_for(&peer, timeout_milliseconds) => {
                let left = timeout_milliseconds.saturating_sub(LOOK_UP_PAUSE.as_millis() as u64);
                self.ask_again(Call { request: Request::Probe { peer, timeout_milliseconds: left }, ..call });
                return false;
            }
            Request::Whois { address, timeout_milliseconds }
                if self.looks_for_owner(address, timeout_milliseconds) =>
            {
                let left = timeout_milliseconds.saturating_sub(LOOK_UP_PAUSE.as_millis() as u64);
                self.ask_again(Call {
                    request: Request::Whois { address, timeout_milliseconds: left },
                    ..call
                });
                return false;
            }
            Request::Whois { address, .. } => match &self.member {
                Some(member) => member.whois(address),
                None => not_by_membership(),
            },
            Request::Admin { frame } => {
                let Some(member) = &mut self.member else {
                    let _ = call.reply.send(not_by_membership());
                    return false;
                };
                match membership::admin_request(&frame) {
                    Ok(request) => {
                        member.handle_admin(request, user::shown(call.caller.user), call.reply);
                        return false;
                    }
                    Err(message) => Answer::Error { message },
                }
            }
            Request::Leave => match &mut self.member {
                Some(member) => {
                    member.leave(call.reply);
                    return false;
                }
                None => not_by_membership(),
            },
            Request::RotateKey => match &mut self.member {
                Some(member) => {
                    member.rotate_key(call.reply);
                    return false;
                }
                None => not_by_membership(),
            },
            Request::Probe { peer, timeout_milliseconds } => {
                let timeout = Duration::from_millis(timeout_milliseconds).min(LONGEST_PROBE);
                match self.probe(&peer, timeout) {
                    Ok(task) => {
                        tokio::spawn(async move {
                            let answer = task.await.unwrap_or_else(|_| Answer::Error {
                                message: "the daemon is stopping".to_owned(),
                            });
                            // The client may have gone.
                            let _ = call.reply.send(answer);
                        });
                        return false;
                    }
                    Err(message) => Answer::Error { message },
                }
            }
            Request::Reload => match self.reload_now().await {
                Ok(()) => Answer::Done,
                Err(message) => Answer::Error { message },
            },
            Request::Down => {
                let _ = call.reply.send(Answer::Done);
                return true;
            }
        };
        // The client may have gone.
        let _ = call.reply.send(answer);
        false
    }

    /// Puts a request back, to be looked at again in a moment.
    fn ask_again(&self, call: Call) {
        let calls = self.calls.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LOOK_UP_PAUSE).await;
            // Nobody takes it when the daemon is stopping.
            let _ = calls.send(call).await;
        });
    }

    /// Whether nobody here knows yet whose an address of the overlay is; then that is being asked from now on.
    fn looks_for_owner(&mut self, address: std::net::IpAddr, timeout_milliseconds: u64) -> bool {
        let Some(member) = &mut self.member else { return false };
        let ours = self.config.overlay().iter().any(|range| range.contains(&address));
        if !ours
            || member.knows_owner(address)
            || !member.is_connected()
            || u128::from(timeout_milliseconds) <= LOOK_UP_PAUSE.as_millis()
        {
            return false;
        }
        member.handle_wanted(address);
        true
    }

    /// Whether a peer is a member whom nobody here knows yet; then it is being looked for from now on.
    fn looks_for(&mut self, name: &str, timeout_milliseconds: u64) -> bool {
        let known =
            self.config.peers.iter().any(|peer| peer.name == name || peer.public_key.to_string() == name);
        let Some(member) = &mut self.member else { return false };
        let known = known || member.presented(name).is_some_and(|(key, _)| member.has_session(&key));
        let Ok(name) = name.parse() else { return false };
        if known || u128::from(timeout_milliseconds) <= LOOK_UP_PAUSE.as_millis() {
            return false;
        }
        member.handle_wanted_name(&name);
        true
    }

    fn report(&mut self) -> Answer {
        let Some(status) = self.status() else {
            return Answer::Error { message: "the engine has stopped".to_owned() };
        };
        let mut warnings = self.notices.clone();
        warnings.extend(self.store.failure().map(str::to_owned));
        warnings.extend(self.member.iter().flat_map(|member| member.warnings()));
        let resolve_errors =
            self.resolving.iter().filter_map(|(key, state)| Some((*key, state.error.clone()?))).collect();
        let context = Context {
            network: &self.network,
            config: &self.config,
            started_at: self.started_at,
            resolve_errors: &resolve_errors,
            warnings,
            membership: self.member.as_ref().map(|member| member.report()),
        };
        Answer::Status { report: Box::new(report::build(context, &status, &mut self.interface)) }
    }

    /// Asks a peer for an answer through the tunnel, on a thread of its own.
    fn probe(&self, name: &str, timeout: Duration) -> Result<tokio::task::JoinHandle<Answer>, String> {
        let peer =
            self.config.peers.iter().find(|peer| peer.name == name || peer.public_key.to_string() == name);
        let (key, destination) = match peer {
            Some(peer) => {
                let address = NetworkConfig::peer_address(peer)
                    .ok_or_else(|| format!("peer `{name}` has no single address in `allowed_ips`"))?;
                (peer.public_key, address)
            }
            None => {
                let presented = self.member.as_ref().and_then(|member| member.presented(name));
                presented.ok_or_else(|| match &self.member {
                    Some(member) if !member.is_connected() => {
                        format!("`{name}` is not known here, and no server of the network answers now")
                    }
                    _ => format!("there is no peer called `{name}`"),
                })?
            }
        };
        let source = self
            .config
            .own_address_for(destination)
            .ok_or_else(|| format!("this machine has no address of the family of {destination}"))?;
        let handle = self.slot.handle().map_err(|error| error.to_string())?;
        let names: HashMap<PublicKey, String> =
            self.config.peers.iter().map(|peer| (peer.public_key, peer.name.clone())).collect();
        let gateway = peer.is_none().then(|| names.get(&key).cloned().unwrap_or_else(|| key.to_string()));
        Ok(tokio::task::spawn_blocking(move || {
            let result = handle.probe(key, source, destination, timeout);
            let peer = handle
                .status()
                .ok()
                .and_then(|status| status.peers.into_iter().find(|peer| peer.public_key == key));
            let relay = peer.as_ref().and_then(|peer| report::relay(peer, &names));
            match result {
                Ok(time) => Answer::Probe {
                    round_trip_seconds: time.as_secs_f64(),
                    address: destination.to_string(),
                    endpoint: peer
                        .and_then(|peer| peer.endpoint)
                        .filter(|_| relay.is_none())
                        .map(|endpoint| endpoint.to_string()),
                    relay,
                    gateway,
                },
                Err(ProbeError::Stopped) => Answer::Error { message: ProbeError::Stopped.to_string() },
                Err(error) => Answer::NoAnswer {
                    reason: match peer {
                        Some(peer) => {
                            let behind =
                                gateway.map_or(String::new(), |gateway| format!("behind {gateway}, "));
                            format!("{error} ({behind}{})", report::silence(&peer, relay.as_deref()))
                        }
                        None => error.to_string(),
                    },
                },
            }
        }))
    }
}
