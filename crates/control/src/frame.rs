//! Control frames: what travels in a tunnel beside IP packets (control rule 11).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | `0xF0` and the version, 1: no IP packet begins so |
//! | 1 | type |
//! | 2 | length of the body in bytes, high byte first |
//! | n | body: a map with numbered fields, in deterministic CBOR |
//!
//! At most 1024 bytes in all. Behind the body there may be up to 15 zeros, by which WireGuard fills a message up; behind
//! that of a path probe as many as the probe is to be large.
//! Unknown versions, types and fields are no mistakes of the sender: the first two are counted and dropped, the
//! last are ignored.

pub mod admin;
mod body;
mod candidates;
pub mod names;
mod refusal;
mod renewal;

use std::net::{IpAddr, SocketAddr};

use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use crate::cbor::{self, CborError, FieldError};
use crate::token::JoinProof;
use crate::{DocumentHash, NodeId, NodeName, VerifyingKey};
use admin::{AdminAnswer, AdminRequest};
use names::{AskNames, Names, Tag};

pub use candidates::{CANDIDATES_MAX, is_possible_candidate};
pub use refusal::{AdminRefusal, JoinRefusal, RenewRefusal, ShowRefusal};
pub use renewal::{RenewAnswer, TICKET_LEN, Ticket};

/// Greatest length of a frame in bytes.
pub const FRAME_MAX: usize = 1024;

/// Length of what comes before the body.
pub const HEADER_LEN: usize = 4;

/// The version of the frames that this crate writes and reads.
pub const FRAME_VERSION: u8 = 1;

/// High bits of the first byte of each frame.
const MARK: u8 = 0xf0;

/// WireGuard fills messages up to a multiple of 16 bytes (§5.4.6).
const PADDING_MAX: usize = 15;

/// Whether a decrypted message is a control frame, of whatever version, and not an IP packet.
pub fn is_frame(message: &[u8]) -> bool {
    message.first().is_some_and(|first| first & 0xf0 == MARK)
}

/// Why a message is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Its first byte is that of no frame.
    #[error("not a control frame")]
    NotAFrame,
    /// A version that this crate does not read; to be counted.
    #[error("a control frame of version {0}")]
    Version(u8),
    /// A type that this version does not know; to be counted.
    #[error("a control frame of the unknown type {0}")]
    Type(u8),
    /// Its length says otherwise than there is, or more than [`FRAME_MAX`].
    #[error("a control frame of the wrong length")]
    Length,
    /// Something other than filling stands behind the body.
    #[error("something stands behind a control frame")]
    Padding,
    /// The body is no deterministic CBOR.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A field is missing or malformed.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// A control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// Asks to be let in (control rule 15).
    JoinRequest(JoinRequest),
    /// Lets in, or says why not.
    JoinAnswer(JoinAnswer),
    /// Shows one's membership; the initiator is the first (control rule 9).
    Show(Show),
    /// Says why a membership that was shown is not taken.
    ShowRefused(ShowRefused),
    /// Tells of the newest documents (control rule 2).
    Versions(Versions),
    /// Asks for the trust document.
    PullTrust,
    /// The trust document.
    Trust(Vec<u8>),
    /// Asks for a block of the network document.
    PullBlock(PullBlock),
    /// A block of the network document.
    Block(Block),
    /// Asks a lighthouse who has an address, a name or a node id.
    LookUp(LookUp),
    /// Who has it. Nobody, and nobody that the asker may know of, look alike (control rule 12).
    LookUpAnswer(LookUpAnswer),
    /// Tells a node to open a path to another (control rule 13).
    Introduce(Introduce),
    /// Says that one is there, and where; must be answered.
    Keepalive(Keepalive),
    /// Answers a keepalive.
    KeepaliveAnswer(KeepaliveAnswer),
    /// To be sent back, from where it came to (control rule 10).
    Challenge([u8; 16]),
    /// What a challenge contained. It says nothing of where its sender is to be reached.
    ChallengeAnswer([u8; 16]),
    /// A challenge by another path than the one in use: its sender stays where it is (control rule 14).
    Explore([u8; 16]),
    /// Asks a lighthouse for the list of names from some place on.
    AskNames(AskNames),
    /// A part of the list: an answer, or news that nobody asked for.
    Names(Names),
    /// Asks a lighthouse for the memberships that these tags stand for.
    AskMembers(Vec<Tag>),
    /// One of them, signed.
    Member(Vec<u8>),
    /// Asks for another membership: one's own, or that of a node that one presents (control rule 16).
    Renew(Option<NodeId>),
    /// The membership, or why there is none.
    RenewAnswer(RenewAnswer),
    /// Asks for a ticket to change the static key (control rule 17).
    AskTicket,
    /// The ticket.
    Ticket(Ticket),
    /// Shows the ticket over a session of the new key; answered as a renewal.
    Rotate([u8; TICKET_LEN]),
    /// Ends one's membership.
    Leave,
    /// It has ended, at this time of the authority's.
    Left(UnixTime),
    /// Asks the authority which stock WireGuard peers one presents; each comes as [`Frame::Present`] (control rule 20).
    AskPresented,
    /// The membership of a stock WireGuard peer, signed: from the authority to the node that presents it, and from that one
    /// to whom the peer talks with.
    Present(Vec<u8>),
    /// Asks the authority for something that only administrators may (control rule 22).
    AdminRequest(AdminRequest),
    /// What came of it.
    AdminAnswer(AdminAnswer),
    /// Shows by its length, filling included, what the path carries. The engine sends and answers these.
    PathProbe {
        /// Chosen by the sender; the answer has it too.
        id: u64,
    },
    /// What came of a path probe.
    PathAnswer {
        /// The probe's.
        id: u64,
        /// Length in bytes of the decrypted message that the probe came as.
        size: u16,
    },
}

/// [`Frame::JoinRequest`]. The node's key is the session's and not named here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Public key of the token.
    pub token: VerifyingKey,
    /// Signed by the token.
    pub proof: JoinProof,
    /// The name that the node would like; the token may say another.
    pub name: Option<NodeName>,
}

/// [`Frame::JoinAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// The authority's time, so that a wrong clock can be told by how much.
    pub time: UnixTime,
    /// The membership, signed.
    pub outcome: Result<Vec<u8>, JoinRefusal>,
}

/// [`Frame::Show`]: the first frame of a tunnel between members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Show {
    /// One's membership, signed.
    pub membership: Vec<u8>,
    /// What documents one has.
    pub versions: Versions,
    /// Whether it answers the other's, and so is not answered itself.
    pub answer: bool,
}

/// [`Frame::ShowRefused`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowRefused {
    /// Why.
    pub reason: ShowRefusal,
    /// The sender's time, so that a wrong clock can be told by how much.
    pub time: UnixTime,
}

/// Orders the announcements of one sender, which may overtake each other (control rule 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order {
    /// Greater with each start of the sender.
    pub epoch: u64,
    /// Greater with each announcement within an epoch.
    pub sequence: u64,
}

/// [`Frame::Versions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Which announcement of the sender.
    pub order: Order,
    /// Epoch of the sender's trust document, which the receiver may need before it can verify the head.
    pub trust_epoch: u64,
    /// Hash of the sender's trust document.
    pub trust_hash: DocumentHash,
    /// The signed head; none while the sender has no network document.
    pub head: Option<Vec<u8>>,
}

/// [`Frame::PullBlock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullBlock {
    /// Hash of the document.
    pub hash: DocumentHash,
    /// Which block, from 0.
    pub index: u32,
}

/// [`Frame::Block`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Hash of the document.
    pub hash: DocumentHash,
    /// Which block, from 0.
    pub index: u32,
    /// [`crate::pull::BLOCK_LEN`] bytes; the last block may have fewer.
    pub bytes: Vec<u8>,
}

/// What a look-up asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An overlay address.
    Address(IpAddr),
    /// A name in the network's domain.
    Name(NodeName),
    /// A node.
    Node(NodeId),
}

/// [`Frame::LookUp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    /// Chosen by the asker; the answer has it too.
    pub id: u64,
    /// What is asked for.
    pub target: Target,
}

/// [`Frame::LookUpAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUpAnswer {
    /// The look-up's.
    pub id: u64,
    /// Who has it.
    pub found: Option<Found>,
}

/// A node that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its membership, signed.
    pub membership: Vec<u8>,
    /// Where it may be reached: at most [`CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
    /// Relays through which it may be reached: at most four.
    pub relays: Vec<NodeId>,
}

/// [`Frame::Introduce`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduce {
    /// To whom.
    pub node: NodeId,
    /// Its static key.
    pub key: PublicKey,
    /// Where it may be reached: at most [`CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
    /// Its membership, signed: no initiation goes to a key of which nothing is known.
    pub membership: Vec<u8>,
}

/// [`Frame::Keepalive`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Which announcement of the sender.
    pub order: Order,
    /// The sender's own addresses: at most [`CANDIDATES_MAX`].
    pub candidates: Vec<SocketAddr>,
    /// Relays that the sender has a tunnel with: at most four.
    pub relays: Vec<NodeId>,
}

/// [`Frame::KeepaliveAnswer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveAnswer {
    /// The keepalive's.
    pub order: Order,
    /// From where the keepalive came.
    pub observed: SocketAddr,
    /// Epoch of the lighthouse's trust document, so that what was missed shows.
    pub trust_epoch: u64,
    /// Counter of the lighthouse's network document; 0 for none.
    pub network_counter: u64,
}

impl Frame {
    /// Reads a decrypted message that [`is_frame`].
    ///
    /// # Errors
    /// Says why it is to be dropped. Total: any bytes are met.
    pub fn parse(message: &[u8]) -> Result<Self, FrameError> {
        let Some((&first, rest)) = message.split_first() else { return Err(FrameError::NotAFrame) };
        if first & 0xf0 != MARK {
            return Err(FrameError::NotAFrame);
        }
        if first != MARK | FRAME_VERSION {
            return Err(FrameError::Version(first & 0x0f));
        }
        let ([kind, high, low], rest) = rest.split_first_chunk().ok_or(FrameError::Length)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if HEADER_LEN + length > FRAME_MAX {
            return Err(FrameError::Length);
        }
        let (body, padding) = rest.split_at_checked(length).ok_or(FrameError::Length)?;
        let filled = *kind == body::PATH_PROBE;
        if padding.len() > PADDING_MAX && !filled || padding.iter().any(|&byte| byte != 0) {
            return Err(FrameError::Padding);
        }
        body::read(*kind, body)
    }

    /// The frame as it is sealed.
    ///
    /// # Errors
    /// [`FrameError::Length`] when it is longer than [`FRAME_MAX`]: a document is too large.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FrameError> {
        let (kind, fields) = body::write(self);
        let body = cbor::encode(&fields);
        let length = u16::try_from(body.len()).map_err(|_| FrameError::Length)?;
        if HEADER_LEN + body.len() > FRAME_MAX {
            return Err(FrameError::Length);
        }
        let [high, low] = length.to_be_bytes();
        Ok([&[MARK | FRAME_VERSION, kind, high, low], &body[..]].concat())
    }
}

#[cfg(test)]
mod tests;
