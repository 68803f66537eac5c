//! What became of each offload, at start and since.

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use tombolo_packet::{GsoType, Offload, OffloadState};
use tombolo_tun::Queue;

use crate::options::Sockets;
use crate::read_faults::ReadFaults;
use crate::status::{OffloadPlace, OffloadReport, OffloadStatus, SocketReport};

/// The offloads of the TUN. Shared by all workers, since what the kernel refuses one queue of a device it refuses all.
pub(crate) struct TunOffloads {
    at_start: Vec<(Offload, OffloadState)>,
    tcp_writes: Refusals,
    udp_writes: Refusals,
    pub(crate) reads: ReadFaults,
}

/// Super-packets that the kernel did not take.
#[derive(Default)]
struct Refusals {
    count: AtomicU64,
    /// The errno of the last one; 0: there was none.
    errno: AtomicI32,
}

impl TunOffloads {
    /// Those of the device's first queue, which its others share.
    pub(crate) fn of(queue: Option<&dyn Queue>) -> Self {
        Self {
            at_start: queue.map(|queue| queue.offload_states().to_vec()).unwrap_or_default(),
            tcp_writes: Refusals::default(),
            udp_writes: Refusals::default(),
            reads: ReadFaults::default(),
        }
    }

    /// A super-packet of this type was refused; the worker writes plain packets from now on.
    pub(crate) fn write_refused(&self, gso_type: GsoType, error: &io::Error) {
        let refusals = match gso_type {
            GsoType::None => return,
            GsoType::Tcp4 | GsoType::Tcp6 => &self.tcp_writes,
            GsoType::Udp => &self.udp_writes,
        };
        refusals.count.fetch_add(1, Ordering::Relaxed);
        refusals.errno.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
    }

    fn reports(&self) -> impl Iterator<Item = OffloadReport> {
        self.at_start.iter().map(|&(offload, at_start)| {
            let refusals = match offload {
                Offload::CoalesceTcp => Some(&self.tcp_writes),
                Offload::CoalesceUdp => Some(&self.udp_writes),
                _ => None,
            };
            let (fallbacks, errno) = refusals.map_or((0, 0), |refusals| {
                (refusals.count.load(Ordering::Relaxed), refusals.errno.load(Ordering::Relaxed))
            });
            let (state, fallbacks) = match self.reads.report(offload) {
                Some((given_up, faults)) => {
                    (given_up.filter(|_| at_start.is_on()).unwrap_or(at_start), faults)
                }
                None if fallbacks > 0 => (OffloadState::Demoted(errno), fallbacks),
                None => (at_start, 0),
            };
            OffloadReport { place: OffloadPlace::Tun, lane: 0, offload, state, fallbacks }
        })
    }
}

/// The offloads of TUN and sockets at this moment.
pub(crate) fn status(tun: &TunOffloads, sockets: &Sockets) -> OffloadStatus {
    let mut status = OffloadStatus { offloads: tun.reports().collect(), sockets: Vec::new() };
    for (lane, pair) in std::iter::once(sockets).chain(&sockets.more).enumerate() {
        let places = [(OffloadPlace::UdpIpv4, &pair.v4), (OffloadPlace::UdpIpv6, &pair.v6)];
        for (place, socket) in places {
            let Some(socket) = socket else { continue };
            let counters = socket.counters();
            status.offloads.extend(socket.offload_states().map(|(offload, state)| {
                let fallbacks =
                    if offload == Offload::Gso { counters.gso_replays } else { counters.gro_faults };
                OffloadReport { place, lane, offload, state, fallbacks }
            }));
            status.sockets.push(SocketReport { place, lane, capabilities: socket.capabilities(), counters });
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_tun::Offloads;
    use tombolo_tun::memory::pair;

    #[test]
    fn a_refused_write_demotes_its_own_kind_and_is_counted_with_its_error() {
        let (queue, _host) = pair(Offloads::ALL).unwrap();
        let tun = TunOffloads::of(Some(&queue));
        let none = Sockets::default();
        assert!(status(&tun, &none).is_on(Offload::CoalesceTcp));
        for errno in [5, 22] {
            tun.write_refused(GsoType::Tcp6, &io::Error::from_raw_os_error(errno));
        }
        tun.write_refused(GsoType::None, &io::Error::from_raw_os_error(22));
        let found = status(&tun, &none);
        let report = found.offloads.iter().find(|report| report.offload == Offload::CoalesceTcp).unwrap();
        assert_eq!((report.state, report.fallbacks), (OffloadState::Demoted(22), 2));
        assert!(!found.is_on(Offload::CoalesceTcp));
        assert!(found.is_on(Offload::CoalesceUdp) && found.is_on(Offload::Tso));
        assert!(!found.is_on(Offload::Gso), "there is no socket");
    }
}
