//! Echo requests that wait for their answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use rand_core::CryptoRng;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now};
use tombolo_packet::PeerId;

use super::Control;
use crate::handle::ProbeError;
use crate::options::SocketBinder;

/// Probes under way at most.
const MAX_PROBES: usize = 1024;

struct Probe {
    peer: PeerId,
    sent: Instant,
    deadline: Instant,
    reply: SyncSender<Result<Duration, ProbeError>>,
}

/// The probes under way, by number.
#[derive(Default)]
pub(super) struct Probes {
    waiting: BTreeMap<u64, Probe>,
    next: u64,
}

impl Probes {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|probe| probe.deadline).min()
    }

    /// An answer came: gives the peer and the round trip, and tells who asked.
    pub(super) fn answered(&mut self, number: u64, received: Instant) -> Option<(PeerId, Duration)> {
        let probe = self.waiting.remove(&number)?;
        let round_trip = received.saturating_duration_since(probe.sent);
        let _ = probe.reply.send(Ok(round_trip));
        Some((probe.peer, round_trip))
    }

    /// Gives up those whose time has come; says whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|_, probe| {
            let keep = probe.deadline > now;
            if !keep {
                let _ = probe.reply.send(Err(ProbeError::TimedOut));
            }
            keep
        });
        before != self.waiting.len()
    }
}

impl<B: SocketBinder, R: CryptoRng> Control<B, R> {
    pub(super) fn probe(
        &mut self,
        public_key: PublicKey,
        source: IpAddr,
        destination: IpAddr,
        timeout: Duration,
        reply: SyncSender<Result<Duration, ProbeError>>,
        now: Now,
    ) {
        let deadline = now.boot + timeout;
        match self.send_probe(public_key, source, destination, now) {
            Ok((number, peer)) => {
                self.probes.waiting.insert(number, Probe { peer, sent: now.boot, deadline, reply });
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn send_probe(
        &mut self,
        public_key: PublicKey,
        source: IpAddr,
        destination: IpAddr,
        now: Now,
    ) -> Result<(u64, PeerId), ProbeError> {
        let id = self.device.peer_by_key(&public_key).ok_or(ProbeError::UnknownPeer)?;
        let record = self.peers.get(&id).ok_or(ProbeError::UnknownPeer)?;
        if record.peer.link.endpoint().is_none() {
            return Err(ProbeError::NoEndpoint);
        }
        if self.probes.len() >= MAX_PROBES {
            return Err(ProbeError::NotSent);
        }
        let number = self.probes.next;
        let request = self.shared.probes.request(number, source, destination).ok_or(ProbeError::NotSent)?;
        self.probes.next += 1;
        // Before it leaves: the answer may come while this thread is still in here.
        self.shared.probes.set_outstanding(self.probes.len() + 1);
        record.peer.staging.push(&request, &self.shared.staging_budget, &self.shared.drops);
        let peer = Arc::clone(&record.peer);
        if self.seal_for(now, |sender| sender.flush_staged(&peer)) == 0
            && let Some(event) = peer.link.want_handshake()
        {
            self.shared.raise(event);
        }
        Ok((number, id))
    }
}
