//! Deterministic CBOR (RFC 8949 §4.2.1), read strictly (control rule 6).
//!
//! Shortest lengths and integers, definite lengths only, map keys in the order of their encodings and none
//! twice, nothing behind the end. What was read is encoded again and compared byte by byte, so that there is one
//! encoding of each value and no second one is taken.

mod fields;
mod item;

use ciborium::Value;

pub use fields::FieldError;
pub(crate) use fields::{Fields, MapBuilder};
pub use item::Problem;
pub(crate) use item::{Item, choice, encode_set, end, next, strict_set};

/// Deeper than anything of ours, and far from the end of any stack.
const DEPTH_MAX: usize = 12;

/// Bytes that are not the one encoding of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CborError {
    /// More than may be.
    #[error("{length} bytes are more than the {limit} that are allowed")]
    TooLarge {
        /// Length in bytes.
        length: usize,
        /// Greatest length in bytes.
        limit: usize,
    },
    /// Not CBOR, cut off, or nested too deeply.
    #[error("not well-formed CBOR")]
    Malformed,
    /// Something stands behind the end.
    #[error("{0} bytes behind the end")]
    Trailing(usize),
    /// A map has a key twice.
    #[error("a map has a key twice")]
    DuplicateKey,
    /// A value that has a shorter or more orderly encoding.
    #[error("not in the deterministic encoding")]
    NotCanonical,
}

/// Reads one value that is all of `bytes`.
pub(crate) fn decode(bytes: &[u8], limit: usize) -> Result<Value, CborError> {
    if bytes.len() > limit {
        return Err(CborError::TooLarge { length: bytes.len(), limit });
    }
    let mut rest = bytes;
    let value: Value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
        .map_err(|_| CborError::Malformed)?;
    if !rest.is_empty() {
        return Err(CborError::Trailing(rest.len()));
    }
    check_maps(&value)?;
    if encode(&value) != bytes {
        return Err(CborError::NotCanonical);
    }
    Ok(value)
}

/// Encodes a value. Maps are written in the order they have: [`MapBuilder`] keeps it right.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a vector takes all that is written");
    bytes
}

/// The encoder keeps the order in which maps were read, so that the comparison alone would not see it.
fn check_maps(value: &Value) -> Result<(), CborError> {
    match value {
        Value::Map(entries) => {
            let mut last: Option<Vec<u8>> = None;
            for (key, value) in entries {
                let key_bytes = encode(key);
                match last.as_ref().map(|last| last.cmp(&key_bytes)) {
                    Some(std::cmp::Ordering::Equal) => return Err(CborError::DuplicateKey),
                    Some(std::cmp::Ordering::Greater) => return Err(CborError::NotCanonical),
                    _ => {}
                }
                last = Some(key_bytes);
                check_maps(key)?;
                check_maps(value)?;
            }
            Ok(())
        }
        Value::Array(values) => values.iter().try_for_each(check_maps),
        Value::Tag(_, value) => check_maps(value),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        base16ct::mixed::decode_vec(text).unwrap()
    }

    #[test]
    fn values_of_rfc_8949_appendix_a_pass() {
        for text in [
            "00",
            "17",
            "1818",
            "1903e8",
            "1b000000e8d4a51000",
            "3863",
            "f4",
            "f6",
            "43010203",
            "6449455446",
            "83010203",
            "a201020304",
            "a26161016162820203",
            "c11a514b67b0",
        ] {
            assert!(decode(&hex(text), 64).is_ok(), "{text}");
        }
    }

    #[test]
    fn second_encodings_are_refused_control_rule_6() {
        for (text, error, what) in [
            ("1817", CborError::NotCanonical, "23 in two bytes"),
            ("190017", CborError::NotCanonical, "23 in three bytes"),
            ("580101", CborError::NotCanonical, "a length in two bytes"),
            ("5f4101ff", CborError::NotCanonical, "a string of indefinite length"),
            ("9f01ff", CborError::NotCanonical, "an array of indefinite length"),
            ("bf0102ff", CborError::NotCanonical, "a map of indefinite length"),
            ("a203040102", CborError::NotCanonical, "keys out of order"),
            ("a201020103", CborError::DuplicateKey, "a key twice"),
            ("81a201020103", CborError::DuplicateKey, "a key twice, further in"),
            ("a26162016161ff", CborError::Malformed, "a break that ends nothing"),
            ("0000", CborError::Trailing(1), "two values"),
            ("fa3fc00000", CborError::NotCanonical, "1.5 in five bytes"),
            ("c24101", CborError::NotCanonical, "1 as a big number"),
            ("", CborError::Malformed, "nothing"),
            ("8201", CborError::Malformed, "half of an array"),
            ("5affffffff00", CborError::Malformed, "a string longer than its document"),
            ("9affffffff00", CborError::Malformed, "an array longer than its document"),
        ] {
            assert_eq!(
                decode(&hex(text), 64).map_err(|error| error.to_string()),
                Err(error.to_string()),
                "{what}"
            );
        }
        assert_eq!(decode(&[0; 65], 64), Err(CborError::TooLarge { length: 65, limit: 64 }));
        let mut deep = vec![0x81; 10_000];
        deep.push(0);
        assert_eq!(decode(&deep, 20_000), Err(CborError::Malformed));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u64>().prop_map(|number| Value::Integer(number.into())),
            any::<i64>().prop_map(|number| Value::Integer(number.into())),
            any::<bool>().prop_map(Value::Bool),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
            ".{0,12}".prop_map(Value::Text),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::btree_map(any::<u64>(), inner, 0..6).prop_map(|map| Value::Map(
                    map.into_iter().map(|(k, v)| (Value::Integer(k.into()), v)).collect()
                )),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(value in any_value()) {
            prop_assert_eq!(decode(&encode(&value), 1 << 20), Ok(value));
        }

        #[test]
        fn what_is_read_has_no_other_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = decode(&bytes, 64) {
                prop_assert_eq!(encode(&value), bytes);
            }
        }
    }
}
