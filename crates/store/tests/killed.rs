//! A process that is killed at any point has answered nothing in vain (control rule 21).

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use support::{authority, begin, check_whole, joiner, now};
use tombolo_control::SigningKey;
use tombolo_control::authority::{Caller, Outcome, SessionId, TransactionId};
use tombolo_control::frame::admin::{AdminRequest, Operation, Reply, TokenSpec};
use tombolo_control::frame::{Frame, JoinAnswer};
use tombolo_store::{Register, Writer};

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
    let caller = || Caller::Local { id: SessionId(0), who: "child".to_owned() };
    let mut output = std::io::stdout();
    let mut tokens = BTreeMap::new();
    for number in 0_u64.. {
        // A token for each, so that many joins are on their way at once.
        let key = SigningKey::generate(&mut rng);
        let operation = Operation::TokenNew(TokenSpec::new(key.verifying_key()));
        tokens.insert(number, key);
        let request = AdminRequest { id: number, operation };
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
                    let Reply::Granted(grant) = answer.reply else { panic!() };
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
    for _ in 0..4 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "joins_until_killed", "--nocapture"])
            .env("REGISTER_UNDER_TEST", &state)
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let enough = 1 + rng.next_u32() % 60;
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
