//! Attempts that change nothing and stand in the audit log all the same: somebody should look at them.

use std::collections::HashMap;
use std::time::Duration;

use tombolo_noise::clock::UnixTime;

use super::audit::{Change, ChangeKind};
use super::mirror::Plan;
use super::{Decision, Effect, Event, after};
use crate::{KeyId, NodeId};

/// For so long more of the same makes no other entry: whoever tries on and on fills no disk.
const PAUSE: Duration = Duration::from_secs(3600);
/// Incidents that are remembered, and so entries within [`PAUSE`].
const MAX: usize = 256;

/// What has an entry of late.
#[derive(Debug, Default)]
pub(super) struct Incidents(HashMap<(ChangeKind, Option<NodeId>, Option<KeyId>), UnixTime>);

impl Incidents {
    /// Whether it is to be written down: it was not of late.
    fn is_new(&mut self, change: &Change) -> bool {
        let time = change.time;
        self.0.retain(|_, until| *until > time);
        let incident = (change.kind, change.node, change.token);
        if self.0.contains_key(&incident) || self.0.len() >= MAX {
            return false;
        }
        self.0.insert(incident, after(time, PAUSE));
        true
    }
}

impl super::Authority {
    /// Refuses an attempt: tells of it at once, and writes it down unless it was of late. What else leaves is `effects`.
    pub(super) fn refuse_attempt(&mut self, event: Event, change: Change, effects: Vec<Effect>) -> Decision {
        self.events.push_back(event);
        if !self.incidents.is_new(&change) {
            return Decision::Answer(effects);
        }
        let mut plan = Plan::default();
        plan.audit.push(change);
        plan.effects = effects;
        Decision::Commit(Box::new(plan))
    }
}
