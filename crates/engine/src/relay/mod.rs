//! Relayed datagrams (control rule 14): what two peers that cannot reach each other send through the tunnels that both have with a third.
//!
//! A peer that is reached so has an endpoint that names the relay's slot and its own node id
//! ([`Endpoint::relayed`](tombolo_packet::Endpoint::relayed)): handshakes, cookies, limits and sessions take it for an address like any other. What
//! is sealed for it is sealed once more, for the relay, by [`Via`]; what a relay brings is taken by [`Taken`]; what is to be
//! brought on is sealed for the other end by [`Forwarder`].

mod forward;
mod rounds;
mod table;
mod taken;
mod via;

pub(crate) use forward::Forwarder;
pub use table::{RelayGrant, RelayPermissions};
pub(crate) use table::{RelayTable, Relays};
pub(crate) use taken::Taken;
pub(crate) use via::{RELAY_OVERHEAD, Via};

use tombolo_packet::DropReason;
use tombolo_packet::relay::RelayDrop;

fn drop_reason(drop: RelayDrop) -> DropReason {
    match drop {
        RelayDrop::Malformed | RelayDrop::NotWireGuard => DropReason::MalformedRelayed,
        RelayDrop::Initiations | RelayDrop::Bytes => DropReason::RelayLimited,
    }
}
