//! A blocking netlink socket: requests, acknowledgements and dumps, for any netlink family.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};

use super::NetlinkError;

/// Bytes of the fixed header before each message.
pub(crate) const HEADER_LEN: usize = 16;

/// `NLM_F_*`, as u16 to fit the header.
pub(crate) const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const DUMP: u16 = libc::NLM_F_DUMP as u16;
pub(crate) const CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;
pub(crate) const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
pub(crate) const APPEND: u16 = libc::NLM_F_APPEND as u16;

const DUMP_INTERRUPTED: u16 = 0x10;
const CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;
const ATTRIBUTE_MESSAGE: u16 = 1;

/// More than the kernel puts into one datagram of a dump (32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// How often a dump is repeated that the kernel reports as inconsistent.
const DUMP_ATTEMPTS: usize = 5;

/// One message as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawMessage<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram. Ends at the first that is cut short.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = RawMessage<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let payload = bytes.get(HEADER_LEN..length)?;
        let message = RawMessage {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Writes one message with its header.
pub(crate) fn encode(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = HEADER_LEN + payload.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    // A request of ours is never near 4 GiB.
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// The kernel's answer to one request that failed.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) source: io::Error,
    /// The kernel's own words (extended acknowledgement), if it gave any.
    pub(crate) detail: Option<String>,
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self { source, detail: None }
    }
}

impl Refusal {
    /// Reads an `NLMSG_ERROR`; `None` is an acknowledgement.
    pub(crate) fn parse(message: &RawMessage<'_>) -> Option<Self> {
        let code = message.payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
        if code == 0 {
            return None;
        }
        Some(Self {
            source: io::Error::from_raw_os_error(code.wrapping_neg()),
            detail: extended_message(message),
        })
    }
}

fn extended_message(message: &RawMessage<'_>) -> Option<String> {
    if message.flags & ACK_ATTRIBUTES == 0 {
        return None;
    }
    // The error code, then the header of the request, then (unless capped) the rest of it.
    let request = message.payload.get(4..)?;
    let length = if message.flags & CAPPED != 0 {
        HEADER_LEN
    } else {
        u32::from_ne_bytes(*request.first_chunk()?) as usize
    };
    let attributes = request.get(length.next_multiple_of(4)..)?;
    let text = super::attribute::iterate(attributes)
        .find_map(|(kind, value)| (kind == ATTRIBUTE_MESSAGE).then_some(value))?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// A socket in the network namespace of the thread that made it.
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket of a netlink family (`NETLINK_ROUTE`, …).
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Only the kernel's words are lost where these are unknown.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // Lets the kernel filter a dump by table or interface; without, this crate does.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    pub(crate) fn add_membership(&self, group: u32) -> io::Result<()> {
        self.socket.add_membership(group)
    }

    pub(crate) fn set_non_blocking(&self) -> io::Result<()> {
        self.socket.set_non_blocking(true)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(bytes, 0).map(|_| ())
    }

    /// One datagram, which may hold several messages.
    pub(crate) fn receive(&mut self) -> io::Result<&[u8]> {
        loop {
            match rustix::net::recv(
                self.socket.as_fd(),
                &mut self.buffer[..],
                rustix::net::RecvFlags::empty(),
            ) {
                Ok((length, _)) => {
                    return Ok(self.buffer.get(..length).unwrap_or_default());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends one request, waits until the kernel has dealt with it, and gives kind and payload of
    /// all it answered.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<Vec<(u16, Vec<u8>)>, Refusal> {
        let dump = flags & DUMP == DUMP;
        let mut attempts = if dump { DUMP_ATTEMPTS } else { 1 };
        loop {
            let (answers, consistent) = self.request_once(kind, flags, payload)?;
            attempts -= 1;
            if consistent || attempts == 0 {
                return Ok(answers);
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "kind and payload, and whether they agree")]
    fn request_once(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
    ) -> Result<(Vec<(u16, Vec<u8>)>, bool), Refusal> {
        let dump = flags & DUMP == DUMP;
        let sequence = self.next_sequence();
        let flags = REQUEST | flags | if dump { 0 } else { ACK };
        self.send(&encode(kind, flags, sequence, payload))?;
        let mut answers = Vec::new();
        let mut consistent = true;
        loop {
            for message in messages(self.receive()?) {
                if message.sequence != sequence {
                    continue;
                }
                consistent &= message.flags & DUMP_INTERRUPTED == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        return match Refusal::parse(&message) {
                            // A dump that ended well may end without a code.
                            Some(_) if message.payload.is_empty() => Ok((answers, consistent)),
                            Some(refusal) => Err(refusal),
                            None => Ok((answers, consistent)),
                        };
                    }
                    libc::NLMSG_NOOP => {}
                    _ => answers.push((message.kind, message.payload.to_vec())),
                }
            }
        }
    }

    /// As [`Connection::request`], for messages of the routing family. An answer that the parser
    /// does not understand is left out: it is about something that a newer kernel has.
    pub(crate) fn route_request(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        let mut payload = vec![0; message.buffer_len()];
        message.serialize(&mut payload);
        let answers = self.request(message.message_type(), flags, &payload)?;
        Ok(answers.iter().filter_map(|(kind, payload)| decode(*kind, payload)).collect())
    }
}

/// Parses a message of the routing family.
pub(crate) fn decode(kind: u16, payload: &[u8]) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    RouteNetlinkMessage::deserialize(&header, payload).ok()
}

impl Refusal {
    /// Whether the kernel answered with this errno.
    pub(crate) fn is(&self, errno: i32) -> bool {
        self.source.raw_os_error() == Some(errno)
    }

    /// Says what was attempted.
    pub(crate) fn during(self, action: impl Into<String>) -> NetlinkError {
        NetlinkError { action: action.into(), source: self.source, detail: self.detail }
    }
}

/// Payloads of every short length with every kind of attribute in them, and noise: the same ones in each run.
#[cfg(test)]
pub(crate) fn any_payloads() -> impl Iterator<Item = Vec<u8>> {
    // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    let mut state = 8662_u64;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..4000_usize).map(move |round| {
        let mut bytes: Vec<u8> = (0..round % 120).map(|_| next().to_le_bytes()[0]).collect();
        let attribute = [(next() % 40) as u8, 0, (next() % 40) as u8, 0];
        for start in [0, 4, 8, 12, 16, 28] {
            if let Some(place) = bytes.get_mut(start..start + 4).filter(|_| next() % 2 == 0) {
                place.copy_from_slice(&attribute);
            }
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_answer_of_the_kernel_panics() {
        for payload in any_payloads() {
            assert!(messages(&payload).count() <= payload.len() / HEADER_LEN);
            for kind in 0..64 {
                let message =
                    RawMessage { kind, flags: ACK_ATTRIBUTES | kind << 6, sequence: 0, payload: &payload };
                let _ = (decode(kind, &payload), Refusal::parse(&message));
            }
            let whole = encode(16, 0, 7, &payload);
            let read: Vec<RawMessage<'_>> = messages(&whole).collect();
            assert!(matches!(read[..], [message] if message.payload == payload && message.sequence == 7));
        }
    }
}
