//! What a node does for its own machine: names of all others, another key, the time.

use super::{SERVERS, joined, seed};
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
