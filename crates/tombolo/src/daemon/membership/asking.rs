//! Requests of administrators to an authority that is elsewhere: they go through the tunnel (control rule 22).

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::{AdminRequest, Operation};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use crate::control::Answer;
use crate::membership::to_hex;

/// Requests that wait at most.
const WAITING: usize = 64;
/// What only asks is sent again after so long: a frame may be lost.
const AGAIN: Duration = Duration::from_secs(1);
/// For how long an answer is waited for: less than the client does.
const PATIENCE: Duration = Duration::from_secs(8);

/// Who waits for what.
#[derive(Default)]
pub(super) struct Asking {
    waiting: HashMap<u64, Waiting>,
    last: u64,
}

struct Waiting {
    authority: PublicKey,
    reply: oneshot::Sender<Answer>,
    /// None for what changes something: it must not be done twice.
    again: Option<Frame>,
    next: Instant,
    until: Instant,
}

fn only_asks(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::TokenList(_) | Operation::NodeList(_) | Operation::NodeShow(_) | Operation::NetworkShow
    )
}

impl Asking {
    /// The frame to send; none where too many wait already, who is told so.
    pub(super) fn ask(
        &mut self,
        authority: PublicKey,
        operation: Operation,
        reply: oneshot::Sender<Answer>,
        now: Instant,
    ) -> Option<Frame> {
        self.waiting.retain(|_, waiting| !waiting.reply.is_closed());
        if self.waiting.len() >= WAITING {
            let message = "too many requests wait for the server; try again in a moment".to_owned();
            // The client may have gone.
            let _ = reply.send(Answer::Error { message });
            return None;
        }
        self.last += 1;
        let repeat = only_asks(&operation);
        let frame = Frame::AdminRequest(AdminRequest { id: self.last, operation });
        let again = repeat.then(|| frame.clone());
        let until = now + PATIENCE;
        let next = if repeat { now + AGAIN } else { until };
        self.waiting.insert(self.last, Waiting { authority, reply, again, next, until });
        Some(frame)
    }

    pub(super) fn handle_answer(&mut self, from: PublicKey, id: u64, frame: &[u8]) {
        if self.waiting.get(&id).is_some_and(|waiting| waiting.authority == from)
            && let Some(waiting) = self.waiting.remove(&id)
        {
            let _ = waiting.reply.send(Answer::Admin { frame: to_hex(frame) });
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.next).min()
    }

    /// What is to be sent again, and to whom.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<(PublicKey, Frame)> {
        let over: Vec<u64> =
            self.waiting.iter().filter(|(_, held)| held.until <= now).map(|(id, _)| *id).collect();
        for waiting in over.iter().filter_map(|id| self.waiting.remove(id)) {
            let message = "the server did not answer in time; whether it was done is not known: look with \
                           `tombolo node list` or `tombolo token list`"
                .to_owned();
            let _ = waiting.reply.send(Answer::Error { message });
        }
        let due = self.waiting.values_mut().filter(|held| held.next <= now);
        let again = due.filter_map(|held| {
            held.next = (now + AGAIN).min(held.until);
            Some((held.authority, held.again.clone()?))
        });
        again.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_asks_is_repeated_and_what_changes_is_not() {
        let (mut asking, now) = (Asking::default(), Instant::default());
        let key = PublicKey::from_bytes([7; 32]);
        let (list, mut listed) = oneshot::channel();
        let (revoke, mut revoked) = oneshot::channel();
        assert!(asking.ask(key, Operation::NetworkShow, list, now).is_some());
        let token = tombolo_control::KeyId::from_bytes([1; 8]);
        assert!(asking.ask(key, Operation::TokenRevoke(token), revoke, now).is_some());
        let again = asking.handle_timeout(now + AGAIN);
        assert!(matches!(&again[..], [(_, Frame::AdminRequest(AdminRequest { id: 1, .. }))]));
        // An answer counts from whom was asked.
        asking.handle_answer(PublicKey::from_bytes([8; 32]), 1, b"forged");
        assert!(listed.try_recv().is_err());
        asking.handle_answer(key, 1, b"answer");
        assert!(matches!(listed.try_recv(), Ok(Answer::Admin { .. })));
        assert!(asking.handle_timeout(now + PATIENCE).is_empty());
        assert!(matches!(revoked.try_recv(), Ok(Answer::Error { message }) if message.contains("not known")));
        assert!(asking.poll_timeout().is_none());
    }
}
