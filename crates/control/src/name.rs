//! Names that people read: of nodes, groups and domains.
//!
//! Lower-case letters, digits and hyphens (control rule 22). There is one spelling of each, so that equality of
//! names is equality of bytes.

use std::fmt;
use std::str::FromStr;

/// Why a text is no name. The message says how to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing, or an empty label.
    #[error("a name has at least one character; give it one")]
    Empty,
    /// Longer than `limit` bytes.
    #[error("a name has at most {limit} characters; shorten it")]
    TooLong {
        /// Greatest length in bytes.
        limit: usize,
    },
    /// A character that no name has.
    #[error("{0:?} cannot stand in a name; use a to z in lower case, 0 to 9 and hyphens")]
    Character(char),
    /// A hyphen at an end.
    #[error("a name neither begins nor ends with a hyphen")]
    Hyphen,
    /// Something that resolvers take for a number or for another alphabet.
    #[error("this name would be read as a number or as an encoded name; begin it with another letter")]
    Ambiguous,
    /// A name with a meaning of its own, such as `localhost` or `wpad`.
    #[error("this name has a meaning of its own on many systems; choose another")]
    Reserved,
}

/// Names that systems ask for by themselves, or that mean a machine to itself. Who owned one in a search domain
/// would be trusted for it (control rule 22).
const RESERVED: &[&str] = &[
    "autoconfig",
    "autodiscover",
    "broadcasthost",
    "invalid",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-localhost",
    "ip6-loopback",
    "isatap",
    "local",
    "localdomain",
    "localhost",
    "localhost4",
    "localhost6",
    "wpad",
];

const LABEL_MAX: usize = 63;

fn check_label(text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(wrong) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(NameError::Character(wrong));
    }
    if text.len() > limit {
        return Err(NameError::TooLong { limit });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

/// Resolvers read `10` and `0x0a` as IPv4 addresses, and `xn--…` as letters that look like others.
fn check_unambiguous(label: &str) -> Result<(), NameError> {
    let hexadecimal =
        label.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    let number = label.bytes().all(|b| b.is_ascii_digit());
    if hexadecimal || number || label.starts_with("xn--") { Err(NameError::Ambiguous) } else { Ok(()) }
}

macro_rules! text_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }
    };
}

/// The name of a node: one label of 1 to 63 characters, none of the reserved ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Box<str>);

text_name!(NodeName);

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_label(text, LABEL_MAX)?;
        check_unambiguous(text)?;
        if RESERVED.contains(&text) { Err(NameError::Reserved) } else { Ok(Self(text.into())) }
    }
}

/// The name of a group: 1 to 32 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(Box<str>);

text_name!(GroupName);

impl GroupName {
    const MAX: usize = 32;
}

impl FromStr for GroupName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_label(text, Self::MAX)?;
        Ok(Self(text.into()))
    }
}

/// The domain that a network's names are under: at least two labels, as `office.internal`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

text_name!(Domain);

impl Domain {
    /// With a label of 63 and two dots a full name stays within the 253 that DNS allows.
    const MAX: usize = 188;
}

impl FromStr for Domain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > Self::MAX {
            return Err(NameError::TooLong { limit: Self::MAX });
        }
        text.split('.').try_for_each(|label| check_label(label, LABEL_MAX))?;
        // A domain of one label would stand beside `com` and `internal`.
        let (_, last) = text.rsplit_once('.').ok_or(NameError::Reserved)?;
        check_unambiguous(last)?;
        if RESERVED.contains(&last) { Err(NameError::Reserved) } else { Ok(Self(text.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_letters_digits_and_hyphens_control_rule_22() {
        for good in ["a", "db-1", "7of9", &"x".repeat(63), "0x-1", "wpad2"] {
            assert_eq!(good.parse::<NodeName>().unwrap().to_string(), good);
        }
        for (bad, error) in [
            ("", NameError::Empty),
            ("Db", NameError::Character('D')),
            ("a_b", NameError::Character('_')),
            ("a.b", NameError::Character('.')),
            ("ä", NameError::Character('ä')),
            ("-a", NameError::Hyphen),
            ("a-", NameError::Hyphen),
            ("10", NameError::Ambiguous),
            ("0x7f", NameError::Ambiguous),
            ("xn--abc", NameError::Ambiguous),
            ("wpad", NameError::Reserved),
            ("localhost", NameError::Reserved),
            (&"x".repeat(64), NameError::TooLong { limit: 63 }),
        ] {
            assert_eq!(bad.parse::<NodeName>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn domains_have_two_labels_or_more() {
        for good in ["office.internal", "a.b.c-d"] {
            assert!(good.parse::<Domain>().is_ok(), "{good}");
        }
        for bad in ["internal", "", "a..b", ".a", "a.", "a.localhost", "1.2", &"a.".repeat(95)] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
        assert!("all-hands".parse::<GroupName>().is_ok() && "x".repeat(33).parse::<GroupName>().is_err());
    }
}
