//! The table of allowed IPs as it is configured.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tombolo_packet::PeerId;

use crate::RouteTable;

/// Which peer has which networks. Each network has one owner: the last to claim it.
///
/// Host bits of a network are ignored: 10.1.2.3/16 is 10.1.0.0/16. IPv4-mapped IPv6 addresses are IPv6.
#[derive(Clone, Debug, Default)]
pub struct AllowedIps {
    owners: BTreeMap<IpNet, PeerId>,
    /// The same by peer.
    networks: BTreeSet<(PeerId, IpNet)>,
}

/// The least network there is, to begin a range with.
const FIRST: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
/// The greatest network there is, to end a range with.
const LAST: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(u128::MAX), 128));

impl AllowedIps {
    /// Gives `network` to `peer`, and says who had it before, if that was another.
    pub fn insert(&mut self, network: IpNet, peer: PeerId) -> Option<PeerId> {
        let network = network.trunc();
        let previous = self.owners.insert(network, peer).filter(|&previous| previous != peer);
        if let Some(previous) = previous {
            self.networks.remove(&(previous, network));
        }
        self.networks.insert((peer, network));
        previous
    }

    /// Takes `network` from `peer`. False where the network is not this peer's, and then nothing changes.
    pub fn remove(&mut self, network: IpNet, peer: PeerId) -> bool {
        let network = network.trunc();
        let owned = self.networks.remove(&(peer, network));
        if owned {
            self.owners.remove(&network);
        }
        owned
    }

    /// Takes all its networks from `peer`.
    pub fn remove_peer(&mut self, peer: PeerId) {
        let networks: Vec<_> = self.peer_networks(peer).collect();
        for network in networks {
            self.remove(network, peer);
        }
    }

    /// The networks of `peer`, sorted: IPv4 before IPv6, then by address, shorter prefixes first.
    pub fn peer_networks(&self, peer: PeerId) -> impl Iterator<Item = IpNet> + '_ {
        self.networks.range((peer, FIRST)..=(peer, LAST)).map(|&(_, network)| network)
    }

    /// The owner of exactly this network.
    pub fn owner(&self, network: IpNet) -> Option<PeerId> {
        self.owners.get(&network.trunc()).copied()
    }

    /// All networks with their owners, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, PeerId)> + '_ {
        self.owners.iter().map(|(&network, &peer)| (network, peer))
    }

    /// How many networks there are.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether no peer has any network.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// The table as it is now, for look-ups. Takes time and memory in proportion to its length.
    pub fn snapshot(&self) -> RouteTable {
        RouteTable::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId(0);
    const B: PeerId = PeerId(1);
    const LAST_PEER: PeerId = PeerId(u32::MAX);

    fn network(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_moves_to_the_last_to_claim_it() {
        let mut allowed = AllowedIps::default();
        assert_eq!(allowed.insert(network("10.0.0.0/8"), A), None);
        assert_eq!(allowed.insert(network("10.0.0.0/8"), A), None);
        assert_eq!(allowed.insert(network("10.9.9.9/8"), B), Some(A));
        assert_eq!(allowed.peer_networks(A).count(), 0);
        assert_eq!(allowed.peer_networks(B).collect::<Vec<_>>(), [network("10.0.0.0/8")]);
        assert_eq!((allowed.owner(network("10.1.1.1/8")), allowed.len()), (Some(B), 1));
    }

    #[test]
    fn only_the_owner_loses_a_network() {
        let mut allowed = AllowedIps::default();
        allowed.insert(network("fd00::/64"), A);
        assert!(!allowed.remove(network("fd00::/64"), B));
        assert!(!allowed.remove(network("fd00::/65"), A));
        assert_eq!(allowed.owner(network("fd00::/64")), Some(A));
        assert!(allowed.remove(network("fd00::1/64"), A));
        assert!(allowed.is_empty());
        assert_eq!(allowed.peer_networks(A).count(), 0);
    }

    #[test]
    fn a_peer_leaves_with_all_it_has_and_nothing_else() {
        let all = ["0.0.0.0/0", "255.255.255.255/32", "::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"];
        for peer in [A, B, LAST_PEER] {
            let mut allowed = AllowedIps::default();
            for text in all {
                allowed.insert(network(text), peer);
            }
            allowed.insert(network("10.0.0.0/8"), PeerId(7));
            assert_eq!(allowed.peer_networks(peer).collect::<Vec<_>>(), all.map(network));
            allowed.remove_peer(peer);
            assert_eq!(allowed.iter().collect::<Vec<_>>(), [(network("10.0.0.0/8"), PeerId(7))]);
        }
    }

    #[test]
    fn a_snapshot_does_not_change() {
        let mut allowed = AllowedIps::default();
        allowed.insert(network("10.0.0.0/8"), A);
        let before = allowed.snapshot();
        allowed.insert(network("10.0.0.0/8"), B);
        assert_eq!(before.lookup("10.1.1.1".parse().unwrap()), Some(A));
        assert_eq!(allowed.snapshot().lookup("10.1.1.1".parse().unwrap()), Some(B));
    }
}
