//! A name server for the names of one network, and nothing else.
//!
//! It listens on the machine's own overlay addresses, answers `NAME.DOMAIN` from what the daemon knows or can look
//! up, and refuses every other question: it never forwards, so the system's own resolving cannot come to depend
//! on it (control rule 22). [`message`] is pure; `server` has the sockets; `resolved` tells systemd-resolved.

pub mod message;
pub(crate) mod resolved;
pub(crate) mod server;

use std::net::IpAddr;

use tokio::sync::oneshot;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The addresses of the member with this name.
    Addresses(Vec<IpAddr>),
    /// No member has it.
    Nobody,
    /// Nobody who would know could be asked.
    Unavailable,
}

/// A question for the daemon: who has this name? It is a member's name, in lower case, without the domain.
#[derive(Debug)]
pub struct NameQuery {
    /// The name.
    pub name: String,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Found>,
}
