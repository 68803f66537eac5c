//! What this machine brings from one peer's tunnel into another's: packets of peers that have a tunnel with it alone, and packets for
//! them. They do not touch the TUN, so that the machine needs to forward nothing.
//!
//! Of two peers at least one must be such a peer ([`PeerChange::forward`](crate::PeerChange::forward)): between all others a packet
//! that is not for this machine is not brought on. The sources were checked against the networks of the peer that
//! sent them, as everywhere. Loops cannot be: a packet leaves to, or came from, a peer that itself brings nothing on.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_queue::ArrayQueue;
use ipnet::IpNet;
use tombolo_noise::clock::Instant;
use tombolo_packet::ip::IpPacket;
use tombolo_packet::split::SuperPacket;
use tombolo_packet::{DropReason, PeerId, TOO_BIG_ANSWER_MAX, VnetHeader, clamp_mss, too_big_answer};
use tombolo_tun::Queue;

use crate::options::Sockets;
use crate::seeking::seek;
use crate::send_batch::SendBatch;
use crate::sender::Sender;
use crate::shared::{Shared, Snapshot};
use crate::too_big::{Answers, may_be_fragmented};

/// Pairs that one thread remembers to have announced.
const PAIRS_MAX: usize = 4096;
/// Pairs that wait to be announced.
const NEWS_MAX: usize = 1024;
/// A pair is announced again after the first of these times, then after twice as long, up to the second: whoever is told of it may
/// lose the first news.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(64));

/// Whether, and for whom, packets are brought on.
pub(crate) struct Gateway {
    active: AtomicBool,
    /// What is for this machine, or for what lies behind it.
    own: ArcSwap<Vec<IpNet>>,
    news: ArrayQueue<(PeerId, PeerId)>,
}

impl Gateway {
    pub(crate) fn new() -> Self {
        Self {
            active: AtomicBool::new(false),
            own: ArcSwap::from_pointee(Vec::new()),
            news: ArrayQueue::new(NEWS_MAX),
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Control thread: what is our own; nothing is brought on where that is nothing.
    pub(crate) fn set_own(&self, own: Vec<IpNet>) {
        let active = !own.is_empty();
        self.own.store(Arc::new(own));
        self.active.store(active, Ordering::Relaxed);
    }

    /// Where a packet of `from` for `destination` goes on to. `None`: it is for this machine.
    pub(crate) fn way(
        &self,
        snapshot: &Snapshot,
        from: PeerId,
        destination: std::net::IpAddr,
    ) -> Option<Way> {
        let forwards = |id| snapshot.peer(id).is_some_and(|peer| peer.forward.load(Ordering::Relaxed));
        match snapshot.routes.lookup(destination) {
            Some(to) => (to != from && (forwards(to) || forwards(from))).then_some(Way::Peer(to)),
            None => {
                let own = || self.own.load().iter().any(|network| network.contains(&destination));
                (forwards(from) && !own()).then_some(Way::Unknown)
            }
        }
    }

    /// Control thread: pairs that have begun to talk.
    pub(crate) fn next_news(&self) -> Option<(PeerId, PeerId)> {
        self.news.pop()
    }
}

/// Where a packet goes on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Peer(PeerId),
    /// To whoever has the address.
    Unknown,
}

/// A packet in the arena that is to be brought on.
pub(crate) struct Turned {
    pub(crate) range: Range<usize>,
    pub(crate) from: PeerId,
    pub(crate) way: Way,
}

/// Brings on, for one thread.
#[derive(Default)]
pub(crate) struct Turner {
    /// Of the batch that is being taken, in order.
    pub(crate) turned: Vec<Turned>,
    /// Made for the first packet: few machines are gateways.
    batch: Option<SendBatch>,
    answers: Answers,
    announced: HashMap<(PeerId, PeerId), Announced>,
}

struct Announced {
    next: Instant,
    pause: Duration,
}

impl Turner {
    /// Seals and sends what was gathered.
    #[cold]
    pub(crate) fn flush(
        &mut self,
        arena: &mut [u8],
        snapshot: &Snapshot,
        sockets: &Sockets,
        queue: &dyn Queue,
        shared: &Shared,
        now: Instant,
    ) {
        let mut turned = std::mem::take(&mut self.turned);
        let batch = self.batch.get_or_insert_with(SendBatch::new);
        let mut sender = Sender { shared, sockets, batch, line: None, now };
        for packet in turned.drain(..) {
            let bytes = &mut arena[packet.range];
            let sent = match packet.way {
                Way::Unknown => seek(shared, queue, VnetHeader::default(), bytes, now),
                Way::Peer(to) => {
                    announce(&mut self.announced, shared, snapshot, (packet.from, to), now);
                    bring_on(&mut sender, &mut self.answers, snapshot, packet.from, to, bytes)
                }
            };
            if let Err(reason) = sent {
                shared.drops.count(reason);
            }
        }
        sender.flush();
        self.turned = turned;
    }
}

/// The control plane is told of pairs in which a peer of this gateway's sends to one that is none.
fn announce(
    announced: &mut HashMap<(PeerId, PeerId), Announced>,
    shared: &Shared,
    snapshot: &Snapshot,
    pair: (PeerId, PeerId),
    now: Instant,
) {
    let forwards = |id| snapshot.peer(id).is_some_and(|peer| peer.forward.load(Ordering::Relaxed));
    let (first, longest) = AGAIN;
    match announced.get_mut(&pair) {
        Some(known) if now < known.next => return,
        Some(known) => {
            known.pause = (known.pause * 2).min(longest);
            known.next = now + known.pause;
        }
        None => {
            if announced.len() >= PAIRS_MAX {
                announced.clear();
            }
            announced.insert(pair, Announced { next: now + first, pause: first });
        }
    }
    if forwards(pair.0) && !forwards(pair.1) && shared.gateway.news.push(pair).is_ok() {
        shared.wake_control();
    }
}

fn bring_on(
    sender: &mut Sender<'_>,
    answers: &mut Answers,
    snapshot: &Snapshot,
    from: PeerId,
    to: PeerId,
    bytes: &mut [u8],
) -> Result<(), DropReason> {
    let to = snapshot.peer(to).ok_or(DropReason::NoRoute)?;
    let from = snapshot.peer(from).ok_or(DropReason::NoRoute)?;
    let (shared, limit) = (sender.shared, to.path.limit());
    if shared.clamp_mss && IpPacket::parse(bytes)?.is_tcp_syn() {
        clamp_mss(bytes, shared.mtu().min(limit).min(from.path.limit()));
    }
    let mut packet = SuperPacket::parse(VnetHeader::default(), bytes)?;
    if !packet.fit(limit) && !may_be_fragmented(&packet) {
        // Its sender is behind the other tunnel.
        let mut answer = [0; TOO_BIG_ANSWER_MAX];
        if answers.allow(sender.now)
            && let Some(len) = too_big_answer(packet.ip(), limit, &mut answer)
        {
            let answer = SuperPacket::parse(VnetHeader::default(), &mut answer[..len])?;
            sender.send(from, &answer)?;
        }
        return Err(DropReason::PacketTooBig);
    }
    shared.note_path_use(to);
    sender.send(to, &packet)
}
