//! Nothing that was answered is lost: with the power cut at each write, with a process killed at any point, with a
//! full disk (control rule 21).

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use support::{authority, begin, grant, joiner, now};
use tombolo_control::SigningKey;
use tombolo_control::authority::audit::Actor;
use tombolo_control::authority::{
    Authority, Caller, Condition, Key, Outcome, Record, Restoration, Session, SessionId, Snapshot,
    Transaction, TransactionId, restore,
};
use tombolo_control::frame::admin::{
    AdminRequest, NetworkChange, NodeSelector, Operation, Reply, RevokeTarget, TokenSpec,
};
use tombolo_control::frame::{Frame, JoinAnswer, Order, Show, Versions};
use tombolo_control::root::RootKeys;
use tombolo_control::token::Token;
use tombolo_noise::clock::Now;
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

/// One transaction after the other, each with what it was for, where the log ended behind it, and what there was then.
struct Ledger {
    register: Register,
    authority: Authority,
    now: Now,
    rng: ChaCha20Rng,
    wal: PathBuf,
    steps: Vec<(&'static str, usize, Snapshot)>,
}

impl Ledger {
    fn begin(state: &Path) -> Self {
        drop(begin(state));
        let register = Register::open(state).expect("opened");
        let authority = authority(&register);
        let wal = state.join(format!("{FILE}-wal"));
        let (now, rng) = (now(), ChaCha20Rng::seed_from_u64(3));
        let mut ledger = Self { register, authority, now, rng, wal, steps: Vec::new() };
        ledger.note("what it was opened with");
        ledger
    }

    fn note(&mut self, what: &'static str) {
        let length = fs::metadata(&self.wal).map_or(0, |metadata| metadata.len() as usize);
        self.steps.push((what, length, self.register.snapshot().expect("read")));
    }

    fn execute(&mut self, what: &'static str, transaction: Transaction) {
        for (id, outcome) in self.register.execute(&[transaction]) {
            assert!(matches!(outcome, Outcome::Committed { .. }), "{what}: {outcome:?}");
            self.authority.handle_store(id, outcome, self.now, &mut self.rng);
        }
        self.note(what);
    }

    /// Carries out what the authority has decided; at least one transaction.
    fn settle(&mut self, what: &'static str) {
        let before = self.steps.len();
        while let Some(transaction) = self.authority.poll_store() {
            self.execute(what, transaction);
        }
        assert!(self.steps.len() > before, "{what} wrote nothing");
    }

    fn ask(&mut self, what: &'static str, operation: Operation) -> Reply {
        let caller = Caller::Local { id: SessionId(0), who: "uid 0".to_owned() };
        let request = AdminRequest { id: 1, operation };
        self.authority.handle_request(caller, request, self.now, &mut self.rng);
        self.settle(what);
        loop {
            match self.authority.poll_frame() {
                Some((_, Frame::AdminAnswer(answer))) => return answer.reply,
                Some(_) => {}
                None => panic!("{what} has no answer"),
            }
        }
    }

    fn token(&mut self, what: &'static str, operation: impl FnOnce(TokenSpec) -> Operation) -> Token {
        let key = SigningKey::generate(&mut self.rng);
        let spec = TokenSpec::new(key.verifying_key());
        let Reply::Granted(grant) = self.ask(what, operation(spec)) else { panic!("{what}") };
        grant.into_token(key).expect("a token")
    }

    /// A frame of a member, or of one to be.
    fn hear(&mut self, what: &'static str, session: &Session, frame: &Frame) -> Option<Frame> {
        let session = Session { authorised: !matches!(frame, Frame::JoinRequest(_)), ..*session };
        self.authority.handle_frame(&session, frame, self.now, &mut self.rng);
        if !matches!(frame, Frame::AskTicket) {
            self.settle(what);
        }
        std::iter::from_fn(|| self.authority.poll_frame()).map(|(_, frame)| frame).last()
    }

    fn pass(&mut self, what: &'static str, time: Duration) {
        self.now.boot = self.now.boot + time;
        self.now.wall.0 += time;
        self.authority.handle_timeout(self.now, &mut self.rng);
        self.settle(what);
    }

    fn named(&self, name: &str) -> NodeSelector {
        let node = self.authority.nodes().find(|node| node.name.as_str() == name).expect(name);
        NodeSelector::Node(node.node)
    }
}

/// All that an authority ever writes, each kind at least once.
fn live(ledger: &mut Ledger) {
    let token = ledger.token("a token", |spec| Operation::TokenNew(TokenSpec { uses: Some(5), ..spec }));
    let mut sessions = Vec::new();
    for number in 0..4 {
        let (session, frame) = joiner(number, &token);
        let answer = ledger.hear("a join", &session, &frame);
        assert!(matches!(answer, Some(Frame::JoinAnswer(JoinAnswer { outcome: Ok(_), .. }))), "{answer:?}");
        sessions.push(session);
    }
    let names: Vec<String> = sessions
        .iter()
        .map(|session| {
            let node = ledger.authority.nodes().find(|node| node.key == session.key).expect("joined");
            node.name.to_string()
        })
        .collect();
    let first = ledger.named(&names[0]);
    let [a, b, c, d] = [0, 1, 2, 3].map(|number: usize| sessions[number]);
    ledger.hear("a renewal", &a, &Frame::Renew(None));
    let Some(Frame::Ticket(ticket)) = ledger.hear("a ticket", &b, &Frame::AskTicket) else { panic!() };
    let (fresh, _) = joiner(77, &token);
    ledger.hear("a new key", &fresh, &Frame::Rotate(ticket.ticket));
    ledger.pass("the old key's end", Duration::from_secs(120));
    ledger.ask("a new name", Operation::NodeRename(first.clone(), support::parse("database")));
    let replacing = ledger.token("a token to replace", |spec| Operation::NodeReplace(first, spec));
    let (session, frame) = joiner(78, &replacing);
    ledger.hear("a replacement", &session, &frame);
    ledger.hear("a leave", &c, &Frame::Leave);
    let last = ledger.authority.nodes().find(|node| node.key == d.key).map(|node| node.node).expect("joined");
    ledger.ask("a serial's revocation", Operation::NodeRevoke(RevokeTarget::Serial(last, 1)));
    ledger.ask("a revocation", Operation::NodeRevoke(RevokeTarget::Node(NodeSelector::Node(last))));
    ledger.ask("a key's revocation", Operation::NodeRevoke(RevokeTarget::Key(joiner(90, &token).0.key)));
    ledger.ask("a token's end", Operation::TokenRevoke(token.public_key().key_id()));
    ledger.ask("a setting", Operation::NetworkSet(NetworkChange::RefuseWhenStale(true)));
    ledger.pass("a document", Duration::from_secs(3700));
    let mut root = RootKeys::create(&mut ChaCha20Rng::seed_from_u64(1));
    root.learn(ledger.authority.trust().encoded()).expect("its own");
    let trust = root.reissue(|_| true, Vec::new(), ledger.now.wall).expect("signed").encoded().to_vec();
    ledger.authority.install_trust(&trust, ledger.now, &mut ledger.rng).expect("taken");
    ledger.settle("a trust document");
    // And after a restore: what nodes show.
    let kept = ledger.authority.nodes().find(|node| node.key == fresh.key).expect("rotated").clone();
    let published = ledger.authority.published().expect("signed").clone();
    let restoration = Restoration {
        actor: Actor::Local("uid 0".to_owned()),
        gathering: Duration::from_secs(60),
        moved: None,
    };
    let mut transaction = restore(&ledger.register.snapshot().expect("read"), restoration, ledger.now.wall)
        .expect("a register");
    // As if the backup knew neither the newest document nor one of the nodes.
    let mut forget = |key: Key| {
        let stored = ledger.register.snapshot().expect("read").records;
        let revision = stored.iter().find(|stored| stored.key == key).expect("there").revision;
        transaction.conditions.push(Condition { key: key.clone(), revision });
        transaction.writes.push((key, None));
    };
    for address in &kept.addresses {
        forget(Key::Address(*address));
    }
    for key in [Key::Node(kept.node), Key::Name(kept.name.clone()), Key::StaticKey(kept.key), Key::Published]
    {
        forget(key);
    }
    ledger.register.execute(&[transaction]);
    ledger.note("a restore");
    let snapshot = ledger.register.snapshot().expect("read");
    ledger.authority = Authority::new(support::issuer(), snapshot, ledger.now).expect("an authority");
    ledger.authority.handle_document(&published.network, ledger.now, &mut ledger.rng).expect("verified");
    ledger.settle("a document that a node gave back");
    let trust = ledger.authority.trust();
    let versions = Versions {
        order: Order { epoch: 1, sequence: 1 },
        trust_epoch: trust.epoch,
        trust_hash: trust.hash(),
        head: None,
    };
    ledger.hear(
        "an adoption",
        &fresh,
        &Frame::Show(Show { membership: kept.membership, versions, answer: false }),
    );
    ledger.pass("the end of gathering", Duration::from_secs(90));
}

/// The log is only ever appended to between two checkpoints, and synced before an answer. So a power cut leaves
/// all that was synced, and any part of the rest: for each transaction nothing of it, a part, and all but the last byte.
#[test]
fn a_power_cut_at_each_write_of_each_kind_loses_no_answer_and_halves_nothing_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let mut ledger = Ledger::begin(&state);
    live(&mut ledger);
    let log = fs::read(&ledger.wal).expect("read");
    let cut = temporary.path().join("cut");
    let mut before: Option<&(&str, usize, Snapshot)> = None;
    for step in &ledger.steps {
        let (what, end, after) = step;
        if let Some((_, start, whole)) = before {
            assert!(end > start, "{what} is in the log");
            for at in [start + (end - start) / 2, end - 1] {
                check_cut(what, &state, &cut, &log[..at], whole);
            }
        }
        check_cut(what, &state, &cut, &log[..*end], after);
        before = Some(step);
    }
}

/// What is there after a cut is what there was after the last transaction before it, and whole.
fn check_cut(what: &str, state: &Path, cut: &Path, log: &[u8], expected: &Snapshot) {
    copy(state, cut, log);
    let register = match Register::open(cut) {
        Ok(register) => register,
        Err(error) => panic!("{what}, cut at {}: {error}", log.len()),
    };
    register.check().expect("whole");
    let found = register.snapshot().expect("read");
    assert!(found == *expected, "{what}, cut at {}", log.len());
    check_whole(&found);
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
