//! What the tests of this crate share.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::keys::{PrivateKey, RemoteStatic, StaticIdentity};

/// Bytes of a hexadecimal text.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    base16ct::mixed::decode_vec(text).unwrap()
}

/// A slice as an array.
pub(crate) fn bytes<const N: usize>(slice: &[u8]) -> [u8; N] {
    slice.try_into().unwrap()
}

pub(crate) fn seeded_rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// One side of a pair of peers.
pub(crate) struct Side {
    pub(crate) identity: StaticIdentity,
    pub(crate) remote: RemoteStatic,
}

/// Two peers that know each other.
pub(crate) fn pair(rng: &mut ChaCha20Rng) -> (Side, Side) {
    let ours = StaticIdentity::new(PrivateKey::generate(rng));
    let theirs = StaticIdentity::new(PrivateKey::generate(rng));
    let to_theirs = RemoteStatic::new(&ours, *theirs.public_key());
    let to_ours = RemoteStatic::new(&theirs, *ours.public_key());
    (Side { identity: ours, remote: to_theirs }, Side { identity: theirs, remote: to_ours })
}
