//! Machines that nobody knows, with genuine handshakes of another implementation.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64ct::{Base64, Encoding as _};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use tombolo_tests::Result;
use tombolo_tests::namespace::Namespace;
use tombolo_tests::transfer::Noise;
use tombolo_tests::wait::{now, wait_for};

/// What answers an initiation, by its type and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Response,
    Cookie,
}

/// A key that is no member's, somewhere.
pub(crate) struct Stranger {
    tunnel: Tunn,
    pub(crate) socket: Arc<UdpSocket>,
}

impl Stranger {
    /// With a key of its own, from a socket that may be others' too.
    pub(crate) fn new(server: &[u8; 32], socket: Arc<UdpSocket>, number: u32) -> Self {
        let mut secret = [0; 32];
        Noise::new(u64::from(number) + 1).fill(&mut secret);
        let server = PublicKey::from(*server);
        let tunnel = Tunn::new(StaticSecret::from(secret), server, None, None, number, None);
        Self { tunnel, socket }
    }

    /// A new initiation; with a cookie where one has come.
    pub(crate) fn initiation(&mut self) -> Result<Vec<u8>> {
        let mut buffer = [0; 256];
        match self.tunnel.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(message) => Ok(message.to_vec()),
            other => bail!("no initiation: {other:?}"),
        }
    }

    /// Sends initiations until something answers that is for this key, and takes it.
    pub(crate) fn knock(&mut self, limit: Duration) -> Result<Answer> {
        self.socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        wait_for("an answer to an initiation", limit, || {
            let initiation = self.initiation()?;
            self.socket.send(&initiation)?;
            let mut received = [0; 2048];
            let Ok(length) = self.socket.recv(&mut received) else { return Ok(None) };
            let answer = match (received[0], length) {
                (2, 92) => Answer::Response,
                (3, 64) => Answer::Cookie,
                (kind, length) => bail!("a message of type {kind} and {length} bytes"),
            };
            // A late one is another key's, or to an initiation from before.
            let mut buffer = [0; 256];
            let taken = self.tunnel.decapsulate(None, &received[..length], &mut buffer);
            Ok((!matches!(taken, TunnResult::Err(_))).then_some(answer))
        })
    }
}

/// The public key of base64 text.
pub(crate) fn public_key(text: &str) -> Result<[u8; 32]> {
    let bytes = Base64::decode_vec(text).map_err(|error| anyhow!("{error}"))?;
    bytes.try_into().ok().context("32 bytes")
}

/// A socket at an address of a namespace, which talks to one other.
pub(crate) fn socket_at(
    namespace: &Namespace,
    address: IpAddr,
    server: SocketAddr,
) -> Result<Arc<UdpSocket>> {
    let socket = namespace.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    socket.connect(server)?;
    Ok(Arc::new(socket))
}

/// Initiations, each with the socket that it is sent by, over and over, so many a second as far as the machine does it.
pub(crate) struct Flood {
    pub(crate) messages: Vec<(Arc<UdpSocket>, Vec<u8>)>,
    pub(crate) a_second: u64,
}

impl Flood {
    /// Runs until it is told to stop.
    pub(crate) fn run(&self, stop: &AtomicBool, sent: &AtomicU64) {
        let start = now();
        let mut messages = self.messages.iter().cycle();
        while !stop.load(Ordering::Relaxed) {
            let owed = u64::try_from((now() - start).as_micros()).unwrap_or(0) * self.a_second / 1_000_000;
            let missing = owed.saturating_sub(sent.load(Ordering::Relaxed)).min(1_000);
            for _ in 0..missing {
                let Some((socket, message)) = messages.next() else { return };
                // Answers are not read: a full buffer loses them.
                let _ = socket.send(message);
                sent.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}
