//! Where others may reach this machine, and what is none of theirs (control rule 13).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipnet::IpNet;
use tombolo_control::frame::{CANDIDATES_MAX, is_possible_candidate};
use tombolo_control::node::Event as NodeEvent;
use tombolo_tun::netlink::{Netlink, NetlinkError};

use super::Member;

/// Servers of which the way is looked at.
const REMOTES: usize = 8;

impl Member {
    /// Servers are there: the addresses from which packets to them leave are told first.
    pub(super) fn note_local(&mut self, remotes: &[SocketAddr]) {
        let new = remotes.iter().filter(|remote| !self.remotes.contains(remote)).copied();
        self.remotes = new.chain(self.remotes.iter().copied()).take(REMOTES).collect();
        self.look_at_addresses();
    }

    /// Looks at the addresses of this machine anew: they may have changed.
    pub(in super::super) fn look_at_addresses(&mut self) {
        let (others, mut forbidden) = addresses().unwrap_or_else(|error| {
            tracing::debug!("{error}");
            (Vec::new(), Vec::new())
        });
        forbidden.extend(self.node.tunnelled());
        let first = self.remotes.iter().filter_map(|remote| own_address(*remote));
        let mut told: Vec<SocketAddr> = Vec::new();
        for address in first.chain(others) {
            let candidate = SocketAddr::new(address, self.port);
            if is_possible_candidate(candidate, &forbidden) && !told.contains(&candidate) {
                told.push(candidate);
            }
        }
        told.truncate(CANDIDATES_MAX);
        if told != self.local {
            tracing::debug!("this machine is told to be at {told:?}");
            self.local.clone_from(&told);
        }
        self.handle_event(NodeEvent::Local { addresses: told, forbidden });
    }
}

/// Addresses of interfaces that are up and no tunnels, IPv4 first; and the prefixes of those that are tunnels.
fn addresses() -> Result<(Vec<IpAddr>, Vec<IpNet>), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let (mut own, mut tunnels) = (Vec::new(), Vec::new());
    let mut links = HashMap::new();
    for (index, network) in netlink.all_addresses()? {
        let link = match links.get(&index) {
            Some(known) => *known,
            None => {
                let found = netlink.link_by_index(index)?.map(|link| (link.up, link.tunnel));
                links.insert(index, found);
                found
            }
        };
        match link {
            Some((_, true)) => tunnels.push(network.trunc()),
            Some((true, false)) => own.push(network.addr()),
            _ => {}
        }
    }
    own.sort_by_key(IpAddr::is_ipv6);
    Ok((own, tunnels))
}

/// The address from which packets to `remote` leave, with no packet sent.
fn own_address(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
