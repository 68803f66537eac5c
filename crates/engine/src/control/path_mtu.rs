//! The search for each peer's path MTU, brought together with sessions, sockets and time.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::clock::{Instant, Now};
use tombolo_noise::padded_len;
use tombolo_packet::PeerId;
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_udp::{SendError, Transmit};

use super::{Control, PeerRecord};
use crate::bucket::Bucket;
use crate::frames::ReceivedFrame;
use crate::options::{PathMtuOptions, Route, SocketBinder};
use crate::path_mtu::{BASE, OVERHEAD, PathFrame, PathMtu, Timing, Traffic};
use crate::send_batch::may_send;
use crate::shared::Shared;
use crate::status::PathMtuState;

/// Frames taken before handshakes and timers have their turn again.
const FRAMES_PER_TURN: usize = 64;
/// Probes of one peer that are answered: a second, and at once.
const ANSWERS_PER_SECOND: u32 = 64;
const ANSWERS_AT_ONCE: u32 = 128;

/// What is known of the path to one peer.
pub(super) struct PathRecord {
    /// Only while its path is searched: of peers that know probes.
    machine: Option<Box<PathMtu>>,
    /// The endpoint that all this is about.
    remote: Option<Box<SocketAddr>>,
    route: Option<Route>,
    /// The route has to be looked at again.
    stale: bool,
    /// As it stands in [`Paths::deadlines`].
    deadline: Option<Instant>,
    /// Since the peer first asked.
    answers: Option<Box<Bucket>>,
}

impl PathRecord {
    pub(super) fn new() -> Self {
        Self { machine: None, remote: None, route: None, stale: false, deadline: None, answers: None }
    }

    /// Whether one more probe of the peer is answered.
    fn may_answer(&mut self, now: Instant) -> bool {
        let bucket = || Box::new(Bucket::new(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE));
        self.answers.get_or_insert_with(bucket).allow(now)
    }
}

impl PeerRecord {
    /// Whether the peer is one that speaks in frames.
    pub(super) fn set_tombolo(&mut self, tombolo: bool) {
        self.path.stale |= self.peer.frames.is_open() != tombolo;
        self.peer.frames.set_open(tombolo);
    }
}

/// The searches of all peers.
pub(super) struct Paths {
    options: PathMtuOptions,
    deadlines: BTreeSet<(Instant, PeerId)>,
    message: Vec<u8>,
}

impl Paths {
    pub(super) fn new(options: PathMtuOptions) -> Self {
        Self { options, deadlines: BTreeSet::new(), message: Vec::new() }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|first| first.0)
    }

    fn timing(&self) -> Timing {
        Timing { confirm: self.options.confirm_interval, raise: self.options.raise_interval }
    }

    /// Sends what the search of one peer wants sent, shows workers its limit, and waits for what comes next.
    fn drive(&mut self, id: PeerId, record: &mut PeerRecord, shared: &Shared, now: Instant) {
        let PeerRecord { peer, path, .. } = record;
        let mut next = None;
        if let Some(machine) = &mut path.machine {
            while let Some(probe) = machine.poll_probe(now) {
                let frame = PathFrame::Probe { id: probe.id }.to_bytes();
                let sent = send_sealed(&mut self.message, peer, &frame, probe.size.into(), true, shared, now);
                if sent == Err(SendError::TooBig) {
                    machine.handle_too_big(probe.id, now);
                }
            }
            peer.path.set_limit(Some(machine.limit()));
            if machine.poll_timeout().is_none() && !peer.path.sleep() {
                peer.path.watch();
                machine.wake(now);
            }
            next = machine.poll_timeout();
        }
        self.arm(id, path, next);
    }

    fn arm(&mut self, id: PeerId, path: &mut PathRecord, deadline: Option<Instant>) {
        if path.deadline == deadline {
            return;
        }
        if let Some(before) = std::mem::replace(&mut path.deadline, deadline) {
            self.deadlines.remove(&(before, id));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
    }

    /// The peer is gone.
    pub(super) fn forget(&mut self, id: PeerId, path: &mut PathRecord) {
        self.arm(id, path, None);
    }
}

/// Seals one frame, filled up to `size` bytes, and sends it. Where there is no session it is lost, as a datagram may be.
fn send_sealed(
    message: &mut Vec<u8>,
    peer: &crate::shared::Peer,
    frame: &[u8],
    size: usize,
    whole: bool,
    shared: &Shared,
    now: Instant,
) -> Result<(), SendError> {
    let len = TRANSPORT_HEADER_LEN + size + TAG_LEN;
    // A path that is not proven yet may be somebody else's machine (control rule 10).
    let (Some(keypair), Ok(endpoint)) = (peer.link.sending_keypair(now), peer.link.destination(len as u64))
    else {
        return Ok(());
    };
    let sockets = shared.sockets.load();
    // The path to a relayed peer is as wide as that to the relay.
    if endpoint.is_relayed() {
        return Ok(());
    }
    let Some(socket) = (if endpoint.remote.is_ipv4() { &sockets.v4 } else { &sockets.v6 }) else {
        return Ok(());
    };
    if !may_send(shared) {
        return Ok(());
    }
    let Ok(counter) = keypair.reserve(1) else { return Ok(()) };
    message.clear();
    message.resize(len, 0);
    message[TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + frame.len()].copy_from_slice(frame);
    keypair.seal(counter, message);
    let transmit = Transmit {
        destination: endpoint.remote,
        source: endpoint.local,
        traffic_class: 0,
        contents: message,
        segment_size: None,
    };
    let result = if whole {
        socket.send_unfragmented(&transmit)
    } else {
        let mut outcome = tombolo_udp::SendOutcome::default();
        socket.send(std::slice::from_ref(&transmit), &mut outcome);
        outcome.failures.first().map_or(Ok(()), |failure| Err(failure.error))
    };
    // Not data: whether it is answered says nothing of the session (requirements 7 and 8).
    if result.is_ok()
        && let Some(event) = peer.link.note_sent(&keypair, now, 1, message.len() as u64, false)
    {
        shared.raise(event);
    }
    result
}

/// Largest inner packet on a route, by what is known of it beforehand.
fn inner_size(outer: u32) -> u16 {
    u16::try_from(outer.saturating_sub(OVERHEAD.into())).unwrap_or(u16::MAX - OVERHEAD)
}

/// For a peer that knows no probes. What ICMP messages made the kernel believe of a route counts down to the base only.
fn conservative(route: Route) -> u16 {
    inner_size(route.mtu.max(u32::from(BASE + OVERHEAD)).min(route.interface_mtu))
}

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    /// Looks whether the peer is at another place than before, or the way there may be another, and begins anew if so. Without a
    /// session nobody can be asked, and nothing is sent: then it is for the next session to look.
    pub(super) fn look_at_path(&mut self, id: PeerId, now: Now) {
        let Some(record) = self.peers.get_mut(&id) else { return };
        let path = &mut record.path;
        if record.peer.link.sending_keypair(now.boot).is_none() {
            return;
        }
        let remote = record.peer.link.endpoint().map(|endpoint| endpoint.remote);
        let moved = path.remote.as_deref() != remote.as_ref();
        let Some(address) = remote.filter(|_| moved || path.stale) else { return };
        if let Some((relay, _)) = tombolo_packet::Endpoint::new(address).relay() {
            self.relayed.insert(id);
            return self.follow_relay(id, relay);
        }
        self.relayed.remove(&id);
        let Some(record) = self.peers.get_mut(&id) else { return };
        let path = &mut record.path;
        let route = self.binder.route(address.ip(), self.firewall_mark);
        let other_way = route.map(|route| route.interface) != path.route.map(|route| route.interface);
        (path.remote, path.route, path.stale) = (remote.map(Box::new), route, false);
        if !(self.paths.options.discover && record.peer.frames.is_open()) {
            path.machine = None;
            record.peer.path.ignore();
            record.peer.path.set_limit(route.map(conservative));
            return;
        }
        let interface = u16::try_from(self.shared.mtu()).unwrap_or(u16::MAX);
        let ceiling = route.map_or(interface, |route| inner_size(route.interface_mtu).min(interface));
        let fresh = path.machine.is_none();
        let timing = self.paths.timing();
        let machine = path.machine.get_or_insert_with(|| Box::new(PathMtu::new(ceiling, timing)));
        if fresh || moved || other_way {
            machine.begin(ceiling, record.round_trip, now.boot);
            record.peer.path.watch();
        } else {
            machine.set_ceiling(ceiling, now.boot);
        }
    }

    /// A relayed peer is sent what fits to its relay; there is nothing to be found out.
    fn follow_relay(&mut self, id: PeerId, relay: PeerId) {
        let limit = self.relayed_limit(relay);
        let Some(record) = self.peers.get_mut(&id) else { return };
        let path = &mut record.path;
        path.machine = None;
        (path.remote, path.route, path.stale) = (None, None, false);
        record.peer.path.ignore();
        record.peer.path.set_limit(limit);
    }

    /// The paths to relays may have become wider or narrower.
    fn follow_relays(&mut self) {
        for id in std::mem::take(&mut self.relayed) {
            let endpoint = self.peers.get(&id).and_then(|record| record.peer.link.endpoint());
            if let Some((relay, _)) = endpoint.and_then(|endpoint| endpoint.relay()) {
                self.relayed.insert(id);
                self.follow_relay(id, relay);
            }
        }
    }

    /// There is a session to ask through, or a new one; or something about the peer was changed.
    pub(super) fn go_on_with_path(&mut self, id: PeerId, now: Now) {
        self.look_at_path(id, now);
        if let Some(record) = self.peers.get_mut(&id) {
            self.paths.drive(id, record, &self.shared, now.boot);
        }
        self.follow_relays();
    }

    /// Routes, devices or the interface may have changed: each peer is looked at when its time comes, rather than ten
    /// thousand of them at once.
    pub(super) fn doubt_all_paths(&mut self) {
        for record in self.peers.values_mut() {
            record.path.stale = true;
        }
    }

    /// Searches whose time has come, and those of peers that are spoken to again. `false`: there were none.
    pub(super) fn poll_paths(&mut self, now: Now) -> bool {
        let mut worked = false;
        while let Some(id) = self.shared.paths_used.pop() {
            worked = true;
            if let Some(record) = self.peers.get_mut(&id)
                && let Some(machine) = &mut record.path.machine
            {
                machine.wake(now.boot);
                self.paths.drive(id, record, &self.shared, now.boot);
            }
        }
        while let Some(&(deadline, id)) = self.paths.deadlines.first()
            && deadline <= now.boot
        {
            worked = true;
            self.paths.deadlines.pop_first();
            if let Some(record) = self.peers.get_mut(&id) {
                record.path.deadline = None;
            }
            let session = |peer: &crate::shared::Peer| peer.link.sending_keypair(now.boot).is_some();
            if !self.peers.get(&id).is_some_and(|record| session(&record.peer)) {
                // The next session goes on with it: what cannot be sent cannot be answered.
                continue;
            }
            // A peer that moved is searched anew rather than confirmed at its old place.
            self.look_at_path(id, now);
            let Some(record) = self.peers.get_mut(&id) else { continue };
            let Some(machine) = &mut record.path.machine else { continue };
            let since = record.peer.link.unanswered_since();
            let unanswered = since.map_or(Duration::ZERO, |since| now.boot.saturating_duration_since(since));
            if machine.wants_traffic(now.boot) {
                machine.handle_timeout(Traffic { sent: record.peer.path.watch(), unanswered }, now.boot);
            } else {
                machine.handle_timeout(Traffic::default(), now.boot);
            }
            self.paths.drive(id, record, &self.shared, now.boot);
        }
        if worked {
            self.follow_relays();
        }
        worked
    }

    /// Frames that wait. `false`: there were none.
    pub(super) fn handle_frames(&mut self, now: Now) -> bool {
        for taken in 0..FRAMES_PER_TURN {
            let Some(frame) = self.shared.frames.pop() else { return taken > 0 };
            self.handle_frame(frame, now);
        }
        true
    }

    fn handle_frame(&mut self, frame: ReceivedFrame, now: Now) {
        let id = frame.peer.link.peer();
        // A peer that was removed a moment ago may have left its slot to another one.
        let Some(record) = self.peers.get_mut(&id).filter(|record| Arc::ptr_eq(&record.peer, &frame.peer))
        else {
            return;
        };
        let Some(message) = PathFrame::parse(&frame.bytes) else {
            return self.report_frame(id, frame);
        };
        if let PathFrame::Probe { id: probe } = message
            && record.path.may_answer(now.boot)
        {
            let size = u16::try_from(frame.message_len).unwrap_or(u16::MAX);
            let answer = PathFrame::Answer { id: probe, size }.to_bytes();
            // Never longer than the probe, so that nothing can be made larger by way of us.
            let len = padded_len(answer.len(), 0).min(frame.message_len.max(answer.len()));
            let buffer = &mut self.paths.message;
            let _ = send_sealed(buffer, &record.peer, &answer, len, false, &self.shared, now.boot);
        }
        if let Some(machine) = &mut record.path.machine {
            match message {
                PathFrame::Probe { .. } => machine.note_speaks(now.boot),
                PathFrame::Answer { id, size } => machine.handle_answer(id, size, frame.received),
            }
            self.paths.drive(id, record, &self.shared, now.boot);
        }
    }

    /// Largest inner packet in bytes that is sent to a peer, and how that is known.
    pub(super) fn path_status(&self, record: &PeerRecord) -> (u16, PathMtuState) {
        let interface = self.shared.mtu();
        let limit = record.peer.path.limit().min(interface);
        let state = match &record.path.machine {
            Some(machine) if machine.is_silent() => PathMtuState::Unanswered,
            Some(machine) if machine.is_searching() => PathMtuState::Searching,
            Some(machine) if machine.is_proven() => PathMtuState::Confirmed,
            Some(_) => PathMtuState::Searching,
            None if record.path.route.is_some() => PathMtuState::Route,
            None => PathMtuState::Interface,
        };
        (u16::try_from(limit).unwrap_or(u16::MAX), state)
    }
}
