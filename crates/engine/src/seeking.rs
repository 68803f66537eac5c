//! Packets for addresses of the overlay that no peer has yet: they wait while the control plane looks for
//! whoever has the address, and go to that peer in order, or nowhere.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tombolo_noise::clock::Instant;
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{
    DropCounters, DropReason, IpPacket, UNREACHABLE_ANSWER_MAX, VnetHeader, unreachable_answer,
};
use tombolo_tun::Queue;

use crate::bucket::Bucket;
use crate::shared::Shared;

/// Destinations looked for at a time.
const MAX_DESTINATIONS: usize = 256;
/// Of these, for one source, which is an IPv4 address or an IPv6 /64 (control rule 12): a host behind this machine that goes through
/// all addresses leaves room for others.
const MAX_OF_SOURCE: usize = MAX_DESTINATIONS / 4;
/// Packets that wait for one of them.
const MAX_PACKETS: usize = 32;
/// Bytes that wait in all.
const MAX_TOTAL_BYTES: usize = 2 << 20;
/// How long a packet's destination is looked for: a look-up that found nobody after so long finds nobody.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an address that nobody has stays one without another look (control rule 12).
const REFUSAL: Duration = Duration::from_secs(1);
/// ICMP errors a second, and at once (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
const ANSWERS_PER_SECOND: u32 = 100;
const ANSWERS_AT_ONCE: u32 = 50;

/// Everything that is looked for.
pub(crate) struct Seeking {
    active: AtomicBool,
    state: Mutex<State>,
}

struct State {
    networks: Vec<IpNet>,
    destinations: HashMap<IpAddr, Destination>,
    bytes: usize,
    /// For the owner to look for.
    new: Vec<IpAddr>,
    /// Something was held of which a peer has the address by now.
    late: bool,
    answers: Bucket,
}

struct Destination {
    /// Who was the first to send there.
    source: IpAddr,
    packets: VecDeque<Box<[u8]>>,
    until: Instant,
    /// Nobody has it: nothing waits.
    refused: bool,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It waits.
    Held,
    /// It waits, and the owner is to be told of the destination.
    Announced,
    /// It is dropped.
    Dropped(DropReason),
    /// It is dropped, and its sender told.
    Answered,
}

impl Seeking {
    pub(crate) fn new() -> Self {
        let state = State {
            networks: Vec::new(),
            destinations: HashMap::new(),
            bytes: 0,
            new: Vec::new(),
            late: false,
            answers: Bucket::new(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE),
        };
        Self { active: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// Whether there are prefixes to look in at all.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Control thread: addresses are looked for in these networks. Says how many packets were dropped.
    pub(crate) fn set_networks(&self, networks: Vec<IpNet>) -> usize {
        let mut state = self.lock();
        self.active.store(!networks.is_empty(), Ordering::Relaxed);
        let gone = |destination: &IpAddr| !networks.iter().any(|network| network.contains(destination));
        let dropped = state.drop_where(|destination, _| gone(destination)).len();
        state.networks = networks;
        dropped
    }

    /// A super-packet waits as what it is to be split into; what finds no room is counted.
    fn hold(
        &self,
        destination: IpAddr,
        packet: &SuperPacket<'_>,
        now: Instant,
        drops: &DropCounters,
    ) -> Fate {
        let state = &mut *self.lock();
        if !state.networks.iter().any(|network| network.contains(&destination)) {
            return Fate::Dropped(DropReason::NoRoute);
        }
        if state.destinations.get(&destination).is_some_and(|known| known.refused && known.until <= now) {
            state.destinations.remove(&destination);
        }
        let known = state.destinations.contains_key(&destination);
        let source = site(packet.ip().source());
        if !known && !state.has_room_for(source) {
            return Fate::Dropped(DropReason::HoldingQueueFull);
        }
        let sought = state.destinations.entry(destination).or_insert_with(|| Destination {
            source,
            packets: VecDeque::new(),
            until: now + PATIENCE,
            refused: false,
        });
        if sought.refused {
            let answered = state.answers.allow(now);
            return if answered { Fate::Answered } else { Fate::Dropped(DropReason::NoTunnel) };
        }
        if !known {
            state.new.push(destination);
        }
        for index in 0..packet.segments() {
            let len = packet.segment_len(index);
            if sought.packets.len() >= MAX_PACKETS || state.bytes + len > MAX_TOTAL_BYTES {
                drops.count(DropReason::HoldingQueueFull);
                continue;
            }
            let mut segment = vec![0; len];
            let len = packet.write_segment(index, &mut segment);
            segment.truncate(len);
            state.bytes += len;
            sought.packets.push_back(segment.into());
        }
        if known { Fate::Held } else { Fate::Announced }
    }

    /// A packet was held though somebody has its address by now: the control thread looks once more.
    fn note_late(&self) {
        self.lock().late = true;
    }

    /// Control thread: addresses to look for, each once; and whether to look for peers that have them.
    pub(crate) fn take_new(&self) -> (Vec<IpAddr>, bool) {
        let mut state = self.lock();
        (std::mem::take(&mut state.new), std::mem::take(&mut state.late))
    }

    /// Control thread: hands on, in order, the packets whose destination somebody has, with what `owner` said.
    pub(crate) fn settle<T>(&self, owner: impl Fn(IpAddr) -> Option<T>, mut give: impl FnMut(&T, &[u8])) {
        let state = &mut *self.lock();
        state.destinations.retain(|destination, sought| {
            let Some(owner) = owner(*destination) else { return true };
            for packet in sought.packets.drain(..) {
                state.bytes -= packet.len();
                give(&owner, &packet);
            }
            false
        });
    }

    /// Control thread: nobody has the address. Gives one packet for its sender to be told.
    pub(crate) fn refuse(&self, destination: IpAddr, now: Instant) -> (usize, Option<Box<[u8]>>) {
        let state = &mut *self.lock();
        let Some(sought) = state.destinations.get_mut(&destination) else { return (0, None) };
        (sought.refused, sought.until) = (true, now + REFUSAL);
        let dropped: Vec<_> = sought.packets.drain(..).collect();
        state.bytes -= dropped.iter().map(|packet| packet.len()).sum::<usize>();
        let allowed = state.answers.allow(now);
        (dropped.len(), dropped.into_iter().next().filter(|_| allowed))
    }

    /// Control thread: drops what has waited too long.
    pub(crate) fn expire(&self, now: Instant) -> usize {
        self.lock().drop_where(|_, sought| sought.until <= now).len()
    }

    /// When [`Seeking::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if !self.is_active() {
            return None;
        }
        self.lock().destinations.values().map(|sought| sought.until).min()
    }
}

/// An IPv4 address, or the /64 of an IPv6 address, all of which one host may have.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

impl State {
    fn has_room_for(&self, source: IpAddr) -> bool {
        let of_source = self.destinations.values().filter(|sought| sought.source == source);
        self.destinations.len() < MAX_DESTINATIONS && of_source.count() < MAX_OF_SOURCE
    }

    fn drop_where(&mut self, gone: impl Fn(&IpAddr, &Destination) -> bool) -> Vec<Box<[u8]>> {
        let mut dropped = Vec::new();
        self.destinations.retain(|destination, sought| {
            let gone = gone(destination, sought);
            if gone {
                dropped.extend(sought.packets.drain(..));
            }
            !gone
        });
        self.bytes -= dropped.iter().map(|packet| packet.len()).sum::<usize>();
        dropped
    }
}

/// Worker: what becomes of a packet out of the TUN that no peer's networks cover.
///
/// # Errors
/// Why it was dropped.
#[cold]
pub(crate) fn seek(
    shared: &Shared,
    queue: &dyn Queue,
    header: VnetHeader,
    bytes: &mut [u8],
    now: Instant,
) -> Result<(), DropReason> {
    let packet = SuperPacket::parse(header, bytes)?;
    let destination = packet.destination();
    match shared.seeking.hold(destination, &packet, now, &shared.drops) {
        Fate::Announced => shared.wake_control(),
        Fate::Held => {}
        Fate::Dropped(reason) => return Err(reason),
        Fate::Answered => {
            let mut first = vec![0; packet.segment_len(0)];
            let len = packet.write_segment(0, &mut first);
            answer(&first[..len], queue);
            return Err(DropReason::NoTunnel);
        }
    }
    // Somebody may have got the address between this thread's look at the routes and the holding.
    if shared.snapshot.load().routes.lookup(destination).is_some() {
        shared.seeking.note_late();
        shared.wake_control();
    }
    Ok(())
}

/// Tells the sender of a packet that its destination cannot be reached.
pub(crate) fn answer(packet: &[u8], queue: &dyn Queue) {
    let mut answer = [0; UNREACHABLE_ANSWER_MAX];
    if let Ok(packet) = IpPacket::parse(packet)
        && let Some(len) = unreachable_answer(&packet, &mut answer)
    {
        // A full queue loses it, and the next packet brings another.
        let _ = queue.write(VnetHeader::default(), &[IoSlice::new(&answer[..len])]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a source of its own for each 64 destinations.
    fn hold(seeking: &Seeking, last: u16, number: u8, now: Instant) -> Fate {
        hold_from(seeking, (last / 64) as u8, last, number, now)
    }

    fn hold_from(seeking: &Seeking, source: u8, last: u16, number: u8, now: Instant) -> Fate {
        let [high, low] = last.to_be_bytes();
        let mut bytes = vec![0; 24];
        bytes[0] = 0x45;
        bytes[3] = 24;
        bytes[12..16].copy_from_slice(&[192, 168, 0, source]);
        bytes[16..20].copy_from_slice(&[10, 0, high, low]);
        bytes[23] = number;
        let packet = SuperPacket::parse(VnetHeader::default(), &mut bytes).unwrap();
        let drops = DropCounters::default();
        let fate = seeking.hold(packet.destination(), &packet, now, &drops);
        if drops.get(DropReason::HoldingQueueFull) > 0 {
            Fate::Dropped(DropReason::HoldingQueueFull)
        } else {
            fate
        }
    }

    fn seeking() -> Seeking {
        let seeking = Seeking::new();
        seeking.set_networks(vec!["10.0.0.0/16".parse().unwrap()]);
        seeking
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn an_address_is_announced_once_and_its_packets_are_given_in_order() {
        let (seeking, now) = (seeking(), Instant::default());
        assert_eq!(hold(&seeking, 7, 0, now), Fate::Announced);
        for number in 1..32 {
            assert_eq!(hold(&seeking, 7, number, now), Fate::Held);
        }
        assert_eq!(hold(&seeking, 7, 32, now), Fate::Dropped(DropReason::HoldingQueueFull));
        assert_eq!(hold(&seeking, 8, 0, now), Fate::Announced);
        assert_eq!(seeking.take_new(), (vec![address(7), address(8)], false));
        assert_eq!(seeking.take_new(), (vec![], false));
        let mut given = Vec::new();
        seeking.settle(|to| (to == address(7)).then_some(()), |(), packet| given.push(packet[23]));
        assert_eq!(given, (0..32).collect::<Vec<_>>());
        assert_eq!(seeking.lock().bytes, 24, "the other one waits on");
    }

    #[test]
    fn outside_of_the_prefixes_nothing_is_looked_for() {
        let seeking = Seeking::new();
        assert!(!seeking.is_active());
        assert_eq!(hold(&seeking, 7, 0, Instant::default()), Fate::Dropped(DropReason::NoRoute));
        seeking.set_networks(vec!["10.0.1.0/24".parse().unwrap()]);
        assert!(seeking.is_active());
        assert_eq!(hold(&seeking, 7, 0, Instant::default()), Fate::Dropped(DropReason::NoRoute));
        assert_eq!(hold(&seeking, 0x107, 0, Instant::default()), Fate::Announced);
        assert_eq!(seeking.set_networks(vec![]), 1);
        assert_eq!((seeking.lock().bytes, seeking.deadline()), (0, None));
    }

    #[test]
    fn who_is_nobody_stays_so_for_a_second_and_the_senders_are_told() {
        let (seeking, now) = (seeking(), Instant::default());
        assert_eq!(hold(&seeking, 7, 1, now), Fate::Announced);
        assert_eq!(hold(&seeking, 7, 2, now), Fate::Held);
        let (dropped, told) = seeking.refuse(address(7), now);
        assert_eq!((dropped, told.unwrap()[23]), (2, 1));
        let told = (0..200).filter(|_| hold(&seeking, 7, 3, now) == Fate::Answered).count();
        assert_eq!(told, 49, "not more than at once may be");
        seeking.take_new();
        assert_eq!(hold(&seeking, 7, 4, now + REFUSAL), Fate::Announced);
        assert_eq!(seeking.take_new().0, [address(7)]);
    }

    #[test]
    fn a_source_that_goes_through_all_addresses_leaves_room_for_others_control_rule_12() {
        let (seeking, now) = (seeking(), Instant::default());
        let scanned =
            (0..300).filter(|last| hold_from(&seeking, 7, *last, 0, now) == Fate::Announced).count();
        assert_eq!(scanned, 64);
        assert_eq!(hold_from(&seeking, 7, 300, 0, now), Fate::Dropped(DropReason::HoldingQueueFull));
        assert_eq!(hold_from(&seeking, 8, 300, 0, now), Fate::Announced, "another source");
        assert_eq!(
            hold_from(&seeking, 7, 300, 1, now),
            Fate::Held,
            "what is looked for already takes nothing"
        );
        // An address that nobody has is one of them until it may be looked for again.
        seeking.refuse(address(0), now);
        assert_eq!(hold_from(&seeking, 7, 301, 0, now), Fate::Dropped(DropReason::HoldingQueueFull));
        seeking.expire(now + PATIENCE);
        assert_eq!(hold_from(&seeking, 7, 301, 0, now + PATIENCE), Fate::Announced);
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_time() {
        let (seeking, now) = (seeking(), Instant::default());
        for number in 0..256 {
            assert_eq!(hold(&seeking, number, 0, now), Fate::Announced);
        }
        assert_eq!(hold(&seeking, 256, 0, now), Fate::Dropped(DropReason::HoldingQueueFull));
        assert_eq!(seeking.deadline(), Some(now + PATIENCE));
        assert_eq!(seeking.expire(now), 0);
        assert_eq!(seeking.expire(now + PATIENCE), 256);
        assert_eq!((seeking.deadline(), seeking.lock().bytes), (None, 0));
        assert_eq!(hold(&seeking, 256, 0, now), Fate::Announced);
    }
}
