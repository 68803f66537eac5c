//! Days in virtual time over a network that loses, duplicates and reorders.

use crate::harness::{Faults, World, millis, seconds};
use std::collections::BTreeSet;
use tombolo_packet::message::MessageType;

const DAY: u64 = 24 * 3600;

/// Random conversations with pauses of all lengths. Whatever happens to the network, no payload arrives
/// twice or changed, keys do not pile up, and once the network is whole again, data flows.
fn simulate(seed: u64, faults: Faults, days: u64) -> World {
    let mut world = World::pair(seed);
    world.faults = faults;
    let end = world.now + seconds(days * DAY);
    let mut number = 0_u64;
    while world.now < end {
        let pause = match world.random(10) {
            0 => seconds(world.random(700)),
            1..=3 => seconds(world.random(30)),
            _ => millis(world.random(3_000)),
        };
        world.advance(pause);
        let from = world.random(2) as usize;
        number += 1;
        world.send(from, 1 - from, &number.to_be_bytes());
        for node in 0..2 {
            assert!(world.nodes[node].device.index_table().len() <= 3, "previous, current, next");
            assert!(world.nodes[node].staged.len() <= 200);
        }
    }
    for node in 0..2 {
        let mut seen = BTreeSet::new();
        for (_, payload) in &world.nodes[node].delivered {
            assert_eq!(payload.len(), 16, "padded");
            assert_eq!(payload[8..], [0; 8]);
            assert!(seen.insert(payload.clone()), "delivered twice");
        }
    }
    // 100 s are enough to notice and to make a new session, whatever state they were left in.
    world.faults = Faults::NONE;
    for _ in 0..100 {
        world.send(0, 1, b"recovery");
        world.send(1, 0, b"recovery");
        world.advance(seconds(1));
    }
    for node in 0..2 {
        let now = world.now;
        let last = world.nodes[node].delivered.last().unwrap().0;
        assert!(now.saturating_duration_since(last) <= seconds(2), "data flows");
    }
    world
}

fn delivered_share(world: &World) -> f64 {
    let delivered: usize = world.nodes.iter().map(|node| node.delivered.len()).sum();
    let sent = world.wire.iter().filter(|sent| sent.is_data()).count();
    delivered as f64 / sent as f64
}

#[test]
fn a_day_on_a_good_network_loses_nothing() {
    let world = simulate(1, Faults::NONE, 1);
    assert!(delivered_share(&world) == 1.0, "{}", delivered_share(&world));
    // A handshake in 120 s of use at most, and no retransmission.
    let initiations = [0, 1].map(|node| world.sent(node, MessageType::Initiation).len());
    assert!(initiations[0] + initiations[1] <= (DAY / 120) as usize + 60, "{initiations:?}");
}

#[test]
fn two_days_with_loss_reordering_and_duplication() {
    for seed in 2..5 {
        let faults = Faults { loss: 200, duplication: 50, delay: millis(40), delay_spread: millis(200) };
        let world = simulate(seed, faults, 2);
        let share = delivered_share(&world);
        assert!(share > 0.7, "20 % are lost by the network, and few for want of a session: {share}");
    }
}

#[test]
fn a_day_on_a_network_that_hardly_works() {
    let faults = Faults { loss: 700, duplication: 200, delay: millis(300), delay_spread: seconds(3) };
    simulate(9, faults, 1);
}

#[test]
#[ignore = "virtual weeks: cargo xtask test --long"]
fn two_weeks_on_networks_of_every_kind() {
    for seed in 100..108_u32 {
        let number = u64::from(seed);
        let faults = Faults {
            loss: (seed % 4) * 150,
            duplication: (seed % 3) * 100,
            delay: millis(number % 5 * 60),
            delay_spread: millis(number % 7 * 150),
        };
        simulate(number, faults, 14);
    }
}
