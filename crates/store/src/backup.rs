//! Backups and their restoration (control rule 21).

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, MAIN_DB, OpenFlags};
use tombolo_control::authority::audit::Actor;
use tombolo_control::authority::{Outcome, restore as restore_transaction};
use tombolo_noise::clock::UnixTime;
use zeroize::Zeroizing;

use crate::register::FILE;
use crate::{Identity, Recipient, Register, StoreError};

/// How many pages are copied before writers get their turn.
const PAGES: i32 = 256;

/// The register as it is now, encrypted. It is copied into memory, never to the disk in clear.
///
/// # Errors
/// When it cannot be read or encrypted.
pub fn backup(path: &Path, recipient: &Recipient) -> Result<Vec<u8>, StoreError> {
    let copy = || -> rusqlite::Result<Zeroizing<Vec<u8>>> {
        let source = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        source.busy_timeout(Duration::from_secs(10))?;
        let mut memory = Connection::open_in_memory()?;
        rusqlite::backup::Backup::new(&source, &mut memory)?.run_to_completion(
            PAGES,
            Duration::ZERO,
            None,
        )?;
        Ok(Zeroizing::new(memory.serialize(MAIN_DB)?.to_vec()))
    };
    let image = copy().map_err(|error| StoreError::Sqlite { path: path.to_owned(), error })?;
    recipient.seal(&image)
}

/// Makes the register of a directory from a backup. All tokens are void, and for `gathering` from `now` on the
/// authority issues nothing, and takes from the nodes what the backup does not know. The issuer key is in no backup: a
/// new one is to be made, and a trust document to be signed that names it beside the old one, until all nodes have
/// renewed.
///
/// # Errors
/// When there is a register already, or the backup cannot be opened or is damaged: then there is none as before.
pub fn restore(
    sealed: &[u8],
    identity: &Identity,
    directory: &Path,
    actor: Actor,
    gathering: Duration,
    now: UnixTime,
) -> Result<Register, StoreError> {
    let image = identity.open(sealed)?;
    let path = directory.join(FILE);
    if path.exists() {
        return Err(StoreError::Exists(directory.to_owned()));
    }
    write(&image, directory)?;
    let outcome = (|| {
        let mut register = Register::open(directory)?;
        register.check()?;
        let transaction = restore_transaction(&register.snapshot()?, actor, gathering, now)?;
        match register.execute(&[transaction]).pop() {
            Some((_, Outcome::Committed { .. })) => Ok(register),
            _ => Err(StoreError::Damaged("it cannot be written".to_owned())),
        }
    })();
    if outcome.is_err() {
        // Nothing half restored stays behind that a server would start on.
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(directory.join(format!("{FILE}{end}")));
        }
    }
    outcome
}

fn write(image: &[u8], directory: &Path) -> Result<(), StoreError> {
    // Makes the directory, and says if somebody has it open.
    drop(Register::create(directory)?);
    let path = directory.join(FILE);
    let io = |error| StoreError::Io { path: path.clone(), error };
    for end in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(directory.join(format!("{FILE}{end}")));
    }
    let mut file = OpenOptions::new().write(true).truncate(true).mode(0o600).open(&path).map_err(io)?;
    file.write_all(image).and_then(|()| file.sync_all()).map_err(io)
}
