//! Where an authority keeps its register: one SQLite file (control rule 21).
//!
//! It carries out the [`Transaction`](tombolo_control::authority::Transaction)s of
//! [`Authority`](tombolo_control::authority::Authority): each whole or not at all, many with one commit, and answers
//! after the commit, when they are on the disk (`synchronous=FULL`, write-ahead log). It knows keys and records as bytes
//! with a revision each, and nothing of what they mean: another store with compare-and-set could stand in its
//! place. It keeps the audit log's chain, because it alone knows the order of the commits.
//!
//! The directory is for its owner alone (0700), as is the file (0600), and one process has it open. Backups are made
//! while the server runs, and are encrypted before they touch a disk.
//!
//! ```no_run
//! # use std::{path::Path, sync::mpsc};
//! # use tombolo_control::{SigningKey, authority::{Authority, Outcome}};
//! # use tombolo_noise::clock::Now;
//! # use tombolo_store::{Register, StoreError, Writer};
//! # fn run(state: &Path, issuer: SigningKey, now: Now) -> Result<(), Box<dyn std::error::Error>> {
//! # let mut rng = rand_chacha::ChaCha20Rng::from_seed([0; 32]); use rand_core::SeedableRng;
//! let register = Register::open(state)?;
//! let mut authority = Authority::new(issuer, register.snapshot()?, now)?;
//! let (answers, results) = mpsc::channel();
//! let writer = Writer::start(register, move |id, outcome| drop(answers.send((id, outcome))))?;
//! loop {
//!     // wait for frames, requests, results and the time-out; hand them to the authority; then:
//!     while let Some(transaction) = authority.poll_store() {
//!         let id = transaction.id;
//!         if writer.submit(transaction).is_err() {
//!             authority.handle_store(id, Outcome::Failed, now, &mut rng);
//!         }
//!     }
//!     let (id, outcome) = results.recv()?;
//!     authority.handle_store(id, outcome, now, &mut rng);
//! }
//! # }
//! ```
#![forbid(unsafe_code)]

mod backup;
mod error;
mod header;
mod inspection;
mod register;
mod sealed;
mod writer;

pub use backup::{backup, restore};
pub use error::StoreError;
pub use header::Header;
pub use inspection::{Inspection, inspect};
pub use register::{FILE, Register};
pub use sealed::{Identity, Recipient};
pub use writer::Writer;
