//! A bad line between the two hosts: what is lost, doubled and overtaken on it.
//!
//! ```text
//!   east  wire (TUN) --> this program: delay, loss, duplication, reordering --> wire (TUN)  west
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_packet::VnetHeader;
use tombolo_tests::transfer::Noise;
use tombolo_tests::wait::now;
use tombolo_tun::{Device, DeviceOptions, MAX_PACKET, OffloadSwitches, Queue, TunQueue};

use crate::Result;
use crate::wire::Wire;

/// How long each packet takes at least.
const DELAY: Duration = Duration::from_millis(5);
/// How much longer those take that are overtaken.
const DETOUR: Duration = Duration::from_millis(2);
/// Packets under way at most; more are dropped, as by any line.
const CAPACITY: usize = 4096;
/// Packets taken from one side before the other has its turn, and what is due is delivered.
const READS_PER_TURN: usize = 64;
/// How often a line that carries nothing looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(50);

/// Shares of the packets that meet each misfortune.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Never arrive.
    pub loss: f64,
    /// Arrive twice.
    pub duplication: f64,
    /// Arrive behind those that were sent up to 2 ms later.
    pub reordering: f64,
}

impl Impairment {
    /// How long each copy of a packet takes; nothing for one that is lost.
    fn fates(self, noise: &mut Noise) -> impl Iterator<Item = Duration> + use<> {
        let mut chance = |share: f64| {
            let mut bytes = [0; 8];
            noise.fill(&mut bytes);
            (u64::from_le_bytes(bytes) as f64) < share * u64::MAX as f64
        };
        let copies = match (chance(self.loss), chance(self.duplication)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        let delay = if chance(self.reordering) { DELAY + DETOUR } else { DELAY };
        std::iter::repeat_n(delay, copies)
    }
}

/// A running line. It stops carrying when this value is dropped.
#[derive(Debug)]
pub struct Line {
    impairment: Arc<Mutex<Impairment>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// Two hosts with a line between them that delays and does nothing worse yet.
    ///
    /// # Errors
    /// Without root.
    pub fn lay() -> Result<(Wire, Self)> {
        let wire = Wire::hosts()?;
        let mut queues = Vec::new();
        for host in [&wire.east, &wire.west] {
            let offloads = OffloadSwitches { vnet_header: false, ..OffloadSwitches::default() };
            let options = DeviceOptions { offloads, mtu: Some(1500), ..DeviceOptions::new("wire") };
            let device = host.namespace.enter(|| Ok(Device::open(&options)?))?;
            host.namespace.ip(&format!("address add {}/24 dev wire", host.outer))?;
            host.namespace.ip("link set wire txqueuelen 1000 up")?;
            queues.extend(device.queues().first().cloned());
        }
        let (impairment, stop) = (Arc::default(), Arc::default());
        let mut carrier = Carrier {
            queues,
            impairment: Arc::clone(&impairment),
            stop: Arc::clone(&stop),
            noise: Noise::new(1),
            under_way: BinaryHeap::new(),
            serial: 0,
        };
        let thread = thread::Builder::new().name("line".into()).spawn(move || carrier.run())?;
        Ok((wire, Self { impairment, stop, thread: Some(thread) }))
    }

    /// What befalls the packets from now on.
    pub fn set(&self, impairment: Impairment) {
        *self.impairment.lock().unwrap_or_else(PoisonError::into_inner) = impairment;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// When a packet arrives, in which order among those of the same time, where, and the packet.
type UnderWay = Reverse<(Instant, u64, usize, Arc<[u8]>)>;

struct Carrier {
    queues: Vec<Arc<TunQueue>>,
    impairment: Arc<Mutex<Impairment>>,
    stop: Arc<AtomicBool>,
    noise: Noise,
    under_way: BinaryHeap<UnderWay>,
    serial: u64,
}

impl Carrier {
    fn run(&mut self) {
        let mut buffer = vec![0; MAX_PACKET];
        while !self.stop.load(Ordering::Relaxed) {
            let time = now();
            for from in 0..self.queues.len() {
                for _ in 0..READS_PER_TURN {
                    let Ok(Some((_, len))) = self.queues[from].read(&mut buffer) else { break };
                    self.take(&buffer[..len], self.queues.len() - 1 - from, time);
                }
            }
            while self.under_way.peek().is_some_and(|Reverse((due, ..))| *due <= time) {
                let Some(Reverse((_, _, to, packet))) = self.under_way.pop() else { break };
                // A full queue loses packets, as on any line.
                let _ = self.queues[to].write(VnetHeader::default(), &[IoSlice::new(&packet)]);
            }
            self.wait(time);
        }
    }

    fn take(&mut self, packet: &[u8], to: usize, time: Instant) {
        let impairment = *self.impairment.lock().unwrap_or_else(PoisonError::into_inner);
        let packet: Arc<[u8]> = packet.into();
        for delay in impairment.fates(&mut self.noise) {
            if self.under_way.len() < CAPACITY {
                self.serial += 1;
                self.under_way.push(Reverse((time + delay, self.serial, to, Arc::clone(&packet))));
            }
        }
    }

    /// Until something comes in or falls due.
    fn wait(&self, time: Instant) {
        let due = self.under_way.peek().map(|Reverse((due, ..))| due.saturating_duration_since(time));
        let Ok(limit) = Timespec::try_from(due.unwrap_or(PATIENCE)) else { return };
        let mut descriptors: Vec<PollFd<'_>> =
            self.queues.iter().map(|queue| PollFd::from_borrowed_fd(queue.fd(), PollFlags::IN)).collect();
        let _ = poll(&mut descriptors, Some(&limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_misfortune_meets_the_share_that_was_asked_for() {
        let impairment = Impairment { loss: 0.2, duplication: 0.1, reordering: 0.3 };
        let mut noise = Noise::new(7);
        let fates: Vec<Vec<Duration>> = (0..20_000).map(|_| impairment.fates(&mut noise).collect()).collect();
        let share = |wanted: &dyn Fn(&Vec<Duration>) -> bool| {
            fates.iter().filter(|fate| wanted(fate)).count() as f64 / fates.len() as f64
        };
        assert!((share(&|fate| fate.is_empty()) - 0.2).abs() < 0.02);
        assert!((share(&|fate| fate.len() == 2) - 0.8 * 0.1).abs() < 0.02);
        assert!((share(&|fate| fate.first() == Some(&(DELAY + DETOUR))) - 0.8 * 0.3).abs() < 0.02);
    }

    #[test]
    fn a_good_line_carries_everything_once() {
        let mut noise = Noise::new(7);
        assert!((0..1000).all(|_| Impairment::default().fates(&mut noise).eq([DELAY])));
    }
}
