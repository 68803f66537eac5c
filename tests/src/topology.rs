//! A small Internet: regions on public subnets of their own, joined by one router.
//!
//! ```text
//!   machine ── eth0 ─┐            router            ┌─ eth0 ── machine
//!   10 of the subnet │   ┌──────────────────────┐   │
//!                    ├───┤ east (bridge, .1)    │   │
//!   neighbour ─ eth0 ┘   │    west (bridge, .1) ├───┘
//!                        └──────────────────────┘
//! ```
//!
//! Each link's far end is a port of the region's bridge in the router's namespace, so a capture there
//! sees what that machine puts on the wire, and a neighbour on the same bridge is a real layer 2
//! neighbour. Every subnet is a /24, with the IPv6 subnet `2001:db8:N::/64` beside it, N being its
//! third byte.
//!
//! [`Internet::behind_nat`] puts a machine behind one that has the region's only public address:
//!
//! ```text
//!   machine ── eth0 ──── inside ┐  NAT  ┌ eth0 ── router
//!   192.168.N.10   192.168.N.1  └───────┘ 10 of the subnet
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Result, namespace::Namespace};

/// The router and its bridges.
#[derive(Debug)]
pub struct Internet {
    /// The router's namespace: links `to-LABEL`, and one bridge for each region.
    pub router: Namespace,
}

/// A machine in a region.
#[derive(Debug)]
pub struct Machine {
    /// Where it lives; its link is `eth0`.
    pub namespace: Namespace,
    /// Its public address.
    pub address: Ipv4Addr,
    /// Its public IPv6 address.
    pub address6: Ipv6Addr,
    /// The router's end of its link.
    pub port: String,
    subnet: [u8; 4],
}

/// How a NAT gives ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// The machine's own port, whoever it sends to: who is written to may answer, and is found there.
    Cone,
    /// Another one for each destination, by chance: what one destination sees is of no use to another.
    Symmetric,
}

impl Internet {
    /// A router with forwarding on and no region yet.
    ///
    /// # Errors
    /// As [`Namespace::create`].
    pub fn new() -> Result<Self> {
        let router = Namespace::create("router")?;
        router.sysctl("net.ipv4.ip_forward", "1")?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        Ok(Self { router })
    }

    /// A new region with one machine in it, at `.10` of the subnet. Labels are at most 10 bytes.
    ///
    /// # Errors
    /// When the label is taken or too long for the name of a link.
    pub fn region(&mut self, label: &str, subnet: [u8; 4]) -> Result<Machine> {
        let bridge = bridge_of(subnet);
        self.router.ip(&format!("link add {bridge} type bridge mcast_snooping 0"))?;
        self.router.ip(&format!("addr add {}/24 dev {bridge}", host(subnet, 1)))?;
        self.router.ip(&format!("addr add {}/64 dev {bridge}", host6(subnet, 1)))?;
        self.router.ip(&format!("link set {bridge} up"))?;
        self.neighbour(label, subnet, 10)
    }

    /// A further machine in an existing region, at the address that ends with `last`.
    ///
    /// # Errors
    /// When the label is taken, or there is no such region.
    pub fn neighbour(&mut self, label: &str, subnet: [u8; 4], last: u8) -> Result<Machine> {
        let namespace = Namespace::create(label)?;
        let port = format!("to-{label}");
        namespace.join("eth0", &self.router, &port)?;
        self.router.ip(&format!("link set {port} master {}", bridge_of(subnet)))?;
        let mut machine = Machine {
            namespace,
            address: Ipv4Addr::UNSPECIFIED,
            address6: Ipv6Addr::UNSPECIFIED,
            port,
            subnet,
        };
        machine.set_address(last)?;
        Ok(machine)
    }
}

/// A machine behind a NAT: [`Machine::address`] is its private address, and it has no IPv6.
#[derive(Debug)]
pub struct Natted {
    /// The machine.
    pub machine: Machine,
    /// The NAT, which has the public address.
    pub nat: Machine,
}

impl Internet {
    /// A new region whose one machine is behind a NAT. The NAT's own label is the machine's with `-n` behind it: labels
    /// are at most 8 bytes. Nothing enters that was not answered for, and nothing of it is remembered.
    ///
    /// # Errors
    /// As [`Internet::region`], or when nftables refuses.
    pub fn behind_nat(&mut self, label: &str, subnet: [u8; 4], nat: Nat) -> Result<Natted> {
        let outside = self.region(&format!("{label}-n"), subnet)?;
        let space = &outside.namespace;
        space.sysctl("net.ipv4.ip_forward", "1")?;
        let inside = [192, 168, subnet[2], 0];
        let namespace = Namespace::create(label)?;
        namespace.join("eth0", space, "inside")?;
        space.ip(&format!("addr add {}/24 dev inside", host(inside, 1)))?;
        let address = host(inside, 10);
        namespace.ip(&format!("addr add {address}/24 dev eth0"))?;
        namespace.ip(&format!("route add default via {}", host(inside, 1)))?;
        let ports = if nat == Nat::Symmetric { "random,fully-random" } else { "" };
        for rule in [
            "add table ip nat".to_owned(),
            "add chain ip nat out { type nat hook postrouting priority 100 ; }".to_owned(),
            format!("add rule ip nat out oifname eth0 masquerade {ports}"),
            "add chain ip nat own { type filter hook input priority 0 ; policy drop ; }".to_owned(),
            "add rule ip nat own ct state established,related accept".to_owned(),
        ] {
            space.nft(&rule)?;
        }
        let machine = Machine {
            namespace,
            address,
            address6: Ipv6Addr::UNSPECIFIED,
            port: "inside".to_owned(),
            subnet: inside,
        };
        Ok(Natted { machine, nat: outside })
    }
}

impl Machine {
    /// Gives the machine another public address in its subnet, as a new lease does: the old one is gone.
    ///
    /// # Errors
    /// When the `ip` program refuses.
    pub fn set_address(&mut self, last: u8) -> Result {
        self.address = host(self.subnet, last);
        self.address6 = host6(self.subnet, last);
        self.namespace.ip("addr flush dev eth0 scope global")?;
        self.namespace.ip(&format!("addr add {}/24 dev eth0", self.address))?;
        self.namespace.ip(&format!("addr add {}/64 dev eth0 nodad", self.address6))?;
        self.namespace.ip(&format!("route replace default via {}", host(self.subnet, 1)))?;
        self.namespace.ip(&format!("-6 route replace default via {}", host6(self.subnet, 1))).map(drop)
    }
}

fn bridge_of(subnet: [u8; 4]) -> String {
    format!("lan{}", subnet[2])
}

fn host(subnet: [u8; 4], last: u8) -> Ipv4Addr {
    Ipv4Addr::new(subnet[0], subnet[1], subnet[2], last)
}

fn host6(subnet: [u8; 4], last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, u16::from(subnet[2]), 0, 0, 0, 0, u16::from(last))
}
