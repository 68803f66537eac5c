//! A machine in a region with a node on it, and the usual two or three of them.

use crate::{
    Result, Scene,
    node::{Node, OVERLAY, OVERLAY6, mesh},
    topology::{Internet, Machine},
};

/// The regions' subnets, in the order in which they are used.
const SUBNETS: [[u8; 4]; 3] = [[192, 0, 2, 0], [198, 51, 100, 0], [203, 0, 113, 0]];
/// Their names.
const NAMES: [&str; 3] = ["east", "west", "central"];

/// A machine with a node on it.
#[derive(Debug)]
pub struct Site {
    /// The machine.
    pub machine: Machine,
    /// The node.
    pub node: Node,
}

/// An Internet with `N` sites, each a peer of every other, with configured endpoints. Site 0 is called
/// `east` and has the overlay address that ends with 1, and so on.
///
/// # Errors
/// When something cannot be made.
pub fn sites<const N: usize>(scene: &Scene) -> Result<(Internet, [Site; N])> {
    let mut internet = Internet::new()?;
    let mut sites = Vec::new();
    for (position, (name, subnet)) in NAMES.into_iter().zip(SUBNETS).take(N).enumerate() {
        let machine = internet.region(name, subnet)?;
        let number = u8::try_from(position + 1)?;
        let node = Node::new(scene, name, &machine.namespace, number)?;
        sites.push(Site { machine, node });
    }
    let hosts: Vec<String> = sites.iter().map(|site| site.machine.address.to_string()).collect();
    mesh(&sites.iter().map(|site| &site.node).collect::<Vec<_>>(), &hosts)?;
    let sites = sites.try_into().map_err(|_| anyhow::anyhow!("at most {} sites", NAMES.len()))?;
    Ok((internet, sites))
}

/// Starts the nodes of all sites, and waits until every one is answered by every other.
///
/// # Errors
/// When one does not start, or does not answer.
pub fn start_all(scene: &Scene, sites: &mut [Site]) -> Result {
    for site in &mut *sites {
        site.node.start(scene)?;
    }
    for site in &*sites {
        for other in sites.iter().filter(|other| other.node.name != site.node.name) {
            site.node.wait_for_peer(&other.node.name)?;
        }
    }
    Ok(())
}

/// Three sites: `east` and `west` know `central` alone, whose kernel forwards between them. All are started, and
/// `central` has answered both.
///
/// # Errors
/// When something cannot be made, or does not start or answer.
pub fn hub(scene: &Scene) -> Result<(Internet, [Site; 3])> {
    let (internet, mut all) = sites::<3>(scene)?;
    let [east, west, hub] = &mut all;
    for variable in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        hub.node.namespace.sysctl(variable, "1")?;
    }
    for spoke in [&*east, &*west] {
        let mut entry = hub.node.entry(Some(hub.machine.address.to_string()));
        entry.allowed_ips.extend([OVERLAY.to_owned(), OVERLAY6.to_owned()]);
        spoke.node.configure("", &[entry])?;
    }
    for site in [&mut *east, &mut *west, &mut *hub] {
        site.node.start(scene)?;
    }
    for spoke in [&*east, &*west] {
        spoke.node.wait_for_peer(&hub.node.name)?;
    }
    Ok((internet, all))
}
