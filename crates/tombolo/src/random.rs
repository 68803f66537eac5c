//! Where randomness comes from: the shell draws it, the pure crates take it as an argument.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use zeroize::Zeroizing;

/// A generator seeded by the system.
///
/// # Errors
/// When the system has no randomness to give.
#[expect(clippy::disallowed_methods, reason = "the one place where the system's randomness is drawn")]
pub fn generator() -> Result<ChaCha20Rng, getrandom::Error> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut())?;
    Ok(ChaCha20Rng::from_seed(*seed))
}
