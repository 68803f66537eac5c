//! COSE_Sign1 (RFC 9052 §4.2), in the one form that control rule 6 leaves.
//!
//! Tagged; a protected header of algorithm, content type and key id and of nothing else; an empty unprotected
//! header; the payload inside; as external data the network's id and the content type. A document is taken
//! apart, put together again from its parts and compared, so that no other form passes.

use ciborium::Value;
use coset::{CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana};

use crate::cbor::{self, CborError, Item};
use crate::{KeyId, NetworkId, Signature, SigningKey, VerifyingKey};

/// CBOR tag of a COSE_Sign1.
const TAG: u64 = 18;

/// Fields of the protected header (RFC 9052 §3.1).
const CONTENT_TYPE: u64 = 3;
const KEY_ID: u64 = 4;

/// No protected header of ours is longer.
const PROTECTED_MAX: usize = 96;

/// What stands around a payload that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CoseError {
    #[error(transparent)]
    Cbor(#[from] CborError),
    #[error("not a tagged COSE_Sign1 with the header that ours have")]
    Form,
    #[error("another content type")]
    ContentType,
}

/// A document taken apart; nothing of it is believed yet.
pub(crate) struct Envelope {
    pub(crate) key_id: KeyId,
    pub(crate) payload: Vec<u8>,
    sign1: CoseSign1,
    content_type: &'static str,
}

fn header(content_type: &str, key_id: KeyId) -> coset::Header {
    HeaderBuilder::new()
        .algorithm(iana::Algorithm::Ed25519)
        .content_type(content_type.to_owned())
        .key_id(key_id.as_bytes().to_vec())
        .build()
}

fn external_data(network: &NetworkId, content_type: &str) -> Vec<u8> {
    cbor::encode(&Value::Array(vec![network.to_value(), Value::Text(content_type.to_owned())]))
}

fn encode(sign1: CoseSign1) -> Vec<u8> {
    sign1.to_tagged_vec().expect("the header has no label twice, which is all that encoding can fail by")
}

/// Signs a payload.
pub(crate) fn sign(content_type: &str, network: &NetworkId, key: &SigningKey, payload: Vec<u8>) -> Vec<u8> {
    let sign1 = CoseSign1Builder::new()
        .protected(header(content_type, key.verifying_key().key_id()))
        .payload(payload)
        .create_signature(&external_data(network, content_type), |data| key.sign(data).as_bytes().to_vec())
        .build();
    encode(sign1)
}

impl Envelope {
    /// Takes a document of at most `limit` bytes apart.
    ///
    /// The header is never given to a general parser, which would follow signatures inside of signatures
    /// as deep as they go.
    pub(crate) fn parse(bytes: &[u8], content_type: &'static str, limit: usize) -> Result<Self, CoseError> {
        let Value::Tag(TAG, content) = cbor::decode(bytes, limit)? else { return Err(CoseError::Form) };
        let Value::Array(parts) = *content else { return Err(CoseError::Form) };
        let Ok([Value::Bytes(protected), Value::Map(_), Value::Bytes(payload), Value::Bytes(signature)]) =
            <[Value; 4]>::try_from(parts)
        else {
            return Err(CoseError::Form);
        };
        let signature: [u8; 64] = signature.try_into().map_err(|_| CoseError::Form)?;
        let (found, key_id) = read_header(&protected)?;
        if found != content_type {
            return Err(CoseError::ContentType);
        }
        let sign1 = CoseSign1Builder::new()
            .protected(header(content_type, key_id))
            .payload(payload.clone())
            .signature(signature.to_vec())
            .build();
        // Whatever else stood in a header is not in this one.
        if encode(sign1.clone()) != bytes {
            return Err(CoseError::Form);
        }
        Ok(Self { key_id, payload, sign1, content_type })
    }

    /// Whether `key` signed this, for this network and as this type.
    #[must_use]
    pub(crate) fn verify(&self, network: &NetworkId, key: &VerifyingKey) -> bool {
        let data = external_data(network, self.content_type);
        let check = |signature: &[u8], data: &[u8]| {
            let signature = <[u8; 64]>::try_from(signature).map_err(|_| ())?;
            if key.verify(data, &Signature::from_bytes(signature)) { Ok(()) } else { Err(()) }
        };
        self.key_id == key.key_id() && self.sign1.verify_signature(&data, check).is_ok()
    }
}

/// Content type and key id of a protected header; the rest is compared afterwards.
fn read_header(protected: &[u8]) -> Result<(String, KeyId), CoseError> {
    let Value::Map(entries) = cbor::decode(protected, PROTECTED_MAX)? else { return Err(CoseError::Form) };
    let mut content_type = None;
    let mut key_id = None;
    for (label, value) in entries {
        if label == Value::Integer(CONTENT_TYPE.into()) {
            content_type = value.into_text().ok();
        } else if label == Value::Integer(KEY_ID.into()) {
            key_id = KeyId::from_value(value).ok();
        }
    }
    content_type.zip(key_id).ok_or(CoseError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.tombolo.test+cbor";

    fn network() -> NetworkId {
        NetworkId::from_bytes([9; 16])
    }

    fn key() -> SigningKey {
        SigningKey::from_seed([1; 32])
    }

    /// A document of parts that the caller chooses, well signed over what it says.
    fn forge(protected: Value, unprotected: Value, tag: Option<u64>, aad: &[u8]) -> Vec<u8> {
        let protected = cbor::encode(&protected);
        let payload = vec![1, 2, 3];
        let to_sign = cbor::encode(&Value::Array(vec![
            Value::Text("Signature1".into()),
            Value::Bytes(protected.clone()),
            Value::Bytes(aad.to_vec()),
            Value::Bytes(payload.clone()),
        ]));
        let signature = key().sign(&to_sign).as_bytes().to_vec();
        let parts =
            vec![Value::Bytes(protected), unprotected, Value::Bytes(payload), Value::Bytes(signature)];
        cbor::encode(&match tag {
            Some(tag) => Value::Tag(tag, Box::new(Value::Array(parts))),
            None => Value::Array(parts),
        })
    }

    fn map(entries: &[(i64, Value)]) -> Value {
        Value::Map(
            entries.iter().map(|(key, value)| (Value::Integer((*key).into()), value.clone())).collect(),
        )
    }

    type Entries = Vec<(i64, Value)>;

    fn entries() -> Entries {
        let key_id = key().verifying_key().key_id();
        vec![(1, Value::Integer((-19).into())), (3, Value::Text(TYPE.into())), (4, key_id.to_value())]
    }

    fn outcome(bytes: &[u8]) -> Result<bool, CoseError> {
        Envelope::parse(bytes, TYPE, 1000).map(|envelope| envelope.verify(&network(), &key().verifying_key()))
    }

    #[test]
    fn the_form_is_that_of_rfc_9052_control_rule_6() {
        let bytes = sign(TYPE, &network(), &key(), vec![1, 2, 3]);
        let by_hand = forge(map(&entries()), map(&[]), Some(18), &external_data(&network(), TYPE));
        assert_eq!(bytes, by_hand);
        assert_eq!(outcome(&bytes), Ok(true));
    }

    #[test]
    fn any_other_form_is_refused_control_rule_6() {
        let aad = external_data(&network(), TYPE);
        let with = |change: &dyn Fn(&mut Entries)| {
            let mut entries = entries();
            change(&mut entries);
            forge(map(&entries), map(&[]), Some(18), &aad)
        };
        for (bytes, what) in [
            (forge(map(&entries()), map(&[]), None, &aad), "no tag"),
            (forge(map(&entries()), map(&[]), Some(98), &aad), "the tag of COSE_Sign"),
            (forge(map(&entries()), map(&[(4, Value::Null)]), Some(18), &aad), "an unprotected header"),
            (with(&|entries| entries[0].1 = Value::Integer((-8).into())), "EdDSA, of an unnamed curve"),
            (with(&|entries| drop(entries.remove(0))), "no algorithm"),
            (with(&|entries| drop(entries.remove(1))), "no content type"),
            (with(&|entries| drop(entries.remove(2))), "no key id"),
            (with(&|entries| entries.insert(1, (2, Value::Array(vec![Value::Integer(9.into())])))), "crit"),
            (with(&|entries| entries.push((5, Value::Bytes(vec![0])))), "a field more"),
            (with(&|entries| entries.insert(1, (3, Value::Text("x".into())))), "a field twice"),
        ] {
            assert!(matches!(outcome(&bytes), Err(CoseError::Form | CoseError::Cbor(_))), "{what}");
        }
        let other_type = with(&|entries| entries[1].1 = Value::Text("application/cbor".into()));
        assert_eq!(outcome(&other_type), Err(CoseError::ContentType));
    }

    #[test]
    fn network_type_and_key_are_signed_control_rule_6() {
        for aad in [
            vec![],
            external_data(&NetworkId::from_bytes([8; 16]), TYPE),
            external_data(&network(), "application/vnd.tombolo.other+cbor"),
        ] {
            assert_eq!(outcome(&forge(map(&entries()), map(&[]), Some(18), &aad)), Ok(false));
        }
        let bytes = sign(TYPE, &network(), &key(), vec![1]);
        let other = SigningKey::from_seed([2; 32]).verifying_key();
        assert!(!Envelope::parse(&bytes, TYPE, 1000).unwrap().verify(&network(), &other));
        let limit = bytes.len() - 1;
        assert!(matches!(
            Envelope::parse(&bytes, TYPE, limit),
            Err(CoseError::Cbor(CborError::TooLarge { .. }))
        ));
    }

    #[test]
    fn signatures_nested_in_headers_reach_no_stack_end() {
        let mut nested = vec![0xa0];
        for _ in 0..400 {
            nested = cbor::encode(&map(&[(
                7,
                Value::Array(vec![Value::Bytes(nested), Value::Map(vec![]), Value::Bytes(vec![])]),
            )]));
        }
        let parts = vec![Value::Bytes(nested), map(&[]), Value::Bytes(vec![]), Value::Bytes(vec![0; 64])];
        let bytes = cbor::encode(&Value::Tag(18, Box::new(Value::Array(parts))));
        assert!(Envelope::parse(&bytes, TYPE, 1 << 20).is_err());
    }
}
