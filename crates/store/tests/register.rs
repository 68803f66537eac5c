//! The file: who may open it, what version it is of, backups.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use support::{authority, begin, grant, joiner, now, settle};
use tombolo_control::authority::Restoration;
use tombolo_control::authority::audit::{Actor, ChangeKind};
use tombolo_control::authority::{Key, Outcome, Record};
use tombolo_control::frame::Frame;
use tombolo_noise::PrivateKey;
use tombolo_noise::clock::UnixTime;
use tombolo_store::{
    FILE, Header, Identity, Recipient, Register, StoreError, Writer, backup, inspect, restore,
};
use zeroize::Zeroizing;

#[test]
fn directory_and_files_are_their_owners_alone_and_one_process_has_them_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let register = begin(&state);
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for file in [FILE.to_owned(), format!("{FILE}-wal"), format!("{FILE}-shm")] {
        assert_eq!(mode(&state.join(&file)), 0o600, "{file}");
    }
    assert!(matches!(Register::open(&state), Err(StoreError::InUse(_))));
    assert!(matches!(Register::create(&state), Err(StoreError::InUse(_))));
    drop(register);
    assert!(matches!(Register::create(&state), Err(StoreError::Exists(_))));
    drop(Register::open(&state).expect("free again"));
    fs::set_permissions(state.join(FILE), fs::Permissions::from_mode(0o640)).expect("set");
    let error = Register::open(&state).map(drop).expect_err("readable by others").to_string();
    assert!(error.contains("chmod 600"), "{error}");
    assert!(matches!(
        Register::open(temporary.path().join("nowhere").as_path()),
        Err(StoreError::Missing(_))
    ));
}

#[test]
fn a_register_from_a_newer_version_is_refused_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    drop(begin(&state));
    let path = state.join(FILE);
    let connection = rusqlite::Connection::open(&path).expect("opened");
    connection.pragma_update(None, "user_version", 99).expect("set");
    drop(connection);
    let error = Register::open(&state).map(drop).expect_err("too new").to_string();
    assert!(error.contains("version 99") && error.contains("upgrade"), "{error}");
    assert!(matches!(inspect(&state).map(drop), Err(StoreError::Newer { .. })));
    fs::write(&path, b"something else, and long enough to be read as the header of a file").expect("written");
    assert!(matches!(Register::open(&state).map(drop), Err(StoreError::NotARegister(_))));
}

#[test]
fn what_was_changed_by_hand_is_found_control_rule_7() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut register = begin(&state);
    let mut authority = authority(&register);
    grant(&mut authority, &mut register, 1, &mut rng);
    let head = register.check().expect("whole").expect("a log");
    assert_eq!(head.sequence, 2);
    // While somebody has it open, too.
    let found = inspect(&state).expect("looked at");
    assert!(
        found.audit == Some(head) && found.open.is_empty() && found.free > 0 && found.size > 0,
        "{found:?}"
    );
    let entries = register.audit(2, 10).expect("read");
    assert_eq!((entries.len(), entries[0].change.kind), (1, ChangeKind::TokenNew));
    drop(register);
    let connection = rusqlite::Connection::open(state.join(FILE)).expect("opened");
    connection.execute("DELETE FROM audit WHERE sequence = 1", []).expect("deleted");
    drop(connection);
    let register = Register::open(&state).expect("opened");
    assert!(matches!(register.check(), Err(StoreError::Audit(_))));
}

#[test]
fn a_transaction_is_carried_out_whole_or_not_at_all_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let mut register = begin(&temporary.path().join("state"));
    let before = register.snapshot().expect("read");
    // The second of the group is founded on what the first has changed.
    let first = support::genesis();
    let mut first = tombolo_control::authority::Transaction {
        conditions: first
            .conditions
            .into_iter()
            .map(|mut c| {
                c.revision = 1;
                c
            })
            .collect(),
        ..first
    };
    first.writes.retain(|(key, _)| *key == Key::Settings);
    let outcomes = register.execute(&[first.clone(), first]);
    assert!(matches!(outcomes[0].1, Outcome::Committed { revision: 2, .. }));
    let Outcome::Conflict { current } = &outcomes[1].1 else { panic!("{outcomes:?}") };
    assert_eq!((current.len(), &current[0].key, current[0].revision), (1, &Key::Settings, 2));
    let after = register.snapshot().expect("read");
    assert_eq!(after.records.len(), before.records.len());
    assert_eq!(after.audit.expect("a log").sequence, 2, "the refused one left no entry");
}

#[test]
fn a_backup_is_made_while_written_to_and_restored_without_tokens_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let mut register = begin(&state);
    let mut authority = authority(&register);
    let token = grant(&mut authority, &mut register, 50, &mut rng);
    for number in 0..20 {
        let (session, frame) = joiner(number, &token);
        authority.handle_frame(&session, &frame, now(), &mut rng);
    }
    settle(&mut authority, &mut register, &mut rng);
    let age = age::x25519::Identity::generate();
    let recipient = Recipient::parse(&[age.to_public().to_string()]).expect("a recipient");
    let writer = Writer::start(register, |_, _| ()).expect("a thread");
    for number in 20..50 {
        let (session, frame) = joiner(number, &token);
        authority.handle_frame(&session, &frame, now(), &mut rng);
    }
    let transaction = authority.poll_store().expect("a join");
    writer.submit(transaction).expect("room");
    let header = Header {
        created: UnixTime(Duration::from_secs(now().wall.0.as_secs())),
        key: Zeroizing::new([0xc8; 32]),
        port: 8662,
        network: "office".to_owned(),
    };
    let mut seen = (0, 0);
    let sealed =
        backup(writer.path(), &header, &recipient, |done, all| seen = (done, all)).expect("a backup");
    assert!(seen.0 == seen.1 && seen.1 > 0, "{seen:?}");
    drop(writer.stop().expect("the thread lives"));
    assert!(!sealed.windows(4).any(|window| window == b"hub\0" || window == b"node"), "in clear");

    let elsewhere = temporary.path().join("elsewhere");
    let identity = Identity::Age(Box::new(age));
    let other = Identity::Age(Box::new(age::x25519::Identity::generate()));
    let restoration = |header: &Header| Restoration {
        actor: Actor::Local("uid 0".to_owned()),
        gathering: Duration::from_secs(600),
        moved: Some((
            PrivateKey::from_bytes(*header.key).public(),
            vec![support::parse("new.example.net:8662")],
        )),
    };
    let refused = restore(&sealed, &other, &elsewhere, restoration, now().wall);
    assert!(matches!(refused.map(drop), Err(StoreError::Decrypt(_))));
    let (read, restored) =
        restore(&sealed, &identity, &elsewhere, restoration, now().wall).expect("restored");
    assert_eq!(read, header);
    restored.check().expect("whole");
    let snapshot = restored.snapshot().expect("read");
    assert!(snapshot.records.iter().all(|stored| !matches!(stored.key, Key::Token(_))), "tokens are void");
    let nodes = snapshot.records.iter().filter(|stored| matches!(stored.key, Key::Node(_))).count();
    assert!((21..=22).contains(&nodes), "{nodes}");
    let recovering = snapshot.records.iter().any(|stored| {
        matches!(&stored.record, Some(Record::Settings(settings)) if settings.recovering_until.is_some()
            && settings.servers[0].endpoints == vec![support::parse("new.example.net:8662")])
    });
    assert!(recovering);
    let kind = restored.audit(1, 100).expect("read").pop().map(|entry| entry.change.kind);
    assert_eq!(kind, Some(ChangeKind::Restored));
    drop(restored);
    let again = restore(&sealed, &identity, &elsewhere, restoration, now().wall);
    assert!(matches!(again.map(drop), Err(StoreError::Exists(_))));
    assert!(matches!(authority.poll_frame(), None | Some((_, Frame::JoinAnswer(_)))));
}
