//! Nothing that was answered is lost with the power cut at each write (control rule 21).

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use support::{authority, begin, check_whole, genesis, grant, joiner, now};
use tombolo_control::SigningKey;
use tombolo_control::authority::audit::Actor;
use tombolo_control::authority::{
    Authority, Caller, Condition, Key, Outcome, Restoration, Session, SessionId, Snapshot, Transaction,
    restore,
};
use tombolo_control::frame::admin::{
    AdminRequest, NetworkChange, NodeSelector, Operation, Reply, RevokeTarget, TokenSpec,
};
use tombolo_control::frame::{Frame, JoinAnswer, Order, Show, Versions};
use tombolo_control::root::RootKeys;
use tombolo_control::token::Token;
use tombolo_noise::clock::Now;
use tombolo_store::{FILE, Register};

/// Bytes of the log before its first page.
const HEADER: usize = 32;
/// Bytes of a page in the log, with its header (SQLite's file format, section 4).
const FRAME: usize = 24 + 4096;

fn copy(from: &Path, to: &Path, wal: &[u8]) {
    put(to, &fs::read(from.join(FILE)).expect("read"), wal);
}

/// A register's directory with these files in it.
fn put(to: &Path, file: &[u8], wal: &[u8]) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("made");
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("set");
    fs::write(to.join(FILE), file).expect("written");
    fs::set_permissions(to.join(FILE), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
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
/// all that was synced, and any part of the rest: for each transaction nothing of it, each number of its pages, each with a
/// part of the next one, and all but the last byte.
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
            // The first is behind the header of the log.
            for page in ((*start).max(HEADER)..*end).step_by(FRAME) {
                for at in [page, page + FRAME / 2] {
                    check_cut(what, &state, &cut, &log[..at], whole);
                }
            }
            check_cut(what, &state, &cut, &log[..end - 1], whole);
        }
        check_cut(what, &state, &cut, &log[..*end], after);
        before = Some(step);
    }
}

/// What is there after a cut is what there was after the last transaction before it, and whole.
fn check_cut(what: &str, state: &Path, cut: &Path, log: &[u8], expected: &Snapshot) {
    copy(state, cut, log);
    check_same(&format!("{what}, cut at {}", log.len()), cut, expected);
}

fn check_same(what: &str, directory: &Path, expected: &Snapshot) {
    let register = Register::open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
    register.check().expect("whole");
    let found = register.snapshot().expect("read");
    assert!(found == *expected, "{what}");
    check_whole(&found);
}

#[test]
fn a_power_cut_while_the_register_is_made_leaves_one_that_can_be_filled_control_rule_21() {
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let register = Register::create(&state).expect("made");
    let file = fs::read(state.join(FILE)).expect("read");
    let log = fs::read(state.join(format!("{FILE}-wal"))).expect("read");
    drop(register);
    let cut = temporary.path().join("cut");
    let ends = (0..log.len()).step_by(FRAME / 8).chain([log.len() - 1, log.len()]);
    // And when nothing of it is on the disk but its name.
    for (file, end) in ends.map(|end| (&file[..], end)).chain([(&[][..], 0)]) {
        put(&cut, file, &log[..end]);
        let mut register =
            Register::open(&cut).unwrap_or_else(|error| panic!("{} and {end} bytes: {error}", file.len()));
        register.check().expect("whole");
        assert!(register.snapshot().expect("read").records.is_empty());
        let outcome = register.execute(&[genesis()]).pop().expect("an outcome").1;
        assert!(matches!(outcome, Outcome::Committed { revision: 1, .. }), "{outcome:?}");
    }
}

/// A checkpoint copies the pages of the log into the file, in any order, while the whole log is there; the log begins
/// anew only when they are on the disk, and its old pages lie behind the new ones until they are written over.
#[test]
fn a_power_cut_in_the_middle_of_a_checkpoint_loses_nothing_control_rule_21() {
    const PAGE: usize = 4096;
    let temporary = tempfile::tempdir().expect("a directory");
    let state = temporary.path().join("state");
    let mut ledger = Ledger::begin(&state);
    live(&mut ledger);
    let expected = ledger.register.snapshot().expect("read");
    let (old, log) = (fs::read(state.join(FILE)).expect("read"), fs::read(&ledger.wal).expect("read"));
    rusqlite::Connection::open(state.join(FILE))
        .and_then(|other| other.execute_batch("PRAGMA wal_checkpoint(RESTART)"))
        .expect("copied");
    let new = fs::read(state.join(FILE)).expect("read");
    assert!(old != new && new.len() > 4 * PAGE, "{} bytes", new.len());
    let cut = temporary.path().join("cut");
    let mut rng = ChaCha20Rng::seed_from_u64(6);
    for round in 0..40 {
        // Each page is the old one, the new one, or half of each; what lay behind the old end is zeros.
        let mut file = old.clone();
        file.resize(new.len(), 0);
        for page in (0..new.len()).step_by(PAGE) {
            let written = [0, PAGE / 2, PAGE][rng.next_u32() as usize % 3];
            file[page..page + written].copy_from_slice(&new[page..page + written]);
        }
        // Cut where the file did not grow in time.
        if round % 2 == 0 {
            file.truncate(old.len().max(PAGE * (rng.next_u32() as usize % (new.len() / PAGE))));
        }
        put(&cut, &file, &log);
        check_same(&format!("checkpoint {round}"), &cut, &expected);
    }
    // The log begins anew.
    ledger.ask("a setting", Operation::NetworkSet(NetworkChange::RefuseWhenStale(false)));
    let after = ledger.register.snapshot().expect("read");
    let again = fs::read(&ledger.wal).expect("read");
    assert_eq!(again.len(), log.len(), "written over from its beginning");
    let end = (0..again.len()).rfind(|at| again[*at] != log[*at]).expect("a difference") + 1;
    assert!(end > FRAME && end < log.len() / 2, "{end} of {}", log.len());
    for at in (0..end).step_by(FRAME / 4).chain([end - 1]) {
        put(&cut, &new, &[&again[..at], &log[at..]].concat());
        check_same(&format!("a log begun anew, cut at {at}"), &cut, &expected);
    }
    put(&cut, &new, &again);
    check_same("a log begun anew", &cut, &after);
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
