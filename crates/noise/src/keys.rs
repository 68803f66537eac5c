//! Static keys and preshared keys, and what is computed once from them.
//!
//! All keys are 32 bytes. Secrets are wiped when they are dropped, are compared in constant time, are
//! read and written as text in constant time, and have no `Debug` that shows them. They live on the heap,
//! so that a value that moves (a table that grows, say) leaves no copy behind that nobody wipes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use rand_core::CryptoRng;
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{self, AgreementKey, SharedSecret};

/// Length in bytes of every key.
pub const KEY_LEN: usize = 32;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// Text that is not a key. The text itself is not repeated: it may be nearly a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 44 characters of canonical base64 that end in `=`.
    #[error("a key is 44 characters of base64, the last of them `=`")]
    Base64,
    /// Not 64 hexadecimal digits.
    #[error("a key is 64 hexadecimal digits")]
    Hex,
}

fn decode_base64(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    match Base64::decode(text, bytes.as_mut_slice()) {
        Ok(decoded) if decoded.len() == KEY_LEN => Ok(bytes),
        _ => Err(KeyError::Base64),
    }
}

fn decode_hex(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    match base16ct::mixed::decode(text, bytes.as_mut_slice()) {
        Ok(decoded) if decoded.len() == KEY_LEN => Ok(bytes),
        _ => Err(KeyError::Hex),
    }
}

/// A public key: the name of a peer.
///
/// Compared and ordered as bytes, as the reference implementations do; two encodings of one curve point
/// are two keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// From the 32 bytes that travel on the wire.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Reads 64 hexadecimal digits, as the UAPI has them.
    ///
    /// # Errors
    /// [`KeyError::Hex`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode_hex(text).map(|bytes| Self(*bytes))
    }

    /// 64 lower-case hexadecimal digits, as the UAPI has them.
    pub fn to_hex(&self) -> String {
        base16ct::lower::encode_string(&self.0)
    }

    /// Whether this is the one encoding of its curve point that arithmetic gives: below 2^255 − 19. Of others there are 38, and a key that can be written
    /// in two ways could be two members (control rule 3).
    pub fn is_canonical(&self) -> bool {
        let [low, middle @ .., high] = &self.0;
        let largest = *high == 0x7f && middle.iter().all(|&byte| byte == 0xff);
        *high < 0x80 && !(largest && *low >= 0xed)
    }

    /// Whether every Diffie-Hellman with this key is zero. Such a key may stand in a configuration, but
    /// there is never a handshake with it (requirement 24).
    pub fn is_low_order(&self) -> bool {
        // X25519 does not look at the highest bit (RFC 7748 §5).
        let mut bytes = self.0;
        bytes[KEY_LEN - 1] &= 0x7f;
        LOW_ORDER.contains(&bytes)
    }
}

/// The points of which the order divides 8, and their encodings past the field: 0, 1, the two points of order 8, p - 1, p and
/// p + 1 (Bernstein, "Curve25519: new Diffie-Hellman speed records", 2006, §3). A test holds Diffie-Hellman itself
/// against them.
const LOW_ORDER: [[u8; KEY_LEN]; 7] = [
    [0; KEY_LEN],
    small(1),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    past_the_field(0xec),
    past_the_field(0xed),
    past_the_field(0xee),
];

const fn small(number: u8) -> [u8; KEY_LEN] {
    let mut bytes = [0; KEY_LEN];
    bytes[0] = number;
    bytes
}

/// 2^255 - 256 + `low`; the field's prime is that with 0xed.
const fn past_the_field(low: u8) -> [u8; KEY_LEN] {
    let mut bytes = [0xff; KEY_LEN];
    bytes[0] = low;
    bytes[KEY_LEN - 1] = 0x7f;
    bytes
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&Base64::encode_string(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode_base64(text).map(|bytes| Self(*bytes))
    }
}

macro_rules! secret_key {
    ($name:ident) => {
        impl $name {
            /// Reads 44 characters of base64.
            ///
            /// # Errors
            /// [`KeyError::Base64`].
            pub fn parse_base64(text: &str) -> Result<Self, KeyError> {
                decode_base64(text).map(|bytes| Self::from_bytes(*bytes))
            }

            /// 44 characters of base64, wiped when dropped.
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(Base64::encode_string(self.as_bytes()))
            }

            /// Reads 64 hexadecimal digits, as the UAPI has them.
            ///
            /// # Errors
            /// [`KeyError::Hex`].
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                decode_hex(text).map(|bytes| Self::from_bytes(*bytes))
            }

            /// 64 lower-case hexadecimal digits, wiped when dropped.
            pub fn to_hex(&self) -> Zeroizing<String> {
                Zeroizing::new(base16ct::lower::encode_string(self.as_bytes()))
            }
        }

        impl ConstantTimeEq for $name {
            fn ct_eq(&self, other: &Self) -> Choice {
                self.as_bytes().ct_eq(other.as_bytes())
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.ct_eq(other).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

/// An X25519 private key. Clamped where it is used; kept as it was given.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey(Box<[u8; KEY_LEN]>);

secret_key!(PrivateKey);

impl PrivateKey {
    /// From 32 bytes.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(Box::new(bytes))
    }

    /// The 32 secret bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// A new key. It is clamped here already, as those of other tools are.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut key = Self(Box::default());
        rng.fill_bytes(&mut *key.0);
        key.0[0] &= 0xf8;
        key.0[31] = (key.0[31] & 0x7f) | 0x40;
        key
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.agreement().public())
    }

    /// The key made ready for Diffie-Hellman: to be kept where there will be more than one.
    pub(crate) fn agreement(&self) -> AgreementKey {
        AgreementKey::new(&self.0)
    }

    /// Whether all bytes are zero, which in the UAPI means "no private key".
    pub fn is_zero(&self) -> bool {
        self.as_bytes().ct_eq(&[0; KEY_LEN]).into()
    }
}

/// A symmetric key that two peers may share besides their static keys (§5.2). The default, all zero,
/// is the same as none.
#[derive(Clone, Default)]
pub struct PresharedKey(Option<Box<Zeroizing<[u8; KEY_LEN]>>>);

secret_key!(PresharedKey);

impl PresharedKey {
    /// From 32 bytes.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let none: bool = bytes.ct_eq(&[0; KEY_LEN]).into();
        Self((!none).then(|| Box::new(bytes)))
    }

    /// The 32 secret bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        self.0.as_deref().map_or(&[0; KEY_LEN], |key| key)
    }

    /// A new key.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut key = Box::new(Zeroizing::new([0; KEY_LEN]));
        rng.fill_bytes(key.as_mut_slice());
        Self(Some(key))
    }

    /// Whether this is the default: no preshared key.
    pub fn is_zero(&self) -> bool {
        self.as_bytes().ct_eq(&[0; KEY_LEN]).into()
    }
}

impl Zeroize for PresharedKey {
    fn zeroize(&mut self) {
        // What is dropped wipes itself.
        self.0 = None;
    }
}

impl ZeroizeOnDrop for PresharedKey {}

/// Our own static key with what follows from it.
#[derive(Clone)]
pub struct StaticIdentity {
    private: PrivateKey,
    agreement: Arc<AgreementKey>,
    public: PublicKey,
    /// Key of the mac1 of messages to us (§5.4.4). Whoever knows our public key knows it.
    mac1_key: [u8; KEY_LEN],
    /// Key of the cookie replies that we send (§5.4.7). Whoever knows our public key knows it.
    cookie_key: [u8; KEY_LEN],
}

impl StaticIdentity {
    /// Computes the public key and the keys for macs and cookies: one X25519, two hashes.
    pub fn new(private: PrivateKey) -> Self {
        let agreement = private.agreement();
        let public = PublicKey(agreement.public());
        Self {
            private,
            agreement: Arc::new(agreement),
            public,
            mac1_key: crypto::hash(&[LABEL_MAC1, &public.0]),
            cookie_key: crypto::hash(&[LABEL_COOKIE, &public.0]),
        }
    }

    /// Our private key.
    pub fn private_key(&self) -> &PrivateKey {
        &self.private
    }

    /// Our public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Our private key, ready for Diffie-Hellman.
    pub(crate) fn agreement(&self) -> &AgreementKey {
        &self.agreement
    }

    pub(crate) fn mac1_key(&self) -> &[u8; KEY_LEN] {
        &self.mac1_key
    }

    pub(crate) fn cookie_key(&self) -> &[u8; KEY_LEN] {
        &self.cookie_key
    }
}

impl fmt::Debug for StaticIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StaticIdentity").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A peer's static key with what follows from it and from our own. To be made anew when our own key
/// changes.
#[derive(Clone)]
pub struct RemoteStatic {
    public: PublicKey,
    /// `DH(own static, remote static)`; none if the remote key is of low order (requirement 24).
    static_static: Option<Box<SharedSecret>>,
}

impl RemoteStatic {
    /// Computes the static-static secret: one X25519.
    pub fn new(identity: &StaticIdentity, public: PublicKey) -> Self {
        Self { public, static_static: identity.agreement.agree(&public.0).map(Box::new) }
    }

    /// The peer's public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Whether there can be a handshake with this peer: false for a low-order key (requirement 24).
    pub fn is_reachable(&self) -> bool {
        self.static_static.is_some()
    }

    pub(crate) fn static_static(&self) -> Option<&SharedSecret> {
        self.static_static.as_deref()
    }

    /// Key of the mac1 of messages to the peer (§5.4.4). Computed when it is needed, next to two X25519, rather
    /// than kept for ten thousand peers.
    pub(crate) fn mac1_key(&self) -> [u8; KEY_LEN] {
        crypto::hash(&[LABEL_MAC1, &self.public.0])
    }

    /// Key of the cookie replies that the peer sends (§5.4.7).
    pub(crate) fn cookie_key(&self) -> [u8; KEY_LEN] {
        crypto::hash(&[LABEL_COOKIE, &self.public.0])
    }
}

impl fmt::Debug for RemoteStatic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RemoteStatic").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::seeded_rng;

    /// A pair that `wg genkey` and `wg pubkey` gave.
    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    const PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

    #[test]
    fn the_public_key_is_that_of_wg_pubkey() {
        let private = PrivateKey::parse_base64(PRIVATE).unwrap();
        assert_eq!(private.public().to_string(), PUBLIC);
        assert_eq!(PUBLIC.parse(), Ok(private.public()));
        assert_eq!(format!("{:?}", private.public()), format!("PublicKey({PUBLIC})"));
        assert_eq!(*private.to_base64(), PRIVATE);
    }

    #[test]
    fn text_that_is_no_key_is_refused_whole() {
        let wrong = [
            "",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw==",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykx=",
            " HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=\n",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8yk-=",
            "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8",
            "AAAAHIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
        ];
        for text in wrong {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Base64), "{text:?}");
            assert_eq!(PrivateKey::parse_base64(text), Err(KeyError::Base64), "{text:?}");
        }
        for text in ["", "00", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
            assert_eq!(PublicKey::from_hex(text), Err(KeyError::Hex), "{text:?}");
            assert_eq!(PresharedKey::from_hex(text), Err(KeyError::Hex), "{text:?}");
        }
    }

    #[test]
    fn hexadecimal_is_read_in_either_case_and_written_in_lower_case() {
        let key = PresharedKey::from_bytes(std::array::from_fn(|i| 0xa0 + i as u8));
        let text = key.to_hex();
        assert!(text.starts_with("a0a1a2") && text.len() == 64);
        assert_eq!(PresharedKey::from_hex(&text.to_uppercase()), Ok(key));
    }

    #[test]
    fn generated_private_keys_are_clamped_and_differ() {
        let rng = &mut seeded_rng(1);
        let keys: [PrivateKey; 16] = std::array::from_fn(|_| PrivateKey::generate(rng));
        for key in &keys {
            assert_eq!((key.as_bytes()[0] & 7, key.as_bytes()[31] & 0xc0), (0, 0x40));
        }
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_private_key_is_clamped_where_it_is_used() {
        let raw = PrivateKey::from_bytes([0xff; 32]);
        let mut clamped = [0xff; 32];
        clamped[0] = 0xf8;
        clamped[31] = 0x7f;
        assert_eq!(raw.public(), PrivateKey::from_bytes(clamped).public());
        assert_eq!(raw.as_bytes(), &[0xff; 32]);
    }

    #[test]
    fn keys_past_the_field_are_not_canonical_control_rule_3() {
        let mut bytes = [0xff; 32];
        bytes[31] = 0x7f;
        for (low, canonical) in [(0xec, true), (0xed, false), (0xff, false)] {
            bytes[0] = low;
            assert_eq!(PublicKey::from_bytes(bytes).is_canonical(), canonical, "{low:#x}");
        }
        bytes[15] = 0;
        assert!(PublicKey::from_bytes(bytes).is_canonical());
        assert!(!PublicKey::from_bytes([0x80; 32]).is_canonical());
        assert!(PublicKey::from_bytes([0; 32]).is_canonical(), "of low order, which is another question");
    }

    #[test]
    fn zero_means_none() {
        assert!(PresharedKey::default().is_zero() && PrivateKey::from_bytes([0; 32]).is_zero());
        assert!(!PresharedKey::from_bytes([1; 32]).is_zero());
    }

    #[test]
    fn secrets_are_wiped_when_dropped() {
        const fn wiped<T: ZeroizeOnDrop>() {}
        wiped::<PrivateKey>();
        wiped::<PresharedKey>();
        wiped::<SharedSecret>();
        let mut key = PrivateKey::from_bytes([42; 32]);
        key.zeroize();
        assert!(key.is_zero());
        assert!(std::mem::needs_drop::<StaticIdentity>() && std::mem::needs_drop::<RemoteStatic>());
    }

    #[test]
    fn secrets_have_no_debug() {
        assert_eq!(format!("{:?}", PrivateKey::from_bytes([42; 32])), "PrivateKey(…)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes([42; 32])), "PresharedKey(…)");
    }
}
