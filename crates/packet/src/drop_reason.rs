//! Why a packet was not delivered. Every drop has a reason, and every reason has a counter.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a packet was dropped. The data path counts these and logs nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The reason as it stands in `status` and in the metrics: `snake_case`, stable.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// What the reason means, for people.
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// A datagram of no known type or of a wrong length (requirement 1).
    MalformedMessage => "malformed_message",
    /// A handshake message whose mac1 does not match (requirement 13).
    InvalidMac1 => "invalid_mac1",
    /// A handshake message without a valid mac2 while under load; a cookie was sent (requirement 13).
    CookieRequired => "cookie_required",
    /// A handshake message beyond the rate of its source, or one without a valid mac2 beyond what is answered with cookies (requirement 13).
    RateLimited => "rate_limited",
    /// A handshake message that found the handshake queue full.
    HandshakeQueueFull => "handshake_queue_full",
    /// A handshake message that did not authenticate.
    HandshakeFailed => "handshake_failed",
    /// An initiation of a static key that is not a peer (requirement 15).
    UnknownPeer => "unknown_peer",
    /// An initiation whose timestamp is not newer than the last one (requirement 11).
    StaleTimestamp => "stale_timestamp",
    /// An initiation whose timestamp is further ahead of our clock than is allowed (requirement 11).
    TimestampAhead => "timestamp_ahead",
    /// An initiation of an unknown key while as many provisional tunnels exist as may, in all or for its source.
    ProvisionalLimit => "provisional_limit",
    /// A handshake message of no known source beyond a quarter of the handshake time.
    ProvisionalBudget => "provisional_budget",
    /// An initiation within 20 ms of the last one of the same peer (requirement 11).
    InitiationFlood => "initiation_flood",
    /// A response or cookie reply that answers nothing we sent, or answers it twice (requirement 27).
    UnexpectedResponse => "unexpected_response",
    /// A cookie reply that did not authenticate.
    InvalidCookieReply => "invalid_cookie_reply",
    /// Transport data for a receiver index that nobody holds.
    UnknownReceiverIndex => "unknown_receiver_index",
    /// Transport data whose tag does not match.
    InvalidTag => "invalid_tag",
    /// Transport data whose counter was seen before or is too old (requirement 16).
    ReplayedCounter => "replayed_counter",
    /// Transport data for a keypair past its time or its messages (requirements 2 and 4).
    ExpiredKeypair => "expired_keypair",
    /// An inner packet that is not a well-formed IP packet.
    MalformedPacket => "malformed_packet",
    /// An inner packet without ECN in a datagram that the network marked as congested (requirement 21).
    CongestionMarked => "congestion_marked",
    /// An inner source address that is not the peer's (requirement 18).
    SourceNotAllowed => "source_not_allowed",
    /// An inner packet of a peer whose membership was not shown, was refused or has ended.
    NotAuthorised => "not_authorised",
    /// An inner packet of a peer that is not verified yet, and of which enough wait for that (control rule 9).
    TooManyHeld => "too_many_held",
    /// A message beyond three times of what came from a path that is not proven yet.
    PathUnproven => "path_unproven",
    /// A control frame that is malformed, of no known type, or of a peer that is not to send any (control rule 11).
    UnknownFrame => "unknown_frame",
    /// A control frame that found too many others waiting.
    FrameQueueFull => "frame_queue_full",
    /// An outgoing packet whose destination no peer has.
    NoRoute => "no_route",
    /// An outgoing packet for an address of the overlay to which no tunnel came about in time.
    NoTunnel => "no_tunnel",
    /// An outgoing packet that found too many others waiting for a tunnel.
    HoldingQueueFull => "holding_queue_full",
    /// An outgoing packet for a peer with no known endpoint.
    NoEndpoint => "no_endpoint",
    /// An outgoing packet pushed out of the full staging queue (requirement 22).
    StagingQueueFull => "staging_queue_full",
    /// An outgoing packet pushed out of the full queue in front of encryption; the flow that held most loses.
    OutboundQueueFull => "outbound_queue_full",
    /// An outgoing packet whose handshake was given up after 90 s (requirement 6).
    HandshakeAbandoned => "handshake_abandoned",
    /// A packet larger than the MTU that cannot be split.
    PacketTooBig => "packet_too_big",
    /// A relayed datagram that is malformed, or contains no WireGuard message (control rule 14).
    MalformedRelayed => "malformed_relayed",
    /// A relayed datagram of a pair without permission, or by a peer that is no relay (control rule 14).
    RelayRefused => "relay_refused",
    /// A relayed datagram beyond what its pair may send (control rule 14).
    RelayLimited => "relay_limited",
    /// A relayed datagram that is to be relayed once more (control rule 14).
    RelayNested => "relay_nested",
    /// A datagram for a peer behind a relay, where there is no session with the relay, or the relay's with its destination.
    RelayUnreachable => "relay_unreachable",
    /// The operating system refused a datagram.
    UdpSendFailed => "udp_send_failed",
    /// The operating system refused a packet on the TUN.
    TunWriteFailed => "tun_write_failed",
    /// A packet out of the TUN while the interface is down or there is no private key.
    NotReady => "not_ready",
}

/// One counter per [`DropReason`], shared between threads.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DropCounters {
    /// Counts one packet.
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `packets` packets.
    pub fn add(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// Packets dropped so far for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// All reasons with their counts, in the order of [`DropReason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }
}
