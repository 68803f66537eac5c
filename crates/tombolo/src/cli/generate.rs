//! `genkey`, `genpsk`, `pubkey`.

use std::io::Read as _;

use tombolo_noise::{PresharedKey, PrivateKey};
use zeroize::Zeroizing;

use super::{Failure, print_line};
use crate::random;

fn generator() -> Result<rand_chacha::ChaCha20Rng, Failure> {
    random::generator().map_err(|error| Failure::runtime("the system gives no randomness", error))
}

pub(super) fn private_key() -> Result<(), Failure> {
    warn_if_open();
    print_line(&PrivateKey::generate(&mut generator()?).to_base64())
}

pub(super) fn preshared_key() -> Result<(), Failure> {
    warn_if_open();
    print_line(&PresharedKey::generate(&mut generator()?).to_base64())
}

/// A key that goes into a file which others may read is a key lost.
fn warn_if_open() {
    let Ok(status) = rustix::fs::fstat(std::io::stdout()) else { return };
    let is_file = rustix::fs::FileType::from_raw_mode(status.st_mode).is_file();
    if is_file && status.st_mode & 0o077 != 0 {
        eprintln!(
            "tombolo: warning: the file that this key goes to is open to others; run `umask 077` first"
        );
    }
}

pub(super) fn public_key() -> Result<(), Failure> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin()
        .lock()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|error| Failure::runtime("cannot read standard input", error))?;
    let key = PrivateKey::parse_base64(text.trim())
        .map_err(|error| Failure::Mistake(format!("standard input holds no private key: {error}")))?;
    print_line(&key.public().to_string())
}
