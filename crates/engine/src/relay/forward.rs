//! A relay's data path: from the tunnel with one member into that with another.

use std::sync::{Arc, PoisonError};

use tombolo_noise::Keypair;
use tombolo_noise::clock::Instant;
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::relay::{Direction, Relayed, stamp_source};
use tombolo_packet::{DropReason, Endpoint};

use super::drop_reason;
use super::table::{Pair, RelayTable};
use crate::options::Sockets;
use crate::send_batch::SendBatch;
use crate::shared::{Peer, Shared, Snapshot};

/// Seals what is relayed, for one thread.
#[derive(Default)]
pub(crate) struct Forwarder {
    /// Made for the first datagram: few machines are relays.
    batch: Option<SendBatch>,
}

/// A pair with the way to its destination.
struct Way<'a> {
    node: [u8; 16],
    pair: Arc<Pair>,
    peer: &'a Peer,
    keypair: Arc<Keypair>,
    endpoint: Endpoint,
    messages: u64,
    bytes: u64,
}

impl<'a> Way<'a> {
    fn find(
        table: &RelayTable,
        source: &Peer,
        node: &[u8; 16],
        snapshot: &'a Snapshot,
        shared: &Shared,
        now: Instant,
    ) -> Result<Self, DropReason> {
        let key = source.link.public_key();
        let pair = table.pair(key, node);
        let found = pair.and_then(|pair| {
            let peer = snapshot.peer(pair.destination)?;
            (*peer.link.public_key() == pair.destination_key).then_some((pair, peer))
        });
        let Some((pair, peer)) = found else {
            if shared.relays.want(key, node, now) {
                shared.wake_control();
            }
            return Err(DropReason::RelayRefused);
        };
        let endpoint = peer.link.endpoint().ok_or(DropReason::RelayUnreachable)?;
        if endpoint.is_relayed() {
            return Err(DropReason::RelayNested);
        }
        let Some(keypair) = peer.link.sending_keypair(now) else {
            if let Some(event) = peer.link.want_handshake() {
                shared.raise(event);
            }
            return Err(DropReason::RelayUnreachable);
        };
        Ok(Self { node: *node, pair: Arc::clone(pair), peer, keypair, endpoint, messages: 0, bytes: 0 })
    }

    fn finish(self, shared: &Shared, now: Instant) {
        if let Some(event) = self.peer.link.note_sent(&self.keypair, now, self.messages, self.bytes, true) {
            shared.raise(event);
        }
    }
}

impl Forwarder {
    /// Brings on the relayed datagrams among `messages`, each with the outer ECN field that it came with, of one authorised
    /// session with `source`. What is not brought on is counted. They leave with [`Forwarder::flush`] at the latest.
    pub(crate) fn forward<'m>(
        &mut self,
        source: &Peer,
        messages: impl Iterator<Item = (&'m [u8], u8)>,
        snapshot: &Snapshot,
        sockets: &Sockets,
        shared: &Shared,
        now: Instant,
    ) {
        let table = shared.relays.table.load();
        let mut way: Option<Way<'_>> = None;
        for (message, ecn) in messages {
            let Some(table) = table.as_deref() else {
                shared.drops.count(DropReason::RelayRefused);
                continue;
            };
            let forwarded = Relayed::parse(message).map_err(drop_reason).and_then(|relayed| {
                // Only a relay says where datagrams come from, and relays do not bring to relays.
                if relayed.direction != Direction::ToRelay {
                    return Err(DropReason::RelayRefused);
                }
                if source.link.endpoint().is_some_and(|endpoint| endpoint.is_relayed()) {
                    return Err(DropReason::RelayNested);
                }
                if way.as_ref().is_none_or(|way| way.node != relayed.node) {
                    if let Some(way) = way.take() {
                        way.finish(shared, now);
                    }
                    way = Some(Way::find(table, source, &relayed.node, snapshot, shared, now)?);
                }
                let way = way.as_mut().ok_or(DropReason::RelayUnreachable)?;
                let mut limit = way.pair.limit.lock().unwrap_or_else(PoisonError::into_inner);
                limit.admit(table.rates, &relayed, now.as_nanos()).map_err(drop_reason)?;
                drop(limit);
                self.seal(way, message, ecn, sockets, shared)
            });
            if let Err(reason) = forwarded {
                shared.drops.count(reason);
            }
        }
        if let Some(way) = way {
            way.finish(shared, now);
        }
    }

    /// The message stays as long as it is: the header is stamped, and the whole sealed for the other tunnel.
    fn seal(
        &mut self,
        way: &mut Way<'_>,
        message: &[u8],
        ecn: u8,
        sockets: &Sockets,
        shared: &Shared,
    ) -> Result<(), DropReason> {
        let batch = self.batch.get_or_insert_with(SendBatch::new);
        let len = TRANSPORT_HEADER_LEN + message.len() + TAG_LEN;
        way.peer.link.destination(len as u64)?;
        if batch.room(len).is_none() {
            batch.flush(sockets, shared);
        }
        let room = batch.room(len).ok_or(DropReason::PacketTooBig)?;
        let plaintext = &mut room[TRANSPORT_HEADER_LEN..len - TAG_LEN];
        plaintext.copy_from_slice(message);
        stamp_source(plaintext, &way.pair.source).map_err(drop_reason)?;
        let counter = way.keypair.reserve(1)?;
        way.keypair.seal(counter, room);
        batch.commit(Some(&way.peer.link), way.endpoint, ecn, len);
        way.messages += 1;
        way.bytes += len as u64;
        Ok(())
    }

    /// Hands what is sealed to the sockets.
    pub(crate) fn flush(&mut self, sockets: &Sockets, shared: &Shared) {
        if let Some(batch) = &mut self.batch {
            batch.flush(sockets, shared);
        }
    }
}
