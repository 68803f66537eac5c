//! Where some machines cannot hear each other and others can: whoever can be reached in some way is, whatever was so before.

use rand_core::Rng;

use crate::attempts::{assert_reach_all, every_pair, random_pairs};
use crate::world::{SECOND, World};
use crate::{SERVERS, joined, seed};

const SEEDS: u64 = 12;
const NODES: usize = 8;
/// Times that other pairs are cut off from each other, and how many of 100 are.
const STEPS: usize = 10;
const BLOCKED: u64 = 30;
/// Seconds from the first packet to its answer. The way may be open again since a moment ago through one relay only, with which neither
/// has a tunnel: each calls it every 8 s, and one the other by it after Rekey-Timeout, 5 s.
const REACHED: u64 = 30;

fn is_open(world: &World, one: usize, other: usize) -> bool {
    !world.underlay.blocked.contains(&(one.min(other), one.max(other)))
}

/// Whether a relay hears both, or they hear each other and no NAT is in the way.
fn is_reachable(world: &World, one: usize, other: usize) -> bool {
    let public = |machine: usize| machine < SERVERS || (machine - SERVERS).is_multiple_of(4);
    let direct = is_open(world, one, other) && public(one) && public(other);
    let relay = |server| {
        server != one && server != other && is_open(world, server, one) && is_open(world, server, other)
    };
    direct || (0..SERVERS).any(relay)
}

#[test]
fn whoever_can_be_reached_in_some_way_is_control_rule_14() {
    let (mut slowest, mut tried) = (0, 0);
    for number in 0..SEEDS {
        let mut world = joined(seed(400 + number), NODES, 0);
        let every_pair = every_pair(&(0..SERVERS + NODES).collect::<Vec<_>>());
        // Whom no lighthouse tells of is known from before.
        assert_reach_all(&mut world, &every_pair, 3);
        for _ in 0..STEPS {
            let rng = &mut world.rng;
            let blocked = every_pair.iter().filter(|_| rng.next_u64() % 100 < BLOCKED);
            world.underlay.blocked = blocked.copied().collect();
            // Some have talked just before, others not for a while. Servers talk as all do.
            for _ in 0..3 {
                let mut pairs = random_pairs(&mut world, &(0..SERVERS + NODES).collect::<Vec<_>>(), 6);
                pairs.retain(|(one, other)| is_reachable(&world, *one, *other));
                slowest = slowest.max(assert_reach_all(&mut world, &pairs, REACHED));
                tried += pairs.len();
            }
        }
    }
    println!("{tried} times a pair after its ways had changed: {} ms at most", slowest / (SECOND / 1000));
}
