//! Whether machines reach each other, many at once.

use std::collections::HashSet;

use rand_core::Rng;

use crate::world::{SECOND, World};

/// Each pair sends until it is answered, every quarter of a second, all at once. Gives the time that each took.
pub(crate) fn reach_all(world: &mut World, pairs: &[(usize, usize)], limit: u64) -> Vec<Option<u64>> {
    let start = world.now;
    let mut took = vec![None; pairs.len()];
    let mut sent = vec![Vec::new(); pairs.len()];
    while world.now < start + limit * SECOND && took.contains(&None) {
        for (number, &(from, to)) in pairs.iter().enumerate() {
            if took[number].is_none()
                && let Some(destination) = world.address(to)
            {
                sent[number].push(world.ping(from, destination));
            }
        }
        world.run_until(world.now + SECOND / 4);
        for (number, &(from, _)) in pairs.iter().enumerate() {
            let answers = &world.machines[from].delivered;
            let answered = sent[number].iter().filter_map(|token| answers.get(token)).min();
            took[number] = took[number].or(answered.map(|at| at - start));
        }
    }
    took
}

/// As [`reach_all`], in crowds of 500. Gives the longest time.
///
/// # Panics
/// When one does not reach the other within `limit` seconds.
pub(crate) fn assert_reach_all(world: &mut World, pairs: &[(usize, usize)], limit: u64) -> u64 {
    let mut longest = 0;
    for crowd in pairs.chunks(500) {
        for (pair, took) in crowd.iter().zip(reach_all(world, crowd, limit)) {
            let took = took.unwrap_or_else(|| {
                let (one, other) = *pair;
                let path = world.machines[one].path_to(&world.machines[other].key);
                panic!("{pair:?} within {limit} s (virtual time {} s, path {path:?})", world.now / SECOND)
            });
            longest = longest.max(took);
        }
    }
    longest
}

/// Different pairs among machines, drawn at random.
pub(crate) fn random_pairs(world: &mut World, among: &[usize], count: usize) -> Vec<(usize, usize)> {
    let mut pairs = HashSet::new();
    while pairs.len() < count {
        let mut draw = || among[(world.rng.next_u64() % among.len() as u64) as usize];
        let (one, other) = (draw(), draw());
        if one != other {
            pairs.insert((one, other));
        }
    }
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_unstable();
    pairs
}

/// Pairs of each machine with as many others, drawn at random. No pair is tried twice, in either direction.
pub(crate) fn pairs_with_each(world: &mut World, among: &[usize], others: usize) -> Vec<(usize, usize)> {
    let (mut pairs, mut drawn) = (Vec::new(), HashSet::new());
    for &one in among {
        let enough = pairs.len() + others;
        while pairs.len() < enough {
            let other = among[(world.rng.next_u64() % among.len() as u64) as usize];
            if other != one && drawn.insert((one.min(other), one.max(other))) {
                pairs.push((one, other));
            }
        }
    }
    pairs
}

/// Every pair, once.
pub(crate) fn every_pair(among: &[usize]) -> Vec<(usize, usize)> {
    let others = |(place, one): (usize, &usize)| {
        let one = *one;
        among[place + 1..].iter().map(move |other| (one, *other))
    };
    among.iter().enumerate().flat_map(others).collect()
}
