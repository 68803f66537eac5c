//! `token`, `node`, `network` and `whois`: what the register says, and changes of it.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::{
    AdminRequest, NodeDetail, NodeInfo, NodeSelector, Operation, Reply, RevokeTarget, TokenInfo, TokenSpec,
};
use tombolo_control::{KeyId, NodeId, NodeName, SigningKey};
use tombolo_noise::clock::UnixTime;

use super::args::{Cli, NetworkCommand, NodeCommand, TokenArgs, TokenCommand, WhoisArgs};
use super::init::grant;
use super::{Failure, print_bytes, print_line, servers};
use crate::control::{Answer, Client, Request};
use crate::daemon::report::unix_now;
use crate::membership::{from_hex, to_hex};
use crate::paths::Directories;
use crate::random;

pub(super) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Runtime(error.to_string())
}

pub(super) fn ask(cli: &Cli, directories: &Directories, operation: Operation) -> Result<Reply, Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let frame = Frame::AdminRequest(AdminRequest { id: 1, operation });
    let frame = to_hex(&frame.to_bytes().map_err(|error| Failure::Mistake(error.to_string()))?);
    let answer = Client::new(&directories.control_socket(&network)).ask(&Request::Admin { frame });
    let frame = match answer.map_err(failed)? {
        Answer::Admin { frame } => from_hex(&frame).map_err(failed)?,
        Answer::Error { message } => return Err(Failure::Runtime(message)),
        _ => return Err(Failure::Runtime("the daemon gave another answer".to_owned())),
    };
    match Frame::parse(&frame).map_err(failed)? {
        Frame::AdminAnswer(answer) => match answer.reply {
            Reply::Refused { detail, .. } => Err(Failure::Mistake(detail)),
            reply => Ok(reply),
        },
        _ => Err(Failure::Runtime("the authority gave another answer".to_owned())),
    }
}

pub(super) fn other<T>() -> Result<T, Failure> {
    Err(Failure::Runtime("the authority gave another answer".to_owned()))
}

fn name(text: &str) -> Result<NodeName, Failure> {
    text.parse().map_err(|error| Failure::Mistake(format!("`{text}` cannot be a node's name: {error}")))
}

/// A name, or the 32 digits of an id.
pub(super) fn selector(text: &str) -> Result<NodeSelector, Failure> {
    match from_hex(text).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) {
        Some(id) => Ok(NodeSelector::Node(NodeId::from_bytes(id))),
        None => name(text).map(NodeSelector::Name),
    }
}

pub(super) fn token(cli: &Cli, directories: &Directories, command: &TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::New(arguments) => new_token(cli, directories, arguments, Operation::TokenNew),
        TokenCommand::List(arguments) => {
            let tokens = all_tokens(cli, directories)?;
            if arguments.json {
                let list: Vec<Value> = tokens.iter().map(token_json).collect();
                return print_line(&json!(list).to_string());
            }
            let rows = tokens.iter().map(|token| {
                [
                    token.id.to_string(),
                    left(token.expires),
                    token.uses_left.to_string(),
                    token.name.as_ref().map_or("-".to_owned(), ToString::to_string),
                    token.first_spender.map_or("-".to_owned(), |node| node.to_string()),
                ]
            });
            table(["TOKEN", "GOOD FOR", "USES", "NAME", "SPENT BY"], rows)
        }
        TokenCommand::Revoke { token } => {
            let id = from_hex(token).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
            let id = id.ok_or_else(|| {
                Failure::Mistake(format!("`{token}` is not the short form that `tombolo token list` shows"))
            })?;
            done(ask(cli, directories, Operation::TokenRevoke(KeyId::from_bytes(id)))?)
        }
    }
}

/// The secret half is made here and stays here: the daemon sees the public one.
fn new_token(
    cli: &Cli,
    directories: &Directories,
    arguments: &TokenArgs,
    operation: impl FnOnce(TokenSpec) -> Operation,
) -> Result<(), Failure> {
    let key = SigningKey::generate(&mut random::generator().map_err(failed)?);
    let mut spec = TokenSpec::new(key.verifying_key());
    spec.lifetime = arguments.expires;
    spec.uses = arguments.uses;
    spec.name = arguments.name.as_deref().map(name).transpose()?;
    spec.ephemeral = arguments.ephemeral;
    spec.admin = arguments.admin;
    spec.roles = servers::roles(&arguments.role)?;
    for group in &arguments.group {
        let parsed = group.parse();
        spec.groups.insert(
            parsed.map_err(|error| Failure::Mistake(format!("`{group}` cannot be a group: {error}")))?,
        );
    }
    let grant = grant(ask(cli, directories, operation(spec))?)?;
    let expires = grant.expires;
    let token = grant.into_token(key).map_err(failed)?.to_text();
    if arguments.json {
        let text = json!({ "token": token.as_str(), "expires": expires.0.as_secs() });
        return print_line(&zeroize::Zeroizing::new(text.to_string()));
    }
    eprintln!("tombolo: good for {}; give it to `tombolo join`", left(expires));
    print_line(&token)
}

fn all_tokens(cli: &Cli, directories: &Directories) -> Result<Vec<TokenInfo>, Failure> {
    let mut all: Vec<TokenInfo> = Vec::new();
    loop {
        match ask(cli, directories, Operation::TokenList(all.last().map(|last| last.id)))? {
            Reply::Tokens(page) => {
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

fn all_nodes(cli: &Cli, directories: &Directories) -> Result<Vec<NodeInfo>, Failure> {
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

pub(super) fn node(cli: &Cli, directories: &Directories, command: &NodeCommand) -> Result<(), Failure> {
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
        NodeCommand::Show { node, json } => {
            match ask(cli, directories, Operation::NodeShow(selector(node)?))? {
                Reply::Node(detail) if *json => print_line(&detail_json(&detail).to_string()),
                Reply::Node(detail) => {
                    let info = &detail.info;
                    let rows = [
                        ("name", info.name.to_string()),
                        ("node", info.node.to_string()),
                        ("addresses", joined(&info.addresses)),
                        ("public key", detail.key.to_string()),
                        ("roles", info.roles.to_string()),
                        ("groups", joined(&detail.groups)),
                        ("routes", joined(&detail.routes)),
                        ("serial", detail.serial.to_string()),
                        ("expires in", left(info.not_after)),
                        ("joined", ago(detail.joined)),
                        ("seen", info.last_seen.map_or("-".to_owned(), ago)),
                    ];
                    table(["", ""], rows.into_iter().map(|(key, value)| [key.to_owned(), value]))
                }
                _ => other(),
            }
        }
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

pub(super) fn network(cli: &Cli, directories: &Directories, command: &NetworkCommand) -> Result<(), Failure> {
    let arguments = match command {
        NetworkCommand::Show(arguments) => arguments,
        NetworkCommand::Server(command) => return servers::run(cli, directories, command),
    };
    let Reply::Network(info) = ask(cli, directories, Operation::NetworkShow)? else { return other() };
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
                "admin_groups": info.admin_groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "membership_seconds": info.lifetime.as_secs(),
                "grace_seconds": info.grace.as_secs(),
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
        ("administrators", joined(&info.admin_groups)),
        ("memberships", span(info.lifetime.as_secs())),
        ("grace", span(info.grace.as_secs())),
        ("policy", "all members may talk to each other".to_owned()),
    ];
    table(["", ""], rows.into_iter().map(|(key, value)| [key.to_owned(), value]))
}

pub(super) fn whois(cli: &Cli, directories: &Directories, arguments: &WhoisArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let request = Request::Whois { address: arguments.address };
    match Client::new(&directories.control_socket(&network)).ask(&request).map_err(failed)? {
        Answer::Whois { node, name, groups, public_key } if arguments.json => print_line(
            &json!({ "node": node, "name": name, "groups": groups, "public_key": public_key }).to_string(),
        ),
        Answer::Whois { node, name, groups, .. } => print_line(&format!(
            "{name} (node {node}{}{})",
            if groups.is_empty() { "" } else { ", groups " },
            groups.join(" ")
        )),
        Answer::Error { message } => Err(Failure::Runtime(message)),
        _ => Err(Failure::Runtime("the daemon gave another answer".to_owned())),
    }
}

pub(super) fn done(reply: Reply) -> Result<(), Failure> {
    match reply {
        Reply::Done => print_line("done"),
        _ => other(),
    }
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(" ") }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn left(until: UnixTime) -> String {
    match until.0.as_secs().saturating_sub(unix_now().as_secs()) {
        0 => "over".to_owned(),
        seconds => span(seconds),
    }
}

fn ago(then: UnixTime) -> String {
    format!("{} ago", span(unix_now().as_secs().saturating_sub(then.0.as_secs())))
}

fn token_json(token: &TokenInfo) -> Value {
    json!({
        "token": token.id.to_string(),
        "expires": token.expires.0.as_secs(),
        "uses_left": token.uses_left,
        "first_spender": token.first_spender.map(|node| node.to_string()),
        "name": token.name.as_ref().map(ToString::to_string),
        "replaces": token.replaces.map(|node| node.to_string()),
        "ephemeral": token.ephemeral,
    })
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

fn detail_json(detail: &NodeDetail) -> Value {
    let mut value = node_json(&detail.info);
    value["public_key"] = json!(detail.key.to_string());
    value["serial"] = json!(detail.serial);
    value["groups"] = json!(detail.groups.iter().map(ToString::to_string).collect::<Vec<_>>());
    value["routes"] = json!(detail.routes);
    value["joined"] = json!(detail.joined.0.as_secs());
    value
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> Result<(), Failure> {
    let mut all: Vec<[String; N]> = vec![head.map(str::to_owned)];
    all.extend(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in all.iter().filter(|row| row.iter().any(|cell| !cell.is_empty())) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    print_bytes(text.as_bytes())
}
