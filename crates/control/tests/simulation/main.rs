//! A network of real cores on a simulated internet, in virtual time: NATs, loss, reordering, duplication, skewed clocks,
//! restarts and partitions. Each run prints its seed; `TOMBOLO_SIMULATION_SEED` sets it.

#![allow(clippy::unwrap_used, reason = "what a simulation takes for granted is a failed test")]

mod attempts;
mod authority;
mod data_path;
mod liars;
mod nodes;
mod outputs;
mod partial;
mod relays;
mod storm;
mod underlay;
mod world;

use rand_core::Rng;
use tombolo_control::Path;
use tombolo_control::node::NodeAlarm;

use attempts::reach_all;
use underlay::Nat;
use world::{SECOND, World};

const NATS: [Nat; 4] = [Nat::None, Nat::FullCone, Nat::Restricted, Nat::Symmetric];
const SERVERS: usize = 3;

fn seed(default: u64) -> u64 {
    std::env::var("TOMBOLO_SIMULATION_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A network of nodes behind NATs of every kind that all have joined.
fn joined(seed: u64, nodes: usize, loss: u64) -> World {
    let mut world = World::new(seed, SERVERS);
    (world.underlay.loss, world.underlay.duplication) = (loss, loss / 2);
    for number in 0..nodes {
        let machine = world.add_machine(NATS[number % NATS.len()]);
        world.machines[machine].skew = (world.rng.next_u64() % 1201) as i64 - 600;
        world.join(machine);
        if number % 10 == 9 {
            world.run_for(1);
        }
    }
    world.run_for(10);
    for machine in SERVERS..world.machines.len() {
        assert!(world.machines[machine].joined_at.is_some(), "machine {machine} has joined");
    }
    world
}

/// Sends until it is answered, every quarter of a second. Gives the time that it took.
fn reach(world: &mut World, from: usize, to: usize, limit: u64) -> Option<u64> {
    reach_all(world, &[(from, to)], limit)[0]
}

fn assert_reach(world: &mut World, from: usize, to: usize, limit: u64) -> u64 {
    reach(world, from, to, limit).unwrap_or_else(|| {
        panic!("{from} reaches {to} within {limit} s (virtual time {} s)", world.now / SECOND)
    })
}

#[test]
fn any_two_reach_each_other_within_two_seconds_of_the_join() {
    let mut world = joined(seed(1), 16, 0);
    let mut slowest = 0;
    for one in SERVERS..SERVERS + 8 {
        for other in SERVERS + 8..SERVERS + 16 {
            slowest = slowest.max(assert_reach(&mut world, one, other, 2));
        }
    }
    println!("slowest first answer: {} ms", slowest / 1_000_000);
    for machine in SERVERS..world.machines.len() {
        let took = world.machines[machine].joined_at.unwrap();
        assert!(took < 4 * SECOND, "joined at {} ms", took / 1_000_000);
    }
}

#[test]
fn paths_are_direct_where_nats_allow_and_relayed_where_not_control_rule_14() {
    let mut world = joined(seed(2), 8, 0);
    // By kind: none, full cone, restricted, symmetric, and again.
    for (one, other, direct) in
        [(0, 5, true), (1, 6, true), (2, 6, true), (2, 4, true), (3, 5, true), (3, 7, false)]
    {
        let (one, other) = (SERVERS + one, SERVERS + other);
        assert_reach(&mut world, one, other, 3);
        for _ in 0..40 {
            let destination = world.address(other).unwrap();
            world.ping(one, destination);
            world.run_until(world.now + SECOND / 4);
        }
        let key = world.machines[other].key;
        let path = world.machines[one].path_to(&key).unwrap();
        assert_eq!(matches!(path, Path::Direct(_)), direct, "{one} to {other}: {path:?}");
    }
}

#[test]
fn a_blocked_path_goes_by_relay_and_comes_back_and_a_dead_relay_by_the_next_control_rule_14() {
    let mut world = joined(seed(3), 4, 0);
    let (one, other) = (SERVERS, SERVERS + 1);
    let key = world.machines[other].key;
    let destination = world.address(other).unwrap();
    assert_reach(&mut world, one, other, 2);
    let gap = |world: &mut World, seconds: u64| {
        let (mut longest, mut last) = (0, world.now);
        let start = world.now;
        while world.now < start + seconds * SECOND {
            world.ping(one, destination);
            world.run_until(world.now + SECOND / 20);
            let delivered = world.machines[one].delivered.values().filter(|at| **at > last).max();
            if let Some(&at) = delivered {
                longest = longest.max(at - last);
                last = at;
            }
        }
        longest.max(world.now - last)
    };
    gap(&mut world, 5);
    assert!(matches!(world.machines[one].path_to(&key), Some(Path::Direct(_))));
    world.underlay.blocked.insert((one, other));
    let silence = gap(&mut world, 8);
    let Some(Path::Relayed(relay)) = world.machines[one].path_to(&key) else { panic!("by relay") };
    println!("direct path blocked: silence of {} ms", silence / 1_000_000);
    assert!(silence < 2 * SECOND, "{} ms", silence / 1_000_000);
    let dead = usize::from(relay.as_bytes()[3]) - 1;
    world.kill(dead);
    let silence = gap(&mut world, 8);
    println!("relay killed: silence of {} ms", silence / 1_000_000);
    assert!(silence < 2 * SECOND, "{} ms", silence / 1_000_000);
    assert!(matches!(world.machines[one].path_to(&key), Some(Path::Relayed(next)) if next != relay));
    world.underlay.blocked.clear();
    let silence = gap(&mut world, 10);
    assert!(silence < SECOND, "{} ms", silence / 1_000_000);
    assert!(matches!(world.machines[one].path_to(&key), Some(Path::Direct(_))), "direct again");
    // The way by the relay is left alone.
    let before = world.machines[one].frames;
    gap(&mut world, 30);
    let frames = world.machines[one].frames - before;
    assert!(frames < 30 * 10, "{frames} frames in 30 s of a direct path");
}

#[test]
fn a_revocation_cuts_live_tunnels_within_two_seconds_control_rule_16() {
    let mut world = joined(seed(4), 8, 0);
    let (victim, friend) = (SERVERS, SERVERS + 5);
    assert_reach(&mut world, friend, victim, 2);
    let node = world.machines[victim].node.as_ref().unwrap().membership().unwrap().node;
    let key = world.machines[victim].key;
    world.authority.revoke(node);
    world.sign();
    world.run_for(2);
    for machine in 0..world.machines.len() {
        let known = world.machines[machine].node.as_ref().unwrap().verifier().member(&node);
        assert!(known.is_none() || machine == victim, "machine {machine}");
        assert!(machine == victim || world.machines[machine].path_to(&key).is_none());
    }
    assert_eq!(reach(&mut world, victim, friend, 5), None);
    assert_eq!(reach(&mut world, friend, victim, 5), None);
}

/// How many of the machines hold a revocation so many milliseconds after it, on lines that lose so many of 1000 datagrams
/// in each direction, and how many machines there are. There is one server, so that each has one source alone.
fn reached_by_a_revocation(seed: u64, loss: u64, milliseconds: u64) -> (usize, usize) {
    let mut world = World::new(seed, 1);
    for _ in 0..24 {
        let machine = world.add_machine(Nat::None);
        world.join(machine);
    }
    world.run_for(10);
    let node = world.machines[1].node.as_ref().unwrap().membership().unwrap().node;
    world.authority.revoke(node);
    world.underlay.loss = loss;
    world.sign();
    world.run_until(world.now + milliseconds * SECOND / 1000);
    let newest = world.machines[0].node.as_ref().unwrap().verifier().network().unwrap().version;
    let others = &world.machines[2..];
    let has = |machine: &&world::Machine| {
        let network = machine.node.as_ref().unwrap().verifier().network();
        network.is_some_and(|network| network.version >= newest)
    };
    (others.iter().filter(has).count(), others.len())
}

#[test]
fn a_revocation_is_told_again_where_datagrams_are_lost_control_rule_16() {
    let (mut reached, mut all) = (0, 0);
    for seed in 40..60 {
        let (some, of) = reached_by_a_revocation(seed, 200, 2000);
        (reached, all) = (reached + some, all + of);
    }
    println!("with a fifth of all datagrams lost {reached} of {all} have it within two seconds");
    assert!(reached * 100 >= all * 98, "{reached} of {all}");
    let (reached, all) = reached_by_a_revocation(70, 0, 2000);
    assert_eq!(reached, all, "where none is lost");
    let (reached, all) = reached_by_a_revocation(71, 200, 60_000);
    assert_eq!(reached, all, "the rest with a keepalive");
}

#[test]
fn a_withheld_document_is_noticed_control_rule_2() {
    let mut world = joined(seed(5), 4, 0);
    // Two hours without the authority's signature, while everything else works.
    world.run_for(7300 + 600);
    for machine in SERVERS..world.machines.len() {
        let stale = world.machines[machine].alarms.contains(&NodeAlarm::Stale);
        assert!(stale, "machine {machine}: {:?}", world.machines[machine].alarms);
    }
    assert_reach(&mut world, SERVERS, SERVERS + 1, 3);
    world.sign();
    world.run_for(2);
    let now = world.clock(SERVERS);
    assert!(!world.machines[SERVERS].node.as_ref().unwrap().status(now).stale);
}

#[test]
fn restarted_nodes_reach_their_peers_with_every_server_away() {
    let mut world = joined(seed(6), 8, 0);
    let (one, other) = (SERVERS, SERVERS + 4);
    assert_reach(&mut world, one, other, 2);
    world.run_for(5);
    for server in 0..SERVERS {
        world.kill(server);
    }
    world.kill(one);
    world.run_for(30);
    // And its clock has lost its battery.
    world.machines[one].skew = -(20_700 * 86_400);
    world.start(one);
    world.run_for(3);
    assert_reach(&mut world, one, other, 2);
}

#[test]
fn a_lighthouse_with_an_empty_memory_is_complete_within_two_unanswered_keepalives_control_rule_11() {
    const NODES: usize = 24;
    let remembered = |world: &World| {
        let node = world.machines[1].node.as_ref();
        node.and_then(|node| node.lighthouse()).map_or(0, |lighthouse| lighthouse.len())
    };
    let mut world = joined(seed(7), NODES, 0);
    world.kill(1);
    world.run_for(1);
    world.start(1);
    assert_eq!(remembered(&world), 0, "nothing of it is on the disk");
    // The next keepalive of each comes within 25 s. Two that have no answer, for three seconds each, and a handshake.
    world.run_for(25 + 2 * 3 + 1);
    let others = NODES + SERVERS - 1;
    assert_eq!(remembered(&world), others, "it remembers all nodes and the other lighthouses");
    // And what it remembers is of use: two that never met find each other by it alone.
    let (one, other) = (SERVERS + 3, SERVERS + 10);
    world.kill(0);
    world.kill(2);
    assert_reach(&mut world, one, other, 2);
}

#[test]
fn a_clock_ten_years_ahead_cuts_nothing_control_rule_18() {
    let mut world = joined(seed(8), 6, 0);
    let (one, other) = (SERVERS, SERVERS + 1);
    assert_reach(&mut world, one, other, 2);
    world.machines[one].skew = 3652 * 86_400;
    world.run_for(120);
    assert_reach(&mut world, one, other, 2);
    assert!(world.machines[one].alarms.iter().any(|alarm| matches!(alarm, NodeAlarm::Clock(_))));
}

#[test]
fn memberships_are_renewed_and_go_on_without_an_authority_control_rule_16() {
    let mut world = joined(seed(9), 4, 0);
    world.options.keepalive = std::time::Duration::from_secs(600);
    let serial = |world: &World, machine: usize| {
        world.machines[machine].node.as_ref().unwrap().membership().unwrap().serial
    };
    let before = serial(&world, SERVERS);
    for _ in 0..26 {
        world.sign();
        world.run_for(3600);
    }
    assert!(serial(&world, SERVERS) > before, "renewed within a day");
    // Nothing is said over and over: a keepalive in 25 s with each server at most, and what the day brings.
    let busiest = world.machines.iter().map(|machine| machine.calls).max().unwrap();
    assert!(busiest < 100_000, "{busiest} calls in 26 hours");
}

#[test]
fn nodes_renew_soon_after_the_servers_return_and_not_all_at_once_control_rule_16() {
    let mut world = joined(seed(10), 12, 0);
    let serials = |world: &World| -> Vec<u64> {
        let nodes = world.machines[SERVERS..].iter();
        nodes.map(|machine| machine.node.as_ref().unwrap().membership().unwrap().serial).collect()
    };
    for server in 0..SERVERS {
        world.kill(server);
    }
    // Longer than the day in which each renews.
    world.run_for(30 * 3600);
    let before = serials(&world);
    for server in 0..SERVERS {
        world.start(server);
    }
    let renewed =
        |world: &World| serials(world).iter().zip(&before).filter(|(now, before)| now > before).count();
    let mut at_once = 0;
    for _ in 0..60 {
        let earlier = renewed(&world);
        world.run_for(1);
        at_once = at_once.max(renewed(&world) - earlier);
    }
    assert_eq!(renewed(&world), 12, "a minute later all are renewed");
    assert!(at_once < 8, "{at_once} of 12 within one second");
}
