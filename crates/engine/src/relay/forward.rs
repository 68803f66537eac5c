//! A relay's data path: from the tunnel with one member into that with another.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use tombolo_noise::Keypair;
use tombolo_noise::clock::Instant;
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::relay::{Direction, Relayed, stamp_source};
use tombolo_packet::{DropReason, Endpoint};

use super::drop_reason;
use super::rounds::Rounds;
use super::table::{Pair, RelayTable};
use crate::options::Sockets;
use crate::send_batch::SendBatch;
use crate::shared::{Peer, Shared, Snapshot};

/// Seals what is relayed, for one thread. What one call has received is gathered first, and then leaves in fair turns of the pairs.
#[derive(Default)]
pub(crate) struct Forwarder {
    /// Made for the first datagram: few machines are relays.
    batch: Option<SendBatch>,
    gathered: Vec<Gathered>,
    /// Each pair once, by its number in `rounds`.
    ways: Vec<Way>,
    rounds: Rounds,
}

/// A datagram that may be brought on.
struct Gathered {
    way: usize,
    /// Where it lies in the arena, with its header.
    range: Range<usize>,
    ecn: u8,
}

/// A pair with the way to its destination.
struct Way {
    source: Arc<Peer>,
    node: [u8; 16],
    pair: Arc<Pair>,
    peer: Arc<Peer>,
    keypair: Arc<Keypair>,
    endpoint: Endpoint,
    messages: u64,
    bytes: u64,
}

impl Way {
    fn find(
        table: &RelayTable,
        source: &Arc<Peer>,
        node: &[u8; 16],
        snapshot: &Snapshot,
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
        let (source, pair, peer) = (Arc::clone(source), Arc::clone(pair), Arc::clone(peer));
        Ok(Self { source, node: *node, pair, peer, keypair, endpoint, messages: 0, bytes: 0 })
    }

    fn is_of(&self, source: &Arc<Peer>, node: &[u8; 16]) -> bool {
        self.node == *node && Arc::ptr_eq(&self.source, source)
    }

    fn finish(self, shared: &Shared, now: Instant) {
        if let Some(event) = self.peer.link.note_sent(&self.keypair, now, self.messages, self.bytes, true) {
            shared.raise(event);
        }
    }
}

impl Forwarder {
    /// Gathers the relayed datagrams among `messages`, each by where it lies in the arena and the outer ECN field that it came with, of
    /// one authorised session with `source`. What is not to be brought on is counted. They leave with [`Forwarder::flush`].
    pub(crate) fn gather(
        &mut self,
        source: &Arc<Peer>,
        messages: impl Iterator<Item = (Range<usize>, u8)>,
        arena: &[u8],
        snapshot: &Snapshot,
        shared: &Shared,
        now: Instant,
    ) {
        let table = shared.relays.table.load();
        let Some(table) = table.as_deref() else {
            return shared.drops.add(DropReason::RelayRefused, messages.count() as u64);
        };
        let nested = source.link.endpoint().is_some_and(|endpoint| endpoint.is_relayed());
        for (range, ecn) in messages {
            let gathered = Relayed::parse(&arena[range.clone()]).map_err(drop_reason).and_then(|relayed| {
                // Only a relay says where datagrams come from, and relays do not bring to relays.
                if relayed.direction != Direction::ToRelay {
                    return Err(DropReason::RelayRefused);
                }
                if nested {
                    return Err(DropReason::RelayNested);
                }
                let way = self.way(table, source, &relayed.node, snapshot, shared, now)?;
                let mut limit = self.ways[way].pair.limit.lock().unwrap_or_else(PoisonError::into_inner);
                limit.admit(table.rates, &relayed, now.as_nanos()).map_err(drop_reason)?;
                Ok(way)
            });
            match gathered {
                Ok(way) => {
                    self.rounds.push(way, range.len());
                    self.gathered.push(Gathered { way, range, ecn });
                }
                Err(reason) => shared.drops.count(reason),
            }
        }
    }

    /// The number of a pair. Its first datagram is about to be gathered where it has none yet.
    fn way(
        &mut self,
        table: &RelayTable,
        source: &Arc<Peer>,
        node: &[u8; 16],
        snapshot: &Snapshot,
        shared: &Shared,
        now: Instant,
    ) -> Result<usize, DropReason> {
        // Nearly every datagram is of the pair of the one before.
        if let Some(number) = self.ways.iter().rposition(|way| way.is_of(source, node)) {
            return Ok(number);
        }
        self.ways.push(Way::find(table, source, node, snapshot, shared, now)?);
        Ok(self.ways.len() - 1)
    }

    /// Seals what was gathered and hands it to the sockets, in fair turns of the pairs. Where the system takes no more, the round is
    /// ended, and what is left then, of the pairs with most, is dropped.
    pub(crate) fn flush(&mut self, arena: &[u8], sockets: &Sockets, shared: &Shared, now: Instant) {
        if self.ways.is_empty() {
            return;
        }
        let batch = self.batch.get_or_insert_with(SendBatch::new);
        let mut full_in = None;
        while let Some(number) = self.rounds.pop() {
            let Gathered { way, range, ecn } = &self.gathered[number];
            let sealed = if full_in.is_some_and(|round| self.rounds.round() > round) {
                Err(DropReason::RelayLimited)
            } else {
                let len = TRANSPORT_HEADER_LEN + range.len() + TAG_LEN;
                if batch.room(len).is_none() && !batch.flush(sockets, shared) {
                    full_in = full_in.or(Some(self.rounds.round()));
                }
                seal(batch, &mut self.ways[*way], &arena[range.clone()], *ecn)
            };
            if let Err(reason) = sealed {
                shared.drops.count(reason);
            }
        }
        batch.flush(sockets, shared);
        self.gathered.clear();
        self.rounds.clear();
        self.ways.drain(..).for_each(|way| way.finish(shared, now));
    }
}

/// The message stays as long as it is: the header is stamped, and the whole sealed for the other tunnel.
fn seal(batch: &mut SendBatch, way: &mut Way, message: &[u8], ecn: u8) -> Result<(), DropReason> {
    let len = TRANSPORT_HEADER_LEN + message.len() + TAG_LEN;
    way.peer.link.destination(len as u64)?;
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
