//! A request that changes something is done once, however often it comes: a frame of it, or its answer, may be lost.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

use crate::frame::Frame;

/// Requests that are remembered at most; the oldest is forgotten for a new one.
const MAX: usize = 256;

/// For how long: longer than anybody asks again.
const KEPT: Duration = Duration::from_secs(60);

/// By whom, and the number that it chose.
type RequestId = (PublicKey, u64);

/// What is known of a request that comes.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// To be done.
    First,
    /// Under way: its answer comes.
    UnderWay,
    /// Done.
    Done(Box<Frame>),
}

/// Requests of the last minute. In memory alone: who asks over the session in which it has asked first asks the same process.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    answers: HashMap<RequestId, Option<Frame>>,
    order: VecDeque<(RequestId, Instant)>,
}

impl Repeated {
    /// Looks a request up, and remembers it as under way if it is new.
    pub(super) fn ask(&mut self, id: RequestId, now: Instant) -> Asked {
        match self.answers.get(&id) {
            Some(None) => return Asked::UnderWay,
            Some(Some(answer)) => return Asked::Done(Box::new(answer.clone())),
            None => {}
        }
        let is_old = |asked: Instant| now.saturating_duration_since(asked) >= KEPT;
        while self.order.front().is_some_and(|(_, asked)| self.order.len() >= MAX || is_old(*asked)) {
            if let Some((oldest, _)) = self.order.pop_front() {
                self.answers.remove(&oldest);
            }
        }
        self.answers.insert(id, None);
        self.order.push_back((id, now));
        Asked::First
    }

    /// It was done, and so answered.
    pub(super) fn done(&mut self, id: RequestId, answer: Frame) {
        if let Some(held) = self.answers.get_mut(&id) {
            *held = Some(answer);
        }
    }

    /// It was refused: whoever asks again may fare better.
    pub(super) fn refused(&mut self, id: RequestId) {
        if self.answers.remove(&id).is_some() {
            self.order.retain(|(held, _)| *held != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> RequestId {
        (PublicKey::from_bytes([7; 32]), number)
    }

    #[test]
    fn a_request_is_done_once_and_answered_as_often_as_it_comes() {
        let (mut repeated, now) = (Repeated::default(), Instant::from_nanos(0));
        assert_eq!(repeated.ask(id(1), now), Asked::First);
        assert_eq!(repeated.ask(id(1), now), Asked::UnderWay);
        repeated.done(id(1), Frame::Leave);
        assert_eq!(repeated.ask(id(1), now + KEPT / 2), Asked::Done(Box::new(Frame::Leave)));
        let other = (PublicKey::from_bytes([8; 32]), 1);
        assert_eq!(repeated.ask(other, now), Asked::First, "another's of the same number");
        repeated.refused(other);
        assert_eq!(repeated.ask(other, now), Asked::First, "nothing was done");
    }

    #[test]
    fn a_minute_is_remembered_and_so_many() {
        let (mut repeated, now) = (Repeated::default(), Instant::from_nanos(0));
        assert_eq!(repeated.ask(id(0), now), Asked::First);
        let later = now + KEPT;
        for number in 1..=3 * MAX as u64 {
            assert_eq!(repeated.ask(id(number), later), Asked::First);
            assert!(repeated.order.len() <= MAX && repeated.answers.len() == repeated.order.len());
        }
        assert_eq!(repeated.ask(id(3 * MAX as u64), later), Asked::UnderWay);
        assert_eq!(repeated.ask(id(0), later), Asked::First);
        repeated.done(id(1), Frame::Leave);
        assert_eq!(repeated.ask(id(1), later), Asked::First, "forgotten, and so not remembered as done");
    }
}
