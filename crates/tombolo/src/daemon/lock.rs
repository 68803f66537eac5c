//! One daemon per network.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

/// A lock that ends with the process, however it ends.
pub(crate) struct Lock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("another daemon (process {0}) runs this network already")]
    Held(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes the lock, and writes our process number for the next one to be told.
    pub(crate) fn take(path: &Path) -> Result<Self, LockError> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.take(32).read_to_string(&mut holder)?;
                let holder = holder.trim();
                return Err(LockError::Held(if holder.is_empty() { "unknown" } else { holder }.to_owned()));
            }
            Err(error) => return Err(io::Error::from(error).into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }

    /// Takes the lock, and waits a while for a holder that was killed: its lock goes with the last of its
    /// descriptors, and closing a TUN device takes the kernel its time.
    pub(crate) fn take_patiently(path: &Path) -> Result<Self, LockError> {
        const PAUSE: Duration = Duration::from_millis(20);
        /// The signal may be on its way only.
        const TRIES_FOR_ALL: u32 = 10;
        const TRIES_FOR_THE_DYING: u32 = 500;
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::take(path) {
                Err(LockError::Held(holder))
                    if tries < TRIES_FOR_ALL || tries < TRIES_FOR_THE_DYING && is_dying(&holder) =>
                {
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    /// Whether somebody holds the lock.
    pub(crate) fn is_held(path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }
}

/// Whether a process has been killed and not quite ended. One that cannot be seen (it has ended since, or
/// runs in another process namespace) is not called dying: the next attempt tells.
fn is_dying(process: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    // proc_pid_stat(5): the state follows the name, which is in brackets and may hold anything.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('Z' | 'X' | 'x'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prod.lock");
        assert!(!Lock::is_held(&path));
        let lock = Lock::take(&path).unwrap();
        let message = Lock::take(&path).err().unwrap().to_string();
        assert_eq!(
            message,
            format!("another daemon (process {}) runs this network already", std::process::id())
        );
        assert!(Lock::is_held(&path));
        drop(lock);
        assert!(!Lock::is_held(&path));
        Lock::take(&path).unwrap();
    }
}
