//! Maps with numbered fields.

use std::collections::{BTreeMap, BTreeSet};

use ciborium::Value;

use super::item::{Item, Problem, encode_set, strict_set};

/// What is wrong with which field of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub struct FieldError {
    /// The field's name, as `docs/control-protocol.md` has it.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

impl FieldError {
    pub(crate) const fn new(field: &'static str, problem: Problem) -> Self {
        Self { field, problem }
    }
}

/// The fields of a map, taken out one by one; what is left in the end is unknown.
pub(crate) struct Fields(BTreeMap<u64, Value>);

impl Fields {
    /// Of a map with unsigned keys; `what` names the map in errors.
    pub(crate) fn from_value(value: Value, what: &'static str) -> Result<Self, FieldError> {
        let wrong = FieldError::new(what, Problem::WrongType);
        let Value::Map(entries) = value else { return Err(wrong) };
        let entry = |(key, value): (Value, Value)| {
            let key = key.into_integer().ok().and_then(|key| u64::try_from(key).ok());
            key.map(|key| (key, value)).ok_or(wrong)
        };
        entries.into_iter().map(entry).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn required<T: Item>(&mut self, key: u64, field: &'static str) -> Result<T, FieldError> {
        self.optional(key, field)?.ok_or(FieldError::new(field, Problem::Missing))
    }

    pub(crate) fn optional<T: Item>(
        &mut self,
        key: u64,
        field: &'static str,
    ) -> Result<Option<T>, FieldError> {
        let Some(value) = self.0.remove(&key) else { return Ok(None) };
        T::from_value(value).map(Some).map_err(|problem| FieldError::new(field, problem))
    }

    /// A set of at most `limit` items in the order of their encodings. There is no empty one: the field is
    /// left out.
    pub(crate) fn set<T: Item + Ord>(
        &mut self,
        key: u64,
        field: &'static str,
        limit: usize,
    ) -> Result<BTreeSet<T>, FieldError> {
        let Some(value) = self.0.remove(&key) else { return Ok(BTreeSet::new()) };
        strict_set(value, limit).map_err(|problem| FieldError::new(field, problem))
    }

    /// A list of at most `limit` items, in an order that means something. There is no empty one.
    pub(crate) fn list<T: Item>(
        &mut self,
        key: u64,
        field: &'static str,
        limit: usize,
    ) -> Result<Vec<T>, FieldError> {
        let error = |problem| FieldError::new(field, problem);
        let Some(value) = self.0.remove(&key) else { return Ok(Vec::new()) };
        let values = value.into_array().map_err(|_| error(Problem::WrongType))?;
        if values.is_empty() {
            return Err(error(Problem::Empty));
        }
        if values.len() > limit {
            return Err(error(Problem::TooMany));
        }
        values.into_iter().map(|value| T::from_value(value).map_err(error)).collect()
    }

    /// Gives a field back that was read ahead of its time.
    pub(crate) fn put_back<T: Item>(&mut self, key: u64, item: &T) {
        self.0.insert(key, item.to_value());
    }

    /// Keys that nobody has asked for.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }

    /// Nothing may be left: unknown fields here would change the meaning of the known ones.
    pub(crate) fn finish(self, what: &'static str) -> Result<(), FieldError> {
        if self.0.is_empty() { Ok(()) } else { Err(FieldError::new(what, Problem::UnknownField)) }
    }
}

/// Builds a map with numbered fields, which are to be given in ascending order.
#[derive(Default)]
pub(crate) struct MapBuilder(Vec<(Value, Value)>);

impl MapBuilder {
    pub(crate) fn put<T: Item>(self, key: u64, item: &T) -> Self {
        self.put_value(key, item.to_value())
    }

    pub(crate) fn put_some<T: Item>(self, key: u64, item: Option<&T>) -> Self {
        match item {
            Some(item) => self.put(key, item),
            None => self,
        }
    }

    pub(crate) fn put_set<T: Item>(self, key: u64, items: &BTreeSet<T>) -> Self {
        if items.is_empty() { self } else { self.put_value(key, encode_set(items)) }
    }

    pub(crate) fn put_list<T: Item>(self, key: u64, items: &[T]) -> Self {
        if items.is_empty() {
            return self;
        }
        self.put_value(key, Value::Array(items.iter().map(Item::to_value).collect()))
    }

    pub(crate) fn put_value(mut self, key: u64, value: Value) -> Self {
        let last = self.0.last().and_then(|(last, _)| last.as_integer());
        debug_assert!(last.is_none_or(|last| last < key.into()), "fields ascend");
        self.0.push((Value::Integer(key.into()), value));
        self
    }

    pub(crate) fn build(self) -> Value {
        Value::Map(self.0)
    }
}
