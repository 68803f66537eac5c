//! The other end, for the command line: blocking, one connection per request.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Answer, MAX_ANSWER, Request};

/// Time for the daemon to answer, beyond what the request itself asks for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the network is not up.
    #[error("the network is not up (no daemon at {}): `tombolo up -n {}` starts it", .0.display(), network(.0))]
    NotRunning(PathBuf),
    /// The socket may not be used by this user.
    #[error(
        "not permitted to use {0}: run as root, or, to look only, as a member of `control_group` in [interface]"
    )]
    NotPermitted(PathBuf),
    /// The daemon ended in the middle.
    #[error(
        "the daemon ended before it answered: it was stopped, or it was killed and starts again; try once more"
    )]
    Ended,
    /// The connection broke.
    #[error("the daemon did not answer: {0}")]
    Io(#[from] io::Error),
    /// The answer is not one.
    #[error("the daemon's answer cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// `prod` of `/run/tombolo/prod.sock`.
fn network(socket: &Path) -> std::borrow::Cow<'_, str> {
    socket.file_stem().map_or("NETWORK".into(), |name| name.to_string_lossy())
}

/// Asks one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the daemon that listens on this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// See [`ClientError`]. An [`Answer::Error`] is an answer.
    pub fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        let stream = UnixStream::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted(self.socket.clone()),
            _ => ClientError::Io(error),
        })?;
        let extra = match request {
            Request::Probe { timeout_milliseconds, .. } | Request::Whois { timeout_milliseconds, .. } => {
                Duration::from_millis(*timeout_milliseconds)
            }
            _ => Duration::ZERO,
        };
        stream.set_read_timeout(Some(PATIENCE.saturating_add(extra)))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut answer = Vec::new();
        let exchange = (&stream)
            .write_all(&line)
            .and_then(|()| BufReader::new((&stream).take(MAX_ANSWER)).read_until(b'\n', &mut answer));
        match exchange {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
            {
                return Err(ClientError::Ended);
            }
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(ClientError::Ended),
            Ok(_) => {}
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
