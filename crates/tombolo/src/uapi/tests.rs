//! Requirement 26: the protocol that `wg` speaks.

use std::time::Duration;

use proptest::prelude::*;
use tombolo_engine::{
    AssistStatus, EngineStatus, OffloadStatus, PathMtuState, PeerState, PeerStatus, Transaction,
};
use tombolo_noise::clock::UnixTime;
use tombolo_noise::{PresharedKey, PrivateKey, PublicKey, Standing};

use super::*;

fn scope(name: &str) -> Option<u32> {
    (name == "eth0").then_some(7)
}

fn set(text: &str) -> Result<Transaction, UapiError> {
    match parse_request(text.as_bytes(), &scope)? {
        Request::Set(transaction) => Ok(transaction),
        Request::Get => panic!("a get"),
    }
}

fn error(text: &str) -> UapiError {
    match parse_request(text.as_bytes(), &scope) {
        Err(error) => error,
        Ok(_) => panic!("accepted: {text}"),
    }
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

#[test]
fn every_key_is_understood() {
    let text = format!(
        "set=1\nprivate_key={}\nlisten_port=51820\nfwmark=42\nreplace_peers=true\n\
         public_key={}\nupdate_only=true\npreshared_key={}\nendpoint=192.0.2.1:7\n\
         persistent_keepalive_interval=25\nreplace_allowed_ips=true\nallowed_ip=10.1.2.3/16\nallowed_ip=-fd00::/64\n\
         protocol_version=1\npublic_key={}\nremove=true\n",
        hex(1),
        hex(2),
        hex(3),
        hex(4)
    );
    let transaction = set(&text).unwrap();
    assert_eq!(transaction.private_key.unwrap().unwrap().as_bytes(), &[1; 32]);
    assert_eq!((transaction.listen_port, transaction.firewall_mark), (Some(51820), Some(42)));
    assert!(transaction.replace_peers);
    let [first, second] = &transaction.peers[..] else { panic!("{} peers", transaction.peers.len()) };
    assert_eq!(first.public_key, PublicKey::from_bytes([2; 32]));
    assert!(first.update_only && first.replace_allowed_ips && !first.remove);
    assert_eq!(first.preshared_key.as_ref().unwrap().as_bytes(), &[3; 32]);
    assert_eq!(first.endpoint.unwrap().to_string(), "192.0.2.1:7");
    assert_eq!(first.persistent_keepalive, Some(25));
    let networks: Vec<_> =
        first.allowed_ips.iter().map(|change| (change.network.to_string(), change.remove)).collect();
    assert_eq!(networks, [("10.1.0.0/16".to_owned(), false), ("fd00::/64".to_owned(), true)]);
    assert!(second.remove && second.allowed_ips.is_empty());
}

#[test]
fn a_private_key_of_zeros_means_none() {
    assert!(set(&format!("set=1\nprivate_key={}\n", hex(0))).unwrap().private_key.unwrap().is_none());
    assert!(set("set=1\n").unwrap().private_key.is_none());
}

#[test]
fn endpoints_have_scopes() {
    let endpoint = |text: &str| {
        let request = format!("set=1\npublic_key={}\nendpoint={text}\n", hex(1));
        set(&request).map(|transaction| transaction.peers[0].endpoint.unwrap().to_string())
    };
    assert_eq!(endpoint("[fe80::1%eth0]:1").unwrap(), "[fe80::1%7]:1");
    assert_eq!(endpoint("[fe80::1%3]:1").unwrap(), "[fe80::1%3]:1");
    assert_eq!(endpoint("[2001:db8::1]:1").unwrap(), "[2001:db8::1]:1");
    for wrong in ["[fe80::1%eth9]:1", "192.0.2.1", "example.org:1", "[::1]", "192.0.2.1:65536", ""] {
        assert_eq!(endpoint(wrong).unwrap_err(), UapiError::Invalid, "{wrong}");
    }
}

#[test]
fn what_is_wrong_is_refused_as_a_whole() {
    let peer = format!("public_key={}\n", hex(1));
    for line in [
        "private_key=00",
        "listen_port=65536",
        "listen_port=+1",
        "listen_port=-1",
        "fwmark=0x1",
        "fwmark=",
        "replace_peers=false",
        "colour=red",
        "allowed_ip=10.0.0.0/8",
        "public_key=zz",
    ] {
        assert_eq!(error(&format!("set=1\n{line}\n")), UapiError::Invalid, "{line}");
    }
    for line in [
        "listen_port=1",
        "private_key=00",
        "remove=1",
        "update_only=",
        "preshared_key=00",
        "persistent_keepalive_interval=65536",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.0",
        "allowed_ip=--10.0.0.0/8",
        "protocol_version=2",
    ] {
        assert_eq!(error(&format!("set=1\n{peer}{line}\n")), UapiError::Invalid, "{line}");
    }
    for text in ["", "get=2\n", "set=0\n", "hello\n", "set=1\nno equals sign\n"] {
        assert_eq!(error(text), UapiError::Protocol, "{text}");
    }
    assert_eq!(error("get=1\nmore=1\n"), UapiError::Invalid);
    assert_eq!(parse_request(b"set=1\n\xff=1\n", &scope).err(), Some(UapiError::Protocol));
    let long = format!("set=1\nfwmark={}\n", "1".repeat(2000));
    assert_eq!(error(&long), UapiError::Protocol);
}

#[test]
fn errors_are_negative_numbers() {
    assert_eq!(format_errno(Ok(())), "errno=0\n\n");
    assert_eq!(format_errno(Err(UapiError::Invalid)), "errno=-22\n\n");
    assert_eq!(format_errno(Err(UapiError::PortInUse)), "errno=-98\n\n");
    assert_eq!(format_errno(Err(UapiError::Io)), "errno=-5\n\n");
    assert_eq!(format_errno(Err(UapiError::Protocol)), "errno=-71\n\n");
}

fn peer_status(byte: u8) -> PeerStatus {
    PeerStatus {
        public_key: PublicKey::from_bytes([byte; 32]),
        preshared_key: PresharedKey::default(),
        endpoint: Some("[2001:db8::1]:8662".parse().unwrap()),
        standing: Standing::Static,
        not_after: None,
        path: None,
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/64".parse().unwrap()],
        last_handshake: Some(UnixTime(Duration::new(1_700_000_000, 5))),
        received_bytes: 148,
        sent_bytes: 92,
        persistent_keepalive: Some(25),
        rate_limit: 0,
        state: PeerState::Established,
        round_trip: None,
        last_received_timestamp: None,
        last_sent_timestamp: None,
        mtu: 1420,
        mtu_state: PathMtuState::Interface,
        last_received_age: None,
    }
}

fn status(peers: Vec<PeerStatus>) -> EngineStatus {
    EngineStatus {
        private_key: Some(PrivateKey::from_bytes([9; 32])),
        public_key: None,
        listen_port: 8662,
        firewall_mark: 42,
        peers,
        drops: Vec::new(),
        offloads: OffloadStatus::default(),
        assist: AssistStatus::default(),
    }
}

#[test]
fn get_returns_everything_in_the_order_of_insertion() {
    let text = format_status(&status(vec![peer_status(5), peer_status(3)]));
    let peer = |byte| {
        format!(
            "public_key={}\npreshared_key={}\nprotocol_version=1\nendpoint=[2001:db8::1]:8662\n\
             last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=92\nrx_bytes=148\n\
             persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\n",
            hex(byte),
            hex(0)
        )
    };
    let wanted =
        format!("private_key={}\nlisten_port=8662\nfwmark=42\n{}{}errno=0\n\n", hex(9), peer(5), peer(3));
    assert_eq!(text.as_str(), wanted);
}

/// Control rule 8: it is nobody yet.
#[test]
fn provisional_peers_are_not_shown() {
    let stranger = PeerStatus { standing: Standing::Provisional, ..peer_status(3) };
    let text = format_status(&status(vec![peer_status(5), stranger]));
    assert!(text.contains(&hex(5)) && !text.contains(&hex(3)));
}

#[test]
fn without_a_key_or_a_mark_there_is_no_line() {
    let mut empty = status(Vec::new());
    empty.private_key = None;
    empty.firewall_mark = 0;
    assert_eq!(format_status(&empty).as_str(), "listen_port=8662\nerrno=0\n\n");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_request(&bytes, &scope);
    }

    #[test]
    fn no_lines_make_it_panic(lines in proptest::collection::vec(
        "(private_key|listen_port|fwmark|replace_peers|public_key|remove|update_only|preshared_key|endpoint|persistent_keepalive_interval|replace_allowed_ips|allowed_ip|protocol_version)=([0-9a-f]{64}|true|-?[0-9.:/]{0,20}|\\[[0-9a-f:%]{0,20}\\]:[0-9]{1,6})",
        0..12,
    )) {
        let _ = parse_request(format!("set=1\n{}\n", lines.join("\n")).as_bytes(), &scope);
    }

    /// What `set` takes, `get` gives back: peers, keys, networks, in order.
    #[test]
    fn numbers_come_back(port in any::<u16>(), mark in any::<u32>(), keepalive in any::<u16>(), keys in proptest::collection::vec(any::<[u8; 32]>(), 0..5)) {
        let mut text = format!("set=1\nlisten_port={port}\nfwmark={mark}\n");
        for key in &keys {
            let key = PublicKey::from_bytes(*key).to_hex();
            text.push_str(&format!("public_key={key}\npersistent_keepalive_interval={keepalive}\n"));
        }
        let transaction = set(&text).unwrap();
        prop_assert_eq!(transaction.listen_port, Some(port));
        prop_assert_eq!(transaction.firewall_mark, Some(mark));
        let read: Vec<_> = transaction.peers.iter().map(|peer| *peer.public_key.as_bytes()).collect();
        prop_assert_eq!(read, keys);
        prop_assert!(transaction.peers.iter().all(|peer| peer.persistent_keepalive == Some(keepalive)));
    }
}
