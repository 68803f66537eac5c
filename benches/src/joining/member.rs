//! One machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand_chacha::ChaCha20Rng;
use rustix::time::{ClockId, clock_gettime};
use tombolo_control::frame::{Frame, JoinAnswer, JoinRefusal, JoinRequest, Keepalive, LookUp, Order, Target};
use tombolo_control::token::Token;
use tombolo_control::{NodeId, NodeName};
use tombolo_noise::clock::{Instant, Now, UnixTime};
use tombolo_noise::{Device, IndexTable, Output, PrivateKey};
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::{Endpoint, PeerId};

use crate::Result;

/// An attempt that has no answer by then begins anew.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Type of a transport message (WireGuard paper, §5.4.6).
const TRANSPORT: u8 = 4;

/// What the authority said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The membership, signed.
    Joined(Vec<u8>),
    /// It is not let in.
    Refused(JoinRefusal),
}

/// Both clocks.
pub(super) fn clock() -> Now {
    let read = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    };
    let boot = u64::try_from(read(ClockId::Boottime).as_nanos()).unwrap_or(u64::MAX);
    Now { boot: Instant::from_nanos(boot), wall: UnixTime(read(ClockId::Realtime)) }
}

/// A machine with a key, a token, and a socket of its own.
pub(super) struct Member {
    key: [u8; 32],
    token: Token,
    name: Option<NodeName>,
    source: Ipv4Addr,
    link: Option<Link>,
    answer: Option<Answer>,
    /// Look-ups that have no answer yet, and since when.
    open: (u32, Instant),
    order: u64,
    pub(super) found: u64,
}

struct Link {
    device: Device,
    peer: PeerId,
    table: Arc<IndexTable>,
    socket: UdpSocket,
    remote: SocketAddr,
    began: Instant,
}

impl Member {
    pub(super) fn new(key: [u8; 32], token: Token, name: Option<NodeName>, source: Ipv4Addr) -> Self {
        let open = (0, Instant::default());
        Self { key, token, name, source, link: None, answer: None, open, order: 0, found: 0 }
    }

    pub(super) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    pub(super) fn socket(&self) -> Option<&UdpSocket> {
        self.link.as_ref().map(|link| &link.socket)
    }

    /// Lets go of the session, which the server keeps for its while.
    pub(super) fn close(&mut self) {
        self.link = None;
    }

    pub(super) fn forget_answer(&mut self) {
        self.answer = None;
    }

    /// Begins to join, or begins again where there was no answer for long.
    pub(super) fn tend(&mut self, random: &mut ChaCha20Rng) -> Result {
        let now = clock();
        let waits = |link: &Link| now.boot.saturating_duration_since(link.began) < PATIENCE;
        if self.answer.is_some() || self.link.as_ref().is_some_and(waits) {
            return Ok(());
        }
        let socket = UdpSocket::bind((self.source, 0)).context("a socket of a joiner")?;
        socket.set_nonblocking(true)?;
        let remote = self.token.endpoints()[0].address().context("a token with a literal address")?;
        let mut device = Device::new();
        device.set_private_key(Some(PrivateKey::from_bytes(self.key)), now, random);
        let peer = device.add_unverified_peer(*self.token.server_key())?;
        device.set_endpoint(peer, Some(Endpoint::new(remote)), now, random);
        device.initiate(peer, now, random);
        let table = device.index_table();
        self.link = Some(Link { device, peer, table, socket, remote, began: now.boot });
        self.flush();
        Ok(())
    }

    fn flush(&mut self) {
        let Some(link) = &mut self.link else { return };
        let mut ready = false;
        while let Some(output) = link.device.poll_output() {
            match output {
                // What is lost comes again.
                Output::Datagram { contents, .. } => drop(link.socket.send_to(&contents, link.remote)),
                Output::SessionReady { .. } => ready = true,
                _ => {}
            }
        }
        if ready {
            self.ask();
        }
    }

    fn ask(&mut self) {
        let Some(link) = &self.link else { return };
        let keypair = link.device.link(link.peer).and_then(|link| link.session_keypair(clock().boot));
        let Some(keypair) = keypair else { return };
        let own = PrivateKey::from_bytes(self.key).public();
        let proof = self.token.prove(keypair.handshake_hash(), &own);
        let request = JoinRequest { token: self.token.public_key(), proof, name: self.name.clone() };
        self.send(&Frame::JoinRequest(request));
    }

    fn send(&self, frame: &Frame) {
        let Some(link) = &self.link else { return };
        let keypair = link.device.link(link.peer).and_then(|link| link.session_keypair(clock().boot));
        let (Some(keypair), Ok(bytes)) = (keypair, frame.to_bytes()) else { return };
        let Ok(counter) = keypair.reserve(1) else { return };
        let padded = bytes.len().next_multiple_of(16);
        let mut message = vec![0; TRANSPORT_HEADER_LEN + padded + TAG_LEN];
        message[TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + bytes.len()].copy_from_slice(&bytes);
        keypair.seal(counter, &mut message);
        // What is lost comes again.
        let _ = link.socket.send_to(&message, link.remote);
    }

    /// Says where it is, so that others can be told.
    pub(super) fn announce(&mut self) {
        self.order += 1;
        let order = Order { epoch: clock().wall.0.as_secs(), sequence: self.order };
        let (candidates, relays) = (Vec::new(), Vec::new());
        self.send(&Frame::Keepalive(Keepalive { order, candidates, relays }));
    }

    /// Keeps so many look-ups open.
    pub(super) fn look_up(&mut self, at_once: u32, mut whom: impl FnMut() -> NodeId) {
        let now = clock().boot;
        if self.open.0 > 0 && now.saturating_duration_since(self.open.1) > Duration::from_millis(300) {
            self.open.0 = 0;
        }
        while self.open.0 < at_once {
            self.order += 1;
            self.open = (self.open.0 + 1, now);
            self.send(&Frame::LookUp(LookUp { id: self.order, target: Target::Node(whom()) }));
        }
    }

    /// Takes what has come. `true`: there was something.
    pub(super) fn receive(&mut self, random: &mut ChaCha20Rng) -> Result<bool> {
        let mut any = false;
        let mut buffer = [0; 2048];
        loop {
            let Some(link) = &mut self.link else { return Ok(any) };
            let length = match link.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                // Nobody listens at the moment.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error).context("receiving"),
            };
            any = true;
            let message = &mut buffer[..length];
            if message.first() == Some(&TRANSPORT) {
                self.take(length, &mut buffer);
            } else {
                let _ =
                    link.device.handle_message(message, Endpoint::new(link.remote), 0, 0, clock(), random);
                self.flush();
            }
        }
    }

    fn take(&mut self, length: usize, buffer: &mut [u8]) {
        let Some(link) = &self.link else { return };
        let message = &mut buffer[..length];
        let Some(index) = message.get(4..8).and_then(|bytes| bytes.try_into().ok()) else { return };
        let Some(entry) = link.table.lookup(u32::from_le_bytes(index)) else { return };
        let Ok((_, plaintext)) = entry.keypair().open(message) else { return };
        match Frame::parse(plaintext) {
            Ok(Frame::JoinAnswer(JoinAnswer { outcome: Ok(membership), .. })) => {
                self.answer = Some(Answer::Joined(membership));
            }
            // To be tried again, as everybody does.
            Ok(Frame::JoinAnswer(JoinAnswer { outcome: Err(JoinRefusal::Busy), .. })) => {}
            Ok(Frame::JoinAnswer(JoinAnswer { outcome: Err(refusal), .. })) => {
                self.answer = Some(Answer::Refused(refusal));
            }
            // As everybody does, or it would be taken for gone.
            Ok(Frame::Challenge(nonce)) => self.send(&Frame::ChallengeAnswer(nonce)),
            Ok(Frame::LookUpAnswer(answer)) => {
                self.open.0 = self.open.0.saturating_sub(1);
                self.found += u64::from(answer.found.is_some());
            }
            _ => {}
        }
    }
}
