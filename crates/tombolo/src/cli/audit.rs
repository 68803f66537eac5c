//! `audit`: who changed what, and when.

use std::collections::HashMap;

use serde_json::{Value, json};
use tombolo_control::NodeId;
use tombolo_control::authority::audit::{Actor, AuditHead, Entry};
use tombolo_control::authority::{Key, Record, Settings};
use tombolo_control::document::{NetworkDocument, TrustDocument};
use tombolo_noise::clock::UnixTime;
use tombolo_store::{Register, StoreError};

use super::admin::table;
use super::args::{AuditArgs, Cli};
use super::{Failure, print_line};
use crate::membership::to_hex;
use crate::paths::Directories;

pub(super) fn run(cli: &Cli, directories: &Directories, arguments: &AuditArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let directory = directories.state_directory(&network);
    let register = Register::read(&directory).map_err(|error| match error {
        StoreError::Missing(_) => Failure::Mistake(
            "the audit log is in the register, on the network's server: run this there".to_owned(),
        ),
        error => Failure::Runtime(error.to_string()),
    })?;
    if arguments.verify { verify(&register, arguments.json) } else { list(&register, arguments) }
}

fn list(register: &Register, arguments: &AuditArgs) -> Result<(), Failure> {
    let failed = |error: StoreError| Failure::Runtime(format!("{}: {error}", register.path().display()));
    let newest = register.audit_head().map_err(failed)?.map_or(0, |head| head.sequence);
    let from = arguments.last.map_or(1, |last| newest.saturating_sub(last) + 1);
    let entries = register.audit(from, usize::MAX).map_err(failed)?;
    let names = names(register).map_err(failed)?;
    if arguments.json {
        let entries: Vec<Value> = entries.iter().map(|entry| entry_json(entry, &names)).collect();
        return print_line(&json!(entries).to_string());
    }
    let rows = entries.iter().map(|entry| {
        let change = &entry.change;
        let node = change.node.map(|node| shown(&names, &node));
        let token = change.token.map(|token| format!("token {token}"));
        let key = change.key.map(|key| format!("key {key}"));
        let text = change.text.clone();
        let about: Vec<String> = [node, token, key, text].into_iter().flatten().collect();
        [
            entry.sequence.to_string(),
            utc(change.time),
            who(&change.actor, &names),
            change.kind.text().to_owned(),
            about.join(", "),
        ]
    });
    table(["ENTRY", "TIME", "WHO", "WHAT", "ABOUT"], rows)
}

/// Follows the whole chain; its end, or an entry before it, is to be what the network document names.
fn verify(register: &Register, as_json: bool) -> Result<(), Failure> {
    let file = register.path().display().to_string();
    let broken = |error: &dyn std::fmt::Display| {
        Failure::Runtime(format!("{file}: {error}; what is behind it proves nothing: compare with a backup"))
    };
    let signed = signed_head(register).map_err(|error| broken(&error))?;
    let (mut head, mut found): (Option<AuditHead>, Option<u64>) = (None, None);
    let followed = register.follow_audit(|entry, next| {
        head = Some(next);
        if signed == Some(next.hash) {
            found = Some(entry.sequence);
        }
    });
    followed.map_err(|error| broken(&error))?;
    let Some(head) = head else { return Err(broken(&"the audit log is empty")) };
    if signed.is_some() && found.is_none() {
        return Err(broken(
            &"no entry of the audit log has the hash that the signed network document names: the log was written anew",
        ));
    }
    if as_json {
        let hash = head.hash.to_string();
        return print_line(
            &json!({ "entries": head.sequence, "head": hash, "signed_entry": found }).to_string(),
        );
    }
    let signed = found.map_or("no network document names an entry yet".to_owned(), |entry| {
        format!("the signed network document names entry {entry}")
    });
    print_line(&format!(
        "{file}: {} entries, each follows the one before it; {signed}; head {}",
        head.sequence, head.hash
    ))
}

/// The entry that the newest network document names.
fn signed_head(register: &Register) -> Result<Option<tombolo_control::DocumentHash>, StoreError> {
    let (mut settings, mut trust, mut published) = (None::<Box<Settings>>, None, None);
    for stored in register.snapshot()?.records {
        match stored.record {
            Some(Record::Settings(held)) => settings = Some(held),
            Some(Record::Trust(held)) => trust = Some(held),
            Some(Record::Published(held)) => published = Some(held),
            _ => {}
        }
    }
    let (Some(settings), Some(trust), Some(published)) = (settings, trust, published) else {
        return Ok(None);
    };
    let damaged = |error: tombolo_control::document::DocumentError| StoreError::Damaged(error.to_string());
    let trust = TrustDocument::verify(&trust, &settings.network, &[settings.root]).map_err(damaged)?;
    Ok(NetworkDocument::verify(&published.network, &trust).map_err(damaged)?.audit_head)
}

/// The names that nodes have now: the log has ids.
fn names(register: &Register) -> Result<HashMap<NodeId, String>, StoreError> {
    let records = register.snapshot()?.records.into_iter();
    let nodes = records.filter_map(|stored| match (stored.key, stored.record) {
        (Key::Node(node), Some(Record::Node(record))) => Some((node, record.name.to_string())),
        _ => None,
    });
    Ok(nodes.collect())
}

fn shown(names: &HashMap<NodeId, String>, node: &NodeId) -> String {
    names.get(node).map_or_else(|| node.to_string(), |name| format!("{name} ({node})"))
}

fn who(actor: &Actor, names: &HashMap<NodeId, String>) -> String {
    match actor {
        Actor::Authority => "the server itself".to_owned(),
        Actor::Local(who) => who.clone(),
        Actor::Node(node) => shown(names, node),
        Actor::Token(token) => format!("token {token}"),
        Actor::Root => "the root key".to_owned(),
        Actor::Administrator(node, name) => format!("{name} ({node})"),
        _ => "somebody that this version does not know".to_owned(),
    }
}

fn actor_json(actor: &Actor) -> Value {
    match actor {
        Actor::Authority => json!({ "kind": "server" }),
        Actor::Local(who) => json!({ "kind": "local", "user": who }),
        Actor::Node(node) => json!({ "kind": "node", "node": node.to_string() }),
        Actor::Token(token) => json!({ "kind": "token", "token": token.to_string() }),
        Actor::Root => json!({ "kind": "root" }),
        Actor::Administrator(node, name) => {
            json!({ "kind": "administrator", "node": node.to_string(), "name": name.to_string() })
        }
        _ => json!({ "kind": "unknown" }),
    }
}

fn entry_json(entry: &Entry, names: &HashMap<NodeId, String>) -> Value {
    let change = &entry.change;
    json!({
        "entry": entry.sequence,
        "previous": entry.previous.map(|hash| to_hex(hash.as_bytes())),
        "time": change.time.0.as_secs(),
        "who": actor_json(&change.actor),
        "what": change.kind.text(),
        "node": change.node.map(|node| node.to_string()),
        "name": change.node.and_then(|node| names.get(&node)),
        "token": change.token.map(|token| token.to_string()),
        "public_key": change.key.map(|key| key.to_string()),
        "text": change.text,
    })
}

/// A date of the Gregorian calendar and a time of day, by counting years of 400 years' cycles that begin in March, so that the leap day
/// is the last of its year.
pub(crate) fn utc(time: UnixTime) -> String {
    let seconds = time.0.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // From 0000-03-01 to 1970-01-01 are 719 468 days.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = cycle * 400 + year + later;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let shown = |seconds| utc(UnixTime(Duration::from_secs(seconds)));
        assert_eq!(shown(0), "1970-01-01 00:00:00Z");
        assert_eq!(shown(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(shown(951_782_400), "2000-02-29 00:00:00Z");
        assert_eq!(shown(1_000_000_000), "2001-09-09 01:46:40Z");
        assert_eq!(shown(4_107_542_399), "2100-02-28 23:59:59Z");
        assert_eq!(shown(4_107_542_400), "2100-03-01 00:00:00Z");
    }
}
