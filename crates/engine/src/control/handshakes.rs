//! The sockets to which handshakes come and nothing else. What is read here never meets a data thread, whose batches a flood would
//! break up and whose memory it would make cold.

use rand_core::CryptoRng;
use std::sync::Arc;
use tombolo_packet::DropReason;
use tombolo_packet::message::MessageType;
use tombolo_udp::{RECEIVE_SLOT, Received};

use super::Control;
use crate::inbound::recoverable;
use crate::options::{EngineEvent, SocketBinder, Sockets};
use crate::shared::{HANDSHAKE_QUEUE_LEN, HandshakeDatagram};

/// Reads of one call.
const SLOTS: usize = 16;

/// Calls for one socket before the rest has its turn: together no more than the queue holds.
const CALLS: usize = HANDSHAKE_QUEUE_LEN / SLOTS / 4;

/// What handshakes are read into.
pub(super) struct HandshakeInbox {
    /// Which sockets may have something.
    readable: [bool; 2],
    /// Empty until something comes.
    bytes: Vec<u8>,
    received: Vec<Received>,
}

impl Default for HandshakeInbox {
    fn default() -> Self {
        Self { readable: [true; 2], bytes: Vec::new(), received: Vec::new() }
    }
}

impl HandshakeInbox {
    /// Whatever is known of the sockets, they are to be looked at in the next turn.
    pub(super) fn look(&mut self) {
        self.readable = [true; 2];
    }

    /// Which sockets have something.
    pub(super) fn set_readable(&mut self, readable: [bool; 2]) {
        self.readable = readable;
    }
}

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    /// Takes all that waits into the queues, so that those of known sources come first. `false`: there was nothing.
    pub(super) fn receive_handshakes(&mut self) -> bool {
        let sockets = self.shared.sockets.load_full();
        let mut worked = false;
        for (number, socket) in sockets.handshakes.iter().enumerate() {
            if !self.inbox.readable.get_mut(number).is_some_and(std::mem::take) {
                continue;
            }
            if self.inbox.bytes.is_empty() {
                // Not `resize`, which would write to all of it: most of a slot is never used.
                self.inbox.bytes = vec![0; SLOTS * RECEIVE_SLOT];
            }
            for _ in 0..CALLS {
                match socket.receive(&mut self.inbox.bytes, &mut self.inbox.received) {
                    Ok(0) => break,
                    Ok(reads) => {
                        worked = true;
                        self.queue_received();
                        if reads < SLOTS {
                            break;
                        }
                    }
                    Err(error) if recoverable(&error) => {}
                    Err(error) => {
                        self.news.push(EngineEvent::Failed(format!("receiving handshakes failed: {error}")));
                        // Without them the kernel brings handshakes to the lanes.
                        let lanes = Sockets { handshakes: Vec::new(), ..Sockets::clone(&sockets) };
                        self.shared.sockets.store(Arc::new(lanes));
                        self.shared.wake_workers();
                        return true;
                    }
                }
            }
        }
        worked
    }

    fn queue_received(&self) {
        for read in &self.inbox.received {
            for message in read.segments(&self.inbox.bytes) {
                let kind = MessageType::classify(message);
                let datagram = match kind {
                    // One that was on its way when the sockets were made.
                    Ok(MessageType::Transport) => Err(DropReason::UnknownReceiverIndex),
                    Ok(_) => {
                        HandshakeDatagram::new(message, read.endpoint()).ok_or(DropReason::MalformedMessage)
                    }
                    Err(reason) => Err(reason),
                };
                match datagram {
                    Ok(datagram) => drop(self.shared.queue_handshake(datagram)),
                    Err(reason) => self.shared.drops.count(reason),
                }
            }
        }
    }
}
