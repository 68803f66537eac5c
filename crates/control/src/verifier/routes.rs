//! Which subnets behind others a node lets into its routing table (control rule 5).

use ipnet::IpNet;

/// Why a route is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteRefusal {
    /// It would take all traffic.
    #[error("a default route is never taken")]
    Default,
    /// The node did not say that it wants it.
    #[error("not within accept_routes; add it there to use it")]
    NotAccepted,
    /// It overlaps the overlay's own prefix.
    #[error("it overlaps the overlay's {0}")]
    Overlay(IpNet),
    /// It overlaps a route that the machine has by itself.
    #[error("it overlaps the local route {0}")]
    Local(IpNet),
}

/// Whether a route of the network may be taken. `accept_routes` is the node's own choice; `local` are the routes
/// that the machine has without Tombolo, less its default routes.
///
/// # Errors
/// Says why not.
pub fn admit_route(
    route: IpNet,
    overlay: impl IntoIterator<Item = IpNet>,
    accept_routes: &[IpNet],
    local: &[IpNet],
) -> Result<(), RouteRefusal> {
    let overlaps = |other: &IpNet| other.contains(&route) || route.contains(other);
    if route.prefix_len() == 0 {
        return Err(RouteRefusal::Default);
    }
    if let Some(prefix) = overlay.into_iter().find(overlaps) {
        return Err(RouteRefusal::Overlay(prefix));
    }
    if !accept_routes.iter().any(|accepted| accepted.contains(&route)) {
        return Err(RouteRefusal::NotAccepted);
    }
    match local.iter().copied().find(overlaps) {
        Some(local) => Err(RouteRefusal::Local(local)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_need_consent_and_room_control_rule_5() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let admit = |route: &str, accept: &str| {
            let local = [net("192.168.1.0/24"), net("10.0.0.0/24")];
            admit_route(net(route), [net("10.86.0.0/16"), net("fd86::/64")], &[net(accept)], &local)
        };
        assert_eq!(admit("172.16.5.0/24", "172.16.0.0/12"), Ok(()));
        assert_eq!(admit("172.16.5.0/24", "172.17.0.0/16"), Err(RouteRefusal::NotAccepted));
        assert_eq!(
            admit("172.16.0.0/12", "172.16.0.0/16"),
            Err(RouteRefusal::NotAccepted),
            "wider than accepted"
        );
        assert_eq!(admit("0.0.0.0/0", "0.0.0.0/0"), Err(RouteRefusal::Default));
        assert_eq!(admit("::/0", "::/0"), Err(RouteRefusal::Default));
        assert_eq!(
            admit("192.168.0.0/16", "0.0.0.0/0"),
            Err(RouteRefusal::Local(net("192.168.1.0/24"))),
            "around a local route"
        );
        assert_eq!(
            admit("10.0.0.128/25", "0.0.0.0/0"),
            Err(RouteRefusal::Local(net("10.0.0.0/24"))),
            "more specific than a local route"
        );
        assert_eq!(admit("10.86.7.0/24", "10.0.0.0/8"), Err(RouteRefusal::Overlay(net("10.86.0.0/16"))));
    }
}
