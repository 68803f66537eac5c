use super::*;

/// When the timestamp of [`saved`] was sent.
const WALL: UnixTime = UnixTime(Duration::from_secs(1_700_000_000));

fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

fn saved() -> SavedPeers {
    let sent = Tai64n::from_unix(WALL);
    let peer = SavedPeer {
        endpoint: Some("[2001:db8::1]:8662".parse().unwrap()),
        last_received_timestamp: Some(sent),
        last_sent_timestamp: Some(sent),
        last_activity: Some(1_700_000_000),
    };
    SavedPeers::from([(key(2), peer), (key(3), SavedPeer::default())])
}

#[test]
fn what_is_saved_is_read_again_and_sent_timestamps_are_reserved_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("state/prod");
    let mut store = StateStore::open(&directory, key(1)).unwrap();
    assert_eq!(store.load().unwrap(), SavedPeers::new());
    store.save(&saved(), WALL);
    assert_eq!(store.failure(), None);
    let read = StateStore::open(&directory, key(1)).unwrap().load().unwrap();
    assert_eq!(read[&key(3)], SavedPeer::default());
    let (before, after) = (&saved()[&key(2)], &read[&key(2)]);
    assert_eq!(after.endpoint, before.endpoint);
    assert_eq!(after.last_received_timestamp, before.last_received_timestamp);
    assert!(after.last_sent_timestamp > before.last_sent_timestamp);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(FILE)), 0o600);
}

#[test]
fn a_damaged_or_foreign_file_is_named_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = StateStore::open(folder.path(), key(1)).unwrap();
    for contents in ["", "{", "null", r#"{"tombolo_state":1}"#] {
        fs::write(folder.path().join(FILE), contents).unwrap();
        assert!(matches!(store.load(), Err(StateError::Foreign(..))), "{contents}");
    }
    store.save(&saved(), WALL);
    assert_eq!(store.load().unwrap().len(), 2);
    let other = StateStore::open(folder.path(), key(9)).unwrap();
    let error = other.load().unwrap_err().to_string();
    assert!(
        error.ends_with("is not a state file of this network: it belongs to another private key"),
        "{error}"
    );
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    let text = String::from_utf8(format(&saved(), &key(1), WALL)).unwrap();
    let later = text.replace("\"tombolo_state\": 1", "\"tombolo_state\": 2");
    assert_eq!(parse(later.as_bytes(), &key(1)).unwrap_err(), "its version is 2, this program reads 1");
}

#[test]
fn a_disk_that_takes_no_writes_is_told_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("prod");
    let mut store = StateStore::open(&directory, key(1)).unwrap();
    fs::remove_dir(&directory).unwrap();
    store.save(&saved(), WALL);
    assert!(store.failure().unwrap().contains("peers.json cannot be written"));
    fs::create_dir(&directory).unwrap();
    store.save(&saved(), WALL);
    assert_eq!(store.failure(), None);
}

#[test]
fn a_peer_that_was_only_called_counts_as_contacted() {
    let sent = Tai64n::from_unix(WALL);
    let peer = SavedPeer { last_sent_timestamp: Some(sent), ..SavedPeer::default() };
    assert_eq!(peer.last_contact(), Some(1_700_000_000));
    assert_eq!(SavedPeer::default().last_contact(), None);
}

/// A machine that crashes again and again, and the disk that it leaves. As the daemon does: it writes at its start, and after a
/// handshake if it lives for long enough.
struct Crashes {
    disk: Tai64n,
    sent: Tai64n,
}

/// Between two starts: a thousand in a minute.
const BETWEEN: Duration = Duration::from_millis(60);

impl Crashes {
    fn run(&mut self, wall: UnixTime, initiations: usize, writes: bool) {
        let on_disk = |sent, wall| {
            let peer = SavedPeer { last_sent_timestamp: Some(sent), ..SavedPeer::default() };
            let file = format(&SavedPeers::from([(key(2), peer)]), &key(1), wall);
            parse(&file, &key(1)).unwrap()[&key(2)].last_sent_timestamp.unwrap()
        };
        let mut last = self.disk;
        self.disk = on_disk(last, wall);
        for _ in 0..initiations {
            // Requirement 11, as in `noise`.
            last = Tai64n::from_unix(wall).max(last.next_after());
            assert!(last > self.sent, "{last:?} after {:?}", self.sent);
            self.sent = last;
            if writes {
                self.disk = on_disk(last, wall);
            }
        }
        // The clock of the next run, if not the disk, is past all of it.
        assert!(self.disk.max(Tai64n::from_unix(UnixTime(wall.0 + BETWEEN))) >= self.sent);
    }

    /// By how much what is on the disk is ahead of a clock.
    fn ahead_of(&self, wall: UnixTime) -> Duration {
        self.disk.to_unix().0.saturating_sub(wall.0)
    }
}

#[test]
fn a_thousand_crashes_in_a_minute_leave_timestamps_near_the_clock_control_rule_18() {
    for (initiations, writes) in [(0, false), (1, false), (1, true), (2, false), (2, true)] {
        let sent = Tai64n::from_unix(WALL);
        let (mut machine, mut wall) = (Crashes { disk: sent, sent }, WALL);
        // Gives by how much it was ahead of the clock at most.
        let minute = |machine: &mut Crashes, wall: &mut UnixTime| {
            let runs = (0..1000).map(|_| {
                wall.0 += BETWEEN;
                machine.run(*wall, initiations, writes);
                machine.ahead_of(*wall)
            });
            runs.max().unwrap()
        };
        let farthest = minute(&mut machine, &mut wall);
        assert!(farthest < Duration::from_secs(20), "{initiations} in each run: {farthest:?} ahead");
        // The clock is set back by ten years: no timestamp goes back with it, and they gain little on a clock that is right.
        let mut past = UnixTime(wall.0 - Duration::from_secs(10 * 365 * 86_400));
        let right = UnixTime(wall.0 + Duration::from_secs(60));
        minute(&mut machine, &mut past);
        assert!(machine.ahead_of(right) < Duration::from_secs(30), "{:?}", machine.ahead_of(right));
        // It is right again: and they are soon no farther ahead than at first.
        wall = UnixTime(right.0 + Duration::from_secs(30));
        machine.run(wall, initiations, writes);
        assert!(machine.ahead_of(wall) <= RESERVE);
    }
}

#[test]
fn a_peer_that_is_not_called_seems_no_later_from_start_to_start() {
    let old = Tai64n::from_unix(UnixTime(WALL.0 - Duration::from_secs(86_400)));
    assert_eq!(reserved(old, WALL), old);
}

#[test]
fn a_clock_years_ahead_reserves_nothing_by_itself_control_rule_18() {
    let wall = UnixTime(WALL.0 + Duration::from_secs(10 * 365 * 86_400));
    // What is sent is of the network's time.
    let sent = Tai64n::from_unix(WALL);
    assert!(reserved(sent, wall) <= sent.later_by(RESERVE));
}
