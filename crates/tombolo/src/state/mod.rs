//! What a daemon has to know again after a restart: `/var/lib/tombolo/NETWORK/peers.json`.
//!
//! Per peer the last endpoint, the greatest TAI64N received (requirement 11: a replayed initiation stays
//! refused) and sent (peers would refuse a smaller one), and when it was last heard.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tombolo_noise::clock::UnixTime;
use tombolo_noise::{PublicKey, Tai64n};

use crate::atomic_file;

/// Version of the file's form.
const VERSION: u32 = 1;
const FILE: &str = "peers.json";
/// Far more than any network has peers for.
const MAX_FILE: u64 = 64 << 20;
/// What is sent after a write and before a crash is no later than the timestamp on disk, for so long: writes follow a change within
/// a second. Only as far as that beyond the clock, or restarts in a row would lead ever farther ahead of it (control rule 18).
const RESERVE: Duration = Duration::from_secs(10);
/// So many timestamps are reserved where they are ahead of the clock, as after a crash or when the clock was set back: the next one is then
/// the least that is later. An initiation, and the same again with a cookie; between two there are five seconds (requirement 5).
const RESERVED_STEPS: usize = 2;

/// What is remembered of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedPeer {
    /// Where it was last heard.
    pub endpoint: Option<SocketAddr>,
    /// Greatest timestamp received from it.
    pub last_received_timestamp: Option<Tai64n>,
    /// Greatest timestamp sent to it; as read from the disk, one that none sent to it exceeds.
    pub last_sent_timestamp: Option<Tai64n>,
    /// When anything authenticated last came from it; seconds of Unix time.
    pub last_activity: Option<u64>,
}

impl SavedPeer {
    /// When the peer was last heard or called, in seconds of Unix time; `None`: never.
    pub fn last_contact(&self) -> Option<u64> {
        let times = [self.last_received_timestamp, self.last_sent_timestamp];
        times.into_iter().flatten().map(|time| time.to_unix().0.as_secs()).chain(self.last_activity).max()
    }
}

/// What is remembered of all peers.
pub type SavedPeers = BTreeMap<PublicKey, SavedPeer>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    tombolo_state: u32,
    public_key: String,
    peers: Vec<PeerForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerForm {
    public_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_received_timestamp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_sent_timestamp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_activity: Option<u64>,
}

/// Why a state file was not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read, or its directory cannot be made.
    #[error("{0} cannot be used: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// It is damaged, or not ours.
    #[error("{0} is not a state file of this network: {1}")]
    Foreign(PathBuf, String),
}

/// The state directory of a network.
pub struct StateStore {
    directory: PathBuf,
    own_key: PublicKey,
    written: Option<Vec<u8>>,
    failure: Option<String>,
}

impl StateStore {
    /// Makes the directory (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn open(directory: &Path, own_key: PublicKey) -> Result<Self, StateError> {
        let failed = |error| StateError::Io(directory.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(Self { directory: directory.to_owned(), own_key, written: None, failure: None })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Reads what was saved; nothing when there is no file.
    ///
    /// # Errors
    /// [`StateError::Foreign`] for a file that is damaged or of another key: the caller warns and goes
    /// on without it, and the next save replaces it.
    pub fn load(&self) -> Result<SavedPeers, StateError> {
        let path = self.path();
        let mut text = Vec::new();
        match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SavedPeers::new()),
            Err(error) => return Err(StateError::Io(path, error)),
            Ok(file) => file
                .take(MAX_FILE)
                .read_to_end(&mut text)
                .map_err(|error| StateError::Io(path.clone(), error))?,
        };
        parse(&text, &self.own_key).map_err(|reason| StateError::Foreign(path, reason))
    }

    /// Writes the peers if they differ from what was last written; `wall` is the time on the clock. A failure (a full disk) is kept for
    /// `status` and does not stop the daemon.
    pub fn save(&mut self, peers: &SavedPeers, wall: UnixTime) {
        let contents = format(peers, &self.own_key, wall);
        if self.written.as_deref() == Some(&contents) {
            return;
        }
        match atomic_file::write(&self.path(), &contents, 0o600) {
            Ok(()) => {
                self.written = Some(contents);
                self.failure = None;
            }
            Err(error) => {
                let message = format!("{} cannot be written: {error}", self.path().display());
                if self.failure.as_ref() != Some(&message) {
                    tracing::warn!("{message}");
                }
                self.failure = Some(message);
            }
        }
    }

    /// Why the last save failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

/// Reads the bytes of a state file that belongs to the node with `own_key`.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8], own_key: &PublicKey) -> Result<SavedPeers, String> {
    let file: FileForm = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if file.tombolo_state != VERSION {
        return Err(format!("its version is {}, this program reads {VERSION}", file.tombolo_state));
    }
    if file.public_key != own_key.to_string() {
        return Err("it belongs to another private key".to_owned());
    }
    let timestamp = |text: &Option<String>| text.as_deref().map(parse_timestamp).transpose();
    let mut peers = SavedPeers::new();
    for peer in &file.peers {
        let key: PublicKey = peer.public_key.parse().map_err(|error| format!("a peer's key: {error}"))?;
        let saved = SavedPeer {
            endpoint: peer.endpoint,
            last_received_timestamp: timestamp(&peer.last_received_timestamp)?,
            last_sent_timestamp: timestamp(&peer.last_sent_timestamp)?,
            last_activity: peer.last_activity,
        };
        peers.insert(key, saved);
    }
    Ok(peers)
}

/// The bytes of a state file. Timestamps sent are written ahead of what was really sent.
fn format(peers: &SavedPeers, own_key: &PublicKey, wall: UnixTime) -> Vec<u8> {
    let form = FileForm {
        tombolo_state: VERSION,
        public_key: own_key.to_string(),
        peers: peers
            .iter()
            .map(|(key, peer)| PeerForm {
                public_key: key.to_string(),
                endpoint: peer.endpoint,
                last_received_timestamp: peer.last_received_timestamp.as_ref().map(format_timestamp),
                last_sent_timestamp: peer
                    .last_sent_timestamp
                    .map(|sent| format_timestamp(&reserved(sent, wall))),
                last_activity: peer.last_activity,
            })
            .collect(),
    };
    // A struct of strings and numbers always has a JSON form; an empty file would read as damaged.
    let mut bytes = serde_json::to_vec_pretty(&form).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What goes to the disk for a timestamp that was sent: as late as any that is sent before the next write. What that would be is in the past
/// for a peer that has not been called for a while, and then it is the timestamp itself: the clock is later than either.
fn reserved(sent: Tai64n, wall: UnixTime) -> Tai64n {
    let clock = Tai64n::from_unix(wall);
    let steps = (0..RESERVED_STEPS).fold(sent, |time, _| time.next_after());
    let reserved = sent.min(clock).later_by(RESERVE).max(steps);
    if reserved < clock { sent } else { reserved }
}

fn format_timestamp(timestamp: &Tai64n) -> String {
    timestamp.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_timestamp(text: &str) -> Result<Tai64n, String> {
    let wrong = || format!("`{text}` is not a timestamp");
    let mut bytes = [0; 12];
    if text.len() != 24 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
    }
    Ok(Tai64n::from_bytes(bytes))
}
