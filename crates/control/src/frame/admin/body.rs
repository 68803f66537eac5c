//! How requests and answers stand in their fields. Field 1 is the id.

use ciborium::Value;
use ipnet::IpNet;

use super::{
    AdminAnswer, AdminRequest, DETAIL_MAX, NetworkChange, NetworkInfo, NodeChange, NodeDetail, NodeInfo,
    NodeSelector, NodeSpec, Operation, PAGE_MAX, Page, Reply, RevokeTarget, TokenGrant, TokenInfo, TokenSpec,
};
use crate::cbor::{FieldError, Fields, Item, MapBuilder, Problem, choice, end, next};
use crate::document::Roles;
use crate::frame::{Frame, FrameError};

pub(crate) mod kind {
    pub(crate) const TOKEN_NEW: u8 = 40;
    pub(crate) const TOKEN_LIST: u8 = 41;
    pub(crate) const TOKEN_REVOKE: u8 = 42;
    pub(crate) const NODE_LIST: u8 = 43;
    pub(crate) const NODE_SHOW: u8 = 44;
    pub(crate) const NODE_ADD: u8 = 45;
    pub(crate) const NODE_REPLACE: u8 = 46;
    pub(crate) const NODE_REVOKE: u8 = 47;
    pub(crate) const NODE_RENAME: u8 = 48;
    pub(crate) const NETWORK_SHOW: u8 = 49;
    pub(crate) const NETWORK_SET: u8 = 50;
    pub(crate) const NODE_SET: u8 = 51;
    pub(crate) const DONE: u8 = 53;
    pub(crate) const GRANTED: u8 = 54;
    pub(crate) const TOKENS: u8 = 55;
    pub(crate) const NODES: u8 = 56;
    pub(crate) const NODE: u8 = 57;
    pub(crate) const NETWORK: u8 = 58;
    pub(crate) const REFUSED: u8 = 59;
}

const GROUPS_MAX: usize = 16;
const ROUTES_MAX: usize = 16;
const ENDPOINTS_MAX: usize = 8;
const LISTED_GROUPS_MAX: usize = 16;

/// Reads the body of one of these types.
pub(crate) fn read(kind: u8, fields: &mut Fields) -> Result<Frame, FrameError> {
    let id = fields.required(1, "id")?;
    if kind <= kind::NODE_SET {
        return Ok(Frame::AdminRequest(AdminRequest { id, operation: read_operation(kind, fields)? }));
    }
    let reply = match kind {
        kind::DONE => Reply::Done,
        kind::GRANTED => Reply::Granted(TokenGrant {
            network: fields.required(2, "network")?,
            server_key: fields.required(3, "server_key")?,
            root: fields.required(4, "root")?,
            endpoints: fields.list(5, "endpoints", ENDPOINTS_MAX)?,
            expires: fields.required(6, "expires")?,
        }),
        kind::TOKENS => Reply::Tokens(read_page(fields)?),
        kind::NODES => Reply::Nodes(read_page(fields)?),
        kind::NODE => Reply::Node(Box::new(read_detail(fields)?)),
        kind::NETWORK => Reply::Network(Box::new(read_network(fields)?)),
        kind::REFUSED => Reply::Refused {
            reason: fields.required(2, "reason")?,
            detail: fields.optional::<Detail>(3, "detail")?.unwrap_or_default().0,
        },
        other => return Err(FrameError::Type(other)),
    };
    Ok(Frame::AdminAnswer(AdminAnswer { id, reply }))
}

fn read_operation(kind: u8, fields: &mut Fields) -> Result<Operation, FrameError> {
    Ok(match kind {
        kind::TOKEN_NEW => Operation::TokenNew(read_token_spec(fields)?),
        kind::TOKEN_LIST => Operation::TokenList(fields.optional(2, "after")?),
        kind::TOKEN_REVOKE => Operation::TokenRevoke(fields.required(2, "token")?),
        kind::NODE_LIST => Operation::NodeList(fields.optional(2, "after")?),
        kind::NODE_SHOW => Operation::NodeShow(fields.required(2, "node")?),
        kind::NODE_ADD => Operation::NodeAdd(NodeSpec {
            key: fields.required(2, "key")?,
            name: fields.required(3, "name")?,
            groups: fields.set(4, "groups", GROUPS_MAX)?,
            presented_by: fields.optional(5, "presented_by")?,
        }),
        kind::NODE_REPLACE => Operation::NodeReplace(fields.required(12, "node")?, read_token_spec(fields)?),
        kind::NODE_REVOKE => Operation::NodeRevoke(fields.required(2, "target")?),
        kind::NODE_RENAME => Operation::NodeRename(fields.required(2, "node")?, fields.required(3, "name")?),
        kind::NODE_SET => Operation::NodeSet(fields.required(2, "node")?, read_node_change(fields)?),
        kind::NETWORK_SHOW => Operation::NetworkShow,
        kind::NETWORK_SET => Operation::NetworkSet(fields.required(2, "change")?),
        other => return Err(FrameError::Type(other)),
    })
}

/// Type and fields of a request.
pub(crate) fn write_request(map: MapBuilder, request: &AdminRequest) -> (u8, MapBuilder) {
    write_operation(map.put(1, &request.id), &request.operation)
}

/// Type and fields of an answer.
pub(crate) fn write_answer(map: MapBuilder, answer: &AdminAnswer) -> (u8, MapBuilder) {
    write_reply(map.put(1, &answer.id), &answer.reply)
}

fn write_operation(map: MapBuilder, operation: &Operation) -> (u8, MapBuilder) {
    match operation {
        Operation::TokenNew(spec) => (kind::TOKEN_NEW, write_token_spec(map, spec)),
        Operation::TokenList(after) => (kind::TOKEN_LIST, map.put_some(2, after.as_ref())),
        Operation::TokenRevoke(token) => (kind::TOKEN_REVOKE, map.put(2, token)),
        Operation::NodeList(after) => (kind::NODE_LIST, map.put_some(2, after.as_ref())),
        Operation::NodeShow(node) => (kind::NODE_SHOW, map.put(2, node)),
        Operation::NodeAdd(spec) => {
            let map = map.put(2, &spec.key).put(3, &spec.name).put_set(4, &spec.groups);
            (kind::NODE_ADD, map.put_some(5, spec.presented_by.as_ref()))
        }
        Operation::NodeReplace(node, spec) => (kind::NODE_REPLACE, write_token_spec(map, spec).put(12, node)),
        Operation::NodeRevoke(target) => (kind::NODE_REVOKE, map.put(2, target)),
        Operation::NodeRename(node, name) => (kind::NODE_RENAME, map.put(2, node).put(3, name)),
        Operation::NodeSet(node, change) => (kind::NODE_SET, write_node_change(map.put(2, node), change)),
        Operation::NetworkShow => (kind::NETWORK_SHOW, map),
        Operation::NetworkSet(change) => (kind::NETWORK_SET, map.put(2, change)),
    }
}

fn write_reply(map: MapBuilder, reply: &Reply) -> (u8, MapBuilder) {
    match reply {
        Reply::Done => (kind::DONE, map),
        Reply::Granted(grant) => {
            let map = map.put(2, &grant.network).put(3, &grant.server_key).put(4, &grant.root);
            (kind::GRANTED, map.put_list(5, &grant.endpoints).put(6, &grant.expires))
        }
        Reply::Tokens(page) => (kind::TOKENS, map.put_list(2, &page.items).put(3, &page.more)),
        Reply::Nodes(page) => (kind::NODES, map.put_list(2, &page.items).put(3, &page.more)),
        Reply::Node(detail) => (kind::NODE, write_detail(map, detail)),
        Reply::Network(info) => (kind::NETWORK, write_network(map, info)),
        Reply::Refused { reason, detail } => {
            (kind::REFUSED, map.put(2, reason).put(3, &Detail(detail.clone())))
        }
    }
}

fn read_page<T: Item>(fields: &mut Fields) -> Result<Page<T>, FieldError> {
    Ok(Page { items: fields.list(2, "items", PAGE_MAX)?, more: fields.required(3, "more")? })
}

/// Fields 2 to 11.
fn read_token_spec(fields: &mut Fields) -> Result<TokenSpec, FieldError> {
    Ok(TokenSpec {
        key: fields.required(2, "token")?,
        lifetime: fields.optional(3, "lifetime")?,
        uses: fields.optional(4, "uses")?,
        name: fields.optional(5, "name")?,
        groups: fields.set(6, "groups", GROUPS_MAX)?,
        routes: fields.set(7, "routes", ROUTES_MAX)?,
        roles: fields.optional(8, "roles")?.unwrap_or_default(),
        ephemeral: fields.optional(9, "ephemeral")?,
        admin: fields.optional(10, "admin")?.unwrap_or_default(),
    })
}

fn write_token_spec(map: MapBuilder, spec: &TokenSpec) -> MapBuilder {
    let roles = (spec.roles != Roles::NONE).then_some(&spec.roles);
    map.put(2, &spec.key)
        .put_some(3, spec.lifetime.as_ref())
        .put_some(4, spec.uses.as_ref())
        .put_some(5, spec.name.as_ref())
        .put_set(6, &spec.groups)
        .put_set(7, &spec.routes)
        .put_some(8, roles)
        .put_some(9, spec.ephemeral.as_ref())
        .put_some(10, spec.admin.then_some(&true))
}

fn read_detail(fields: &mut Fields) -> Result<NodeDetail, FieldError> {
    Ok(NodeDetail {
        info: fields.required(2, "info")?,
        key: fields.required(3, "key")?,
        serial: fields.required(4, "serial")?,
        groups: fields.set(5, "groups", GROUPS_MAX)?,
        routes: fields.set(6, "routes", ROUTES_MAX)?,
        joined: fields.required(7, "joined")?,
        token: fields.optional(8, "token")?,
        presented_by: fields.optional(9, "presented_by")?,
        endpoints: fields.list(10, "endpoints", ENDPOINTS_MAX)?,
    })
}

fn write_detail(map: MapBuilder, detail: &NodeDetail) -> MapBuilder {
    map.put(2, &detail.info)
        .put(3, &detail.key)
        .put(4, &detail.serial)
        .put_set(5, &detail.groups)
        .put_set(6, &detail.routes)
        .put(7, &detail.joined)
        .put_some(8, detail.token.as_ref())
        .put_some(9, detail.presented_by.as_ref())
        .put_list(10, &detail.endpoints)
}

/// Fields 3 to 9.
fn read_node_change(fields: &mut Fields) -> Result<NodeChange, FieldError> {
    Ok(NodeChange {
        add_groups: fields.set(3, "add_groups", GROUPS_MAX)?,
        remove_groups: fields.set(4, "remove_groups", GROUPS_MAX)?,
        add_roles: fields.optional(5, "add_roles")?.unwrap_or_default(),
        remove_roles: fields.optional(6, "remove_roles")?.unwrap_or_default(),
        add_routes: fields.set(7, "add_routes", ROUTES_MAX)?,
        remove_routes: fields.set(8, "remove_routes", ROUTES_MAX)?,
        admin: fields.optional(9, "admin")?.unwrap_or_default(),
    })
}

fn write_node_change(map: MapBuilder, change: &NodeChange) -> MapBuilder {
    let some = |roles| (roles != Roles::NONE).then_some(roles);
    map.put_set(3, &change.add_groups)
        .put_set(4, &change.remove_groups)
        .put_some(5, some(change.add_roles).as_ref())
        .put_some(6, some(change.remove_roles).as_ref())
        .put_set(7, &change.add_routes)
        .put_set(8, &change.remove_routes)
        .put_some(9, change.admin.then_some(&true))
}

fn read_network(fields: &mut Fields) -> Result<NetworkInfo, FieldError> {
    Ok(NetworkInfo {
        network: fields.required(2, "network")?,
        root: fields.required(3, "root")?,
        version: fields.required(4, "version")?,
        expires: fields.required(5, "expires")?,
        cidrs: fields.set(6, "cidrs", 4)?,
        domain: fields.required(7, "domain")?,
        nodes: fields.required(8, "nodes")?,
        revocations: fields.required(9, "revocations")?,
        admin_groups: fields.set(10, "admin_groups", GROUPS_MAX)?,
        lifetime: fields.required(11, "lifetime")?,
        grace: fields.required(12, "grace")?,
        refuse_when_stale: fields.required(13, "refuse_when_stale")?,
        recovering_until: fields.optional(14, "recovering_until")?,
        groups: fields.set(15, "groups", LISTED_GROUPS_MAX)?,
        rotation: fields.optional(16, "rotation")?,
    })
}

fn write_network(map: MapBuilder, info: &NetworkInfo) -> MapBuilder {
    map.put(2, &info.network)
        .put(3, &info.root)
        .put(4, &info.version)
        .put(5, &info.expires)
        .put_set(6, &info.cidrs)
        .put(7, &info.domain)
        .put(8, &info.nodes)
        .put(9, &info.revocations)
        .put_set(10, &info.admin_groups)
        .put(11, &info.lifetime)
        .put(12, &info.grace)
        .put(13, &info.refuse_when_stale)
        .put_some(14, info.recovering_until.as_ref())
        .put_set(15, &info.groups)
        .put_some(16, info.rotation.as_ref())
}

/// A text of at most [`DETAIL_MAX`] bytes.
#[derive(Default)]
struct Detail(String);

impl Item for Detail {
    fn to_value(&self) -> Value {
        let end = self.0.floor_char_boundary(DETAIL_MAX);
        Value::Text(self.0[..end].to_owned())
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let text = value.into_text().map_err(|_| Problem::WrongType)?;
        if text.len() > DETAIL_MAX { Err(Problem::TooMany) } else { Ok(Self(text)) }
    }
}

impl Item for NodeSelector {
    fn to_value(&self) -> Value {
        match self {
            Self::Name(name) => name.to_value(),
            Self::Node(node) => node.to_value(),
        }
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        if value.is_text() {
            Item::from_value(value).map(Self::Name)
        } else {
            Item::from_value(value).map(Self::Node)
        }
    }
}

impl Item for RevokeTarget {
    fn to_value(&self) -> Value {
        Value::Array(match self {
            Self::Node(node) => vec![0_u64.to_value(), node.to_value()],
            Self::Key(key) => vec![1_u64.to_value(), key.to_value()],
            Self::Serial(node, serial) => vec![2_u64.to_value(), node.to_value(), serial.to_value()],
        })
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let (kind, mut parts) = choice(value)?;
        let target = match kind {
            0 => Self::Node(next(&mut parts)?),
            1 => Self::Key(next(&mut parts)?),
            2 => Self::Serial(next(&mut parts)?, next(&mut parts)?),
            _ => return Err(Problem::Range),
        };
        end(parts, target)
    }
}

impl Item for NetworkChange {
    fn to_value(&self) -> Value {
        let (kind, items): (u64, Vec<Value>) = match self {
            Self::AddGroup(group) => (0, vec![group.to_value()]),
            Self::RemoveGroup(group) => (1, vec![group.to_value()]),
            Self::AddAdminGroup(group) => (2, vec![group.to_value()]),
            Self::RemoveAdminGroup(group) => (3, vec![group.to_value()]),
            Self::AddRoute(route) => (4, vec![route.to_value()]),
            Self::RemoveRoute(prefix) => (5, vec![prefix.to_value()]),
            Self::AddServer(server) => (6, vec![server.to_value()]),
            Self::RemoveServer(node) => (7, vec![node.to_value()]),
            Self::RefuseWhenStale(refuse) => (8, vec![refuse.to_value()]),
            Self::Lifetimes { membership, grace } => (9, vec![membership.to_value(), grace.to_value()]),
            Self::RotateKeys(after) => (10, vec![after.to_value()]),
        };
        Value::Array([vec![kind.to_value()], items].concat())
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let (kind, mut parts) = choice(value)?;
        let change = match kind {
            0 => Self::AddGroup(next(&mut parts)?),
            1 => Self::RemoveGroup(next(&mut parts)?),
            2 => Self::AddAdminGroup(next(&mut parts)?),
            3 => Self::RemoveAdminGroup(next(&mut parts)?),
            4 => Self::AddRoute(next(&mut parts)?),
            5 => Self::RemoveRoute(next::<IpNet>(&mut parts)?),
            6 => Self::AddServer(next(&mut parts)?),
            7 => Self::RemoveServer(next(&mut parts)?),
            8 => Self::RefuseWhenStale(next(&mut parts)?),
            9 => Self::Lifetimes { membership: next(&mut parts)?, grace: next(&mut parts)? },
            10 => Self::RotateKeys(next(&mut parts)?),
            _ => return Err(Problem::Range),
        };
        end(parts, change)
    }
}

impl TokenInfo {
    fn read(value: Value) -> Result<Self, FieldError> {
        let mut fields = Fields::from_value(value, "token")?;
        Ok(Self {
            id: fields.required(1, "token.id")?,
            expires: fields.required(2, "token.expires")?,
            uses_left: fields.required(3, "token.uses_left")?,
            first_spender: fields.optional(4, "token.first_spender")?,
            name: fields.optional(5, "token.name")?,
            replaces: fields.optional(6, "token.replaces")?,
            ephemeral: fields.required(7, "token.ephemeral")?,
        })
    }
}

impl Item for TokenInfo {
    fn to_value(&self) -> Value {
        MapBuilder::default()
            .put(1, &self.id)
            .put(2, &self.expires)
            .put(3, &self.uses_left)
            .put_some(4, self.first_spender.as_ref())
            .put_some(5, self.name.as_ref())
            .put_some(6, self.replaces.as_ref())
            .put(7, &self.ephemeral)
            .build()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        Self::read(value).map_err(|error| error.problem)
    }
}

impl NodeInfo {
    fn read(value: Value) -> Result<Self, FieldError> {
        let mut fields = Fields::from_value(value, "node")?;
        Ok(Self {
            node: fields.required(1, "node.id")?,
            name: fields.required(2, "node.name")?,
            addresses: fields.set(3, "node.addresses", 4)?,
            roles: fields.required(4, "node.roles")?,
            not_after: fields.required(5, "node.not_after")?,
            last_seen: fields.optional(6, "node.last_seen")?,
            ephemeral: fields.required(7, "node.ephemeral")?,
        })
    }
}

impl Item for NodeInfo {
    fn to_value(&self) -> Value {
        MapBuilder::default()
            .put(1, &self.node)
            .put(2, &self.name)
            .put_set(3, &self.addresses)
            .put(4, &self.roles)
            .put(5, &self.not_after)
            .put_some(6, self.last_seen.as_ref())
            .put(7, &self.ephemeral)
            .build()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        Self::read(value).map_err(|error| error.problem)
    }
}
