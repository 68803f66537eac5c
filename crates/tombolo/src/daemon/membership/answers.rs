//! What this machine can say of the network: to `status`, to `whois`, to whoever asks for a name, to administrators.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tombolo_control::NodeName;
use tombolo_control::document::{Roles, Server, Validity};
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::AdminRequest;
use tombolo_control::node::NodeStatus;
use tombolo_control::path::Path;
use tombolo_engine::now;
use tombolo_noise::PublicKey;

use super::Member;
use crate::control::Answer;
use crate::hosts;
use crate::membership::from_hex;
use crate::membership::routes::Refused;
use crate::report::{MembershipReport, RouteReport, ServerReport, span};

impl Member {
    /// A request of an administrator at the control socket.
    pub(in super::super) fn handle_admin(
        &mut self,
        request: AdminRequest,
        who: String,
        reply: oneshot::Sender<Answer>,
    ) {
        if let Some(server) = &mut self.server {
            server.handle_request(request, who, reply, &mut self.random);
            return;
        }
        let status = self.node.status(now());
        let mut authorities = self.servers().iter().filter(|server| server.roles.contains(Roles::AUTHORITY));
        // Its key is the session's; that it has shown its membership yet, just after our own came, makes no difference.
        let has_session = |key| status.peers.iter().any(|peer| peer.key == key && peer.session);
        let authority = authorities.find(|server| has_session(server.key)).map(|server| server.key);
        let Some(authority) = authority else {
            let message = "there is no tunnel with a server of the network at the moment, and only that one has the register: \
                           look at `tombolo status`, or run the command on the server"
                .to_owned();
            let _ = reply.send(Answer::Error { message });
            return;
        };
        let session = self.sessions.get(&authority).copied().unwrap_or_default();
        if let Some(frame) = self.asking.ask((authority, session), request.operation, reply, now().boot) {
            self.node.send(authority, frame);
        }
    }

    /// Since how many seconds a member is reached by a relay, and why not directly; `None`: it is no member, or reached directly.
    pub(in super::super) fn why_relayed(&self, key: &PublicKey) -> Option<(f64, String)> {
        let peer = self.node.peer_path(key, now()).filter(|peer| peer.path.is_some_and(Path::is_relayed))?;
        let why = match (peer.addresses, peer.direct_answer) {
            (_, Some(ago)) => format!("it last answered directly {} ago", span(ago.as_secs())),
            (0, _) => "no address of it is known".to_owned(),
            (1, _) => "its one known address does not answer".to_owned(),
            (addresses, _) => format!("none of its {addresses} known addresses answers"),
        };
        Some((peer.in_use?.as_secs_f64(), why))
    }

    /// Whether it is known here whose an address is.
    pub(in super::super) fn knows_owner(&self, address: IpAddr) -> bool {
        self.node.verifier().member_at(address).is_some()
    }

    pub(in super::super) fn whois(&self, address: IpAddr) -> Answer {
        let Some(member) = self.node.verifier().member_at(address) else {
            let overlay = self.node.verifier().pins().overlay.as_ref();
            let ours =
                overlay.is_none_or(|overlay| overlay.cidrs.iter().any(|range| range.contains(&address)));
            let why = match (ours, self.is_connected()) {
                (false, _) => ": it is not one of this network's",
                (true, true) => ", and the servers know of nobody either",
                (true, false) => ", and no server of the network answers now",
            };
            return Answer::Error {
                message: format!("nobody with the address {address} is known here{why}"),
            };
        };
        Answer::Whois {
            node: member.node.to_string(),
            name: member.name.to_string(),
            groups: member.groups.iter().map(ToString::to_string).collect(),
            public_key: member.key.to_string(),
        }
    }

    /// Whether there is a server to ask.
    pub(in super::super) fn is_connected(&self) -> bool {
        let own = self.node.membership().map(|own| own.key);
        let status = self.node.status(now());
        self.servers().iter().any(|server| own == Some(server.key) || is_reached(&status, &server.key))
    }

    pub(super) fn servers(&self) -> &[Server] {
        self.node.verifier().network().map_or(&[], |network| &network.servers)
    }

    /// The domain of the members' names.
    pub(in super::super) fn domain(&self) -> Option<String> {
        self.node.verifier().pins().overlay.as_ref().map(|overlay| overlay.domain.to_string())
    }

    /// The addresses of the member with this name, if it is known here.
    pub(in super::super) fn addresses_of(&self, name: &NodeName) -> Option<Vec<IpAddr>> {
        self.node.addresses_of(name).map(|addresses| addresses.iter().copied().collect())
    }

    /// All names in the network's domain, for the hosts file.
    pub(in super::super) fn host_entries(&self) -> Vec<hosts::Entry> {
        let Some(domain) = self.domain() else { return Vec::new() };
        let mut entries: Vec<hosts::Entry> = Vec::new();
        for named in self.node.names() {
            let name = format!("{}.{domain}", named.name);
            entries.extend(named.addresses.iter().map(|address| (*address, vec![name.clone()])));
        }
        entries.sort();
        entries
    }

    /// What lies behind gateways, and whether it is reached from here (control rule 5).
    fn routes(&self, accepted: &[IpNet], refused: &[Refused]) -> Vec<RouteReport> {
        let routes = self.node.verifier().network().into_iter().flat_map(|network| &network.routes);
        let own = self.node.membership().map(|own| own.node);
        let mut reports: Vec<RouteReport> = Vec::new();
        for route in routes.clone() {
            let admitted = self.node.admit_route(route.prefix);
            let refusal = refused.iter().find(|refused| refused.prefix.contains(&route.prefix));
            let reason = match (admitted, refusal) {
                (Ok(()), _) => None,
                (Err(_), _) if own.is_some_and(|own| route.gateways.contains(&own)) => {
                    Some("this machine is its gateway".to_owned())
                }
                (Err(_), Some(refused)) => Some(refused.reason.to_string()),
                (Err(reason), None) => Some(reason.to_string()),
            };
            reports.push(RouteReport {
                prefix: route.prefix.to_string(),
                gateways: route.gateways.iter().map(|gateway| self.named(gateway)).collect(),
                taken: admitted.is_ok(),
                reason,
            });
        }
        let is_idle = |prefix: &&IpNet| !routes.clone().any(|route| prefix.contains(&route.prefix));
        reports.extend(accepted.iter().filter(is_idle).map(|prefix| RouteReport {
            prefix: prefix.to_string(),
            gateways: Vec::new(),
            taken: true,
            reason: Some("no gateway of the network routes it, so nothing is reached there".to_owned()),
        }));
        reports
    }

    /// For `status`.
    pub(in super::super) fn report(&self, accepted: &[IpNet], refused: &[Refused]) -> MembershipReport {
        let time = now();
        let status = self.node.status(time);
        let own = self.node.membership();
        let verifier = self.node.verifier();
        let seconds = |then: Duration| time.wall.0.saturating_sub(then).as_secs();
        let state = match status.membership {
            _ if self.joining.is_some() => "joining",
            Some(Validity::Valid) => "valid",
            Some(Validity::Grace) => "grace",
            Some(Validity::NotYet(_)) => "not yet valid",
            _ => "expired",
        };
        MembershipReport {
            state: state.to_owned(),
            network_id: verifier.pins().network.to_string(),
            node: own.map(|own| own.node.to_string()),
            name: own.map(|own| own.name.to_string()),
            domain: verifier.pins().overlay.as_ref().map(|overlay| overlay.domain.to_string()),
            roles: own.map(|own| own.roles.to_string()),
            groups: own.map_or(Vec::new(), |own| own.groups.iter().map(ToString::to_string).collect()),
            serial: own.map(|own| own.serial),
            not_after: own.map(|own| own.not_after.0.as_secs()),
            network_version: status.network.map(|version| version.to_string()),
            network_age_seconds: verifier.network().map(|network| seconds(network.issued.0)),
            stale: status.stale,
            not_understood: self.not_understood(),
            trust_epoch: verifier.trust().map(|trust| trust.epoch),
            servers: self
                .servers()
                .iter()
                .map(|server| ServerReport {
                    public_key: server.key.to_string(),
                    roles: server.roles.to_string(),
                    endpoints: server.endpoints.iter().map(|endpoint| endpoint.as_str().to_owned()).collect(),
                    this_machine: own.is_some_and(|own| own.key == server.key),
                    connected: is_reached(&status, &server.key),
                })
                .collect(),
            routes: self.routes(accepted, refused),
            candidates: self.local.iter().map(ToString::to_string).collect(),
            observed: status.observed.iter().map(ToString::to_string).collect(),
            dropped_frames: status.dropped,
        }
    }
}

/// The request in a frame of the control socket.
pub(in super::super) fn admin_request(frame: &str) -> Result<AdminRequest, String> {
    let bytes = from_hex(frame)?;
    match Frame::parse(&bytes) {
        Ok(Frame::AdminRequest(request)) => Ok(request),
        Ok(_) => Err("the frame is no administrator's request".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether there is a tunnel with a verified member of this key.
fn is_reached(status: &NodeStatus, key: &PublicKey) -> bool {
    status.peers.iter().any(|peer| peer.key == *key && peer.verified)
}
