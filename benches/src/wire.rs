//! The two hosts between which everything is measured.
//!
//! ```text
//!   east                                     west
//!   10.99.0.1/24     wire ------ wire        10.99.0.2/24      (MTU 1500, offloads as the kernel has them)
//!   10.77.0.1        overlay ~~~ overlay     10.77.0.2         (MTU 1420)
//! ```

use std::net::Ipv4Addr;

use tombolo_tests::command::run;
use tombolo_tests::namespace::Namespace;

use crate::Result;

/// One of the two hosts.
#[derive(Debug)]
pub struct Host {
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its address on the wire.
    pub outer: Ipv4Addr,
    /// Its address in the overlay.
    pub inner: Ipv4Addr,
}

/// Two hosts and the wire between them. They end when this value is dropped.
#[derive(Debug)]
pub struct Wire {
    /// The host that asks and sends.
    pub east: Host,
    /// The host that answers and receives.
    pub west: Host,
}

impl Wire {
    /// Lays the wire, a veth pair.
    ///
    /// # Errors
    /// Without root, or without the program `ip`.
    pub fn lay() -> Result<Self> {
        let wire = Self::hosts()?;
        wire.east.namespace.join("wire", &wire.west.namespace, "wire")?;
        for host in [&wire.east, &wire.west] {
            host.namespace.ip(&format!("address add {}/24 dev wire", host.outer))?;
        }
        Ok(wire)
    }

    /// The hosts, with nothing between them yet.
    ///
    /// # Errors
    /// Without root, or without the program `ip`.
    pub fn hosts() -> Result<Self> {
        let host = |name, last| -> Result<Host> {
            Ok(Host {
                namespace: Namespace::create(name)?,
                outer: Ipv4Addr::new(10, 99, 0, last),
                inner: Ipv4Addr::new(10, 77, 0, last),
            })
        };
        Ok(Self { east: host("east", 1)?, west: host("west", 2)? })
    }

    /// Gives the devices of the wire UDP segmentation, or takes it.
    ///
    /// # Errors
    /// Without the program `ethtool`.
    pub fn set_udp_segmentation(&self, on: bool) -> Result {
        for host in [&self.east, &self.west] {
            let mut ethtool = host.namespace.command("ethtool");
            run(ethtool.args(["-K", "wire", "tx-udp-segmentation", if on { "on" } else { "off" }]))?;
        }
        Ok(())
    }

    /// Both hosts, each with the other one.
    pub fn sides(&self) -> [(&Host, &Host); 2] {
        [(&self.east, &self.west), (&self.west, &self.east)]
    }
}
