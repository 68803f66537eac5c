//! Datagrams that a relay has brought.

use std::ops::Range;

use tombolo_packet::message::MessageType;
use tombolo_packet::relay::{Direction, HEADER_LEN, Relayed};
use tombolo_packet::{DropReason, Endpoint};

use super::drop_reason;
use crate::shared::{HandshakeDatagram, Peer, Shared};

/// A relayed transport message, in the arena in which it was brought.
pub(crate) struct Taken {
    pub(crate) range: Range<usize>,
    /// The relay, and the node that it says the message is from.
    pub(crate) endpoint: Endpoint,
    /// ECN field of the outer header.
    pub(crate) ecn: u8,
}

impl Taken {
    /// Takes what `relay` has brought, which lies at `plaintext` of the arena. Handshake messages go to the control thread; `None`
    /// then.
    ///
    /// # Errors
    /// Why it is dropped: nobody but a relay brings datagrams.
    pub(crate) fn take(
        relay: &Peer,
        arena: &[u8],
        plaintext: Range<usize>,
        ecn: u8,
        shared: &Shared,
    ) -> Result<Option<Self>, DropReason> {
        let relayed = Relayed::parse(&arena[plaintext.clone()]).map_err(drop_reason)?;
        if relayed.direction != Direction::FromRelay || !relay.is_relay() {
            return Err(DropReason::RelayRefused);
        }
        let endpoint = Endpoint::relayed(relay.link.peer(), relayed.node);
        if relayed.kind != MessageType::Transport {
            let datagram = HandshakeDatagram::new(relayed.datagram, endpoint);
            shared.enqueue_handshake(datagram.ok_or(DropReason::MalformedMessage)?);
            return Ok(None);
        }
        let start = plaintext.start + HEADER_LEN;
        Ok(Some(Self { range: start..start + relayed.datagram.len(), endpoint, ecn }))
    }
}
