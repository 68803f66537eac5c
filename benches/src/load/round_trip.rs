//! One byte there and one byte back, over TCP: how long a small question waits for its answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tombolo_tests::wait::now;

use crate::Result;
use crate::statistics::percentile;
use crate::wire::Wire;

const LIMIT: Duration = Duration::from_secs(10);
/// Round trips at the beginning that do not count: one of so many.
const WARM_UP: usize = 20;

/// What came of the questions.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrips {
    /// Questions answered each second, one at a time.
    pub per_second: f64,
    /// The median, in microseconds.
    pub median_microseconds: f64,
    /// What 99 of 100 stay below, in microseconds.
    pub p99_microseconds: f64,
    /// Questions answered.
    pub count: usize,
}

/// Asks west from east for so long.
///
/// # Errors
/// When the connection is not made, or stands still for ten seconds.
pub fn run(wire: &Wire, destination: Ipv4Addr, duration: Duration) -> Result<RoundTrips> {
    let listener = wire.west.namespace.enter(|| Ok(TcpListener::bind((destination, 0))?))?;
    let address = listener.local_addr()?;
    let mut samples = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let answering = scope.spawn(move || answer(&listener));
        let samples = wire.east.namespace.enter(|| {
            let connection = TcpStream::connect_timeout(&address, LIMIT).context("connecting")?;
            ask(connection, duration)
        });
        answering.join().map_err(|_| anyhow!("the answering side panicked"))??;
        samples
    })?;
    samples.drain(..samples.len() / WARM_UP);
    let total: f64 = samples.iter().sum();
    samples.sort_by(f64::total_cmp);
    Ok(RoundTrips {
        per_second: samples.len() as f64 / total,
        median_microseconds: percentile(&samples, 50) * 1e6,
        p99_microseconds: percentile(&samples, 99) * 1e6,
        count: samples.len(),
    })
}

/// Seconds of each round trip, in order.
fn ask(mut connection: TcpStream, duration: Duration) -> Result<Vec<f64>> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(LIMIT))?;
    let mut samples = Vec::with_capacity(1 << 20);
    let start = now();
    let mut last = start;
    while last - start < duration {
        connection.write_all(b"?")?;
        connection.read_exact(&mut [0])?;
        let answered = now();
        samples.push((answered - last).as_secs_f64());
        last = answered;
    }
    Ok(samples)
}

fn answer(listener: &TcpListener) -> Result {
    let (mut connection, _) = listener.accept()?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(LIMIT))?;
    let mut question = [0];
    while connection.read(&mut question)? == 1 {
        connection.write_all(&question)?;
    }
    Ok(())
}
