//! Starting and stopping the threads.

use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rand_core::CryptoRng;
use tombolo_noise::Device;
use tombolo_packet::Steering;
use tombolo_tun::Queue;

use crate::assist::{Helper, OpeningLine, Pool, SealingLine};
use crate::busy_poll::BusyPoll;
use crate::control::{Control, ControlParts};
use crate::deference::Deference;
use crate::fair_queue::FlowHasher;
use crate::handle::EngineHandle;
use crate::inbound::Inbound;
use crate::offload::TunOffloads;
use crate::options::{EngineEvent, EngineOptions, SocketBinder, Sockets, queues_for};
use crate::outbound::Outbound;
use crate::shared::{Shared, Tables, Waker};
use crate::worker::Worker;

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The UDP port could not be bound.
    #[error("UDP port {port} cannot be bound: {source}")]
    Bind {
        /// The port asked for.
        port: u16,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A thread, an eventfd or a timer could not be made.
    #[error("a worker could not be started: {0}")]
    Worker(#[source] io::Error),
}

/// A running engine. Dropping it stops its threads.
pub struct Engine {
    handle: EngineHandle,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the threads, on at most as many of `queues` as [`queues_for`](crate::queues_for) gives for the
    /// workers that the options want. `events` is called on the control thread with all
    /// that one turn of it has brought, in order, and must not block.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(
        options: EngineOptions,
        queues: Vec<Arc<dyn Queue>>,
        mut binder: impl SocketBinder,
        mut random: impl CryptoRng + Send + 'static,
        events: impl Fn(Vec<EngineEvent>) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let threads = layout(options.workers, queues.len());
        let lanes =
            threads.iter().map(|thread| thread.lane + 1).max().and_then(|lanes| u16::try_from(lanes).ok());
        let steering =
            Steering::new(random.next_u32(), lanes.and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN));
        let port = options.listen_port;
        let sockets = binder
            .bind(port, options.firewall_mark, steering)
            .map_err(|source| StartError::Bind { port, source })?;
        let mut device = Device::new();
        device.set_max_timestamp_ahead(options.max_clock_ahead);
        if steering.sockets() > 1 {
            device.set_steering(steering);
        }
        let magic = random.next_u64();
        let wakers: Vec<Arc<Waker>> = threads
            .iter()
            .map(|_| Waker::new().map(Arc::new))
            .collect::<io::Result<_>>()
            .map_err(StartError::Worker)?;
        let tun = TunOffloads::of(queues.first().map(AsRef::as_ref));
        let tables = Tables { indices: device.index_table(), sources: device.source_table() };
        let mut shared =
            Shared::new(tables, sockets, tun, options.mtu, magic, wakers.clone(), options.path_mtu.clamp_mss)
                .map_err(StartError::Worker)?;
        shared.flow_hasher = FlowHasher::new([random.next_u64(), random.next_u64()]);
        shared.copy_dscp = options.copy_dscp;
        let shared = Arc::new(shared);
        let pool = Arc::new(Pool::new(&wakers, options.assist));
        let (commands, receiver) = mpsc::channel();
        let control = Control::new(ControlParts {
            shared: Arc::clone(&shared),
            device,
            random,
            binder,
            events: Box::new(events),
            commands: receiver,
            firewall_mark: options.firewall_mark,
            steering,
            link_up: options.link_up,
            path_mtu: options.path_mtu,
            queue: queues.first().map(Arc::clone),
        })
        .map_err(StartError::Worker)?;
        let handle = EngineHandle { commands, shared: Arc::clone(&shared) };
        let mut engine = Self { handle, threads: Vec::with_capacity(threads.len() + 1) };
        for (seat, (thread, waker)) in threads.into_iter().zip(wakers).enumerate() {
            let Some(queue) = queues.get(thread.lane).map(Arc::clone) else { continue };
            let (shared, pool) = (Arc::clone(&shared), Arc::clone(&pool));
            let poll = BusyPoll::new(options.busy_poll);
            engine.spawn(&thread.name(), move || {
                let outbound = || {
                    let line = SealingLine::new(&pool, seat);
                    Outbound::new(&shared, queue.as_ref(), thread.lane, line)
                };
                let inbound = || {
                    let line = OpeningLine::new(&pool, seat);
                    Inbound::new(&shared, queue.as_ref(), thread.lane, line)
                };
                let worker = Worker {
                    shared: &shared,
                    waker,
                    outbound: thread.out.then(outbound),
                    inbound: thread.inward.then(inbound),
                    poll,
                    deference: Deference::default(),
                    helper: Helper::new(Arc::clone(&pool), seat),
                };
                worker.run();
            })?;
        }
        engine.spawn("tombolo-control", move || control.run())?;
        Ok(engine)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(name.into()).spawn(body).map_err(StartError::Worker)?;
        self.threads.push(thread);
        Ok(())
    }

    /// The way in for other threads.
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Stops the threads and waits for them. Peers are not told; the TUN stays as it is.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.shared.stop();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so on standard error; there is nothing left to wait for.
            let _ = thread.join();
        }
        // Handles outlive the engine; the port must not.
        self.handle.shared.sockets.store(Arc::new(Sockets::default()));
    }
}

/// What one data thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Thread {
    lane: usize,
    out: bool,
    inward: bool,
}

impl Thread {
    /// At most 15 bytes, for the kernel to keep.
    fn name(self) -> String {
        let kind = match (self.out, self.inward) {
            (true, true) => "data",
            (true, false) => "out",
            (false, _) => "in",
        };
        if self.lane == 0 { format!("tombolo-{kind}") } else { format!("tombolo-{kind}{}", self.lane) }
    }
}

/// The data threads for so many workers on so many queues; see [`queues_for`].
fn layout(workers: usize, queues: usize) -> Vec<Thread> {
    let lanes = queues_for(workers).min(queues.max(1));
    let pairs = (workers.max(1) / 2).min(lanes);
    let pair = |lane| [Thread { lane, out: true, inward: false }, Thread { lane, out: false, inward: true }];
    let alone = |lane| Thread { lane, out: true, inward: true };
    (0..pairs).flat_map(pair).chain((pairs..lanes).map(alone)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(workers: usize, queues: usize) -> Vec<String> {
        layout(workers, queues).into_iter().map(Thread::name).collect()
    }

    #[test]
    fn one_thread_alternates_two_share_and_more_have_lanes() {
        assert_eq!(names(0, 1), ["tombolo-data"]);
        assert_eq!(names(1, 4), ["tombolo-data"]);
        assert_eq!(names(2, 4), ["tombolo-out", "tombolo-in"]);
        assert_eq!(names(3, 4), ["tombolo-out", "tombolo-in", "tombolo-data1"]);
        assert_eq!(names(4, 4), ["tombolo-out", "tombolo-in", "tombolo-out1", "tombolo-in1"]);
        assert_eq!(names(1000, 1000).len(), crate::MAX_WORKERS);
        assert!(names(1000, 1000).iter().all(|name| name.len() <= 15));
    }

    #[test]
    fn an_interface_with_fewer_queues_has_fewer_lanes() {
        assert_eq!(names(4, 1), ["tombolo-out", "tombolo-in"]);
        assert_eq!(names(3, 1), ["tombolo-out", "tombolo-in"]);
        assert_eq!(names(8, 2).len(), 4);
        assert_eq!(names(2, 0), ["tombolo-out", "tombolo-in"]);
    }
}
