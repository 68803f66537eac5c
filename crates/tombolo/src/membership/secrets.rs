//! The keys in the state directory, and the token of a join.

use tombolo_control::document::Membership;
use tombolo_control::token::Token;
use tombolo_control::{NameError, NodeName, SigningKey};
use tombolo_noise::PrivateKey;
use zeroize::Zeroizing;

use super::{MembershipError, MembershipState};

const KEY: &str = "key";
const NEXT_KEY: &str = "key.next";
const JOIN: &str = "join";
const ISSUER: &str = "issuer";

/// A join that is under way.
#[derive(Debug)]
pub struct PendingJoin {
    /// The token.
    pub token: Token,
    /// The name that the machine would like to have.
    pub name: Option<NodeName>,
}

impl MembershipState {
    /// The machine's static key.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn key(&self) -> Result<Option<PrivateKey>, MembershipError> {
        self.read_key(KEY)
    }

    /// The static key that is to come.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn next_key(&self) -> Result<Option<PrivateKey>, MembershipError> {
        self.read_key(NEXT_KEY)
    }

    fn read_key(&self, file: &str) -> Result<Option<PrivateKey>, MembershipError> {
        let Some(text) = self.read(file)? else { return Ok(None) };
        let text = std::str::from_utf8(&text).map_err(|error| self.damaged(file, error.to_string()))?;
        let key = PrivateKey::parse_base64(text.trim());
        key.map(Some).map_err(|error| self.damaged(file, error.to_string()))
    }

    /// Writes the machine's static key.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_key(&self, key: &PrivateKey) -> Result<(), MembershipError> {
        self.write(KEY, key.to_base64().as_bytes())
    }

    /// Writes the static key that is to come, before anybody hears of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_next_key(&self, key: &PrivateKey) -> Result<(), MembershipError> {
        self.write(NEXT_KEY, key.to_base64().as_bytes())
    }

    /// Once the membership on the disk names the key that was to come, that is the key. A crash at any point leaves the key
    /// that the membership names, under one of the two names.
    pub(super) fn take_next_key(&self) -> Result<(), MembershipError> {
        let Some(next) = self.next_key()? else { return Ok(()) };
        let Some((bytes, trust)) = self.membership.as_ref().zip(self.trust()) else { return Ok(()) };
        if Membership::verify(bytes, &trust).is_ok_and(|member| member.key == next.public()) {
            self.set_key(&next)?;
            self.remove(NEXT_KEY)?;
        }
        Ok(())
    }

    /// The issuer key of a server.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn issuer(&self) -> Result<Option<SigningKey>, MembershipError> {
        let Some(seed) = self.read(ISSUER)? else { return Ok(None) };
        let seed: [u8; 32] =
            (&**seed).try_into().map_err(|_| self.damaged(ISSUER, "it has not 32 bytes".to_owned()))?;
        Ok(Some(SigningKey::from_seed(seed)))
    }

    /// Writes the issuer key of a server.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_issuer(&self, key: &SigningKey) -> Result<(), MembershipError> {
        self.write(ISSUER, &*key.seed())
    }

    /// The join that is under way.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn pending_join(&self) -> Result<Option<PendingJoin>, MembershipError> {
        let Some(text) = self.read(JOIN)? else { return Ok(None) };
        let text = std::str::from_utf8(&text).map_err(|error| self.damaged(JOIN, error.to_string()))?;
        let mut lines = text.lines();
        let token = lines.next().unwrap_or_default().parse::<Token>();
        let token = token.map_err(|error| self.damaged(JOIN, error.to_string()))?;
        let name = lines.next().filter(|name| !name.is_empty()).map(str::parse).transpose();
        let name = name.map_err(|error: NameError| self.damaged(JOIN, error.to_string()))?;
        Ok(Some(PendingJoin { token, name }))
    }

    /// Notes a join that is to be made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_pending_join(&self, join: &PendingJoin) -> Result<(), MembershipError> {
        let token = join.token.to_text();
        let name = join.name.as_ref().map_or("", |name| name.as_str());
        // With room for all, so that no copy is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(token.len() + name.len() + 2));
        for line in [&token, name] {
            text.push_str(line);
            text.push('\n');
        }
        self.write(JOIN, text.as_bytes())
    }

    /// The join is through, or given up.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn end_join(&self) -> Result<(), MembershipError> {
        self.remove(JOIN)
    }
}
