//! Members by name, for the programs of this machine: questions to the name server go to the membership, and are
//! answered when it knows.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tombolo_control::NodeName;

use super::Daemon;
use crate::config::NetworkConfig;
use crate::names::message::Domain;
use crate::names::server::NameServer;
use crate::names::{Found, NameQuery, resolved};

/// Questions that wait for a look-up at most.
const WAITING: usize = 128;
/// How long the lighthouses have to answer. Whoever asked asks again after five seconds.
const PATIENCE: Duration = Duration::from_millis(1500);
const PORT: u16 = 53;

struct Waiting {
    name: NodeName,
    until: Instant,
    reply: oneshot::Sender<Found>,
}

/// The name server, and who waits for its answers.
#[derive(Default)]
pub(super) struct Naming {
    server: Option<NameServer>,
    waiting: Vec<Waiting>,
    /// systemd-resolved asks us.
    registered: bool,
}

impl Naming {
    /// When a question has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }
}

impl Daemon {
    /// Begins to answer, on the own addresses, which can be bound by now.
    pub(super) async fn start_naming(&mut self) {
        let Some(domain) = self.member.as_ref().and_then(|member| member.domain()) else { return };
        let own: Vec<IpAddr> = self.config.interface.addresses.iter().map(ipnet::IpNet::addr).collect();
        let parsed = match Domain::parse(&domain) {
            Ok(parsed) => parsed,
            Err(error) => return self.notices.push(format!("names are not answered: {error}")),
        };
        // An earlier one, before a new membership, holds the port.
        self.naming.server = None;
        match NameServer::start(parsed, own.clone(), PORT, self.name_queries.clone()).await {
            Ok(server) => self.naming.server = Some(server),
            Err(error) => {
                tracing::warn!("names of {domain} are not answered: {error}");
                return self.notices.push(format!("names of {domain} are not answered: {error}"));
            }
        }
        if !resolved::is_running() {
            return;
        }
        match resolved::register(&self.interface.plan.interface, &domain, &own).await {
            Ok(()) => self.naming.registered = true,
            Err(error) => {
                tracing::warn!("systemd-resolved does not ask for {domain}: {error}");
                self.notices.push(format!("systemd-resolved does not ask for {domain}: {error}"));
            }
        }
    }

    pub(super) async fn stop_naming(&mut self) {
        self.naming.server = None;
        if std::mem::take(&mut self.naming.registered)
            && let Err(error) = resolved::revert(&self.interface.plan.interface).await
        {
            tracing::debug!("systemd-resolved: {error}");
        }
    }

    /// Whether the names go into the hosts file.
    fn writes_hosts(&self) -> bool {
        let asked = self.naming.registered;
        self.config.interface.hosts.unwrap_or(self.config.membership.is_some() && !asked)
    }

    /// Where programs cannot ask for a name, every name has to be known before.
    pub(super) fn follow_names(&mut self) {
        let wanted = self.writes_hosts();
        if let Some(member) = &mut self.member
            && wanted
        {
            member.follow_names();
        }
    }

    /// Writes the names that are known, for the resolver of the machine and for the next start.
    pub(super) fn write_names(&mut self) {
        if let Some(member) = &mut self.member {
            member.save_names();
        }
        self.write_hosts();
    }

    pub(super) fn write_hosts(&mut self) {
        let entries = match &self.member {
            _ if !self.writes_hosts() => Vec::new(),
            // Short names belong to the machine's own domain.
            Some(member) => member.host_entries(),
            None => {
                let named = self.config.peers.iter().filter_map(|peer| {
                    let names = vec![peer.name.clone(), format!("{}.{}", peer.name, self.network)];
                    Some((NetworkConfig::peer_address(peer)?, names))
                });
                named.collect()
            }
        };
        let path = Path::new(crate::hosts::HOSTS_FILE);
        if let Err(error) = crate::hosts::update(path, &self.network, &entries) {
            let notice = format!("{} cannot be written: {error}", path.display());
            if !self.notices.contains(&notice) {
                tracing::warn!("{notice}");
                self.notices.push(notice);
            }
        }
    }

    /// A question from this machine.
    pub(super) fn ask_name(&mut self, query: NameQuery) {
        let Some(member) = &mut self.member else { return };
        // What cannot be a member's name is nobody's.
        let Ok(name) = query.name.parse::<NodeName>() else {
            let _ = query.reply.send(Found::Nobody);
            return;
        };
        if let Some(addresses) = member.addresses_of(&name) {
            let _ = query.reply.send(Found::Addresses(addresses));
            return;
        }
        self.naming.waiting.retain(|waiting| !waiting.reply.is_closed());
        if self.naming.waiting.len() >= WAITING {
            let _ = query.reply.send(Found::Unavailable);
            return;
        }
        member.handle_wanted_name(&name);
        self.naming.waiting.push(Waiting { name, until: Instant::now() + PATIENCE, reply: query.reply });
    }

    /// Answers what is known by now, and what has waited long enough.
    pub(super) fn answer_names(&mut self) {
        let Some(member) = &self.member else { return };
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.naming.waiting) {
            let found = match member.addresses_of(&waiting.name) {
                Some(addresses) => Found::Addresses(addresses),
                None if waiting.until > now => {
                    self.naming.waiting.push(waiting);
                    continue;
                }
                None if member.is_connected() => Found::Nobody,
                None => Found::Unavailable,
            };
            let _ = waiting.reply.send(found);
        }
    }
}
