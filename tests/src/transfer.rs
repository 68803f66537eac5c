//! Bytes from one namespace to another over TCP and UDP, checked on arrival.
//!
//! The bytes follow from a seed, so that the receiver can tell each one without having seen it.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, anyhow, ensure};

use crate::{Result, namespace::Namespace, wait::wait_for};

/// The longest pause between two reads before a transfer counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// A source of bytes that looks like noise and is the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// The source for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Fills `buffer` with the next bytes. Lengths must be multiples of eight, except for the last.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Sends `length` bytes over one TCP connection from `client` to `address` in `server`, and checks
/// every byte there.
///
/// # Errors
/// When the connection fails, stands still, or a byte is wrong or missing.
pub fn tcp(client: &Namespace, server: &Namespace, address: IpAddr, length: usize) -> Result {
    let listener = server.enter(|| TcpListener::bind((address, 0)).context("binding the server"))?;
    let target = listener.local_addr()?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let stream = connect(client, target, STUCK)?;
            send_noise(stream, length)
        });
        listener.set_nonblocking(true)?;
        let accepted = wait_for("the connection", STUCK, || match listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(!sender.is_finished(), "the client gave up");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        });
        let received = accepted.and_then(|stream| {
            stream.set_nonblocking(false)?;
            check_noise(stream, length)
        });
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        received
    })
}

/// A TCP connection from inside `client`.
///
/// # Errors
/// When it is not made within `limit`.
pub fn connect(client: &Namespace, target: SocketAddr, limit: Duration) -> Result<TcpStream> {
    client.enter(|| {
        let stream = TcpStream::connect_timeout(&target, limit)
            .with_context(|| format!("connecting from {} to {target}", client.name()))?;
        stream.set_read_timeout(Some(STUCK))?;
        stream.set_write_timeout(Some(STUCK))?;
        Ok(stream)
    })
}

fn send_noise(mut stream: TcpStream, length: usize) -> Result {
    let mut noise = Noise::new(length as u64);
    let mut buffer = vec![0; 1 << 16];
    let mut left = length;
    while left > 0 {
        let count = left.min(buffer.len());
        noise.fill(&mut buffer[..count]);
        stream.write_all(&buffer[..count]).with_context(|| format!("sending, {left} bytes left"))?;
        left -= count;
    }
    Ok(())
}

fn check_noise(mut stream: TcpStream, length: usize) -> Result {
    stream.set_read_timeout(Some(STUCK))?;
    let mut noise = Noise::new(length as u64);
    let mut expected = vec![0; 1 << 16];
    let mut found = vec![0; 1 << 16];
    let mut left = length;
    while left > 0 {
        let count = left.min(expected.len());
        noise.fill(&mut expected[..count]);
        stream.read_exact(&mut found[..count]).with_context(|| format!("receiving, {left} bytes left"))?;
        ensure!(expected[..count] == found[..count], "wrong bytes in the last {left} of {length}");
        left -= count;
    }
    Ok(())
}

/// A transfer over one TCP connection that goes on until it is told to end, every byte checked on arrival.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<Result<u64>>>,
    receiver: Option<JoinHandle<Result>>,
}

impl Stream {
    /// From `client` to `address` in `server`, 2 MB a second at most, so that there is always something on the way.
    ///
    /// # Errors
    /// When the connection is not made.
    pub fn start(client: &Namespace, server: &Namespace, address: IpAddr) -> Result<Self> {
        let listener = server.enter(|| TcpListener::bind((address, 0)).context("binding the server"))?;
        let here = connect(client, listener.local_addr()?, STUCK)?;
        let (there, _) = listener.accept()?;
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let ended = Arc::clone(&stop);
        let sender = thread::spawn(move || send_until(here, &ended));
        let count = Arc::clone(&received);
        let receiver = thread::spawn(move || check_until_end(there, &count));
        Ok(Self { stop, received, sender: Some(sender), receiver: Some(receiver) })
    }

    /// Waits until `more` bytes have arrived from now on. Says how long that took.
    ///
    /// # Errors
    /// When they do not arrive within `limit`, or a byte was wrong.
    pub fn advance(&mut self, more: u64, limit: Duration) -> Result<Duration> {
        let (start, before) = (crate::wait::now(), self.received.load(Ordering::Relaxed));
        let advanced = wait_for(&format!("{more} more bytes of the transfer"), limit, || {
            ensure!(!self.has_ended(), "the transfer ended");
            Ok((self.received.load(Ordering::Relaxed) >= before + more).then_some(()))
        });
        if self.has_ended() {
            self.join()?;
        }
        advanced?;
        Ok(crate::wait::now() - start)
    }

    fn has_ended(&self) -> bool {
        self.receiver.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it. Says how many bytes were sent: all of them have arrived, in order and as they were sent.
    ///
    /// # Errors
    /// When one is wrong or missing.
    pub fn finish(mut self) -> Result<u64> {
        let sent = self.join()?;
        let received = self.received.load(Ordering::Relaxed);
        ensure!(sent == received, "{sent} bytes were sent, and {received} arrived");
        Ok(sent)
    }

    /// Ends both sides. Says how many bytes were sent, or the errors of both.
    fn join(&mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let (Some(sender), Some(receiver)) = (self.sender.take(), self.receiver.take()) else {
            return Err(anyhow!("the transfer has ended already"));
        };
        let receiver = receiver.join().unwrap_or_else(|_| Err(anyhow!("the receiver panicked")));
        let sender = sender.join().unwrap_or_else(|_| Err(anyhow!("the sender panicked")));
        match (sender, receiver) {
            (Ok(sent), Ok(())) => Ok(sent),
            (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
            (Err(sender), Err(receiver)) => Err(receiver.context(format!("{sender:#}"))),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The chunk that a [`Stream`] sends fifty times a second.
const CHUNK: usize = 40_000;

fn send_until(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    let (mut noise, mut buffer, mut sent) = (Noise::new(1), vec![0; CHUNK], 0);
    while !stop.load(Ordering::Relaxed) {
        noise.fill(&mut buffer);
        stream.write_all(&buffer).with_context(|| format!("sending, {sent} bytes sent"))?;
        sent += CHUNK as u64;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(sent)
}

fn check_until_end(mut stream: TcpStream, received: &AtomicU64) -> Result {
    stream.set_read_timeout(Some(STUCK))?;
    let (mut noise, mut expected, mut found) = (Noise::new(1), vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let mut filled = 0;
        while filled < CHUNK {
            match stream.read(&mut found[filled..]).context("receiving")? {
                0 if filled == 0 => return Ok(()),
                0 => return Err(anyhow!("the last chunk has {filled} bytes")),
                count => filled += count,
            }
        }
        noise.fill(&mut expected);
        let before = received.fetch_add(CHUNK as u64, Ordering::Relaxed);
        ensure!(found == expected, "wrong bytes after {before}");
    }
}

/// How long beats are watched in [`silence_after`].
const WATCHED: Duration = Duration::from_secs(5);

/// The longest silence between datagrams that arrive at `address` in `to`, of one each 10 ms from `from`, from the beginning
/// of `event` until five seconds after its end.
///
/// # Errors
/// When `event` fails, or nothing arrives before it, or again within `limit`.
pub fn silence_after(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    limit: Duration,
    event: impl FnOnce() -> Result,
) -> Result<Duration> {
    let target = to.enter(|| UdpSocket::bind((address, 0)).with_context(|| format!("binding {address}")))?;
    target.set_read_timeout(Some(Duration::from_millis(10)))?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let source = from.enter(|| Ok(UdpSocket::bind((any, 0))?))?;
    let destination = target.local_addr()?;
    let stop = AtomicBool::new(false);
    let (beats, longest, start) = (AtomicU64::new(0), AtomicU64::new(0), crate::wait::now());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // It may be refused while there is no way.
                let _ = source.send_to(b"beat", destination);
                thread::sleep(Duration::from_millis(10));
            }
        });
        scope.spawn(|| {
            let mut last = crate::wait::now();
            while !stop.load(Ordering::Relaxed) {
                if target.recv_from(&mut [0; 16]).is_ok() {
                    let silence = crate::wait::now() - last;
                    last += silence;
                    longest.fetch_max(silence.as_nanos() as u64, Ordering::Relaxed);
                    beats.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let more = |what: &str| {
            let enough = beats.load(Ordering::Relaxed) + 50;
            wait_for(what, limit, || Ok((beats.load(Ordering::Relaxed) >= enough).then_some(())))
        };
        let outcome: Result<Duration> = (|| {
            more("beats before the event")?;
            longest.store(0, Ordering::Relaxed);
            event()?;
            let end = crate::wait::now() + WATCHED;
            wait_for("the end of the watch", limit, || Ok((crate::wait::now() >= end).then_some(())))?;
            more("beats after the event")?;
            Ok(Duration::from_nanos(longest.load(Ordering::Relaxed)))
        })();
        stop.store(true, Ordering::Relaxed);
        outcome.with_context(|| format!("{:?} after the first beat", crate::wait::now() - start))
    })
}

/// Sends datagrams of each of `lengths` from `client` to `address` in `server`, one after the other,
/// each echoed and compared. A lost datagram is sent again.
///
/// # Errors
/// When one is wrong, or does not come back after several tries.
pub fn udp(client: &Namespace, server: &Namespace, address: IpAddr, lengths: &[usize]) -> Result {
    let there = server.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let here = client.enter(|| Ok(UdpSocket::bind((any, 0))?))?;
    here.connect(there.local_addr()?)?;
    for socket in [&here, &there] {
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    }
    for &length in lengths {
        let mut payload = vec![0; length];
        Noise::new(length as u64).fill(&mut payload);
        wait_for(&format!("an echo of {length} bytes"), STUCK, || {
            here.send(&payload)?;
            Ok(exchange(&here, &there, length).ok().filter(|echo| *echo == payload).map(drop))
        })?;
    }
    Ok(())
}

fn exchange(here: &UdpSocket, there: &UdpSocket, length: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0; length + 1];
    let (count, from) = there.recv_from(&mut buffer)?;
    there.send_to(&buffer[..count], from)?;
    let count = here.recv(&mut buffer)?;
    buffer.truncate(count);
    Ok(buffer)
}

/// A TCP connection with both of its ends in our hands.
#[derive(Debug)]
pub struct Conversation {
    here: TcpStream,
    there: TcpStream,
    /// Keeps the server's address bound for as long as the conversation lasts.
    _listener: TcpListener,
    words: u64,
}

impl Conversation {
    /// Connects from `client` to a listener of our own at `address` in `server`.
    ///
    /// # Errors
    /// When the connection is not made.
    pub fn open(client: &Namespace, server: &Namespace, address: IpAddr) -> Result<Self> {
        let listener = server.enter(|| TcpListener::bind((address, 0)).context("binding the server"))?;
        let here = connect(client, listener.local_addr()?, STUCK)?;
        let (there, _) = listener.accept()?;
        here.set_nodelay(true)?;
        there.set_nodelay(true)?;
        Ok(Self { here, there, _listener: listener, words: 0 })
    }

    /// A word in both directions, different each time.
    ///
    /// # Errors
    /// When the connection broke, or a word did not arrive whole within `limit`.
    pub fn speak(&mut self, limit: Duration) -> Result {
        for direction in [0, 1] {
            self.words += 1;
            let word = (self.words << 1 | direction).to_be_bytes();
            let (from, to) = match direction {
                0 => (&mut self.here, &mut self.there),
                _ => (&mut self.there, &mut self.here),
            };
            from.write_all(&word).context("speaking")?;
            to.set_read_timeout(Some(limit))?;
            let mut heard = [0; 8];
            to.read_exact(&mut heard).with_context(|| format!("hearing, within {limit:?}"))?;
            ensure!(heard == word, "heard {heard:?}, not {word:?}");
        }
        Ok(())
    }
}

/// Whether a UDP datagram from `from` arrives at `address` in `to` within `limit`; sends again every
/// 20 ms. Says how long it took.
///
/// # Errors
/// When none arrives.
pub fn reach(from: &Namespace, to: &Namespace, address: IpAddr, limit: Duration) -> Result<Duration> {
    let target = to.enter(|| UdpSocket::bind((address, 0)).with_context(|| format!("binding {address}")))?;
    target.set_read_timeout(Some(Duration::from_millis(20)))?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let source = from.enter(|| Ok(UdpSocket::bind((any, 0))?))?;
    let destination = target.local_addr()?;
    let start = crate::wait::now();
    wait_for(&format!("a datagram at {address}"), limit, || {
        // It may be refused while the way is not open yet.
        let _ = source.send_to(b"reach", destination);
        Ok(target.recv_from(&mut [0; 16]).is_ok().then_some(()))
    })?;
    Ok(crate::wait::now() - start)
}
