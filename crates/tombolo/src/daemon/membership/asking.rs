//! Requests of administrators to an authority that is elsewhere: they go through the tunnel (control rule 22).

use std::collections::HashMap;
use std::time::Duration;

use rand_core::Rng;
use tokio::sync::oneshot;
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::{AdminRequest, Operation};
use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use crate::control::Answer;
use crate::membership::to_hex;

/// Requests that wait at most.
const WAITING: usize = 64;
/// A request is sent again after so long: a frame, or its answer, may be lost.
const AGAIN: Duration = Duration::from_secs(1);
/// For how long an answer is waited for: less than the client does.
const PATIENCE: Duration = Duration::from_secs(8);

/// The newest session with a peer; it changes with every handshake.
pub(super) type Epoch = u64;

/// Who waits for what.
pub(super) struct Asking {
    waiting: HashMap<u64, Waiting>,
    last: u64,
}

struct Waiting {
    authority: PublicKey,
    reply: oneshot::Sender<Answer>,
    frame: Frame,
    /// What changes something is sent again over the session only by which it went first: the authority does it once, as
    /// long as it is the same process.
    only_by: Option<Epoch>,
    next: Instant,
    until: Instant,
}

impl Asking {
    pub(super) fn new(random: &mut impl Rng) -> Self {
        // Not the numbers of a run before: the authority remembers what it has done.
        Self { waiting: HashMap::new(), last: random.next_u64() }
    }

    /// The frame to send; none where too many wait already, who is told so.
    pub(super) fn ask(
        &mut self,
        (authority, session): (PublicKey, Epoch),
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
        self.last = self.last.wrapping_add(1);
        let only_by = (!operation.only_asks()).then_some(session);
        let frame = Frame::AdminRequest(AdminRequest { id: self.last, operation });
        let (next, until) = (now + AGAIN, now + PATIENCE);
        let waiting = Waiting { authority, reply, frame: frame.clone(), only_by, next, until };
        self.waiting.insert(self.last, waiting);
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

    /// What is to be sent again, and to whom. `session` is the newest with a peer.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        session: impl Fn(&PublicKey) -> Option<Epoch>,
    ) -> Vec<(PublicKey, Frame)> {
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
            let may = held.only_by.is_none_or(|epoch| session(&held.authority) == Some(epoch));
            may.then(|| (held.authority, held.frame.clone()))
        });
        again.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn requests_are_repeated_and_changes_by_the_same_session_only() {
        let mut asking = Asking::new(&mut ChaCha20Rng::seed_from_u64(1));
        let (now, key) = (Instant::default(), PublicKey::from_bytes([7; 32]));
        let (list, mut listed) = oneshot::channel();
        let (revoke, mut revoked) = oneshot::channel();
        let number = |frame| match frame {
            Frame::AdminRequest(AdminRequest { id, .. }) => id,
            other => panic!("{other:?}"),
        };
        let listing = number(asking.ask((key, 3), Operation::NetworkShow, list, now).unwrap());
        let token = tombolo_control::KeyId::from_bytes([1; 8]);
        let revoking = number(asking.ask((key, 3), Operation::TokenRevoke(token), revoke, now).unwrap());
        let mut again = |seconds: u32, session| {
            let frames = asking.handle_timeout(now + AGAIN * seconds, |_| session);
            frames.into_iter().map(|(_, frame)| number(frame)).collect::<HashSet<u64>>()
        };
        assert_eq!(again(0, Some(3)), HashSet::new());
        assert_eq!(again(1, Some(3)), HashSet::from([listing, revoking]));
        assert_eq!(again(2, Some(4)), HashSet::from([listing]));
        assert_eq!(again(3, None), HashSet::from([listing]));
        // An answer counts from whom was asked.
        asking.handle_answer(PublicKey::from_bytes([8; 32]), listing, b"forged");
        assert!(listed.try_recv().is_err());
        asking.handle_answer(key, listing, b"answer");
        assert!(matches!(listed.try_recv(), Ok(Answer::Admin { .. })));
        assert!(asking.handle_timeout(now + PATIENCE, |_| Some(3)).is_empty());
        assert!(matches!(revoked.try_recv(), Ok(Answer::Error { message }) if message.contains("not known")));
        assert!(asking.poll_timeout().is_none());
    }
}
