//! What a network by membership keeps in its state directory (mode 0700, files 0600).
//!
//! | file | what |
//! |---|---|
//! | `key` | the machine's static key; made here, never leaves |
//! | `key.next` | the static key that is to come, until the membership names it |
//! | `join` | the token and the wished name, until the join is through |
//! | `membership.json` | what is pinned, the documents, the own membership: in one write, since none is of use without the others |
//! | `clock.json` | the confirmed time and the epoch of announcements |
//! | `members.json` | peers with their memberships and where they were, so that they are reached without any server |
//! | `names.json` | names and addresses of all nodes, where they are written into the hosts file |
//! | `machine` | what binds all this to the machine |
//! | `routes` | which prefixes of `accept_routes` are taken, and which are refused |
//! | `issuer` | of a server: the seed of the key that signs memberships |
//! | `register.sqlite` | of a server: the register |

pub mod create;
mod form;
pub mod routes;
mod secrets;
#[cfg(test)]
mod tests;

pub(crate) use form::{from_hex, to_hex};
pub use form::{read_members, read_membership, read_names};
pub use secrets::PendingJoin;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tombolo_control::NodeId;
use tombolo_control::document::{Membership, TrustDocument, Verified};
use tombolo_control::node::{NamedNode, Save, Saved, SavedDocuments, SavedPeer};
use tombolo_noise::clock::UnixTime;
use zeroize::Zeroizing;

use crate::atomic_file;
use crate::config::{NetworkConfig, SecretSource};
use crate::paths::Directories;

const MEMBERSHIP: &str = "membership.json";
const CLOCK: &str = "clock.json";
const MEMBERS: &str = "members.json";
const NAMES: &str = "names.json";
/// Larger than a network document in hexadecimal digits with all that is beside it.
const FILE_MAX: u64 = 64 << 20;

/// Why the state of a network by membership cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// A file cannot be read or written.
    #[error("{} cannot be used: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A file holds something else.
    #[error("{} is damaged ({reason}): restore it, or `tombolo leave` and join anew", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody has joined here.
    #[error("this machine is no member of `{0}` yet: run `tombolo join -n {0}` with a token")]
    NotJoined(String),
}

/// The state directory of one network by membership.
#[derive(Debug)]
pub struct MembershipState {
    directory: PathBuf,
    documents: Option<SavedDocuments>,
    membership: Option<Vec<u8>>,
    clock: form::Clock,
    members: BTreeMap<NodeId, SavedPeer>,
    members_changed: bool,
}

impl MembershipState {
    /// Makes the directory where it is missing, and reads what it has.
    ///
    /// # Errors
    /// When something cannot be read, or is damaged.
    pub fn open(directory: &Path) -> Result<Self, MembershipError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| MembershipError::Io { path: directory.to_owned(), error })?;
        let mut state = Self {
            directory: directory.to_owned(),
            documents: None,
            membership: None,
            clock: form::Clock::default(),
            members: BTreeMap::new(),
            members_changed: false,
        };
        if let Some(text) = state.read(MEMBERSHIP)? {
            let (documents, membership) =
                form::read_membership(&text).map_err(|reason| state.damaged(MEMBERSHIP, reason))?;
            (state.documents, state.membership) = (Some(documents), membership);
        }
        if let Some(text) = state.read(CLOCK)? {
            state.clock =
                serde_json::from_slice(&text).map_err(|error| state.damaged(CLOCK, error.to_string()))?;
        }
        if let Some(text) = state.read(MEMBERS)?
            && let Ok(members) = form::read_members(&text)
            && let Some(trust) = state.trust()
        {
            // A cache: what does not verify is asked for anew.
            for peer in members {
                if let Ok(member) = Membership::verify(&peer.membership, &trust) {
                    state.members.insert(member.node, peer);
                }
            }
        }
        state.take_next_key()?;
        Ok(state)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    fn damaged(&self, file: &str, reason: String) -> MembershipError {
        MembershipError::Damaged { path: self.path(file), reason }
    }

    fn read(&self, file: &str) -> Result<Option<Zeroizing<Vec<u8>>>, MembershipError> {
        let path = self.path(file);
        // With room for any key, so that no copy is left behind by growing.
        let mut contents = Zeroizing::new(Vec::with_capacity(4096));
        match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(MembershipError::Io { path, error }),
            Ok(file) => file
                .take(FILE_MAX)
                .read_to_end(&mut contents)
                .map_err(|error| MembershipError::Io { path, error })?,
        };
        Ok(Some(contents))
    }

    fn write(&self, file: &str, contents: &[u8]) -> Result<(), MembershipError> {
        let path = self.path(file);
        atomic_file::write(&path, contents, 0o600).map_err(|error| MembershipError::Io { path, error })
    }

    fn remove(&self, file: &str) -> Result<(), MembershipError> {
        let path = self.path(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(MembershipError::Io { path, error }),
            _ => Ok(()),
        }
    }

    /// Since when the key is in use, in Unix time; none where it has not been noted.
    pub fn key_since(&self) -> Option<Duration> {
        self.clock.key_since.map(Duration::from_secs)
    }

    /// Notes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_key_since(&mut self, time: Duration) -> Result<(), MembershipError> {
        self.clock.key_since = Some(time.as_secs());
        self.write_clock()
    }

    /// Whether there is a membership.
    pub fn is_member(&self) -> bool {
        self.documents.is_some() && self.membership.is_some()
    }

    /// All that a node comes up with; none before it is a member.
    pub fn saved(&self) -> Option<Saved> {
        Some(Saved {
            documents: self.documents.clone()?,
            membership: self.membership.clone()?,
            time: UnixTime(std::time::Duration::from_secs(self.clock.confirmed)),
            epoch: self.clock.epoch,
            peers: self.members.values().cloned().collect(),
        })
    }

    /// Whether no daemon has run with this state yet: its key has never been used.
    pub fn is_fresh(&self) -> bool {
        self.clock.epoch == 0
    }

    /// The trust document that is pinned.
    pub fn trust(&self) -> Option<Verified<TrustDocument>> {
        let documents = self.documents.as_ref()?;
        let trust = documents.trust.as_ref()?;
        TrustDocument::verify(trust, &documents.pins.network, &[documents.pins.root]).ok()
    }

    /// The own addresses, with the prefix lengths of the overlay.
    pub fn addresses(&self) -> Vec<IpNet> {
        let membership = self.membership.as_ref().zip(self.trust());
        let Some((bytes, trust)) = membership else { return Vec::new() };
        let Ok(member) = Membership::verify(bytes, &trust) else { return Vec::new() };
        let overlay = self.documents.as_ref().and_then(|documents| documents.pins.overlay.as_ref());
        let cidrs = overlay.map(|overlay| &overlay.cidrs);
        member
            .addresses
            .iter()
            .filter_map(|address| {
                let cidr = cidrs?.iter().find(|cidr| cidr.contains(address))?;
                IpNet::new(*address, cidr.prefix_len()).ok()
            })
            .collect()
    }

    /// Writes what a node says is to be written. Peers are gathered until [`MembershipState::flush`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&mut self, save: Save) -> Result<(), MembershipError> {
        match save {
            Save::Documents(documents) => {
                self.documents = Some(documents);
                self.write_membership()
            }
            Save::Membership(membership) => {
                self.membership = Some(membership);
                self.write_membership()?;
                self.take_next_key()
            }
            Save::Time(time) => {
                self.clock.confirmed = time.0.as_secs();
                self.write_clock()
            }
            Save::Epoch(epoch) => {
                self.clock.epoch = epoch;
                self.write_clock()
            }
            Save::Peer(mut peer) => {
                if let Some(trust) = self.trust()
                    && let Ok(member) = Membership::verify(&peer.membership, &trust)
                {
                    let held = self.members.get(&member.node);
                    peer.endpoint = peer.endpoint.or(held.and_then(|held| held.endpoint));
                    self.members.insert(member.node, peer);
                    self.members_changed = true;
                }
                Ok(())
            }
            Save::Forget(node) => {
                self.members_changed |= self.members.remove(&node).is_some();
                Ok(())
            }
        }
    }

    /// The names that were written down; none where they cannot be read: lighthouses have them.
    pub fn names(&self) -> Vec<NamedNode> {
        let text = self.read(NAMES).ok().flatten();
        text.and_then(|text| form::read_names(&text).ok()).unwrap_or_default()
    }

    /// Writes the names down.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save_names(&self, names: impl Iterator<Item = NamedNode>) -> Result<(), MembershipError> {
        self.write(NAMES, &form::write_names(names))
    }

    /// A peer was reached there.
    pub fn note_place(&mut self, node: &NodeId, place: SocketAddr) {
        if let Some(peer) = self.members.get_mut(node)
            && peer.endpoint.replace(place) != Some(place)
        {
            self.members_changed = true;
        }
    }

    /// Whether peers wait to be written.
    pub fn is_dirty(&self) -> bool {
        self.members_changed
    }

    /// Writes the peers that changed.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn flush(&mut self) -> Result<(), MembershipError> {
        if std::mem::take(&mut self.members_changed) {
            self.write(MEMBERS, &form::write_members(self.members.values()))?;
        }
        Ok(())
    }

    fn write_membership(&self) -> Result<(), MembershipError> {
        let Some(documents) = &self.documents else { return Ok(()) };
        self.write(MEMBERSHIP, &form::write_membership(documents, self.membership.as_deref()))
    }

    fn write_clock(&self) -> Result<(), MembershipError> {
        // A struct of numbers always has a JSON form.
        self.write(CLOCK, &serde_json::to_vec(&self.clock).unwrap_or_default())
    }
}

/// Where a daemon that could not join says why: the word `refused` or `failed`, and on the next line the reason.
pub fn error_file(directories: &Directories, network: &str) -> PathBuf {
    directories.run.join(format!("{network}.join-error"))
}

/// Puts what the state directory has into a configuration: key and addresses.
///
/// # Errors
/// When the machine is no member and no join is under way, or the state cannot be used.
pub fn complete(config: &mut NetworkConfig, network: &str, directory: &Path) -> Result<(), MembershipError> {
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(MembershipError::Io { path: directory.to_owned(), error });
        }
        Ok(found) if found.is_dir() => {}
        _ => return Err(MembershipError::NotJoined(network.to_owned())),
    }
    let state = MembershipState::open(directory)?;
    let Some(key) = state.key()? else { return Err(MembershipError::NotJoined(network.to_owned())) };
    config.interface.private_key = SecretSource::Inline(key);
    config.interface.addresses = state.addresses();
    if !state.is_member() && state.pending_join()?.is_none() {
        return Err(MembershipError::NotJoined(network.to_owned()));
    }
    Ok(())
}
