//! From the state directory to a member, a server, or a join that is under way.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tombolo_control::authority::{Outcome, TransactionId};
use tombolo_control::document::Roles;
use tombolo_control::node::{Node, NodeOptions};
use tombolo_engine::now;
use tombolo_noise::MembershipOptions;
use tombolo_noise::clock::UnixTime;

use super::Member;
use super::asking::Asking;
use super::join::Joining;
use super::server::Server;
use crate::cli::{Failure, failed};
use crate::config::NetworkConfig;
use crate::membership::MembershipState;
use crate::paths::Directories;
use crate::{machine, random};

/// Peers of a server at once: all nodes of a large network.
const SERVER_PEERS: usize = 20_000;

impl Member {
    /// What the state directory has: a member, a server, or a join that is under way.
    pub(in super::super) fn start(
        config: &NetworkConfig,
        directories: &Directories,
        network: &str,
        store_results: impl Fn(TransactionId, Outcome) + Send + 'static,
    ) -> Result<Option<Self>, Failure> {
        let Some(membership) = &config.membership else { return Ok(None) };
        let directory = directories.state_directory(network);
        let root = Path::new("/");
        if membership.bind_machine.unwrap_or_else(|| !machine::is_container(root)) {
            machine::bind(&directory, network, root).map_err(|error| Failure::Mistake(error.to_string()))?;
        }
        let state = MembershipState::open(&directory).map_err(failed)?;
        let mut random =
            random::generator().map_err(|error| Failure::runtime("the system gives no randomness", error))?;
        let Some(key) = config.interface.private_key.key() else {
            return Err(Failure::Runtime("the private key was not read".to_owned()));
        };
        let server = match state.issuer().map_err(failed)? {
            Some(issuer) if membership.authority => Some(Server::start(issuer, &directory, store_results)?),
            _ => None,
        };
        let options = NodeOptions {
            accept_routes: membership.accept_routes.clone(),
            authority: server.is_some(),
            peers: if server.is_some() { SERVER_PEERS } else { NodeOptions::default().peers },
            ..NodeOptions::default()
        };
        let time = now();
        let mut served = Roles::AUTHORITY;
        for (role, wanted) in [(Roles::LIGHTHOUSE, membership.lighthouse), (Roles::RELAY, membership.relay)] {
            served = if wanted { served | role } else { served };
        }
        let (node, joining) = match state.saved() {
            Some(saved) => (Node::restore(key.public(), &saved, options, time, &mut random), None),
            None => {
                let pending = state.pending_join().map_err(failed)?;
                let pending = pending.ok_or_else(|| {
                    Failure::Mistake(format!("this machine is no member of `{network}`: run `tombolo join`"))
                })?;
                let joining = Joining::new(&pending.token, pending.name.clone(), state.is_fresh(), time);
                let node = Node::join(key.public(), pending.token, pending.name, options, time, &mut random);
                (node, Some(joining))
            }
        };
        let asking = Asking::new(&mut random);
        let mut member = Self {
            node,
            key: key.public(),
            served,
            server,
            state,
            random,
            sessions: HashMap::new(),
            paths: HashMap::new(),
            relaying: None,
            joining,
            port: config.interface.listen_port,
            remotes: Vec::new(),
            local: Vec::new(),
            asking,
            leaving: None,
            rotating: None,
            alarms: HashMap::new(),
            resolved: HashMap::new(),
            next_look: time.boot,
            attached: HashSet::new(),
        };
        member.take_roles();
        if let Some(server) = &mut member.server {
            server.settle_roles(&key.public(), served, &mut member.random);
        }
        for membership in member.server.iter().flat_map(Server::memberships) {
            // One that has expired meanwhile is not held against the others.
            if let Err(error) = member.node.know(membership, time, &mut member.random) {
                tracing::debug!("a membership of the register is not taken: {error}");
            }
        }
        member.resume_rotation()?;
        Ok(Some(member))
    }

    /// What strangers may do to the engine.
    pub(in super::super) fn options(&self, config: &NetworkConfig) -> MembershipOptions {
        let mut options =
            if self.server.is_some() { MembershipOptions::server() } else { MembershipOptions::node() };
        if let Some(joins) = config.membership.as_ref().and_then(|membership| membership.joins_per_address) {
            options.max_provisional_per_source = joins;
        }
        options
    }

    /// What the time is at least, before the first handshake: its timestamp is not to come from a clock that is years ahead. Nothing
    /// is known of it while a machine joins with a key that was in use before.
    pub(in super::super) fn known_time(&self) -> Option<UnixTime> {
        match &self.joining {
            Some(joining) => joining.assumed_time(),
            None => Some(self.node.times(now()).confirmed),
        }
    }
}
