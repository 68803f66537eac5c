//! What the authority asks of its store, and what comes back (control rules 21 and 23).
//!
//! The store is a map from [`Key`] to [`Record`]. Each key has the revision of the transaction that wrote it last,
//! and 0 where there is none: what etcd calls `mod_revision`. A transaction is carried out whole if all of its
//! conditions hold, else not at all. The store keeps the audit log's chain itself, because it alone knows in which
//! order transactions are committed. What other servers write to it is taken by [`Authority::handle_changed`](super::Authority::handle_changed);
//! `docs/architecture.md` has each of these as a call of etcd's.

use super::audit::{AuditHead, Change};
use super::register::{Key, Record};

/// Which transaction; chosen by the authority, unique while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub u64);

/// What must be so for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Where.
    pub key: Key,
    /// The revision of what is there; 0 for nothing.
    pub revision: u64,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Which.
    pub id: TransactionId,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// What to write; none removes.
    pub writes: Vec<(Key, Option<Record>)>,
    /// Entries for the audit log, to be chained in the order of the commits.
    pub audit: Vec<Change>,
}

/// What came of a transaction. Results may come late and in any order; no answer leaves before its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on the disk.
    Committed {
        /// The revision of all that it wrote.
        revision: u64,
        /// The audit log's newest entry.
        audit: Option<AuditHead>,
    },
    /// A condition does not hold, and nothing was written.
    Conflict {
        /// What is there, for each condition that does not hold.
        current: Vec<Stored>,
    },
    /// The store could not. Whether it was written is not known; conditions keep that harmless.
    Failed,
}

/// A record and its revision; or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where.
    pub key: Key,
    /// Of the transaction that wrote it; 0 for nothing.
    pub revision: u64,
    /// What is there.
    pub record: Option<Record>,
}

/// All that a store has, at one moment: with what an authority starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The records.
    pub records: Vec<Stored>,
    /// The audit log's newest entry.
    pub audit: Option<AuditHead>,
}
