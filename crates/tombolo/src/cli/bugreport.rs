//! `bugreport`: how this machine stands, without what tells whose it is (control rule 22).
//!
//! Nothing is left out by a list of what is secret: kept is what is known to be harmless (numbers, yes and no, words that the program itself
//! chose), and everything else is a number in angle brackets, the same for the same thing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use super::args::Cli;
use super::{Failure, print_bytes};
use crate::control::Client;
use crate::paths::Directories;

/// Fields of the report whose texts the program chose.
const CHOSEN: &[&str] =
    &["mtu_state", "network_version", "offload", "path", "place", "roles", "state", "version"];
/// Fields with sentences, in which words stand that others chose.
const SENTENCES: &[&str] = &["error", "reason", "resolve_error", "warnings"];

pub(super) fn run(cli: &Cli, directories: &Directories) -> Result<(), Failure> {
    let networks = match &cli.network {
        Some(_) => vec![directories.choose_network(cli.network.as_deref())?],
        None => directories.networks(),
    };
    let system = rustix::system::uname();
    let mut text = format!(
        "tombolo {}, {} {} on {}\n",
        env!("CARGO_PKG_VERSION"),
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        system.machine().to_string_lossy()
    );
    let mut aliases = Aliases::default();
    for network in networks {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\nnetwork {}", aliases.of(&network));
        match super::status::ask(&Client::new(&directories.control_socket(&network))) {
            Ok(report) => {
                let mut report = serde_json::to_value(&report)
                    .map_err(|error| Failure::runtime("the status has no JSON form", error))?;
                aliases.note_names(&report);
                aliases.redact("", &mut report);
                let _ = writeln!(text, "{report:#}");
            }
            Err(error) => {
                let _ = writeln!(text, "no status: {}", aliases.sentence(&error.to_string()));
            }
        }
        match fs::read_to_string(directories.config_file(&network)) {
            Ok(config) => text.push_str(&zeroize::Zeroizing::new(config_lines(&config))),
            Err(error) => {
                let _ = writeln!(text, "no configuration: {}", error.kind());
            }
        }
    }
    print_bytes(text.as_bytes())
}

/// Numbers for what is not shown.
#[derive(Default)]
struct Aliases(HashMap<String, usize>);

impl Aliases {
    fn of(&mut self, text: &str) -> String {
        let next = self.0.len() + 1;
        format!("<{}>", self.0.entry(text.to_owned()).or_insert(next))
    }

    /// What others chose is known as such in sentences, too.
    fn note_names(&mut self, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    if !CHOSEN.contains(&key.as_str()) && !SENTENCES.contains(&key.as_str()) {
                        self.note_names(value);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.note_names(item)),
            Value::String(text) => drop(self.of(text)),
            _ => {}
        }
    }

    fn redact(&mut self, key: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| self.redact(key, value)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact(key, item)),
            Value::String(text) if SENTENCES.contains(&key) => *text = self.sentence(text),
            Value::String(text) if !CHOSEN.contains(&key) => *text = self.of(text),
            _ => {}
        }
    }

    /// Keeps words of letters that name nothing that is known.
    fn sentence(&mut self, text: &str) -> String {
        let words = text.split(' ').map(|word| {
            let bare = word.trim_matches(|c: char| c.is_ascii_punctuation());
            let plain = bare.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-' || byte == b'\'');
            if plain && !self.0.contains_key(bare) { word.to_owned() } else { self.of(bare) }
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Sections, keys, and values that are numbers or yes and no.
fn config_lines(config: &str) -> String {
    let mut text = String::new();
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_[]".contains(&byte));
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') && plain(line) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        } else if let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
            && plain(key)
        {
            let harmless = value.parse::<u64>().is_ok() || matches!(value, "true" | "false");
            let _ = writeln!(text, "{key} = {}", if harmless { value } else { "<…>" });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bug_report_has_no_key_name_or_address_control_rule_22() {
        let mut report = json!({
            "version": "1.0.0",
            "network": "acme",
            "peers": [{
                "name": "hub",
                "public_key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
                "endpoint": "203.0.113.9:8662",
                "state": "established",
                "received_bytes": 7,
            }],
            "membership": { "name": "hub", "groups": ["databases"], "something_new": "secret" },
            "drops": { "replayed_counter": 3 },
            "warnings": ["hub speaks from 203.0.113.9:8662 and from [2001:db8::7]:1 by turns: run `tombolo node replace hub`"],
        });
        let mut aliases = Aliases::default();
        aliases.note_names(&report);
        aliases.redact("", &mut report);
        let text = report.to_string();
        for secret in ["hub", "acme", "AQEB", "203.0", "2001:db8", "databases", "secret"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for kept in ["1.0.0", "established", "replayed_counter", "by turns", "\"received_bytes\":7"] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        assert_eq!(report["peers"][0]["name"], report["membership"]["name"], "the same for the same thing");
    }

    #[test]
    fn of_a_configuration_numbers_and_switches_are_shown_control_rule_22() {
        let config = "# of the database\n[interface]\nprivate_key = \"AQEB\"\nlisten_port = 8662\n[[peer]]\nname = \"db\"\n\
                      allowed_ips = [\n  \"10.0.0.1\",\n]\npersistent = true\n";
        let shown = config_lines(config);
        assert_eq!(
            shown,
            "[interface]\nprivate_key = <…>\nlisten_port = 8662\n[[peer]]\nname = <…>\nallowed_ips = <…>\npersistent = true\n"
        );
    }
}
