//! The body of each type of frame: its number, and its fields in a map.

use std::net::SocketAddr;

use ciborium::Value;

use super::{
    Block, CANDIDATES_MAX, FRAME_MAX, Found, Frame, FrameError, Introduce, JoinAnswer, JoinRequest,
    Keepalive, KeepaliveAnswer, LookUp, LookUpAnswer, Order, PullBlock, Show, ShowRefused, Target, Versions,
    admin, is_possible_candidate, names, renewal,
};
use crate::cbor::{self, FieldError, Fields, Item, MapBuilder, Problem};
use crate::token::JoinProof;

/// Numbers of the types.
mod kind {
    pub(super) const JOIN_REQUEST: u8 = 1;
    pub(super) const JOIN_ANSWER: u8 = 2;
    pub(super) const SHOW: u8 = 3;
    pub(super) const SHOW_REFUSED: u8 = 4;
    pub(super) const VERSIONS: u8 = 5;
    pub(super) const PULL_TRUST: u8 = 6;
    pub(super) const TRUST: u8 = 7;
    pub(super) const PULL_BLOCK: u8 = 8;
    pub(super) const BLOCK: u8 = 9;
    pub(super) const LOOK_UP: u8 = 10;
    pub(super) const LOOK_UP_ANSWER: u8 = 11;
    pub(super) const INTRODUCE: u8 = 12;
    pub(super) const KEEPALIVE: u8 = 13;
    pub(super) const KEEPALIVE_ANSWER: u8 = 14;
    pub(super) const CHALLENGE: u8 = 15;
    pub(super) const CHALLENGE_ANSWER: u8 = 16;
    pub(super) const PATH_PROBE: u8 = 17;
    pub(super) const PATH_ANSWER: u8 = 18;
    pub(super) const EXPLORE: u8 = 19;
}

/// The one type whose filling is part of what it says.
pub(super) const PATH_PROBE: u8 = kind::PATH_PROBE;

const RELAYS_MAX: usize = 4;

/// Reads a body. What is left of the fields is unknown, and ignored (control rule 6).
pub(super) fn read(kind: u8, body: &[u8]) -> Result<Frame, FrameError> {
    let known = matches!(kind, kind::JOIN_REQUEST..=kind::EXPLORE)
        || matches!(kind, names::kind::ASK_NAMES..=names::kind::MEMBER)
        || matches!(kind, renewal::kind::RENEW..=renewal::kind::PRESENT)
        || matches!(kind, admin::kind::TOKEN_NEW..=admin::kind::NODE_SET | admin::kind::DONE..=admin::kind::REFUSED);
    if !known {
        return Err(FrameError::Type(kind));
    }
    let mut fields = Fields::from_value(cbor::decode(body, FRAME_MAX)?, "body")?;
    let fields = &mut fields;
    let frame = match kind {
        kind::JOIN_REQUEST => Frame::JoinRequest(JoinRequest {
            token: fields.required(1, "token")?,
            proof: JoinProof::from_signature(fields.required(2, "proof")?),
            name: fields.optional(3, "name")?,
        }),
        kind::JOIN_ANSWER => Frame::JoinAnswer(JoinAnswer {
            time: fields.required(1, "time")?,
            outcome: match fields.optional(2, "membership")? {
                Some(membership) => Ok(membership),
                None => Err(fields.required(3, "refusal")?),
            },
        }),
        kind::SHOW => Frame::Show(Show {
            membership: fields.required(5, "membership")?,
            versions: read_versions(fields)?,
            answer: fields.optional(6, "answer")?.unwrap_or(false),
        }),
        kind::SHOW_REFUSED => Frame::ShowRefused(ShowRefused {
            time: fields.required(1, "time")?,
            reason: fields.required(3, "refusal")?,
        }),
        kind::VERSIONS => Frame::Versions(read_versions(fields)?),
        kind::PULL_TRUST => Frame::PullTrust,
        kind::TRUST => Frame::Trust(fields.required(1, "document")?),
        kind::PULL_BLOCK => Frame::PullBlock(PullBlock {
            hash: fields.required(1, "hash")?,
            index: fields.required(2, "index")?,
        }),
        kind::BLOCK => Frame::Block(Block {
            hash: fields.required(1, "hash")?,
            index: fields.required(2, "index")?,
            bytes: fields.required(3, "bytes")?,
        }),
        kind::LOOK_UP => {
            Frame::LookUp(LookUp { id: fields.required(1, "id")?, target: read_target(fields)? })
        }
        kind::LOOK_UP_ANSWER => {
            Frame::LookUpAnswer(LookUpAnswer { id: fields.required(1, "id")?, found: read_found(fields)? })
        }
        kind::INTRODUCE => Frame::Introduce(Introduce {
            node: fields.required(1, "node")?,
            key: fields.required(2, "key")?,
            candidates: read_candidates(fields, 3)?,
            membership: fields.required(4, "membership")?,
        }),
        kind::KEEPALIVE => Frame::Keepalive(Keepalive {
            order: fields.required(1, "order")?,
            candidates: read_candidates(fields, 2)?,
            relays: fields.list(4, "relays", RELAYS_MAX)?,
        }),
        kind::KEEPALIVE_ANSWER => Frame::KeepaliveAnswer(KeepaliveAnswer {
            order: fields.required(1, "order")?,
            observed: fields.required(2, "observed")?,
            trust_epoch: fields.required(3, "trust_epoch")?,
            network_counter: fields.required(4, "network_counter")?,
        }),
        kind::CHALLENGE => Frame::Challenge(fields.required(1, "nonce")?),
        kind::CHALLENGE_ANSWER => Frame::ChallengeAnswer(fields.required(1, "nonce")?),
        kind::EXPLORE => Frame::Explore(fields.required(1, "nonce")?),
        kind::PATH_PROBE => Frame::PathProbe { id: fields.required(1, "id")? },
        kind::PATH_ANSWER => {
            Frame::PathAnswer { id: fields.required(1, "id")?, size: fields.required(2, "size")? }
        }
        names::kind::ASK_NAMES..=names::kind::MEMBER => return names::read(kind, fields),
        renewal::kind::RENEW..=renewal::kind::PRESENT => return renewal::read(kind, fields),
        other => return admin::read(other, fields),
    };
    Ok(frame)
}

/// Number and body of a frame.
pub(super) fn write(frame: &Frame) -> (u8, Value) {
    let map = MapBuilder::default();
    let (kind, map) = match frame {
        Frame::JoinRequest(request) => {
            let map = map.put(1, &request.token).put(2, request.proof.signature());
            (kind::JOIN_REQUEST, map.put_some(3, request.name.as_ref()))
        }
        Frame::JoinAnswer(answer) => {
            let map = map.put(1, &answer.time);
            (
                kind::JOIN_ANSWER,
                match &answer.outcome {
                    Ok(membership) => map.put(2, membership),
                    Err(refusal) => map.put(3, refusal),
                },
            )
        }
        Frame::Show(show) => {
            let map = write_versions(map, &show.versions).put(5, &show.membership);
            (kind::SHOW, map.put_some(6, show.answer.then_some(&true)))
        }
        Frame::ShowRefused(refused) => {
            (kind::SHOW_REFUSED, map.put(1, &refused.time).put(3, &refused.reason))
        }
        Frame::Versions(versions) => (kind::VERSIONS, write_versions(map, versions)),
        Frame::PullTrust => (kind::PULL_TRUST, map),
        Frame::Trust(document) => (kind::TRUST, map.put(1, document)),
        Frame::PullBlock(pull) => (kind::PULL_BLOCK, map.put(1, &pull.hash).put(2, &pull.index)),
        Frame::Block(block) => {
            (kind::BLOCK, map.put(1, &block.hash).put(2, &block.index).put(3, &block.bytes))
        }
        Frame::LookUp(look_up) => {
            let map = map.put(1, &look_up.id);
            (
                kind::LOOK_UP,
                match &look_up.target {
                    Target::Address(address) => map.put(2, address),
                    Target::Name(name) => map.put(3, name),
                    Target::Node(node) => map.put(4, node),
                },
            )
        }
        Frame::LookUpAnswer(answer) => {
            let map = map.put(1, &answer.id);
            (
                kind::LOOK_UP_ANSWER,
                match &answer.found {
                    Some(found) => map
                        .put(2, &found.membership)
                        .put_list(3, &found.candidates)
                        .put_list(4, &found.relays),
                    None => map,
                },
            )
        }
        Frame::Introduce(introduce) => {
            let map = map.put(1, &introduce.node).put(2, &introduce.key);
            (kind::INTRODUCE, map.put_list(3, &introduce.candidates).put(4, &introduce.membership))
        }
        Frame::Keepalive(keepalive) => {
            let map = map.put(1, &keepalive.order).put_list(2, &keepalive.candidates);
            (kind::KEEPALIVE, map.put_list(4, &keepalive.relays))
        }
        Frame::KeepaliveAnswer(answer) => {
            let map = map.put(1, &answer.order).put(2, &answer.observed);
            (kind::KEEPALIVE_ANSWER, map.put(3, &answer.trust_epoch).put(4, &answer.network_counter))
        }
        Frame::Challenge(nonce) => (kind::CHALLENGE, map.put(1, nonce)),
        Frame::ChallengeAnswer(nonce) => (kind::CHALLENGE_ANSWER, map.put(1, nonce)),
        Frame::Explore(nonce) => (kind::EXPLORE, map.put(1, nonce)),
        Frame::AskNames(ask) => (names::kind::ASK_NAMES, map.put(1, &ask.epoch).put(2, &ask.index)),
        Frame::Names(list) => {
            let map = map.put(1, &list.epoch).put(2, &list.first).put(3, &list.total);
            (names::kind::NAMES, names::write_tags(map, 4, &list.tags))
        }
        Frame::AskMembers(tags) => (names::kind::ASK_MEMBERS, names::write_tags(map, 1, tags)),
        Frame::Member(membership) => (names::kind::MEMBER, map.put(1, membership)),
        Frame::Renew(node) => (renewal::kind::RENEW, map.put_some(1, node.as_ref())),
        Frame::RenewAnswer(answer) => (renewal::kind::RENEW_ANSWER, renewal::write_answer(map, answer)),
        Frame::AskTicket => (renewal::kind::ASK_TICKET, map),
        Frame::Ticket(ticket) => (renewal::kind::TICKET, map.put(1, &ticket.ticket).put(2, &ticket.expires)),
        Frame::Rotate(ticket) => (renewal::kind::ROTATE, map.put(1, ticket)),
        Frame::Leave => (renewal::kind::LEAVE, map),
        Frame::Left(time) => (renewal::kind::LEFT, map.put(1, time)),
        Frame::AskPresented => (renewal::kind::ASK_PRESENTED, map),
        Frame::Present(membership) => (renewal::kind::PRESENT, map.put(1, membership)),
        Frame::AdminRequest(request) => admin::write_request(map, request),
        Frame::AdminAnswer(answer) => admin::write_answer(map, answer),
        Frame::PathProbe { id } => (kind::PATH_PROBE, map.put(1, id)),
        Frame::PathAnswer { id, size } => (kind::PATH_ANSWER, map.put(1, id).put(2, size)),
    };
    (kind, map.build())
}

fn read_versions(fields: &mut Fields) -> Result<Versions, FieldError> {
    Ok(Versions {
        order: fields.required(1, "order")?,
        trust_epoch: fields.required(2, "trust_epoch")?,
        trust_hash: fields.required(3, "trust_hash")?,
        head: fields.optional(4, "head")?,
    })
}

fn write_versions(map: MapBuilder, versions: &Versions) -> MapBuilder {
    map.put(1, &versions.order)
        .put(2, &versions.trust_epoch)
        .put(3, &versions.trust_hash)
        .put_some(4, versions.head.as_ref())
}

/// Exactly one of the three.
fn read_target(fields: &mut Fields) -> Result<Target, FieldError> {
    let address = fields.optional(2, "address")?.map(Target::Address);
    let name = fields.optional(3, "name")?.map(Target::Name);
    let node = fields.optional(4, "node")?.map(Target::Node);
    let mut given = [address, name, node].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(target), None) => Ok(target),
        (None, _) => Err(FieldError::new("target", Problem::Missing)),
        (Some(_), Some(_)) => Err(FieldError::new("target", Problem::Contradiction)),
    }
}

fn read_found(fields: &mut Fields) -> Result<Option<Found>, FieldError> {
    let Some(membership) = fields.optional(2, "membership")? else { return Ok(None) };
    let candidates = read_candidates(fields, 3)?;
    Ok(Some(Found { membership, candidates, relays: fields.list(4, "relays", RELAYS_MAX)? }))
}

/// Candidates that can be none are left out: whoever named them gets nothing sent there (control rule 13).
fn read_candidates(fields: &mut Fields, key: u64) -> Result<Vec<SocketAddr>, FieldError> {
    let mut candidates: Vec<SocketAddr> = fields.list(key, "candidates", CANDIDATES_MAX)?;
    candidates.retain(|candidate| is_possible_candidate(*candidate, []));
    Ok(candidates)
}

impl Item for Order {
    fn to_value(&self) -> Value {
        Value::Array(vec![self.epoch.to_value(), self.sequence.to_value()])
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let parts = value.into_array().map_err(|_| Problem::WrongType)?;
        let [epoch, sequence] = <[Value; 2]>::try_from(parts).map_err(|_| Problem::WrongType)?;
        Ok(Self { epoch: u64::from_value(epoch)?, sequence: u64::from_value(sequence)? })
    }
}
