//! UDP datagrams of 64 bytes: in rising steps of rate, to find where loss begins, and as a flood.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_tests::interrupt;
use tombolo_udp::{BindOptions, Family, RECEIVE_SLOT, SendOutcome, Socket, Transmit, UdpSocket};

use super::pace::paced;
use crate::Result;
use crate::wire::Wire;

const SIZE: u16 = 64;
const FIRST_RATE: f64 = 25_000.0;
const HIGHEST_RATE: f64 = 2_000_000.0;
const FACTOR: f64 = 1.25;
/// After these the rate is known to 2 %.
const HALVINGS: u32 = 4;
/// A rate is carried if one of so many attempts loses little: anything else on the machine makes losses.
const ATTEMPTS: u32 = 3;
const LARGEST_BURST: usize = 1024;
const FLOOD_BURST: usize = 64;
/// Loss up to which a rate counts as carried.
const TOLERATED_LOSS: f64 = 0.01;
/// What came of the datagrams.
#[derive(Clone, Copy, Debug)]
pub struct SmallPackets {
    /// Datagrams a second at the highest rate of which at most 1 % was lost.
    pub carried_per_second: f64,
    /// Datagrams a second that arrived while they were sent without any pause.
    pub flood_per_second: f64,
    /// Share of the flood that did not arrive.
    pub flood_loss: f64,
}

struct Step {
    sent: u64,
    received: u64,
    duration: Duration,
}

impl Step {
    fn received_per_second(&self) -> f64 {
        self.received as f64 / self.duration.as_secs_f64()
    }

    fn loss(&self) -> f64 {
        1.0 - (self.received as f64 / self.sent.max(1) as f64).min(1.0)
    }
}

/// Sends from east to west, at each rate for `step`.
///
/// # Errors
/// When a socket cannot be made, or on an interruption.
pub fn run(wire: &Wire, destination: Ipv4Addr, step: Duration) -> Result<SmallPackets> {
    let options = BindOptions { gso: false, gro: false, receive_buffer: 16 << 20, ..BindOptions::default() };
    let sink = wire.west.namespace.enter(|| Ok(UdpSocket::bind(Family::V4, 0, &options)?))?;
    let source = wire.east.namespace.enter(|| Ok(UdpSocket::bind(Family::V4, 0, &options)?))?;
    let target = SocketAddr::from((destination, sink.local_port()));
    let (received, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| count(&sink, &received, &stop));
        let result = search(&source, target, &received, step);
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn search(
    source: &UdpSocket,
    target: SocketAddr,
    received: &AtomicU64,
    duration: Duration,
) -> Result<SmallPackets> {
    let carried_per_second = highest(|rate| {
        let mut last = Trial::Lost;
        for _ in 0..ATTEMPTS {
            interrupt::check()?;
            let step = send(source, target, received, duration, Some(rate))?;
            // The sender itself may be the one that can go no faster.
            let short = (step.sent as f64) < 0.9 * rate * duration.as_secs_f64();
            if step.loss() <= TOLERATED_LOSS {
                last = Trial::Carried { per_second: step.received_per_second(), short };
                break;
            }
        }
        Ok(last)
    })?;
    let flood = send(source, target, received, 4 * duration, None)?;
    Ok(SmallPackets {
        carried_per_second,
        flood_per_second: flood.received_per_second(),
        flood_loss: flood.loss(),
    })
}

enum Trial {
    Carried { per_second: f64, short: bool },
    Lost,
}

/// The most that `attempt` carries: the rate rises until one is lost or the sender falls short, and is
/// then narrowed down.
fn highest(mut attempt: impl FnMut(f64) -> Result<Trial>) -> Result<f64> {
    let (mut low, mut high, mut best) = (0.0, FIRST_RATE, 0.0_f64);
    while high <= HIGHEST_RATE {
        match attempt(high)? {
            Trial::Carried { per_second, short } => {
                best = best.max(per_second);
                if short {
                    return Ok(best);
                }
                (low, high) = (high, high * FACTOR);
            }
            Trial::Lost => break,
        }
    }
    for _ in 0..HALVINGS {
        let rate = f64::midpoint(low, high);
        match attempt(rate)? {
            Trial::Carried { per_second, .. } => {
                best = best.max(per_second);
                low = rate;
            }
            Trial::Lost => high = rate,
        }
    }
    Ok(best)
}

fn send(
    source: &UdpSocket,
    target: SocketAddr,
    received: &AtomicU64,
    duration: Duration,
    rate: Option<f64>,
) -> Result<Step> {
    let largest = if rate.is_some() { LARGEST_BURST } else { FLOOD_BURST };
    let contents = vec![0x42; usize::from(SIZE) * largest];
    let segment_size = Some(NonZeroU16::new(SIZE).context("datagrams have a size")?);
    let mut outcome = SendOutcome::default();
    let before = received.load(Ordering::Relaxed);
    let sent = paced(rate, largest, duration, &AtomicBool::new(false), |burst| {
        let contents = &contents[..burst * usize::from(SIZE)];
        source.send(&[Transmit { segment_size, ..Transmit::new(target, contents) }], &mut outcome);
        outcome.datagrams
    });
    settle(received);
    Ok(Step {
        sent: sent.datagrams,
        received: received.load(Ordering::Relaxed) - before,
        duration: sent.duration,
    })
}

/// Waits until nothing has come for a while.
fn settle(received: &AtomicU64) {
    let mut last = u64::MAX;
    loop {
        let count = received.load(Ordering::Relaxed);
        if count == last {
            return;
        }
        last = count;
        thread::sleep(Duration::from_millis(60));
    }
}

fn count(sink: &UdpSocket, received: &AtomicU64, stop: &AtomicBool) {
    let (mut arena, mut reads) = (vec![0; 64 * RECEIVE_SLOT], Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let mut descriptors = [PollFd::from_borrowed_fd(sink.fd(), PollFlags::IN)];
        let _ = poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }));
        while let Ok(count @ 1..) = sink.receive(&mut arena, &mut reads) {
            received.fetch_add(count as u64, Ordering::Relaxed);
            if count < 16 {
                // Take them in batches, so that the counting takes little from what is counted.
                thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carrying(limit: f64, sender: f64) -> f64 {
        highest(|rate| {
            Ok(match rate.min(sender) {
                sent if sent > limit => Trial::Lost,
                sent => Trial::Carried { per_second: sent, short: sent < rate },
            })
        })
        .unwrap()
    }

    #[test]
    fn the_highest_rate_is_found_to_two_percent() {
        for limit in [7_000.0, 25_000.0, 180_000.0, 321_000.0] {
            let found = carrying(limit, f64::INFINITY);
            let tolerance = (0.02 * limit).max(FIRST_RATE / 16.0);
            assert!(found <= limit && limit - found <= tolerance, "{found} of {limit}");
        }
        assert_eq!(carrying(1e6, 210_000.0), 210_000.0);
        assert_eq!(carrying(0.0, f64::INFINITY), 0.0);
    }
}
