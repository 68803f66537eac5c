//! Joining: how far it is, and why it came to nothing.

use std::net::SocketAddr;
use std::time::Duration;

use tombolo_control::HostEndpoint;
use tombolo_control::frame::{JoinAnswer, JoinRefusal};
use tombolo_control::token::Token;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, Now};

use super::super::Daemon;
use super::Member;
use crate::cli::Failure;

/// A closed port is told of within ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);
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
    has_session: bool,
    /// How far our clock is ahead of the authority's, in seconds.
    clock_ahead: Option<i64>,
}

impl Joining {
    pub(super) fn new(token: &Token, now: Now) -> Self {
        Self {
            server: *token.server_key(),
            endpoints: token.endpoints().to_vec(),
            deadline: now.boot + PATIENCE,
            tried: Vec::new(),
            unresolved: Vec::new(),
            has_session: false,
            clock_ahead: None,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
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
        let (by, way) = (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
        Some(format!("this machine's clock is {by} s {way} the server's: set it, then join again"))
    }

    /// Whether there is still time.
    pub(super) fn check(&self, now: Now) -> Result<(), Failure> {
        if now.boot < self.deadline {
            return Ok(());
        }
        Err(Failure::Runtime(self.why()))
    }

    fn why(&self) -> String {
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
                 and that this machine's firewall lets UDP out",
                list.join(", "),
                ports.join(", ")
            ));
        }
        for unresolved in &self.unresolved {
            text.push_str(&format!("; {unresolved}"));
        }
        text
    }
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
            "the name is another node's, or reserved: choose another with `tombolo join --name NAME`"
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
        if member.joining.take().is_none() {
            return Ok(());
        }
        if let Err(error) = member.state.end_join() {
            member.alarm("disk", error.to_string());
        }
        let mut config = self.config.clone();
        config.interface.addresses = member.state.addresses();
        if let Some(own) = member.node.membership() {
            tracing::info!(
                "joined as {}, membership until Unix time {}",
                own.name,
                own.not_after.0.as_secs()
            );
        }
        self.reload_interface(&config).map_err(Failure::Runtime)?;
        self.config = config;
        self.tell_overlay()?;
        self.joined = true;
        Ok(())
    }
}
