//! The files' forms: JSON, with bytes as hexadecimal digits.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tombolo_control::document::Version;
use tombolo_control::node::{NamedNode, SavedDocuments, SavedPeer};
use tombolo_control::verifier::{Overlay, Pins};
use tombolo_control::{DocumentHash, Fingerprint, KeyId, NetworkId, NodeId};
use tombolo_noise::clock::UnixTime;

const VERSION: u32 = 1;

/// `clock.json`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Clock {
    /// Seconds of Unix time that a signed document confirmed.
    pub(super) confirmed: u64,
    pub(super) epoch: u64,
    /// Since when the static key is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key_since: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembershipForm {
    tombolo_membership: u32,
    network: String,
    root: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overlay: Option<OverlayForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floor: Option<FloorForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust_document: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network_document: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    membership: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverlayForm {
    cidrs: BTreeSet<IpNet>,
    domain: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FloorForm {
    epoch: u64,
    counter: u64,
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MembersForm {
    tombolo_members: u32,
    members: Vec<MemberForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    membership: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamesForm {
    tombolo_names: u32,
    names: Vec<NameForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameForm {
    node: String,
    key: String,
    serial: u64,
    signer: String,
    name: String,
    addresses: BTreeSet<IpAddr>,
    half: u64,
    until: u64,
}

/// Bytes as digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

/// Digits as bytes.
pub(crate) fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    base16ct::lower::decode_vec(text).map_err(|_| "not hexadecimal digits".to_owned())
}

fn array<const N: usize>(text: &str) -> Result<[u8; N], String> {
    from_hex(text)?.try_into().map_err(|_| format!("not {N} bytes"))
}

fn optional(text: Option<&String>) -> Result<Option<Vec<u8>>, String> {
    text.map(|text| from_hex(text)).transpose()
}

pub(super) fn write_membership(documents: &SavedDocuments, membership: Option<&[u8]>) -> Vec<u8> {
    let pins = &documents.pins;
    let form = MembershipForm {
        tombolo_membership: VERSION,
        network: pins.network.to_string(),
        root: pins.root.to_string(),
        overlay: pins
            .overlay
            .as_ref()
            .map(|overlay| OverlayForm { cidrs: overlay.cidrs.clone(), domain: overlay.domain.to_string() }),
        floor: documents.floor.map(|(version, hash)| FloorForm {
            epoch: version.epoch,
            counter: version.counter,
            hash: hash.to_string(),
        }),
        trust_document: documents.trust.as_deref().map(to_hex),
        network_document: documents.network.as_deref().map(to_hex),
        head: documents.head.as_deref().map(to_hex),
        membership: membership.map(to_hex),
    };
    // A struct of strings and numbers always has a JSON form; an empty file would read as damaged.
    serde_json::to_vec_pretty(&form).unwrap_or_default()
}

/// What was saved of documents, and the membership.
///
/// # Errors
/// What is wrong with the file.
pub fn read_membership(bytes: &[u8]) -> Result<(SavedDocuments, Option<Vec<u8>>), String> {
    let form: MembershipForm = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if form.tombolo_membership != VERSION {
        return Err(format!("its version is {}, this program reads {VERSION}", form.tombolo_membership));
    }
    let overlay = match form.overlay {
        Some(overlay) => Some(Overlay {
            cidrs: overlay.cidrs,
            domain: overlay.domain.parse().map_err(|error: tombolo_control::NameError| error.to_string())?,
        }),
        None => None,
    };
    let floor = match &form.floor {
        Some(floor) => Some((
            Version { epoch: floor.epoch, counter: floor.counter },
            DocumentHash::from_bytes(array(&floor.hash)?),
        )),
        None => None,
    };
    let documents = SavedDocuments {
        pins: Pins {
            network: NetworkId::from_bytes(array(&form.network)?),
            root: Fingerprint::from_bytes(array(&form.root)?),
            overlay,
        },
        floor,
        trust: optional(form.trust_document.as_ref())?,
        network: optional(form.network_document.as_ref())?,
        head: optional(form.head.as_ref())?,
    };
    Ok((documents, optional(form.membership.as_ref())?))
}

pub(super) fn write_members<'a>(members: impl Iterator<Item = &'a SavedPeer>) -> Vec<u8> {
    let members = members
        .map(|member| MemberForm { membership: to_hex(&member.membership), endpoint: member.endpoint });
    let form = MembersForm { tombolo_members: VERSION, members: members.collect() };
    serde_json::to_vec_pretty(&form).unwrap_or_default()
}

/// What was saved of members.
///
/// # Errors
/// What is wrong with the file.
pub fn read_members(bytes: &[u8]) -> Result<Vec<SavedPeer>, String> {
    let form: MembersForm = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if form.tombolo_members != VERSION {
        return Err(format!("its version is {}, this program reads {VERSION}", form.tombolo_members));
    }
    let read = |member: &MemberForm| -> Result<SavedPeer, String> {
        Ok(SavedPeer { membership: from_hex(&member.membership)?, endpoint: member.endpoint })
    };
    form.members.iter().map(read).collect()
}

pub(super) fn write_names(names: impl Iterator<Item = NamedNode>) -> Vec<u8> {
    let names = names.map(|named| NameForm {
        node: named.node.to_string(),
        key: named.key.to_string(),
        serial: named.serial,
        signer: named.signer.to_string(),
        name: named.name.to_string(),
        addresses: named.addresses,
        half: named.half.0.as_secs(),
        until: named.until.0.as_secs(),
    });
    let form = NamesForm { tombolo_names: VERSION, names: names.collect() };
    serde_json::to_vec(&form).unwrap_or_default()
}

/// What was saved of names.
///
/// # Errors
/// What is wrong with the file.
pub fn read_names(bytes: &[u8]) -> Result<Vec<NamedNode>, String> {
    let form: NamesForm = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if form.tombolo_names != VERSION {
        return Err(format!("its version is {}, this program reads {VERSION}", form.tombolo_names));
    }
    let read = |named: NameForm| -> Result<NamedNode, String> {
        Ok(NamedNode {
            node: NodeId::from_bytes(array(&named.node)?),
            key: named.key.parse().map_err(|error| format!("{error}"))?,
            serial: named.serial,
            signer: KeyId::from_bytes(array(&named.signer)?),
            name: named.name.parse().map_err(|error: tombolo_control::NameError| error.to_string())?,
            addresses: named.addresses,
            half: UnixTime(Duration::from_secs(named.half)),
            until: UnixTime(Duration::from_secs(named.until)),
        })
    };
    form.names.into_iter().map(read).collect()
}
