//! Joining: how far it is, and why it came to nothing.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use tombolo_control::frame::{JoinAnswer, JoinRefusal};
use tombolo_control::token::Token;
use tombolo_control::{HostEndpoint, NodeName};
use tombolo_engine::now;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now, UnixTime};

use super::super::Daemon;
use super::Member;
use crate::cli::{Failure, failed, utc};
use crate::membership::create::{self, Overlap};
use crate::membership::routes;
use crate::report::span;

/// A closed port is told of within ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// So much longer a server may take that has answered the handshake: its disk may be slow.
const MORE_PATIENCE: Duration = Duration::from_secs(6);
/// So long the server has to hear that this machine leaves again.
const LEAVING: Duration = Duration::from_secs(3);
/// Clocks that differ by more than this may be why a membership does not hold.
const NOTABLE_DIFFERENCE: u64 = 60;

/// A join that is under way.
#[derive(Debug)]
pub(super) struct Joining {
    server: PublicKey,
    endpoints: Vec<HostEndpoint>,
    deadline: Instant,
    tried: Vec<SocketAddr>,
    unresolved: Vec<String>,
    /// The name that is asked for.
    name: Option<NodeName>,
    has_session: bool,
    /// The key has never been used.
    fresh: bool,
    /// How far our clock is ahead of the authority's, in seconds.
    clock_ahead: Option<i64>,
    /// The network overlaps what this machine reaches otherwise.
    refused: Option<String>,
}

impl Joining {
    pub(super) fn new(token: &Token, name: Option<NodeName>, fresh: bool, now: Now) -> Self {
        Self {
            fresh,
            server: *token.server_key(),
            endpoints: token.endpoints().to_vec(),
            deadline: now.boot + PATIENCE,
            tried: Vec::new(),
            unresolved: Vec::new(),
            name,
            has_session: false,
            clock_ahead: None,
            refused: None,
        }
    }

    /// What the engine takes for the time, more or less, until a signed document says better. Servers do not answer handshakes
    /// from the future, so whoever is there by its clock would not hear from them by how much it is wrong. A key whose
    /// handshakes nobody has seen yet may begin anywhere in the past.
    pub(super) fn assumed_time(&self) -> Option<UnixTime> {
        self.fresh.then_some(UnixTime(Duration::from_secs(1)))
    }

    pub(super) fn deadline(&self) -> Instant {
        let is_hopeful = self.has_session && self.clock().is_none() && self.refused.is_none();
        if is_hopeful { self.deadline + MORE_PATIENCE } else { self.deadline }
    }

    pub(super) fn note_session(&mut self, key: &PublicKey) {
        self.has_session |= *key == self.server;
    }

    pub(super) fn note_addresses(&mut self, addresses: &[SocketAddr]) {
        for address in addresses {
            if !self.tried.contains(address) {
                self.tried.push(*address);
            }
        }
    }

    pub(super) fn note_unresolved(&mut self, endpoint: &HostEndpoint, error: &str) {
        let text = format!("{}: {error}", endpoint.as_str());
        if !self.unresolved.contains(&text) {
            self.unresolved.push(text);
        }
    }

    pub(super) fn note_answer(&mut self, answer: &JoinAnswer, now: Now) {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        self.clock_ahead = Some(seconds(now.wall.0).saturating_sub(seconds(answer.time.0)));
    }

    fn clock(&self) -> Option<String> {
        let ahead = self.clock_ahead.filter(|ahead| ahead.unsigned_abs() > NOTABLE_DIFFERENCE)?;
        let (by, way) = (span(ahead.unsigned_abs()), if ahead > 0 { "ahead of" } else { "behind" });
        Some(format!("this machine's clock is {by} {way} the server's: set it, then join again"))
    }

    /// Whether there is still time, and sense in it.
    pub(super) fn check(&self, now: Now) -> Result<(), Failure> {
        if now.boot < self.deadline() {
            return Ok(());
        }
        self.check_refused()?;
        Err(Failure::Runtime(self.why(now)))
    }

    /// What this machine itself has against the network.
    pub(super) fn check_refused(&self) -> Result<(), Failure> {
        self.refused.clone().map_or(Ok(()), |reason| Err(Failure::Mistake(reason)))
    }

    fn why(&self, now: Now) -> String {
        if let Some(clock) = self.clock() {
            return clock;
        }
        if self.has_session {
            return "the server answers, but did not let this machine in in time: look at its log; \
                    the same token and key may be tried again with `tombolo join`"
                .to_owned();
        }
        let literal = self.endpoints.iter().filter_map(HostEndpoint::address);
        let mut tried: Vec<SocketAddr> = self.tried.iter().copied().chain(literal).collect();
        tried.sort_unstable();
        tried.dedup();
        let mut text = String::from("no server answers");
        if !tried.is_empty() {
            let list: Vec<String> = tried.iter().map(ToString::to_string).collect();
            let ports: std::collections::BTreeSet<u16> = tried.iter().map(SocketAddr::port).collect();
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            text.push_str(&format!(
                "; tried {}. See that the server runs (`tombolo status` there), that its firewall lets UDP port {} in, \
                 that this machine's firewall lets UDP out, and that its clock is right: it says {}",
                list.join(", "),
                ports.join(", "),
                utc(now.wall)
            ));
        }
        for unresolved in &self.unresolved {
            text.push_str(&format!("; {unresolved}"));
        }
        text
    }
}

/// Compares the network's prefixes with the routes of this machine, and with its other networks (control rule 5).
fn check_ranges(addresses: &[IpNet], others: &[(String, IpNet)], routes: &[IpNet]) -> Result<(), String> {
    for address in addresses {
        let prefix = address.trunc();
        let overlaps = |other: &IpNet| other.contains(&prefix) || prefix.contains(other);
        if let Some((name, other)) = others.iter().find(|(_, other)| overlaps(other)) {
            return Err(format!(
                "the network's range {prefix} overlaps {other} of the network `{name}`, in which this machine is already: make one of \
                 them anew with another range (`tombolo server init --cidr`). This machine has left the network again; to join \
                 it wants a new token"
            ));
        }
        match create::overlap(&prefix, routes) {
            Overlap::Free => {}
            Overlap::Covered(route) => {
                tracing::warn!(
                    "the network's range {prefix} lies in {route}, which this machine routes elsewhere"
                );
            }
            Overlap::Taken(route) => {
                return Err(format!(
                    "the network's range {prefix} overlaps {route}, which this machine reaches otherwise: one of both would not be \
                     reached. Give up that route (`ip route`), or make the network anew with another range \
                     (`tombolo server init --cidr`). This machine has left the network again; to join it wants a new token"
                ));
            }
        }
    }
    Ok(())
}

/// Why the authority does not let us in, and what to do.
pub(super) fn refused(refusal: JoinRefusal, joining: Option<&Joining>) -> Failure {
    let clock = joining.and_then(Joining::clock).map_or(String::new(), |clock| format!(" ({clock})"));
    let text = match refusal {
        JoinRefusal::UnknownToken => {
            "the server does not know this token: it was revoked, or is of another server; \
             have a new one made there with `tombolo token new`"
        }
        JoinRefusal::Spent => {
            "the token is spent: another machine has joined with it; have a new one made with `tombolo token new`, \
             and if that machine is not yours, revoke it (`tombolo token list` names it)"
        }
        JoinRefusal::Expired => "the token has expired: have a new one made with `tombolo token new`",
        JoinRefusal::NameTaken => {
            let name = joining.and_then(|joining| joining.name.as_ref());
            let name = name.map_or(String::new(), |name| format!(" `{name}`"));
            return Failure::Mistake(format!(
                "the name{name} is another node's, or reserved: choose another with `tombolo join --name NAME`, or have it given \
                 back (`tombolo node list`, `tombolo node revoke` on the server){clock}"
            ));
        }
        JoinRefusal::Full => "no address is left in the network: nodes that are gone must be revoked first",
        JoinRefusal::Revoked => "this machine's key is revoked: join again, which makes another",
        _ => "the server does not let this machine in",
    };
    Failure::Mistake(format!("{text}{clock}"))
}

impl Daemon {
    /// The membership is there and on the disk: now the interface can have its addresses.
    pub(super) fn joined(&mut self, member: &mut Member) -> Result<(), Failure> {
        if member.joining.is_none() {
            return Ok(());
        }
        let mut config = self.config.clone();
        config.interface.addresses = member.state.addresses();
        let others = create::other_networks(&self.directories, &self.network);
        let routes = create::taken_ranges();
        if let Err(reason) = check_ranges(&config.interface.addresses, &others, &routes) {
            // The membership is of no use here: its name and addresses are given back.
            tracing::error!("{reason}");
            if let Some(joining) = &mut member.joining {
                joining.refused = Some(reason);
                joining.deadline = now().boot + LEAVING;
            }
            member.node.leave();
            return Ok(());
        }
        member.joining = None;
        if let Err(error) = member.state.end_join() {
            member.alarm("disk", error.to_string());
        }
        if let Some(own) = member.node.membership() {
            tracing::info!(
                "joined as {}, membership until Unix time {}",
                own.name,
                own.not_after.0.as_secs()
            );
        }
        self.refused_routes = routes::settle(&mut config, &self.directories, &self.network, true);
        self.reload_interface(&config).map_err(Failure::Runtime)?;
        let kept = self.device.set_persistent(config.interface.persistent);
        kept.map_err(failed)?;
        self.config = config;
        self.tell_overlay()?;
        member.accept_routes(self.config.accepted());
        self.joined = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_told_by_how_much_control_rule_18() {
        let server = tombolo_noise::PrivateKey::from_bytes([7; 32]).public();
        let at = |seconds| UnixTime(Duration::from_secs(seconds));
        let now = Now { boot: Instant::from_nanos(0), wall: at(1_800_000_000) };
        let mut joining = Joining {
            server,
            endpoints: Vec::new(),
            deadline: now.boot,
            tried: Vec::new(),
            unresolved: Vec::new(),
            name: None,
            has_session: true,
            fresh: true,
            clock_ahead: None,
            refused: None,
        };
        for (theirs, said) in [(1_800_000_000 - 86_400, "1 day ahead of"), (1_800_003_600, "1 h behind")] {
            let answer = JoinAnswer { time: at(theirs), outcome: Ok(Vec::new()) };
            joining.note_answer(&answer, now);
            let text = joining.check(now).unwrap_err().to_string();
            assert!(text.contains(said) && text.contains("set it"), "{text}");
        }
        joining.note_answer(&JoinAnswer { time: at(1_800_000_010), outcome: Ok(Vec::new()) }, now);
        assert!(joining.check(now).is_ok(), "it may only be slow");
        let later = Now { boot: now.boot + MORE_PATIENCE, ..now };
        assert!(!joining.check(later).unwrap_err().to_string().contains("clock"));
    }

    #[test]
    fn another_network_of_the_machine_is_not_overlapped_control_rule_5() {
        let own: Vec<IpNet> = vec!["192.0.2.9/24".parse().unwrap()];
        let other = |range: &str| vec![("red".to_owned(), range.parse().unwrap())];
        for range in ["192.0.2.0/24", "192.0.0.0/16", "192.0.2.128/25"] {
            let text = check_ranges(&own, &other(range), &[]).unwrap_err();
            assert!(text.contains("`red`") && text.contains(range), "{text}");
        }
        let elsewhere = other("198.51.100.0/24");
        assert_eq!(check_ranges(&own, &elsewhere, &[]), Ok(()));
        let route = "192.0.2.128/25".parse().unwrap();
        let text = check_ranges(&own, &elsewhere, &[route]).unwrap_err();
        assert!(text.contains("192.0.2.128/25") && text.contains("--cidr"), "{text}");
    }
}
