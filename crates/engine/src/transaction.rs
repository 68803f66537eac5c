//! Changes to a running engine, one-to-one with the standard configuration protocol's `set`.

use std::io;
use std::net::SocketAddr;

use ipnet::IpNet;
use tombolo_noise::clock::Instant;
use tombolo_noise::{PresharedKey, PrivateKey, PublicKey, Tai64n};

/// A change that is applied as one: readers see all of it or nothing.
#[derive(Default)]
pub struct Transaction {
    /// Sets (`Some(Some)`) or removes (`Some(None)`) the private key.
    pub private_key: Option<Option<PrivateKey>>,
    /// Binds the sockets to this port; 0 lets the system pick one.
    pub listen_port: Option<u16>,
    /// Firewall mark of the datagrams; 0 removes it.
    pub firewall_mark: Option<u32>,
    /// Removes every static peer that `peers` does not name. Members stay.
    pub replace_peers: bool,
    /// Changes to peers, in order.
    pub peers: Vec<PeerChange>,
}

/// Adds, changes or removes one peer.
pub struct PeerChange {
    /// Which peer.
    pub public_key: PublicKey,
    /// Removes it; everything else is ignored.
    pub remove: bool,
    /// Changes it only if it is there already.
    pub update_only: bool,
    /// The peer is there by membership, not by configuration. A static peer stays one; without this, and without
    /// `update_only`, one that is there by membership becomes static.
    pub member: Option<MemberChange>,
    /// A new preshared key; all zeros for none.
    pub preshared_key: Option<PresharedKey>,
    /// A new endpoint.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between persistent keepalives; 0 switches them off.
    pub persistent_keepalive: Option<u16>,
    /// Removes all allowed IPs before `allowed_ips` is applied.
    pub replace_allowed_ips: bool,
    /// Networks to add or remove, in order. A network that another peer holds moves here.
    pub allowed_ips: Vec<AllowedIpChange>,
    /// Greatest TAI64N received from the peer, from before a restart (requirement 11).
    pub last_received_timestamp: Option<Tai64n>,
    /// Greatest TAI64N that may have been sent to the peer before a restart.
    pub last_sent_timestamp: Option<Tai64n>,
    /// Whether the peer is another Tombolo, which is sent control frames and whose frames are read (control rule 11).
    /// A new peer is not.
    pub tombolo: Option<bool>,
    /// How fast to send to the peer at most, in bits per second of datagrams with their IP headers; 0: as fast as
    /// can be.
    pub rate_limit: Option<u64>,
    /// Whether the peer is a relay for us: it may bring datagrams of other peers, and is sent ours for them (control rule 14). A
    /// new peer is not.
    pub relay: Option<bool>,
    /// Whether the peer has a tunnel with this machine alone, which is its gateway: its packets for others are brought on into their tunnels,
    /// and theirs for it ([`EngineHandle::set_gateway`](crate::EngineHandle::set_gateway)). A new peer has not.
    pub forward: Option<bool>,
    /// Starts a handshake at once if there is an endpoint.
    pub initiate: bool,
    /// The same, unless there is a session already.
    pub call: bool,
}

impl PeerChange {
    /// A change that adds the peer if it is not there, and alters nothing else.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            member: None,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
            last_received_timestamp: None,
            last_sent_timestamp: None,
            tombolo: None,
            relay: None,
            forward: None,
            rate_limit: None,
            initiate: false,
            call: false,
        }
    }
}

/// What the control plane knows of a peer (control rule 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Its key, from a membership or a token: we may initiate, and send control frames. A member stays one.
    Unverified,
    /// Its membership was verified against the key of its session: packets go both ways until then, by the boot clock.
    Verified {
        /// The end.
        not_after: Instant,
    },
}

/// One network of a peer's allowed IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedIpChange {
    /// The network; host bits are cleared.
    pub network: IpNet,
    /// Removes it from this peer instead of adding it.
    pub remove: bool,
}

/// Why a [`Transaction`] was not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The port could not be bound; nothing was changed.
    #[error("UDP port {port} cannot be bound: {source}")]
    Bind {
        /// The port asked for.
        port: u16,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The mark could not be set (it needs `CAP_NET_ADMIN`); nothing was changed.
    #[error("firewall mark {mark:#x} cannot be set on the UDP sockets: {source}")]
    Mark {
        /// The mark asked for.
        mark: u32,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}
