//! Accepting connections and handing requests to the daemon.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Gid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Answer, MAX_REQUEST, Request};

/// Connections at the same time at most; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// A client that sends nothing for so long is cut off.
const IDLE: Duration = Duration::from_secs(60);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User of the other end, as the kernel says.
    pub user: u32,
}

/// A request on its way to the daemon.
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub caller: Caller,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Binds the socket (replacing one that nobody listens on) and serves it on the current runtime until
/// the task is dropped. Requests go to `calls`. Beside root, `group` may connect; the process is to be in it.
///
/// # Errors
/// The socket cannot be bound or given to the group, or another daemon listens on it.
pub fn serve(
    path: &Path,
    group: Option<Gid>,
    calls: mpsc::Sender<Call>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon listens on it"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The daemon's umask made it the owner's alone; from here on its group may connect as well.
    if group.is_some() {
        rustix::fs::chown(path, None, group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    Ok(async move {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let calls = calls.clone();
                    tokio::spawn(async move {
                        // A broken connection concerns only the client, who sees it.
                        let _ = converse(stream, calls).await;
                        drop(slot);
                    });
                }
                // Out of descriptors, most likely: give others time to close some.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

async fn converse(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let caller = Caller { user: stream.peer_cred()?.uid() };
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut reader).take(MAX_REQUEST as u64);
        let read = tokio::time::timeout(IDLE, bounded.read_until(b'\n', &mut line)).await;
        let Ok(length) = read else { return Ok(()) };
        if length? == 0 {
            return Ok(());
        }
        let answer = if line.last() == Some(&b'\n') {
            answer(&line, caller, &calls).await
        } else {
            Answer::Error { message: format!("a request is one line of at most {MAX_REQUEST} bytes") }
        };
        let finished = line.last() != Some(&b'\n');
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writer.write_all(&text).await?;
        if finished {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], caller: Caller, calls: &mpsc::Sender<Call>) -> Answer {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return Answer::Error { message: format!("not a request: {error}") },
    };
    let own = rustix::process::geteuid().as_raw();
    if request.needs_privilege() && caller.user != 0 && caller.user != own {
        return Answer::Error { message: "only root may ask for this".to_owned() };
    }
    let (reply, answer) = oneshot::channel();
    let stopping = || Answer::Error { message: "the daemon is stopping".to_owned() };
    if calls.send(Call { request, caller, reply }).await.is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}
