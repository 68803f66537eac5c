//! Typed access to one table of a parsed file. A wrong type or an unknown key becomes a problem at its place.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problems;

/// A value and its byte range in the file.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One table, with its name as the user wrote it.
pub(super) struct Section<'t, 'source> {
    title: &'static str,
    table: &'t DeTable<'source>,
    pub(super) span: Range<usize>,
}

impl<'t, 'source> Section<'t, 'source> {
    /// Wraps a table; every key that is not in `known` becomes a problem.
    pub(super) fn new(
        title: &'static str,
        table: &'t DeTable<'source>,
        span: Range<usize>,
        known: &[&str],
        problems: &mut Problems<'_>,
    ) -> Self {
        for key in table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                problems.at(key.span(), unknown_key(name, title, known));
            }
        }
        Self { title, table, span }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'source>>> {
        self.table
            .iter()
            .find(|(name, _)| {
                let name: &str = name.get_ref();
                name == key
            })
            .map(|(_, value)| value)
    }

    fn wrong_type(&self, key: &str, wanted: &str, value: &Spanned<DeValue<'_>>, problems: &mut Problems<'_>) {
        let found = value.get_ref().type_str();
        problems.at(value.span(), format!("`{key}` in {} must be {wanted}, not {found}", self.title));
    }

    /// A string.
    pub(super) fn string(&self, key: &str, problems: &mut Problems<'_>) -> Option<At<&'t str>> {
        let value = self.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(At { value: text, span: value.span() }),
            None => {
                self.wrong_type(key, "a string", value, problems);
                None
            }
        }
    }

    /// A string, or an integer as it stands there.
    pub(super) fn string_or_integer(&self, key: &str, problems: &mut Problems<'_>) -> Option<At<String>> {
        let value = self.get(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            _ => {
                self.wrong_type(key, "a string or an integer", value, problems);
                return None;
            }
        };
        Some(At { value: text, span: value.span() })
    }

    /// One string, or an array of strings.
    pub(super) fn strings(&self, key: &str, problems: &mut Problems<'_>) -> Option<Vec<At<&'t str>>> {
        let value = self.get(key)?;
        if let Some(text) = value.get_ref().as_str() {
            return Some(vec![At { value: text, span: value.span() }]);
        }
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, "a string or an array of strings", value, problems);
            return None;
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(At { value: text, span: item.span() }),
                None => self.wrong_type(key, "an array of strings", item, problems),
            }
        }
        Some(texts)
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A boolean, or the default.
    pub(super) fn boolean(&self, key: &str, default: bool, problems: &mut Problems<'_>) -> bool {
        let Some(value) = self.get(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(key, "true or false", value, problems);
            default
        })
    }

    /// An integer within a range.
    pub(super) fn integer(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        reason: &str,
        problems: &mut Problems<'_>,
    ) -> Option<At<u64>> {
        let value = self.get(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, "an integer", value, problems);
            return None;
        };
        match u64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(At { value: number, span: value.span() }),
            _ => {
                let (low, high) = (range.start(), range.end());
                problems.at(
                    value.span(),
                    format!(
                        "`{key}` in {} must be from {low} to {high}{reason}, not {}",
                        self.title,
                        integer.as_str()
                    ),
                );
                None
            }
        }
    }

    /// The tables below this one under `key`, with their byte ranges: `[[key]]`.
    pub(super) fn tables(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
    ) -> Vec<(&'t DeTable<'source>, Range<usize>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            problems.at(value.span(), format!("write [[{key}]], with two brackets: there can be several"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push((table, item.span())),
                None => problems.at(item.span(), format!("each `{key}` must be a table: [[{key}]]")),
            }
        }
        tables
    }

    /// The table below this one under `key`: `[key]`.
    pub(super) fn table(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
    ) -> Option<(&'t DeTable<'source>, Range<usize>)> {
        let value = self.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some((table, value.span())),
            None => {
                problems.at(value.span(), format!("`{key}` must be one table: [{key}]"));
                None
            }
        }
    }
}

fn unknown_key(name: &str, title: &str, known: &[&str]) -> String {
    // Below this similarity a suggestion misleads more than it helps.
    const NEAR: f64 = 0.7;
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match nearest {
        Some((similarity, candidate)) if similarity >= NEAR => {
            format!("unknown key `{name}` in {title}; did you mean `{candidate}`?")
        }
        _ => format!("unknown key `{name}` in {title}; known are: {}", known.join(", ")),
    }
}
