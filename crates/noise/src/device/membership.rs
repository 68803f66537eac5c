//! What the owner of a network's memberships says: who is verified, until when, and who is not (control rules 8 to 10).

use super::{AddPeerError, Device, Output};
use crate::clock::{Instant, Now, UnixTime};
use crate::keys::PublicKey;
use crate::peer::Peer;
use crate::source_table::SourceTable;
use crate::standing::Standing;
use crate::timers::Timer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tombolo_packet::PeerId;

use super::provisional::Membership;

/// How long a provisional peer is there, from its first initiation (control rule 8).
pub const PROVISIONAL_LIFETIME: Duration = Duration::from_secs(5);
/// How far ahead of our clock the timestamp of anybody but a static peer may be (control rule 10).
pub const MEMBER_MAX_TIMESTAMP_AHEAD: Duration = Duration::from_secs(15 * 60);
/// How many initiations go unanswered before a handshake with an unverified peer is given up: to whom we were pointed by
/// others, little is sent (control rule 13).
pub const MAX_UNVERIFIED_ATTEMPTS: u8 = 3;

/// Settings of membership mode (control rule 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipOptions {
    /// Provisional peers at a time.
    pub max_provisional: usize,
    /// Provisional peers at a time of one IPv4 address or IPv6 /64. More for a network with many machines behind one NAT.
    pub max_provisional_per_source: usize,
    /// What one X25519 with its share of hashing costs the control thread. Sources without a live session get as many as fit into a
    /// quarter of the time; a whole handshake takes five.
    pub diffie_hellman_cost: Duration,
}

impl MembershipOptions {
    /// For a server: 256 at a time, 4 of one source, 1250 handshakes a second.
    pub const fn server() -> Self {
        Self {
            max_provisional: 256,
            max_provisional_per_source: 4,
            diffie_hellman_cost: Duration::from_micros(40),
        }
    }

    /// For a node: 32 at a time, 4 of one source.
    pub const fn node() -> Self {
        Self { max_provisional: 32, ..Self::server() }
    }
}

impl Device {
    /// Switches membership mode on, changes its settings, or switches it off. Without it, which is the default, keys that are not
    /// known are met with silence, as in stock WireGuard (requirement 15). Switched off, provisional peers
    /// go; members stay until the owner revokes them.
    pub fn set_membership(&mut self, options: Option<MembershipOptions>, now: Now) {
        match (&mut self.membership, options) {
            (_, None) => {
                self.drop_provisional_peers();
                self.membership = None;
            }
            (Some(membership), Some(options)) => membership.options = options,
            (empty, Some(options)) => *empty = Some(Membership::new(options, now.boot)),
        }
    }

    /// The table that workers ask which queue a handshake message goes to: that of the sources with live
    /// sessions, which is served first, or that of all others.
    pub fn source_table(&self) -> Arc<SourceTable> {
        Arc::clone(&self.sources)
    }

    /// Adds a peer whose key is known from a membership or a token, and who has not been verified yet: we may initiate, and send control
    /// frames (control rule 9). A provisional peer of that key becomes it, with its session.
    ///
    /// # Errors
    /// See [`AddPeerError`].
    pub fn add_unverified_peer(&mut self, public_key: PublicKey) -> Result<PeerId, AddPeerError> {
        let known = self.peer_by_key(&public_key);
        if let Some(id) = known.filter(|&id| self.peer(id).is_some_and(Peer::is_provisional)) {
            self.set_standing(id, Standing::Unverified, Instant::default());
            self.settle(id);
            self.update_timers(id);
            return Ok(id);
        }
        self.add_peer_of_standing(public_key, Standing::Unverified)
    }

    /// The owner has verified a peer's membership against the static key of its session: until `not_after`, of the boot clock,
    /// packets go both ways, also in sessions to come. Told again, it moves `not_after`. What was
    /// held and staged is to be delivered ([`Output::FlushStaged`]); of what came in before, the shell holds at most 8 packets.
    ///
    /// `false`, and nothing changed: there is no such peer, or it is a static one, which outranks memberships.
    pub fn promote(&mut self, id: PeerId, not_after: Instant, now: Now) -> bool {
        let Some(peer) = self.peer(id).filter(|peer| !peer.is_static()) else { return false };
        let was_provisional = peer.is_provisional();
        let link = Arc::clone(&peer.link);
        self.set_standing(id, Standing::Member, not_after);
        // A worker may know already that the session is used, and its event be under way.
        self.promote_if_confirmed(id, now);
        if was_provisional {
            self.settle(id);
        }
        link.clear_handshake_wanted();
        self.outputs.push_back(Output::FlushStaged { peer: id });
        self.update_timers(id);
        true
    }

    /// What a provisional or unverified peer showed was refused: it goes with its session and all that was held for it. `false`, and
    /// nothing changed, for static peers and members.
    pub fn reject(&mut self, id: PeerId) -> bool {
        let standing = self.peer(id).map(|peer| peer.link.standing());
        let unverified = matches!(standing, Some(Standing::Provisional | Standing::Unverified));
        if unverified {
            self.remove_peer(id);
        }
        unverified
    }

    /// The membership of a peer ended before its time: it goes with all its sessions, at once also for workers that are in the middle of a
    /// batch. `false`, and nothing changed, if it is a static peer or none.
    pub fn revoke(&mut self, id: PeerId) -> bool {
        let revocable = self.peer(id).is_some_and(|peer| !peer.is_static());
        if revocable {
            self.remove_peer(id);
        }
        revocable
    }

    /// The answer to a challenge came from the peer at `remote`: as much as one likes may go there (control rule 10).
    /// `false` if the peer has moved on.
    pub fn path_validated(&mut self, id: PeerId, remote: SocketAddr) -> bool {
        self.peer(id).is_some_and(|peer| !peer.is_provisional() && peer.link.prove_path(remote))
    }

    /// The wall clock cannot be earlier than `time` now: what was saved, or the newest issue time of a document that verified. Timestamps are made
    /// of, and held against, the greater of clock and floor, so that a machine that boots in 1970 is heard
    /// (control rule 18). A lower floor changes nothing.
    pub fn set_time_floor(&mut self, time: UnixTime, now: Now) {
        if time > self.wall(Now { wall: UnixTime::default(), ..now }) {
            self.time_floor = Some(Now { wall: time, ..now });
        }
    }

    /// Makes a static peer of one that is there by other means; its sessions end. `false` if it is one already.
    pub(super) fn make_static(&mut self, id: PeerId) -> bool {
        let other = self.peer(id).is_some_and(|peer| !peer.is_static());
        if other {
            self.end_sessions(id);
            self.set_standing(id, Standing::Static, Instant::from_nanos(u64::MAX));
            if let Some(path) = self.peer(id).and_then(|peer| peer.link.endpoint()) {
                self.peer(id).map(|peer| peer.link.prove_path(path.remote));
            }
            self.update_timers(id);
        }
        other
    }

    /// Moves a peer to another standing, out of the provisional one at the latest.
    pub(super) fn set_standing(&mut self, id: PeerId, standing: Standing, packets_until: Instant) {
        self.release_provisional(id);
        let Some(peer) = self.peer_mut(id) else { return };
        peer.timers.set(Timer::Provisional, None);
        peer.link.set_standing(standing, packets_until);
    }

    /// What a provisional peer has proven by using its session counts now.
    fn settle(&mut self, id: PeerId) {
        let Some(peer) = self.peer(id) else { return };
        let Some(current) = &peer.keypairs.current else { return };
        if let Some(remote) = current.proven_remote() {
            peer.link.prove_path(remote);
        }
        self.outputs.push_back(Output::TimestampAdvanced { peer: id });
    }
}
