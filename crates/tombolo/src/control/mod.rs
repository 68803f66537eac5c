//! The control socket `/run/tombolo/NETWORK.sock`: one JSON object per line, a request and its answer.
//!
//! A Unix socket with mode 0660, never TCP: a browser on the machine must not reach it. Whoever may
//! connect may look; only root and the daemon's own user may change anything.

mod client;
mod server;

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
    /// Whether it changes anything.
    pub fn needs_privilege(&self) -> bool {
        matches!(self, Self::Down | Self::Reload | Self::Admin { .. } | Self::Leave | Self::RotateKey)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_one_form() {
        let text = r#"{"request":"probe","peer":"db-2","timeout_milliseconds":1000}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(request, Request::Probe { peer: "db-2".to_owned(), timeout_milliseconds: 1000 });
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert!(serde_json::from_str::<Request>(r#"{"request":"format_disk"}"#).is_err());
        assert!(
            serde_json::from_str::<Request>(
                r#"{"request":"probe","peer":"a","timeout_milliseconds":1,"x":1}"#
            )
            .is_err()
        );
        assert!(Request::Down.needs_privilege());
        assert!(!Request::Status.needs_privilege());
    }
}
