//! What goes into a node and what comes out of it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::UnixTime;

use crate::document::{Validity, Version};
use crate::frame::{Frame, JoinRefusal, RenewRefusal, ShowRefusal};
use crate::lighthouse::LighthouseAlarm;
use crate::path::{Outgoing, Path};
use crate::verifier::{Alarm, ClockFault, Pins};
use crate::{DocumentHash, HostEndpoint, NodeId, NodeName};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A decrypted message that [`crate::frame::is_frame`], of the session with a key.
    Message {
        /// The session's remote static key.
        from: PublicKey,
        /// How it came.
        path: Path,
        /// The message.
        message: &'a [u8],
    },
    /// A handshake was completed: for a responder with the first message of the session (control rule 10).
    Established {
        /// The remote static key.
        peer: PublicKey,
        /// How.
        path: Path,
        /// Whether we initiated.
        initiator: bool,
        /// `H` of the handshake after its last message.
        handshake_hash: [u8; 32],
    },
    /// There is no session with the key any more.
    Ended {
        /// The remote static key.
        peer: PublicKey,
    },
    /// A packet for an overlay address waits: there is no tunnel for it.
    Wanted {
        /// Its destination.
        address: IpAddr,
    },
    /// Somebody asks for a node by its name.
    WantedName {
        /// Its name.
        name: NodeName,
    },
    /// Packets went to or came from a peer; to be said at most once a second.
    Traffic {
        /// The peer's key.
        peer: PublicKey,
    },
    /// Authenticated data came from another address of the peer, and the engine sends there now: three times of what comes
    /// from there, until [`EngineChange::Use`] names it (control rule 10).
    Moved {
        /// The peer's key.
        peer: PublicKey,
        /// Where it is now.
        address: SocketAddr,
    },
    /// The answer to [`Output::Resolve`].
    Resolved {
        /// What was asked for.
        endpoint: HostEndpoint,
        /// Its addresses.
        addresses: Vec<SocketAddr>,
    },
    /// The machine's own addresses with our port, and prefixes into which nothing of ours may go: other tunnels.
    Local {
        /// Candidates.
        addresses: Vec<SocketAddr>,
        /// Prefixes of other tunnels' interfaces.
        forbidden: Vec<IpNet>,
    },
    /// A packet of a stock WireGuard peer that this node presents was brought on to a member; to be said again now and then
    /// while it goes on.
    Forwarded {
        /// The stock WireGuard peer's key.
        source: PublicKey,
        /// The member's key.
        destination: PublicKey,
    },
}

/// Something to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Seal and send a frame; to be dropped where there is no session with the key.
    Send(Outgoing),
    /// Change the data path.
    Engine(EngineChange),
    /// Write to disk before anything that follows is done.
    Save(Save),
    /// Somebody should look at this.
    Alarm(NodeAlarm),
    /// Resolve a name anew.
    Resolve(HostEndpoint),
    /// A frame for the authority of this machine. The answer goes back through [`super::Node::send`].
    Authority {
        /// The session's remote static key; this node's own where it asks for itself, which is as good as a session.
        from: PublicKey,
        /// Its handshake's hash, which a join proof signs.
        handshake_hash: [u8; 32],
        /// What is asked.
        frame: Frame,
    },
    /// The ticket for the new static key is there, or the old one is to be taken back: set the key in the engine, then call
    /// [`super::Node::change_key`].
    ChangeKey(PublicKey),
    /// The new static key has its membership, which was saved: the old one is of no use any more.
    KeyChanged(PublicKey),
    /// The join has ended.
    Joined(Result<(), JoinRefusal>),
    /// The membership has ended, as was asked.
    Left,
    /// Names have changed: [`super::Node::names`] has them.
    Names,
}

/// A change of the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineChange {
    /// The key is a member's: a provisional tunnel is promoted, packets that wait are delivered, and the peer is made
    /// where there is none (control rule 9).
    Install {
        /// The member's key.
        key: PublicKey,
        /// Its overlay addresses, and the subnets behind it that this node accepts.
        networks: BTreeSet<IpNet>,
        /// Until when the authorisation holds, at the confirmed time.
        until: UnixTime,
    },
    /// The key is nobody's any more: its tunnel is cut at once.
    Remove {
        /// The key.
        key: PublicKey,
    },
    /// The key is that of a stock WireGuard peer that this node presents (control rule 20): a peer as any configured one,
    /// whose packets to members, and those of members to it, are brought on. Said again when its addresses change.
    Attach {
        /// Its key.
        key: PublicKey,
        /// Its name.
        name: NodeName,
        /// Its overlay addresses.
        networks: BTreeSet<IpNet>,
    },
    /// A stock WireGuard peer is no member any more.
    Detach {
        /// Its key.
        key: PublicKey,
    },
    /// Send one initiation by each of these paths: copies of one message.
    Handshake {
        /// To whom.
        key: PublicKey,
        /// By which paths.
        paths: Vec<Path>,
    },
    /// Data goes by this path from now on. The peer has answered there: what limits an unproven path ends.
    Use {
        /// Whose data.
        key: PublicKey,
        /// The path.
        path: Path,
    },
    /// Packets that wait for this address are dropped: nobody has it.
    Drop {
        /// The address.
        address: IpAddr,
    },
}

/// Something to write, each in one write.
#[derive(Clone, Debug, PartialEq)]
pub enum Save {
    /// Documents with what they pin.
    Documents(SavedDocuments),
    /// One's own membership, signed.
    Membership(Vec<u8>),
    /// The confirmed time, and no other (control rule 18).
    Time(UnixTime),
    /// The epoch of one's announcements.
    Epoch(u64),
    /// A peer.
    Peer(SavedPeer),
    /// A peer is to be forgotten.
    Forget(NodeId),
}

/// What is written when a document was taken: a root key is of no use with an old document, nor the other way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDocuments {
    /// What is pinned.
    pub pins: Pins,
    /// The greatest version ever held.
    pub floor: Option<(Version, DocumentHash)>,
    /// The trust document, signed.
    pub trust: Option<Vec<u8>>,
    /// The network document, signed.
    pub network: Option<Vec<u8>>,
    /// The head, signed.
    pub head: Option<Vec<u8>>,
}

/// A peer on disk. The timestamps of its handshakes the data path keeps (control rule 10).
#[derive(Clone, Debug, PartialEq)]
pub struct SavedPeer {
    /// Its membership, signed.
    pub membership: Vec<u8>,
    /// Where it was last.
    pub endpoint: Option<SocketAddr>,
}

/// All that a node needs to come up without any server.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Documents and pins.
    pub documents: SavedDocuments,
    /// One's own membership.
    pub membership: Vec<u8>,
    /// The confirmed time.
    pub time: UnixTime,
    /// The last epoch of one's announcements.
    pub epoch: u64,
    /// Peers.
    pub peers: Vec<SavedPeer>,
}

/// Something that somebody should look at.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeAlarm {
    /// A conflict between what others signed or claim.
    Verifier(Alarm),
    /// What a lighthouse on this machine noticed.
    Lighthouse(LighthouseAlarm),
    /// A lighthouse has answered a look-up with what no authority has signed, or with somebody who was not asked for. Told once in an hour.
    FalseAnswer {
        /// The lighthouse's key.
        lighthouse: PublicKey,
    },
    /// The network document is older than it should be: somebody withholds it, or no authority is up.
    Stale,
    /// The system's clock cannot be right.
    Clock(ClockFault),
    /// More than half of the membership's life has passed without a renewal.
    NotRenewed {
        /// When it expires.
        not_after: UnixTime,
    },
    /// The authority does not renew.
    RenewalRefused(RenewRefusal),
    /// A peer does not take our membership.
    Refused {
        /// Whose key.
        peer: PublicKey,
        /// Why.
        reason: ShowRefusal,
        /// How far the peer's clock is ahead of ours, in seconds.
        clock_difference: i64,
    },
}

/// What a node does, and how much of it.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Peers at once, with those that are not known yet.
    pub peers: usize,
    /// Between keepalives to servers (control rule 13).
    pub keepalive: Duration,
    /// Between renewals, less jitter (control rule 16).
    pub renewal: Duration,
    /// A peer without traffic for so long is let go.
    pub idle: Duration,
    /// Between looks at what ends by itself: memberships, documents, idle peers.
    pub upkeep: Duration,
    /// Prefixes within which this node takes routes of the network, by [`admit_prefix`](crate::verifier::admit_prefix).
    pub accept_routes: Vec<IpNet>,
    /// Whether this machine is an authority: its frames are handed out.
    pub authority: bool,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            peers: 4096,
            keepalive: Duration::from_secs(25),
            renewal: Duration::from_secs(86_400),
            idle: Duration::from_secs(600),
            upkeep: Duration::from_secs(30),
            accept_routes: Vec::new(),
            authority: false,
        }
    }
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeStatus {
    /// Whether it is a member, and how its membership stands.
    pub membership: Option<Validity>,
    /// Version of the network document.
    pub network: Option<Version>,
    /// Whether that is older than it should be.
    pub stale: bool,
    /// Where others see us.
    pub observed: Vec<SocketAddr>,
    /// Peers.
    pub peers: Vec<PeerPath>,
    /// Frames that were dropped: malformed, or not the sender's to send.
    pub dropped: u64,
}

/// A peer's state, in brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPath {
    /// Its key.
    pub key: PublicKey,
    /// Whether there is a session.
    pub session: bool,
    /// Whether it is one of a verified member.
    pub verified: bool,
    /// The path in use.
    pub path: Option<Path>,
    /// The last round trip by it.
    pub round_trip: Option<Duration>,
    /// For how long that path has been in use.
    pub in_use: Option<Duration>,
    /// How many addresses of the peer are known, at which it may be reached directly.
    pub addresses: usize,
    /// How long ago it last answered at one of them.
    pub direct_answer: Option<Duration>,
}
