//! Telling a node who is about to call it (control rule 13).

use tombolo_noise::clock::Instant;

use super::Lighthouse;
use crate::document::{Membership, Verified};
use crate::frame::{CANDIDATES_MAX, Frame, Introduce};
use crate::path::{Outgoing, Path};

impl Lighthouse {
    /// Tells `target` of `asker`, so that both open their ways at once. Within the budgets of both.
    pub(super) fn introduce(
        &mut self,
        asker: &Verified<Membership>,
        asker_path: Path,
        target: &Verified<Membership>,
        now: Instant,
    ) {
        if !self.memory.is_here(&target.node, now) {
            return;
        }
        if !self.introductions_by.take(asker.node, now) || !self.introductions_of.take(target.node, now) {
            self.counters.introductions_limited += 1;
            return;
        }
        self.counters.introductions += 1;
        let mut candidates = self.memory.candidates(&asker.node, now);
        // The asker may be quicker with its look-up than with its first keepalive.
        if let Path::Direct(observed) = asker_path
            && !candidates.contains(&observed)
        {
            candidates.insert(0, observed);
            candidates.truncate(CANDIDATES_MAX);
        }
        let frame = Frame::Introduce(Introduce {
            node: asker.node,
            key: asker.key,
            candidates,
            membership: asker.encoded().to_vec(),
        });
        self.outbox.push_back(Outgoing { to: target.key, path: None, frame });
    }
}
