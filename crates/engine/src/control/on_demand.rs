//! Tunnels that come when there are packets for them, and packets that came before their peer was verified.

use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;

use rand_core::CryptoRng;
use tombolo_noise::clock::Now;
use tombolo_packet::ip::IpPacket;
use tombolo_packet::{DropReason, PeerId, VnetHeader};
use tombolo_route::RouteTable;

use super::Control;
use crate::gateway::Way;
use crate::options::{EngineEvent, SocketBinder};
use crate::seeking::answer;
use crate::shared::{Peer, Snapshot};

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    /// Packets that wait for peers which have their addresses now go there. Before workers see the routes, so that none of
    /// theirs overtakes.
    pub(super) fn settle_sought(&self, routes: &RouteTable) {
        if !self.shared.seeking.is_active() {
            return;
        }
        let shared = &self.shared;
        let owner = |address| self.peers.get(&routes.lookup(address)?);
        shared.seeking.settle(owner, |record, packet| {
            record.peer.staging.push(packet, &shared.staging_budget, &shared.drops);
            // Where there is a session already, the answer to this is that what is staged goes out.
            if let Some(event) = record.peer.link.want_handshake() {
                shared.raise(event);
            }
        });
    }

    /// What workers have found to look for, and what has been looked for in vain. `false`: there was nothing.
    pub(super) fn poll_sought(&mut self, now: Now) -> bool {
        if !self.shared.seeking.is_active() {
            return false;
        }
        let (new, late) = self.shared.seeking.take_new();
        let snapshot = self.shared.snapshot.load();
        let (found, sought): (Vec<_>, Vec<_>) =
            new.iter().partition(|destination| snapshot.routes.lookup(**destination).is_some());
        if late || !found.is_empty() {
            self.settle_sought(&snapshot.routes);
        }
        for &destination in sought {
            self.news.push(EngineEvent::TunnelWanted(destination));
        }
        let expired = self.shared.seeking.expire(now.boot);
        self.shared.drops.add(DropReason::NoTunnel, expired as u64);
        late || expired > 0 || !new.is_empty()
    }

    /// Nobody has the address: what waits for it is dropped, and its sender told.
    pub(super) fn refuse_tunnel(&self, destination: IpAddr, now: Now) {
        let (dropped, first) = self.shared.seeking.refuse(destination, now.boot);
        self.shared.drops.add(DropReason::NoTunnel, dropped as u64);
        if let Some((first, queue)) = first.zip(self.queue.as_ref()) {
            answer(&first, queue.as_ref());
        }
    }

    /// What was held of a peer that may carry packets now is delivered (control rule 9).
    pub(super) fn deliver_held(&self, id: PeerId, now: Now) {
        let Some((record, queue)) = self.peers.get(&id).zip(self.queue.as_ref()) else { return };
        let peer = &record.peer;
        if !peer.link.may_carry_packets(now.boot) {
            return;
        }
        let snapshot = self.shared.snapshot.load();
        let drops = &self.shared.drops;
        peer.held.deliver(now.boot, &self.shared.held_budget, drops, |packet| {
            let source = IpPacket::parse(packet).ok().map(|packet| packet.source());
            if source.and_then(|source| snapshot.routes.lookup(source)) != Some(id) {
                drops.count(DropReason::SourceNotAllowed);
            } else if let Some(to) = self.gateway_way(id, packet, &snapshot) {
                to.staging.push(packet, &self.shared.staging_budget, drops);
                if let Some(event) = to.link.want_handshake() {
                    self.shared.raise(event);
                }
            } else if queue.write(VnetHeader::default(), &[IoSlice::new(packet)]).is_err() {
                drops.count(DropReason::TunWriteFailed);
            }
        });
    }

    /// The peer that a packet is brought on to.
    fn gateway_way(&self, from: PeerId, packet: &[u8], snapshot: &Snapshot) -> Option<Arc<Peer>> {
        let gateway = Some(&self.shared.gateway).filter(|gateway| gateway.is_active())?;
        let destination = IpPacket::parse(packet).ok()?.destination();
        match gateway.way(snapshot, from, destination)? {
            Way::Peer(to) => snapshot.peer(to).cloned(),
            Way::Unknown => None,
        }
    }

    /// Packets that were held while their peer was being promoted. `false`: there were none.
    pub(super) fn deliver_held_late(&self, now: Now) -> bool {
        let mut worked = false;
        while let Some(id) = self.shared.held_late.pop() {
            worked = true;
            self.deliver_held(id, now);
        }
        worked
    }
}
