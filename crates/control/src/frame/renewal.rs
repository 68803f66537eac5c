//! What a member asks of its authority: another membership, another key, the end (control rules 16 and 17).

use tombolo_noise::clock::UnixTime;

use super::{Frame, FrameError, RenewRefusal};
use crate::NodeId;
use crate::cbor::{Fields, MapBuilder};

/// Length of a rotation ticket in bytes.
pub const TICKET_LEN: usize = 32;

/// [`Frame::RenewAnswer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewAnswer {
    /// The authority's time, so that a wrong clock can be told by how much.
    pub time: UnixTime,
    /// Whose membership: the asker's own, or that of a node that it presents.
    pub node: Option<NodeId>,
    /// The membership, signed.
    pub outcome: Result<Vec<u8>, RenewRefusal>,
}

/// [`Frame::Ticket`]: good for one rotation, from whatever key shows it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The ticket; a secret until it is spent.
    pub ticket: [u8; TICKET_LEN],
    /// Until when it is good, by the authority's time.
    pub expires: UnixTime,
}

pub(super) mod kind {
    pub(crate) const RENEW: u8 = 30;
    pub(crate) const RENEW_ANSWER: u8 = 31;
    pub(crate) const ASK_TICKET: u8 = 32;
    pub(crate) const TICKET: u8 = 33;
    pub(crate) const ROTATE: u8 = 34;
    pub(crate) const LEAVE: u8 = 35;
    pub(crate) const LEFT: u8 = 36;
    pub(crate) const ASK_PRESENTED: u8 = 37;
    pub(crate) const PRESENT: u8 = 38;
}

/// Reads the body of one of these types.
pub(super) fn read(kind: u8, fields: &mut Fields) -> Result<Frame, FrameError> {
    Ok(match kind {
        kind::RENEW => Frame::Renew(fields.optional(1, "node")?),
        kind::RENEW_ANSWER => Frame::RenewAnswer(RenewAnswer {
            time: fields.required(1, "time")?,
            node: fields.optional(4, "node")?,
            outcome: match fields.optional(2, "membership")? {
                Some(membership) => Ok(membership),
                None => Err(fields.required(3, "refusal")?),
            },
        }),
        kind::ASK_TICKET => Frame::AskTicket,
        kind::TICKET => Frame::Ticket(Ticket {
            ticket: fields.required(1, "ticket")?,
            expires: fields.required(2, "expires")?,
        }),
        kind::ROTATE => Frame::Rotate(fields.required(1, "ticket")?),
        kind::LEAVE => Frame::Leave,
        kind::LEFT => Frame::Left(fields.required(1, "time")?),
        kind::ASK_PRESENTED => Frame::AskPresented,
        kind::PRESENT => Frame::Present(fields.required(1, "membership")?),
        other => return Err(FrameError::Type(other)),
    })
}

/// The fields of an answer.
pub(super) fn write_answer(map: MapBuilder, answer: &RenewAnswer) -> MapBuilder {
    let map = map.put(1, &answer.time);
    let map = match &answer.outcome {
        Ok(membership) => map.put(2, membership),
        Err(refusal) => map.put(3, refusal),
    };
    map.put_some(4, answer.node.as_ref())
}
