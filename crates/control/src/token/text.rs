//! A token as text: `tombolo1` and then lower-case base32 (RFC 4648 §6, without padding).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | suite: 1 |
//! | 16 | network id |
//! | 32 | server's static key |
//! | 32 | root fingerprint |
//! | 32 | seed of the token's Ed25519 key |
//! | 1 | number of endpoints, 1 to 8 |
//! | each 1 + n | length and text of an endpoint |
//! | 4 | the first bytes of `SHA-256("tombolo token v1" ‖ all before)` |
//!
//! Base32 is read and written in constant time: no table is looked up by secret bytes.

use std::str::FromStr;

use base32ct::{Base32Unpadded, Encoding};
use tombolo_noise::PublicKey;
use zeroize::{Zeroize, Zeroizing};

use super::{Suite, Token};
use crate::signing::sha256;
use crate::{Fingerprint, HostEndpoint, NetworkId, SigningKey};

/// With what each token begins, before the digit of the version.
const PREFIX: &str = "tombolo";
const VERSION: char = '1';
const SUITE_WIREGUARD: u8 = 1;
const CHECKSUM_LABEL: &[u8] = b"tombolo token v1";
const CHECKSUM_LEN: usize = 4;

/// Longest text that is looked at: eight endpoints of 255 characters, with room for line breaks.
const TEXT_MAX: usize = 8192;

/// Shortest payload: one endpoint of three characters.
const PAYLOAD_MIN: usize = 1 + 16 + 32 + 32 + 32 + 1 + 1 + 3 + CHECKSUM_LEN;

/// Why a text is no token. Says how to mend it, and repeats nothing of it but one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// There is nothing.
    #[error("the token is empty: paste the whole line that begins with \"tombolo1\"")]
    Empty,
    /// It does not begin as tokens do.
    #[error("this is not a token: a token begins with \"tombolo1\"; copy it whole from where it was printed")]
    NotAToken,
    /// A token of another version.
    #[error("this is a token of version {0:?}, and this program reads version 1: upgrade it")]
    Version(char),
    /// A character that no token has.
    #[error(
        "character {position} of the token is {character:?}, which no token has: a token has the letters a to z and the \
         digits 2 to 7 (0, 1, 8 are typing errors of o, l, b); copy it again"
    )]
    Character {
        /// The character.
        character: char,
        /// Its place from 1, white space not counted.
        position: usize,
    },
    /// Characters are missing.
    #[error("the token is cut short ({length} characters): copy the whole line")]
    TooShort {
        /// Length in characters, white space not counted.
        length: usize,
    },
    /// More than any token has.
    #[error("this is longer than any token: paste the token alone")]
    TooLong,
    /// A character was lost, added or changed.
    #[error("the token is damaged, its checksum does not fit ({length} characters): copy it again, whole")]
    Checksum {
        /// Length in characters, white space not counted.
        length: usize,
    },
    /// Cryptography that this version does not know.
    #[error("the token is for a network with cryptography that this program does not know ({0}): upgrade it")]
    Suite(u8),
    /// No endpoint, too many, or one that is none.
    #[error("the token does not name one to eight endpoints in the right form: have a new one made")]
    Endpoints,
    /// The server's key is none.
    #[error("the server's key in the token is not usable: have a new one made")]
    ServerKey,
    /// The checksum fits, the content does not.
    #[error("the token's content is not understood: have a new one made, by a server of this version")]
    Content,
}

impl Token {
    /// The token as text, wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let length =
            PAYLOAD_MIN + self.endpoints.iter().map(|endpoint| 1 + endpoint.as_str().len()).sum::<usize>();
        // With room for all, so that no copy is left behind by growing.
        let mut payload = Zeroizing::new(Vec::with_capacity(length));
        let Suite::WireGuard = self.suite;
        payload.push(SUITE_WIREGUARD);
        payload.extend_from_slice(self.network.as_bytes());
        payload.extend_from_slice(self.server_key.as_bytes());
        payload.extend_from_slice(self.root.as_bytes());
        payload.extend_from_slice(&*self.key.seed());
        payload.push(self.endpoints.len() as u8);
        for endpoint in &self.endpoints {
            payload.push(endpoint.as_str().len() as u8);
            payload.extend_from_slice(endpoint.as_str().as_bytes());
        }
        let checksum = checksum(&payload);
        payload.extend_from_slice(&checksum);
        let encoded = Zeroizing::new(Base32Unpadded::encode_string(&payload));
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 1 + encoded.len()));
        text.push_str(PREFIX);
        text.push(VERSION);
        text.push_str(&encoded);
        text
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_LEN] {
    let [a, b, c, d, ..] = sha256(&[CHECKSUM_LABEL, payload]);
    [a, b, c, d]
}

/// What terminals, mails and chats put into and around what is copied.
fn is_noise(character: char) -> bool {
    character.is_whitespace()
        || matches!(
            character,
            '"' | '\'' | '`' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{ad}'
        )
}

/// The text without noise and in lower case.
fn normalize(text: &str) -> Result<Zeroizing<String>, TokenError> {
    if text.len() > TEXT_MAX {
        return Err(TokenError::TooLong);
    }
    // Lower case of ASCII is as long as what it came from: the string does not grow.
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    plain.extend(text.chars().filter(|c| !is_noise(*c)).map(|c| c.to_ascii_lowercase()));
    if plain.is_empty() { Err(TokenError::Empty) } else { Ok(plain) }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Reads a token. White space, quotation marks and upper case do no harm.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let plain = normalize(text)?;
        let length = plain.chars().count();
        let body = plain.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let mut rest = body.chars();
        match rest.next() {
            Some(VERSION) => {}
            Some(digit @ '2'..='9') => return Err(TokenError::Version(digit)),
            Some(_) => return Err(TokenError::NotAToken),
            None => return Err(TokenError::TooShort { length }),
        }
        let body = rest.as_str();
        let in_alphabet = |c: &char| matches!(c, 'a'..='z' | '2'..='7');
        if let Some((index, character)) = body.chars().enumerate().find(|(_, c)| !in_alphabet(c)) {
            return Err(TokenError::Character { character, position: PREFIX.len() + 2 + index });
        }
        if body.len() < PAYLOAD_MIN * 8 / 5 {
            return Err(TokenError::TooShort { length });
        }
        let mut payload = Zeroizing::new(vec![0; body.len() * 5 / 8]);
        let wrong = TokenError::Checksum { length };
        let decoded = Base32Unpadded::decode(body, &mut payload).map_err(|_| wrong)?.len();
        // The bits behind the last whole byte are zero in the one encoding.
        let mut again = Base32Unpadded::encode_string(&payload[..decoded]);
        let same = again == body;
        again.zeroize();
        let (payload, sum) = payload[..decoded].split_last_chunk::<CHECKSUM_LEN>().ok_or(wrong)?;
        if !same || checksum(payload) != *sum {
            return Err(wrong);
        }
        read(payload)
    }
}

/// Reads a payload whose checksum fits.
fn read(mut rest: &[u8]) -> Result<Token, TokenError> {
    let [suite] = take(&mut rest)?;
    if suite != SUITE_WIREGUARD {
        return Err(TokenError::Suite(suite));
    }
    let network = NetworkId::from_bytes(take(&mut rest)?);
    let server_key = PublicKey::from_bytes(take(&mut rest)?);
    let root = Fingerprint::from_bytes(take(&mut rest)?);
    let key = SigningKey::from_seed(take(&mut rest)?);
    let [count] = take(&mut rest)?;
    let endpoints = (0..count).map(|_| read_endpoint(&mut rest)).collect::<Result<_, _>>()?;
    if !rest.is_empty() {
        return Err(TokenError::Content);
    }
    Token::new(network, server_key, root, endpoints, key)
}

fn read_endpoint(rest: &mut &[u8]) -> Result<HostEndpoint, TokenError> {
    let [length] = take(rest)?;
    let (text, behind) = rest.split_at_checked(usize::from(length)).ok_or(TokenError::Content)?;
    *rest = behind;
    let text = std::str::from_utf8(text).map_err(|_| TokenError::Endpoints)?;
    text.parse().map_err(|_| TokenError::Endpoints)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TokenError> {
    let (first, behind) = rest.split_first_chunk::<N>().ok_or(TokenError::Content)?;
    *rest = behind;
    Ok(*first)
}
