//! Backups and their restoration (control rule 21).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, MAIN_DB, OpenFlags};
use tombolo_control::authority::{Outcome, Restoration, restore as restore_transaction};
use tombolo_noise::clock::UnixTime;
use zeroize::Zeroizing;

use crate::register::FILE;
use crate::{Header, Identity, Recipient, Register, StoreError};

/// How many pages are copied before writers get their turn.
const PAGES: i32 = 256;

/// For how long writers may keep a copy from beginning or going on.
const PATIENCE: Duration = Duration::from_secs(10);

/// The register as it is now, behind `header`, encrypted. It is copied into memory, never to the disk in clear.
/// `progress` is told after each part how many pages are copied, and how many there are.
///
/// # Errors
/// When it cannot be read or encrypted.
pub fn backup(
    path: &Path,
    header: &Header,
    recipient: &Recipient,
    progress: impl FnMut(u32, u32),
) -> Result<Vec<u8>, StoreError> {
    let image = image(path, progress).map_err(|error| StoreError::Sqlite { path: path.to_owned(), error })?;
    let mut content = Zeroizing::new(Vec::with_capacity(image.len() + 256));
    header.write(&mut content);
    content.extend_from_slice(&image);
    recipient.seal(&content)
}

fn image(path: &Path, mut progress: impl FnMut(u32, u32)) -> rusqlite::Result<Zeroizing<Vec<u8>>> {
    let source = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    source.busy_timeout(PATIENCE)?;
    let mut memory = Connection::open_in_memory()?;
    {
        let copy = Backup::new(&source, &mut memory)?;
        let count = |pages: i32| u32::try_from(pages).unwrap_or_default();
        loop {
            let step = copy.step(PAGES)?;
            let pages = copy.progress();
            progress(count(pages.pagecount - pages.remaining), count(pages.pagecount));
            match step {
                StepResult::Done => break,
                StepResult::More => {}
                // A writer has its turn.
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
    Ok(Zeroizing::new(memory.serialize(MAIN_DB)?.to_vec()))
}

/// Makes the register of a directory from a backup. All tokens are void, and for `restoration.gathering` from `now` on
/// the authority issues nothing, and takes from the nodes what the backup does not know. The issuer key is in no backup: a
/// new one is to be made, and a trust document to be signed that names it beside the old one, until all nodes have
/// renewed.
///
/// # Errors
/// When there is a register already, or the backup cannot be opened or is damaged: then there is none as before.
pub fn restore(
    sealed: &[u8],
    identity: &Identity,
    directory: &Path,
    restoration: impl FnOnce(&Header) -> Restoration,
    now: UnixTime,
) -> Result<(Header, Register), StoreError> {
    let content = identity.open(sealed)?;
    let (header, image) = Header::read(&content)?;
    let path = directory.join(FILE);
    if path.exists() {
        return Err(StoreError::Exists(directory.to_owned()));
    }
    let outcome = write(image, directory).and_then(|()| {
        let mut register = Register::open(directory)?;
        register.check()?;
        let transaction = restore_transaction(&register.snapshot()?, restoration(&header), now)?;
        match register.execute(&[transaction]).pop() {
            Some((_, Outcome::Committed { .. })) => Ok(register),
            _ => Err(register.failure()),
        }
    });
    if outcome.is_err() {
        // Nothing half restored stays behind that a server would start on.
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(directory.join(format!("{FILE}{end}")));
        }
    }
    outcome.map(|register| (header, register))
}

fn write(image: &[u8], directory: &Path) -> Result<(), StoreError> {
    // Makes the directory, and says if somebody has it open.
    drop(Register::create(directory)?);
    let path = directory.join(FILE);
    let io = |error| StoreError::Io { path: path.clone(), error };
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(directory.join(format!("{FILE}{end}")));
    }
    let mut file = OpenOptions::new().write(true).truncate(true).mode(0o600).open(&path).map_err(io)?;
    file.write_all(image).and_then(|()| file.sync_all()).map_err(io)
}
