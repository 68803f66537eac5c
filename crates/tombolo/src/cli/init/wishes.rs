//! What a person decides about a network, and what this machine decides where he says nothing.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use tombolo_control::{Domain, HostEndpoint, NodeName};
use zeroize::Zeroizing;

use super::ROUTABLE;
use crate::cli::args::InitArgs;
use crate::cli::join::machine_name;
use crate::cli::{Failure, failed, prompt};
use crate::membership::create::{self, Overlap};
use crate::paths::Directories;

/// Special ranges, of which nobody has an address of an overlay (RFC 6890).
const UNUSABLE: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
];

/// What a person decides about a network.
pub(super) struct Wishes {
    pub(super) name: NodeName,
    pub(super) endpoints: Vec<HostEndpoint>,
    pub(super) cidrs: Vec<IpNet>,
    pub(super) domain: Domain,
    pub(super) port: u16,
    pub(super) root_file: PathBuf,
}

pub(super) fn wishes(
    network: &str,
    directories: &Directories,
    arguments: &InitArgs,
    random: &mut ChaCha20Rng,
) -> Result<Wishes, Failure> {
    let mistake = |text: String| Failure::Mistake(text);
    let name = match &arguments.name {
        Some(name) => {
            name.parse().map_err(|error| mistake(format!("`{name}` cannot be a node's name: {error}")))?
        }
        None => machine_name().unwrap_or("server".parse().map_err(failed)?),
    };
    let port = arguments.port.unwrap_or_else(|| create::free_port(directories));
    if !create::port_is_free(port) {
        return Err(mistake(port_taken(port)));
    }
    let endpoints = if arguments.endpoint.is_empty() {
        own_endpoints(port)?
    } else {
        arguments.endpoint.iter().map(|text| endpoint(text, port)).collect::<Result<_, _>>()?
    };
    let domain = arguments.domain.clone().unwrap_or_else(|| format!("{}.internal", network.to_lowercase()));
    let domain =
        domain.parse().map_err(|error| mistake(format!("`{domain}` cannot be a domain: {error}")))?;
    let others = create::other_networks(directories, network);
    let mut routes = create::taken_ranges();
    routes.extend(others.iter().map(|(_, range)| *range));
    let cidrs = if arguments.cidr.is_empty() {
        let free = create::free_prefix(&routes, random).ok_or_else(|| {
            mistake("no 10.x.0.0/16 is free of this machine's routes: choose a prefix with --cidr".to_owned())
        })?;
        vec![free]
    } else {
        arguments.cidr.iter().map(IpNet::trunc).collect()
    };
    for (number, cidr) in cidrs.iter().enumerate() {
        check_range(cidr, &cidrs[..number], &others)?;
        check_overlap(cidr, &routes)?;
    }
    let root_file =
        arguments.root_key.clone().unwrap_or_else(|| PathBuf::from(format!("{network}-root.age")));
    if root_file.exists() {
        return Err(mistake(format!(
            "{} is there already, and is not overwritten: choose another with --root-key, or remove it if it is left of an \
             attempt that was interrupted",
            root_file.display()
        )));
    }
    let folder = std::path::absolute(&root_file).map_err(failed)?;
    if folder.starts_with(std::path::absolute(&directories.state).map_err(failed)?) {
        return Err(mistake(
            "the root key does not belong into the state directory: choose another with --root-key"
                .to_owned(),
        ));
    }
    Ok(Wishes { name, endpoints, cidrs, domain, port, root_file })
}

/// Says what is wrong with a prefix as such, and with one that touches the network's others or another network.
fn check_range(cidr: &IpNet, before: &[IpNet], others: &[(String, IpNet)]) -> Result<(), Failure> {
    let overlaps = |other: &IpNet| other.contains(cidr) || cidr.contains(other);
    let within = |ranges: &[&str]| {
        let ranges: Vec<IpNet> = ranges.iter().filter_map(|range| range.parse().ok()).collect();
        (ranges.iter().any(overlaps), ranges.iter().any(|range| range.contains(cidr)))
    };
    if cidr.prefix_len() > 0 && within(&UNUSABLE).0 {
        return Err(Failure::Mistake(format!(
            "--cidr {cidr}: machines cannot have addresses of this range; choose a private one, such as 10.86.0.0/16"
        )));
    }
    if let Some(other) = before.iter().find(|other| overlaps(other)) {
        return Err(Failure::Mistake(format!(
            "--cidr {cidr} overlaps --cidr {other}: leave one of them out"
        )));
    }
    if let Some((name, other)) = others.iter().find(|(_, other)| overlaps(other)) {
        return Err(Failure::Mistake(format!(
            "the overlay {cidr} overlaps {other} of the network `{name}`, in which this machine is already: choose another with \
             --cidr"
        )));
    }
    if cidr.prefix_len() > 0 && !within(&ROUTABLE).1 {
        eprintln!(
            "tombolo: warning: the overlay {cidr} is no private range: no member will reach those on the Internet whose it is"
        );
    }
    Ok(())
}

/// Says what is wrong with an overlay that touches the machine's routes.
fn check_overlap(cidr: &IpNet, routes: &[IpNet]) -> Result<(), Failure> {
    match create::overlap(cidr, routes) {
        Overlap::Free => Ok(()),
        Overlap::Covered(route) => {
            eprintln!(
                "tombolo: warning: the overlay {cidr} lies in {route}, which this machine routes elsewhere"
            );
            Ok(())
        }
        Overlap::Taken(route) => Err(Failure::Mistake(format!(
            "the overlay {cidr} overlaps {route}, which this machine reaches otherwise: choose another with --cidr"
        ))),
    }
}

/// What to do about a port that another program has.
pub(in crate::cli) fn port_taken(port: u16) -> String {
    format!(
        "UDP port {port} is taken: `ss -lunp 'sport = :{port}'` says by whom; stop that, or choose another with --port"
    )
}

/// `HOST` or `HOST:PORT`; an IPv6 address with or without brackets.
pub(in crate::cli) fn endpoint(text: &str, port: u16) -> Result<HostEndpoint, Failure> {
    let with_port = if text.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{text}]:{port}")
    } else if text.ends_with(']') || !text.contains(':') {
        format!("{text}:{port}")
    } else {
        text.to_owned()
    };
    with_port.parse().map_err(|error| Failure::Mistake(format!("--endpoint {text}: {error}")))
}

/// The addresses that this machine's packets leave from: good within its own network, and behind no NAT.
fn own_endpoints(port: u16) -> Result<Vec<HostEndpoint>, Failure> {
    let towards = ["192.0.2.1:9", "[2001:db8::1]:9"];
    let own = towards.iter().filter_map(|remote| {
        let any = if remote.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = std::net::UdpSocket::bind(any).ok()?;
        socket.connect(remote).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback() && !address.is_unspecified()).then_some(address)
    });
    let endpoints: Vec<HostEndpoint> =
        own.filter_map(|address| std::net::SocketAddr::new(address, port).to_string().parse().ok()).collect();
    if endpoints.is_empty() {
        return Err(Failure::Mistake(
            "this machine has no address to be found at: say where it is with --endpoint HOST".to_owned(),
        ));
    }
    eprintln!("tombolo: note: without --endpoint the server is found at this machine's own address only");
    Ok(endpoints)
}

/// The passphrase of the root key, and whether it was made here.
pub(super) fn passphrase(
    arguments: &InitArgs,
    random: &mut ChaCha20Rng,
) -> Result<(Zeroizing<String>, bool), Failure> {
    if let Some(file) = &arguments.root_passphrase_file {
        let text = Zeroizing::new(
            std::fs::read_to_string(file)
                .map_err(|error| Failure::Mistake(format!("{} cannot be read: {error}", file.display())))?,
        );
        let text = Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned());
        if text.is_empty() {
            return Err(Failure::Mistake(format!("{} is empty", file.display())));
        }
        return Ok((text, false));
    }
    if std::io::stdin().is_terminal() {
        let first = prompt("Passphrase for the root key (empty: one is made and shown): ")?;
        let again = if first.is_empty() { first.clone() } else { prompt("Once more: ")? };
        if *first != *again {
            return Err(Failure::Mistake("the passphrases differ; nothing was made".to_owned()));
        }
        if !first.is_empty() {
            return Ok((first, false));
        }
    }
    let mut bytes = Zeroizing::new([0_u8; 20]);
    random.fill_bytes(bytes.as_mut());
    let text = Zeroizing::new(crate::membership::to_hex(bytes.as_ref()));
    let groups: Vec<&str> = (0..10).map(|group| &text[group * 4..group * 4 + 4]).collect();
    Ok((Zeroizing::new(groups.join("-")), true))
}
