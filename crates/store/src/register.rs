//! The file: where it is, who may open it, what version it is of, and how a group of transactions is carried out.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use tombolo_control::DocumentHash;
use tombolo_control::authority::audit::{self, AuditHead, Entry};
use tombolo_control::authority::{
    Condition, Key, Outcome, Record, Snapshot, Stored, Transaction, TransactionId,
};

use crate::StoreError;

#[cfg(test)]
mod tests;

/// Name of the file in the server's state directory.
pub const FILE: &str = "register.sqlite";

/// Name of the file that says that somebody has the register open.
const LOCK: &str = "register.lock";

/// What SQLite's header says of a register of ours: "tmbl".
const APPLICATION: i64 = 0x746d_626c;

/// Each brings a register one version further. Never changed once released.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE records (key BLOB PRIMARY KEY NOT NULL, revision INTEGER NOT NULL, value BLOB NOT NULL) STRICT;
    CREATE TABLE audit (sequence INTEGER PRIMARY KEY NOT NULL, hash BLOB NOT NULL, entry BLOB NOT NULL) STRICT;
    CREATE TABLE revision (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL) STRICT;
    INSERT INTO revision VALUES (1, 0);
"];

/// A register, open for its one user.
pub struct Register {
    connection: Connection,
    path: PathBuf,
    /// Why the last transaction that could not be carried out could not.
    failure: Option<rusqlite::Error>,
    /// Held as long as the register is open; none where it is only looked at.
    _lock: Option<File>,
}

impl Register {
    /// Makes an empty register in a directory, which is made too where it is missing.
    ///
    /// # Errors
    /// When there is one already, somebody else could read it, or the system says no.
    pub fn create(directory: &Path) -> Result<Self, StoreError> {
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match made {
            Ok(file) => file.sync_all().map_err(|error| StoreError::Io { path: path.clone(), error })?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists(directory.to_owned()));
            }
            Err(error) => return Err(StoreError::Io { path, error }),
        }
        Self::connect(path, lock, MIGRATIONS)
    }

    /// Opens the register of a directory, and brings it to this version.
    ///
    /// # Errors
    /// When there is none, somebody else has it open or can read it, or it is of a later version.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        if !path.exists() {
            return Err(StoreError::Missing(directory.to_owned()));
        }
        let lock = lock(directory)?;
        check_mode(&path, 0o077, "600")?;
        Self::connect(path, lock, MIGRATIONS)
    }

    /// Opens the register of a directory to look at it, beside whoever writes it.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it is of a later version.
    pub fn read(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        if !path.exists() {
            return Err(StoreError::Missing(directory.to_owned()));
        }
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|error| StoreError::Sqlite { path: path.clone(), error })?;
        let _ = connection.busy_timeout(Duration::from_secs(5));
        let register = Self { connection, path, failure: None, _lock: None };
        register.check_version(MIGRATIONS)?;
        // All that is looked at is of one moment.
        register.connection.execute_batch("BEGIN").map_err(|error| register.sqlite(error))?;
        Ok(register)
    }

    fn connect(path: PathBuf, lock: File, migrations: &[&str]) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags);
        let connection = connection.map_err(|error| StoreError::Sqlite { path: path.clone(), error })?;
        let register = Self { connection, path, failure: None, _lock: Some(lock) };
        register.set_up(migrations)?;
        Ok(register)
    }

    /// Gives the version of the file.
    fn check_version(&self, migrations: &[&str]) -> Result<i64, StoreError> {
        let application: i64 = self.pragma("application_id")?;
        let version: i64 = self.pragma("user_version")?;
        let known = migrations.len() as i64;
        if application != APPLICATION && !(application == 0 && version == 0) {
            return Err(StoreError::NotARegister(self.path.clone()));
        }
        if version > known {
            return Err(StoreError::Newer { found: version, known });
        }
        Ok(version)
    }

    fn set_up(&self, migrations: &[&str]) -> Result<(), StoreError> {
        let version = self.check_version(migrations)?;
        let set_up = || -> rusqlite::Result<()> {
            self.connection.pragma_update(None, "journal_mode", "WAL")?;
            // Each commit is on the disk before it is answered (control rule 21).
            self.connection.pragma_update(None, "synchronous", "FULL")?;
            self.connection.pragma_update(None, "trusted_schema", false)?;
            self.connection.set_prepared_statement_cache_capacity(16);
            let todo = migrations.iter().zip(1_i64..).skip(usize::try_from(version).unwrap_or_default());
            for (migration, version) in todo {
                self.connection.execute_batch(&format!(
                    "BEGIN IMMEDIATE; {migration} PRAGMA application_id = {APPLICATION}; \
                     PRAGMA user_version = {version}; COMMIT;"
                ))?;
            }
            Ok(())
        };
        set_up().map_err(|error| self.sqlite(error))
    }

    fn pragma(&self, name: &str) -> Result<i64, StoreError> {
        self.connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|error| self.sqlite(error))
    }

    fn sqlite(&self, error: rusqlite::Error) -> StoreError {
        let path = self.path.clone();
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => StoreError::NotARegister(path),
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => StoreError::Damaged(error.to_string()),
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full(path),
            _ => StoreError::Sqlite { path, error },
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All that there is: with what an authority starts.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT key, revision, value FROM records ORDER BY key")
            .map_err(|error| self.sqlite(error))?;
        let mut rows = statement.query([]).map_err(|error| self.sqlite(error))?;
        let mut records = Vec::new();
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            let (key, revision, value) =
                columns::<Vec<u8>, i64, Vec<u8>>(row).map_err(|error| self.sqlite(error))?;
            records.push(stored(&key, Some((revision, value)))?);
        }
        let audit = audit_head(&self.connection).map_err(|error| self.sqlite(error))?;
        Ok(Snapshot { records, audit })
    }

    /// Looks at the whole file: its pages, its records, and the audit log's chain. Gives the log's head, which is to
    /// be compared with the one in the network document.
    ///
    /// # Errors
    /// Names the first thing that is wrong.
    pub fn check(&self) -> Result<Option<AuditHead>, StoreError> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(|error| self.sqlite(error))?;
        if verdict != "ok" {
            return Err(StoreError::Damaged(verdict));
        }
        self.snapshot()?;
        let mut found = None;
        self.follow_audit(|_, head| found = Some(head))?;
        Ok(found)
    }

    /// The audit log's newest entry, as the register says.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit_head(&self) -> Result<Option<AuditHead>, StoreError> {
        audit_head(&self.connection).map_err(|error| self.sqlite(error))
    }

    /// Follows the audit log's chain from its first entry, and shows each entry with its hash.
    ///
    /// # Errors
    /// Names the first entry that does not follow the one before, or says what else is wrong.
    pub fn follow_audit(&self, mut each: impl FnMut(&Entry, AuditHead)) -> Result<(), StoreError> {
        let mut head = None;
        self.entries(1, usize::MAX, |bytes| {
            let (entry, next) = audit::follow(head, bytes)?;
            head = Some(next);
            each(&entry, next);
            Ok(())
        })?;
        if head != self.audit_head()? {
            let damage = "the audit log's last entry has another hash than it should".to_owned();
            return Err(StoreError::Damaged(damage));
        }
        Ok(())
    }

    /// Entries of the audit log, from a number on.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn audit(&self, from: u64, count: usize) -> Result<Vec<Entry>, StoreError> {
        let before = i64::try_from(from.saturating_sub(1)).unwrap_or(i64::MAX);
        let hash: Option<[u8; 32]> = self
            .connection
            .query_row("SELECT hash FROM audit WHERE sequence = ?", [before], |row| row.get(0))
            .optional()
            .map_err(|error| self.sqlite(error))?;
        let hash = hash.map(DocumentHash::from_bytes);
        let mut head = hash.map(|hash| AuditHead { sequence: from - 1, hash });
        let mut entries = Vec::new();
        self.entries(from, count, |bytes| {
            let (entry, next) = audit::follow(head, bytes)?;
            head = Some(next);
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    fn entries(
        &self,
        from: u64,
        count: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (from, count) =
            (i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(count).unwrap_or(i64::MAX));
        let mut statement = self
            .connection
            .prepare("SELECT entry FROM audit WHERE sequence >= ? ORDER BY sequence LIMIT ?")
            .map_err(|error| self.sqlite(error))?;
        let mut rows = statement.query([from, count]).map_err(|error| self.sqlite(error))?;
        while let Some(row) = rows.next().map_err(|error| self.sqlite(error))? {
            let entry: Vec<u8> = row.get(0).map_err(|error| self.sqlite(error))?;
            each(&entry)?;
        }
        Ok(())
    }

    /// Carries out a group of transactions, each whole or not at all, with one commit. What it gives is on the disk.
    pub fn execute(&mut self, group: &[Transaction]) -> Vec<(TransactionId, Outcome)> {
        let failed = || group.iter().map(|transaction| (transaction.id, Outcome::Failed)).collect();
        self.failure = None;
        let outcomes = match self.execute_group(group) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.failure = Some(error);
                // What was begun is undone; there may be nothing to undo.
                let _ = self.connection.execute_batch("ROLLBACK");
                return failed();
            }
        };
        group.iter().map(|transaction| transaction.id).zip(outcomes).collect()
    }

    /// Why the last group, or one of its transactions, could not be carried out. Taken by who asks.
    pub(crate) fn take_failure(&mut self) -> Option<StoreError> {
        self.failure.take().map(|error| self.sqlite(error))
    }

    /// As [`Register::take_failure`], for somebody who knows that there is one.
    pub(crate) fn failure(&mut self) -> StoreError {
        self.take_failure().unwrap_or_else(|| StoreError::Damaged("a record cannot be written".to_owned()))
    }

    fn execute_group(&mut self, group: &[Transaction]) -> rusqlite::Result<Vec<Outcome>> {
        let mut failure = None;
        let connection = &self.connection;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut outcomes = Vec::with_capacity(group.len());
        for transaction in group {
            connection.prepare_cached("SAVEPOINT one")?.execute([])?;
            let outcome = match execute_one(connection, transaction) {
                Ok(outcome) => outcome,
                // A full disk may have undone all of it: then none of the group was written.
                Err(error) if connection.is_autocommit() => return Err(error),
                Err(error) => {
                    failure = Some(error);
                    connection.execute_batch("ROLLBACK TO one")?;
                    Outcome::Failed
                }
            };
            connection.prepare_cached("RELEASE one")?.execute([])?;
            outcomes.push(outcome);
        }
        connection.execute_batch("COMMIT")?;
        self.failure = failure;
        Ok(outcomes)
    }

    /// For tests of a full disk: at most so many pages.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: i64) {
        self.connection.pragma_update(None, "max_page_count", pages).unwrap();
    }
}

fn columns<A: rusqlite::types::FromSql, B: rusqlite::types::FromSql, C: rusqlite::types::FromSql>(
    row: &rusqlite::Row<'_>,
) -> rusqlite::Result<(A, B, C)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn stored(key: &[u8], found: Option<(i64, Vec<u8>)>) -> Result<Stored, StoreError> {
    let key = Key::from_bytes(key)?;
    let Some((revision, value)) = found else { return Ok(Stored { key, revision: 0, record: None }) };
    let record = Record::from_bytes(&key, &value)?;
    Ok(Stored { key, revision: u64::try_from(revision).unwrap_or_default(), record: Some(record) })
}

fn audit_head(connection: &Connection) -> rusqlite::Result<Option<AuditHead>> {
    connection
        .prepare_cached("SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1")?
        .query_row([], |row| {
            let (sequence, hash): (i64, [u8; 32]) = (row.get(0)?, row.get(1)?);
            let sequence = u64::try_from(sequence).unwrap_or_default();
            Ok(AuditHead { sequence, hash: DocumentHash::from_bytes(hash) })
        })
        .optional()
}

/// What is under a key now.
fn find(connection: &Connection, key: &[u8]) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
    connection
        .prepare_cached("SELECT revision, value FROM records WHERE key = ?")?
        .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

fn execute_one(connection: &Connection, transaction: &Transaction) -> rusqlite::Result<Outcome> {
    let mut current = Vec::new();
    for Condition { key, revision } in &transaction.conditions {
        let bytes = key.to_bytes();
        let found = find(connection, &bytes)?;
        let there = found.as_ref().map_or(0, |(revision, _)| *revision);
        if i64::try_from(*revision) != Ok(there) {
            match stored(&bytes, found) {
                Ok(stored) => current.push(stored),
                Err(_) => return Ok(Outcome::Failed),
            }
        }
    }
    if !current.is_empty() {
        return Ok(Outcome::Conflict { current });
    }
    let revision: i64 = connection
        .prepare_cached("UPDATE revision SET last = last + 1 RETURNING last")?
        .query_row([], |row| row.get(0))?;
    for (key, record) in &transaction.writes {
        let key = key.to_bytes();
        match record {
            Some(record) => connection
                .prepare_cached(
                    "INSERT INTO records VALUES (?1, ?2, ?3) \
                     ON CONFLICT (key) DO UPDATE SET revision = ?2, value = ?3",
                )?
                .execute(params![key, revision, record.to_bytes()])?,
            None => connection.prepare_cached("DELETE FROM records WHERE key = ?")?.execute([key])?,
        };
    }
    let mut head = audit_head(connection)?;
    for change in &transaction.audit {
        let (entry, next) = audit::chain(head, change);
        let sequence = i64::try_from(next.sequence).unwrap_or(i64::MAX);
        connection.prepare_cached("INSERT INTO audit VALUES (?, ?, ?)")?.execute(params![
            sequence,
            next.hash.as_bytes(),
            entry
        ])?;
        head = Some(next);
    }
    Ok(Outcome::Committed { revision: u64::try_from(revision).unwrap_or_default(), audit: head })
}

/// Makes the directory where it is missing, and keeps everybody else out of it.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        |error| StoreError::Io { path, error }
    };
    if !directory.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io(directory))?;
    }
    check_mode(directory, 0o077, "700")?;
    let path = directory.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io(&path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(directory.to_owned())),
        Err(error) => Err(StoreError::Io { path, error: error.into() }),
    }
}

fn check_mode(path: &Path, forbidden: u32, mode: &'static str) -> Result<(), StoreError> {
    let metadata = fs::metadata(path).map_err(|error| StoreError::Io { path: path.to_owned(), error })?;
    if metadata.permissions().mode() & forbidden == 0 {
        Ok(())
    } else {
        Err(StoreError::Open { path: path.to_owned(), mode })
    }
}
