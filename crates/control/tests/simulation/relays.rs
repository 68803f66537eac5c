//! How soon a packet arrives where the direct way between two members is blocked, in virtual time (control rule 14).

use tombolo_control::Path;

use super::{SERVERS, assert_reach, joined, seed};
use crate::world::{SECOND, World};

const MILLISECOND: u64 = SECOND / 1000;
const ONE: usize = SERVERS;
const OTHER: usize = SERVERS + 1;
/// A way there and back takes 10 to 90 ms, and one by a relay twice that.
const SEEDS: u64 = 12;

/// Two members that cannot reach each other directly, and know each other where `met` says so.
fn blocked(seed: u64, met: bool) -> World {
    let mut world = joined(seed, 4, 0);
    world.underlay.blocked.insert((ONE, OTHER));
    if met {
        assert_reach(&mut world, ONE, OTHER, 3);
        world.run_for(6);
        assert!(is_relayed(&world, ONE, OTHER) && is_relayed(&world, OTHER, ONE));
    }
    world
}

fn is_relayed(world: &World, from: usize, to: usize) -> bool {
    let key = world.machines[to].key;
    world.machines[from].path_to(&key).is_some_and(Path::is_relayed)
}

/// Sends every 10 ms until it is answered. Gives the time that it took.
fn first_answer(world: &mut World, from: usize, to: usize) -> u64 {
    let (start, mut sent) = (world.now, Vec::new());
    loop {
        assert!(world.now < start + 30 * SECOND, "{from} reaches {to}");
        if let Some(destination) = world.address(to) {
            sent.push(world.ping(from, destination));
        }
        world.run_until(world.now + 10 * MILLISECOND);
        let answers = &world.machines[from].delivered;
        if let Some(at) = sent.iter().filter_map(|token| answers.get(token)).min() {
            return at - start;
        }
    }
}

/// The longest of many runs, each of another seed.
fn longest(first: u64, runs: u64, what: &str, bound: u64, mut run: impl FnMut(u64) -> u64) {
    let mut took: Vec<u64> = (0..runs).map(|number| run(seed(first + number))).collect();
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2] / MILLISECOND, took[took.len() - 1] / MILLISECOND);
    println!("{what}: median {median} ms, longest {longest} ms");
    assert!(longest <= bound, "{what}: {longest} ms, and {bound} at most");
}

fn restart(world: &mut World, machine: usize) {
    world.kill(machine);
    world.start(machine);
}

#[test]
fn a_first_packet_is_answered_through_the_relay_within_a_second_control_rule_14() {
    longest(100, SEEDS, "first contact", 700, |seed| first_answer(&mut blocked(seed, false), ONE, OTHER));
}

#[test]
fn whoever_restarts_is_reached_through_the_relay_within_a_second_control_rule_14() {
    longest(120, SEEDS, "one restarts and sends", 1000, |seed| {
        let mut world = blocked(seed, true);
        restart(&mut world, ONE);
        first_answer(&mut world, ONE, OTHER)
    });
    longest(140, SEEDS, "the other restarts", 1000, |seed| {
        let mut world = blocked(seed, true);
        restart(&mut world, OTHER);
        first_answer(&mut world, ONE, OTHER)
    });
    longest(160, SEEDS, "both restart", 1000, |seed| {
        let mut world = blocked(seed, true);
        restart(&mut world, OTHER);
        restart(&mut world, ONE);
        first_answer(&mut world, ONE, OTHER)
    });
    longest(180, SEEDS, "one was reached directly before it restarted", 1000, |seed| {
        let mut world = joined(seed, 4, 0);
        assert_reach(&mut world, ONE, OTHER, 3);
        world.run_for(6);
        world.underlay.blocked.insert((ONE, OTHER));
        restart(&mut world, ONE);
        first_answer(&mut world, ONE, OTHER)
    });
}

/// Pings every 50 ms for so many seconds. Gives the longest time without an answer, up to the end.
fn silence(world: &mut World, seconds: u64) -> u64 {
    silence_for(world, seconds * SECOND, &[(ONE, OTHER)])
}

/// Pings of these, from the one to the other. The silence is that of the first pair.
fn silence_for(world: &mut World, time: u64, pairs: &[(usize, usize)]) -> u64 {
    let (start, mut last, mut longest) = (world.now, world.now, 0);
    while world.now < start + time {
        for &(from, to) in pairs {
            let destination = world.address(to).unwrap();
            world.ping(from, destination);
        }
        world.run_until(world.now + 50 * MILLISECOND);
        let answers = &world.machines[pairs[0].0].delivered;
        if let Some(at) = answers.values().next_back().copied().filter(|at| *at > last) {
            (longest, last) = (longest.max(at - last), at);
        }
    }
    longest.max(world.now - last)
}

#[test]
fn packets_flow_within_seconds_of_the_return_of_all_relays_control_rule_14() {
    for away in [1, 5, 20, 60] {
        longest(200, SEEDS, &format!("relays were away for {away} s"), 3500, |seed| {
            let mut world = blocked(seed, true);
            silence(&mut world, 2);
            (0..SERVERS).for_each(|server| world.kill(server));
            silence(&mut world, away);
            (0..SERVERS).for_each(|server| world.start(server));
            first_answer(&mut world, ONE, OTHER)
        });
    }
}

/// The server through which one machine reaches another.
fn relay_between(world: &World, from: usize, to: usize) -> usize {
    match world.machines[from].path_to(&world.machines[to].key) {
        Some(Path::Relayed(relay)) => usize::from(relay.as_bytes()[3]) - 1,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_next_relay_carries_packets_within_two_seconds_whenever_one_dies_control_rule_14() {
    // Over all of the time between two challenges, in steps of 25 ms; the two ends have clocks of their own.
    for far in [false, true] {
        let (bound, what) = if far { (1900, "220 to 380 ms") } else { (1500, "20 to 180 ms") };
        let mut phase = 0;
        longest(300, SEEDS * 4, &format!("the relay dies, round trips of {what}"), bound, |seed| {
            let mut world = blocked(seed, true);
            if far {
                world.underlay.far.insert(OTHER);
            }
            silence(&mut world, 4);
            phase = (phase + 25) % 500;
            silence_for(&mut world, phase * MILLISECOND, &[(ONE, OTHER)]);
            let dead = relay_between(&world, ONE, OTHER);
            world.kill(dead);
            let silent = silence(&mut world, 6);
            assert_ne!(relay_between(&world, ONE, OTHER), dead);
            silent
        });
    }
}

#[test]
fn a_direct_path_that_is_blocked_is_replaced_within_a_second_and_taken_again_control_rule_14() {
    longest(220, SEEDS, "blocked while packets flow", 1400, |seed| {
        let mut world = joined(seed, 4, 0);
        assert_reach(&mut world, ONE, OTHER, 3);
        silence(&mut world, 4);
        assert!(!is_relayed(&world, ONE, OTHER));
        world.underlay.blocked.insert((ONE, OTHER));
        let silent = silence(&mut world, 5);
        assert!(is_relayed(&world, ONE, OTHER));
        world.underlay.blocked.clear();
        silence(&mut world, 5);
        assert!(!is_relayed(&world, ONE, OTHER), "direct again");
        silent
    });
}

#[test]
fn two_that_both_move_while_a_relay_leads_between_them_are_direct_again_control_rule_14() {
    longest(460, SEEDS, "both moved, then the way opens: direct", 6000, |seed| {
        let mut world = blocked(seed, true);
        for machine in [ONE, OTHER] {
            world.underlay.roam(machine);
        }
        silence(&mut world, 60);
        assert!(is_relayed(&world, ONE, OTHER) && is_relayed(&world, OTHER, ONE));
        world.underlay.blocked.clear();
        let opened = world.now;
        while is_relayed(&world, ONE, OTHER) || is_relayed(&world, OTHER, ONE) {
            assert!(world.now < opened + 120 * SECOND, "still by a relay");
            silence(&mut world, 1);
        }
        world.now - opened
    });
}

#[test]
fn of_several_relays_the_nearest_is_taken_and_another_once_it_is_nearer_control_rule_14() {
    for first in 0..SERVERS {
        let mut world = blocked(seed(260) + first as u64, true);
        for near in [first, (first + 1) % SERVERS] {
            world.underlay.far = (0..SERVERS).filter(|server| *server != near).collect();
            silence(&mut world, 15);
            assert_eq!(
                (relay_between(&world, ONE, OTHER), relay_between(&world, OTHER, ONE)),
                (near, near),
                "from {first}"
            );
        }
    }
}

#[test]
fn a_path_that_loses_a_fifth_is_not_left_again_and_again_control_rule_14() {
    let (mut changes, mut relayed, mut looks) = (0, 0, 0);
    for number in 0..4 {
        let mut world = joined(seed(240) + number, 4, 0);
        assert_reach(&mut world, ONE, OTHER, 3);
        silence(&mut world, 4);
        // Each way by itself: more than a third of all probes have no answer. By the relay as much is lost.
        world.underlay.loss = 200;
        let mut before = false;
        for _ in 0..300 * 5 {
            let destination = world.address(OTHER).unwrap();
            world.ping(ONE, destination);
            world.run_until(world.now + 200 * MILLISECOND);
            let now = is_relayed(&world, ONE, OTHER);
            changes += usize::from(now != before);
            (looks, relayed, before) = (looks + 1, relayed + usize::from(now), now);
        }
    }
    println!("20 minutes of 20 % loss each way: {changes} changes, relayed {relayed} of {looks} times");
    assert!(changes <= 16 && relayed * 10 < looks, "{changes} changes, relayed {relayed} of {looks}");
}

/// The way between two machines, of which one may be a server, is blocked.
fn block(world: &mut World, one: usize, other: usize) {
    world.underlay.blocked.insert((one.min(other), one.max(other)));
}

#[test]
fn servers_that_cannot_reach_each_other_talk_through_the_third_control_rule_14() {
    let (one, other) = (0, 1);
    let talk =
        |world: &mut World, seconds: u64| silence_for(world, seconds * SECOND, &[(one, other), (other, one)]);
    longest(340, SEEDS, "two servers are cut off from each other", 1600, |seed| {
        let mut world = joined(seed, 2, 0);
        talk(&mut world, 4);
        assert!(!is_relayed(&world, one, other));
        block(&mut world, one, other);
        let silent = talk(&mut world, 40);
        assert!(is_relayed(&world, one, other) && is_relayed(&world, other, one));
        world.underlay.blocked.clear();
        talk(&mut world, 5);
        assert!(!is_relayed(&world, one, other) && !is_relayed(&world, other, one), "direct again");
        silent
    });
}

#[test]
fn a_relay_that_is_reached_by_another_is_none_and_is_one_again_control_rule_14() {
    longest(360, SEEDS, "relays are cut off one after the other", 1600, |seed| {
        let mut world = blocked(seed, true);
        let mut longest = 0;
        // Each relay in turn is reached by another only, because it has something to say itself for a while.
        for turn in 0..2 * SERVERS {
            let lost = turn % SERVERS;
            world.underlay.blocked.clear();
            block(&mut world, ONE, OTHER);
            block(&mut world, lost, ONE);
            let silent = silence_for(&mut world, 5 * SECOND, &[(ONE, OTHER), (lost, ONE)]);
            assert!(is_relayed(&world, lost, ONE), "server {lost} reaches {ONE} by another");
            assert_ne!(relay_between(&world, ONE, OTHER), lost);
            longest = longest.max(silent).max(silence(&mut world, 3));
        }
        longest
    });
}
