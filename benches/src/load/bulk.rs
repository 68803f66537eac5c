//! TCP streams that run as fast as they can beside something else.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tombolo_tests::namespace::Namespace;
use tombolo_tests::wait::now;

use crate::Result;
use crate::wire::Wire;

const LIMIT: Duration = Duration::from_secs(20);
/// What a stream gets to find its speed.
const SETTLING: Duration = Duration::from_millis(400);
const BLOCK: usize = 128 << 10;

/// Connections from east to west that are made, and carry nothing yet.
#[derive(Debug)]
pub struct Streams(Vec<(TcpStream, TcpStream)>);

impl Streams {
    /// Makes so many connections.
    ///
    /// # Errors
    /// When one is not made.
    pub fn connect(wire: &Wire, destination: Ipv4Addr, count: usize) -> Result<Self> {
        Self::between(&wire.east.namespace, &wire.west.namespace, destination, count)
    }

    /// As [`Streams::connect`], between any two namespaces.
    ///
    /// # Errors
    /// When one is not made.
    pub fn between(from: &Namespace, to: &Namespace, destination: Ipv4Addr, count: usize) -> Result<Self> {
        let listener = to.enter(|| Ok(TcpListener::bind((destination, 0))?))?;
        let address = listener.local_addr()?;
        let pair = |_| -> Result<(TcpStream, TcpStream)> {
            let sender = from
                .enter(|| TcpStream::connect_timeout(&address, LIMIT).context("connecting a bulk stream"))?;
            Ok((sender, listener.accept()?.0))
        };
        Ok(Self((0..count).map(pair).collect::<Result<_>>()?))
    }

    /// Lets all senders use a congestion control. It is set for each connection, because the system's default cannot be changed
    /// in a namespace.
    ///
    /// # Errors
    /// When the system does not have it.
    pub fn congest(&self, control: &str) -> Result {
        for (sender, _) in &self.0 {
            rustix::net::sockopt::set_tcp_congestion(sender, control)
                .with_context(|| format!("the congestion control {control}"))?;
        }
        Ok(())
    }

    /// Sends over all of them while `job` runs. Gives what `job` gave, and the Gbit/s that arrived meanwhile.
    ///
    /// # Errors
    /// That of `job`.
    pub fn run<T>(self, job: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        self.metered(|meter| {
            thread::sleep(SETTLING);
            meter.during(job)
        })
    }

    /// Sends over all of them while `job` runs, which sees what arrives, from the first byte on.
    ///
    /// # Errors
    /// That of `job`.
    pub fn metered<T>(self, job: impl FnOnce(&Meter) -> Result<T>) -> Result<T> {
        let meter = Meter::default();
        thread::scope(|scope| {
            for (sender, receiver) in &self.0 {
                scope.spawn(|| send(sender));
                scope.spawn(|| receive(receiver, &meter.0));
            }
            let result = job(&meter);
            for stream in self.0.iter().flat_map(|(sender, receiver)| [sender, receiver]) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            result
        })
    }
}

/// Counts what arrives.
#[derive(Debug, Default)]
pub struct Meter(AtomicU64);

impl Meter {
    /// Bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What `job` gave, and the Gbit/s that arrived meanwhile.
    ///
    /// # Errors
    /// That of `job`.
    pub fn during<T>(&self, job: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let (start, before) = (now(), self.bytes());
        let result = job()?;
        Ok((result, (self.bytes() - before) as f64 * 8e-9 / start.elapsed().as_secs_f64()))
    }

    /// Waits until so many bytes have arrived, or the time is over; how long it took.
    pub fn wait(&self, bytes: u64, limit: Duration) -> Duration {
        let start = now();
        while self.bytes() < bytes && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(2));
        }
        start.elapsed()
    }
}

/// Sends over so many connections from east to west while `job` runs. Gives what `job` gave, and the
/// Gbit/s that arrived meanwhile.
///
/// # Errors
/// When a connection is not made, or with the error of `job`.
pub fn beside<T>(
    wire: &Wire,
    destination: Ipv4Addr,
    streams: usize,
    job: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    Streams::connect(wire, destination, streams)?.run(job)
}

/// The Gbit/s that arrive while nothing else runs.
///
/// # Errors
/// As [`beside`].
pub fn alone(wire: &Wire, destination: Ipv4Addr, streams: usize, duration: Duration) -> Result<f64> {
    let pause = || {
        thread::sleep(duration);
        Ok(())
    };
    Ok(beside(wire, destination, streams, pause)?.1)
}

/// Until the stream is shut down.
fn send(mut stream: &TcpStream) {
    let block = vec![0x5a; BLOCK];
    while stream.write_all(&block).is_ok() {}
}

fn receive(mut stream: &TcpStream, received: &AtomicU64) {
    let mut block = vec![0; 2 * BLOCK];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        received.fetch_add(count as u64, Ordering::Relaxed);
    }
}
