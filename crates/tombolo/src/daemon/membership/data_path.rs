//! From what a node wants of the data path to transactions of the engine.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tombolo_control::node::{EngineChange, Event as NodeEvent};
use tombolo_control::path::{Outgoing, Path};
use tombolo_engine::{AllowedIpChange, MemberChange, PeerChange, SendFrameError, Transaction, now};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::super::Daemon;
use super::Member;
use crate::cli::Failure;
use crate::config::PeerConfig;

impl Daemon {
    pub(super) fn send_frame(&self, outgoing: &Outgoing) {
        let Ok(bytes) = outgoing.frame.to_bytes() else {
            tracing::debug!("a frame for {} is too long", outgoing.to);
            return;
        };
        let Ok(handle) = self.slot.handle() else { return };
        match handle.send_control(outgoing.to, bytes) {
            // To be dropped where there is no session: whoever wanted it sends it again.
            Ok(()) | Err(SendFrameError::NoSession | SendFrameError::UnknownPeer) => {}
            Err(error) => tracing::debug!("a frame for {}: {error}", outgoing.to),
        }
    }

    pub(super) fn change_data_path(&mut self, member: &mut Member, change: EngineChange) {
        match change {
            EngineChange::Install { key, networks, until } => self.install(member, key, networks, until),
            EngineChange::Remove { key } => {
                if let Ok(handle) = self.slot.handle() {
                    // It fails only when the engine has stopped.
                    let _ = handle.revoke(key);
                }
                self.config.peers.retain(|peer| peer.public_key != key);
                member.sessions.remove(&key);
                member.places.remove(&key);
                member.rounds.remove(&key);
                self.save_wanted = true;
            }
            EngineChange::Handshake { key, paths } => {
                let direct: Vec<_> = paths.iter().filter_map(|path| path.direct()).collect();
                if direct.is_empty() {
                    return;
                }
                // One initiation is under way at a time: each round goes to the next candidate.
                let round = member.rounds.entry(key).or_insert(0);
                let endpoint = direct[*round % direct.len()];
                *round += 1;
                let known = self.saved.get(&key);
                let change = PeerChange {
                    member: Some(MemberChange::Unverified),
                    endpoint: Some(endpoint),
                    last_received_timestamp: known.and_then(|saved| saved.last_received_timestamp),
                    last_sent_timestamp: known.and_then(|saved| saved.last_sent_timestamp),
                    tombolo: Some(true),
                    initiate: true,
                    ..PeerChange::new(key)
                };
                member.places.insert(key, endpoint);
                self.apply_member(change);
            }
            EngineChange::Use { key, path: Path::Direct(remote) } => {
                if member.places.insert(key, remote) != Some(remote) {
                    let change =
                        PeerChange { update_only: true, endpoint: Some(remote), ..PeerChange::new(key) };
                    self.apply_member(change);
                }
                if let Ok(handle) = self.slot.handle() {
                    // It fails only when the engine has stopped.
                    let _ = handle.path_validated(key, remote);
                }
                self.note_place(member, key);
            }
            EngineChange::Drop { address } => {
                if let Ok(handle) = self.slot.handle() {
                    // It fails only when the engine has stopped.
                    let _ = handle.refuse_tunnel(address);
                }
            }
            // The relays' data path is the engine's to come.
            EngineChange::Use { .. } => {}
        }
    }

    fn apply_member(&mut self, change: PeerChange) {
        self.apply(Transaction { peers: vec![change], ..Transaction::default() });
    }

    /// Packets for these networks wait for a tunnel, rather than be dropped at once.
    pub(in super::super) fn tell_overlay(&self) -> Result<(), Failure> {
        let told = self.slot.handle().and_then(|handle| handle.set_overlay(self.config.routes()));
        told.map_err(|error| Failure::Runtime(error.to_string()))
    }

    /// Where a member is, for a restart without any server.
    fn note_place(&mut self, member: &mut Member, key: PublicKey) {
        let Some(remote) = member.places.get(&key).filter(|_| member.sessions.contains_key(&key)) else {
            return;
        };
        if let Some((held, _)) = member.node.verifier().authorised(&key, member.node.times(now())) {
            member.state.note_place(&held.node, *remote);
            self.save_wanted |= member.state.is_dirty();
        }
    }

    fn install(&mut self, member: &mut Member, key: PublicKey, networks: BTreeSet<IpNet>, until: UnixTime) {
        let time = now();
        let left = until.0.saturating_sub(member.node.times(time).confirmed.0);
        let allowed_ips =
            networks.iter().map(|network| AllowedIpChange { network: *network, remove: false }).collect();
        self.apply_member(PeerChange {
            member: Some(MemberChange::Verified { not_after: time.boot + left }),
            replace_allowed_ips: true,
            allowed_ips,
            tombolo: Some(true),
            ..PeerChange::new(key)
        });
        let Some(name) = member.node.verifier().members().find(|held| held.key == key).map(|held| &held.name)
        else {
            return;
        };
        let peer = PeerConfig {
            name: name.to_string(),
            public_key: key,
            preshared_key: None,
            allowed_ips: networks.into_iter().collect(),
            endpoint: None,
            persistent_keepalive: 0,
            tombolo: true,
            rate_limit: 0,
        };
        match self.config.peers.iter_mut().find(|held| held.public_key == key) {
            Some(held) if *held == peer => return,
            Some(held) => *held = peer,
            None => self.config.peers.push(peer),
        }
        self.note_place(member, key);
        self.save_wanted = true;
        if !self.config.routes().iter().all(|route| self.interface.plan.routed.contains(route)) {
            let config = self.config.clone();
            if let Err(error) = self.reload_interface(&config) {
                member.alarm("routes", error);
            }
        }
        self.write_hosts();
    }

    /// Tells the node which peers there was traffic with: others are let go after a while.
    pub(in super::super) fn look_at_traffic(&mut self) {
        let Ok(status) = self.slot.status() else { return };
        let Some(member) = &mut self.member else { return };
        for peer in &status.peers {
            let bytes = peer.received_bytes + peer.sent_bytes;
            if member.traffic.insert(peer.public_key, bytes) != Some(bytes) {
                member.handle_event(NodeEvent::Traffic { peer: peer.public_key });
            }
        }
    }
}
