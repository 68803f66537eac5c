//! What is between the devices: datagrams under way, what the network does to them, and the passing of time.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand_chacha::rand_core::Rng;
use tombolo_noise::clock::Instant;
use tombolo_noise::{Keypair, Output, Received, TRANSPORT_OVERHEAD, padded_len};
use tombolo_packet::message::{MessageType, Transport};
use tombolo_packet::{DropReason, Endpoint, PeerId};

use super::{CONTROL_FRAME, EXPLORING, Frame, MTU, Sent, World};

/// (when, order of sending, source, destination, contents)
pub(super) type InFlight = Reverse<(Instant, u64, SocketAddr, SocketAddr, Vec<u8>)>;

impl World {
    pub(super) fn seal_and_send(
        &mut self,
        from: usize,
        id: PeerId,
        keypair: &Arc<Keypair>,
        payload: &[u8],
    ) -> bool {
        let link = Arc::clone(self.nodes[from].device.link(id).unwrap());
        let mut message = vec![0; padded_len(payload.len(), MTU) + TRANSPORT_OVERHEAD];
        let destination = link.destination(message.len() as u64);
        if destination == Err(DropReason::PathUnproven) {
            self.nodes[from].drops.push((self.now, DropReason::PathUnproven));
            return false;
        }
        let Ok(counter) = keypair.reserve(1) else { return false };
        message[16..16 + payload.len()].copy_from_slice(payload);
        keypair.seal(counter, &mut message);
        let event = link.note_sent(keypair, self.now, 1, message.len() as u64, !payload.is_empty());
        if let Ok(endpoint) = destination {
            self.transmit(from, endpoint.remote, &message, 0);
        }
        self.report(from, event);
        true
    }

    /// Puts a datagram on the wire.
    pub fn transmit(&mut self, from: usize, destination: SocketAddr, contents: &[u8], traffic_class: u8) {
        let kind = MessageType::classify(contents).expect("a device sends messages");
        self.wire.push(Sent { at: self.now, from, kind, contents: contents.to_vec(), traffic_class });
        let source = self.nodes[from].address;
        let mut copies = u32::from(!self.chance(self.faults.loss));
        copies += copies * u32::from(self.chance(self.faults.duplication));
        for _ in 0..copies {
            let spread = self.faults.delay_spread.as_micros() as u64;
            let delay = self.faults.delay + Duration::from_micros(self.network_rng.next_u64() % (spread + 1));
            self.inject(source, destination, contents.to_vec(), delay);
        }
    }

    /// Puts a datagram into the network, whoever it is from.
    pub fn inject(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        contents: Vec<u8>,
        delay: Duration,
    ) {
        self.sequence += 1;
        self.in_flight.push(Reverse((self.now + delay, self.sequence, source, destination, contents)));
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        self.network_rng.next_u32() % 1000 < of_thousand
    }

    pub fn run_outputs(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].device.poll_output() {
            self.nodes[node].outputs.push((self.now, output.clone()));
            match output {
                Output::Datagram { destination, contents, traffic_class, .. } => {
                    self.transmit(node, destination.remote, &contents, traffic_class);
                }
                Output::Keepalive { peer } => self.flush(node, peer, true),
                Output::SessionReady { peer, initiator } => self.flush(node, peer, initiator),
                Output::FlushStaged { peer } => self.flush(node, peer, false),
                Output::DropStaged { peer } => self.nodes[node].staged.retain(|staged| staged.0 != peer),
                Output::PeerGone { peer, .. } => self.nodes[node].staged.retain(|staged| staged.0 != peer),
                Output::ResolveEndpoint { .. }
                | Output::TimestampAdvanced { .. }
                | Output::PeerAppeared { .. }
                | Output::EndpointMoved { .. }
                | Output::KeyInTwoPlaces { .. } => {}
            }
        }
    }

    /// Sends what is staged, or an empty message if asked to.
    fn flush(&mut self, node: usize, peer: PeerId, or_keepalive: bool) {
        let link = Arc::clone(self.nodes[node].device.link(peer).unwrap());
        let Some(keypair) = link.session_keypair(self.now) else { return };
        let may_carry_packets = link.may_carry_packets(self.now);
        let (waiting, rest): (VecDeque<_>, _) = std::mem::take(&mut self.nodes[node].staged)
            .into_iter()
            .partition(|staged| staged.0 == peer && may_carry_packets);
        self.nodes[node].staged = rest;
        if waiting.is_empty() && or_keepalive {
            self.seal_and_send(node, peer, &keypair, &[]);
        }
        for (_, payload) in waiting {
            self.seal_and_send(node, peer, &keypair, &payload);
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.in_flight.peek().map(|next| next.0.0);
            let timeout = self.nodes.iter().filter_map(|node| node.device.poll_timeout()).min();
            let Some(next) = arrival.into_iter().chain(timeout).min().filter(|&next| next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let Some(Reverse((_, _, source, destination, contents))) = self.in_flight.pop() else {
                    break;
                };
                if let Some(node) = self.nodes.iter().position(|node| node.address == destination) {
                    self.receive(node, source, contents);
                }
            } else {
                for node in 0..self.nodes.len() {
                    let now = self.now_of(node);
                    self.nodes[node].device.handle_timeout(now, &mut self.rng);
                    self.run_outputs(node);
                }
            }
        }
        self.now = end;
    }

    /// A datagram arrives at a node's socket.
    pub fn receive(&mut self, node: usize, source: SocketAddr, mut contents: Vec<u8>) {
        let result = match MessageType::classify(&contents) {
            Ok(MessageType::Transport) => self.receive_transport(node, source, &mut contents),
            Ok(_) => {
                let now = self.now_of(node);
                let depth = self.nodes[node].queue_depth;
                let source = Endpoint::new(source);
                self.nodes[node].device.handle_message(&contents, source, depth, 1024, now, &mut self.rng)
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = result {
            self.nodes[node].drops.push((self.now, reason));
        }
        self.run_outputs(node);
    }

    fn receive_transport(
        &mut self,
        node: usize,
        source: SocketAddr,
        contents: &mut [u8],
    ) -> Result<(), DropReason> {
        let index = Transport::parse(contents)?.receiver_index();
        let entry =
            self.nodes[node].device.index_table().lookup(index).ok_or(DropReason::UnknownReceiverIndex)?;
        if !entry.keypair().can_receive(self.now) {
            return Err(DropReason::ExpiredKeypair);
        }
        let bytes = contents.len() as u64;
        let (counter, plaintext) = entry.keypair().open(contents)?;
        let mut fresh = Vec::new();
        entry.keypair().commit(&[counter], &mut fresh);
        if fresh != [true] {
            return Err(DropReason::ReplayedCounter);
        }
        let contents = plaintext.to_vec();
        let moves = contents.first() != Some(&EXPLORING);
        let received = Received { messages: 1, bytes, data: !contents.is_empty(), moves };
        let event = entry.link().note_received(entry.keypair(), Endpoint::new(source), self.now, &received);
        // As in the engine: the control thread hears of a session before it hears its first frame.
        self.report(node, event);
        match contents.first() {
            None => Ok(()),
            Some(&CONTROL_FRAME) => {
                self.nodes[node].frames.push(Frame {
                    from: *entry.link().public_key(),
                    handshake_hash: *entry.keypair().handshake_hash(),
                    epoch: entry.keypair().epoch(),
                    contents,
                });
                Ok(())
            }
            Some(_) if !entry.link().may_carry_packets(self.now) => Err(DropReason::NotAuthorised),
            Some(_) => {
                self.nodes[node].delivered.push((self.now, contents));
                Ok(())
            }
        }
    }
}
