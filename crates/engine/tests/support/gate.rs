//! A stop before a machine's TUN or socket, so that what gathers there is read as one batch, whatever the threads do.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_packet::ip::ecn;
use tombolo_packet::{Offload, OffloadState, VnetHeader};
use tombolo_tun::{Offloads, Queue, Reads, TunOffloadStates};
use tombolo_udp::{Capabilities, FallbackCounters, Received, SendError, SendOutcome, Socket, Transmit};

/// No ECN field: what was sent stays.
const UNMARKED: u8 = u8::MAX;

/// What an engine calls of a queue or a socket, for those who want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    /// The call returns.
    Done,
}

/// The gates of one machine. Clones are the same gates.
#[derive(Clone)]
pub struct Gates {
    pub tun: Gate,
    pub udp: Gate,
    sent: Arc<AtomicUsize>,
    /// See [`Gates::mark`].
    mark: Arc<AtomicU8>,
    watch: fn(Call),
}

impl Gates {
    /// Open ones.
    pub fn new() -> Self {
        Self::watched(|_| {})
    }

    /// Open ones; `watch` is called on the engine's threads before and after each read and write.
    pub fn watched(watch: fn(Call)) -> Self {
        let mark = Arc::new(AtomicU8::new(UNMARKED));
        Self { tun: Gate::default(), udp: Gate::default(), sent: Arc::default(), mark, watch }
    }

    /// From now on the network puts this ECN field on all that comes in.
    pub fn mark(&self, ecn: u8) {
        self.mark.store(ecn, Ordering::SeqCst);
    }

    /// The network leaves the ECN field again as it was sent.
    pub fn unmark(&self) {
        self.mark(UNMARKED);
    }

    /// Datagrams that were sent so far.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// Puts the gate before a queue.
    pub fn queue(&self, queue: impl Queue + 'static) -> Arc<dyn Queue> {
        Arc::new(Gated { inner: queue, gates: self.clone() })
    }

    /// Puts the gate before a socket.
    pub fn socket(&self, socket: Arc<dyn Socket>) -> Arc<dyn Socket> {
        Arc::new(Gated { inner: socket, gates: self.clone() })
    }

    fn call<R>(&self, call: Call, made: impl FnOnce() -> R) -> R {
        (self.watch)(call);
        let result = made();
        (self.watch)(Call::Done);
        result
    }
}

/// Nothing is read while it is held.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<()>>);

impl Gate {
    /// Closes the gate for as long as what this gives lives.
    pub fn close(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) {
        drop(self.close());
    }
}

struct Gated<T> {
    inner: T,
    gates: Gates,
}

impl<T: Queue> Queue for Gated<T> {
    fn offloads(&self) -> Offloads {
        self.inner.offloads()
    }

    fn offload_states(&self) -> TunOffloadStates {
        self.inner.offload_states()
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(VnetHeader, usize)>> {
        self.gates.tun.pass();
        self.gates.call(Call::Read, || self.inner.read(buffer))
    }

    fn limit_reads(&self, reads: Reads) -> io::Result<()> {
        self.inner.limit_reads(reads)
    }

    fn write(&self, header: VnetHeader, slices: &[IoSlice<'_>]) -> io::Result<()> {
        self.gates.call(Call::Write, || self.inner.write(header, slices))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd()
    }
}

impl Socket for Gated<Arc<dyn Socket>> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn offload_states(&self) -> [(Offload, OffloadState); 2] {
        self.inner.offload_states()
    }

    fn counters(&self) -> FallbackCounters {
        self.inner.counters()
    }

    fn reaches(&self, destination: IpAddr) -> bool {
        self.inner.reaches(destination)
    }

    fn send(&self, transmits: &[Transmit<'_>], outcome: &mut SendOutcome) {
        self.gates.call(Call::Write, || self.inner.send(transmits, outcome));
        self.gates.sent.fetch_add(transmits.iter().map(Transmit::datagrams).sum(), Ordering::SeqCst);
    }

    fn send_unfragmented(&self, transmit: &Transmit<'_>) -> Result<(), SendError> {
        self.inner.send_unfragmented(transmit)
    }

    fn receive(&self, arena: &mut [u8], received: &mut Vec<Received>) -> io::Result<usize> {
        self.gates.udp.pass();
        let reads = self.gates.call(Call::Read, || self.inner.receive(arena, received))?;
        let mark = self.gates.mark.load(Ordering::SeqCst);
        for read in received.iter_mut().filter(|_| mark != UNMARKED) {
            read.traffic_class = read.traffic_class & !ecn::MASK | mark;
        }
        Ok(reads)
    }

    fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.inner.set_mark(mark)
    }

    fn local_port(&self) -> u16 {
        self.inner.local_port()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd()
    }
}
