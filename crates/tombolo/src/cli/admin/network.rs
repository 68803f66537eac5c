//! `network`: what holds in it.

use serde_json::json;
use tombolo_control::document::{NetworkDocument, Route};
use tombolo_control::frame::admin::{NetworkChange, NetworkInfo, Operation, Reply};

use super::{ask, group, joined, left, node, other, selector, table};
use crate::cli::args::{Cli, ListArgs, NetworkCommand, NetworkSetArgs};
use crate::cli::{Failure, print_line, servers};
use crate::paths::Directories;
use crate::report::span;

pub(in crate::cli) fn network(
    cli: &Cli,
    directories: &Directories,
    command: &NetworkCommand,
) -> Result<(), Failure> {
    match command {
        NetworkCommand::Show(arguments) => show(cli, directories, arguments),
        NetworkCommand::Server(command) => servers::run(cli, directories, command),
        NetworkCommand::Set(arguments) => set(cli, directories, arguments),
    }
}

/// What holds in the network.
pub(super) fn info(cli: &Cli, directories: &Directories) -> Result<NetworkInfo, Failure> {
    match ask(cli, directories, Operation::NetworkShow)? {
        Reply::Network(info) => Ok(*info),
        _ => other(),
    }
}

fn show(cli: &Cli, directories: &Directories, arguments: &ListArgs) -> Result<(), Failure> {
    let info = info(cli, directories)?;
    let rotation = info.rotation.unwrap_or(NetworkDocument::ROTATION);
    if arguments.json {
        return print_line(
            &json!({
                "network": info.network.to_string(),
                "root": info.root.to_string(),
                "version": info.version.to_string(),
                "cidrs": info.cidrs,
                "domain": info.domain.to_string(),
                "nodes": info.nodes,
                "revocations": info.revocations,
                "groups": info.groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "admin_groups": info.admin_groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "membership_seconds": info.lifetime.as_secs(),
                "grace_seconds": info.grace.as_secs(),
                "rotate_keys_seconds": rotation.as_secs(),
                "refuse_when_stale": info.refuse_when_stale,
            })
            .to_string(),
        );
    }
    let rows = [
        ("network", info.network.to_string()),
        ("root key", info.root.to_string()),
        ("document", info.version.to_string()),
        ("fresh for", left(info.expires)),
        ("prefixes", joined(&info.cidrs)),
        ("domain", info.domain.to_string()),
        ("nodes", info.nodes.to_string()),
        ("revocations", info.revocations.to_string()),
        ("groups", joined(&info.groups)),
        ("administrators", joined(&info.admin_groups)),
        ("memberships", span(info.lifetime.as_secs())),
        ("grace", span(info.grace.as_secs())),
        ("static keys", span(rotation.as_secs())),
        ("new peers when stale", if info.refuse_when_stale { "refused" } else { "taken" }.to_owned()),
        ("policy", "all members may talk to each other".to_owned()),
    ];
    table(["", ""], rows.into_iter().map(|(key, value)| [key.to_owned(), value]))
}

/// One request for each change, in an order in which each finds what it needs.
fn set(cli: &Cli, directories: &Directories, arguments: &NetworkSetArgs) -> Result<(), Failure> {
    let mut changes = Vec::new();
    for text in &arguments.remove_admin_group {
        changes.push(NetworkChange::RemoveAdminGroup(group(text)?));
    }
    for text in &arguments.remove_group {
        changes.push(NetworkChange::RemoveGroup(group(text)?));
    }
    changes.extend(arguments.remove_route.iter().map(|prefix| NetworkChange::RemoveRoute(*prefix)));
    for text in &arguments.group {
        changes.push(NetworkChange::AddGroup(group(text)?));
    }
    for text in &arguments.admin_group {
        changes.push(NetworkChange::AddAdminGroup(group(text)?));
    }
    if let Some(prefix) = arguments.route {
        let gateways = arguments.gateway.iter().map(|text| {
            let node = node::show(cli, directories, selector(text)?)?;
            Ok(node.info.node)
        });
        changes.push(NetworkChange::AddRoute(Route {
            prefix,
            gateways: gateways.collect::<Result<_, Failure>>()?,
        }));
    }
    if arguments.lifetime.is_some() || arguments.grace.is_some() {
        let held = info(cli, directories)?;
        changes.push(NetworkChange::Lifetimes {
            membership: arguments.lifetime.unwrap_or(held.lifetime),
            grace: arguments.grace.unwrap_or(held.grace),
        });
    }
    changes.extend(arguments.refuse_when_stale.map(NetworkChange::RefuseWhenStale));
    changes.extend(arguments.rotate_keys.map(NetworkChange::RotateKeys));
    let count = changes.len();
    for (done, change) in changes.into_iter().enumerate() {
        let reply =
            ask(cli, directories, Operation::NetworkSet(change)).map_err(|failure| match failure {
                Failure::Mistake(text) if done > 0 => {
                    Failure::Mistake(format!("{text} ({done} of {count} changes were made before)"))
                }
                other => other,
            })?;
        if reply != Reply::Done {
            return other();
        }
    }
    print_line("done")
}
