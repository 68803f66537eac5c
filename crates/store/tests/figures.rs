//! What an authority with its register can do, and how much memory it takes. For people to read:
//! `cargo test --release -p tombolo-store --test figures -- --ignored --nocapture --test-threads 1`.

mod support;

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use support::{authority, begin, grant, joiner, now};
use tombolo_control::authority::{Authority, Outcome, TransactionId};
use tombolo_control::frame::{Frame, JoinAnswer};
use tombolo_store::{Register, Writer};

/// Joins `count` nodes, each with a token of its own, and gives how long that took.
#[expect(clippy::disallowed_methods, reason = "this measures")]
fn join(directory: &std::path::Path, count: u64) -> Duration {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut register = begin(directory);
    let mut authority = authority(&register);
    let requests: Vec<_> = (0..count)
        .map(|number| {
            let token = grant(&mut authority, &mut register, 1, &mut rng);
            joiner(number, &token)
        })
        .collect();
    let (sender, results) = std::sync::mpsc::channel::<(TransactionId, Outcome)>();
    let writer =
        Writer::start(register, move |id, outcome| drop(sender.send((id, outcome)))).expect("a thread");
    let mut requests = requests.into_iter();
    let (mut open, mut joined) = (0, 0);
    let start = std::time::Instant::now();
    while joined < count {
        // Two hundred at once, as when a fleet starts.
        while open < 200
            && let Some((session, frame)) = requests.next()
        {
            authority.handle_frame(&session, &frame, now(), &mut rng);
            open += 1;
        }
        while let Some(transaction) = authority.poll_store() {
            writer.submit(transaction).expect("room");
        }
        let first = results.recv().expect("the thread lives");
        for (id, outcome) in std::iter::once(first).chain(results.try_iter()) {
            authority.handle_store(id, outcome, now(), &mut rng);
        }
        while let Some((_, frame)) = authority.poll_frame() {
            let admitted = matches!(frame, Frame::JoinAnswer(JoinAnswer { outcome: Ok(_), .. }));
            assert!(admitted, "{frame:?}");
            joined += 1;
            open -= 1;
        }
    }
    let took = start.elapsed();
    assert_eq!(authority.nodes().count() as u64, count + 1);
    writer.stop().expect("the thread lives");
    took
}

#[test]
#[ignore = "a measurement"]
fn joins_per_second() {
    let temporary = tempfile::tempdir_in(".").expect("a directory on a disk");
    let took = join(&temporary.path().join("state"), 2000);
    println!(
        "{:.0} joins/s (2000 joins, 200 at once, each committed to the disk)",
        2000.0 / took.as_secs_f64()
    );
}

fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("read");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("there");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
#[ignore = "a measurement"]
fn memory_of_ten_thousand_nodes() {
    let temporary = tempfile::tempdir_in(".").expect("a directory on a disk");
    let state = temporary.path().join("state");
    if std::env::var_os("REGISTER_UNDER_TEST").is_none() {
        join(&state, 10_000);
        // In a process of its own, which has held nothing else.
        let status = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "memory_of_ten_thousand_nodes", "--nocapture"])
            .env("REGISTER_UNDER_TEST", &state)
            .status()
            .expect("started");
        assert!(status.success());
        return;
    }
    let state = std::env::var_os("REGISTER_UNDER_TEST").expect("set");
    let before = resident_kilobytes();
    let register = Register::open(std::path::Path::new(&state)).expect("opened");
    let snapshot = register.snapshot().expect("read");
    let authority = Authority::new(support::issuer(), snapshot, now()).expect("an authority");
    let nodes = authority.nodes().count();
    let after = resident_kilobytes();
    println!(
        "{nodes} nodes: {:.1} MB resident, of them {:.1} MB before the register was opened",
        after as f64 / 1024.0,
        before as f64 / 1024.0
    );
    assert!(nodes > 10_000 && after < 100_000, "at most 100 MB: {after} kB");
}
