//! From configurations to transactions of the engine.

use std::net::SocketAddr;

use tombolo_engine::{AllowedIpChange, Instruction, PeerChange, Transaction};
use tombolo_noise::{PresharedKey, PublicKey};

use crate::config::{EndpointHost, EndpointName, NetworkConfig, PeerConfig, SecretSource};
use crate::state::{SavedPeer, SavedPeers};

/// A peer heard of within this time, in seconds, is called at once after a restart.
const RECENT: u64 = 24 * 3600;

/// The endpoint, where the configuration gives an address rather than a name.
pub(super) fn literal(endpoint: &EndpointName) -> Option<SocketAddr> {
    match endpoint.host {
        EndpointHost::Address(address) => Some(SocketAddr::new(address, endpoint.port)),
        EndpointHost::Name(_) => None,
    }
}

fn preshared_key(peer: &PeerConfig) -> PresharedKey {
    peer.preshared_key.as_ref().and_then(SecretSource::key).cloned().unwrap_or_default()
}

fn allowed_ips(peer: &PeerConfig) -> Vec<AllowedIpChange> {
    peer.allowed_ips.iter().map(|network| AllowedIpChange { network: *network, remove: false }).collect()
}

/// A peer as the configuration has it.
fn whole(peer: &PeerConfig) -> PeerChange {
    PeerChange {
        preshared_key: Some(preshared_key(peer)),
        endpoint: peer.endpoint.as_ref().and_then(literal),
        persistent_keepalive: Some(peer.persistent_keepalive),
        rate_limit: Some(peer.rate_limit),
        replace_allowed_ips: true,
        allowed_ips: allowed_ips(peer),
        tombolo: Some(peer.tombolo),
        ..PeerChange::new(peer.public_key)
    }
}

/// Whether a peer is to be called at once: heard of in the last day. A clock that was set back makes
/// the past look like the future, which is no reason not to call.
pub(super) fn is_recent(last_activity: Option<u64>, unix_now: u64) -> bool {
    last_activity.is_some_and(|last| unix_now.saturating_sub(last) < RECENT)
}

/// Everything, for an engine that has just started. What a peer's last endpoint was goes before what
/// the configuration says, since the peer may have moved.
pub(super) fn everything(config: &NetworkConfig, saved: &SavedPeers) -> Transaction {
    // Members are the control plane's: it makes peers of them once they are verified.
    let peers = config.peers.iter().filter(|_| config.membership.is_none()).map(|peer| {
        let mut change = whole(peer);
        if let Some(saved) = saved.get(&peer.public_key) {
            change.endpoint = saved.endpoint.or(change.endpoint);
            change.last_received_timestamp = saved.last_received_timestamp;
            change.last_sent_timestamp = saved.last_sent_timestamp;
        }
        change
    });
    Transaction {
        private_key: config.interface.private_key.key().map(|key| Some(key.clone())),
        listen_port: None,
        firewall_mark: None,
        replace_peers: true,
        peers: peers.collect(),
    }
}

/// Of members, who are peers only once they are verified: what they sent before is not taken again (control rule 10).
pub(super) fn timestamps(saved: &SavedPeers) -> impl Iterator<Item = Instruction> {
    let known = |(key, peer): (&PublicKey, &SavedPeer)| Some((*key, peer.last_received_timestamp?));
    saved.iter().filter_map(known).map(|(key, timestamp)| Instruction::Remember(key, timestamp))
}

/// Only what differs between two configurations, so that no session of an unchanged peer is touched.
pub(super) fn difference(old: &NetworkConfig, new: &NetworkConfig) -> Transaction {
    let mut transaction = Transaction::default();
    if old.interface.private_key != new.interface.private_key {
        transaction.private_key = new.interface.private_key.key().map(|key| Some(key.clone()));
    }
    if old.interface.listen_port != new.interface.listen_port {
        transaction.listen_port = Some(new.interface.listen_port);
    }
    if old.interface.fwmark != new.interface.fwmark {
        transaction.firewall_mark = Some(new.interface.fwmark);
    }
    for gone in &old.peers {
        if !new.peers.iter().any(|peer| peer.public_key == gone.public_key) {
            transaction.peers.push(PeerChange { remove: true, ..PeerChange::new(gone.public_key) });
        }
    }
    for peer in &new.peers {
        match old.peers.iter().find(|before| before.public_key == peer.public_key) {
            None => transaction.peers.push(whole(peer)),
            Some(before) if before == peer => {}
            Some(before) => transaction.peers.extend(changed(before, peer)),
        }
    }
    transaction
}

fn changed(before: &PeerConfig, peer: &PeerConfig) -> Option<PeerChange> {
    let mut change = PeerChange { update_only: true, ..PeerChange::new(peer.public_key) };
    let mut any = false;
    if preshared_key(before) != preshared_key(peer) {
        change.preshared_key = Some(preshared_key(peer));
        any = true;
    }
    if before.endpoint != peer.endpoint {
        change.endpoint = peer.endpoint.as_ref().and_then(literal);
        any |= change.endpoint.is_some();
    }
    if before.persistent_keepalive != peer.persistent_keepalive {
        change.persistent_keepalive = Some(peer.persistent_keepalive);
        any = true;
    }
    if before.tombolo != peer.tombolo {
        change.tombolo = Some(peer.tombolo);
        any = true;
    }
    if before.rate_limit != peer.rate_limit {
        change.rate_limit = Some(peer.rate_limit);
        any = true;
    }
    // Added and removed one by one: replacing the list would drop packets in between.
    let removed = before.allowed_ips.iter().filter(|network| !peer.allowed_ips.contains(network));
    change.allowed_ips.extend(removed.map(|network| AllowedIpChange { network: *network, remove: true }));
    let added = peer.allowed_ips.iter().filter(|network| !before.allowed_ips.contains(network));
    change.allowed_ips.extend(added.map(|network| AllowedIpChange { network: *network, remove: false }));
    any |= !change.allowed_ips.is_empty();
    any.then_some(change)
}

/// Whether a transaction changes nothing.
pub(super) fn is_empty(transaction: &Transaction) -> bool {
    transaction.private_key.is_none()
        && transaction.listen_port.is_none()
        && transaction.firewall_mark.is_none()
        && !transaction.replace_peers
        && transaction.peers.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_noise::Tai64n;

    #[test]
    fn the_engine_is_told_at_the_start_what_members_sent_last_control_rule_10() {
        let (one, other) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let timestamp = Tai64n::from_bytes([9; 12]);
        let heard = SavedPeer { last_received_timestamp: Some(timestamp), ..SavedPeer::default() };
        let saved = SavedPeers::from([(one, heard), (other, SavedPeer::default())]);
        let told: Vec<Instruction> = timestamps(&saved).collect();
        assert!(
            matches!(told.as_slice(), [Instruction::Remember(key, last)] if *key == one && *last == timestamp)
        );
    }
}
