//! How single values stand in CBOR.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ciborium::Value;
use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::encode;
use crate::{
    DocumentHash, Domain, Fingerprint, GroupName, HostEndpoint, KeyId, NetworkId, NodeId, NodeName,
    Signature, VerifyingKey,
};

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It must be there.
    #[error("is missing")]
    Missing,
    /// Another kind of value, or a wrong number of bytes.
    #[error("is of the wrong type or length")]
    WrongType,
    /// A number or time that is too great or too small.
    #[error("is out of range")]
    Range,
    /// More items or bytes than allowed.
    #[error("has too many items")]
    TooMany,
    /// An empty list, where the field is to be left out.
    #[error("is empty, and should be left out")]
    Empty,
    /// Items not in the order of their encodings, or one twice.
    #[error("is not in ascending order, or has an item twice")]
    Order,
    /// A text that breaks the rules of its kind.
    #[error("is not a name, domain or endpoint of the allowed form")]
    Text,
    /// A key that is none: no point, low order, or a second encoding.
    #[error("is not a usable key")]
    Key,
    /// A prefix with bits set behind its length, or an IPv4 address dressed as IPv6.
    #[error("is not an address or prefix in its one form")]
    Address,
    /// A field that this version does not know, where none may be ignored.
    #[error("has a field that this version does not know")]
    UnknownField,
    /// A value that contradicts another field.
    #[error("contradicts another field")]
    Contradiction,
}

/// A value with one encoding.
pub(crate) trait Item: Sized {
    fn to_value(&self) -> Value;
    fn from_value(value: Value) -> Result<Self, Problem>;
}

/// An array whose first item is a number that says what the others are: that number, and the others.
pub(crate) fn choice(value: Value) -> Result<(u64, std::vec::IntoIter<Value>), Problem> {
    let mut parts = value.into_array().map_err(|_| Problem::WrongType)?.into_iter();
    let kind = u64::from_value(parts.next().ok_or(Problem::WrongType)?)?;
    Ok((kind, parts))
}

/// The next of them.
pub(crate) fn next<T: Item>(parts: &mut std::vec::IntoIter<Value>) -> Result<T, Problem> {
    T::from_value(parts.next().ok_or(Problem::WrongType)?)
}

/// What they came to, where nothing is left over.
pub(crate) fn end<T>(mut parts: std::vec::IntoIter<Value>, item: T) -> Result<T, Problem> {
    if parts.next().is_some() { Err(Problem::WrongType) } else { Ok(item) }
}

/// A set as an array in the order of the encodings.
pub(crate) fn encode_set<T: Item>(items: &BTreeSet<T>) -> Value {
    let mut values: Vec<Value> = items.iter().map(Item::to_value).collect();
    values.sort_by_cached_key(encode);
    Value::Array(values)
}

/// Reads what [`encode_set`] writes.
pub(crate) fn strict_set<T: Item + Ord>(value: Value, limit: usize) -> Result<BTreeSet<T>, Problem> {
    let values = value.into_array().map_err(|_| Problem::WrongType)?;
    if values.is_empty() {
        return Err(Problem::Empty);
    }
    if values.len() > limit {
        return Err(Problem::TooMany);
    }
    let encodings: Vec<Vec<u8>> = values.iter().map(encode).collect();
    if !encodings.is_sorted_by(|a, b| a < b) {
        return Err(Problem::Order);
    }
    values.into_iter().map(T::from_value).collect()
}

impl Item for u64 {
    fn to_value(&self) -> Value {
        Value::Integer((*self).into())
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let number = value.into_integer().map_err(|_| Problem::WrongType)?;
        number.try_into().map_err(|_| Problem::Range)
    }
}

macro_rules! smaller_number {
    ($($number:ty),*) => {$(
        impl Item for $number {
            fn to_value(&self) -> Value {
                Value::Integer((*self).into())
            }

            fn from_value(value: Value) -> Result<Self, Problem> {
                u64::from_value(value)?.try_into().map_err(|_| Problem::Range)
            }
        }
    )*};
}
smaller_number!(u8, u16, u32);

impl Item for bool {
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        value.into_bool().map_err(|_| Problem::WrongType)
    }
}

impl<const N: usize> Item for [u8; N] {
    fn to_value(&self) -> Value {
        Value::Bytes(self.to_vec())
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let bytes = value.into_bytes().map_err(|_| Problem::WrongType)?;
        bytes.try_into().map_err(|_| Problem::WrongType)
    }
}

/// Whatever bytes.
impl Item for Vec<u8> {
    fn to_value(&self) -> Value {
        Value::Bytes(self.clone())
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        value.into_bytes().map_err(|_| Problem::WrongType)
    }
}

macro_rules! bytes_item {
    ($($name:ident),*) => {$(
        impl Item for $name {
            fn to_value(&self) -> Value {
                self.as_bytes().to_value()
            }

            fn from_value(value: Value) -> Result<Self, Problem> {
                Item::from_value(value).map(Self::from_bytes)
            }
        }
    )*};
}
bytes_item!(NetworkId, NodeId, DocumentHash, Fingerprint, KeyId, Signature);

impl Item for VerifyingKey {
    fn to_value(&self) -> Value {
        self.as_bytes().to_value()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        Self::from_bytes(&Item::from_value(value)?).ok_or(Problem::Key)
    }
}

/// Little-endian 2^255 - 19 less one in its highest byte is 0x7f; the bytes between are all ones.
fn is_canonical_x25519(bytes: &[u8; 32]) -> bool {
    let all_ones = bytes[31] == 0x7f && bytes[1..31].iter().all(|&byte| byte == 0xff);
    bytes[31] < 0x80 && !(all_ones && bytes[0] >= 0xed)
}

/// A static key in its one encoding and not of low order (control rule 3). Costs one X25519.
impl Item for PublicKey {
    fn to_value(&self) -> Value {
        self.as_bytes().to_value()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let bytes = Item::from_value(value)?;
        let key = Self::from_bytes(bytes);
        if is_canonical_x25519(&bytes) && !key.is_low_order() { Ok(key) } else { Err(Problem::Key) }
    }
}

macro_rules! text_item {
    ($($name:ident),*) => {$(
        impl Item for $name {
            fn to_value(&self) -> Value {
                Value::Text(self.as_str().to_owned())
            }

            fn from_value(value: Value) -> Result<Self, Problem> {
                let text = value.into_text().map_err(|_| Problem::WrongType)?;
                text.parse().map_err(|_| Problem::Text)
            }
        }
    )*};
}
text_item!(NodeName, GroupName, Domain, HostEndpoint);

/// Whole seconds below 2^40: no sum of two such times overflows.
const SECONDS_END: u64 = 1 << 40;

impl Item for UnixTime {
    fn to_value(&self) -> Value {
        self.0.to_value()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        Duration::from_value(value).map(Self)
    }
}

impl Item for Duration {
    fn to_value(&self) -> Value {
        self.as_secs().to_value()
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let seconds = u64::from_value(value)?;
        if seconds < SECONDS_END { Ok(Self::from_secs(seconds)) } else { Err(Problem::Range) }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Four or sixteen bytes. An IPv4 address has no second form inside of IPv6.
fn read_address(bytes: &[u8]) -> Result<IpAddr, Problem> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Ipv4Addr::from(v4).into());
    }
    let v6: Ipv6Addr = <[u8; 16]>::try_from(bytes).map_err(|_| Problem::WrongType)?.into();
    if v6.to_ipv4_mapped().is_some() { Err(Problem::Address) } else { Ok(v6.into()) }
}

impl Item for IpAddr {
    fn to_value(&self) -> Value {
        Value::Bytes(octets(*self))
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        read_address(&Vec::from_value(value)?)
    }
}

/// The address's bytes and one for the length of the prefix.
impl Item for IpNet {
    fn to_value(&self) -> Value {
        let mut bytes = octets(self.addr());
        bytes.push(self.prefix_len());
        Value::Bytes(bytes)
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let bytes = Vec::from_value(value)?;
        let (len, address) = bytes.split_last().ok_or(Problem::WrongType)?;
        let network = Self::new(read_address(address)?, *len).map_err(|_| Problem::Address)?;
        if network.trunc() == network { Ok(network) } else { Err(Problem::Address) }
    }
}

/// The address's bytes and two for the port, the high one first. Port 0 is none.
impl Item for SocketAddr {
    fn to_value(&self) -> Value {
        let mut bytes = octets(self.ip());
        bytes.extend(self.port().to_be_bytes());
        Value::Bytes(bytes)
    }

    fn from_value(value: Value) -> Result<Self, Problem> {
        let bytes = Vec::from_value(value)?;
        let (address, port) = bytes.split_last_chunk::<2>().ok_or(Problem::WrongType)?;
        match u16::from_be_bytes(*port) {
            0 => Err(Problem::Range),
            port => Ok(Self::new(read_address(address)?, port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_order_and_twice_encoded_static_keys_are_refused_control_rule_3() {
        let read = |bytes: [u8; 32]| PublicKey::from_value(bytes.to_value());
        let mut nine = [0; 32];
        nine[0] = 9;
        assert!(read(nine).is_ok());
        nine[31] = 0x80;
        assert_eq!(read(nine), Err(Problem::Key), "the unused bit");
        let mut above = [0xff; 32];
        (above[0], above[31]) = (0xed + 9, 0x7f);
        assert_eq!(read(above), Err(Problem::Key), "9 + p");
        (above[0], above[31]) = (0xeb, 0x7f);
        assert!(read(above).is_ok(), "p - 2");
        (above[0], above[31]) = (0xec, 0x7f);
        assert_eq!(read(above), Err(Problem::Key), "p - 1, of low order");
        assert_eq!(read([0; 32]), Err(Problem::Key), "zero, of low order");
    }

    #[test]
    fn addresses_have_one_form_control_rule_6() {
        let prefix = |bytes: &[u8]| IpNet::from_value(Value::Bytes(bytes.to_vec()));
        assert_eq!(prefix(&[10, 86, 0, 0, 16]), Ok("10.86.0.0/16".parse().unwrap()));
        assert_eq!(prefix(&[10, 86, 0, 1, 16]), Err(Problem::Address));
        assert_eq!(prefix(&[10, 86, 0, 0, 33]), Err(Problem::Address));
        assert_eq!(prefix(&[]), Err(Problem::WrongType));
        let mapped: Vec<u8> = "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        assert_eq!(IpAddr::from_value(Value::Bytes(mapped)), Err(Problem::Address));
        let endpoint: SocketAddr = "[2001:db8::1]:8662".parse().unwrap();
        assert_eq!(SocketAddr::from_value(endpoint.to_value()), Ok(endpoint));
        assert_eq!(SocketAddr::from_value(Value::Bytes(vec![1, 2, 3, 4, 0, 0])), Err(Problem::Range));
    }

    #[test]
    fn sets_ascend_and_have_nothing_twice_control_rule_6() {
        let numbers = |values: &[u64]| Value::Array(values.iter().map(Item::to_value).collect());
        assert_eq!(strict_set(numbers(&[1, 2, 300]), 3), Ok(BTreeSet::<u64>::from([1, 2, 300])));
        assert_eq!(strict_set::<u64>(numbers(&[2, 1]), 3), Err(Problem::Order));
        assert_eq!(strict_set::<u64>(numbers(&[1, 1]), 3), Err(Problem::Order));
        assert_eq!(strict_set::<u64>(numbers(&[1, 2, 3, 4]), 3), Err(Problem::TooMany));
        assert_eq!(strict_set::<u64>(numbers(&[]), 3), Err(Problem::Empty));
    }
}
