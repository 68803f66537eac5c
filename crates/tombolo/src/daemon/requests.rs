//! Answers to what is asked over the control socket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tombolo_engine::ProbeError;
use tombolo_noise::PublicKey;

use super::report::{self, Context};
use super::{Daemon, membership};
use crate::config::NetworkConfig;
use crate::control::{Answer, Call, Request};
use crate::membership::routes;
use crate::user;

const LONGEST_PROBE: Duration = Duration::from_secs(60);
/// Between two looks for a member that is being looked for.
const LOOK_UP_PAUSE: Duration = Duration::from_millis(30);

impl Daemon {
    /// Answers a request; `true`: it was the last one.
    pub(super) async fn answer(&mut self, call: Call) -> bool {
        let answer = match call.request {
            Request::Status => self.report(),
            Request::Probe { peer, timeout_milliseconds } if self.looks_for(&peer, timeout_milliseconds) => {
                let left = timeout_milliseconds.saturating_sub(LOOK_UP_PAUSE.as_millis() as u64);
                self.ask_again(Call { request: Request::Probe { peer, timeout_milliseconds: left }, ..call });
                return false;
            }
            Request::Whois { address, timeout_milliseconds }
                if self.looks_for_owner(address, timeout_milliseconds) =>
            {
                let left = timeout_milliseconds.saturating_sub(LOOK_UP_PAUSE.as_millis() as u64);
                self.ask_again(Call {
                    request: Request::Whois { address, timeout_milliseconds: left },
                    ..call
                });
                return false;
            }
            Request::Whois { address, .. } => match &self.member {
                Some(member) => member.whois(address),
                None => not_by_membership(),
            },
            Request::Admin { frame } => {
                let Some(member) = &mut self.member else {
                    let _ = call.reply.send(not_by_membership());
                    return false;
                };
                match membership::admin_request(&frame) {
                    Ok(request) => {
                        member.handle_admin(request, user::shown(call.caller.user), call.reply);
                        return false;
                    }
                    Err(message) => Answer::Error { message },
                }
            }
            Request::Leave => match &mut self.member {
                Some(member) => {
                    member.leave(call.reply);
                    return false;
                }
                None => not_by_membership(),
            },
            Request::RotateKey => match &mut self.member {
                Some(member) => {
                    member.rotate_key(call.reply);
                    return false;
                }
                None => not_by_membership(),
            },
            Request::Probe { peer, timeout_milliseconds } => {
                let timeout = Duration::from_millis(timeout_milliseconds).min(LONGEST_PROBE);
                match self.probe(&peer, timeout) {
                    Ok(task) => {
                        tokio::spawn(async move {
                            let answer = task.await.unwrap_or_else(|_| Answer::Error {
                                message: "the daemon is stopping".to_owned(),
                            });
                            // The client may have gone.
                            let _ = call.reply.send(answer);
                        });
                        return false;
                    }
                    Err(message) => Answer::Error { message },
                }
            }
            Request::Reload => match self.reload_now().await {
                Ok(()) => Answer::Done,
                Err(message) => Answer::Error { message },
            },
            Request::Down => {
                let _ = call.reply.send(Answer::Done);
                return true;
            }
        };
        // The client may have gone.
        let _ = call.reply.send(answer);
        false
    }

    /// Puts a request back, to be looked at again in a moment.
    fn ask_again(&self, call: Call) {
        let calls = self.calls.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LOOK_UP_PAUSE).await;
            // Nobody takes it when the daemon is stopping.
            let _ = calls.send(call).await;
        });
    }

    /// Whether nobody here knows yet whose an address of the overlay is; then that is being asked from now on.
    fn looks_for_owner(&mut self, address: IpAddr, timeout_milliseconds: u64) -> bool {
        let Some(member) = &mut self.member else { return false };
        let ours = self.config.overlay().iter().any(|range| range.contains(&address));
        if !ours
            || member.knows_owner(address)
            || !member.is_connected()
            || u128::from(timeout_milliseconds) <= LOOK_UP_PAUSE.as_millis()
        {
            return false;
        }
        member.handle_wanted(address);
        true
    }

    /// Whether a peer is a member whom nobody here knows yet; then it is being looked for from now on.
    fn looks_for(&mut self, name: &str, timeout_milliseconds: u64) -> bool {
        let known =
            self.config.peers.iter().any(|peer| peer.name == name || peer.public_key.to_string() == name);
        let Some(member) = &mut self.member else { return false };
        let known = known || member.presented(name).is_some_and(|(key, _)| member.has_session(&key));
        let Ok(name) = name.parse() else { return false };
        if known || u128::from(timeout_milliseconds) <= LOOK_UP_PAUSE.as_millis() {
            return false;
        }
        member.handle_wanted_name(&name);
        true
    }

    fn report(&mut self) -> Answer {
        let Some(status) = self.status() else {
            return Answer::Error { message: "the engine has stopped".to_owned() };
        };
        let mut warnings = self.notices.clone();
        warnings.extend(self.store.failure().map(str::to_owned));
        warnings.extend(self.member.iter().flat_map(|member| member.warnings()));
        warnings.extend(self.refused_routes.iter().map(ToString::to_string));
        warnings.extend(routes::shadowed(self.config.accepted()));
        let servers = self.member.as_ref().map_or_else(Vec::new, |member| member.server_addresses());
        warnings.extend(routes::unreachable(self.config.accepted(), &servers));
        let resolve_errors =
            self.resolving.iter().filter_map(|(key, state)| Some((*key, state.error.clone()?))).collect();
        let context = Context {
            network: &self.network,
            config: &self.config,
            started_at: self.started_at,
            resolve_errors: &resolve_errors,
            warnings,
            membership: self
                .member
                .as_ref()
                .map(|member| member.report(self.config.accepted(), &self.refused_routes)),
            relayed: &|key| self.member.as_ref()?.why_relayed(key),
        };
        Answer::Status { report: Box::new(report::build(context, &status, &mut self.interface)) }
    }

    /// Asks a peer for an answer through the tunnel, on a thread of its own.
    fn probe(&self, name: &str, timeout: Duration) -> Result<JoinHandle<Answer>, String> {
        let peer =
            self.config.peers.iter().find(|peer| peer.name == name || peer.public_key.to_string() == name);
        let (key, destination) = match peer {
            Some(peer) => {
                let address = NetworkConfig::peer_address(peer)
                    .ok_or_else(|| format!("peer `{name}` has no single address in `allowed_ips`"))?;
                (peer.public_key, address)
            }
            None => {
                let presented = self.member.as_ref().and_then(|member| member.presented(name));
                presented.ok_or_else(|| match &self.member {
                    Some(member) if !member.is_connected() => {
                        format!("`{name}` is not known here, and no server of the network answers now")
                    }
                    _ => format!("there is no peer called `{name}`"),
                })?
            }
        };
        let source = self
            .config
            .own_address_for(destination)
            .ok_or_else(|| format!("this machine has no address of the family of {destination}"))?;
        let handle = self.slot.handle().map_err(|error| error.to_string())?;
        let names: HashMap<PublicKey, String> =
            self.config.peers.iter().map(|peer| (peer.public_key, peer.name.clone())).collect();
        let gateway = peer.is_none().then(|| names.get(&key).cloned().unwrap_or_else(|| key.to_string()));
        let not_direct = self.member.as_ref().and_then(|member| member.why_relayed(&key)).map(|(_, why)| why);
        Ok(tokio::task::spawn_blocking(move || {
            let result = handle.probe(key, source, destination, timeout);
            let peer = handle
                .status()
                .ok()
                .and_then(|status| status.peers.into_iter().find(|peer| peer.public_key == key));
            let relay = peer.as_ref().and_then(|peer| report::relay(peer, &names));
            let not_direct = not_direct.filter(|_| relay.is_some());
            match result {
                Ok(time) => Answer::Probe {
                    round_trip_seconds: time.as_secs_f64(),
                    address: destination.to_string(),
                    endpoint: peer
                        .and_then(|peer| peer.endpoint)
                        .filter(|_| relay.is_none())
                        .map(|endpoint| endpoint.to_string()),
                    relay,
                    not_direct,
                    gateway,
                },
                Err(ProbeError::Stopped) => Answer::Error { message: ProbeError::Stopped.to_string() },
                Err(error) => Answer::NoAnswer {
                    reason: match peer {
                        Some(peer) => {
                            let behind =
                                gateway.map_or(String::new(), |gateway| format!("behind {gateway}, "));
                            format!("{error} ({behind}{})", report::silence(&peer, relay.as_deref()))
                        }
                        None => error.to_string(),
                    },
                },
            }
        }))
    }
}

fn not_by_membership() -> Answer {
    Answer::Error {
        message: "this network has static peers: nobody joins it, and it has no register".to_owned(),
    }
}
