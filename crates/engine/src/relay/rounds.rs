//! Whose turn it is, among the datagrams that one call has received (control rule 14): deficit round robin by pair (Shreedhar and
//! Varghese 1996), so that a pair with little waits for the bulk of no other.

use std::collections::VecDeque;

/// Bytes of a pair in one round: enough for one call with segmentation offload to be worth its price, and far more than heartbeats or answers
/// have in one turn.
const QUANTUM: i64 = 32 * 1024;

/// No item.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Item {
    len: u32,
    /// The next one of the same pair.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    last: u32,
    bytes: i64,
    /// Bytes that it may still send in this round; below zero what it has had of the next one.
    credit: i64,
}

/// Items of several pairs, by number in the order in which they were put in, and the order in which they leave. As many as one call
/// receives; empty afterwards, with its memory kept.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    items: Vec<Item>,
    lines: Vec<Line>,
    /// Pairs with something, in the order of their turns.
    turns: VecDeque<u32>,
    /// Turns of this round that are left.
    left: usize,
    round: usize,
}

impl Rounds {
    /// Puts in the next item, of so many bytes, of the pair with this number, from 0.
    pub(super) fn push(&mut self, pair: usize, len: usize) {
        let number = self.items.len() as u32;
        self.items.push(Item { len: u32::try_from(len).unwrap_or(u32::MAX), next: NONE });
        while self.lines.len() <= pair {
            self.lines.push(Line { first: NONE, last: NONE, bytes: 0, credit: QUANTUM });
        }
        let line = &mut self.lines[pair];
        if line.first == NONE {
            line.first = number;
            self.turns.push_back(pair as u32);
        } else {
            self.items[line.last as usize].next = number;
        }
        line.last = number;
        line.bytes += len as i64;
    }

    /// The next item: its number. `None`: all have gone.
    pub(super) fn pop(&mut self) -> Option<usize> {
        if self.round == 0 && self.turns.len() > 1 {
            // Who is through in one turn goes before all who are not, as a sparse flow does (RFC 8290 §4.2).
            let lines = &self.lines;
            self.turns.make_contiguous().sort_by_key(|pair| lines[*pair as usize].bytes > QUANTUM);
        }
        let pair = loop {
            let &pair = self.turns.front()?;
            if self.left == 0 {
                self.left = self.turns.len();
                self.round += 1;
            }
            let line = &mut self.lines[pair as usize];
            if line.credit > 0 {
                break pair;
            }
            line.credit += QUANTUM;
            self.end_turn(true);
        };
        let line = &mut self.lines[pair as usize];
        let number = line.first;
        let item = self.items[number as usize];
        line.credit -= i64::from(item.len);
        line.first = item.next;
        if line.first == NONE {
            self.end_turn(false);
        }
        Some(number as usize)
    }

    fn end_turn(&mut self, again: bool) {
        self.left -= 1;
        let turn = self.turns.pop_front();
        self.turns.extend(turn.filter(|_| again));
    }

    /// The number of the round that the last item left in: who has something left after it has had more than who has nothing.
    pub(super) fn round(&self) -> usize {
        self.round
    }

    /// Forgets what is left.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.lines.clear();
        self.turns.clear();
        (self.left, self.round) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(items: &[(usize, usize)]) -> Vec<usize> {
        let mut rounds = Rounds::default();
        items.iter().for_each(|(pair, len)| rounds.push(*pair, *len));
        std::iter::from_fn(|| rounds.pop()).collect()
    }

    #[test]
    fn one_pair_goes_as_it_came_control_rule_14() {
        let items = [(0, 1452); 350];
        assert_eq!(order(&items), (0..350).collect::<Vec<_>>());
    }

    #[test]
    fn a_heartbeat_waits_for_no_bulk_control_rule_14() {
        let mut items = vec![(0, 1452); 200];
        items.extend([(1, 1452); 150]);
        items.extend([(2, 96); 3]);
        assert_eq!(order(&items)[..4], [350, 351, 352, 0]);
    }

    #[test]
    fn two_pairs_in_bulk_share_and_small_datagrams_are_no_disadvantage_control_rule_14() {
        let mut items = vec![(0, 1452); 300];
        items.extend([(1, 132); 2000]);
        let mut bytes = [0_usize; 2];
        for number in order(&items).into_iter().take(1500) {
            let (pair, len) = items[number];
            bytes[pair] += len;
        }
        assert!(bytes[0].abs_diff(bytes[1]) <= 2 * QUANTUM as usize, "{bytes:?}");
    }

    proptest! {
        /// Held against what was put in: everything leaves once, each pair's in order, and no pair is more than a quantum and an item
        /// ahead of another that still has something.
        #[test]
        fn everything_leaves_in_order_and_nobody_gets_ahead(
            sizes in proptest::collection::vec((0..6_usize, 32..2000_usize), 0..400),
        ) {
            // Numbers begin at 0, in the order of the first appearance.
            let mut seen: Vec<usize> = Vec::new();
            let items: Vec<(usize, usize)> = sizes
                .into_iter()
                .map(|(pair, len)| {
                    let number = seen.iter().position(|held| *held == pair).unwrap_or_else(|| {
                        seen.push(pair);
                        seen.len() - 1
                    });
                    (number, len)
                })
                .collect();
            let order = order(&items);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..items.len()).collect::<Vec<_>>());
            let mut sent = vec![0_usize; seen.len()];
            let mut left: Vec<usize> =
                (0..seen.len()).map(|pair| items.iter().filter(|item| item.0 == pair).count()).collect();
            let mut last = vec![None; seen.len()];
            for number in order {
                let (pair, len) = items[number];
                prop_assert!(last[pair] < Some(number));
                last[pair] = Some(number);
                sent[pair] += len;
                left[pair] -= 1;
                for other in 0..seen.len() {
                    if left[other] > 0 {
                        prop_assert!(sent[pair] <= sent[other] + QUANTUM as usize + 2 * 2000);
                    }
                }
            }
        }
    }
}
