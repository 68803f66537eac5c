//! Why a socket could not be made.

use std::io;

/// A UDP socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another program holds the port.
    #[error("UDP port {port} is in use by another program")]
    PortInUse {
        /// The port that was asked for.
        port: u16,
    },
    /// The system refused the socket or one of the options it cannot do without.
    #[error("cannot bind UDP port {port}: {step}: {source}")]
    System {
        /// The port that was asked for.
        port: u16,
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
