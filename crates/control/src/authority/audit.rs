//! The audit log: who changed what, and when, as a chain of hashes whose head stands in the network document (control
//! rule 7).
//!
//! An entry is a map in deterministic CBOR; its hash is the SHA-256 of its bytes, in which the hash of the entry before
//! stands. So whoever has a network document can tell whether a log that is shown to him later was changed
//! before that.

use ciborium::Value;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use crate::cbor::{self, CborError, FieldError, Fields, Item, MapBuilder, Problem, choice, next};
use crate::{DocumentHash, KeyId, NodeId, NodeName};

/// Longest text in an entry, in bytes.
const TEXT_MAX: usize = 256;

/// An entry is smaller.
const ENTRY_MAX: usize = 1024;

/// Who changed something. Nodes are named by their ids, never by names alone (control rule 4).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Actor {
    /// The authority by itself, because something was due.
    Authority,
    /// Somebody at the local socket: as the system calls them.
    Local(String),
    /// A member.
    Node(NodeId),
    /// The holder of a token.
    Token(KeyId),
    /// The holder of the root key.
    Root,
    /// A member of an admin group, from afar: by its id, and the name that it had then.
    Administrator(NodeId, NodeName),
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $text:literal;)*) => {
        /// What was changed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ChangeKind {
            $($(#[$doc])* $variant,)*
            /// A kind that this version does not know.
            Other(u8),
        }

        impl ChangeKind {
            const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* Self::Other(code) => code }
            }

            const fn from_code(code: u8) -> Self {
                match code { $($code => Self::$variant,)* other => Self::Other(other) }
            }

            /// For people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* Self::Other(_) => "something unknown" }
            }
        }
    };
}

kinds! {
    /// The network was made.
    Created = 1, "network created";
    /// A trust document was installed.
    Trust = 2, "trust document installed";
    /// A token was made.
    TokenNew = 3, "token made";
    /// A token was revoked.
    TokenRevoke = 4, "token revoked";
    /// A node joined.
    Join = 5, "node joined";
    /// A membership was renewed.
    Renew = 6, "membership renewed";
    /// A static key was changed.
    Rotate = 7, "static key rotated";
    /// A former static key was revoked.
    Retire = 8, "former static key revoked";
    /// A node left.
    Leave = 9, "node left";
    /// A node was added by its public key.
    NodeAdd = 10, "node added";
    /// A node's place was taken by another.
    Replace = 11, "node replaced";
    /// A node was revoked.
    RevokeNode = 12, "node revoked";
    /// A static key was revoked.
    RevokeKey = 13, "static key revoked";
    /// Memberships up to a serial were revoked.
    RevokeSerial = 14, "memberships revoked";
    /// A node was renamed.
    Rename = 15, "node renamed";
    /// The network's settings were changed.
    NetworkSet = 16, "network changed";
    /// A node was gone or had expired for good.
    Gone = 17, "node gone";
    /// The register was restored from a backup.
    Restored = 18, "register restored";
    /// A node showed a membership after a restore.
    Adopted = 19, "node adopted";
    /// A node showed a newer network document after a restore.
    Witnessed = 20, "network document taken from a node";
    /// What a node may was changed.
    NodeSet = 21, "node changed";
    /// A token that was spent was tried by another key: names the first spender (control rule 15). Nothing was changed.
    TokenReused = 22, "spent token tried by another key";
    /// After a restore a node claimed what another has. Nothing was changed.
    Disputed = 23, "claim of another's name, address or key refused";
}

/// One change, before it has its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub time: UnixTime,
    /// Who.
    pub actor: Actor,
    /// What.
    pub kind: ChangeKind,
    /// Which node.
    pub node: Option<NodeId>,
    /// Which token.
    pub token: Option<KeyId>,
    /// Which static key.
    pub key: Option<PublicKey>,
    /// The rest, for people.
    pub text: Option<String>,
}

impl Change {
    /// A change of nothing in particular.
    pub fn new(time: UnixTime, actor: Actor, kind: ChangeKind) -> Self {
        Self { time, actor, kind, node: None, token: None, key: None, text: None }
    }
}

/// The newest entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// Its number, from 1.
    pub sequence: u64,
    /// Its hash.
    pub hash: DocumentHash,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub sequence: u64,
    /// Hash of the entry before; none for the first.
    pub previous: Option<DocumentHash>,
    /// What was changed.
    pub change: Change,
}

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// An entry is not in the deterministic encoding.
    #[error("entry {sequence} of the audit log cannot be read: {error}")]
    Cbor {
        /// Which, from 1.
        sequence: u64,
        /// Why.
        error: CborError,
    },
    /// A field of an entry is missing or malformed.
    #[error("entry {sequence} of the audit log cannot be read: {error}")]
    Field {
        /// Which, from 1.
        sequence: u64,
        /// Why.
        error: FieldError,
    },
    /// An entry does not follow the one before: something was changed, left out or put in.
    #[error(
        "entry {0} of the audit log does not follow the one before it: one of the two was changed, or entries were left out or \
         put in"
    )]
    Broken(u64),
}

/// Puts a change into the chain: the entry's bytes, and the new head.
pub fn chain(head: Option<AuditHead>, change: &Change) -> (Vec<u8>, AuditHead) {
    let sequence = head.map_or(1, |head| head.sequence.saturating_add(1));
    let entry = Entry { sequence, previous: head.map(|head| head.hash), change: change.clone() };
    let bytes = entry.to_bytes();
    let hash = DocumentHash::of(&bytes);
    (bytes, AuditHead { sequence, hash })
}

/// Follows the chain from its first entry. Gives the head, which is to be that of the network document or later.
///
/// # Errors
/// Names the first entry that does not fit.
pub fn verify<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<AuditHead>, AuditError> {
    entries.into_iter().try_fold(None, |head, bytes| follow(head, bytes).map(|(_, head)| Some(head)))
}

/// Reads the entry behind `head`.
///
/// # Errors
/// When it cannot be read, or is not the one that follows.
pub fn follow(head: Option<AuditHead>, bytes: &[u8]) -> Result<(Entry, AuditHead), AuditError> {
    let sequence = head.map_or(1, |head| head.sequence.saturating_add(1));
    let value = cbor::decode(bytes, ENTRY_MAX).map_err(|error| AuditError::Cbor { sequence, error })?;
    let entry = Entry::read(value).map_err(|error| AuditError::Field { sequence, error })?;
    if entry.sequence != sequence || entry.previous != head.map(|head| head.hash) {
        return Err(AuditError::Broken(sequence));
    }
    Ok((entry, AuditHead { sequence, hash: DocumentHash::of(bytes) }))
}

/// Cut to [`TEXT_MAX`] bytes.
fn cut(text: &str) -> Value {
    Value::Text(text[..text.floor_char_boundary(TEXT_MAX)].to_owned())
}

struct Text(String);

impl Item for Text {
    fn to_value(&self) -> Value {
        cut(&self.0)
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        value.into_text().map(Self).map_err(|_| Problem::WrongType)
    }
}

impl Item for Actor {
    fn to_value(&self) -> Value {
        Value::Array(match self {
            Self::Authority => vec![0_u64.to_value()],
            Self::Local(who) => vec![1_u64.to_value(), cut(who)],
            Self::Node(node) => vec![2_u64.to_value(), node.to_value()],
            Self::Token(token) => vec![3_u64.to_value(), token.to_value()],
            Self::Root => vec![4_u64.to_value()],
            Self::Administrator(node, name) => vec![5_u64.to_value(), node.to_value(), name.to_value()],
        })
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let (kind, mut parts) = choice(value)?;
        match kind {
            0 => Ok(Self::Authority),
            1 => next(&mut parts).map(|Text(text)| Self::Local(text)),
            2 => next(&mut parts).map(Self::Node),
            3 => next(&mut parts).map(Self::Token),
            4 => Ok(Self::Root),
            5 => Ok(Self::Administrator(next(&mut parts)?, next(&mut parts)?)),
            _ => Err(Problem::UnknownField),
        }
    }
}

impl Entry {
    fn to_bytes(&self) -> Vec<u8> {
        let change = &self.change;
        let key = change.key.map(|key| *key.as_bytes());
        let map = MapBuilder::default()
            .put(1, &self.sequence)
            .put_some(2, self.previous.as_ref())
            .put(3, &change.time)
            .put(4, &change.actor)
            .put(5, &change.kind.code())
            .put_some(6, change.node.as_ref())
            .put_some(7, change.token.as_ref())
            .put_some(8, key.as_ref())
            .put_some(9, change.text.clone().map(Text).as_ref());
        cbor::encode(&map.build())
    }

    fn read(value: Value) -> Result<Self, FieldError> {
        let mut fields = Fields::from_value(value, "entry")?;
        Ok(Self {
            sequence: fields.required(1, "sequence")?,
            previous: fields.optional(2, "previous")?,
            change: Change {
                time: fields.required(3, "time")?,
                actor: fields.required(4, "actor")?,
                kind: ChangeKind::from_code(fields.required(5, "kind")?),
                node: fields.optional(6, "node")?,
                token: fields.optional(7, "token")?,
                key: fields.optional(8, "key")?.map(PublicKey::from_bytes),
                text: fields.optional::<Text>(9, "text")?.map(|text| text.0),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{TODAY, day, node, static_key};

    fn log(count: u8) -> (Vec<Vec<u8>>, Option<AuditHead>) {
        let mut head = None;
        let mut entries = Vec::new();
        for number in 0..count {
            let mut change =
                Change::new(day(TODAY), Actor::Local(format!("uid {number}")), ChangeKind::RevokeNode);
            (change.node, change.key) = (Some(node(number)), Some(static_key(number)));
            change.text = Some("ü".repeat(200));
            let (bytes, next) = chain(head, &change);
            entries.push(bytes);
            head = Some(next);
        }
        (entries, head)
    }

    #[test]
    fn the_log_is_a_chain_of_hashes_control_rule_7() {
        let (entries, head) = log(4);
        assert_eq!(verify(entries.iter().map(Vec::as_slice)), Ok(head));
        let first = follow(None, &entries[0]).unwrap().0;
        assert_eq!((first.change.kind.text(), first.change.node), ("node revoked", Some(node(0))));
        assert_eq!(first.change.text.map(|text| text.len()), Some(256), "cut at a character");
    }

    #[test]
    fn what_was_changed_left_out_or_put_in_is_noticed_control_rule_7() {
        let (entries, _) = log(4);
        for change in 0..3 {
            let mut entries = entries.clone();
            match change {
                0 => drop(entries.remove(1)),
                1 => entries.swap(1, 2),
                _ => {
                    // Another time, in the deterministic encoding: only the hash tells.
                    let (mut entry, _) = follow(None, &entries[0]).unwrap();
                    entry.change.time = day(TODAY + 1);
                    entries[0] = entry.to_bytes();
                }
            }
            assert_eq!(verify(entries.iter().map(Vec::as_slice)), Err(AuditError::Broken(2)), "{change}");
        }
    }
}
