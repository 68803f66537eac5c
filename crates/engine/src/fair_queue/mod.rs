//! Flow queueing with the sparse-flow rule of FQ-CoDel (RFC 8290 §4.1, §4.2; without CoDel), for what was
//! read from the TUN and is not sealed yet.
//!
//! A flow that has not used up its quantum goes before all that have, so that a heartbeat waits for the packet
//! that is being sealed and no longer, however much bulk data waits. The queue knows nothing of packets: they are
//! of any type `T`, and come with their flow, their length and the memory that they hold. Time is an argument.

mod flow_id;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use tombolo_noise::clock::Instant;
use tombolo_packet::PeerId;

pub(crate) use flow_id::{FlowHasher, FlowId};

/// Bytes that a flow may send in one round of all flows (RFC 8290 §5.2.4 has one packet of the MTU). Here
/// packets are up to 64 KiB long, and a flow that is four rounds in debt after one is passed over four times; the quantum
/// is large enough that this costs nothing, and far less than one such packet, so that a flow of small
/// packets is not taken for a sparse one as long as it sends as much as others.
pub(crate) const QUANTUM: i64 = 16 * 1024;

/// No packet, no flow.
const NONE: u32 = u32::MAX;

/// What a queue may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Memory of all packets, in bytes.
    pub(crate) bytes: usize,
    /// Packets.
    pub(crate) packets: usize,
}

/// A packet in its flow's list.
struct Entry<T> {
    item: Option<T>,
    len: u32,
    memory: u32,
    next: u32,
}

/// The two lists of flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum List {
    /// Those that have not had a turn yet: served first.
    New,
    /// Those that have.
    Old,
}

struct Flow {
    id: FlowId,
    deficit: i64,
    memory: usize,
    head: u32,
    tail: u32,
}

/// A flow that may not send before a time; ties go in the order of arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Parked {
    until: Instant,
    arrival: u64,
    flow: u32,
    list: List,
}

/// What [`FairQueue::pop`] gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Popped<T> {
    /// The next packet.
    Packet(T),
    /// All that waits may not be sent before this time.
    Later(Instant),
    /// Nothing waits.
    Empty,
}

/// The queue.
pub(crate) struct FairQueue<T> {
    limits: Limits,
    entries: Vec<Entry<T>>,
    free_entries: Vec<u32>,
    flows: Vec<Flow>,
    free_flows: Vec<u32>,
    index: HashMap<FlowId, u32, BuildHasherDefault<AlreadyHashed>>,
    new: VecDeque<u32>,
    old: VecDeque<u32>,
    parked: BinaryHeap<Reverse<Parked>>,
    arrivals: u64,
    memory: usize,
    packets: usize,
}

impl<T> FairQueue<T> {
    /// An empty queue, which has allocated nothing.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: Vec::new(),
            free_entries: Vec::new(),
            flows: Vec::new(),
            free_flows: Vec::new(),
            index: HashMap::default(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            parked: BinaryHeap::new(),
            arrivals: 0,
            memory: 0,
            packets: 0,
        }
    }

    /// Whether no packet waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Gives back what an empty queue holds in reserve.
    pub(crate) fn release_memory(&mut self) {
        if self.is_empty() {
            *self = Self::new(self.limits);
        }
    }

    /// Adds a packet of `len` bytes that holds `memory` bytes. Where that is too much, packets are taken from the front
    /// of the flow that holds most (RFC 8290 §4.1.2), the new one among them where it is alone, and go to `dropped`.
    pub(crate) fn push(
        &mut self,
        id: FlowId,
        len: usize,
        memory: usize,
        item: T,
        mut dropped: impl FnMut(T),
    ) {
        let clamp = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let entry = Entry { item: Some(item), len: clamp(len), memory: clamp(memory), next: NONE };
        let position = match self.free_entries.pop() {
            Some(position) => {
                self.entries[position as usize] = entry;
                position
            }
            None => {
                self.entries.push(entry);
                clamp(self.entries.len() - 1)
            }
        };
        let flow = self.flow(id);
        let flow = &mut self.flows[flow as usize];
        match flow.head {
            NONE => flow.head = position,
            _ => self.entries[flow.tail as usize].next = position,
        }
        flow.tail = position;
        flow.memory += memory;
        self.memory += memory;
        self.packets += 1;
        while self.memory > self.limits.bytes || self.packets > self.limits.packets {
            let fattest = (0..self.flows.len()).max_by_key(|&flow| self.flows[flow].memory);
            match fattest.and_then(|flow| self.take_head(flow)) {
                Some((item, _)) => dropped(item),
                None => break,
            }
        }
    }

    /// The next packet. `gate` says until when a peer may not be sent to; it is asked before each packet, and the
    /// other peers' packets go on meanwhile.
    pub(crate) fn pop(&mut self, now: Instant, mut gate: impl FnMut(PeerId) -> Option<Instant>) -> Popped<T> {
        self.unpark(now);
        loop {
            let Some((&position, list)) = self
                .new
                .front()
                .map(|position| (position, List::New))
                .or_else(|| self.old.front().map(|position| (position, List::Old)))
            else {
                return match self.parked.peek() {
                    Some(Reverse(first)) => Popped::Later(first.until),
                    None => Popped::Empty,
                };
            };
            let flow = &mut self.flows[position as usize];
            // A flow in debt is not forgotten when it is empty: it would come back as a new one.
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                self.unlist(list);
                self.list(position, List::Old);
            } else if flow.head == NONE {
                self.unlist(list);
                // A flow that ends and begins again at once would else go before the others for ever.
                if list == List::New && !self.old.is_empty() {
                    self.list(position, List::Old);
                } else {
                    self.end(position);
                }
            } else if let Some(until) = gate(flow.id.peer) {
                self.unlist(list);
                self.arrivals += 1;
                self.parked.push(Reverse(Parked { until, arrival: self.arrivals, flow: position, list }));
            } else if let Some((item, len)) = self.take_head(position as usize) {
                self.flows[position as usize].deficit -= i64::from(len);
                return Popped::Packet(item);
            }
        }
    }

    /// The slot of a flow, listed as new where it is.
    fn flow(&mut self, id: FlowId) -> u32 {
        if let Some(&position) = self.index.get(&id) {
            return position;
        }
        let flow = Flow { id, deficit: QUANTUM, memory: 0, head: NONE, tail: NONE };
        let position = match self.free_flows.pop() {
            Some(position) => {
                self.flows[position as usize] = flow;
                position
            }
            None => {
                self.flows.push(flow);
                u32::try_from(self.flows.len() - 1).unwrap_or(NONE)
            }
        };
        self.index.insert(id, position);
        self.new.push_back(position);
        position
    }

    fn take_head(&mut self, flow: usize) -> Option<(T, u32)> {
        let flow = &mut self.flows[flow];
        let position = flow.head;
        let entry = self.entries.get_mut(position as usize)?;
        let item = entry.item.take()?;
        flow.head = entry.next;
        flow.memory -= entry.memory as usize;
        self.memory -= entry.memory as usize;
        self.packets -= 1;
        self.free_entries.push(position);
        Some((item, entry.len))
    }

    fn unpark(&mut self, now: Instant) {
        while self.parked.peek().is_some_and(|Reverse(first)| first.until <= now) {
            let Some(Reverse(parked)) = self.parked.pop() else { return };
            self.list(parked.flow, parked.list);
        }
    }

    fn list(&mut self, position: u32, list: List) {
        match list {
            List::New => self.new.push_back(position),
            List::Old => self.old.push_back(position),
        }
    }

    /// Takes the first flow off its list.
    fn unlist(&mut self, list: List) {
        match list {
            List::New => self.new.pop_front(),
            List::Old => self.old.pop_front(),
        };
    }

    fn end(&mut self, position: u32) {
        self.index.remove(&self.flows[position as usize].id);
        self.free_flows.push(position);
    }
}

/// Takes the hash that a [`FlowId`] has already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        // A `FlowId` writes one u64 and nothing else.
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
