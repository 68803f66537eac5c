//! Encryption of what leaves the machine: backups, and the root key's file (age, version 1).

use std::io::Write as _;

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::StoreError;

/// Scrypt's N is two to the power of this: about a second, and 256 MiB, as the age tool has it.
const WORK_FACTOR: u8 = 18;

/// More is refused: a file must not be able to use up the machine.
const WORK_FACTOR_MAX: u8 = 20;

/// For whom something is encrypted.
pub enum Recipient {
    /// Who knows the passphrase.
    Passphrase(Zeroizing<String>),
    /// Who has the identity of one of these age recipients (`age1…`).
    Age(Vec<age::x25519::Recipient>),
}

/// By what something is decrypted.
pub enum Identity {
    /// The passphrase.
    Passphrase(Zeroizing<String>),
    /// An age identity (`AGE-SECRET-KEY-1…`).
    Age(Box<age::x25519::Identity>),
}

fn secret(passphrase: &str) -> SecretString {
    SecretString::from(passphrase.to_owned())
}

impl Recipient {
    /// Of texts that `age-keygen` prints.
    ///
    /// # Errors
    /// When one is none.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, StoreError> {
        let parse = |text: &T| {
            let text = text.as_ref().trim();
            text.parse()
                .map_err(|error: &str| StoreError::Encrypt(format!("`{text}` is no age recipient: {error}")))
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self::Age)
    }

    /// Encrypts.
    ///
    /// # Errors
    /// [`StoreError::Encrypt`].
    pub fn seal(&self, content: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.seal_with(content, WORK_FACTOR)
    }

    fn seal_with(&self, content: &[u8], work_factor: u8) -> Result<Vec<u8>, StoreError> {
        let sealed = match self {
            Self::Passphrase(passphrase) => {
                let mut recipient = age::scrypt::Recipient::new(secret(passphrase));
                recipient.set_work_factor(work_factor);
                age::encrypt(&recipient, content)
            }
            Self::Age(recipients) => encrypt_to(recipients, content),
        };
        sealed.map_err(|error| StoreError::Encrypt(error.to_string()))
    }
}

fn encrypt_to(recipients: &[age::x25519::Recipient], content: &[u8]) -> Result<Vec<u8>, age::EncryptError> {
    let each = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let mut sealed = Vec::with_capacity(content.len() + content.len() / 1024 + 1024);
    let mut writer = age::Encryptor::with_recipients(each)?.wrap_output(&mut sealed)?;
    writer.write_all(content)?;
    writer.finish()?;
    Ok(sealed)
}

impl Identity {
    /// Of the file that `age-keygen` writes: its comments are passed over.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let mut lines = text.lines().map(str::trim);
        lines
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .unwrap_or_default()
            .parse()
            .map(Box::new)
            .map(Self::Age)
            .map_err(|error: &str| StoreError::Decrypt(error.to_owned()))
    }

    /// Decrypts.
    ///
    /// # Errors
    /// [`StoreError::Decrypt`].
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let content = match self {
            Self::Passphrase(passphrase) => {
                let mut identity = age::scrypt::Identity::new(secret(passphrase));
                identity.set_max_work_factor(WORK_FACTOR_MAX);
                age::decrypt(&identity, sealed)
            }
            Self::Age(identity) => age::decrypt(&**identity, sealed),
        };
        content.map(Zeroizing::new).map_err(|error| StoreError::Decrypt(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[test]
    fn only_the_passphrase_opens_it_control_rule_1() {
        let sealed = Recipient::Passphrase(words("correct horse")).seal_with(b"root key", 10).unwrap();
        assert!(!sealed.windows(8).any(|window| window == b"root key"));
        assert_eq!(**Identity::Passphrase(words("correct horse")).open(&sealed).unwrap(), *b"root key");
        let wrong = Identity::Passphrase(words("battery staple")).open(&sealed);
        assert!(matches!(wrong, Err(StoreError::Decrypt(_))));
        let cut = Identity::Passphrase(words("correct horse")).open(&sealed[..sealed.len() - 1]);
        assert!(matches!(cut, Err(StoreError::Decrypt(_))));
    }

    #[test]
    fn a_recipient_needs_no_passphrase_on_the_server() {
        let identity = age::x25519::Identity::generate();
        let other = age::x25519::Identity::generate();
        let both = [identity.to_public().to_string(), other.to_public().to_string()];
        let recipient = Recipient::parse(&both).unwrap();
        let sealed = recipient.seal(b"backup").unwrap();
        assert_eq!(**Identity::Age(Box::new(identity)).open(&sealed).unwrap(), *b"backup");
        assert_eq!(**Identity::Age(Box::new(other)).open(&sealed).unwrap(), *b"backup");
        assert!(Recipient::parse(&["age1nonsense"]).is_err() && Identity::parse("nonsense").is_err());
    }
}
