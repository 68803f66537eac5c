//! From configurations to transactions; what a reload touches.

use super::peers::{difference, everything, is_empty, is_recent};
use crate::config::{NetworkConfig, parse};
use crate::state::{SavedPeer, SavedPeers};

const KEYS: [&str; 3] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
    "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=",
];

fn config(peers: &str) -> NetworkConfig {
    parse(&format!("[interface]\naddress = \"10.66.0.1/16\"\nprivate_key = \"{}\"\n{peers}", KEYS[0]))
        .unwrap()
}

fn peer(key: usize, name: &str, rest: &str) -> String {
    format!("[[peer]]\nname = \"{name}\"\npublic_key = \"{}\"\n{rest}\n", KEYS[key])
}

#[test]
fn the_same_configuration_changes_nothing() {
    let same = config(&peer(1, "a", "allowed_ips = \"10.66.0.2\"\nendpoint = \"192.0.2.1:1\""));
    assert!(is_empty(&difference(&same, &same)));
}

#[test]
fn a_new_name_alone_touches_no_session() {
    assert!(is_empty(&difference(&config(&peer(1, "a", "")), &config(&peer(1, "b", "")))));
}

#[test]
fn only_what_differs_is_changed() {
    let old = config(
        &(peer(1, "a", "allowed_ips = [\"10.66.0.2\", \"10.66.0.3\"]\nendpoint = \"192.0.2.1:1\"")
            + &peer(2, "b", "allowed_ips = \"10.66.0.9\"")),
    );
    let new = config(&peer(
        1,
        "a",
        "allowed_ips = [\"10.66.0.2\", \"10.66.0.4\"]\nendpoint = \"192.0.2.1:1\"\npersistent_keepalive = 5",
    ));
    let transaction = difference(&old, &new);
    assert!(transaction.private_key.is_none() && !transaction.replace_peers);
    let [gone, changed] = &transaction.peers[..] else { panic!("{} changes", transaction.peers.len()) };
    assert!(gone.remove);
    assert_eq!(gone.public_key, old.peers[1].public_key);
    assert!(changed.update_only && !changed.replace_allowed_ips);
    assert_eq!(changed.endpoint, None, "an endpoint that did not change would undo roaming");
    assert!(changed.preshared_key.is_none());
    assert_eq!(changed.persistent_keepalive, Some(5));
    let networks: Vec<_> =
        changed.allowed_ips.iter().map(|change| (change.network.to_string(), change.remove)).collect();
    assert_eq!(networks, [("10.66.0.3/32".to_owned(), true), ("10.66.0.4/32".to_owned(), false)]);
}

#[test]
fn a_preshared_key_that_goes_is_taken_away() {
    let with = config(&peer(1, "a", &format!("preshared_key = \"{}\"", KEYS[2])));
    let without = config(&peer(1, "a", ""));
    let transaction = difference(&with, &without);
    assert!(transaction.peers[0].preshared_key.as_ref().unwrap().is_zero());
}

#[test]
fn after_a_restart_the_last_endpoint_goes_before_the_configured_one() {
    let config =
        config(&(peer(1, "a", "endpoint = \"192.0.2.1:1\"") + &peer(2, "b", "endpoint = \"192.0.2.2:2\"")));
    let moved = SavedPeer { endpoint: Some("198.51.100.7:9".parse().unwrap()), ..SavedPeer::default() };
    let saved = SavedPeers::from([(config.peers[0].public_key, moved)]);
    let transaction = everything(&config, &saved);
    assert!(transaction.replace_peers && transaction.private_key.is_some());
    let endpoints: Vec<_> = transaction.peers.iter().map(|peer| peer.endpoint.unwrap().to_string()).collect();
    assert_eq!(endpoints, ["198.51.100.7:9", "192.0.2.2:2"]);
}

#[test]
fn who_was_heard_in_the_last_day_is_called_whatever_the_clock_says() {
    const NOW: u64 = 1_700_000_000;
    assert!(is_recent(Some(NOW - 3600), NOW));
    assert!(!is_recent(Some(NOW - 2 * 86_400), NOW));
    assert!(is_recent(Some(NOW + 3600), NOW), "the clock was set back");
    assert!(!is_recent(None, NOW));
}
