//! Nothing that was answered is lost: with the power cut at each write, with a process killed at any point, with a
//! full disk (control rule 21).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use support::{authority, begin, grant, joiner, now};
use tombolo_control::authority::{Key, Outcome, Record, Snapshot, TransactionId};
use tombolo_control::frame::{Frame, JoinAnswer};
use tombolo_store::{FILE, Register, Writer};

/// Names, addresses and keys of the nodes, each of which must be claimed by its node.
fn check_whole(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let records: BTreeMap<&Key, &Record> =
        snapshot.records.iter().filter_map(|stored| Some((&stored.key, stored.record.as_ref()?))).collect();
    let nodes = records.values().filter_map(|record| match record {
        Record::Node(node) => Some(node),
        _ => None,
    });
    let owner = |key: Key| match records.get(&key) {
        Some(Record::Claim(claim)) => Some(claim.node),
        _ => None,
    };
    nodes
        .map(|node| {
            assert_eq!(owner(Key::Name(node.name.clone())), Some(node.node));
            assert_eq!(owner(Key::StaticKey(node.key)), Some(node.node));
            assert!(node.addresses.iter().all(|address| owner(Key::Address(*address)) == Some(node.node)));
            node.membership.clone()
        })
        .collect()
}

fn copy(from: &Path, to: &Path, wal: &[u8]) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("made");
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set");
    fs::copy(from.join(FILE), to.join(FILE)).expect("copied");
    fs::write(to.join(format!("{FILE}-wal")), wal).expect("written");
}

/// The log is only ever appended to between two checkpoints, and synced before an answer. So a power cut leaves
/// all that was synced, and any part of the rest: each length is tried in steps of less than a frame of it.
#[test]
fn a_power_cut_at_each_write_loses_no_answer_and_halves_nothing_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    drop(begin(&state));
    let mut register = Register::open(&state).expect("opened");
    let mut authority = authority(&register);
    let token = grant(&mut authority, &mut register, 12, &mut rng);
    let wal = state.join(format!("{FILE}-wal"));
    let length = || fs::metadata(&wal).expect("there").len() as usize;
    let mut answered: Vec<(usize, Vec<u8>)> = Vec::new();
    for round in 0..4 {
        for number in 0..3 {
            let (session, frame) = joiner(round * 3 + number, &token);
            authority.handle_frame(&session, &frame, now(), &mut rng);
            // One after the other: they spend the same token.
            while let Some(transaction) = authority.poll_store() {
                for (id, outcome) in register.execute(&[transaction]) {
                    authority.handle_store(id, outcome, now(), &mut rng);
                }
            }
        }
        while let Some((_, frame)) = authority.poll_frame() {
            let Frame::JoinAnswer(JoinAnswer { outcome: Ok(membership), .. }) = frame else {
                panic!("{frame:?}")
            };
            answered.push((length(), membership));
        }
    }
    assert_eq!(answered.len(), 12);
    let log = fs::read(&wal).expect("read");
    let cut = temporary.path().join("cut");
    for end in (0..log.len()).step_by(1999).chain([log.len()]) {
        copy(&state, &cut, &log[..end]);
        // What lies behind the last sync may be there and be wrong.
        let register = match Register::open(&cut) {
            Ok(register) => register,
            Err(error) => panic!("cut at {end} of {}: {error}", log.len()),
        };
        register.check().expect("whole");
        let snapshot = register.snapshot().expect("read");
        let there = check_whole(&snapshot);
        for (at, membership) in &answered {
            assert!(*at > end || there.contains(membership), "answered at {at}, cut at {end}");
        }
    }
}

#[test]
fn a_torn_write_behind_the_last_commit_is_left_out_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let mut register = begin(&state);
    let mut authority = authority(&register);
    grant(&mut authority, &mut register, 1, &mut rng);
    let mut log = fs::read(state.join(format!("{FILE}-wal"))).expect("read");
    let records = register.snapshot().expect("read").records.len();
    let mut garbage = vec![0; 10_000];
    rng.fill_bytes(&mut garbage);
    log.extend(garbage);
    let torn = temporary.path().join("torn");
    copy(&state, &torn, &log);
    let register = Register::open(&torn).expect("opened");
    register.check().expect("whole");
    assert_eq!(register.snapshot().expect("read").records.len(), records);
}

/// The child of the test below: joins without end, and says which node was answered.
#[test]
#[ignore = "is run by another test"]
fn joins_until_killed() {
    let Some(state) = std::env::var_os("REGISTER_UNDER_TEST") else { return };
    let mut rng = ChaCha20Rng::seed_from_u64(u64::from(std::process::id()));
    let register = Register::open(Path::new(&state)).expect("opened");
    let mut authority = authority(&register);
    let (sender, results) = std::sync::mpsc::channel::<(TransactionId, Outcome)>();
    let writer =
        Writer::start(register, move |id, outcome| drop(sender.send((id, outcome)))).expect("a thread");
    let caller = || tombolo_control::authority::Caller::Local {
        id: tombolo_control::authority::SessionId(0),
        who: "child".to_owned(),
    };
    let mut output = std::io::stdout();
    let mut tokens = BTreeMap::new();
    for number in 0_u64.. {
        // A token for each, so that many joins are on their way at once.
        let key = tombolo_control::SigningKey::generate(&mut rng);
        let operation = tombolo_control::frame::admin::Operation::TokenNew(
            tombolo_control::frame::admin::TokenSpec::new(key.verifying_key()),
        );
        tokens.insert(number, key);
        let request = tombolo_control::frame::admin::AdminRequest { id: number, operation };
        authority.handle_request(caller(), request, now(), &mut rng);
        while let Some(transaction) = authority.poll_store() {
            writer.submit(transaction).expect("room");
        }
        let ready = if number < 16 { None } else { results.recv().ok() };
        for (id, outcome) in ready.into_iter().chain(results.try_iter()) {
            authority.handle_store(id, outcome, now(), &mut rng);
        }
        while let Some((_, frame)) = authority.poll_frame() {
            match frame {
                Frame::AdminAnswer(answer) => {
                    let tombolo_control::frame::admin::Reply::Granted(grant) = answer.reply else { panic!() };
                    let token = tokens.remove(&answer.id).and_then(|key| grant.into_token(key).ok());
                    let (session, frame) = joiner(rng.next_u64(), &token.expect("a token"));
                    authority.handle_frame(&session, &frame, now(), &mut rng);
                }
                Frame::JoinAnswer(JoinAnswer { outcome: Ok(membership), .. }) => {
                    let text: String = membership.iter().map(|byte| format!("{byte:02x}")).collect();
                    writeln!(output, "joined {text}").expect("written");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_server_killed_at_any_point_has_answered_nothing_in_vain_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    drop(begin(&state));
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let mut answered = Vec::new();
    for _ in 0..6 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "joins_until_killed", "--nocapture"])
            .env("REGISTER_UNDER_TEST", &state)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let enough = 1 + rng.next_u32() % 120;
        let mut take = |line: String| {
            if let Some((_, joined)) = line.split_once("joined ") {
                answered.push(joined.to_owned());
                true
            } else {
                false
            }
        };
        let mut count = 0;
        while count < enough {
            let line = lines.next().expect("it goes on without end").expect("text");
            count += u32::from(take(line));
        }
        child.kill().expect("killed");
        // What it had said before it was killed was answered too; a line cut in two was not.
        lines.map_while(Result::ok).filter(|line| !line.len().is_multiple_of(2)).for_each(|line| {
            take(line);
        });
        child.wait().expect("ended");
        let register = Register::open(&state).expect("opened");
        register.check().expect("whole");
        let there: Vec<String> = check_whole(&register.snapshot().expect("read"))
            .into_iter()
            .map(|membership| membership.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        // The last line may have been cut: then it is a part of one that is there.
        let lost = answered
            .iter()
            .filter(|joined| !there.iter().any(|held| held.starts_with(joined.as_str())))
            .count();
        assert_eq!(lost, 0, "of {}", answered.len());
    }
}
