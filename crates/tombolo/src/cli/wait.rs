//! `wait` and `ping`.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::json;
use tombolo_noise::PublicKey;

use super::args::{Cli, PingArgs, WaitArgs};
use super::up::now;
use super::{Failure, failed, print_line};
use crate::config::{self, NetworkConfig, PeerConfig};
use crate::control::{Answer, Client, Request};
use crate::daemon::interface::is_bindable;
use crate::paths::Directories;

/// Between two looks at something that was not there.
const PAUSE: Duration = Duration::from_millis(100);
/// For the first answer, and, doubled each time, for a later one. An echo request that is lost is lost;
/// the handshake it asked for goes on without it.
const FIRST_PROBE: Duration = Duration::from_millis(250);
const LONGEST_PROBE: Duration = Duration::from_secs(4);
/// For one connection, which TCP itself tries again and again.
const CONNECT: Duration = Duration::from_secs(6);

pub(super) fn wait(cli: &Cli, directories: &Directories, arguments: &WaitArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let mut config = match config::load_network(directories, &network) {
        // A database's user waits too, and needs no secret for it (control rule 22).
        Err(error) if !rustix::process::geteuid().is_root() => {
            config::load_without_secrets(&directories.config_file(&network)).map_err(|_| error)?
        }
        other => other?,
    };
    if config.membership.is_some() {
        if arguments.peer.is_empty() && (arguments.tcp.is_some() || arguments.quorum.is_some()) {
            return Err(Failure::Mistake(
                "in a network by membership no file says who the peers are: name them with --peer".to_owned(),
            ));
        }
        expect_members(&mut config, &arguments.peer);
    }
    let client = Client::new(&directories.control_socket(&network));
    let deadline = now() + arguments.timeout;
    wait_for_self(&network, &config, &client, deadline)?;
    if arguments.peer.is_empty() && arguments.tcp.is_none() && arguments.quorum.is_none() {
        if arguments.json {
            print_line(&json!({ "ready": true }).to_string())?;
        }
        return Ok(());
    }
    let peers = chosen_peers(&config, &arguments.peer)?;
    let wanted = arguments.quorum.unwrap_or(peers.len());
    if wanted > peers.len() {
        return Err(Failure::Mistake(format!(
            "a quorum of {wanted} of {} peers cannot be reached",
            peers.len()
        )));
    }
    let reached = wait_for_peers(&peers, &client, arguments.tcp, wanted, deadline);
    let names = |wanted_state: bool| -> Vec<&str> {
        peers
            .iter()
            .zip(&reached)
            .filter(|(_, state)| state.is_ok() == wanted_state)
            .map(|(peer, _)| peer.name.as_str())
            .collect()
    };
    let ready = names(true).len() >= wanted;
    if arguments.json {
        print_line(&json!({ "ready": ready, "reached": names(true), "missing": names(false) }).to_string())?;
    }
    if ready {
        return Ok(());
    }
    let reasons: Vec<String> = peers
        .iter()
        .zip(&reached)
        .filter_map(|(peer, state)| Some(format!("{}: {}", peer.name, state.as_ref().err()?)))
        .collect();
    Err(Failure::TimedOut(format!(
        "{} of {wanted} peers reached in time ({})",
        peers.len() - reasons.len(),
        reasons.join("; ")
    )))
}

/// Members stand in no file: the daemon looks for those that it does not know.
fn expect_members(config: &mut NetworkConfig, names: &[String]) {
    // Their keys are the daemon's affair.
    let public_key = PublicKey::from_bytes([0; 32]);
    config.peers.extend(names.iter().map(|name| PeerConfig {
        name: name.clone(),
        public_key,
        preshared_key: None,
        allowed_ips: Vec::new(),
        endpoint: None,
        persistent_keepalive: 0,
        tombolo: true,
        rate_limit: 0,
    }));
}

fn chosen_peers<'a>(config: &'a NetworkConfig, names: &[String]) -> Result<Vec<&'a PeerConfig>, Failure> {
    if names.is_empty() {
        return Ok(config.peers.iter().collect());
    }
    let mut chosen: Vec<&PeerConfig> = Vec::new();
    for name in names {
        let peer = find(config, name)?;
        if !chosen.iter().any(|other| other.name == peer.name) {
            chosen.push(peer);
        }
    }
    Ok(chosen)
}

fn find<'a>(config: &'a NetworkConfig, name: &str) -> Result<&'a PeerConfig, Failure> {
    config.peer(name).ok_or_else(|| {
        let known: Vec<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        Failure::Mistake(format!("there is no peer called `{name}`; there are: {}", known.join(", ")))
    })
}

/// The daemon answers (so guard, interface and socket stand) and every own address can be bound.
fn wait_for_self(
    network: &str,
    config: &NetworkConfig,
    client: &Client,
    deadline: Instant,
) -> Result<(), Failure> {
    loop {
        let answer = client.ask(&Request::Status);
        let mut own: Vec<IpAddr> = config.interface.addresses.iter().map(IpNet::addr).collect();
        if let (Ok(Answer::Status { report }), true) = (&answer, own.is_empty()) {
            let told = report.interface.addresses.iter();
            own.extend(told.filter_map(|text| text.parse::<IpNet>().ok()).map(|address| address.addr()));
        }
        let unbound = own.into_iter().find(|own| !is_bindable(*own));
        let reason = match (answer, unbound) {
            (Ok(Answer::Status { report }), None) => {
                if !report.guard.installed {
                    eprintln!(
                        "tombolo: warning: the guard is not in place{}; overlay addresses are not protected from \
                         the local network",
                        report.guard.error.map(|error| format!(" ({error})")).unwrap_or_default()
                    );
                }
                return Ok(());
            }
            (Ok(_), Some(address)) => format!("{address} cannot be bound"),
            (Ok(_), None) => "the daemon is starting".to_owned(),
            (Err(error), _) => error.to_string(),
        };
        if now() >= deadline {
            return Err(Failure::TimedOut(format!("{network} is not ready: {reason}")));
        }
        std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(now())));
    }
}

/// All peers at the same time, each until it is reached or the time or the wish for it has passed.
fn wait_for_peers(
    peers: &[&PeerConfig],
    client: &Client,
    tcp: Option<u16>,
    wanted: usize,
    deadline: Instant,
) -> Vec<Result<(), String>> {
    use std::sync::mpsc;
    let (results, receiver) = mpsc::channel();
    let mut states: Vec<Result<(), String>> = vec![Err("no answer in time".to_owned()); peers.len()];
    for (index, peer) in peers.iter().enumerate() {
        let (results, client, name) = (results.clone(), client.clone(), peer.name.clone());
        let address = NetworkConfig::peer_address(peer);
        // Not joined: the process ends as soon as enough of them have an answer.
        std::thread::spawn(move || {
            let mut patience = FIRST_PROBE;
            loop {
                let state = reach(&name, address, &client, tcp, patience, deadline);
                patience = (patience * 2).min(LONGEST_PROBE);
                let done = state.is_ok() || now() >= deadline;
                if results.send((index, state)).is_err() || done {
                    return;
                }
                std::thread::sleep(PAUSE);
            }
        });
    }
    drop(results);
    while states.iter().filter(|state| state.is_ok()).count() < wanted {
        match receiver.recv_timeout(deadline.saturating_duration_since(now())) {
            Ok((index, state)) => states[index] = state,
            Err(_) => break,
        }
    }
    // What came in while the time ran out tells why.
    while let Ok((index, state)) = receiver.try_recv() {
        states[index] = state;
    }
    states
}

fn reach(
    name: &str,
    address: Option<IpAddr>,
    client: &Client,
    tcp: Option<u16>,
    patience: Duration,
    deadline: Instant,
) -> Result<(), String> {
    let remaining = deadline.saturating_duration_since(now()).min(patience);
    let request = Request::Probe {
        peer: name.to_owned(),
        timeout_milliseconds: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
    };
    let answered = match client.ask(&request) {
        Ok(Answer::Probe { address, .. }) => address.parse().ok(),
        Ok(Answer::NoAnswer { reason }) => return Err(reason),
        Ok(answer) => return Err(answer.complaint()),
        Err(error) => return Err(error.to_string()),
    };
    let (Some(port), Some(address)) = (tcp, address.or(answered)) else { return Ok(()) };
    let remaining = deadline.saturating_duration_since(now()).clamp(Duration::from_millis(1), CONNECT);
    TcpStream::connect_timeout(&SocketAddr::new(address, port), remaining)
        .map(drop)
        .map_err(|error| format!("port {port}: {error}"))
}

pub(super) fn ping(cli: &Cli, directories: &Directories, arguments: &PingArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let client = Client::new(&directories.control_socket(&network));
    let mut times: Vec<f64> = Vec::new();
    let (mut path, mut last_relay, mut why) = (None, None, None);
    for number in 1..=arguments.count {
        let started = now();
        let request = Request::Probe {
            peer: arguments.name.clone(),
            timeout_milliseconds: u64::try_from(arguments.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        match client.ask(&request).map_err(failed)? {
            Answer::Probe { round_trip_seconds, address, endpoint, relay, not_direct, gateway } => {
                times.push(round_trip_seconds);
                path = Some(if relay.is_some() { "relayed" } else { "direct" });
                last_relay.clone_from(&relay);
                why = not_direct;
                if !arguments.json {
                    let path = match (&relay, endpoint) {
                        (Some(relay), _) => format!(" relayed by {relay}"),
                        (None, Some(endpoint)) => format!(" directly at {endpoint}"),
                        (None, None) => String::new(),
                    };
                    let path = match gateway {
                        Some(gateway) => format!(" behind {gateway}, which is reached{path}"),
                        None => path,
                    };
                    let time = round_trip_seconds * 1e3;
                    print_line(&format!("{number}: {} ({address}){path}: {time:.2} ms", arguments.name))?;
                }
            }
            Answer::NoAnswer { reason } if !arguments.json => print_line(&format!("{number}: {reason}"))?,
            Answer::NoAnswer { .. } => {}
            Answer::Error { message } if message.starts_with("there is no peer") => {
                return Err(Failure::Mistake(message));
            }
            answer => return Err(failed(answer.complaint())),
        }
        if number < arguments.count {
            // One request a second, as ping does.
            std::thread::sleep(
                Duration::from_secs(1).saturating_sub(now().saturating_duration_since(started)),
            );
        }
    }
    let (sent, received) = (arguments.count as usize, times.len());
    let least = times.iter().copied().reduce(f64::min);
    let greatest = times.iter().copied().reduce(f64::max);
    let mean = least.map(|_| times.iter().sum::<f64>() / received as f64);
    if arguments.json {
        let summary = json!({
            "peer": arguments.name, "path": path, "relay": last_relay, "not_direct": why, "sent": sent, "received": received,
            "round_trip_seconds": { "least": least, "mean": mean, "greatest": greatest },
        });
        print_line(&summary.to_string())?;
    } else {
        let lost = (sent - received) * 100 / sent;
        print_line(&format!("{sent} sent, {received} answered, {lost} % lost"))?;
        if let (Some(least), Some(mean), Some(greatest)) = (least, mean, greatest) {
            let [least, mean, greatest] = [least, mean, greatest].map(|seconds| seconds * 1e3);
            print_line(&format!(
                "round trip {least:.2} / {mean:.2} / {greatest:.2} ms (least, mean, greatest)"
            ))?;
        }
        if let Some(why) = why {
            print_line(&format!("not directly: {why}"))?;
        }
    }
    if received == 0 {
        return Err(Failure::Runtime(format!("{} did not answer", arguments.name)));
    }
    Ok(())
}
