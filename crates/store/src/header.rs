//! What stands before the register in a backup, all of it encrypted: what a new machine needs to take the server's place.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | the words `tombolo backup 1` |
//! | 8 | when it was made: seconds of Unix time, little endian |
//! | 32 | the server's static private key, by which nodes know it |
//! | 2 | the server's UDP port, little endian |
//! | 1, and as many | the network's name on that machine |
//! | the rest | the register, as SQLite writes it |

use std::time::Duration;

use tombolo_noise::clock::UnixTime;
use zeroize::Zeroizing;

use crate::StoreError;

const MAGIC: &[u8; 16] = b"tombolo backup 1";

/// What stands before the register in a backup.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// When it was made, in whole seconds.
    pub created: UnixTime,
    /// The server's static private key: nodes know the server by it.
    pub key: Zeroizing<[u8; 32]>,
    /// The server's UDP port.
    pub port: u16,
    /// The network's name on that machine: at most 255 bytes.
    pub network: String,
}

impl Header {
    /// Appends it.
    pub fn write(&self, to: &mut Vec<u8>) {
        let name = &self.network.as_bytes()[..self.network.len().min(usize::from(u8::MAX))];
        to.extend_from_slice(MAGIC);
        to.extend_from_slice(&self.created.0.as_secs().to_le_bytes());
        to.extend_from_slice(&*self.key);
        to.extend_from_slice(&self.port.to_le_bytes());
        to.push(name.len() as u8);
        to.extend_from_slice(name);
    }

    /// Reads it; gives what stands behind it too.
    ///
    /// # Errors
    /// [`StoreError::NotABackup`].
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), StoreError> {
        let read = || {
            let bytes = bytes.strip_prefix(MAGIC)?;
            let (created, bytes) = bytes.split_first_chunk::<8>()?;
            let (key, bytes) = bytes.split_first_chunk::<32>()?;
            let (port, bytes) = bytes.split_first_chunk::<2>()?;
            let (length, bytes) = bytes.split_first()?;
            let (name, register) = bytes.split_at_checked(usize::from(*length))?;
            let header = Self {
                created: UnixTime(Duration::from_secs(u64::from_le_bytes(*created))),
                key: Zeroizing::new(*key),
                port: u16::from_le_bytes(*port),
                network: String::from_utf8(name.to_vec()).ok()?,
            };
            Some((header, register))
        };
        read().ok_or(StoreError::NotABackup)
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Header")
            .field("created", &self.created)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_anything_else_is_refused_control_rule_21() {
        let header = Header {
            created: UnixTime(Duration::from_secs(1_790_000_000)),
            key: Zeroizing::new([7; 32]),
            port: 8662,
            network: "office".to_owned(),
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(b"SQLite format 3");
        assert_eq!(Header::read(&bytes).unwrap(), (header.clone(), &b"SQLite format 3"[..]));
        for end in 0..length {
            assert!(matches!(Header::read(&bytes[..end]), Err(StoreError::NotABackup)), "{end}");
        }
        assert!(!format!("{header:?}").contains("key"), "the key is not shown");
    }
}
