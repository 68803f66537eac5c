use super::*;

fn key(byte: u8) -> PublicKey {
    PublicKey::from_bytes([byte; 32])
}

fn saved() -> SavedPeers {
    let sent = Tai64n::from_unix(UnixTime(Duration::from_secs(1_700_000_000)));
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
    store.save(&saved());
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
    store.save(&saved());
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
    let text = String::from_utf8(format(&saved(), &key(1))).unwrap();
    let later = text.replace("\"tombolo_state\": 1", "\"tombolo_state\": 2");
    assert_eq!(parse(later.as_bytes(), &key(1)).unwrap_err(), "its version is 2, this program reads 1");
}

#[test]
fn a_disk_that_takes_no_writes_is_told_and_survived() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("prod");
    let mut store = StateStore::open(&directory, key(1)).unwrap();
    fs::remove_dir(&directory).unwrap();
    store.save(&saved());
    assert!(store.failure().unwrap().contains("peers.json cannot be written"));
    fs::create_dir(&directory).unwrap();
    store.save(&saved());
    assert_eq!(store.failure(), None);
}

#[test]
fn a_peer_that_was_only_called_counts_as_contacted() {
    let sent = Tai64n::from_unix(UnixTime(Duration::from_secs(1_700_000_000)));
    let peer = SavedPeer { last_sent_timestamp: Some(sent), ..SavedPeer::default() };
    assert_eq!(peer.last_contact(), Some(1_700_000_000));
    assert_eq!(SavedPeer::default().last_contact(), None);
}
