//! The way through a relay: a sealed message, wrapped, and sealed again for the relay's tunnel.

use std::sync::Arc;

use tombolo_noise::clock::Instant;
use tombolo_noise::{Keypair, padded_len};
use tombolo_packet::message::{TAG_LEN, TRANSPORT_HEADER_LEN};
use tombolo_packet::relay::{Direction, HEADER_LEN, write_header};
use tombolo_packet::{DropReason, Endpoint};

use crate::send_batch::SendBatch;
use crate::shared::{Peer, Shared, Snapshot};

/// Where in a message to the relay the datagram lies.
const DATAGRAM_AT: usize = TRANSPORT_HEADER_LEN + HEADER_LEN;

/// Bytes by which an inner packet to a relayed peer is shorter than one to the relay: the header, and the transport header and tag of the
/// session that is relayed.
pub(crate) const RELAY_OVERHEAD: usize = HEADER_LEN + TRANSPORT_HEADER_LEN + TAG_LEN;

/// A session with a relay, and to whom it is to bring datagrams.
pub(crate) struct Via {
    relay: Arc<Peer>,
    keypair: Arc<Keypair>,
    endpoint: Endpoint,
    node: [u8; 16],
    mtu: usize,
    messages: u64,
    bytes: u64,
}

impl Via {
    /// The way to a relayed `endpoint`; `None`: it is a direct one.
    ///
    /// # Errors
    /// [`DropReason::RelayUnreachable`]: there is no session with the relay, and a handshake was asked for.
    /// [`DropReason::RelayNested`]: it is itself reached by a relay.
    pub(crate) fn of(
        endpoint: &Endpoint,
        snapshot: &Snapshot,
        shared: &Shared,
        now: Instant,
    ) -> Result<Option<Self>, DropReason> {
        let Some((relay, node)) = endpoint.relay() else { return Ok(None) };
        let relay =
            snapshot.peer(relay).filter(|relay| relay.is_relay()).ok_or(DropReason::RelayUnreachable)?;
        let Some(keypair) = relay.link.sending_keypair(now) else {
            if let Some(event) = relay.link.want_handshake() {
                shared.raise(event);
            }
            return Err(DropReason::RelayUnreachable);
        };
        let endpoint = relay.link.endpoint().ok_or(DropReason::RelayUnreachable)?;
        if endpoint.is_relayed() {
            return Err(DropReason::RelayNested);
        }
        let mtu = shared.mtu().min(relay.path.limit());
        Ok(Some(Self { relay: Arc::clone(relay), keypair, endpoint, node, mtu, messages: 0, bytes: 0 }))
    }

    /// Bytes of the message that a datagram of `len` bytes becomes.
    pub(crate) fn wrapped_len(&self, len: usize) -> usize {
        TRANSPORT_HEADER_LEN + padded_len(HEADER_LEN + len, self.mtu) + TAG_LEN
    }

    /// Where the datagram of `len` bytes is to be written in a message of [`Via::wrapped_len`].
    pub(crate) fn datagram<'a>(&self, message: &'a mut [u8], len: usize) -> &'a mut [u8] {
        &mut message[DATAGRAM_AT..DATAGRAM_AT + len]
    }

    /// Wraps and seals the datagram of `len` bytes that was written there, and commits it to the batch whose room `message`
    /// was.
    ///
    /// # Errors
    /// Why it may not go: the path to the relay is not proven, or no counter is left. The message is not committed then.
    pub(crate) fn commit(
        &mut self,
        batch: &mut SendBatch,
        len: usize,
        traffic_class: u8,
    ) -> Result<(), DropReason> {
        let wrapped = self.wrapped_len(len);
        self.relay.link.destination(wrapped as u64)?;
        let length = u16::try_from(len).map_err(|_| DropReason::PacketTooBig)?;
        let counter = self.keypair.reserve(1)?;
        let message = batch.room(wrapped).ok_or(DropReason::PacketTooBig)?;
        if let Some(header) = message[TRANSPORT_HEADER_LEN..].first_chunk_mut::<HEADER_LEN>() {
            write_header(header, Direction::ToRelay, &self.node, length);
        }
        message[DATAGRAM_AT + len..wrapped - TAG_LEN].fill(0);
        self.keypair.seal(counter, message);
        batch.commit(Some(&self.relay.link), self.endpoint, traffic_class, wrapped);
        self.messages += 1;
        self.bytes += wrapped as u64;
        Ok(())
    }

    /// Tells the relay's session what it carried.
    pub(crate) fn finish(self, shared: &Shared, now: Instant) {
        if let Some(event) = self.relay.link.note_sent(&self.keypair, now, self.messages, self.bytes, true) {
            shared.raise(event);
        }
    }
}
