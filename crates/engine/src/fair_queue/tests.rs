use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use tombolo_packet::ip::IpPacket;

const LIMITS: Limits = Limits { bytes: 1 << 20, packets: 64 };
const NOW: Instant = Instant::from_nanos(1_000_000_000);

/// Packet `number` of a flow.
type Item = (u64, u64);

fn id(flow: u64) -> FlowId {
    FlowId { peer: PeerId(flow as u32 % 3), hash: flow }
}

fn nobody_waits(_: PeerId) -> Option<Instant> {
    None
}

fn pop(queue: &mut FairQueue<Item>) -> Option<Item> {
    match queue.pop(NOW, nobody_waits) {
        Popped::Packet(item) => Some(item),
        _ => None,
    }
}

/// RFC 8290 written down as plainly as can be: every flow for ever in a map, lists searched from the front.
#[derive(Default)]
struct Oracle {
    flows: HashMap<u64, VecDeque<(Item, usize)>>,
    deficit: HashMap<u64, i64>,
    new: Vec<u64>,
    old: Vec<u64>,
}

impl Oracle {
    /// `dropped` is what the queue dropped: each must have been the first packet of a fattest flow.
    fn push(&mut self, flow: u64, item: Item, len: usize, dropped: &[Item]) {
        self.flows.entry(flow).or_default().push_back((item, len));
        if !self.new.contains(&flow) && !self.old.contains(&flow) {
            self.new.push(flow);
            self.deficit.insert(flow, QUANTUM);
        }
        let mut dropped = dropped.iter();
        while self.bytes() > LIMITS.bytes || self.packets() > LIMITS.packets {
            let held = |packets: &VecDeque<(Item, usize)>| packets.iter().map(|p| p.1).sum::<usize>();
            let most = self.flows.values().map(held).max().unwrap();
            let victim = dropped.next().expect("a packet too many");
            let flow = self.flows.get_mut(&victim.0).unwrap();
            assert_eq!(held(flow), most);
            assert_eq!(flow.pop_front().unwrap().0, *victim);
        }
        assert_eq!(dropped.next(), None);
    }

    fn bytes(&self) -> usize {
        self.flows.values().flatten().map(|packet| packet.1).sum()
    }

    fn packets(&self) -> usize {
        self.flows.values().map(VecDeque::len).sum()
    }

    fn pop(&mut self) -> Option<Item> {
        loop {
            let from_new = !self.new.is_empty();
            let list = if from_new { &mut self.new } else { &mut self.old };
            let flow = *list.first()?;
            let deficit = self.deficit.get_mut(&flow).unwrap();
            if *deficit <= 0 {
                *deficit += QUANTUM;
                list.remove(0);
                self.old.push(flow);
                continue;
            }
            match self.flows.get_mut(&flow).unwrap().pop_front() {
                Some((item, len)) => {
                    *deficit -= len as i64;
                    return Some(item);
                }
                None => {
                    list.remove(0);
                    if from_new && !self.old.is_empty() {
                        self.old.push(flow);
                    }
                }
            }
        }
    }
}

#[test]
fn it_does_what_a_slow_one_does_and_loses_nothing_uncounted() {
    let mut random = ChaCha8Rng::seed_from_u64(8290);
    for _ in 0..200 {
        let (mut queue, mut oracle) = (FairQueue::new(LIMITS), Oracle::default());
        let (mut pushed, mut popped, mut lost, mut number) = (0, 0, 0, 0);
        let bias = random.next_u32() % 3 + 2;
        for _ in 0..400 {
            if random.next_u32() % bias != 0 {
                let flow = u64::from(random.next_u32() % 9);
                number += 1;
                let len = 40 + random.next_u32() as usize % 65_000;
                let mut dropped = Vec::new();
                queue.push(id(flow), len, len, (flow, number), |item| dropped.push(item));
                oracle.push(flow, (flow, number), len, &dropped);
                pushed += 1;
                lost += dropped.len();
            } else {
                let item = pop(&mut queue);
                assert_eq!(item, oracle.pop());
                popped += usize::from(item.is_some());
            }
            assert_eq!((queue.memory, queue.packets), (oracle.bytes(), oracle.packets()));
            assert!(queue.memory <= LIMITS.bytes && queue.packets <= LIMITS.packets);
        }
        let mut last: HashMap<u64, u64> = HashMap::new();
        while let Some((flow, number)) = pop(&mut queue) {
            popped += 1;
            assert!(last.insert(flow, number).is_none_or(|before| before < number), "order inside a flow");
        }
        assert!(queue.is_empty());
        assert_eq!(pushed, popped + lost);
    }
}

#[test]
fn a_sparse_flow_goes_before_busy_ones() {
    let mut queue = FairQueue::new(Limits { bytes: 64 << 20, packets: 4096 });
    let mut number = 0;
    let mut push = |queue: &mut FairQueue<Item>, flow, len| {
        number += 1;
        queue.push(id(flow), len, len, (flow, number), |_| panic!("nothing is dropped"));
    };
    for _ in 0..100 {
        for flow in 1..=8 {
            push(&mut queue, flow, 65_000);
        }
    }
    // Past their first turns.
    for _ in 0..16 {
        assert_ne!(pop(&mut queue).unwrap().0, 0);
    }
    for _ in 0..20 {
        push(&mut queue, 0, 60);
        // It may still be listed among the old ones from its last packet: then each busy flow goes once.
        let before = (0..).find(|_| pop(&mut queue).unwrap().0 == 0).unwrap();
        assert!(before <= 8, "{before} packets went before the heartbeat");
    }
    // Eight busy flows went on meanwhile; after a round without it, the sparse flow is a new one.
    for _ in 0..40 {
        assert_ne!(pop(&mut queue).unwrap().0, 0);
    }
    push(&mut queue, 0, 60);
    assert_eq!(pop(&mut queue).unwrap().0, 0);
}

#[test]
fn busy_flows_share_by_bytes_whatever_their_packets() {
    let mut queue = FairQueue::new(Limits { bytes: 64 << 20, packets: 40_000 });
    for number in 0..100 {
        queue.push(id(1), 65_000, 65_000, (1, number), |_| ());
    }
    for number in 0..5000 {
        queue.push(id(2), 1300, 1300, (2, number), |_| ());
    }
    let mut sent = [0, 0];
    for _ in 0..2000 {
        match pop(&mut queue).unwrap().0 {
            1 => sent[0] += 65_000,
            _ => sent[1] += 1300,
        }
    }
    let apart: i64 = sent[0] - sent[1];
    assert!(apart.abs() <= 65_000 + 2 * QUANTUM, "{sent:?}");
}

#[test]
fn a_peer_that_must_wait_holds_nobody_up_and_keeps_its_order() {
    let mut queue = FairQueue::new(LIMITS);
    for number in 0..6 {
        queue.push(id(0), 1000, 1000, (0, number), |_| ());
        queue.push(id(1), 1000, 1000, (1, number), |_| ());
    }
    let until = NOW + Duration::from_millis(5);
    let gate = |peer: PeerId| (peer == PeerId(0)).then_some(until);
    for number in 0..6 {
        assert_eq!(queue.pop(NOW, gate), Popped::Packet((1, number)));
    }
    assert_eq!(queue.pop(NOW, gate), Popped::Later(until));
    // What comes meanwhile waits behind.
    queue.push(id(0), 1000, 1000, (0, 6), |_| ());
    assert_eq!(queue.pop(NOW, nobody_waits), Popped::Later(until));
    for number in 0..7 {
        assert_eq!(queue.pop(until, nobody_waits), Popped::Packet((0, number)));
    }
    assert_eq!(queue.pop(until, nobody_waits), Popped::Empty);
}

#[test]
fn among_the_flows_of_a_peer_that_waited_the_sparse_one_goes_first() {
    let mut queue = FairQueue::new(LIMITS);
    for number in 0..10 {
        queue.push(id(0), 60_000, 60_000, (0, number), |_| ());
    }
    assert!(pop(&mut queue).is_some());
    let until = NOW + Duration::from_millis(5);
    assert_eq!(queue.pop(NOW, |_| Some(until)), Popped::Later(until));
    queue.push(id(3), 60, 60, (3, 0), |_| ());
    assert_eq!(queue.pop(NOW, |_| Some(until)), Popped::Later(until));
    assert_eq!(queue.pop(until, nobody_waits), Popped::Packet((3, 0)));
}

#[test]
fn an_idle_queue_holds_no_memory() {
    let mut queue = FairQueue::new(LIMITS);
    for number in 0..60 {
        queue.push(id(number), 100, 2048, (number, 0), |_| ());
    }
    queue.release_memory();
    assert_eq!(queue.packets, 60, "only an empty queue is given back");
    while pop(&mut queue).is_some() {}
    assert!(queue.flows.len() <= 60 && queue.index.is_empty());
    queue.release_memory();
    assert_eq!(queue.entries.capacity() + queue.flows.capacity() + queue.index.capacity(), 0);
}

#[test]
fn flows_differ_by_peer_addresses_ports_and_protocol_and_by_nothing_else() {
    let hasher = FlowHasher::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
    let packet = |source: u8, port: u16, protocol: u8, payload: u8| {
        let mut packet =
            vec![0x45, 0, 0, 32, 0, payload, 0, 0, 64, protocol, 0, 0, 10, 0, 0, source, 10, 0, 0, 9];
        packet.extend(port.to_be_bytes());
        packet.extend([0, 7, 0, 12, 0, 0, payload, 0, 0, 0]);
        packet
    };
    let flow = |peer, bytes: &[u8]| hasher.flow(PeerId(peer), &IpPacket::parse(bytes).unwrap());
    let base = flow(1, &packet(1, 1000, 17, 0));
    assert_eq!(base, flow(1, &packet(1, 1000, 17, 200)));
    let others = [
        flow(2, &packet(1, 1000, 17, 0)),
        flow(1, &packet(2, 1000, 17, 0)),
        flow(1, &packet(1, 1001, 17, 0)),
        flow(1, &packet(1, 1000, 6, 0)),
    ];
    for (number, other) in others.iter().enumerate() {
        assert_ne!(base.hash, other.hash, "{number}");
    }
    // The pieces of one datagram stay together.
    let (mut first, mut later) = (packet(1, 1000, 17, 0), packet(1, 9, 17, 1));
    first[6] = 0x20;
    later[7] = 1;
    assert_eq!(flow(1, &first), flow(1, &later));
}
