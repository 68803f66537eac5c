//! Sockets that are joined in memory, for tests: the interface of the real ones, hosts with
//! addresses of their own, and a network between them that loses, repeats and reorders what it is told
//! to, the same way for the same seed.
//!
//! ```
//! use tombolo_udp::memory::{Faults, MemoryNetwork};
//! use tombolo_udp::{SendOutcome, Socket, Transmit};
//!
//! let network = MemoryNetwork::new(7);
//! let east = network.socket(&["192.0.2.1".parse()?, "2001:db8::1".parse()?], 8662);
//! let west = network.socket(&["198.51.100.1".parse()?], 8662);
//! network.set_faults(Faults { loss_per_mille: 10, ..Faults::default() });
//! west.send(&[Transmit::new("192.0.2.1:8662".parse()?, b"hello")], &mut SendOutcome::default());
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};
use tombolo_packet::{LocalAddress, Offload, OffloadState, Steering};

use crate::receiving::{ReceiveState, Verdict};
use crate::{
    Capabilities, FallbackCounters, MAX_DATAGRAM, RECEIVE_SLOT, Received, SendError, SendFailure,
    SendOutcome, Socket, Transmit,
};

/// Datagrams that wait at one socket at most; what comes on top is lost.
pub const QUEUE_CAPACITY: usize = 8192;
/// How many datagrams a late one lets pass at most.
const MAX_OVERTAKERS: u64 = 8;

/// What the network does to datagrams, in chances out of 1000 for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Lost.
    pub loss_per_mille: u16,
    /// Delivered twice.
    pub duplication_per_mille: u16,
    /// Delivered ahead of up to 8 that were sent before it and not yet received.
    pub reordering_per_mille: u16,
    /// Given to any of the sockets that share the port, instead of the one that it is steered to.
    pub astray_per_mille: u16,
    /// Largest IP packet in bytes that passes whole; 0: any. Larger ones pass as fragments …
    pub path_mtu: u16,
    /// … unless those are lost. Nobody is told.
    pub drops_fragments: bool,
}

/// A network in memory. Clones are the same network.
#[derive(Clone, Debug)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    hosts: HashMap<SocketAddr, Weak<Port>>,
    faults: Faults,
    random: u64,
    lost: u64,
}

#[derive(Debug)]
struct Datagram {
    source: SocketAddr,
    local: LocalAddress,
    traffic_class: u8,
    contents: Vec<u8>,
}

#[derive(Debug)]
struct Inbox {
    queue: Mutex<VecDeque<Datagram>>,
    /// Its counter is above zero as long as something waits.
    event: OwnedFd,
}

impl MemoryNetwork {
    /// A network without faults; what chance decides follows from the seed.
    pub fn new(seed: u64) -> Self {
        let state = State { hosts: HashMap::new(), faults: Faults::default(), random: seed, lost: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A socket of a host with these addresses. An address and port that is taken already goes to
    /// the new socket.
    ///
    /// # Panics
    /// When the system has no descriptor left for the socket's event.
    pub fn socket(&self, addresses: &[IpAddr], port: u16) -> MemorySocket {
        let mut sockets = self.sockets(addresses, port, Steering::new(0, NonZeroU16::MIN));
        sockets.pop().expect("one was asked for")
    }

    /// Sockets that share a port, to which transport messages are steered as
    /// [`bind_pairs`](crate::bind_pairs) has it, and all else as chance has it.
    ///
    /// # Panics
    /// When the system has no descriptor left for the sockets' events.
    pub fn sockets(&self, addresses: &[IpAddr], port: u16, steering: Steering) -> Vec<MemorySocket> {
        self.share(addresses, port, steering, 0)
    }

    /// The same, and behind them one to which all comes that is no transport message.
    ///
    /// # Panics
    /// As [`MemoryNetwork::sockets`].
    pub fn sockets_and_handshakes(
        &self,
        addresses: &[IpAddr],
        port: u16,
        steering: Steering,
    ) -> Vec<MemorySocket> {
        self.share(addresses, port, steering, 1)
    }

    fn share(&self, addresses: &[IpAddr], port: u16, steering: Steering, further: u16) -> Vec<MemorySocket> {
        let inbox = || Inbox {
            queue: Mutex::default(),
            event: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
                .expect("a process that tests has descriptors left"),
        };
        let inboxes = (0..steering.sockets() + further).map(|_| Arc::new(inbox())).collect();
        let shared = Arc::new(Port { inboxes, steering, place: Mutex::new(Place::default()) });
        let sockets: Vec<MemorySocket> = shared
            .inboxes
            .iter()
            .map(|inbox| MemorySocket {
                network: self.clone(),
                inbox: Arc::clone(inbox),
                shared: Arc::clone(&shared),
                gso: AtomicBool::new(true),
                gro: AtomicBool::new(true),
                receiving: ReceiveState::new(OffloadState::On),
                divides: AtomicBool::new(true),
                stale_sources: AtomicU64::new(0),
                send_errors: AtomicU64::new(0),
            })
            .collect();
        if let Some(first) = sockets.first() {
            first.move_to(addresses, port);
        }
        sockets
    }

    /// What the network does to datagrams from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.0).faults = faults;
    }

    /// Datagrams that never arrived: by chance, for want of a receiver, or at a full queue.
    pub fn lost(&self) -> u64 {
        lock(&self.0).lost
    }
}

#[derive(Debug, Default)]
struct Place {
    addresses: Vec<IpAddr>,
    port: u16,
}

/// What the sockets of one port have in common.
#[derive(Debug)]
struct Port {
    inboxes: Vec<Arc<Inbox>>,
    steering: Steering,
    place: Mutex<Place>,
}

/// A socket on a [`MemoryNetwork`], of both address families.
#[derive(Debug)]
pub struct MemorySocket {
    network: MemoryNetwork,
    inbox: Arc<Inbox>,
    shared: Arc<Port>,
    gso: AtomicBool,
    gro: AtomicBool,
    receiving: ReceiveState,
    /// It says how to take apart what it put together.
    divides: AtomicBool,
    stale_sources: AtomicU64,
    send_errors: AtomicU64,
}

impl MemorySocket {
    /// The host gets other addresses, as a laptop does on another network, for all sockets that share the
    /// port. What waits stays.
    pub fn move_to(&self, addresses: &[IpAddr], port: u16) {
        let mut state = lock(&self.network.0);
        state.hosts.retain(|_, host| !std::ptr::eq(host.as_ptr(), &raw const *self.shared));
        for &address in addresses {
            state.hosts.insert(SocketAddr::new(address, port), Arc::downgrade(&self.shared));
        }
        *lock(&self.shared.place) = Place { addresses: addresses.to_vec(), port };
    }

    /// Which offloads the socket says it has. Without `gro` each datagram arrives by itself.
    pub fn set_offloads(&self, gso: bool, gro: bool) {
        self.gso.store(gso, Ordering::Relaxed);
        self.gro.store(gro, Ordering::Relaxed);
    }

    /// From now on the socket does not say how to take apart the datagrams that it puts together, as a system might that gets `UDP_GRO`
    /// wrong; until that is given up.
    pub fn break_gro(&self) {
        self.divides.store(false, Ordering::Relaxed);
    }

    fn source_for(&self, transmit: &Transmit<'_>, stale: &mut bool) -> Option<SocketAddr> {
        let place = lock(&self.shared.place);
        let wanted = transmit.source.map(|source| source.address);
        let own = wanted.filter(|address| place.addresses.contains(address));
        *stale = wanted.is_some() && own.is_none();
        own.or_else(|| {
            let same_family = |address: &&IpAddr| address.is_ipv4() == transmit.destination.is_ipv4();
            place.addresses.iter().find(same_family).copied()
        })
        .map(|address| SocketAddr::new(address, place.port))
    }
}

impl Socket for MemorySocket {
    fn capabilities(&self) -> Capabilities {
        let gso = self.gso.load(Ordering::Relaxed);
        Capabilities {
            gso,
            gro: self.gro.load(Ordering::Relaxed) && self.receiving.gro(),
            max_segments: if gso { 128 } else { 1 },
            receive_buffer: QUEUE_CAPACITY * 1500,
            send_buffer: usize::MAX,
        }
    }

    fn offload_states(&self) -> [(Offload, OffloadState); 2] {
        let state = |on| if on { OffloadState::On } else { OffloadState::SwitchedOff };
        let gro = match self.gro.load(Ordering::Relaxed) {
            true => self.receiving.gro_state(),
            false => OffloadState::SwitchedOff,
        };
        [(Offload::Gso, state(self.gso.load(Ordering::Relaxed))), (Offload::Gro, gro)]
    }

    fn counters(&self) -> FallbackCounters {
        self.receiving.count_in(FallbackCounters {
            stale_sources: self.stale_sources.load(Ordering::Relaxed),
            send_errors: self.send_errors.load(Ordering::Relaxed),
            ..FallbackCounters::default()
        })
    }

    fn reaches(&self, _destination: IpAddr) -> bool {
        true
    }

    fn send(&self, transmits: &[Transmit<'_>], outcome: &mut SendOutcome) {
        outcome.clear();
        for (index, transmit) in transmits.iter().enumerate() {
            let mut stale = false;
            let source = self.source_for(transmit, &mut stale);
            if stale {
                outcome.stale_sources.push(index);
                self.stale_sources.fetch_add(1, Ordering::Relaxed);
            }
            let error = match source {
                None => Some(SendError::System(libc::ENETUNREACH)),
                Some(_) if transmit.contents.len().min(transmit.stride()) > MAX_DATAGRAM => {
                    Some(SendError::TooBig)
                }
                Some(source) => {
                    let mut state = lock(&self.network.0);
                    if transmit.contents.is_empty() {
                        state.carry(source, transmit, &[], true);
                    }
                    for contents in transmit.contents.chunks(transmit.stride()) {
                        state.carry(source, transmit, contents, true);
                    }
                    None
                }
            };
            let datagrams = transmit.datagrams();
            if let Some(error) = error {
                outcome.failures.push(SendFailure { index, datagrams, error });
                self.send_errors.fetch_add(datagrams as u64, Ordering::Relaxed);
            } else {
                outcome.datagrams += datagrams as u64;
            }
        }
    }

    fn send_unfragmented(&self, transmit: &Transmit<'_>) -> Result<(), SendError> {
        let source = self.source_for(transmit, &mut false).ok_or(SendError::System(libc::ENETUNREACH))?;
        lock(&self.network.0).carry(source, transmit, transmit.contents, false);
        Ok(())
    }

    fn receive(&self, arena: &mut [u8], received: &mut Vec<Received>) -> io::Result<usize> {
        received.clear();
        let gro = self.capabilities().gro;
        let mut queue = lock(&self.inbox.queue);
        for (slot, space) in arena.chunks_exact_mut(RECEIVE_SLOT).enumerate() {
            let Some(first) = queue.pop_front() else { break };
            let stride = first.contents.len();
            space[..stride].copy_from_slice(&first.contents);
            let mut len = stride;
            // As the kernel coalesces: equal in all but the last, which may be shorter.
            while gro && stride > 0 && len % stride == 0 && len / stride < 64 {
                let fits = |next: &mut Datagram| {
                    (next.source, next.local, next.traffic_class)
                        == (first.source, first.local, first.traffic_class)
                        && (1..=stride).contains(&next.contents.len())
                        && len + next.contents.len() <= MAX_DATAGRAM
                };
                let Some(next) = queue.pop_front_if(fits) else { break };
                space[len..len + next.contents.len()].copy_from_slice(&next.contents);
                len += next.contents.len();
            }
            let undivided = len > stride && !self.divides.load(Ordering::Relaxed);
            let verdict = if undivided { Verdict::Undivided } else { Verdict::Whole };
            if self.receiving.is_enough(verdict) {
                self.receiving.give_up_gro(true);
            }
            received.push(Received {
                source: first.source,
                local: Some(first.local),
                traffic_class: first.traffic_class,
                offset: slot * RECEIVE_SLOT,
                len,
                stride: if undivided { len } else { stride.max(1) },
            });
        }
        if queue.is_empty() {
            // Fails only when nothing was to be taken back.
            let _ = rustix::io::read(&self.inbox.event, &mut [0; 8]);
        }
        Ok(received.len())
    }

    fn set_mark(&self, _mark: u32) -> io::Result<()> {
        Ok(())
    }

    fn local_port(&self) -> u16 {
        lock(&self.shared.place).port
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inbox.event.as_fd()
    }
}

impl State {
    fn carry(&mut self, source: SocketAddr, transmit: &Transmit<'_>, contents: &[u8], fragments: bool) {
        let headers = if transmit.destination.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let too_large =
            self.faults.path_mtu != 0 && contents.len() + headers > usize::from(self.faults.path_mtu);
        let stuck = too_large && (self.faults.drops_fragments || !fragments);
        let copies = if stuck || self.happens(self.faults.loss_per_mille) {
            0
        } else {
            1 + usize::from(self.happens(self.faults.duplication_per_mille))
        };
        let port = self.hosts.get(&transmit.destination).and_then(Weak::upgrade);
        let Some(port) = port.filter(|_| copies > 0) else {
            self.lost += 1;
            return;
        };
        let number = self.socket_for(&port, contents);
        let Some(inbox) = port.inboxes.get(number) else { return };
        let mut queue = lock(&inbox.queue);
        for _ in 0..copies {
            if queue.len() >= QUEUE_CAPACITY {
                self.lost += 1;
                continue;
            }
            let passed = if self.happens(self.faults.reordering_per_mille) {
                1 + self.next_random() % MAX_OVERTAKERS
            } else {
                0
            };
            let at = queue.len().saturating_sub(usize::try_from(passed).unwrap_or(0));
            let local = LocalAddress { address: transmit.destination.ip(), interface: 1 };
            let datagram = Datagram {
                source,
                local,
                traffic_class: transmit.traffic_class,
                contents: contents.to_vec(),
            };
            queue.insert(at, datagram);
        }
        if !queue.is_empty() {
            // Fails only when the counter is at its end, and then it is above zero.
            let _ = rustix::io::write(&inbox.event, &1_u64.to_ne_bytes());
        }
    }

    /// The number of the socket that a datagram comes to.
    fn socket_for(&mut self, port: &Port, contents: &[u8]) -> usize {
        let steering = port.steering;
        let sockets = u64::from(steering.sockets());
        match contents.first_chunk::<8>() {
            message if port.inboxes.len() as u64 > sockets && !matches!(message, Some([4, 0, 0, 0, ..])) => {
                port.inboxes.len() - 1
            }
            _ if sockets == 1 => 0,
            Some(&[4, 0, 0, 0, a, b, c, d]) if !self.happens(self.faults.astray_per_mille) => {
                steering.socket_of(u32::from_le_bytes([a, b, c, d])).into()
            }
            // Less than the number of sockets.
            _ => (self.next_random() % sockets) as usize,
        }
    }

    fn happens(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.next_random() % 1000 < u64::from(per_mille)
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A test that panicked elsewhere leaves nothing half done in here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
