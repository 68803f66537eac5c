//! `token`: what machines join with.

use serde_json::{Value, json};
use tombolo_control::frame::admin::{Operation, Reply, TokenInfo, TokenSpec};
use tombolo_control::{KeyId, NodeId, SigningKey};

use super::{ask, done, groups, left, name, node, other, table};
use crate::cli::args::{Cli, TokenArgs, TokenCommand};
use crate::cli::init::grant;
use crate::cli::{Failure, failed, print_line, servers};
use crate::membership::from_hex;
use crate::paths::Directories;
use crate::random;

pub(in crate::cli) fn token(
    cli: &Cli,
    directories: &Directories,
    command: &TokenCommand,
) -> Result<(), Failure> {
    match command {
        TokenCommand::New(arguments) => new_token(cli, directories, arguments, Operation::TokenNew),
        TokenCommand::List(arguments) => {
            let tokens = all_tokens(cli, directories)?;
            if arguments.json {
                let list: Vec<Value> = tokens.iter().map(token_json).collect();
                return print_line(&json!(list).to_string());
            }
            let nodes = if tokens.iter().any(|token| token.first_spender.is_some()) {
                node::all_nodes(cli, directories)?
            } else {
                Vec::new()
            };
            let spender = |id: &NodeId| {
                let known = nodes.iter().find(|node| node.node == *id);
                known.map_or_else(|| id.to_string(), |node| node.name.to_string())
            };
            let rows = tokens.iter().map(|token| {
                [
                    token.id.to_string(),
                    left(token.expires),
                    token.uses_left.to_string(),
                    token.name.as_ref().map_or("-".to_owned(), ToString::to_string),
                    token.first_spender.as_ref().map_or("-".to_owned(), spender),
                ]
            });
            table(["TOKEN", "GOOD FOR", "USES LEFT", "NAME", "FIRST SPENT BY"], rows)
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
pub(super) fn new_token(
    cli: &Cli,
    directories: &Directories,
    arguments: &TokenArgs,
    operation: impl FnOnce(TokenSpec) -> Operation,
) -> Result<(), Failure> {
    let key = SigningKey::generate(&mut random::generator().map_err(failed)?);
    let id = key.verifying_key().key_id();
    let mut spec = TokenSpec::new(key.verifying_key());
    spec.lifetime = arguments.expires;
    spec.uses = arguments.uses;
    spec.name = arguments.name.as_deref().map(name).transpose()?;
    spec.ephemeral = arguments.ephemeral;
    spec.admin = arguments.admin;
    spec.roles = servers::roles(&arguments.role)?;
    spec.groups = groups(&arguments.group)?;
    let grant = grant(ask(cli, directories, operation(spec))?)?;
    let expires = grant.expires;
    let token = grant.into_token(key).map_err(failed)?.to_text();
    if arguments.json {
        let text = json!({ "token": token.as_str(), "id": id.to_string(), "expires": expires.0.as_secs() });
        return print_line(&zeroize::Zeroizing::new(text.to_string()));
    }
    let machines = match arguments.uses.unwrap_or(1) {
        1 => "one machine".to_owned(),
        uses => format!("{uses} machines"),
    };
    eprintln!(
        "tombolo: the token {id}, good for {machines} and for {}; give it to `tombolo join`",
        left(expires)
    );
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
