//! The control socket `/run/tombolo/NETWORK.sock`: one JSON object per line, a request and its answer.
//!
//! A Unix socket with mode 0660, never TCP: a browser on the machine must not reach it. Whoever may connect, root and the
//! configured group, may look; only root and the daemon's own user may change anything (control rule 22).

mod client;
mod server;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::report::StatusReport;

pub use client::{Client, ClientError};
pub use server::{Call, Caller, serve};

/// Bytes of a request at most.
pub const MAX_REQUEST: usize = 4096;
/// Bytes of an answer at most.
pub const MAX_ANSWER: u64 = 256 << 20;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The state of everything.
    Status,
    /// Does this peer answer through the tunnel?
    Probe {
        /// Its name, or its public key.
        peer: String,
        /// For how long to wait.
        timeout_milliseconds: u64,
    },
    /// Who is behind an overlay address?
    Whois {
        /// The address.
        address: std::net::IpAddr,
        /// For how long to look for somebody who is not known yet.
        #[serde(default)]
        timeout_milliseconds: u64,
    },
    /// An administrator's request, as the frame that would carry it, in hexadecimal digits.
    Admin {
        /// The frame.
        frame: String,
    },
    /// End the membership.
    Leave,
    /// Change this machine's static key.
    RotateKey,
    /// Stop. Interface and guard stay.
    Down,
    /// Read the configuration anew.
    Reload,
}

impl Request {
    /// Whether it changes anything, or shows more than who is there and how it is reached.
    pub fn needs_privilege(&self) -> bool {
        match self {
            Self::Status | Self::Probe { .. } | Self::Whois { .. } => false,
            Self::Admin { .. } | Self::Leave | Self::RotateKey | Self::Down | Self::Reload => true,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To `status`.
    Status {
        /// The report.
        report: Box<StatusReport>,
    },
    /// To a `probe` that was answered.
    Probe {
        /// Round trip in seconds.
        round_trip_seconds: f64,
        /// The overlay address that answered.
        address: String,
        /// Where the peer is on the underlay, where it is reached directly.
        endpoint: Option<String>,
        /// The relay by which it is reached otherwise: its name, or its key.
        #[serde(default)]
        relay: Option<String>,
        /// Why it is not reached directly.
        #[serde(default)]
        not_direct: Option<String>,
        /// The gateway behind which it is, being a stock WireGuard peer; the way is the gateway's.
        #[serde(default)]
        gateway: Option<String>,
    },
    /// To a `probe` that was not answered: worth trying again.
    NoAnswer {
        /// Why.
        reason: String,
    },
    /// To `whois`.
    Whois {
        /// The node's id.
        node: String,
        /// Its name.
        name: String,
        /// Its groups.
        groups: Vec<String>,
        /// Its static key.
        public_key: String,
    },
    /// To `admin`: the frame that answers it, in hexadecimal digits.
    Admin {
        /// The frame.
        frame: String,
    },
    /// To `down`, `reload`, `leave` and `rotate_key`.
    Done,
    /// The request cannot be met.
    Error {
        /// Why.
        message: String,
    },
}

impl Answer {
    /// Of an answer that gives nothing of what was asked for: why not.
    pub(crate) fn complaint(self) -> String {
        match self {
            Self::Error { message } => message,
            _ => "the daemon gave another answer".to_owned(),
        }
    }
}
