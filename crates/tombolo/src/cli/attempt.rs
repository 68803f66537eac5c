//! One attempt to join a network at a time. One that is interrupted leaves nothing behind that runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, up};
use crate::daemon::lock::{Lock, LockError};
use crate::membership::MembershipState;
use crate::paths::Directories;

/// What a shell says of a program that was interrupted: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
/// A daemon that is only starting does not listen yet.
const TRIES_TO_HALT: u32 = 3;

/// Held while a join is under way.
pub(super) struct Attempt {
    /// Set by whoever comes first: the end, or an interruption.
    ended: Arc<AtomicBool>,
    _lock: Lock,
}

impl Attempt {
    /// Begins one. An earlier one whose command is gone, so that only its daemon goes on trying, gives way.
    ///
    /// # Errors
    /// Another one is under way, or the daemon of an earlier one does not end.
    pub(super) fn begin(directories: &Directories, network: &str) -> Result<Self, Failure> {
        let path = directories.join_lock_file(network);
        let lock = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let lock = lock.map_err(LockError::from).and_then(|()| Lock::take(&path)).map_err(|error| match error {
            LockError::Held(process) => Failure::Mistake(format!(
                "`tombolo join` (process {process}) is under way for `{network}`: wait for it, or interrupt it"
            )),
            LockError::Io(error) => Failure::runtime(format!("{} cannot be locked", path.display()), error),
        })?;
        if is_unfinished(directories, network) {
            give_up(directories, network)?;
        }
        let ended = Arc::new(AtomicBool::new(false));
        watch(directories.clone(), network.to_owned(), Arc::clone(&ended))
            .map_err(|error| Failure::runtime("signals cannot be watched", error))?;
        Ok(Self { ended, _lock: lock })
    }

    /// The join has ended: an interruption from now on takes nothing back. Does not return where one is taking it back.
    pub(super) fn end(&self) {
        while self.ended.swap(true, Ordering::SeqCst) {
            // The other thread has what there is to say, and ends the process.
            std::thread::park();
        }
    }
}

/// Whether there is a configuration here whose machine has not been let in yet.
pub(super) fn is_unfinished(directories: &Directories, network: &str) -> bool {
    // Opening the state makes its directory.
    directories.config_file(network).exists()
        && MembershipState::open(&directories.state_directory(network))
            .is_ok_and(|state| !state.is_member() && state.pending_join().is_ok_and(|join| join.is_some()))
}

/// Key and token stay: the token may have been spent with that key.
fn give_up(directories: &Directories, network: &str) -> Result<(), Failure> {
    // First, so that a daemon which has not read it yet does not come up.
    match std::fs::remove_file(directories.config_file(network)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::runtime("the configuration cannot be removed", error));
        }
        _ => {}
    }
    let mut halted = Ok(());
    for _ in 0..TRIES_TO_HALT {
        halted = up::halt(directories, network);
        if halted.is_ok() {
            break;
        }
    }
    halted
}

fn watch(directories: Directories, network: String, ended: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        if !ended.swap(true, Ordering::SeqCst) {
            match give_up(&directories, &network) {
                Ok(()) => eprintln!(
                    "tombolo: interrupted; this machine's key is kept, and with it the same token is good for another try"
                ),
                Err(failure) => eprintln!("tombolo: interrupted, but {failure}"),
            }
        }
        std::process::exit(INTERRUPTED)
    })?;
    Ok(())
}
