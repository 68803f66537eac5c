//! What somebody should look at: what is wrong now, and what happened in the last hour.

use std::net::SocketAddr;
use std::time::Duration;

use tombolo_control::NodeId;
use tombolo_control::document::{DocumentError, Membership};
use tombolo_control::frame::{RenewRefusal, ShowRefusal};
use tombolo_control::lighthouse::LighthouseAlarm;
use tombolo_control::node::NodeAlarm;
use tombolo_control::verifier::{Alarm, ClockFault, DocumentKind, Owned};
use tombolo_engine::now;
use tombolo_noise::PublicKey;
use tombolo_noise::clock::{Instant, UnixTime};

use super::Member;
use super::server::Server;
use crate::report::span;

/// For so long something that happened once is shown.
const SHOWN: Duration = Duration::from_secs(3600);
/// Clocks that differ by more are told of.
const NOTABLE_DIFFERENCE: u64 = 5;

/// Something that happened.
#[derive(Debug)]
pub(super) struct Happened {
    text: String,
    at: Instant,
}

impl Happened {
    pub(super) fn now(text: String) -> Self {
        Self { text, at: now().boot }
    }

    /// As a warning, for an hour.
    pub(super) fn shown(&self, time: Instant) -> Option<String> {
        let age = time.saturating_duration_since(self.at);
        (age < SHOWN).then(|| format!("{} ({} ago)", self.text, span(age.as_secs())))
    }
}

impl Member {
    /// Something has happened; the newest of each kind is kept.
    pub(super) fn alarm(&mut self, kind: &'static str, text: String) {
        tracing::warn!("{text}");
        self.alarms.insert(kind, Happened::now(text));
    }

    /// The membership was renewed: what was said of that before is over.
    pub(super) fn note_renewed(&mut self) {
        for kind in ["renewal", "refused"] {
            self.alarms.remove(kind);
        }
    }

    pub(super) fn take_alarm(&mut self, alarm: &NodeAlarm) {
        match alarm {
            // These last, and are shown for as long as they do.
            NodeAlarm::Stale | NodeAlarm::Clock(_) | NodeAlarm::NotRenewed { .. } => {
                for text in self.lasting() {
                    tracing::warn!("{text}");
                }
            }
            NodeAlarm::RenewalRefused(reason) => self.alarm("renewal", renewal_text(*reason)),
            NodeAlarm::Refused { peer, reason, clock_difference } => {
                let text = refused_text(&self.called(peer), *reason, *clock_difference);
                self.alarm("refused", text);
            }
            NodeAlarm::Lighthouse(LighthouseAlarm::TwoPlaces { node, one, other }) => {
                let name = self.named(node);
                self.alarm(
                    "two places",
                    format!(
                        "the node {name} speaks from {one} and from {other} by turns: a copied disk, or a stolen key; \
                         `tombolo node replace {name}` gives one of them another"
                    ),
                );
            }
            NodeAlarm::FalseAnswer { lighthouse } => {
                let name = self.called(lighthouse);
                self.alarm("false answer", false_answer_text(&name));
            }
            // This lasts too, but for memberships.
            NodeAlarm::Verifier(Alarm::NotUnderstood { document, error }) => {
                let text = not_understood_text(*document, error);
                if *document == DocumentKind::Membership {
                    self.alarm("not understood", text);
                } else {
                    tracing::warn!("{text}");
                }
            }
            NodeAlarm::Verifier(alarm) => {
                let text = conflict_text(alarm, |node| self.named(node));
                self.alarm("conflict", text);
            }
        }
    }

    /// A node's name where it is known.
    pub(super) fn named(&self, node: &NodeId) -> String {
        let known = self.node.verifier().member(node).map(|member| member.name.to_string());
        known.unwrap_or_else(|| node.to_string())
    }

    /// The name of whose key it is, where that is known.
    fn called(&self, key: &PublicKey) -> String {
        let held = self.node.verifier().authorised(key, self.node.times(now()));
        held.map_or_else(|| key.to_string(), |(member, _)| member.name.to_string())
    }

    /// What is wrong now.
    fn lasting(&self) -> Vec<String> {
        let time = now();
        let status = self.node.status(time);
        let mut texts = Vec::new();
        if status.stale && self.node.verifier().network().is_some() {
            let issued = self.node.verifier().network().map_or(time.wall.0, |network| network.issued.0);
            let age = span(time.wall.0.saturating_sub(issued).as_secs());
            texts.push(format!(
                "the network document is {age} old, and a new one comes every hour: no server is up, or somebody \
                 withholds it; revocations and changes are not heard of. See `tombolo status` for the servers"
            ));
        }
        texts.extend(self.not_understood());
        texts.extend(self.node.clock_fault(time).map(clock_text));
        let confirmed = self.node.times(time).confirmed;
        texts.extend(self.node.membership().and_then(|own| not_renewed_text(own, confirmed)));
        texts
    }

    /// Documents that only a newer version of the program takes (control rule 6).
    pub(super) fn not_understood(&self) -> Vec<String> {
        let refused = self.node.verifier().not_understood();
        refused.map(|(document, error)| not_understood_text(document, error)).collect()
    }

    /// The names and addresses of all other servers, as far as they are known.
    pub(in super::super) fn server_addresses(&self) -> Vec<(String, SocketAddr)> {
        let servers = self.servers().iter().filter(|server| server.key != self.key);
        let endpoints =
            servers.flat_map(|server| server.endpoints.iter().map(move |endpoint| (server, endpoint)));
        let addresses = endpoints.flat_map(|(server, endpoint)| {
            let found = self.resolved.get(endpoint.as_str()).into_iter().flatten().copied();
            endpoint.address().into_iter().chain(found).map(|address| (self.named(&server.node), address))
        });
        addresses.collect()
    }

    /// All of it.
    pub(in super::super) fn warnings(&self) -> Vec<String> {
        let time = now().boot;
        let mut warnings = self.lasting();
        warnings.extend(self.alarms.values().filter_map(|happened| happened.shown(time)));
        warnings.extend(self.server.iter().flat_map(Server::warnings));
        warnings.sort();
        warnings
    }
}

/// From half of the membership's life on (control rule 16).
fn not_renewed_text(own: &Membership, confirmed: UnixTime) -> Option<String> {
    let half = own.not_before.0 + own.lifetime() / 2;
    if confirmed.0 <= half {
        return None;
    }
    let (end, now) = (own.not_after.0.as_secs(), confirmed.0.as_secs());
    let end = if now < end {
        format!("ends in {}", span(end - now))
    } else {
        format!("ended {} ago", span(now - end))
    };
    Some(format!(
        "the membership was not renewed for more than half of its life; it {end}: see that the server can be reached"
    ))
}

fn clock_text(fault: ClockFault) -> String {
    let (by, way, perhaps) = match fault {
        ClockFault::Behind(by) => (by, "behind", ""),
        ClockFault::Ahead(by) => (by, "ahead of", ", unless the machine was off for so long"),
    };
    let (days, hours, minutes) = (by.as_secs() / 86_400, by.as_secs() / 3600 % 24, by.as_secs() / 60 % 60);
    format!(
        "this machine's clock is {days} days, {hours} hours and {minutes} minutes {way} what the network has signed{perhaps}: set it; \
         until then the network's time is used"
    )
}

fn renewal_text(reason: RenewRefusal) -> String {
    let why = match reason {
        RenewRefusal::NotAMember => {
            "it does not know this machine: look for it there with `tombolo node list`, or `tombolo leave --force` here and \
             join anew"
                .to_owned()
        }
        RenewRefusal::Revoked => {
            "this machine, or its key, is revoked: `tombolo leave --force`, and join anew if that was a mistake".to_owned()
        }
        RenewRefusal::UnknownTicket => "it has forgotten the change of this machine's key; it is asked again".to_owned(),
        RenewRefusal::NotPresented => "this machine does not present that node any more".to_owned(),
        RenewRefusal::Busy => "it is busy; it is asked again".to_owned(),
        other => format!("for a reason that this version does not know ({})", other.code()),
    };
    format!("the server does not renew the membership: {why}")
}

fn refused_text(peer: &str, reason: ShowRefusal, clock_difference: i64) -> String {
    let why = match reason {
        ShowRefusal::Invalid => "it does not verify there".to_owned(),
        ShowRefusal::Expired => "it has expired there".to_owned(),
        ShowRefusal::NotYet => "it begins later, by the clock there".to_owned(),
        ShowRefusal::Revoked => "it is revoked".to_owned(),
        ShowRefusal::Owned => "what it claims (name, address or key) is another node's there".to_owned(),
        ShowRefusal::Later => "it lacks documents for it".to_owned(),
        ShowRefusal::Stale => "its network document is stale, and it takes no new peers meanwhile".to_owned(),
        other => format!("for a reason that this version does not know ({})", other.code()),
    };
    let clock = match clock_difference {
        ahead if ahead.unsigned_abs() <= NOTABLE_DIFFERENCE => String::new(),
        ahead => {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            format!("; its clock is {} s {way} ours", ahead.unsigned_abs())
        }
    };
    format!("{peer} does not take our membership: {why}{clock}")
}

fn false_answer_text(lighthouse: &str) -> String {
    format!(
        "the lighthouse {lighthouse} answers with what no authority has signed, or with others than it was asked for: it is in other \
         hands, or broken. Nothing of it was believed. `tombolo node replace {lighthouse}`, once the machine is clean"
    )
}

fn not_understood_text(document: DocumentKind, error: &DocumentError) -> String {
    let (what, meanwhile) = match document {
        DocumentKind::Trust => (
            "a newer trust document",
            "the one held goes on to hold, and changes of the issuers are not taken",
        ),
        DocumentKind::Network => (
            "a newer network document",
            "the one held goes on to hold, and changes and revocations since are not taken",
        ),
        DocumentKind::Membership => ("a membership", "whose it is has no tunnel with this machine"),
    };
    format!(
        "{what} says what this version of tombolo ({}) does not know ({error}): {meanwhile}. Upgrade tombolo on this machine",
        env!("CARGO_PKG_VERSION")
    )
}

fn conflict_text(alarm: &Alarm, name: impl Fn(&NodeId) -> String) -> String {
    match alarm {
        Alarm::TrustFork { epoch, .. } => format!(
            "two different trust documents of epoch {epoch} are signed: the root key was used in two places, or is in other \
             hands; the one that came first holds"
        ),
        Alarm::NetworkFork { version, .. } => format!(
            "two different network documents of version {version} are signed: two servers run with one issuer key, such as a \
             restored one beside the original, or it is in other hands; see `tombolo server trust show`"
        ),
        Alarm::SerialFork { node, serial } => format!(
            "two different memberships of {} with the serial {serial} are signed: two servers run with one issuer key, or it is \
             in other hands; see `tombolo server trust show`",
            name(node)
        ),
        Alarm::OwnerConflict { owned, holder, claimant } => {
            let owned = match owned {
                Owned::Address(address) => format!("the address {address}"),
                Owned::Name(name) => format!("the name {name}"),
                Owned::Key(key) => format!("the key {key}"),
            };
            format!(
                "a membership gives {owned}, which is {}'s, to {} as well; the first keeps it. `tombolo node revoke` one of them",
                name(holder),
                name(claimant)
            )
        }
        Alarm::OverlayChanged { version } => format!(
            "the network document {version} names another range or domain than this machine joined with, which is not taken; if \
             that is meant, leave and join anew"
        ),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tombolo_control::NetworkId;
    use tombolo_control::document::{Roles, Version};

    use super::*;

    #[test]
    fn a_refusal_is_told_in_words_and_with_the_clocks() {
        let text = refused_text("db-1", ShowRefusal::NotYet, -3600);
        assert_eq!(
            text,
            "db-1 does not take our membership: it begins later, by the clock there; its clock is 3600 s behind ours"
        );
        assert!(!refused_text("db-1", ShowRefusal::Revoked, 2).contains("clock"));
        assert!(refused_text("db-1", ShowRefusal::from_code(99), 0).contains("(99)"));
    }

    #[test]
    fn a_membership_that_is_not_renewed_is_warned_of_from_half_life_on_control_rule_16() {
        const DAY: u64 = 86_400;
        let at = |days| UnixTime(Duration::from_secs(days * DAY));
        let own = Membership {
            network: NetworkId::from_bytes([1; 16]),
            node: NodeId::from_bytes([1; 16]),
            serial: 1,
            key: PublicKey::from_bytes([9; 32]),
            name: "db-1".parse().unwrap(),
            addresses: BTreeSet::new(),
            groups: BTreeSet::new(),
            routes: BTreeSet::new(),
            roles: Roles::NONE,
            not_before: at(100),
            not_after: at(114),
            grace: Duration::from_secs(30 * DAY),
            network_version: Version { epoch: 1, counter: 1 },
            presenter: None,
        };
        assert_eq!(not_renewed_text(&own, at(107)), None);
        let warned = |days| not_renewed_text(&own, at(days)).unwrap();
        assert!(warned(108).contains("it ends in 6 days"), "{}", warned(108));
        assert!(warned(116).contains("it ended 2 days ago"), "{}", warned(116));
    }

    #[test]
    fn what_is_not_understood_is_told_with_the_mend_control_rule_6() {
        let text = not_understood_text(DocumentKind::Network, &DocumentError::Critical(15));
        assert!(text.starts_with("a newer network document says what this version of tombolo"), "{text}");
        assert!(text.contains("field 15") && text.contains("revocations since are not taken"), "{text}");
        assert!(text.ends_with("Upgrade tombolo on this machine"), "{text}");
    }

    #[test]
    fn a_lighthouse_that_lies_is_named_with_the_mend_control_rule_7() {
        let text = false_answer_text("paris");
        assert!(text.starts_with("the lighthouse paris answers with what no authority has signed"), "{text}");
        assert!(text.contains("`tombolo node replace paris`"), "{text}");
    }

    #[test]
    fn a_conflict_names_what_and_whose() {
        let (holder, claimant) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let alarm = Alarm::OwnerConflict { owned: Owned::Address([10, 0, 0, 7].into()), holder, claimant };
        let text = conflict_text(&alarm, |node| if *node == holder { "ada" } else { "bob" }.to_owned());
        assert!(
            text.starts_with("a membership gives the address 10.0.0.7, which is ada's, to bob as well"),
            "{text}"
        );
    }
}
