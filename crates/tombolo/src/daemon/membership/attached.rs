//! Stock WireGuard peers that this machine presents (control rule 20).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_control::NodeName;
use tombolo_engine::{AllowedIpChange, PeerChange};
use tombolo_noise::PublicKey;

use super::super::Daemon;
use super::Member;
use crate::config::PeerConfig;

impl Member {
    /// The peer by which a stock WireGuard peer of this name is reached, and its address.
    pub(in super::super) fn presented(&self, name: &str) -> Option<(PublicKey, IpAddr)> {
        let verifier = self.node.verifier();
        let member = verifier.member_named(&name.parse().ok()?)?;
        let presenter = verifier.member(&member.presenter?)?;
        Some((presenter.key, *member.addresses.first()?))
    }
}

impl Daemon {
    /// As a configured peer of this machine, which has no other: it roams as it likes, and is never provisional.
    pub(super) fn attach(
        &mut self,
        member: &mut Member,
        key: PublicKey,
        name: &NodeName,
        networks: BTreeSet<IpNet>,
    ) {
        let known = self.config.peers.iter().position(|peer| peer.public_key == key);
        let saved = self.saved.get(&key).filter(|_| known.is_none());
        let allowed_ips =
            networks.iter().map(|network| AllowedIpChange { network: *network, remove: false }).collect();
        let change = PeerChange {
            endpoint: saved.and_then(|saved| saved.endpoint),
            last_received_timestamp: saved.and_then(|saved| saved.last_received_timestamp),
            last_sent_timestamp: saved.and_then(|saved| saved.last_sent_timestamp),
            initiate: saved.is_some_and(|saved| saved.endpoint.is_some()),
            replace_allowed_ips: true,
            allowed_ips,
            tombolo: Some(false),
            relay: Some(false),
            forward: Some(true),
            ..PeerChange::new(key)
        };
        self.apply_member(change);
        let peer = PeerConfig {
            name: name.to_string(),
            public_key: key,
            preshared_key: None,
            allowed_ips: networks.into_iter().collect(),
            endpoint: None,
            persistent_keepalive: 0,
            tombolo: false,
            rate_limit: 0,
        };
        match known {
            Some(known) => self.config.peers[known] = peer,
            None => self.config.peers.push(peer),
        }
        self.hand_over();
        let own = self.config.interface.addresses.iter().map(|address| IpNet::from(address.addr()));
        if let Ok(handle) = self.slot.handle() {
            // It fails only when the engine has stopped.
            let _ = handle.set_gateway(own.collect());
        }
        member.attached.insert(key);
        self.save_wanted = true;
        self.write_hosts();
    }

    pub(super) fn detach(&mut self, member: &mut Member, key: PublicKey) {
        if member.attached.remove(&key) {
            self.apply_member(PeerChange { remove: true, ..PeerChange::new(key) });
            self.config.peers.retain(|peer| peer.public_key != key);
            self.save_wanted = true;
            self.write_hosts();
        }
    }
}
