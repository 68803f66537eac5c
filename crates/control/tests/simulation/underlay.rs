//! A simulated internet: addresses, NATs, loss, reordering, duplication, partitions.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// A public address of its own.
    None,
    /// Whoever knows the port gets in.
    FullCone,
    /// Only who was written to gets in.
    Restricted,
    /// A port of its own for each destination.
    Symmetric,
}

#[derive(Debug)]
struct Host {
    nat: Nat,
    public: IpAddr,
    /// Symmetric: by destination. Else one port for all.
    ports: HashMap<Option<SocketAddr>, u16>,
    written: HashSet<(u16, SocketAddr)>,
    next_port: u16,
}

pub(crate) const PORT: u16 = 8662;

pub(crate) struct Underlay {
    hosts: Vec<Host>,
    by_address: HashMap<IpAddr, usize>,
    /// Of 1000 datagrams.
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// Machines of different numbers do not hear each other.
    pub(crate) island: Vec<u8>,
    /// Pairs that do not hear each other directly.
    pub(crate) blocked: HashSet<(usize, usize)>,
    pub(crate) dead: HashSet<usize>,
    /// Each way to and from these takes 100 ms more.
    pub(crate) far: HashSet<usize>,
    pub(crate) sent: u64,
}

impl Underlay {
    pub(crate) fn new() -> Self {
        Self {
            hosts: Vec::new(),
            by_address: HashMap::new(),
            loss: 0,
            duplication: 0,
            island: Vec::new(),
            blocked: HashSet::new(),
            dead: HashSet::new(),
            far: HashSet::new(),
            sent: 0,
        }
    }

    pub(crate) fn add(&mut self, nat: Nat) -> usize {
        let number = self.hosts.len();
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        let public = IpAddr::from([198, 18 + (high >> 7), high, low]);
        self.hosts.push(Host {
            nat,
            public,
            ports: HashMap::new(),
            written: HashSet::new(),
            next_port: 20_000,
        });
        self.by_address.insert(public, number);
        self.island.push(0);
        number
    }

    pub(crate) fn public(&self, host: usize) -> IpAddr {
        self.hosts[host].public
    }

    /// Has another public address from now on.
    pub(crate) fn roam(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        let number = self.by_address.remove(&host.public).unwrap();
        let IpAddr::V4(old) = host.public else { unreachable!() };
        let [_, _, high, low] = old.octets();
        host.public = IpAddr::from([203, 0, high, low]);
        (host.ports, host.written) = (HashMap::new(), HashSet::new());
        self.by_address.insert(host.public, number);
    }

    /// Who gets a datagram, from where as it sees it, and after how many nanoseconds: none, one or two times.
    pub(crate) fn send(
        &mut self,
        from: usize,
        to: SocketAddr,
        rng: &mut ChaCha20Rng,
    ) -> Vec<(usize, SocketAddr, u64)> {
        self.sent += 1;
        let host = &mut self.hosts[from];
        let port = match host.nat {
            Nat::None => PORT,
            nat => {
                let key = (nat == Nat::Symmetric).then_some(to);
                let next_port = &mut host.next_port;
                let port = *host.ports.entry(key).or_insert_with(|| {
                    *next_port += 7;
                    *next_port
                });
                host.written.insert((port, to));
                port
            }
        };
        let seen = SocketAddr::new(host.public, port);
        let Some(&target) = self.by_address.get(&to.ip()) else { return Vec::new() };
        let other = &self.hosts[target];
        let passes = match other.nat {
            Nat::None => to.port() == PORT,
            Nat::FullCone => other.ports.values().any(|port| *port == to.port()),
            Nat::Restricted | Nat::Symmetric => other.written.contains(&(to.port(), seen)),
        };
        let apart = self.island[from] != self.island[target]
            || self.blocked.contains(&(from.min(target), from.max(target)))
            || self.dead.contains(&target);
        if !passes || apart || rng.next_u64() % 1000 < self.loss {
            return Vec::new();
        }
        let farther = if self.far.contains(&from) || self.far.contains(&target) { 100_000_000 } else { 0 };
        // 5 to 45 ms: what is sent later may come earlier.
        let mut delay = || farther + 5_000_000 + rng.next_u64() % 40_000_000;
        let mut arrivals = vec![(target, seen, delay())];
        if delay() % 1000 < self.duplication {
            arrivals.push((target, seen, delay()));
        }
        arrivals
    }
}
