//! Ten thousand nodes for a virtual week, and what a server and a node cost. On its own, so that the memory of the process
//! is that of the test. The seed is printed; `TOMBOLO_SIMULATION_SEED` sets it, `TOMBOLO_SIMULATION_NODES` the number of nodes.

#![allow(clippy::unwrap_used, reason = "what a simulation takes for granted is a failed test")]
#![allow(dead_code, reason = "the simulation's parts are more than this uses")]

#[path = "../simulation/attempts.rs"]
mod attempts;
#[path = "../simulation/authority.rs"]
mod authority;
#[path = "../simulation/data_path.rs"]
mod data_path;
#[path = "../simulation/outputs.rs"]
mod outputs;
#[path = "../simulation/underlay.rs"]
mod underlay;
#[path = "../simulation/world.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tombolo_control::Path;
use tombolo_control::document::Roles;
use tombolo_control::frame::{Frame, Keepalive, Order, Show, Versions};
use tombolo_control::node::{Event, NodeOptions};
use tombolo_noise::PrivateKey;
use tombolo_noise::clock::UnixTime;

use attempts::{assert_reach_all, random_pairs};
use authority::DAY;
use underlay::Nat;
use world::{SECOND, World};

const SERVERS: usize = 3;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Bytes of this process in memory.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Nanoseconds of this thread on a processor.
fn processor_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * SECOND + time.tv_nsec.unsigned_abs()
}

/// Measures from here on: gives what was taken by then. Servers come first.
struct Measured {
    spent: [u64; 2],
    frames: u64,
    datagrams: u64,
    from: u64,
}

impl Measured {
    fn begin(world: &mut World) -> Self {
        world.meter = processor_time;
        Self { spent: world.spent, frames: frames(world), datagrams: world.underlay.sent, from: world.now }
    }

    fn print(&self, what: &str, world: &World) {
        let nodes = (world.machines.len() - SERVERS) as u64;
        let seconds = ((world.now - self.from) / SECOND).max(1);
        let [servers, others] = [0, 1].map(|whose| (world.spent[whose] - self.spent[whose]) / 1000);
        let per_second = |count: u64| count as f64 / seconds as f64;
        println!(
            "{what}: {seconds} virtual seconds; {:.0} datagrams a second in all; {SERVERS} servers send {:.0} frames a second and take \
             {:.2} % of one processor, {} us for each node; a node takes {:.1} us a second",
            per_second(world.underlay.sent - self.datagrams),
            per_second(frames(world) - self.frames),
            per_second(servers) / 1e4,
            servers / nodes,
            per_second(others) / nodes as f64,
        );
    }
}

/// Frames that the servers have sent.
fn frames(world: &World) -> u64 {
    world.machines[..SERVERS].iter().map(|server| server.frames).sum()
}

fn joined(world: &mut World, nodes: usize) {
    for number in 0..nodes {
        let machine = world.add_machine(Nat::None);
        world.join(machine);
        if number % 50 == 49 {
            world.run_for(1);
        }
        if number % 1000 == 999 {
            println!("{} of {nodes} nodes have been told to join", number + 1);
        }
    }
    world.run_for(20);
    let absent = world.machines[SERVERS..].iter().filter(|machine| machine.joined_at.is_none()).count();
    assert_eq!(absent, 0, "all have joined");
}

/// What a machine did in five minutes in which it talked to the first `peers` others, once a second: calls of its node, and
/// frames that it sent.
fn cost(world: &mut World, machine: usize, peers: usize) -> u64 {
    let others = (SERVERS..world.machines.len()).filter(|other| *other != machine);
    let others: Vec<usize> = others.take(peers).collect();
    let pairs: Vec<_> = others.iter().map(|other| (machine, *other)).collect();
    assert_reach_all(world, &pairs, 5);
    let before = world.machines[machine].calls + world.machines[machine].frames;
    for _ in 0..300 {
        for other in &others {
            let address = world.address(*other).unwrap();
            world.ping(machine, address);
        }
        world.run_for(1);
    }
    world.machines[machine].calls + world.machines[machine].frames - before
}

/// In a small network and in a large one, but for jitter.
fn assert_alike(small: &[u64], large: &[u64]) {
    for (small, large) in small.iter().zip(large) {
        assert!(large * 4 < small * 5, "{large} is not {small}");
    }
}

#[test]
fn a_nodes_cost_grows_with_its_active_peers_and_not_with_the_network() {
    let costs = [25, 250].map(|nodes| {
        let mut world = World::new(variable("TOMBOLO_SIMULATION_SEED", 31), SERVERS);
        joined(&mut world, nodes);
        let last = world.machines.len() - 1;
        [0, 5, 10].map(|peers| cost(&mut world, last - peers, peers))
    });
    println!("calls and frames in 300 s with 0, 5 and 10 active peers: {costs:?} in networks of 25 and 250");
    let [small, large] = costs;
    assert_alike(&small, &large);
    let [none, five, ten] = large;
    assert!(ten - none < (five - none) * 5 / 2, "as the number of peers, and no faster: {large:?}");
}

/// A server that `nodes` members have shown themselves to: bytes of memory.
fn server_memory(nodes: usize) -> u64 {
    let mut world = World::new(1, 1);
    let before = memory();
    let times = UnixTime(Duration::from_secs(20_700 * DAY));
    for number in 0..nodes {
        let mut bytes = [9; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let peer = PrivateKey::from_bytes(bytes).public();
        let [_, _, high, low] = u32::try_from(number).unwrap().to_be_bytes();
        let path = Path::Direct(SocketAddr::from((Ipv4Addr::new(198, 51, high, low), 8662)));
        world.event(0, Event::Established { peer, path, initiator: false, handshake_hash: [0; 32] });
        let membership = world.authority.issue(peer, Roles::NONE, times);
        let order = Order { epoch: 1, sequence: 1 };
        let trust = &world.authority.trust;
        let versions = Versions { order, trust_epoch: trust.epoch, trust_hash: trust.hash(), head: None };
        let keepalive =
            Keepalive { order: Order { epoch: 1, sequence: 2 }, candidates: Vec::new(), relays: Vec::new() };
        for frame in [Frame::Show(Show { membership, versions, answer: false }), Frame::Keepalive(keepalive)]
        {
            world.event(0, Event::Message { from: peer, path, message: &frame.to_bytes().unwrap() });
        }
    }
    assert_eq!(world.machines[0].node.as_ref().unwrap().lighthouse().unwrap().len(), nodes);
    memory().saturating_sub(before)
}

#[test]
#[ignore = "long: ten thousand nodes"]
fn ten_thousand_nodes_join_and_look_each_other_up() {
    let nodes = variable("TOMBOLO_SIMULATION_NODES", 10_000) as usize;
    let server = server_memory(nodes);
    println!("a server with {nodes} members: {:.1} MB, the model's own tables included", server as f64 / 1e6);
    assert!(server < 100_000_000);

    let mut world = World::new(variable("TOMBOLO_SIMULATION_SEED", 32), SERVERS);
    let joining = Measured::begin(&mut world);
    joined(&mut world, nodes);
    joining.print("joined", &world);
    // With the usual keepalives.
    let steady = Measured::begin(&mut world);
    world.run_for(60);
    steady.print("steady", &world);

    // Before the look-ups, which make peers.
    let mut small = World::new(1, SERVERS);
    joined(&mut small, 25);
    let [small, large] = [&mut small, &mut world].map(|world| {
        let last = world.machines.len() - 1;
        [0, 5].map(|peers| cost(world, last - peers, peers))
    });
    println!(
        "calls and frames in 300 s with 0 and 5 active peers: {small:?} among 25 nodes, {large:?} among {nodes}"
    );
    assert_alike(&small, &large);

    let all: Vec<usize> = (SERVERS..world.machines.len()).collect();
    let looking_up = Measured::begin(&mut world);
    let pairs = random_pairs(&mut world, &all, nodes);
    let slowest = assert_reach_all(&mut world, &pairs, 5);
    looking_up.print("looked up", &world);
    println!("{} pairs look each other up: slowest {} ms", pairs.len(), slowest / 1_000_000);
}

#[test]
#[ignore = "long: ten thousand nodes for a virtual week"]
fn ten_thousand_nodes_renew_for_a_week() {
    let nodes = variable("TOMBOLO_SIMULATION_NODES", 10_000) as usize;
    let mut world = World::new(variable("TOMBOLO_SIMULATION_SEED", 33), SERVERS);
    joined(&mut world, nodes);
    let all: Vec<usize> = (SERVERS..world.machines.len()).collect();
    // A week, with keepalives and looks at what ends every six hours only, and documents twice a day: what is shown is that
    // everything is renewed. All machines restart for it.
    world.authority.fresh_for = Duration::from_secs(DAY);
    world.options.keepalive = Duration::from_secs(DAY / 4);
    world.options.upkeep = Duration::from_secs(DAY / 4);
    restart(&mut world);
    let week = Measured::begin(&mut world);
    for half in 1..=14 {
        world.sign();
        world.run_for(DAY / 2);
        println!("{half} of 14 half days");
    }
    week.print("a week", &world);
    let newest = world.authority.network.version;
    for machine in SERVERS..world.machines.len() {
        let node = world.machines[machine].node.as_ref().unwrap();
        let serial = node.membership().unwrap().serial;
        assert!(serial >= 7, "machine {machine} was renewed {serial} times");
        assert_eq!(node.verifier().network().map(|network| network.version), Some(newest));
    }
    world.options = NodeOptions::default();
    restart(&mut world);
    let pairs = random_pairs(&mut world, &all, 1000.min(nodes));
    let slowest = assert_reach_all(&mut world, &pairs, 5);
    println!("and again: slowest {} ms", slowest / 1_000_000);
}

fn restart(world: &mut World) {
    for machine in 0..world.machines.len() {
        world.kill(machine);
    }
    for machine in 0..world.machines.len() {
        world.start(machine);
    }
    world.run_for(60);
}
