//! Control frames for peers that have moved, until they have shown where they are (control rule 10).

use std::collections::VecDeque;
use std::time::Duration;

use tombolo_noise::PublicKey;
use tombolo_noise::clock::Instant;

/// Frames of one peer, and of all, at most; the oldest make room.
const MAX_OF_ONE: usize = 16;
const MAX: usize = 256;
/// A proof takes a round trip. What waited for longer was asked for again.
const MAX_AGE: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Waiting {
    key: PublicKey,
    frame: Vec<u8>,
    since: Instant,
}

/// Frames that were more than three times what has come from where their peer seems to be now: oldest first.
#[derive(Debug, Default)]
pub(super) struct UnprovenFrames(VecDeque<Waiting>);

impl UnprovenFrames {
    pub(super) fn push(&mut self, key: PublicKey, frame: Vec<u8>, now: Instant) {
        self.0.retain(|held| now.saturating_duration_since(held.since) < MAX_AGE);
        let of_it = self.0.iter().filter(|held| held.key == key).count();
        let oldest_of_it = || self.0.iter().position(|held| held.key == key);
        let over = (of_it >= MAX_OF_ONE).then(oldest_of_it).flatten();
        if let Some(oldest) = over.or((self.0.len() >= MAX).then_some(0)) {
            self.0.remove(oldest);
        }
        self.0.push_back(Waiting { key, frame, since: now });
    }

    /// What waits for a peer, oldest first.
    pub(super) fn take(&mut self, key: &PublicKey, now: Instant) -> Vec<Vec<u8>> {
        self.0.retain(|held| now.saturating_duration_since(held.since) < MAX_AGE);
        let (its, others) = std::mem::take(&mut self.0).into_iter().partition(|held| held.key == *key);
        self.0 = others;
        let its: VecDeque<Waiting> = its;
        its.into_iter().map(|held| held.frame).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    #[test]
    fn frames_wait_in_their_order_for_three_seconds() {
        let (mut frames, now) = (UnprovenFrames::default(), Instant::from_nanos(0));
        frames.push(key(1), vec![1], now);
        frames.push(key(2), vec![2], now + MAX_AGE / 2);
        frames.push(key(1), vec![3], now + MAX_AGE / 2);
        assert_eq!(frames.take(&key(1), now + MAX_AGE / 2), [[1], [3]]);
        assert!(frames.take(&key(1), now + MAX_AGE / 2).is_empty());
        assert_eq!(frames.take(&key(2), now + MAX_AGE), [[2]]);
        frames.push(key(1), vec![4], now);
        assert!(frames.take(&key(1), now + MAX_AGE).is_empty());
    }

    #[test]
    fn the_newest_stay_and_nobody_takes_all_the_room() {
        let (mut frames, now) = (UnprovenFrames::default(), Instant::from_nanos(0));
        frames.push(key(0), vec![0], now);
        for number in 0..100 {
            frames.push(key(1), vec![number], now);
        }
        assert_eq!(frames.take(&key(0), now), [[0]]);
        let newest: Vec<Vec<u8>> = (84..100).map(|number| vec![number]).collect();
        assert_eq!(frames.take(&key(1), now), newest);
        for number in 0..=255 {
            frames.push(key(number), vec![1], now);
            frames.push(key(number), vec![2], now);
        }
        assert_eq!(frames.0.len(), MAX);
        assert!(frames.take(&key(127), now).is_empty());
        assert_eq!(frames.take(&key(128), now), [[1], [2]]);
    }
}
