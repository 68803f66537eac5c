//! The socket `/var/run/wireguard/IF.sock`, mode 0600.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tombolo_engine::{ApplyError, EngineHandle, EngineStatus, Stopped, Transaction};
use zeroize::Zeroizing;

use super::parse::{MAX_REQUEST, Request, UapiError, parse_request};
use super::{format_errno, format_status};

/// Connections at the same time at most.
const MAX_CONNECTIONS: usize = 32;

/// The engine that runs now. The daemon starts another one when its device was deleted; in between
/// there is none, since a handle keeps the UDP port.
#[derive(Clone)]
pub struct EngineSlot(Arc<Mutex<Option<EngineHandle>>>);

impl EngineSlot {
    /// Holds a handle.
    pub fn new(handle: EngineHandle) -> Self {
        Self(Arc::new(Mutex::new(Some(handle))))
    }

    /// The engine of the moment.
    ///
    /// # Errors
    /// There is none.
    pub fn handle(&self) -> Result<EngineHandle, Stopped> {
        self.lock().clone().ok_or(Stopped)
    }

    /// [`EngineHandle::apply`].
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn apply(&self, transaction: Transaction) -> Result<(), ApplyError> {
        self.handle().map_err(|Stopped| ApplyError::Stopped)?.apply(transaction)
    }

    /// [`EngineHandle::status`].
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn status(&self) -> Result<EngineStatus, Stopped> {
        self.handle()?.status()
    }

    /// Puts another engine in its place, or none.
    pub fn replace(&self, handle: Option<EngineHandle>) {
        *self.lock() = handle;
    }

    fn lock(&self) -> MutexGuard<'_, Option<EngineHandle>> {
        // Nobody panics while holding it, and a handle is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The directory in which `wg` looks, or `TOMBOLO_UAPI_DIR`.
pub fn socket_directory() -> PathBuf {
    std::env::var_os("TOMBOLO_UAPI_DIR")
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from("/var/run/wireguard"), PathBuf::from)
}

/// What `wg` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Change,
    /// See all but the private key: the peers are members, and come and go by the control plane (control rule 22).
    Look,
}

/// A socket that is being served; removed when dropped.
pub struct UapiSocket {
    path: PathBuf,
    inode: Option<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl UapiSocket {
    /// Binds the socket of an interface, replacing one that nobody listens on, and serves it.
    ///
    /// # Errors
    /// `AddrInUse` when a live one is there, or those of the system calls.
    pub fn open(interface: &str, engine: EngineSlot, access: Access) -> io::Result<Self> {
        let directory = socket_directory();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let path = directory.join(format!("{interface}.sock"));
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{} belongs to another running program", path.display()),
            ));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Bound under another name and closed to others before anyone can find it.
        let hidden = directory.join(format!(".{interface}.{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden)?;
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&hidden, &path)?;
        let task = tokio::spawn(accept(listener, engine, access));
        Ok(Self { inode: inode(&path), path, task })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file at its path is still this socket, and not removed or replaced.
    pub fn is_in_place(&self) -> bool {
        self.inode.is_some() && inode(&self.path) == self.inode
    }
}

impl Drop for UapiSocket {
    fn drop(&mut self) {
        self.task.abort();
        // One that somebody else has put there since is theirs.
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    path.symlink_metadata().ok().map(|metadata| metadata.ino())
}

async fn accept(listener: UnixListener, engine: EngineSlot, access: Access) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let engine = engine.clone();
                tokio::spawn(async move {
                    // A broken connection concerns only the client, who sees it.
                    let _ = converse(stream, engine, access).await;
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Several operations may follow each other on one connection.
async fn converse(stream: UnixStream, engine: EngineSlot, access: Access) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(operation) = read_operation(&mut reader).await? {
        let Some(bytes) = operation else {
            return writer.write_all(format_errno(Err(UapiError::Protocol)).as_bytes()).await;
        };
        let engine = engine.clone();
        let answer = tokio::task::spawn_blocking(move || perform(&bytes, &engine, access)).await;
        let answer = answer.unwrap_or_else(|_| Zeroizing::new(format_errno(Err(UapiError::Io))));
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// The lines of one operation, without the empty one that ends it. Outer `None`: the client is done;
/// inner: it sent too much, or closed in the middle.
async fn read_operation(
    reader: &mut (impl tokio::io::AsyncBufRead + Unpin),
) -> io::Result<Option<Option<Zeroizing<Vec<u8>>>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    loop {
        let start = bytes.len();
        let room = (MAX_REQUEST + 1 - start) as u64;
        let mut bounded = (&mut *reader).take(room);
        let length = bounded.read_until(b'\n', &mut bytes).await?;
        if length == 0 {
            return Ok((start > 0).then_some(None));
        }
        match &bytes[start..] {
            b"\n" if start == 0 => bytes.clear(),
            b"\n" => {
                bytes.truncate(start);
                return Ok(Some(Some(bytes)));
            }
            line if line.ends_with(b"\n") && bytes.len() <= MAX_REQUEST => {}
            _ => return Ok(Some(None)),
        }
    }
}

fn perform(bytes: &[u8], engine: &EngineSlot, access: Access) -> Zeroizing<String> {
    let scope = |name: &str| {
        std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
    };
    // The name stands in a path: nothing that could lead elsewhere.
    let checked = |name: &str| if crate::config::valid_interface_name(name) { scope(name) } else { None };
    match parse_request(bytes, &checked) {
        Ok(Request::Get) => match engine.status() {
            Ok(mut status) => {
                if access == Access::Look {
                    status.private_key = None;
                }
                format_status(&status)
            }
            Err(_) => Zeroizing::new(format_errno(Err(UapiError::Io))),
        },
        Ok(Request::Set(_)) if access == Access::Look => {
            Zeroizing::new(format_errno(Err(UapiError::ReadOnly)))
        }
        Ok(Request::Set(transaction)) => {
            let result = engine.apply(transaction).map_err(|error| match error {
                ApplyError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                    UapiError::PortInUse
                }
                _ => UapiError::Io,
            });
            Zeroizing::new(format_errno(result))
        }
        Err(error) => Zeroizing::new(format_errno(Err(error))),
    }
}
