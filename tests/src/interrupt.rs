//! Whether somebody asked us to stop (Ctrl-C). Every wait in this library ends early then, with an
//! error, so that values are dropped in order and clean up after themselves.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::bail;

use crate::Result;

static FLAG: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The flag for a signal handler to raise.
pub fn flag() -> Arc<AtomicBool> {
    Arc::clone(&FLAG)
}

/// Whether the flag is raised.
pub fn requested() -> bool {
    FLAG.load(Ordering::Relaxed)
}

/// An error once the flag is raised.
pub fn check() -> Result {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}
