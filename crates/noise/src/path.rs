//! Where a peer is, and how much may go there before it has shown that it is there (control rules 8 and 10).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tombolo_packet::Endpoint;

/// Bytes that may go out for each byte that came in while the path is not proven.
const AMPLIFICATION: u64 = 3;

/// The allowance of a path that is proven, or that nobody asks proof of.
const UNLIMITED: u64 = u64::MAX;

/// An endpoint together with its allowance, so that both change at once.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) endpoint: Endpoint,
    /// Bytes that may still go there. Shared by copies that differ in our own address alone.
    allowance: Arc<AtomicU64>,
}

impl Path {
    /// As much as one likes may go there.
    pub(crate) fn unlimited(endpoint: Endpoint) -> Self {
        Self { endpoint, allowance: Arc::new(AtomicU64::new(UNLIMITED)) }
    }

    /// Nothing may go there yet: see [`Path::note_received`].
    pub(crate) fn unproven(endpoint: Endpoint) -> Self {
        Self { endpoint, allowance: Arc::new(AtomicU64::new(0)) }
    }

    /// The same path, from another address of ours.
    pub(crate) fn with_endpoint(&self, endpoint: Endpoint) -> Self {
        Self { endpoint, allowance: Arc::clone(&self.allowance) }
    }

    /// Whether only a multiple of what came in may go out.
    pub(crate) fn is_limited(&self) -> bool {
        self.allowance.load(Ordering::Relaxed) != UNLIMITED
    }

    /// Lifts the limit.
    pub(crate) fn lift(&self) {
        self.allowance.store(UNLIMITED, Ordering::Relaxed);
    }

    /// `bytes` came from there, authenticated.
    pub(crate) fn note_received(&self, bytes: u64) {
        self.change(|allowance| {
            let more = allowance.saturating_add(bytes.saturating_mul(AMPLIFICATION));
            Some(more.min(UNLIMITED - 1))
        });
    }

    /// Takes `bytes` off the allowance; `false`, and nothing taken, if there is less.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        !self.is_limited() || self.change(|allowance| allowance.checked_sub(bytes))
    }

    /// Changes an allowance that is not unlimited. `false` if it could not be changed.
    fn change(&self, to: impl Fn(u64) -> Option<u64>) -> bool {
        self.allowance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |allowance| match allowance {
                UNLIMITED => Some(UNLIMITED),
                limited => to(limited),
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::new(([192, 0, 2, 1], port).into())
    }

    #[test]
    fn three_times_what_came_in_goes_out_control_rule_10() {
        let path = Path::unproven(endpoint(1));
        assert!(path.is_limited() && !path.take(1) && path.take(0));
        path.note_received(100);
        assert!(path.take(200) && !path.take(101) && path.take(100) && !path.take(1));
        // No sum of what comes in makes it unlimited.
        path.note_received(u64::MAX);
        path.note_received(u64::MAX);
        assert!(path.is_limited());
        path.lift();
        assert!(!path.is_limited() && path.take(u64::MAX) && path.take(u64::MAX));
        path.note_received(1);
        assert!(!path.is_limited(), "what is lifted stays lifted");
    }

    #[test]
    fn another_address_of_ours_is_the_same_path() {
        let path = Path::unproven(endpoint(1));
        path.note_received(10);
        let same = path.with_endpoint(endpoint(1));
        assert!(same.take(30) && !path.take(1));
    }
}
