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

fn overlaps(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Whether a prefix that the node's own `accept_routes` names can be had. `local` are the routes that the machine has without
/// Tombolo, less its default routes.
///
/// # Errors
/// Says why not.
pub fn admit_prefix(
    prefix: IpNet,
    overlay: impl IntoIterator<Item = IpNet>,
    local: impl IntoIterator<Item = IpNet>,
) -> Result<(), RouteRefusal> {
    if prefix.prefix_len() == 0 {
        return Err(RouteRefusal::Default);
    }
    if let Some(overlay) = overlay.into_iter().find(|overlay| overlaps(overlay, &prefix)) {
        return Err(RouteRefusal::Overlay(overlay));
    }
    match local.into_iter().find(|local| overlaps(local, &prefix)) {
        Some(local) => Err(RouteRefusal::Local(local)),
        None => Ok(()),
    }
}

/// Whether a route of the network may be taken: `accepted` is the node's own choice, as far as [`admit_prefix`] lets it have that,
/// so that nothing within it overlaps what the machine reaches by itself.
///
/// # Errors
/// Says why not.
pub fn admit_route(
    route: IpNet,
    overlay: impl IntoIterator<Item = IpNet>,
    accepted: &[IpNet],
) -> Result<(), RouteRefusal> {
    admit_prefix(route, overlay, [])?;
    if accepted.iter().any(|accepted| accepted.contains(&route)) {
        Ok(())
    } else {
        Err(RouteRefusal::NotAccepted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn overlay() -> [IpNet; 2] {
        [net("10.86.0.0/16"), net("fd86::/64")]
    }

    #[test]
    fn routes_need_consent_control_rule_5() {
        let admit = |route: &str, accepted: &str| admit_route(net(route), overlay(), &[net(accepted)]);
        assert_eq!(admit("172.16.5.0/24", "172.16.0.0/12"), Ok(()));
        assert_eq!(admit("172.16.5.0/24", "172.17.0.0/16"), Err(RouteRefusal::NotAccepted));
        let wider = admit("172.16.0.0/12", "172.16.0.0/16");
        assert_eq!(wider, Err(RouteRefusal::NotAccepted), "wider than accepted");
        assert_eq!(admit("0.0.0.0/0", "0.0.0.0/0"), Err(RouteRefusal::Default));
        assert_eq!(admit("::/0", "::/0"), Err(RouteRefusal::Default));
        assert_eq!(admit("10.86.7.0/24", "10.0.0.0/8"), Err(RouteRefusal::Overlay(net("10.86.0.0/16"))));
    }

    #[test]
    fn what_is_accepted_needs_room_control_rule_5() {
        let local = [net("192.168.1.0/24"), net("10.0.0.0/24")];
        let admit = |prefix: &str| admit_prefix(net(prefix), overlay(), local);
        assert_eq!(admit("172.16.0.0/12"), Ok(()));
        assert_eq!(admit("0.0.0.0/0"), Err(RouteRefusal::Default));
        assert_eq!(admit("::/0"), Err(RouteRefusal::Default));
        assert_eq!(admit("fd86::7:0/112"), Err(RouteRefusal::Overlay(net("fd86::/64"))));
        let around = admit("192.168.0.0/16");
        assert_eq!(around, Err(RouteRefusal::Local(net("192.168.1.0/24"))), "around a local route");
        let within = admit("10.0.0.128/25");
        assert_eq!(within, Err(RouteRefusal::Local(net("10.0.0.0/24"))), "more specific than a local route");
    }
}
