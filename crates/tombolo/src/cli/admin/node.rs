//! `node`: who there is, and what is changed about them.

use serde_json::{Value, json};
use tombolo_control::document::Roles;
use tombolo_control::frame::admin::{
    NodeChange, NodeDetail, NodeInfo, NodeSelector, Operation, Reply, RevokeTarget,
};

use super::stock;
use super::token::new_token;
use super::{ago, ask, done, groups, joined, left, name, other, selector, table};
use crate::cli::args::{Cli, NodeCommand, NodeSetArgs};
use crate::cli::{Failure, print_line};
use crate::paths::Directories;

pub(super) fn all_nodes(cli: &Cli, directories: &Directories) -> Result<Vec<NodeInfo>, Failure> {
    let mut all: Vec<NodeInfo> = Vec::new();
    loop {
        let last = all.last().map(|last| last.name.clone());
        match ask(cli, directories, Operation::NodeList(last))? {
            Reply::Nodes(page) => {
                let more = page.more && !page.items.is_empty();
                all.extend(page.items);
                if !more {
                    return Ok(all);
                }
            }
            _ => return other(),
        }
    }
}

pub(in crate::cli) fn node(
    cli: &Cli,
    directories: &Directories,
    command: &NodeCommand,
) -> Result<(), Failure> {
    match command {
        NodeCommand::List(arguments) => {
            let nodes = all_nodes(cli, directories)?;
            if arguments.json {
                let list: Vec<Value> = nodes.iter().map(node_json).collect();
                return print_line(&json!(list).to_string());
            }
            let rows = nodes.iter().map(|node| {
                [
                    node.name.to_string(),
                    joined(&node.addresses),
                    node.roles.to_string(),
                    left(node.not_after),
                    node.last_seen.map_or("-".to_owned(), ago),
                    node.node.to_string(),
                ]
            });
            table(["NAME", "ADDRESSES", "ROLES", "EXPIRES IN", "SEEN", "NODE"], rows)
        }
        NodeCommand::Show { node, wg_quick, wireguard, json } => {
            let detail = show(cli, directories, selector(node)?)?;
            if *wg_quick {
                return stock::show(cli, directories, &detail, wireguard, *json);
            }
            if *json {
                return print_line(&detail_json(&detail).to_string());
            }
            let info = &detail.info;
            let presenter = match detail.presented_by {
                Some(presenter) => show(cli, directories, NodeSelector::Node(presenter))
                    .map_or_else(|_| presenter.to_string(), |node| node.info.name.to_string()),
                None => "-".to_owned(),
            };
            let rows = [
                ("name", info.name.to_string()),
                ("node", info.node.to_string()),
                ("addresses", joined(&info.addresses)),
                ("public key", detail.key.to_string()),
                ("roles", info.roles.to_string()),
                ("groups", joined(&detail.groups)),
                ("routes", joined(&detail.routes)),
                ("presented by", presenter),
                ("serial", detail.serial.to_string()),
                ("expires in", left(info.not_after)),
                ("joined", ago(detail.joined)),
                ("seen", info.last_seen.map_or("-".to_owned(), ago)),
            ];
            table(["", ""], rows.into_iter().map(|(key, value)| [key.to_owned(), value]))
        }
        NodeCommand::Add(arguments) => stock::add(cli, directories, arguments),
        NodeCommand::Set(arguments) => set(cli, directories, arguments),
        NodeCommand::Replace { node, token } => {
            let selector = selector(node)?;
            new_token(cli, directories, token, |spec| Operation::NodeReplace(selector, spec))
        }
        NodeCommand::Revoke { node } => {
            let target = RevokeTarget::Node(selector(node)?);
            done(ask(cli, directories, Operation::NodeRevoke(target))?)
        }
        NodeCommand::Rename { node, name: new } => {
            done(ask(cli, directories, Operation::NodeRename(selector(node)?, name(new)?))?)
        }
    }
}

/// One node, with what is known of it.
pub(super) fn show(cli: &Cli, directories: &Directories, node: NodeSelector) -> Result<NodeDetail, Failure> {
    match ask(cli, directories, Operation::NodeShow(node))? {
        Reply::Node(detail) => Ok(*detail),
        _ => other(),
    }
}

fn set(cli: &Cli, directories: &Directories, arguments: &NodeSetArgs) -> Result<(), Failure> {
    let roles = |roles: &[Roles]| roles.iter().fold(Roles::NONE, |all, role| all | *role);
    let change = NodeChange {
        add_groups: groups(&arguments.group)?,
        remove_groups: groups(&arguments.remove_group)?,
        add_roles: roles(&arguments.role),
        remove_roles: roles(&arguments.remove_role),
        add_routes: arguments.route.iter().copied().collect(),
        remove_routes: arguments.remove_route.iter().copied().collect(),
        admin: arguments.admin,
    };
    if change == (NodeChange { admin: arguments.admin, ..NodeChange::default() }) {
        return Err(Failure::Mistake(
            "say what is to be different: --group, --role, --route, or --remove-…".to_owned(),
        ));
    }
    done(ask(cli, directories, Operation::NodeSet(selector(&arguments.node)?, change))?)
}

fn node_json(node: &NodeInfo) -> Value {
    json!({
        "node": node.node.to_string(),
        "name": node.name.to_string(),
        "addresses": node.addresses,
        "roles": node.roles.to_string(),
        "not_after": node.not_after.0.as_secs(),
        "last_seen": node.last_seen.map(|seen| seen.0.as_secs()),
        "ephemeral": node.ephemeral,
    })
}

pub(super) fn detail_json(detail: &NodeDetail) -> Value {
    let mut value = node_json(&detail.info);
    value["public_key"] = json!(detail.key.to_string());
    value["serial"] = json!(detail.serial);
    value["groups"] = json!(detail.groups.iter().map(ToString::to_string).collect::<Vec<_>>());
    value["routes"] = json!(detail.routes);
    value["joined"] = json!(detail.joined.0.as_secs());
    value["presented_by"] = json!(detail.presented_by.map(|node| node.to_string()));
    value
}
