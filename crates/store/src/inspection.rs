//! Looking at a register without opening it for good: also while a server runs on it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tombolo_control::DocumentHash;
use tombolo_control::authority::Snapshot;
use tombolo_control::authority::audit::AuditHead;

use crate::StoreError;
use crate::register::{FILE, Register};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// All that is there.
    pub snapshot: Snapshot,
    /// Head of the audit log, whose whole chain was followed.
    pub audit: Option<AuditHead>,
    /// The hash of each of its entries.
    pub hashes: Vec<DocumentHash>,
    /// Files that others than their owner can read, and the mode that each is to have.
    pub open: Vec<(PathBuf, &'static str)>,
    /// Bytes of the file and its log.
    pub size: u64,
    /// Bytes that are free where they lie, for whom is not root.
    pub free: u64,
}

/// Looks at all of it: version, pages, records, the audit log's chain, modes, free space.
///
/// # Errors
/// The first thing that a server could not start on.
pub fn inspect(directory: &Path) -> Result<Inspection, StoreError> {
    let register = Register::read(directory)?;
    let audit = register.check()?;
    let mut hashes = Vec::new();
    register.follow_audit(|_, head| hashes.push(head.hash))?;
    let snapshot = register.snapshot()?;
    let mut open = Vec::new();
    let mut size = 0;
    for end in ["", "-wal", "-shm"] {
        let file = directory.join(format!("{FILE}{end}"));
        let Ok(metadata) = fs::metadata(&file) else { continue };
        size += metadata.len();
        if metadata.permissions().mode() & 0o077 != 0 {
            open.push((file, "600"));
        }
    }
    let metadata =
        fs::metadata(directory).map_err(|error| StoreError::Io { path: directory.to_owned(), error })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        open.push((directory.to_owned(), "700"));
    }
    let space = rustix::fs::statvfs(directory)
        .map_err(|error| StoreError::Io { path: directory.to_owned(), error: error.into() })?;
    Ok(Inspection {
        snapshot,
        audit,
        hashes,
        open,
        size,
        free: space.f_bavail.saturating_mul(space.f_frsize),
    })
}
