//! The list of names: what a node must know to write all of them down before anybody asks (control rule 7: a lighthouse
//! can withhold a name, and not make one up, since what it lists is fetched as signed memberships).

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_noise::PublicKey;

use super::{Frame, FrameError};
use crate::cbor::{FieldError, Fields, MapBuilder, Problem};
use crate::document::Membership;
use crate::signing::sha256;
use crate::{NodeId, NodeName};

/// Length of a tag in bytes.
pub const TAG_LEN: usize = 8;

/// Tags in one frame at most.
pub const TAGS_MAX: usize = 96;

/// Stands for one node with its key, name and addresses; another membership of the same has the same tag. Zeros stand for
/// a place of the list with nothing for the asker.
pub type Tag = [u8; TAG_LEN];

/// The tag of a membership: the first bytes of `SHA-256("tombolo name tag v1" ‖ node id ‖ static key ‖ addresses ‖ name)`, each
/// address being the length of its bytes in one byte, and its bytes.
pub fn tag_of(member: &Membership) -> Tag {
    tag(&member.node, &member.key, &member.addresses, &member.name)
}

/// The tag of a node with a key, addresses and a name.
pub fn tag(node: &NodeId, key: &PublicKey, addresses: &BTreeSet<IpAddr>, name: &NodeName) -> Tag {
    let mut bytes = Vec::with_capacity(4 * 17);
    for address in addresses {
        match address {
            IpAddr::V4(v4) => {
                bytes.push(4);
                bytes.extend(v4.octets());
            }
            IpAddr::V6(v6) => {
                bytes.push(16);
                bytes.extend(v6.octets());
            }
        }
    }
    let (node, key, name) = (node.as_bytes(), key.as_bytes(), name.as_str().as_bytes());
    let hash = sha256(&[b"tombolo name tag v1", node, key, &bytes, name]);
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(&hash[..TAG_LEN]);
    tag
}

/// [`Frame::AskNames`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskNames {
    /// Which list the asker has a part of; 0 for none.
    pub epoch: u64,
    /// How much of it: so many places from the first.
    pub index: u64,
}

/// [`Frame::Names`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Which list; another one begins from its first place.
    pub epoch: u64,
    /// The place of the first tag.
    pub first: u64,
    /// Length of the list.
    pub total: u64,
    /// At most [`TAGS_MAX`].
    pub tags: Vec<Tag>,
}

pub(super) mod kind {
    pub(crate) const ASK_NAMES: u8 = 26;
    pub(crate) const NAMES: u8 = 27;
    pub(crate) const ASK_MEMBERS: u8 = 28;
    pub(crate) const MEMBER: u8 = 29;
}

/// Reads the body of one of these types.
pub(super) fn read(kind: u8, fields: &mut Fields) -> Result<Frame, FrameError> {
    Ok(match kind {
        kind::ASK_NAMES => Frame::AskNames(AskNames {
            epoch: fields.required(1, "epoch")?,
            index: fields.required(2, "index")?,
        }),
        kind::NAMES => Frame::Names(Names {
            epoch: fields.required(1, "epoch")?,
            first: fields.required(2, "first")?,
            total: fields.required(3, "total")?,
            tags: read_tags(fields, 4)?,
        }),
        kind::ASK_MEMBERS => Frame::AskMembers(read_tags(fields, 1)?),
        kind::MEMBER => Frame::Member(fields.required(1, "membership")?),
        other => return Err(FrameError::Type(other)),
    })
}

fn read_tags(fields: &mut Fields, key: u64) -> Result<Vec<Tag>, FieldError> {
    let wrong = FieldError::new("tags", Problem::WrongType);
    let bytes: Vec<u8> = fields.optional(key, "tags")?.unwrap_or_default();
    let (tags, rest) = bytes.as_chunks::<TAG_LEN>();
    if !rest.is_empty() || tags.len() > TAGS_MAX {
        return Err(wrong);
    }
    Ok(tags.to_vec())
}

/// The fields of tags; none where there are none.
pub(super) fn write_tags(map: MapBuilder, key: u64, tags: &[Tag]) -> MapBuilder {
    let bytes = tags.concat();
    map.put_some(key, Some(&bytes).filter(|bytes| !bytes.is_empty()))
}
