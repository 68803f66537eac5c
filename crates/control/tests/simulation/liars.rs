//! Lighthouses that lie in look-ups, or withhold, while another tells the truth: the caller reaches its peer by that one's truth
//! (control rules 7 and 12).

use std::net::SocketAddr;

use tombolo_control::document::Verified;
use tombolo_control::frame::{Frame, LookUpAnswer};
use tombolo_control::node::NodeAlarm;
use tombolo_control::{NodeId, Path};
use tombolo_noise::PublicKey;

use crate::attempts::assert_reach_all;
use crate::world::{SECOND, Twist, World};
use crate::{NATS, SERVERS, joined, seed};

/// Two of three lie, and mostly answer before the third.
const LIARS: [usize; 2] = [1, 2];
const NODES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    /// Nobody has it.
    Nobody,
    /// No answer to any look-up, and no introduction.
    Silence,
    /// The right member, at eight addresses where nobody is, and behind relays that there are not.
    Places,
    /// A member, and not the one that was asked for.
    Another,
    /// A membership that was changed.
    Forged,
}

/// Seconds from the first packet to the first answer, as with three that tell the truth.
const REACHED: u64 = 2;

fn nowhere() -> Vec<SocketAddr> {
    (1..9).map(|port| SocketAddr::from(([203, 0, 113, 9], port))).collect()
}

fn twist(lie: Lie, another: &[u8]) -> Twist {
    let another = another.to_vec();
    Box::new(move |frame| match frame {
        Frame::Introduce(_) if lie == Lie::Silence => None,
        Frame::Introduce(mut introduce) => {
            introduce.candidates = nowhere();
            Some(Frame::Introduce(introduce))
        }
        Frame::LookUpAnswer(LookUpAnswer { id, found: Some(mut found) }) => {
            match lie {
                Lie::Silence => return None,
                Lie::Nobody => return Some(Frame::LookUpAnswer(LookUpAnswer { id, found: None })),
                Lie::Places => {
                    found.candidates = nowhere();
                    found.relays = (100..104).map(|byte| NodeId::from_bytes([byte; 16])).collect();
                }
                Lie::Another => found.membership.clone_from(&another),
                Lie::Forged => *found.membership.last_mut().unwrap() ^= 1,
            }
            Some(Frame::LookUpAnswer(LookUpAnswer { id, found: Some(found) }))
        }
        other => Some(other),
    })
}

/// Whether anybody may call it at the address that the lighthouses know: then it needs no relay, if the truth is told. It may be that
/// only the caller can call first.
fn is_open(machine: usize) -> bool {
    (machine - SERVERS) % NATS.len() < 2
}

/// A network in which two of three lighthouses lie once all have joined, and the pairs that have reached each other.
fn reached(seed: u64, lie: Lie, relays: bool) -> (World, Vec<(usize, usize)>) {
    let mut world = joined(seed, NODES, 0);
    let last = SERVERS + NODES - 1;
    let another = world.machines[last].node.as_ref().unwrap().membership().map(Verified::encoded);
    let another = another.unwrap().to_vec();
    for liar in LIARS {
        world.machines[liar].twist = Some(twist(lie, &another));
    }
    if !relays {
        (0..SERVERS).for_each(|server| world.machines[server].permission = None);
    }
    let callers = SERVERS..SERVERS + NODES / 2;
    let pairs = callers.flat_map(|one| (SERVERS + NODES / 2..last).map(move |other| (one, other)));
    let pairs: Vec<_> = pairs.filter(|(_, other)| relays || is_open(*other)).collect();
    let slowest = assert_reach_all(&mut world, &pairs, REACHED);
    println!("{lie:?}, relays {relays}: {} pairs, slowest {} ms", pairs.len(), slowest / (SECOND / 1000));
    (world, pairs)
}

fn told(world: &World, machines: impl Iterator<Item = usize>, liar: PublicKey) -> usize {
    let alarm = NodeAlarm::FalseAnswer { lighthouse: liar };
    machines.map(|machine| world.machines[machine].alarms.iter().filter(|held| **held == alarm).count()).sum()
}

#[test]
fn of_three_lighthouses_one_that_tells_the_truth_is_enough_control_rules_7_and_12() {
    for (number, lie) in
        [Lie::Nobody, Lie::Silence, Lie::Places, Lie::Another, Lie::Forged].into_iter().enumerate()
    {
        for relays in [true, false] {
            let (mut world, pairs) = reached(seed(600 + number as u64), lie, relays);
            // What can be known for a lie is told, once by each that heard it; the others could be old news.
            for liar in LIARS {
                let heard = told(&world, SERVERS..world.machines.len(), world.machines[liar].key);
                let provable = matches!(lie, Lie::Another | Lie::Forged);
                assert_eq!(heard > 0, provable, "{lie:?}: {heard} have told of it");
                assert!(heard <= NODES, "each tells it once: {heard}");
            }
            assert_eq!(
                told(&world, 0..world.machines.len(), world.machines[0].key),
                0,
                "who tells the truth"
            );
            // And the ways are the ones that the truth leads to: direct, where the NATs allow.
            for _ in 0..20 {
                for &(one, other) in &pairs {
                    let destination = world.address(other).unwrap();
                    world.ping(one, destination);
                }
                world.run_until(world.now + SECOND / 2);
            }
            for &(one, other) in pairs.iter().filter(|(_, other)| is_open(*other)) {
                let path = world.machines[one].path_to(&world.machines[other].key);
                assert!(matches!(path, Some(Path::Direct(_))), "{lie:?}: {one} to {other} by {path:?}");
            }
        }
    }
}
