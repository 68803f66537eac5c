//! From the names of endpoints to addresses.

use std::net::SocketAddr;
use std::time::Duration;

use tombolo_engine::{PeerChange, PeerState, Transaction};
use tombolo_noise::PublicKey;

use super::report::unix_now;
use super::{Daemon, Event, peers};
use crate::resolver;
use crate::state::SavedPeer;

/// A peer that was heard within this time is where it was heard from: roaming knows better than a name
/// server. One that is silent for longer than data goes unanswered (requirement 7) may be elsewhere.
const HEARD_LATELY: Duration = Duration::from_secs(10);
/// Pauses between attempts to resolve a name, in seconds; the last one repeats.
const RESOLVE_PAUSES: [u64; 6] = [1, 2, 4, 8, 15, 30];

/// How far the search for a peer's address is.
#[derive(Default)]
pub(super) struct Resolving {
    running: bool,
    attempts: usize,
    pub(super) error: Option<String>,
}

impl Daemon {
    /// Begins to resolve every name of which no address is known yet.
    pub(super) fn resolve_all(&mut self) {
        let Some(status) = self.status() else { return };
        let unknown: Vec<PublicKey> =
            status.peers.iter().filter(|peer| peer.endpoint.is_none()).map(|peer| peer.public_key).collect();
        for key in unknown {
            self.resolve(key);
        }
    }

    pub(super) fn resolve(&mut self, key: PublicKey) {
        let known = self.config.peers.iter().find(|peer| peer.public_key == key);
        let Some(endpoint) = known.and_then(|peer| peer.endpoint.clone()) else { return };
        let resolving = self.resolving.entry(key).or_default();
        if resolving.running {
            return;
        }
        resolving.running = true;
        let attempt = resolving.attempts;
        let pause = match &resolving.error {
            Some(_) => RESOLVE_PAUSES[attempt.min(RESOLVE_PAUSES.len() - 1)],
            None => 0,
        };
        resolving.attempts += 1;
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let result = resolver::resolve(&endpoint, attempt).await;
            // Nobody listens when the daemon is stopping.
            let _ = events.send(Event::Resolved(key, result));
        });
    }

    pub(super) fn handle_resolved(&mut self, key: PublicKey, result: Result<SocketAddr, String>) {
        let resolving = self.resolving.entry(key).or_default();
        resolving.running = false;
        let address = match result {
            Ok(address) => address,
            Err(error) => {
                if resolving.error.as_ref() != Some(&error) {
                    tracing::warn!("the endpoint of {} is not known: {error}", self.label(&key));
                }
                self.resolving.entry(key).or_default().error = Some(error);
                self.resolve(key);
                return;
            }
        };
        resolving.error = None;
        let Some(status) = self.status() else { return };
        let Some(peer) = status.peers.iter().find(|peer| peer.public_key == key) else { return };
        let live = peer.last_received_age.is_some_and(|age| age < HEARD_LATELY);
        if live || peer.endpoint == Some(address) {
            return;
        }
        tracing::debug!("the endpoint of {} is {address}", self.label(&key));
        // A peer that had an endpoint was asked for because it is silent: it is called at the new one.
        let recent = self.saved.get(&key).and_then(SavedPeer::last_contact);
        let initiate = peer.state == PeerState::Connecting
            || peer.endpoint.is_some()
            || peers::is_recent(recent, unix_now().as_secs());
        let change =
            PeerChange { update_only: true, endpoint: Some(address), initiate, ..PeerChange::new(key) };
        self.apply(Transaction { peers: vec![change], ..Transaction::default() });
    }

    pub(super) fn label(&self, key: &PublicKey) -> String {
        let known = self.config.peers.iter().find(|peer| peer.public_key == *key);
        known.map_or_else(|| key.to_string(), |peer| peer.name.clone())
    }
}
