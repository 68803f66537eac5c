//! What nodes say is to be done, and what must hold whenever one of them takes a member.

use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_control::document::Revocation;
use tombolo_control::node::{EngineChange, Output, Save};
use tombolo_control::{NodeId, Outgoing};
use tombolo_noise::PublicKey;

use crate::data_path::{Content, Session};
use crate::world::{World, unix};

impl World {
    pub(super) fn carry_out(&mut self, number: usize, output: Output) {
        match output {
            Output::Send(Outgoing { to, path, frame }) => {
                let said = match &self.machines[number].twist {
                    Some(twist) => twist(frame),
                    None => Some(frame),
                };
                let Some(frame) = said else { return };
                let before = (self.meter)();
                let bytes = frame.to_bytes().expect("frames that nodes send fit");
                self.charge(number, before);
                self.machines[number].frames += 1;
                self.send_data(number, to, path, Content::Frame(bytes));
            }
            Output::Engine(change) => self.change(number, change),
            Output::Save(save) => self.save(number, save),
            Output::Alarm(alarm) => self.machines[number].alarms.push(alarm),
            Output::Joined(outcome) => {
                outcome.expect("let in");
                self.machines[number].joined_at = Some(self.now);
            }
            Output::Authority { from, handshake_hash, frame } => {
                let time = unix(self.now, 0);
                let (answer, admitted) = self.authority.handle(from, &handshake_hash, &frame, time);
                let now = self.clock(number);
                let (node, rng) = (self.machines[number].node.as_mut().unwrap(), &mut self.rng);
                let before = (self.meter)();
                if let Some(membership) = admitted {
                    node.admit(&membership, now, rng).unwrap();
                }
                if let Some(answer) = answer {
                    node.send(from, answer);
                }
                self.charge(number, before);
            }
            Output::ChangeKey(new) => {
                let now = self.clock(number);
                let machine = &mut self.machines[number];
                machine.key = new;
                machine.sessions.clear();
                machine.node.as_mut().unwrap().change_key(new, now, &mut self.rng);
            }
            _ => {}
        }
    }

    fn save(&mut self, number: usize, save: Save) {
        let nothing = self.nothing_saved();
        let saved = self.machines[number].saved.get_or_insert(nothing);
        match save {
            Save::Documents(documents) => saved.documents = documents,
            Save::Membership(membership) => saved.membership = membership,
            Save::Time(time) => saved.time = time,
            Save::Epoch(epoch) => {
                assert!(epoch > saved.epoch, "epochs grow with each start");
                saved.epoch = epoch;
            }
            Save::Peer(peer) => {
                self.machines[number].saved_peers.insert(peer.membership.clone(), peer);
            }
            Save::Forget(_) => {}
        }
    }

    /// An address has one owner for all machines, until a document that this machine holds has revoked the one before.
    fn check_owner(&mut self, number: usize, address: IpAddr, owner: NodeId) {
        let held = *self.owners.entry(address).or_insert(owner);
        if held == owner {
            return;
        }
        let node = self.machines[number].node.as_ref().unwrap();
        let revoked = |node_id| {
            let network = node.verifier().network();
            network.is_some_and(|network| network.revocations.contains(&Revocation::Node(node_id)))
        };
        if revoked(held) {
            self.owners.insert(address, owner);
        } else {
            // Whoever has not heard of it yet goes on with the former owner.
            let late = self.authority.is_revoked(&owner) && !revoked(owner);
            assert!(late, "machine {number}: {address} has two accepted owners");
        }
    }

    fn change(&mut self, number: usize, change: EngineChange) {
        match change {
            EngineChange::Install { key, networks, .. } => {
                let machine = &mut self.machines[number];
                let node = machine.node.as_ref().unwrap();
                let member = node.verifier().member_of_key(&key).unwrap();
                let id = member.node;
                machine.newest.note_member(number, member);
                self.keys.insert(id, key);
                self.nodes.insert(key, id);
                for network in &networks {
                    self.check_owner(number, network.addr(), id);
                    self.machines[number].routes.insert(*network, key);
                }
                self.machines[number].installed.insert(key, networks);
                self.flush(number, key);
            }
            EngineChange::Remove { key } => {
                let machine = &mut self.machines[number];
                machine.sessions.remove(&key);
                machine.installed.remove(&key);
                machine.routes.retain(|_, held| *held != key);
            }
            EngineChange::Handshake { key, paths } => self.handshake(number, key, paths),
            EngineChange::Use { key, path } => {
                self.machines[number].sessions.entry(key).or_default().path = Some(path);
            }
            EngineChange::Drop { address } => {
                self.machines[number].waiting.retain(|(waiting, _)| *waiting != address);
            }
            // Nobody here is a stock WireGuard peer.
            EngineChange::Attach { .. } | EngineChange::Detach { .. } => {}
        }
    }

    pub(super) fn flush(&mut self, number: usize, key: PublicKey) {
        let machine = &mut self.machines[number];
        if !machine.sessions.get(&key).is_some_and(Session::is_open) {
            return;
        }
        let Some(networks) = machine.installed.get(&key) else { return };
        let (go, stay): (Vec<_>, Vec<_>) =
            machine.waiting.drain(..).partition(|(address, _)| networks.contains(&IpNet::from(*address)));
        machine.waiting = stay;
        let Some(source) = self.address(number) else { return };
        for (destination, token) in go {
            self.send_data(number, key, None, Content::Packet { source, destination, token, reply: false });
        }
    }
}
