//! Where a node may be tried (control rule 13).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Most candidates that are told or tried.
pub const CANDIDATES_MAX: usize = 8;

/// Whether a datagram may be sent to a candidate that somebody else names: never to loopback, multicast or
/// broadcast, to addresses that mean nothing elsewhere, or into one of the `overlays`.
pub fn is_possible_candidate<'a>(
    candidate: SocketAddr,
    overlays: impl IntoIterator<Item = &'a IpNet>,
) -> bool {
    let address = candidate.ip();
    let possible = match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // 0.0.0.0/8 is "this network"; 240.0.0.0/4 is reserved, with the broadcast address in it.
            first != 0 && first < 240 && !v4.is_loopback() && !v4.is_multicast() && !v4.is_link_local()
        }
        IpAddr::V6(v6) => {
            let dressed = v6.to_ipv4().is_some();
            // A link-local address is of no use without its interface.
            !(v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || dressed)
        }
    };
    possible && candidate.port() != 0 && !overlays.into_iter().any(|overlay| overlay.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_lie_where_a_node_can_be_control_rule_13() {
        let overlays: [IpNet; 2] = ["10.86.0.0/16".parse().unwrap(), "fd86::/64".parse().unwrap()];
        let possible = |text: &str| is_possible_candidate(text.parse().unwrap(), &overlays);
        for good in ["192.0.2.1:1", "10.0.0.7:8662", "[2001:db8::1]:8662", "[fd00::1]:8662"] {
            assert!(possible(good), "{good}");
        }
        for bad in [
            "127.0.0.1:8662",
            "0.0.0.0:8662",
            "0.1.2.3:8662",
            "224.0.0.1:8662",
            "255.255.255.255:8662",
            "240.0.0.1:8662",
            "169.254.169.254:80",
            "10.86.0.7:8662",
            "192.0.2.1:0",
            "[::]:8662",
            "[::1]:8662",
            "[ff02::1]:8662",
            "[fe80::1]:8662",
            "[::ffff:192.0.2.1]:8662",
            "[::192.0.2.1]:8662",
            "[fd86::7]:8662",
        ] {
            assert!(!possible(bad), "{bad}");
        }
    }
}
