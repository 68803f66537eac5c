//! The thread that writes: takes what has gathered, commits once, answers then.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tombolo_control::authority::{Outcome, Transaction, TransactionId};

use crate::{Register, StoreError};

/// Most transactions that wait.
const QUEUE_MAX: usize = 2048;

/// Most transactions of one commit: what is behind them waits for one sync of the disk at most.
const GROUP_MAX: usize = 256;

/// A register on a thread of its own.
pub struct Writer {
    queue: SyncSender<Transaction>,
    thread: JoinHandle<Register>,
    path: PathBuf,
    failure: Arc<Mutex<Option<String>>>,
}

impl Writer {
    /// Starts the thread. `answer` is called on it with what came of each transaction, after the commit: it is to hand
    /// that to the authority's loop and to return.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        register: Register,
        answer: impl FnMut(TransactionId, Outcome) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = register.path().to_owned();
        let (queue, waiting) = sync_channel(QUEUE_MAX);
        let failure = Arc::new(Mutex::new(None));
        let note = Arc::clone(&failure);
        let thread = std::thread::Builder::new()
            .name("tombolo-store".to_owned())
            .spawn(move || run(register, &waiting, &note, answer))
            .map_err(|error| StoreError::Io { path: path.clone(), error })?;
        Ok(Self { queue, thread, path, failure })
    }

    /// Hands over a transaction; gives it back when too many wait, or the thread has ended.
    ///
    /// # Errors
    /// The transaction: its outcome is [`Outcome::Failed`].
    pub fn submit(&self, transaction: Transaction) -> Result<(), Box<Transaction>> {
        self.queue.try_send(transaction).map_err(|error| match error {
            TrySendError::Full(transaction) | TrySendError::Disconnected(transaction) => {
                Box::new(transaction)
            }
        })
    }

    /// Why nothing can be written at the moment: a full disk, say. None once something was.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the thread when all that was handed over is done, and gives the register back; none if the thread died.
    pub fn stop(self) -> Option<Register> {
        drop(self.queue);
        self.thread.join().ok()
    }
}

fn run(
    mut register: Register,
    waiting: &Receiver<Transaction>,
    failure: &Mutex<Option<String>>,
    mut answer: impl FnMut(TransactionId, Outcome),
) -> Register {
    while let Ok(first) = waiting.recv() {
        let group: Vec<Transaction> =
            std::iter::once(first).chain(waiting.try_iter().take(GROUP_MAX - 1)).collect();
        let outcomes = register.execute(&group);
        let reason = register.take_failure().map(|error| error.to_string());
        *failure.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        for (id, outcome) in outcomes {
            answer(id, outcome);
        }
    }
    register
}
