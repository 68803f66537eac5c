//! How keys and records stand in bytes: a key is one byte for its kind and what distinguishes it, a record is a
//! map with numbered fields in deterministic CBOR.

use std::net::IpAddr;

use ciborium::Value;
use tombolo_noise::PublicKey;

use super::{Claim, Key, NodeRecord, Published, Record, RegisterError, Settings, TokenRecord};
use crate::cbor::{self, FieldError, Fields, Item, MapBuilder, Problem};
use crate::document::Revocation;
use crate::{KeyId, NodeId};

/// More than the largest record: the network document.
const RECORD_MAX: usize = crate::document::NETWORK_MAX + 1024;

const SETTINGS: u8 = 1;
const TRUST: u8 = 2;
const PUBLISHED: u8 = 3;
const NODE: u8 = 4;
const NAME: u8 = 5;
const ADDRESS: u8 = 6;
const STATIC_KEY: u8 = 7;
const TOKEN: u8 = 8;
const REVOKED: u8 = 9;

impl Key {
    /// The key as bytes, in the order of the keys within each kind.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, rest) = match self {
            Self::Settings => (SETTINGS, Vec::new()),
            Self::Trust => (TRUST, Vec::new()),
            Self::Published => (PUBLISHED, Vec::new()),
            Self::Node(node) => (NODE, node.as_bytes().to_vec()),
            Self::Name(name) => (NAME, name.as_str().as_bytes().to_vec()),
            Self::Address(IpAddr::V4(address)) => (ADDRESS, address.octets().to_vec()),
            Self::Address(IpAddr::V6(address)) => (ADDRESS, address.octets().to_vec()),
            Self::StaticKey(key) => (STATIC_KEY, key.as_bytes().to_vec()),
            Self::Token(token) => (TOKEN, token.as_bytes().to_vec()),
            Self::Revoked(revocation) => (REVOKED, cbor::encode(&revocation.to_value())),
        };
        [vec![kind], rest].concat()
    }

    /// Reads what [`Key::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`RegisterError::Key`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RegisterError> {
        let (&kind, rest) = bytes.split_first().ok_or(RegisterError::Key)?;
        let key = match kind {
            SETTINGS => Some(Self::Settings),
            TRUST => Some(Self::Trust),
            PUBLISHED => Some(Self::Published),
            NODE => rest.try_into().ok().map(|node| Self::Node(NodeId::from_bytes(node))),
            NAME => std::str::from_utf8(rest).ok().and_then(|name| name.parse().ok()).map(Self::Name),
            ADDRESS => IpAddr::from_value(Value::Bytes(rest.to_vec())).ok().map(Self::Address),
            STATIC_KEY => rest.try_into().ok().map(|key| Self::StaticKey(PublicKey::from_bytes(key))),
            TOKEN => rest.try_into().ok().map(|token| Self::Token(KeyId::from_bytes(token))),
            REVOKED => {
                let value = cbor::decode(rest, 128)?;
                Revocation::from_value(value).ok().map(Self::Revoked)
            }
            _ => None,
        };
        key.ok_or(RegisterError::Key)
    }
}

impl Record {
    /// The record as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let map = MapBuilder::default();
        let map = match self {
            Self::Settings(settings) => write_settings(map, settings),
            Self::Trust(document) => map.put(1, document),
            Self::Published(published) => map.put(1, &published.network).put_some(2, published.head.as_ref()),
            Self::Node(node) => write_node(map, node),
            Self::Claim(claim) => {
                map.put(1, &claim.node).put_some(2, claim.until.as_ref()).put(3, &claim.burned)
            }
            Self::Token(token) => write_token(map, token),
            Self::Revoked(until) => map.put(1, until),
        };
        cbor::encode(&map.build())
    }

    /// Reads what [`Record::to_bytes`] wrote under `key`.
    ///
    /// # Errors
    /// Says what is damaged.
    pub fn from_bytes(key: &Key, bytes: &[u8]) -> Result<Self, RegisterError> {
        let mut fields = Fields::from_value(cbor::decode(bytes, RECORD_MAX)?, "record")?;
        let fields = &mut fields;
        Ok(match key {
            Key::Settings => Self::Settings(Box::new(read_settings(fields)?)),
            Key::Trust => Self::Trust(fields.required(1, "document")?),
            Key::Published => Self::Published(Published {
                network: fields.required(1, "network")?,
                head: fields.optional(2, "head")?,
            }),
            Key::Node(_) => Self::Node(Box::new(read_node(fields)?)),
            Key::Name(_) | Key::Address(_) | Key::StaticKey(_) => Self::Claim(Claim {
                node: fields.required(1, "node")?,
                until: fields.optional(2, "until")?,
                burned: fields.required(3, "burned")?,
            }),
            Key::Token(_) => Self::Token(Box::new(read_token(fields)?)),
            Key::Revoked(_) => Self::Revoked(fields.required(1, "until")?),
        })
    }
}

fn write_settings(map: MapBuilder, settings: &Settings) -> MapBuilder {
    map.put(1, &settings.network)
        .put_set(2, &settings.cidrs)
        .put(3, &settings.domain)
        .put_set(4, &settings.groups)
        .put_set(5, &settings.admin_groups)
        .put_set(6, &settings.routes)
        .put_list(7, &settings.servers)
        .put(8, &settings.refuse_when_stale)
        .put(9, &settings.lifetime)
        .put(10, &settings.grace)
        .put_some(11, settings.recovering_until.as_ref())
        .put(12, &settings.root)
        .put_some(13, Some(&settings.serial_floor).filter(|floor| **floor > 0))
        .put_some(14, settings.rotation.as_ref())
}

fn read_settings(fields: &mut Fields) -> Result<Settings, FieldError> {
    Ok(Settings {
        network: fields.required(1, "network")?,
        cidrs: fields.set(2, "cidrs", 4)?,
        domain: fields.required(3, "domain")?,
        groups: fields.set(4, "groups", 1024)?,
        admin_groups: fields.set(5, "admin_groups", 1024)?,
        routes: fields.set(6, "routes", 1024)?,
        servers: fields.list(7, "servers", 64)?,
        refuse_when_stale: fields.required(8, "refuse_when_stale")?,
        lifetime: fields.required(9, "lifetime")?,
        grace: fields.required(10, "grace")?,
        recovering_until: fields.optional(11, "recovering_until")?,
        root: fields.required(12, "root")?,
        serial_floor: fields.optional(13, "serial_floor")?.unwrap_or_default(),
        rotation: fields.optional(14, "rotation")?,
    })
}

fn write_node(map: MapBuilder, node: &NodeRecord) -> MapBuilder {
    let former = node.former_key.map(|(key, at)| Pair(*key.as_bytes(), at));
    map.put(1, &node.node)
        .put(2, &node.name)
        .put_set(3, &node.addresses)
        .put(4, node.key.as_bytes())
        .put_some(5, former.as_ref())
        .put_set(6, &node.groups)
        .put_set(7, &node.routes)
        .put(8, &node.roles)
        .put(9, &node.serial)
        .put(10, &node.membership)
        .put(11, &node.not_after)
        .put(12, &node.released_at)
        .put(13, &node.joined)
        .put_some(14, node.token.as_ref())
        .put_some(15, node.ephemeral.as_ref())
        .put_some(16, node.presented_by.as_ref())
}

fn read_node(fields: &mut Fields) -> Result<NodeRecord, FieldError> {
    let former: Option<Pair<32, tombolo_noise::clock::UnixTime>> = fields.optional(5, "former_key")?;
    Ok(NodeRecord {
        node: fields.required(1, "node")?,
        name: fields.required(2, "name")?,
        addresses: fields.set(3, "addresses", 4)?,
        // What was written was a usable key: not worth an X25519 for each of ten thousand nodes.
        key: PublicKey::from_bytes(fields.required(4, "key")?),
        former_key: former.map(|Pair(key, at)| (PublicKey::from_bytes(key), at)),
        groups: fields.set(6, "groups", 16)?,
        routes: fields.set(7, "routes", 16)?,
        roles: fields.required(8, "roles")?,
        serial: fields.required(9, "serial")?,
        membership: fields.required(10, "membership")?,
        not_after: fields.required(11, "not_after")?,
        released_at: fields.required(12, "released_at")?,
        joined: fields.required(13, "joined")?,
        token: fields.optional(14, "token")?,
        ephemeral: fields.optional(15, "ephemeral")?,
        presented_by: fields.optional(16, "presented_by")?,
    })
}

fn write_token(map: MapBuilder, token: &TokenRecord) -> MapBuilder {
    let spender = token.first_spender.map(|(node, key)| Pair(*key.as_bytes(), node));
    map.put(1, &token.key)
        .put(2, &token.expires)
        .put(3, &token.uses_left)
        .put_some(4, spender.as_ref())
        .put_some(5, token.name.as_ref())
        .put_set(6, &token.groups)
        .put_set(7, &token.routes)
        .put(8, &token.roles)
        .put_some(9, token.ephemeral.as_ref())
        .put_some(10, token.replaces.as_ref())
}

fn read_token(fields: &mut Fields) -> Result<TokenRecord, FieldError> {
    let spender: Option<Pair<32, NodeId>> = fields.optional(4, "first_spender")?;
    Ok(TokenRecord {
        key: fields.required(1, "key")?,
        expires: fields.required(2, "expires")?,
        uses_left: fields.required(3, "uses_left")?,
        first_spender: spender.map(|Pair(key, node)| (node, PublicKey::from_bytes(key))),
        name: fields.optional(5, "name")?,
        groups: fields.set(6, "groups", 16)?,
        routes: fields.set(7, "routes", 16)?,
        roles: fields.required(8, "roles")?,
        ephemeral: fields.optional(9, "ephemeral")?,
        replaces: fields.optional(10, "replaces")?,
    })
}

/// Bytes and something else.
struct Pair<const N: usize, T>([u8; N], T);

impl<const N: usize, T: Item> Item for Pair<N, T> {
    fn to_value(&self) -> Value {
        Value::Array(vec![self.0.to_value(), self.1.to_value()])
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let parts = value.into_array().map_err(|_| Problem::WrongType)?;
        let [bytes, other] = <[Value; 2]>::try_from(parts).map_err(|_| Problem::WrongType)?;
        Ok(Self(Item::from_value(bytes)?, T::from_value(other)?))
    }
}
