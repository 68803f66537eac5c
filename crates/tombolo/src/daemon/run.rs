//! The main loop: signals, requests, changes of the system, events of the engine.

use std::collections::HashSet;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tombolo_engine::{EngineEvent, EngineStatus, Transaction};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;
use tombolo_tun::Place;

use super::notify::{self, Waiting};
use super::report::unix_now;
use super::start::Parts;
use super::{Daemon, Event, watching};
use crate::cli::Failure;
use crate::state::{SavedPeer, SavedPeers};

/// Several changes usually come together; what others delete is back well within a second.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
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
/// Events that are taken in, about, before what they led to is done.
const EVENTS_AT_ONCE: usize = 256;

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
                    if self.handle_notice(&notice) && restore_at.is_none() {
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

    /// `true`: what is ours may have been changed, and is to be looked at.
    fn handle_notice(&mut self, notice: &watching::Notice) -> bool {
        if notice.changes.is_none_or(|changes| changes.concern_underlay())
            && let Ok(handle) = self.slot.handle()
        {
            // The address that a path left from may be gone, or no longer the best one.
            let _ = handle.forget_sources();
            if let Some(member) = &mut self.member {
                member.look_at_addresses();
            }
        }
        if notice.copied
            && let Ok(handle) = self.slot.handle()
        {
            tracing::info!("this machine is a copy, or was set back: all session keys are thrown away");
            // It fails only when the engine has stopped.
            let _ = handle.expire_sessions();
        }
        notice.changes.is_none_or(|changes| changes.concern_plan() || changes.filters)
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

    pub(super) fn is_joining(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.is_joining())
    }

    fn tend_key(&mut self) {
        let sooner = self.config.membership.as_ref().and_then(|membership| membership.rotate_key);
        if let Some(member) = &mut self.member {
            member.tend_key(sooner);
        }
    }

    pub(super) fn status(&self) -> Option<EngineStatus> {
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
    pub(super) fn save(&mut self) {
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
                // The engine may not have been told yet of what an earlier run has sent: less than that is refused by the peer.
                last_received_timestamp: peer
                    .last_received_timestamp
                    .max(before.and_then(|before| before.last_received_timestamp)),
                last_sent_timestamp: peer
                    .last_sent_timestamp
                    .max(before.and_then(|before| before.last_sent_timestamp)),
                last_activity: heard.or(before.and_then(|before| before.last_activity)),
            };
            peers.insert(peer.public_key, saved);
        }
        // Members that have not been called since the start.
        if let Some(member) = &self.member {
            let kept = self.saved.iter().filter(|(key, _)| member.knows(key));
            for (key, saved) in kept {
                peers.entry(*key).or_insert_with(|| saved.clone());
            }
        }
        self.store.save(&peers, UnixTime(unix_now()));
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
}
