//! SIGHUP: what changed in the file, and nothing else.

use tombolo_engine::EngineEvent;

use super::interface::Interface;
use super::{Daemon, notify, peers};
use crate::config::{self, InterfaceConfig, MembershipConfig, NetworkConfig};
use crate::membership::routes;
use crate::state::StateStore;

/// All of `[membership]` but `accept_routes`, and `rotate_key_days`, which is looked at when it is due. Gives what has changed.
fn keep_membership(new: &mut MembershipConfig, old: &MembershipConfig) -> Vec<&'static str> {
    let changed = [
        ("authority", new.authority != old.authority),
        ("lighthouse", new.lighthouse != old.lighthouse),
        ("relay", new.relay != old.relay),
        ("joins_per_address", new.joins_per_address != old.joins_per_address),
        ("bind_machine", new.bind_machine != old.bind_machine),
    ];
    *new = MembershipConfig {
        accept_routes: std::mem::take(&mut new.accept_routes),
        rotate_key: new.rotate_key,
        ..old.clone()
    };
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

impl Daemon {
    /// Reads the configuration anew, and tells the service manager.
    pub(super) async fn reload(&mut self) {
        notify::reloading();
        let status = match self.reload_now().await {
            Ok(()) => format!("{} was reloaded", self.network),
            Err(message) => format!("the configuration was not reloaded: {message}"),
        };
        notify::reloaded(&status);
    }

    /// Applies what differs. A file with a mistake changes nothing.
    pub(super) async fn reload_now(&mut self) -> Result<(), String> {
        let mut new = config::load_network(&self.directories, &self.network).map_err(|error| {
            tracing::error!("the configuration was not reloaded:\n{error}");
            error.to_string()
        })?;
        self.notices.clear();
        self.keep_what_needs_a_restart(&mut new);
        // Members come and go by the control plane, not by the file.
        if new.membership.is_some() {
            new.peers.clone_from(&self.config.peers);
            new.interface.private_key.clone_from(&self.config.interface.private_key);
        }
        let transaction = peers::difference(&self.config, &new);
        if !peers::is_empty(&transaction) && !self.apply(transaction) {
            return Err("the change could not be made; see the log".to_owned());
        }
        if new.interface.private_key != self.config.interface.private_key
            && let Some(key) = new.interface.private_key.key()
        {
            // What was saved under the old key means nothing under the new one.
            let directory = self.directories.state_directory(&self.network);
            self.store = StateStore::open(&directory, key.public()).map_err(|error| error.to_string())?;
        }
        self.refused_routes = routes::settle(&mut new, &self.directories, &self.network, true);
        self.reload_interface(&new)?;
        let old = std::mem::replace(&mut self.config, new);
        if self.config.accepted() != old.accepted() {
            self.tell_overlay().map_err(|failure| failure.to_string())?;
            if let Some(member) = &mut self.member {
                member.accept_routes(self.config.accepted());
            }
        }
        self.reload_endpoints(&old);
        if old.interface.metrics != self.config.interface.metrics {
            self.serve_metrics().await;
        }
        self.write_hosts();
        self.save_wanted = true;
        tracing::info!("{} was reloaded", self.network);
        Ok(())
    }

    fn keep_what_needs_a_restart(&mut self, new: &mut NetworkConfig) {
        let old = &self.config;
        let mut kept = Vec::new();
        let named = new.interface.name.as_deref().is_some_and(|name| name != self.interface.plan.interface);
        if named {
            kept.push("name");
        }
        if new.interface.persistent != old.interface.persistent {
            kept.push("persistent");
        }
        if new.interface.control_group != old.interface.control_group {
            kept.push("control_group");
        }
        if new.interface.max_clock_ahead != old.interface.max_clock_ahead {
            kept.push("max_clock_ahead");
        }
        if new.interface.threads.workers() != old.interface.threads.workers() {
            kept.push("workers");
        }
        if new.interface.threads.busy_poll != old.interface.threads.busy_poll {
            kept.push("busy_poll");
        }
        if new.interface.threads.assist != old.interface.threads.assist {
            kept.push("assist");
        }
        let sizes = |interface: &InterfaceConfig| {
            (interface.path_mtu_discovery, interface.path_mtu_interval, interface.clamp_mss)
        };
        if sizes(&new.interface) != sizes(&old.interface) {
            kept.push("path_mtu_discovery, path_mtu_interval or clamp_mss");
        }
        if new.interface.copy_dscp != old.interface.copy_dscp {
            kept.push("copy_dscp");
        }
        if new.offload != old.offload {
            kept.push("[offload]");
        }
        if let (Some(new), Some(old)) = (&mut new.membership, &old.membership) {
            kept.extend(keep_membership(new, old));
        }
        new.interface.name.clone_from(&old.interface.name);
        new.interface.control_group.clone_from(&old.interface.control_group);
        new.interface.persistent = old.interface.persistent;
        new.interface.max_clock_ahead = old.interface.max_clock_ahead;
        new.interface.threads = old.interface.threads;
        new.interface.path_mtu_discovery = old.interface.path_mtu_discovery;
        new.interface.path_mtu_interval = old.interface.path_mtu_interval;
        new.interface.clamp_mss = old.interface.clamp_mss;
        new.interface.copy_dscp = old.interface.copy_dscp;
        new.offload.clone_from(&old.offload);
        for key in kept {
            let notice = format!("`{key}` was changed in the configuration; it takes effect with a restart");
            tracing::warn!("{notice}");
            self.notices.push(notice);
        }
    }

    pub(super) fn reload_interface(&mut self, new: &NetworkConfig) -> Result<(), String> {
        let name = self.interface.plan.interface.clone();
        let mut interface = Interface::open(&name, new).map_err(|error| error.to_string())?;
        let mtu = interface.plan.mtu;
        interface.restore().map_err(|error| error.to_string())?;
        if mtu != self.interface.plan.mtu {
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            let told = self.slot.handle().and_then(|handle| handle.set_mtu(mtu));
            told.map_err(|error| error.to_string())?;
        }
        self.interface = interface;
        Ok(())
    }

    /// Names that are new are resolved at once.
    fn reload_endpoints(&mut self, old: &NetworkConfig) {
        let changed: Vec<_> = self
            .config
            .peers
            .iter()
            .filter(|peer| {
                let before = old.peers.iter().find(|before| before.public_key == peer.public_key);
                peer.endpoint.is_some() && before.is_none_or(|before| before.endpoint != peer.endpoint)
            })
            .map(|peer| peer.public_key)
            .collect();
        for key in changed {
            self.resolving.remove(&key);
            // The same way as when the engine asks for it.
            let _ = self.events.send(super::Event::Engine(vec![EngineEvent::ResolveEndpoint(key)]));
        }
        self.resolving.retain(|key, _| self.config.peers.iter().any(|peer| peer.public_key == *key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_takes_accepted_routes_over_and_says_what_else_of_the_membership_wants_a_restart() {
        let old = MembershipConfig::default();
        let accept_routes = vec!["192.168.7.0/24".parse().unwrap()];
        let mut new = MembershipConfig { accept_routes: accept_routes.clone(), ..old.clone() };
        assert!(keep_membership(&mut new, &old).is_empty());
        assert_eq!(new.accept_routes, accept_routes);
        let mut new = MembershipConfig { relay: false, bind_machine: Some(false), ..old.clone() };
        assert_eq!(keep_membership(&mut new, &old), ["relay", "bind_machine"]);
        assert_eq!(new, old, "until then it is as it was");
    }
}
