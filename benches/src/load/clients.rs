//! Many WireGuard peers behind one socket: they shake hands and send, and keep nothing that they are
//! sent.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tombolo_noise::aead::AeadKey;
use tombolo_noise::clock::{Instant, UnixTime};
use tombolo_noise::cookie::CookieJar;
use tombolo_noise::handshake::{Initiator, create_initiation};
use tombolo_noise::keys::{PresharedKey, PrivateKey, PublicKey, RemoteStatic, StaticIdentity};
use tombolo_noise::tai64n::Tai64n;
use tombolo_packet::checksum::Sum;
use tombolo_packet::message::write_transport_header;
use tombolo_packet::message::{INITIATION_LEN, RESPONSE_LEN, Response, TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_tests::namespace::Namespace;
use tombolo_udp::{BindOptions, Family, RECEIVE_SLOT, Received, SendOutcome, Socket, Transmit, UdpSocket};

use super::pace::{Sent, paced};
use crate::Result;

/// Handshakes under way at a time: few enough that the far end does not think itself under load.
const AT_ONCE: usize = 32;
const RESPONSE_LIMIT: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 20;
/// Bytes of the packets inside the tunnel.
const PACKET: usize = 64;
/// The port inside the tunnel to which they send.
pub const DISCARD: u16 = 9;
const RECEIVE_SLOTS: usize = 16;

/// Peers of one WireGuard interface.
pub struct Clients {
    socket: UdpSocket,
    remote: SocketAddr,
    destination: Ipv4Addr,
    clients: Vec<Client>,
    random: ChaCha20Rng,
    outcome: SendOutcome,
    next: usize,
}

struct Client {
    identity: StaticIdentity,
    remote: RemoteStatic,
    address: Ipv4Addr,
    timestamp: Tai64n,
    session: Option<Session>,
}

struct Session {
    key: AeadKey,
    remote_index: u32,
    counter: u64,
}

/// The address of a client inside the tunnel.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from((10 << 24 | 78 << 16) + number as u32)
}

/// Peers that never say anything, in the format of `wg addconf`; numbers from `first`.
pub fn silent_peers(first: usize, count: usize) -> String {
    let mut text = String::new();
    for number in first..first + count {
        let mut key = [0; 32];
        tombolo_tests::transfer::Noise::new(number as u64).fill(&mut key);
        write_peer(&mut text, &PublicKey::from_bytes(key), address(number));
    }
    text
}

fn write_peer(text: &mut String, key: &PublicKey, address: Ipv4Addr) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "[Peer]\nPublicKey = {key}\nAllowedIPs = {address}/32");
}

impl Clients {
    /// So many peers in a namespace, of the interface with this public key at `remote`. What they send goes to
    /// `destination` inside the tunnel.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn new(
        namespace: &Namespace,
        remote: SocketAddr,
        server: &str,
        destination: Ipv4Addr,
        count: usize,
    ) -> Result<Self> {
        let mut random = ChaCha20Rng::seed_from_u64(count as u64);
        let server: PublicKey = server.parse().map_err(|_| anyhow!("no public key: {server}"))?;
        let now = unix_time()?;
        let clients = (0..count).map(|number| {
            let identity = StaticIdentity::new(PrivateKey::generate(&mut random));
            let remote = RemoteStatic::new(&identity, server);
            let timestamp = Tai64n::from_unix(now);
            Client { identity, remote, address: address(number), timestamp, session: None }
        });
        let clients = clients.collect();
        let options =
            BindOptions { gso: false, gro: false, receive_buffer: 32 << 20, ..BindOptions::default() };
        let socket = namespace.enter(|| Ok(UdpSocket::bind(Family::V4, 0, &options)?))?;
        Ok(Self { socket, remote, destination, clients, random, outcome: SendOutcome::default(), next: 0 })
    }

    /// Them as peers, in the format of `wg addconf`.
    pub fn config(&self) -> String {
        let mut text = String::new();
        for client in &self.clients {
            write_peer(&mut text, client.identity.public_key(), client.address);
        }
        text
    }

    /// Shakes hands for every client, and sends the first packet of each.
    ///
    /// # Errors
    /// When a client gets no answer.
    pub fn connect(&mut self) -> Result {
        for first in (0..self.clients.len()).step_by(AT_ONCE) {
            let group = first..(first + AT_ONCE).min(self.clients.len());
            for attempt in 0.. {
                let missing: Vec<usize> =
                    group.clone().filter(|&index| self.clients[index].session.is_none()).collect();
                if missing.is_empty() {
                    break;
                }
                anyhow::ensure!(attempt < ATTEMPTS, "{} clients get no answer", missing.len());
                self.shake_hands(&missing)?;
            }
        }
        for index in 0..self.clients.len() {
            self.send_packet(index);
        }
        Ok(())
    }

    fn shake_hands(&mut self, indices: &[usize]) -> Result {
        let mut pending: Vec<(usize, Initiator)> = Vec::new();
        for &index in indices {
            let (initiator, message) = self.initiation(index)?;
            self.socket.send(&[Transmit::new(self.remote, &message)], &mut self.outcome);
            pending.push((index, initiator));
        }
        let (mut arena, mut reads): (_, Vec<Received>) = (vec![0; RECEIVE_SLOTS * RECEIVE_SLOT], Vec::new());
        while !pending.is_empty() && self.wait(RESPONSE_LIMIT)? {
            self.socket.receive(&mut arena, &mut reads)?;
            for datagram in reads.iter().flat_map(|read| read.segments(&arena)) {
                let Ok(response) = Response::parse(datagram) else { continue };
                let wanted = response.receiver_index();
                let Some(place) = pending.iter().position(|(index, _)| *index as u32 == wanted) else {
                    continue;
                };
                let (index, initiator) = pending.swap_remove(place);
                let client = &mut self.clients[index];
                let secrets = initiator
                    .consume_response(&response, &client.identity, &PresharedKey::default())
                    .map_err(|(_, reason)| anyhow!("a response was not genuine: {reason:?}"))?;
                client.session = Some(Session {
                    key: AeadKey::new(&secrets.sending),
                    remote_index: secrets.remote_index,
                    counter: 0,
                });
            }
        }
        Ok(())
    }

    fn wait(&self, limit: Duration) -> Result<bool> {
        let mut descriptors = [PollFd::from_borrowed_fd(self.socket.fd(), PollFlags::IN)];
        Ok(poll(&mut descriptors, Some(&Timespec::try_from(limit)?))? > 0)
    }

    /// A genuine initiation, later than all that this client made before.
    fn initiation(&mut self, index: usize) -> Result<(Initiator, [u8; INITIATION_LEN])> {
        let client = &mut self.clients[index];
        client.timestamp = client.timestamp.next_after();
        let (identity, remote) = (&client.identity, &client.remote);
        let (initiator, mut message) =
            create_initiation(identity, remote, client.timestamp, index as u32, &mut self.random)
                .context("a key of low order")?;
        CookieJar::new().write_macs(&mut message, remote, Instant::from_nanos(1));
        Ok((initiator, message))
    }

    /// So many genuine initiations, of each client in turn, one behind the other.
    ///
    /// # Errors
    /// When the far end's key is none.
    pub fn initiations(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut messages = Vec::with_capacity(count * INITIATION_LEN);
        for number in 0..count {
            messages.extend(self.initiation(number % self.clients.len())?.1);
        }
        Ok(messages)
    }

    /// Sends packets of the clients in turn, so many a second together, for so long.
    pub fn chatter(&mut self, rate: f64, duration: Duration) -> Sent {
        paced(Some(rate), 64, duration, &AtomicBool::new(false), |burst| {
            for _ in 0..burst {
                self.next = (self.next + 1) % self.clients.len();
                self.send_packet(self.next);
            }
            burst as u64
        })
    }

    /// One UDP datagram inside the tunnel, if there is a session.
    fn send_packet(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(session) = &mut client.session else { return };
        let mut message = [0; TRANSPORT_HEADER_LEN + PACKET + TAG_LEN];
        let (header, rest) = message.split_at_mut(TRANSPORT_HEADER_LEN);
        let (packet, tag) = rest.split_at_mut(PACKET);
        let (Ok(header), Ok(tag)) = (header.try_into(), tag.try_into()) else { return };
        write_transport_header(header, session.remote_index, session.counter);
        packet.copy_from_slice(&datagram(client.address, self.destination));
        session.key.seal_in_place(session.counter, packet, tag);
        session.counter += 1;
        self.socket.send(&[Transmit::new(self.remote, &message)], &mut self.outcome);
    }

    /// The socket they share.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Takes what has arrived, and counts the handshake responses in it.
    pub fn count_responses(&self) -> usize {
        let (mut arena, mut reads): (_, Vec<Received>) = (vec![0; RECEIVE_SLOTS * RECEIVE_SLOT], Vec::new());
        let mut count = 0;
        while self.socket.receive(&mut arena, &mut reads).unwrap_or(0) > 0 {
            count += reads.iter().filter(|read| read.len == RESPONSE_LEN).count();
        }
        count
    }
}

/// Sends messages of one length to `target` at so many a second, from the first one again after the last.
pub fn send_at(
    socket: &UdpSocket,
    target: SocketAddr,
    messages: &[u8],
    len: u16,
    rate: f64,
    duration: Duration,
) -> Sent {
    let stride = usize::from(len);
    let mut outcome = SendOutcome::default();
    let mut next = 0;
    paced(Some(rate), 256, duration, &AtomicBool::new(false), |burst| {
        let end = messages.len().min(next + burst * stride);
        let contents = &messages[next..end];
        let segment_size = NonZeroU16::new(len);
        socket.send(&[Transmit { segment_size, ..Transmit::new(target, contents) }], &mut outcome);
        next = if end == messages.len() { 0 } else { end };
        // Refusals of a closed port come out of the socket as errors: what was tried counts.
        (contents.len() / stride) as u64
    })
}

/// A UDP datagram to the discard port, without a UDP checksum.
fn datagram(source: Ipv4Addr, destination: Ipv4Addr) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    let sum = Sum::of(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&4000_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&DISCARD.to_be_bytes());
    packet[24..26].copy_from_slice(&((PACKET - 20) as u16).to_be_bytes());
    packet
}

#[expect(clippy::disallowed_methods, reason = "measuring is a shell and reads the clock")]
fn unix_time() -> Result<UnixTime> {
    Ok(UnixTime(SystemTime::now().duration_since(UNIX_EPOCH)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_packet::ip::IpPacket;

    #[test]
    fn the_packets_are_whole_and_come_from_the_clients_address() {
        let packet = datagram(address(300), Ipv4Addr::new(10, 77, 0, 2));
        let parsed = IpPacket::parse(&packet).unwrap();
        assert_eq!(parsed.source(), Ipv4Addr::new(10, 78, 1, 44));
        assert_eq!(parsed.total_len(), PACKET);
        assert_eq!(Sum::of(&packet[..20]).checksum(), 0);
    }

    #[test]
    fn silent_peers_have_keys_and_addresses_of_their_own() {
        let text = silent_peers(5, 3);
        let keys: std::collections::BTreeSet<&str> =
            text.lines().filter(|line| line.starts_with("PublicKey")).collect();
        assert_eq!(keys.len(), 3);
        assert!(text.contains("AllowedIPs = 10.78.0.5/32") && text.contains("10.78.0.7/32"));
    }
}
