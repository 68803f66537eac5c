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
