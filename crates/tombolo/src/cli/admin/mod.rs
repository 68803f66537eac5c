//! `token`, `node`, `network` and `whois`: what the register says, and changes of it.

mod network;
mod node;
mod stock;
mod token;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::{AdminRequest, NodeSelector, Operation, Reply};
use tombolo_control::{GroupName, NodeId, NodeName};
use tombolo_noise::clock::UnixTime;

use super::args::{Cli, WhoisArgs};
use super::{Failure, failed, print_bytes, print_line};
use crate::control::{Answer, Client, Request};
use crate::daemon::report::unix_now;
use crate::membership::{from_hex, to_hex};
use crate::paths::Directories;
use crate::report::span;

pub(super) use network::network;
pub(super) use node::node;
pub(super) use token::token;

/// So long the servers are asked who has an address.
const LOOK_UP: Duration = Duration::from_millis(1500);

pub(super) fn ask(cli: &Cli, directories: &Directories, operation: Operation) -> Result<Reply, Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let frame = Frame::AdminRequest(AdminRequest { id: 1, operation });
    let frame = to_hex(&frame.to_bytes().map_err(|error| Failure::Mistake(error.to_string()))?);
    let answer = Client::new(&directories.control_socket(&network)).ask(&Request::Admin { frame });
    let frame = match answer.map_err(failed)? {
        Answer::Admin { frame } => from_hex(&frame).map_err(failed)?,
        answer => return Err(failed(answer.complaint())),
    };
    match Frame::parse(&frame).map_err(failed)? {
        Frame::AdminAnswer(answer) => match answer.reply {
            Reply::Refused { detail, .. } => Err(Failure::Mistake(detail)),
            reply => Ok(reply),
        },
        _ => other(),
    }
}

/// The reply is none to what was asked.
pub(super) fn other<T>() -> Result<T, Failure> {
    Err(failed("the authority gave another answer"))
}

fn name(text: &str) -> Result<NodeName, Failure> {
    text.parse().map_err(|error| Failure::Mistake(format!("`{text}` cannot be a node's name: {error}")))
}

fn group(text: &str) -> Result<GroupName, Failure> {
    text.parse().map_err(|error| Failure::Mistake(format!("`{text}` cannot be a group: {error}")))
}

fn groups(texts: &[String]) -> Result<BTreeSet<GroupName>, Failure> {
    texts.iter().map(|text| group(text)).collect()
}

/// A name, or the 32 digits of an id.
pub(super) fn selector(text: &str) -> Result<NodeSelector, Failure> {
    match from_hex(text).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) {
        Some(id) => Ok(NodeSelector::Node(NodeId::from_bytes(id))),
        None => name(text).map(NodeSelector::Name),
    }
}

pub(super) fn whois(cli: &Cli, directories: &Directories, arguments: &WhoisArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let timeout_milliseconds = LOOK_UP.as_millis() as u64;
    let request = Request::Whois { address: arguments.address, timeout_milliseconds };
    match Client::new(&directories.control_socket(&network)).ask(&request).map_err(failed)? {
        Answer::Whois { node, name, groups, public_key } if arguments.json => print_line(
            &json!({ "node": node, "name": name, "groups": groups, "public_key": public_key }).to_string(),
        ),
        Answer::Whois { node, name, groups, .. } => print_line(&format!(
            "{name} (node {node}{}{})",
            if groups.is_empty() { "" } else { ", groups " },
            groups.join(" ")
        )),
        answer => Err(failed(answer.complaint())),
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

fn left(until: UnixTime) -> String {
    match until.0.as_secs().saturating_sub(unix_now().as_secs()) {
        0 => "over".to_owned(),
        seconds => span(seconds),
    }
}

fn ago(then: UnixTime) -> String {
    format!("{} ago", span(unix_now().as_secs().saturating_sub(then.0.as_secs())))
}

/// Columns as wide as their widest cell.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> Result<(), Failure> {
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
