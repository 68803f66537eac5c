//! The thread that writes: takes what has gathered, commits once, answers then.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tombolo_control::authority::{Outcome, Transaction, TransactionId};

use crate::{Recipient, Register, StoreError, backup};

/// Most transactions that wait.
const QUEUE_MAX: usize = 2048;

/// Most transactions of one commit: what is behind them waits for one sync of the disk at most.
const GROUP_MAX: usize = 256;

/// A register on a thread of its own.
pub struct Writer {
    queue: SyncSender<Transaction>,
    thread: JoinHandle<Register>,
    path: PathBuf,
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
        let thread = std::thread::Builder::new()
            .name("tombolo-store".to_owned())
            .spawn(move || run(register, &waiting, answer))
            .map_err(|error| StoreError::Io { path: path.clone(), error })?;
        Ok(Self { queue, thread, path })
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

    /// A backup, encrypted, while the register is written to.
    ///
    /// # Errors
    /// When it cannot be read or encrypted.
    pub fn backup(&self, recipient: &Recipient) -> Result<Vec<u8>, StoreError> {
        backup(&self.path, recipient)
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
    mut answer: impl FnMut(TransactionId, Outcome),
) -> Register {
    while let Ok(first) = waiting.recv() {
        let group: Vec<Transaction> =
            std::iter::once(first).chain(waiting.try_iter().take(GROUP_MAX - 1)).collect();
        for (id, outcome) in register.execute(&group) {
            answer(id, outcome);
        }
    }
    register
}
