//! What the protocol state wants done, and how this thread's own messages leave: sealed one behind the other, with one
//! system call for all that has gathered.

use std::sync::Arc;

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;
use tombolo_noise::{Link, Output};
use tombolo_packet::message::INITIATION_LEN;
use tombolo_packet::{DropReason, Endpoint, PeerId};

use super::Control;
use crate::options::{EngineEvent, SocketBinder};
use crate::sender::Sender;

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    pub(super) fn output(&mut self, output: Output, now: Now) {
        match output {
            Output::Datagram { peer, destination, contents, traffic_class } => {
                let record = peer.and_then(|peer| self.peers.get_mut(&peer));
                let link = record.map(|record| {
                    if contents.len() == INITIATION_LEN {
                        record.initiation_sent = Some(now.boot);
                    }
                    Arc::clone(&record.peer.link)
                });
                self.send_datagram(link.as_ref(), destination, &contents, traffic_class);
            }
            Output::Keepalive { peer } => {
                if let Some(peer) = self.peers.get(&peer).map(|record| Arc::clone(&record.peer)) {
                    self.seal_for(now, |sender| {
                        if sender.flush_staged(&peer) == 0 {
                            sender.send_keepalive(&peer);
                        }
                    });
                }
            }
            Output::FlushStaged { peer: id } => {
                if let Some(peer) = self.peers.get(&id).map(|record| Arc::clone(&record.peer)) {
                    self.seal_for(now, |sender| sender.flush_staged(&peer));
                    self.deliver_held(id, now);
                }
            }
            Output::SessionReady { peer, initiator } => self.session_ready(peer, initiator, now),
            Output::DropStaged { peer } => {
                if let Some(record) = self.peers.get(&peer) {
                    let dropped = record.peer.staging.clear(&self.shared.staging_budget);
                    self.shared.drops.add(DropReason::HandshakeAbandoned, dropped as u64);
                }
            }
            Output::ResolveEndpoint { peer } => {
                if let Some(record) = self.peers.get(&peer) {
                    self.news.push(EngineEvent::ResolveEndpoint(*record.peer.link.public_key()));
                }
            }
            Output::TimestampAdvanced { peer } => self.peer_changed(peer),
            Output::EndpointMoved { peer } => {
                self.peer_changed(peer);
                self.report_move(peer);
            }
            Output::PeerAppeared { peer } => self.add_record(peer),
            Output::PeerGone { peer, public_key } => {
                // The slot may have another peer already.
                if self.peers.get(&peer).is_some_and(|record| *record.peer.link.public_key() == public_key) {
                    self.forget_peer(peer);
                    self.news.push(EngineEvent::PeerGone(public_key));
                }
            }
            Output::KeyInTwoPlaces { peer, other } => self.report_two_places(peer, other),
        }
    }

    fn peer_changed(&mut self, peer: PeerId) {
        if let Some(record) = self.peers.get(&peer) {
            self.news.push(EngineEvent::PeerChanged(*record.peer.link.public_key()));
        }
    }

    /// New keys: what waited goes out. The initiator must send something at once, since the
    /// responder may not use the keys before (§5.4.3).
    fn session_ready(&mut self, id: PeerId, initiator: bool, now: Now) {
        let Some(record) = self.peers.get_mut(&id) else { return };
        if initiator {
            record.round_trip = record
                .initiation_sent
                .take()
                .map(|sent| now.boot.saturating_duration_since(sent))
                .or(record.round_trip);
        }
        let peer = Arc::clone(&record.peer);
        self.seal_for(now, |sender| {
            if sender.flush_staged(&peer) == 0 && initiator {
                sender.send_keepalive(&peer);
            }
        });
        self.news.push(EngineEvent::SessionEstablished(*peer.link.public_key()));
        self.report_session(id, now);
        self.go_on_with_path(id, now);
    }

    /// Lends what seals for peers.
    pub(super) fn seal_for<T>(&mut self, now: Now, seal: impl FnOnce(&mut Sender<'_>) -> T) -> T {
        // It sends what was gathered before, too.
        self.show_workers();
        let sockets = self.shared.sockets.load();
        seal(&mut Sender {
            shared: &self.shared,
            sockets: &sockets,
            batch: &mut self.batch,
            line: None,
            now: now.boot,
        })
    }

    /// Sends a message that is whole, together with those that follow. `link` is its peer's, if it is for one.
    fn send_datagram(
        &mut self,
        link: Option<&Arc<Link>>,
        destination: Endpoint,
        contents: &[u8],
        traffic_class: u8,
    ) {
        let written = self.gather(link, destination, traffic_class, contents.len(), |message| {
            message.copy_from_slice(contents);
        });
        if let Err(reason) = written {
            self.shared.drops.count(reason);
        }
    }

    /// Makes room for a message of `len` bytes behind those that leave next, and lets `write` fill it.
    ///
    /// # Errors
    /// Why it is not sent.
    pub(super) fn gather(
        &mut self,
        link: Option<&Arc<Link>>,
        destination: Endpoint,
        traffic_class: u8,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), DropReason> {
        if destination.is_relayed() {
            let mut message = vec![0; len];
            write(&mut message);
            return self.send_by_relay(&destination, &message, traffic_class);
        }
        if self.batch.room(len).is_none() {
            self.flush();
            self.batch.grow(len);
        }
        let room = self.batch.room(len).ok_or(DropReason::PacketTooBig)?;
        write(room);
        self.batch.commit(link, destination, traffic_class, len);
        Ok(())
    }

    /// Sends what was gathered.
    pub(super) fn flush(&mut self) {
        // Whoever gets an answer to a first handshake speaks at once: workers must know it by then.
        self.show_workers();
        self.batch.flush(&self.shared.sockets.load(), &self.shared);
    }
}
