//! What can go wrong with a register, and how to mend it.

use std::io;
use std::path::PathBuf;

use tombolo_control::authority::RegisterError;
use tombolo_control::authority::audit::AuditError;

/// Why a register cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system says no.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
    /// SQLite says no.
    #[error("{}: {error}", .path.display())]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// What it says.
        error: rusqlite::Error,
    },
    /// There is no space left.
    #[error("{} cannot be written: the disk is full; free some space there, and it goes on by itself", .0.display())]
    Full(PathBuf),
    /// Another process has it open.
    #[error("{} is in use: another tombolo server runs on it; stop that one first", .0.display())]
    InUse(PathBuf),
    /// Others than its owner can read it.
    #[error("{} can be read by others than its owner: run 'chmod {mode} {}'", .path.display(), .path.display())]
    Open {
        /// Which file or directory.
        path: PathBuf,
        /// The mode that it is to have.
        mode: &'static str,
    },
    /// There is none.
    #[error("there is no register in {}: run 'tombolo server init' first, or restore a backup", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a register in {} already: move it away first", .0.display())]
    Exists(PathBuf),
    /// A file of something else.
    #[error("{} is no register of tombolo", .0.display())]
    NotARegister(PathBuf),
    /// Written by a later version of the program.
    #[error(
        "the register is of version {found}, and this program knows version {known} and earlier ones: a newer tombolo has \
         written it; upgrade this one, or restore a backup of the older one"
    )]
    Newer {
        /// The register's version.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
    /// SQLite finds the file damaged.
    #[error("the register is damaged: {0}; stop the server and restore the newest backup")]
    Damaged(String),
    /// A record cannot be read.
    #[error(transparent)]
    Record(#[from] RegisterError),
    /// The audit log was changed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The passphrase or identity does not open it, or it is cut short.
    #[error("it cannot be decrypted: {0}; look at the passphrase, and whether the file is whole")]
    Decrypt(String),
    /// What was decrypted is something else.
    #[error("this is no backup of a tombolo server, or one of a newer version")]
    NotABackup,
    /// It cannot be encrypted.
    #[error("it cannot be encrypted: {0}")]
    Encrypt(String),
}
