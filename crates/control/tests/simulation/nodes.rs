//! What a node does for its own machine: names of all others, another key, the time.

use rand_core::Rng;
use tombolo_control::node::NodeAlarm;
use tombolo_noise::{PrivateKey, PublicKey};

use super::{SERVERS, assert_reach, joined, seed};
use crate::underlay::Nat;
use crate::world::{SECOND, World};

/// How many names a machine knows.
fn names(world: &World, number: usize) -> usize {
    world.machines[number].node.as_ref().unwrap().names().count()
}

fn follow(world: &mut World, number: usize) {
    let now = world.clock(number);
    world.machines[number].node.as_mut().unwrap().follow_names(Vec::new(), now);
    world.run_for(0);
    world.work(number);
}

#[test]
fn a_new_node_is_known_by_name_to_all_within_two_seconds_with_loss() {
    for loss in [0, 50] {
        let mut world = joined(seed(21), 40, loss);
        let last = world.machines.len();
        (SERVERS..last).for_each(|number| follow(&mut world, number));
        world.run_for(6);
        for number in SERVERS..last {
            assert_eq!(names(&world, number), last, "machine {number} knows all, itself among them");
        }
        let machine = world.add_machine(Nat::Symmetric);
        world.join(machine);
        let start = world.now;
        while world.machines[machine].joined_at.is_none() {
            assert!(world.now < start + 10 * SECOND);
            world.run_until(world.now + SECOND / 20);
        }
        world.run_for(if loss == 0 { 2 } else { 4 });
        for number in SERVERS..last {
            assert_eq!(names(&world, number), last + 1, "machine {number} knows the new one, loss {loss}");
        }
    }
}

#[test]
fn lighthouses_that_restart_list_everybody_again() {
    let mut world = joined(seed(22), 12, 0);
    let last = world.machines.len();
    for number in 0..SERVERS {
        world.kill(number);
        world.start(number);
    }
    follow(&mut world, SERVERS);
    // Two unanswered keepalives, and a handshake.
    world.run_for(40);
    assert_eq!(names(&world, SERVERS), last);
}

/// Asks for another key, and gives it.
fn rotate(world: &mut World, number: usize) -> PublicKey {
    let mut bytes = [0; 32];
    world.rng.fill_bytes(&mut bytes);
    let (new, now) = (PrivateKey::from_bytes(bytes).public(), world.clock(number));
    world.machines[number].node.as_mut().unwrap().rotate(new, now);
    world.work(number);
    new
}

fn run_until(world: &mut World, what: &str, limit: u64, condition: impl Fn(&World) -> bool) {
    let start = world.now;
    while !condition(world) {
        assert!(world.now < start + limit * SECOND, "waited {limit} s in vain for {what}");
        world.run_until(world.now + SECOND / 1000);
    }
}

/// The machine has the key, and the network knows it by it.
fn has_key(world: &World, number: usize, key: PublicKey) -> bool {
    let node = world.machines[number].node.as_ref().unwrap();
    world.machines[number].key == key && node.membership().is_some_and(|own| own.key == key)
}

#[test]
fn a_key_is_changed_while_packets_flow_control_rule_17() {
    let mut world = joined(seed(23), 4, 5);
    let (one, other) = (SERVERS, SERVERS + 1);
    assert_reach(&mut world, one, other, 2);
    let new = rotate(&mut world, one);
    let (destination, start) = (world.address(other).unwrap(), world.now);
    let (mut last, mut longest) = (world.now, 0);
    while world.now < start + 10 * SECOND {
        let token = world.ping(one, destination);
        world.run_until(world.now + SECOND / 20);
        if world.machines[one].delivered.contains_key(&token) {
            longest = longest.max(world.now - last);
            last = world.now;
        }
    }
    println!("longest pause: {} ms", longest / 1_000_000);
    assert!(longest < 3 * SECOND, "a pause of {} ms", longest / 1_000_000);
    assert!(has_key(&world, one, new));
    assert_reach(&mut world, other, one, 2);
    let held = world.machines[other].node.as_ref().unwrap();
    assert!(held.verifier().members().any(|member| member.key == new), "the other side knows the new key");
}

#[test]
fn an_authority_that_forgets_its_tickets_is_asked_again_control_rule_17() {
    let mut world = joined(seed(24), 4, 0);
    let (one, other) = (SERVERS, SERVERS + 1);
    let new = rotate(&mut world, one);
    run_until(&mut world, "the ticket", 5, |world| world.machines[one].key == new);
    world.authority.tickets.clear();
    run_until(&mut world, "the old key", 5, |world| world.machines[one].key != new);
    assert_reach(&mut world, one, other, 2);
    run_until(&mut world, "the new key", 60, |world| has_key(world, one, new));
    assert_reach(&mut world, one, other, 2);
}

#[test]
fn a_node_that_dies_while_its_key_changes_works_with_one_of_the_two_control_rule_17() {
    for committed in [false, true] {
        let mut world = joined(seed(25), 4, 0);
        let (one, other) = (SERVERS, SERVERS + 1);
        let old = world.machines[one].key;
        let new = rotate(&mut world, one);
        run_until(&mut world, "the step", 5, |world| {
            if committed {
                world.authority.members.contains_key(&new)
            } else {
                world.machines[one].key == new
            }
        });
        world.kill(one);
        // The disk has the old key with its membership, and the new one beside it.
        world.machines[one].key = old;
        world.start(one);
        let now = world.clock(one);
        world.machines[one].node.as_mut().unwrap().rotate(new, now);
        world.work(one);
        run_until(&mut world, "the new key", 60, |world| has_key(world, one, new));
        assert_reach(&mut world, one, other, 2);
        assert_reach(&mut world, other, one, 2);
    }
}

#[test]
fn a_key_that_no_authority_answers_is_given_up_for_the_old_one_control_rule_17() {
    let mut world = joined(seed(26), 4, 0);
    let (one, other) = (SERVERS, SERVERS + 1);
    assert_reach(&mut world, one, other, 2);
    let new = rotate(&mut world, one);
    run_until(&mut world, "the ticket", 5, |world| world.machines[one].key == new);
    world.kill(0);
    world.authority.tickets.clear();
    run_until(&mut world, "the old key", 10, |world| world.machines[one].key != new);
    assert_reach(&mut world, one, other, 3);
    world.start(0);
    run_until(&mut world, "the new key", 300, |world| has_key(world, one, new));
    assert_reach(&mut world, one, other, 3);
}

/// From now on the machine's clock is so many seconds off.
fn set_clock(world: &mut World, number: usize, skew: i64) {
    world.machines[number].skew = skew;
}

const TEN_YEARS: i64 = 10 * 365 * 86_400;

#[test]
fn a_node_that_boots_in_1970_comes_up_and_one_joins_then_control_rule_18() {
    let mut world = joined(seed(27), 4, 0);
    let (one, other) = (SERVERS, SERVERS + 1);
    assert_reach(&mut world, one, other, 2);
    world.kill(one);
    // Long before there was a network.
    set_clock(&mut world, one, -100 * TEN_YEARS);
    world.start(one);
    world.run_for(2);
    assert_reach(&mut world, one, other, 3);
    // Someone whom it has not met.
    assert_reach(&mut world, SERVERS + 2, one, 3);
    assert!(world.machines[one].alarms.iter().any(|alarm| matches!(alarm, NodeAlarm::Clock(_))));
    let new = world.add_machine(Nat::None);
    set_clock(&mut world, new, -100 * TEN_YEARS);
    world.join(new);
    world.run_for(3);
    assert!(world.machines[new].joined_at.is_some(), "what is signed says what time it is");
    assert_reach(&mut world, new, other, 3);
}

#[test]
fn a_clock_ten_years_ahead_cuts_nothing_control_rule_18() {
    let mut world = joined(seed(28), 4, 0);
    let (one, other) = (SERVERS, SERVERS + 1);
    assert_reach(&mut world, one, other, 2);
    set_clock(&mut world, one, TEN_YEARS);
    world.run_for(120);
    assert_reach(&mut world, one, other, 3);
    assert_reach(&mut world, other, one, 3);
    assert!(world.machines[one].alarms.iter().any(|alarm| matches!(alarm, NodeAlarm::Clock(_))));
    // A restart with that clock, from the disk.
    world.kill(one);
    world.start(one);
    world.run_for(2);
    assert_reach(&mut world, one, other, 3);
    let status = world.machines[one].node.as_ref().unwrap().status(world.clock(one));
    assert!(status.membership.is_some(), "the own membership holds");
}
