//! What shows only from within: how it is written, and how an older one is brought further.

use std::sync::mpsc;
use std::time::Duration;

use tombolo_control::authority::audit::{Actor, Change, ChangeKind};
use tombolo_noise::clock::UnixTime;

use super::*;
use crate::Writer;

fn transaction(number: u64) -> Transaction {
    let key = Key::Trust;
    let change = Change::new(UnixTime(Duration::ZERO), Actor::Authority, ChangeKind::Trust);
    let writes = vec![(key, Some(Record::Trust(vec![number as u8; 3000])))];
    Transaction { id: TransactionId(number), conditions: Vec::new(), writes, audit: vec![change] }
}

#[test]
fn a_full_disk_loses_no_answer_control_rule_21() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut register = Register::create(&state).unwrap();
    register.limit_pages(40);
    let mut entries = 0;
    for round in 0..400_u64 {
        let group: Vec<Transaction> = (0..4).map(|number| transaction(round * 4 + number)).collect();
        let outcomes = register.execute(&group);
        assert_eq!(outcomes.len(), 4);
        entries += outcomes.iter().filter(|(_, outcome)| *outcome != Outcome::Failed).count();
        if entries < (round as usize + 1) * 4 {
            break;
        }
    }
    assert!(entries > 40, "it was not full at once: {entries}");
    assert_eq!(register.check().unwrap().map(|head| head.sequence), Some(entries as u64));
    // With room again it goes on where it was.
    register.limit_pages(1 << 20);
    assert!(matches!(register.execute(&[transaction(9)])[0].1, Outcome::Committed { .. }));
    drop(register);
    let register = Register::open(&state).unwrap();
    assert_eq!(register.check().unwrap().map(|head| head.sequence), Some(entries as u64 + 1));
}

/// How many commits the write-ahead log holds, and how many pages: a frame that ends a commit has the size of the file in
/// its header (SQLite's file format, section 4.1).
fn commits(state: &Path) -> (usize, usize) {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;
    let log = fs::read(state.join(format!("{FILE}-wal"))).unwrap();
    assert_eq!(log[8..12], 4096_u32.to_be_bytes(), "bytes of a page");
    let frames = log[HEADER..].chunks_exact(FRAME);
    (frames.clone().filter(|frame| frame[4..8] != [0; 4]).count(), frames.count())
}

#[test]
fn every_commit_is_synced_before_it_is_answered_control_rule_21() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let is_full = |register: &Register| {
        assert_eq!(register.pragma("synchronous").unwrap(), 2, "FULL");
        let mode: String =
            register.connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
    };
    is_full(&Register::create(&state).unwrap());
    is_full(&Register::open(&state).unwrap());
}

#[test]
fn what_is_handed_over_together_is_one_commit_control_rule_21() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut register = Register::create(&state).unwrap();
    let before = commits(&state);
    let group: Vec<Transaction> = (0..50).map(transaction).collect();
    assert_eq!(register.execute(&group).len(), 50);
    let after = commits(&state);
    assert_eq!(after.0, before.0 + 1);
    assert!(after.1 > before.1 + 1, "of more than one page");

    // The thread takes all that has gathered while it was busy.
    let (answered, answers) = mpsc::channel();
    let (go_on, waiting) = mpsc::channel::<()>();
    let writer = Writer::start(register, move |id, outcome| {
        answered.send((id, outcome)).unwrap();
        if id == TransactionId(100) {
            waiting.recv().unwrap();
        }
    })
    .unwrap();
    writer.submit(transaction(100)).unwrap();
    let (first, _) = answers.recv().unwrap();
    assert_eq!((first, commits(&state).0), (TransactionId(100), after.0 + 1));
    for number in 101..200 {
        writer.submit(transaction(number)).unwrap();
    }
    go_on.send(()).unwrap();
    for number in 101..200 {
        let (id, outcome) = answers.recv().unwrap();
        assert_eq!(id, TransactionId(number));
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }
    assert_eq!(commits(&state).0, after.0 + 2);
    assert!(writer.stop().is_some());
}

/// A program of the next version, and one whose migration cannot be carried out.
const NEXT: &[&str] = &[
    MIGRATIONS[0],
    "ALTER TABLE records ADD COLUMN written INTEGER NOT NULL DEFAULT 0;
     CREATE TABLE extra (one INTEGER PRIMARY KEY) STRICT; INSERT INTO extra SELECT revision FROM records GROUP BY 1;",
];
const BROKEN: &[&str] = &[
    MIGRATIONS[0],
    "CREATE TABLE extra (one INTEGER PRIMARY KEY) STRICT; UPDATE records SET revision = 77;
     DELETE FROM audit; INSERT INTO nowhere VALUES (1);",
];

fn connect(state: &Path, migrations: &[&str]) -> Result<Register, StoreError> {
    Register::connect(state.join(FILE), lock(state)?, migrations)
}

/// A register of the first version with something in it.
fn older(state: &Path) -> Snapshot {
    let mut register = connect(state, MIGRATIONS).or_else(|_| Register::create(state)).unwrap();
    for number in 0..20 {
        assert!(matches!(register.execute(&[transaction(number)])[0].1, Outcome::Committed { .. }));
    }
    register.snapshot().unwrap()
}

fn tables(register: &Register) -> i64 {
    let count = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'";
    register.connection.query_row(count, [], |row| row.get(0)).unwrap()
}

#[test]
fn an_older_register_is_carried_over_and_its_program_refuses_it_then_control_rule_21() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let before = older(&state);
    for _ in 0..2 {
        // Once carried over it is left alone.
        let register = connect(&state, NEXT).unwrap();
        assert_eq!(register.pragma("user_version").unwrap(), 2);
        assert!(register.snapshot().unwrap() == before);
        assert_eq!(register.check().unwrap(), before.audit);
        assert_eq!(tables(&register), 4);
    }
    let refused = Register::open(&state).map(drop);
    assert!(matches!(refused, Err(StoreError::Newer { found: 2, known: 1 })), "{refused:?}");
}

#[test]
fn a_migration_that_fails_half_way_leaves_the_register_as_it_was_control_rule_21() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let before = older(&state);
    let failed = connect(&state, BROKEN).map(drop);
    assert!(
        matches!(&failed, Err(StoreError::Sqlite { error, .. }) if error.to_string().contains("nowhere"))
    );
    let mut register = Register::open(&state).unwrap();
    assert_eq!((register.pragma("user_version").unwrap(), tables(&register)), (1, 3));
    assert!(register.snapshot().unwrap() == before);
    assert_eq!(register.check().unwrap(), before.audit);
    assert!(matches!(register.execute(&[transaction(99)])[0].1, Outcome::Committed { .. }));
}

#[test]
fn a_power_cut_at_each_write_of_a_migration_leaves_one_of_both_versions_control_rule_21() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let before = older(&state);
    let file = fs::read(state.join(FILE)).unwrap();
    let carried = connect(&state, NEXT).unwrap();
    let log = fs::read(state.join(format!("{FILE}-wal"))).unwrap();
    drop(carried);
    let mut versions = [0; 2];
    for end in (0..=log.len()).step_by(515).chain([log.len() - 1, log.len()]) {
        let cut = directory.path().join("cut");
        let _ = fs::remove_dir_all(&cut);
        fs::DirBuilder::new().mode(0o700).create(&cut).unwrap();
        fs::write(cut.join(FILE), &file).unwrap();
        fs::set_permissions(cut.join(FILE), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(cut.join(format!("{FILE}-wal")), &log[..end]).unwrap();
        let connection = Connection::open(cut.join(FILE)).unwrap();
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        versions[version as usize - 1] += 1;
        drop(connection);
        let register = connect(&cut, NEXT).unwrap();
        assert!(register.snapshot().unwrap() == before, "cut at {end}");
        assert_eq!((register.check().unwrap(), tables(&register)), (before.audit, 4), "cut at {end}");
    }
    assert!(versions[0] > 2 && versions[1] > 0, "{versions:?}");
}
