//! What one call received, and the opening of it, which any thread may do.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use tombolo_noise::IndexEntry;
use tombolo_noise::clock::Instant;
use tombolo_packet::DropReason;
use tombolo_packet::message::{MessageType, TRANSPORT_HEADER_LEN, Transport};
use tombolo_udp::{RECEIVE_SLOT, Received, Socket};

use crate::clock;
use crate::shared::{HandshakeDatagram, Shared};

/// Reads in one arena.
const SLOTS: usize = 8;

/// One transport message that authenticated.
pub(crate) struct Opened {
    /// Position among the sessions of the arena.
    pub(crate) session: usize,
    pub(crate) counter: u64,
    /// Where it lies in the arena.
    pub(crate) plaintext: Range<usize>,
    pub(crate) message_len: usize,
    /// ECN field of the outer header.
    pub(crate) ecn: u8,
    /// Position among the reads of the arena.
    pub(crate) source: usize,
}

/// Datagrams of one call, and what became of them. It owns all that it needs, so that it can be sent to an idle
/// thread to be opened.
pub(crate) struct Arena {
    shared: Arc<Shared>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) received: Vec<Received>,
    /// What authenticated.
    pub(crate) messages: Messages,
    /// When it was received.
    pub(crate) now: Instant,
}

impl Arena {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            bytes: vec![0; SLOTS * RECEIVE_SLOT],
            received: Vec::with_capacity(SLOTS),
            messages: Messages::default(),
            now: clock::boot(),
        }
    }

    /// One more like it, for the same sockets.
    pub(crate) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }

    /// Forgets what it held and takes what waits. `true`: it is full, and more may wait.
    pub(crate) fn receive(&mut self, socket: &dyn Socket) -> io::Result<bool> {
        let reads = socket.receive(&mut self.bytes, &mut self.received)?;
        self.now = clock::boot();
        Ok(reads == SLOTS)
    }

    /// Opens every transport message where it lies, and passes handshakes on. What fails is counted.
    pub(crate) fn open(&mut self) {
        self.messages.clear();
        for source in 0..self.received.len() {
            let read = self.received[source];
            let end = read.offset + read.len;
            let mut offset = read.offset;
            while offset < end {
                let len = read.stride.min(end - offset);
                if let Err(reason) = self.open_one(offset..offset + len, &read, source) {
                    self.shared.drops.count(reason);
                }
                offset += len;
            }
        }
    }

    fn open_one(&mut self, range: Range<usize>, read: &Received, source: usize) -> Result<(), DropReason> {
        let message = &self.bytes[range.clone()];
        if MessageType::classify(message)? != MessageType::Transport {
            let datagram =
                HandshakeDatagram::new(message, read.endpoint()).ok_or(DropReason::MalformedMessage)?;
            self.shared.enqueue_handshake(datagram);
            return Ok(());
        }
        let ecn = read.traffic_class & 3;
        self.messages.open(&self.shared, &mut self.bytes, range, ecn, source, self.now)
    }
}

/// Transport messages that authenticated, with their sessions.
#[derive(Default)]
pub(crate) struct Messages {
    /// In the order in which they came, until [`Messages::put_in_order`].
    pub(crate) opened: Vec<Opened>,
    pub(crate) sessions: Vec<Arc<IndexEntry>>,
    /// Where in `sessions` that of a receiver index is.
    positions: HashMap<u32, usize>,
    last: Option<(u32, usize)>,
}

impl Messages {
    pub(crate) fn clear(&mut self) {
        self.opened.clear();
        self.sessions.clear();
        self.positions.clear();
        self.last = None;
    }

    /// Puts those of one session one behind the other, in the order in which they were sealed. Of two with one counter, the one that came
    /// first stays first. Unlike a stable sort this takes no memory.
    pub(crate) fn put_in_order(&mut self) {
        self.opened.sort_unstable_by_key(|opened| (opened.session, opened.counter, opened.plaintext.start));
    }

    /// Opens the transport message at `range`, where it lies.
    pub(crate) fn open(
        &mut self,
        shared: &Shared,
        bytes: &mut [u8],
        range: Range<usize>,
        ecn: u8,
        source: usize,
        now: Instant,
    ) -> Result<(), DropReason> {
        let index = Transport::parse(&bytes[range.clone()])?.receiver_index();
        let session = self.session(shared, index)?;
        let keypair = self.sessions[session].keypair();
        if !keypair.can_receive(now) {
            return Err(DropReason::ExpiredKeypair);
        }
        let (counter, plaintext) = keypair.open(&mut bytes[range.clone()])?;
        let start = range.start + TRANSPORT_HEADER_LEN;
        let plaintext = start..start + plaintext.len();
        self.opened.push(Opened { session, counter, plaintext, message_len: range.len(), ecn, source });
        Ok(())
    }

    /// Position in `sessions` of the session with this receiver index.
    fn session(&mut self, shared: &Shared, index: u32) -> Result<usize, DropReason> {
        // Nearly every message is of the session of the one before.
        if let Some((last, position)) = self.last
            && last == index
        {
            return Ok(position);
        }
        let position = match self.positions.get(&index) {
            Some(position) => *position,
            None => {
                let entry = shared.indices.lookup(index).ok_or(DropReason::UnknownReceiverIndex)?;
                self.sessions.push(entry);
                self.positions.insert(index, self.sessions.len() - 1);
                self.sessions.len() - 1
            }
        };
        self.last = Some((index, position));
        Ok(position)
    }
}
