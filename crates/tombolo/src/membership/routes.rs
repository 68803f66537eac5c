//! Which of the prefixes in `accept_routes` this machine has, and which it cannot have (control rule 5).
//!
//! That is decided once, and written down. A prefix that is taken is kept from then on like the overlay itself, also where
//! somebody gives this machine an address or a route in it later: a neighbour's DHCP server is not to pull out of the
//! tunnel what belongs into it. One that is refused stays refused until the next reload: at boot the local route that was
//! in its way may not be there yet.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use tombolo_control::verifier::{RouteRefusal, admit_prefix};

use super::create;
use crate::atomic_file;
use crate::config::NetworkConfig;
use crate::paths::Directories;

/// A prefix of `accept_routes` that is not taken, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The prefix.
    pub prefix: IpNet,
    /// Why.
    pub reason: RouteRefusal,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "accept_routes: {} is not taken: {}", self.prefix, self.reason)?;
        match self.reason {
            RouteRefusal::Local(_) => {
                formatter.write_str(
                    "; name narrower prefixes, or give up that route and have the file read again (`systemctl reload`, SIGHUP)",
                )
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Decided {
    taken: Vec<IpNet>,
    refused: Vec<Refused>,
}

fn decide(wished: &[IpNet], overlay: &[IpNet], local: &[IpNet], before: &Decided, afresh: bool) -> Decided {
    let mut decided = Decided::default();
    // Named twice is meant once.
    for prefix in wished.iter().copied().collect::<BTreeSet<IpNet>>() {
        let was_refused = before.refused.iter().find(|refused| refused.prefix == prefix && !afresh);
        let in_the_way = match was_refused.map(|refused| refused.reason) {
            Some(RouteRefusal::Local(route)) => Some(route),
            _ => None,
        };
        let local = if before.taken.contains(&prefix) { &[] } else { local };
        let admitted = admit_prefix(prefix, overlay.iter().copied(), local.iter().copied().chain(in_the_way));
        match admitted {
            Ok(()) => decided.taken.push(prefix),
            Err(reason) => decided.refused.push(Refused { prefix, reason }),
        }
    }
    decided
}

/// Leaves in the configuration what is taken, and gives what is not. `afresh`: what was refused earlier is looked at anew.
pub fn settle(
    config: &mut NetworkConfig,
    directories: &Directories,
    network: &str,
    afresh: bool,
) -> Vec<Refused> {
    let overlay = config.overlay();
    let Some(membership) = config.membership.as_mut().filter(|_| !overlay.is_empty()) else {
        return Vec::new();
    };
    let file = directories.state_directory(network).join("routes");
    let before = read(&file);
    if membership.accept_routes.is_empty() && before == Decided::default() {
        return Vec::new();
    }
    let mut local = create::taken_ranges();
    local.extend(create::other_networks(directories, network).into_iter().map(|(_, range)| range));
    let decided = decide(&membership.accept_routes, &overlay, &local, &before, afresh);
    if decided != before
        && let Err(error) = write(&file, &decided)
    {
        tracing::warn!("{} cannot be written: {error}", file.display());
    }
    for refused in &decided.refused {
        tracing::warn!("{refused}");
    }
    membership.accept_routes = decided.taken;
    decided.refused
}

/// Local routes that have come since, in prefixes that are taken: what they lead to is not reached.
pub fn shadowed(taken: &[IpNet]) -> Vec<String> {
    if taken.is_empty() {
        return Vec::new();
    }
    let local = create::taken_ranges();
    let refusals = taken.iter().filter_map(|prefix| match admit_prefix(*prefix, [], local.iter().copied()) {
        Err(RouteRefusal::Local(route)) => Some(format!(
            "accept_routes: {prefix} is reached through the tunnel alone, and this machine now has the local route {route} as \
             well, which is not reached: if it should be, take {prefix} out of accept_routes and have the file read again"
        )),
        _ => None,
    });
    refusals.collect()
}

/// Servers at addresses in prefixes that are taken: what goes there goes through the tunnel, which needs the server first.
pub fn unreachable(taken: &[IpNet], servers: &[(String, SocketAddr)]) -> Vec<String> {
    let within = |(name, address): &(String, SocketAddr)| {
        let prefix = taken.iter().find(|prefix| prefix.contains(&address.ip()))?;
        Some(format!(
            "accept_routes: {prefix} is reached through the tunnel alone, and the server {name} is in it, at {address}: it is not reached \
             there. Name narrower prefixes in accept_routes and have the file read again, or give the server another address \
             (`tombolo network server add {name} --endpoint HOST`)"
        ))
    };
    servers.iter().filter_map(within).collect()
}

/// One decision a line: `taken PREFIX`, or `refused PREFIX ROUTE`; of the other refusals nothing needs to be remembered.
fn read(file: &PathBuf) -> Decided {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut decided = Decided::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match (words.as_slice(), words.get(1).and_then(|prefix| prefix.parse().ok())) {
            (["taken", _], Some(prefix)) => decided.taken.push(prefix),
            (["refused", _, route], Some(prefix)) => {
                if let Ok(route) = route.parse() {
                    decided.refused.push(Refused { prefix, reason: RouteRefusal::Local(route) });
                }
            }
            _ => {}
        }
    }
    decided
}

fn write(file: &Path, decided: &Decided) -> io::Result<()> {
    let mut text: String = decided.taken.iter().map(|prefix| format!("taken {prefix}\n")).collect();
    for Refused { prefix, reason } in &decided.refused {
        if let RouteRefusal::Local(route) = reason {
            text.push_str(&format!("refused {prefix} {route}\n"));
        }
    }
    atomic_file::write(file, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// What is taken of `192.168.0.0/16` with these local routes.
    fn with(local: &[&str], before: &Decided, afresh: bool) -> Decided {
        decide(&nets(&["192.168.0.0/16"]), &nets(&["10.86.0.0/16"]), &nets(local), before, afresh)
    }

    #[test]
    fn a_prefix_that_is_taken_is_not_given_up_for_a_local_route_that_comes_later_control_rule_5() {
        let taken = with(&[], &Decided::default(), false);
        assert_eq!(taken.taken, nets(&["192.168.0.0/16"]));
        for afresh in [false, true] {
            assert_eq!(with(&["192.168.1.0/24"], &taken, afresh), taken);
        }
        assert_eq!(
            decide(&[], &[], &[], &taken, false),
            Decided::default(),
            "it is given up where it is not named any more"
        );
    }

    #[test]
    fn a_prefix_that_is_refused_is_not_taken_at_boot_before_the_local_route_is_there_control_rule_5() {
        let refused = with(&["192.168.1.0/24"], &Decided::default(), false);
        assert!(refused.taken.is_empty());
        assert!(refused.refused[0].to_string().contains("overlaps the local route 192.168.1.0/24"));
        assert_eq!(with(&[], &refused, false), refused);
        assert_eq!(with(&[], &refused, true).taken, nets(&["192.168.0.0/16"]), "after a reload");
    }

    #[test]
    fn what_can_never_be_had_is_refused_control_rule_5() {
        let wished = nets(&["0.0.0.0/0", "::/0", "172.16.0.0/12", "10.0.0.0/8", "172.16.0.0/12"]);
        let decided = decide(&wished, &nets(&["10.86.0.0/16"]), &[], &Decided::default(), true);
        assert_eq!(decided.taken, nets(&["172.16.0.0/12"]));
        assert_eq!(decided.refused.len(), 3);
    }

    #[test]
    fn a_server_in_a_prefix_that_is_taken_is_told_of_with_the_mend_control_rule_5() {
        let servers = ["192.168.7.5:8662", "203.0.113.5:8662", "[fd00:7::5]:8662"];
        let servers = servers.map(|address| ("paris".to_owned(), address.parse().unwrap()));
        let told = unreachable(&nets(&["192.168.0.0/16", "fd00:7::/64"]), &servers);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("the server paris is in it, at 192.168.7.5:8662"), "{}", told[0]);
        assert!(told[0].contains("narrower prefixes") && told[1].contains("[fd00:7::5]:8662"), "{told:?}");
        assert!(unreachable(&[], &servers).is_empty());
    }

    #[test]
    fn decisions_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routes");
        assert_eq!(read(&file), Decided::default());
        let local = RouteRefusal::Local("192.168.1.0/24".parse().unwrap());
        let refused = Refused { prefix: "192.168.0.0/16".parse().unwrap(), reason: local };
        let decided = Decided { taken: nets(&["172.16.0.0/12", "fd00:7::/64"]), refused: vec![refused] };
        write(&file, &decided).unwrap();
        assert_eq!(read(&file), decided);
    }
}
