//! From what a node wants of the data path to transactions of the engine.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tombolo_control::document::Roles;
use tombolo_control::node::{EngineChange, Event as NodeEvent};
use tombolo_control::path::{Outgoing, Path};
use tombolo_engine::{AllowedIpChange, Instruction, MemberChange, PeerChange, now};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use super::super::Daemon;
use super::{IDLE_INTERVAL, Member, USE_INTERVAL};
use crate::cli::{Failure, failed};
use crate::config::PeerConfig;

/// Whether a key is a relay's, by the network document.
fn is_relay(member: &Member, key: &PublicKey) -> bool {
    let servers = member.servers();
    servers.iter().any(|server| server.key == *key && server.roles.contains(Roles::RELAY))
}

/// A path of the control plane's as the engine has it: a relay is known by its key, and knows the peer by its node id.
fn engine_path(member: &Member, key: &PublicKey, path: Path) -> Option<tombolo_engine::Path> {
    let relay = match path {
        Path::Direct(remote) => return Some(tombolo_engine::Path::Direct(remote)),
        Path::Relayed(relay) => relay,
    };
    let verifier = member.node.verifier();
    let server = verifier.network()?.servers.iter().find(|server| server.node == relay)?;
    let (peer, _) = verifier.authorised(key, member.node.times(now()))?;
    Some(tombolo_engine::Path::Relayed { relay: server.key, node: *peer.node.as_bytes() })
}

impl Daemon {
    pub(super) fn send_frame(&mut self, member: &Member, outgoing: &Outgoing) {
        let Ok(frame) = outgoing.frame.to_bytes() else {
            tracing::debug!("a frame for {} is too long", outgoing.to);
            return;
        };
        let path = outgoing.path.filter(|path| member.paths.get(&outgoing.to) != Some(path));
        let path = match path.map(|path| engine_path(member, &outgoing.to, path)) {
            // Through a relay that is none any more.
            Some(None) => return,
            path => path.flatten(),
        };
        self.instructions.push(Instruction::Frame { public_key: outgoing.to, path, frame });
    }

    pub(super) fn change_data_path(&mut self, member: &mut Member, change: EngineChange) {
        match change {
            EngineChange::Install { key, networks, until } => self.install(member, key, networks, until),
            EngineChange::Remove { key } => {
                self.instructions.push(Instruction::Revoke(key));
                self.config.peers.retain(|peer| peer.public_key != key);
                member.sessions.remove(&key);
                member.paths.remove(&key);
                self.save_wanted = true;
            }
            EngineChange::Attach { key, name, networks } => self.attach(member, key, &name, networks),
            EngineChange::Detach { key } => self.detach(member, key),
            EngineChange::Handshake { key, paths } => {
                self.apply_member(PeerChange {
                    member: Some(MemberChange::Unverified),
                    tombolo: Some(true),
                    relay: Some(is_relay(member, &key)),
                    ..self.remembered(key)
                });
                let paths: Vec<_> =
                    paths.into_iter().filter_map(|path| engine_path(member, &key, path)).collect();
                self.instructions.push(Instruction::Handshake(key, paths));
            }
            EngineChange::Use { key, path } => {
                let known = member.paths.insert(key, path) == Some(path);
                if let Some(path) = engine_path(member, &key, path).filter(|_| !known) {
                    self.instructions.push(Instruction::SetPath(key, path));
                }
                if let Some(remote) = path.direct() {
                    self.instructions.push(Instruction::PathValidated(key, remote));
                }
                self.note_place(member, key);
            }
            EngineChange::Drop { address } => self.instructions.push(Instruction::RefuseTunnel(address)),
        }
    }

    /// A change of a peer that says what was written down of it: a timestamp below that of an earlier run is refused (requirement 11).
    fn remembered(&self, key: PublicKey) -> PeerChange {
        let known = self.saved.get(&key);
        PeerChange {
            last_received_timestamp: known.and_then(|saved| saved.last_received_timestamp),
            last_sent_timestamp: known.and_then(|saved| saved.last_sent_timestamp),
            ..PeerChange::new(key)
        }
    }

    pub(super) fn apply_member(&mut self, change: PeerChange) {
        self.instructions.push(Instruction::Peer(Box::new(change)));
    }

    /// Packets for the overlay, and for what is accepted behind gateways, wait for a tunnel, rather than be dropped at once.
    pub(in super::super) fn tell_overlay(&self) -> Result<(), Failure> {
        let told = self.slot.handle().and_then(|handle| handle.set_overlay(self.config.routes()));
        told.map_err(failed)
    }

    /// Where a member is, for a restart without any server.
    fn note_place(&mut self, member: &mut Member, key: PublicKey) {
        let path = member.paths.get(&key).filter(|_| member.sessions.contains_key(&key));
        let Some(remote) = path.and_then(|path| path.direct()) else { return };
        if let Some((held, _)) = member.node.verifier().authorised(&key, member.node.times(now())) {
            member.state.note_place(&held.node, remote);
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
            relay: Some(is_relay(member, &key)),
            ..self.remembered(key)
        });
        let Some((held, _)) = member.node.verifier().authorised(&key, member.node.times(time)) else {
            return;
        };
        // Its own addresses first, as it is known by the first of all.
        let (own, behind): (Vec<IpNet>, Vec<IpNet>) = networks
            .into_iter()
            .partition(|network| held.addresses.iter().any(|address| IpNet::from(*address) == *network));
        let peer = PeerConfig {
            name: held.name.to_string(),
            public_key: key,
            preshared_key: None,
            allowed_ips: [own, behind].concat(),
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
        self.names_changed = true;
    }

    /// Tells the node with whom packets were exchanged: their paths are watched closely, others are let go after a while.
    pub(in super::super) fn look_at_use(&mut self) {
        let used = self.slot.handle().and_then(|handle| handle.take_used()).unwrap_or_default();
        let Some(member) = &mut self.member else { return };
        member.next_look = now().boot + if used.is_empty() { IDLE_INTERVAL } else { USE_INTERVAL };
        for peer in used {
            if let Some(server) = member.server.as_mut().filter(|_| member.attached.contains(&peer)) {
                server.note_seen(&peer);
            }
            member.handle_event(NodeEvent::Traffic { peer });
        }
    }
}
