//! The control thread: owner of the protocol state, the routes and the peers.

mod apply;
mod handshakes;
mod instructions;
mod membership;
mod on_demand;
mod outputs;
mod path_mtu;
mod probes;
mod relay;
mod report;
mod unproven;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use rand_core::CryptoRng;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tombolo_noise::Device;
use tombolo_noise::clock::{Instant, Now};
use tombolo_packet::{DropReason, PeerId, Steering};
use tombolo_route::AllowedIps;
use tombolo_tun::Queue;

use crate::clock;
use crate::handle::Command;
use crate::options::{EngineEvent, PathMtuOptions, SocketBinder};
use crate::send_batch::SendBatch;
use crate::shared::{HANDSHAKE_QUEUE_LEN, Peer, Shared, Snapshot, wait_readable};
use crate::suspend::SuspendWatch;

use handshakes::HandshakeInbox;
use path_mtu::{PathRecord, Paths};
use probes::Probes;
use unproven::UnprovenFrames;

/// Handshake datagrams taken before commands and timers have their turn again.
const HANDSHAKES_PER_TURN: usize = 64;

/// Under load this thread comes back after so long for all that came meanwhile. To be woken for each message takes more
/// from the data than its answer does. In that time 100 000 messages a second are a fifth of the queue.
const PAUSE_UNDER_LOAD: Duration = Duration::from_millis(2);

/// What the control thread keeps of a peer besides the protocol state.
struct PeerRecord {
    peer: Arc<Peer>,
    initiation_sent: Option<Instant>,
    round_trip: Option<Duration>,
    path: PathRecord,
    /// Position in the order of addition.
    order: u64,
}

pub(crate) struct Control<B, R> {
    shared: Arc<Shared>,
    device: Device,
    random: R,
    binder: B,
    events: Box<dyn Fn(Vec<EngineEvent>) + Send + Sync>,
    /// What the owner is told at the end of the turn.
    news: Vec<EngineEvent>,
    commands: mpsc::Receiver<Command>,
    routes: AllowedIps,
    /// Boxed: the nodes of a tree that is filled in order stay half empty.
    peers: BTreeMap<PeerId, Box<PeerRecord>>,
    next_order: u64,
    firewall_mark: u32,
    steering: Steering,
    link_up: bool,
    probes: Probes,
    paths: Paths,
    batch: SendBatch,
    inbox: HandshakeInbox,
    timer: OwnedFd,
    timer_set_to: Option<Instant>,
    suspend: SuspendWatch,
    reported_gone: bool,
    /// Peers or routes have changed, and workers do not see it yet.
    unpublished: bool,
    /// Peers that are reached by relays.
    relayed: BTreeSet<PeerId>,
    unproven: UnprovenFrames,
    /// For the few packets that this thread writes itself.
    queue: Option<Arc<dyn Queue>>,
}

/// What a control thread starts with.
pub(crate) struct ControlParts<B, R> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) device: Device,
    pub(crate) random: R,
    pub(crate) binder: B,
    pub(crate) events: Box<dyn Fn(Vec<EngineEvent>) + Send + Sync>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) firewall_mark: u32,
    pub(crate) steering: Steering,
    pub(crate) link_up: bool,
    pub(crate) path_mtu: PathMtuOptions,
    pub(crate) queue: Option<Arc<dyn Queue>>,
}

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    pub(crate) fn new(parts: ControlParts<B, R>) -> std::io::Result<Self> {
        // Boot time, so that what fell due while the machine slept is due when it wakes.
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let now = clock::now();
        let mut control = Self {
            shared: parts.shared,
            device: parts.device,
            random: parts.random,
            binder: parts.binder,
            events: parts.events,
            news: Vec::new(),
            commands: parts.commands,
            routes: AllowedIps::default(),
            peers: BTreeMap::new(),
            next_order: 0,
            firewall_mark: parts.firewall_mark,
            steering: parts.steering,
            link_up: parts.link_up,
            probes: Probes::default(),
            paths: Paths::new(parts.path_mtu),
            batch: SendBatch::small(),
            inbox: HandshakeInbox::default(),
            timer,
            timer_set_to: None,
            suspend: SuspendWatch::new(clock::slept(), now),
            reported_gone: false,
            unpublished: false,
            relayed: BTreeSet::new(),
            unproven: UnprovenFrames::default(),
            queue: parts.queue,
        };
        control.device.set_link_up(parts.link_up, now, &mut control.random);
        Ok(control)
    }

    /// Runs until the engine stops.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut paused = false;
        while !shared.stopping() {
            if self.turn() {
                paused = false;
                self.inbox.look();
                continue;
            }
            // Nobody wakes a thread that has not said that it waits.
            if !paused && self.device.is_flooded(clock::boot()) {
                paused = true;
                std::thread::sleep(PAUSE_UNDER_LOAD);
                self.inbox.look();
                continue;
            }
            shared.control_waker().prepare();
            if shared.stopping() {
                break;
            }
            if self.turn() {
                continue;
            }
            self.arm_timer();
            let sockets = shared.sockets.load_full();
            let [v4, v6] = [0, 1].map(|family| sockets.handshakes.get(family).map(|socket| socket.fd()));
            match wait_readable(shared.control_waker(), [Some(self.timer.as_fd()), v4, v6], None) {
                Ok([_, v4, v6]) => self.inbox.set_readable([v4, v6]),
                Err(error) => {
                    self.news.push(EngineEvent::Failed(format!("waiting for work failed: {error}")));
                    self.tell_news();
                    break;
                }
            }
            shared.control_waker().finish();
            let mut expirations = [0; 8];
            if rustix::io::read(&self.timer, &mut expirations).is_ok() {
                self.timer_set_to = None;
            }
        }
    }

    /// Does what there is to do. `false`: there was nothing.
    fn turn(&mut self) -> bool {
        let now = clock::now();
        let mut worked = self.watch_for_suspend(now);
        while let Ok(command) = self.commands.try_recv() {
            worked = true;
            self.command(command, now);
            // Before whoever gave the command acts on its answer.
            self.drain_outputs(now);
        }
        while let Some(event) = self.shared.events.pop() {
            worked = true;
            self.device.handle_event(event, now, &mut self.random);
        }
        while let Some(id) = self.shared.peers_used.pop() {
            self.report_use(id);
        }
        worked |= self.receive_handshakes();
        for _ in 0..HANDSHAKES_PER_TURN {
            let Some((depth, datagram)) = self.shared.next_handshake() else { break };
            worked = true;
            let handled = self.device.handle_message(
                datagram.bytes(),
                datagram.source,
                depth,
                HANDSHAKE_QUEUE_LEN,
                now,
                &mut self.random,
            );
            if let Err(reason) = handled {
                self.shared.drops.count(reason);
            }
        }
        while let Some((number, received)) = self.shared.probes.answer() {
            worked = true;
            if let Some((peer, round_trip)) = self.probes.answered(number, received)
                && let Some(record) = self.peers.get_mut(&peer)
            {
                record.round_trip = Some(round_trip);
            }
        }
        if self.device.poll_timeout().is_some_and(|deadline| deadline <= now.boot) {
            worked = true;
            self.device.handle_timeout(now, &mut self.random);
        }
        worked |= self.handle_frames(now);
        worked |= self.poll_paths(now);
        worked |= self.poll_sought(now);
        worked |= self.deliver_held_late(now);
        worked |= self.poll_relays();
        worked |= self.poll_gateway();
        worked |= self.probes.expire(now.boot);
        self.shared.probes.set_outstanding(self.probes.len());
        worked |= self.drain_outputs(now);
        self.report_workers();
        self.tell_news();
        worked
    }

    /// The owner is woken once for all that a turn has brought.
    fn tell_news(&mut self) {
        if !self.news.is_empty() {
            (self.events)(std::mem::take(&mut self.news));
        }
    }

    fn drain_outputs(&mut self, now: Now) -> bool {
        let mut worked = false;
        while let Some(output) = self.device.poll_output() {
            worked = true;
            self.output(output, now);
        }
        // Under a flood there are many answers, often to one place: one system call for all.
        self.flush();
        worked
    }

    /// A machine that slept, or a clone that was resumed, must not seal with old keys: the other
    /// copy may have used the same nonces.
    fn watch_for_suspend(&mut self, now: Now) -> bool {
        let suspended = self.suspend.observe(clock::slept(), now);
        if suspended {
            self.device.expire_all(now, &mut self.random);
            self.news.push(EngineEvent::Resumed);
        }
        suspended
    }

    fn report_workers(&mut self) {
        if self.shared.tun_gone.load(Ordering::SeqCst) && !self.reported_gone {
            self.reported_gone = true;
            self.news.push(EngineEvent::TunGone);
        }
        while let Some(failure) = self.shared.failures.pop() {
            self.news.push(EngineEvent::Failed(failure));
        }
    }

    fn command(&mut self, command: Command, now: Now) {
        match command {
            Command::Apply(transaction, reply) => {
                let result = self.apply(transaction, now);
                let _ = reply.send(result);
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status(now));
            }
            Command::TakeUsed(reply) => {
                let _ = reply.send(self.take_used());
            }
            Command::Probe { public_key, source, destination, timeout, reply } => {
                self.probe(public_key, source, destination, timeout, reply, now);
            }
            Command::Member(command, reply) => {
                let changed = self.member_command(command, now);
                self.show_workers();
                let _ = reply.send(changed);
            }
            Command::Instruct(instructions, reply) => {
                self.instruct(instructions, now);
                // Nobody listens, unless too many were waiting.
                drop(reply);
            }
            Command::SetOverlay(networks) => {
                let dropped = self.shared.seeking.set_networks(networks);
                self.shared.drops.add(DropReason::NoTunnel, dropped as u64);
            }
            Command::SetRelay(permissions) => self.set_relay(permissions),
            Command::SetGateway(own) => self.shared.gateway.set_own(own),
            Command::RefuseTunnel(destination) => self.refuse_tunnel(destination, now),
            Command::SetLinkUp(up) => {
                self.link_up = up;
                self.device.set_link_up(up, now, &mut self.random);
                self.update_ready();
            }
            Command::SetMtu(mtu) => {
                self.shared.mtu.store(mtu.into(), Ordering::Relaxed);
                self.doubt_all_paths();
            }
            Command::ForgetSources => {
                for record in self.peers.values() {
                    if let Some(endpoint) = record.peer.link.endpoint() {
                        record.peer.link.forget_source(endpoint);
                    }
                }
                self.doubt_all_paths();
            }
        }
    }

    /// Peers or routes have changed. Workers see it before anything leaves or anybody is answered; a picture of all takes time
    /// in proportion to their number, and is made once for the changes of a turn.
    fn publish(&mut self) {
        self.unpublished = true;
    }

    /// Shows workers the peers and routes as they are now.
    fn show_workers(&mut self) {
        if !std::mem::take(&mut self.unpublished) {
            return;
        }
        let len = self.peers.keys().next_back().map_or(0, |id| id.0 as usize + 1);
        let mut peers = vec![None; len];
        for (id, record) in &self.peers {
            peers[id.0 as usize] = Some(Arc::clone(&record.peer));
        }
        let routes = self.routes.snapshot();
        self.settle_sought(&routes);
        self.shared.snapshot.store(Arc::new(Snapshot { routes, peers }));
    }

    fn update_ready(&self) {
        let ready = self.link_up && self.device.public_key().is_some();
        self.shared.ready.store(ready, Ordering::SeqCst);
    }

    fn arm_timer(&mut self) {
        let deadlines = [
            self.device.poll_timeout(),
            self.probes.deadline(),
            self.paths.deadline(),
            self.shared.seeking.deadline(),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        if deadline == self.timer_set_to {
            return;
        }
        self.timer_set_to = deadline;
        // All zeros would disarm the timer, and a deadline in the past fires at once.
        let nanos = deadline.map_or(0, |deadline| deadline.as_nanos().max(1));
        let value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (nanos % 1_000_000_000) as _,
        };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = Itimerspec { it_interval: interval, it_value: value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting) {
            self.news.push(EngineEvent::Failed(format!("setting the timer failed: {error}")));
            self.tell_news();
        }
    }
}
