//! `server init`: a network from nothing.

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use serde_json::json;
use tombolo_control::authority::audit::Actor;
use tombolo_control::authority::{
    Authority, Caller, Genesis, Outcome, Record, Server, SessionId, Transaction,
};
use tombolo_control::document::{
    GroupLimit, Issuer, Limits, NetworkDocument, Roles, TrustDocument, Verified,
};
use tombolo_control::frame::Frame;
use tombolo_control::frame::admin::{AdminRequest, Operation, Reply, TokenGrant, TokenSpec};
use tombolo_control::node::{Save, SavedDocuments};
use tombolo_control::root::{KnownServer, RootKeys};
use tombolo_control::verifier::{Overlay, Pins};
use tombolo_control::{Domain, HostEndpoint, NodeId, NodeName, SigningKey};
use tombolo_engine::now;
use tombolo_noise::PrivateKey;
use tombolo_noise::clock::UnixTime;
use tombolo_store::{Recipient, Register};
use zeroize::Zeroizing;

use super::admin::other;
use super::args::{Cli, InitArgs};
use super::join::{choose_name, machine_name};
use super::{Failure, failed, print_line, up};
use crate::membership::create::{self, NewState, Overlap};
use crate::paths::Directories;
use crate::random;
use crate::user;

/// How long the first issuer key is good: the root key signs another before.
const ISSUER_LIFETIME: Duration = Duration::from_secs(5 * 366 * 86_400);
/// Longest life of a membership that the issuer may give.
const MEMBERSHIP_LIFETIME_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Subnets that the issuer may let gateways route: private ones (RFC 1918, RFC 6598, RFC 4193).
const ROUTABLE: [&str; 5] = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

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
struct Wishes {
    name: NodeName,
    endpoints: Vec<HostEndpoint>,
    cidrs: Vec<IpNet>,
    domain: Domain,
    port: u16,
    root_file: PathBuf,
}

pub(super) fn run(cli: &Cli, directories: &Directories, arguments: &InitArgs) -> Result<(), Failure> {
    let network = choose_name(cli, directories)?;
    let mut random = random::generator().map_err(failed)?;
    let wishes = wishes(&network, directories, arguments, &mut random)?;
    let (passphrase, generated) = passphrase(arguments, &mut random)?;
    let made = create(&network, directories, &wishes, &passphrase, &mut random)?;
    let started = start(cli, directories, &network, arguments);
    let token = made.token.to_text();
    let prefixes: Vec<String> = made.cidrs.iter().map(ToString::to_string).collect();
    if arguments.json {
        let text = Zeroizing::new(
            json!({
                "network": network,
                "network_id": made.network_id,
                "cidrs": prefixes,
                "domain": wishes.domain.to_string(),
                "name": wishes.name.to_string(),
                "endpoints": wishes.endpoints.iter().map(HostEndpoint::as_str).collect::<Vec<_>>(),
                "root_key_file": wishes.root_file,
                "root_passphrase": generated.then(|| passphrase.as_str()),
                "token": token.as_str(),
                "started": matches!(started, Ok(true)),
            })
            .to_string(),
        );
        print_line(&text)?;
        return started.map(drop);
    }
    print_line(&format!(
        "the network `{network}` is made: {}, names end with {}",
        prefixes.join(" and "),
        wishes.domain
    ))?;
    print_line("All members of the network may talk to each other.")?;
    print_line(&format!(
        "\nThe root key is in {}, encrypted. Keep it and its passphrase elsewhere, and remove it from this machine:\n\
         whoever has both rules the network; the server does not need it.",
        wishes.root_file.display()
    ))?;
    if generated {
        print_line("Its passphrase, shown this once:")?;
        print_line(&passphrase)?;
    }
    let hosts: Vec<&str> = wishes.endpoints.iter().map(HostEndpoint::as_str).collect();
    print_line(&format!("\nLet UDP in: {}", hosts.join(", ")))?;
    print_line("On the next machine run `tombolo join`, and give it this token (one machine, one hour):\n")?;
    print_line(&token)?;
    print_line("\nMore tokens: `tombolo token new`. How it stands: `tombolo status`, `tombolo node list`.")?;
    match started {
        Ok(true) => Ok(()),
        Ok(false) => print_line(&format!("It is not started; `tombolo up -n {network}` does that.")),
        Err(error) => {
            eprintln!(
                "tombolo: the network is made, and is not up: mend what follows, then `tombolo up -n {network}`; or take it \
                 away with `tombolo leave --force -n {network}`"
            );
            Err(error)
        }
    }
}

fn wishes(
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
pub(super) fn check_overlap(cidr: &IpNet, routes: &[IpNet]) -> Result<(), Failure> {
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
pub(super) fn port_taken(port: u16) -> String {
    format!(
        "UDP port {port} is taken: `ss -lunp 'sport = :{port}'` says by whom; stop that, or choose another with --port"
    )
}

/// `HOST` or `HOST:PORT`; an IPv6 address with or without brackets.
pub(super) fn endpoint(text: &str, port: u16) -> Result<HostEndpoint, Failure> {
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
fn passphrase(arguments: &InitArgs, random: &mut ChaCha20Rng) -> Result<(Zeroizing<String>, bool), Failure> {
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
        let first = super::prompt("Passphrase for the root key (empty: one is made and shown): ")?;
        let again = if first.is_empty() { first.clone() } else { super::prompt("Once more: ")? };
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

/// What the issuer of a server may sign.
pub(super) fn issuer_limits(cidrs: impl IntoIterator<Item = IpNet>, time: UnixTime) -> Limits {
    Limits {
        addresses: cidrs.into_iter().collect(),
        routes: ROUTABLE.iter().filter_map(|prefix| prefix.parse().ok()).collect(),
        groups: GroupLimit::Any,
        roles: Roles::ALL,
        lifetime: MEMBERSHIP_LIFETIME_MAX,
        expires: UnixTime(Duration::from_secs((time.0 + ISSUER_LIFETIME).as_secs())),
    }
}

struct Made {
    token: tombolo_control::token::Token,
    cidrs: Vec<IpNet>,
    network_id: String,
}

/// Makes everything aside, and puts it in its place at the end.
fn create(
    network: &str,
    directories: &Directories,
    wishes: &Wishes,
    passphrase: &Zeroizing<String>,
    random: &mut ChaCha20Rng,
) -> Result<Made, Failure> {
    let time = now();
    let mut root = RootKeys::create(random);
    let issuer = SigningKey::generate(random);
    let key = PrivateKey::generate(random);
    let mut cidrs = wishes.cidrs.clone();
    if cidrs.iter().all(|cidr| cidr.addr().is_ipv4()) {
        cidrs.extend(create::local_prefix(&root.network()));
    }
    let limits = issuer_limits(cidrs.iter().copied(), time.wall);
    let issued = UnixTime(Duration::from_secs(time.wall.0.as_secs()));
    let trust =
        root.sign(vec![Issuer { key: issuer.verifying_key(), limits }], issued).map_err(failed)?.clone();
    let who = Actor::Local(user::shown(rustix::process::getuid().as_raw()));
    let genesis = Genesis {
        issuer: SigningKey::from_seed(*issuer.seed()),
        trust: trust.clone(),
        cidrs: cidrs.iter().copied().collect(),
        domain: wishes.domain.clone(),
        server: Server {
            node: NodeId::generate(random),
            key: key.public(),
            name: wishes.name.clone(),
            roles: Roles::AUTHORITY | Roles::LIGHTHOUSE | Roles::RELAY,
            endpoints: wishes.endpoints.clone(),
        },
        actor: who,
    };
    let transaction = genesis.transaction(time).map_err(|error| Failure::Mistake(error.to_string()))?;
    let new = NewState::create(directories, network).map_err(failed)?;
    let mut state = new.open().map_err(failed)?;
    state.set_key(&key).map_err(failed)?;
    state.set_issuer(&issuer).map_err(failed)?;
    let membership = save_first(&mut state, &transaction, &trust, &cidrs, &wishes.domain)?;
    root.set_server(KnownServer {
        key: Zeroizing::new(*key.as_bytes()),
        membership,
        endpoints: wishes.endpoints.clone(),
        domain: wishes.domain.clone(),
    });
    let token = {
        let mut register = Register::create(new.directory()).map_err(failed)?;
        commit(&mut register, &transaction)?;
        first_token(&issuer, &mut register, random)?
    };
    let sealed = Recipient::Passphrase(passphrase.clone()).seal(&root.to_bytes()).map_err(failed)?;
    write_new(&wishes.root_file, &sealed)?;
    let placed = new.place().and_then(|()| create::write_config(directories, network, wishes.port));
    if let Err(error) = placed {
        // Nobody has seen anything of it yet.
        let _ = std::fs::remove_file(&wishes.root_file);
        let _ = std::fs::remove_dir_all(directories.state_directory(network));
        return Err(failed(error));
    }
    Ok(Made { token, cidrs, network_id: root.network().to_string() })
}

fn write_new(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()))
        .map_err(|error| Failure::runtime(format!("{} cannot be written", path.display()), error))
}

/// The server's own membership and documents, as a node's.
fn save_first(
    state: &mut crate::membership::MembershipState,
    transaction: &Transaction,
    trust: &Verified<TrustDocument>,
    cidrs: &[IpNet],
    domain: &Domain,
) -> Result<Vec<u8>, Failure> {
    let incomplete = || Failure::Runtime("the network's first documents are incomplete".to_owned());
    let written = |wanted: fn(&Record) -> bool| {
        transaction.writes.iter().filter_map(|(_, record)| record.as_ref()).find(move |record| wanted(record))
    };
    let Some(Record::Published(published)) = written(|record| matches!(record, Record::Published(_))) else {
        return Err(incomplete());
    };
    let Some(Record::Node(node)) = written(|record| matches!(record, Record::Node(_))) else {
        return Err(incomplete());
    };
    let document = NetworkDocument::verify(&published.network, trust).map_err(failed)?;
    let documents = SavedDocuments {
        pins: Pins {
            network: trust.network,
            root: trust.root.fingerprint(),
            overlay: Some(Overlay { cidrs: cidrs.iter().copied().collect(), domain: domain.clone() }),
        },
        floor: Some((document.version, document.hash())),
        trust: Some(trust.encoded().to_vec()),
        network: Some(published.network.clone()),
        head: published.head.clone(),
    };
    state.save(Save::Documents(documents)).map_err(failed)?;
    state.save(Save::Membership(node.membership.clone())).map_err(failed)?;
    Ok(node.membership.clone())
}

pub(super) fn commit(register: &mut Register, transaction: &Transaction) -> Result<Outcome, Failure> {
    match register.execute(std::slice::from_ref(transaction)).pop() {
        Some((_, outcome @ Outcome::Committed { .. })) => Ok(outcome),
        _ => Err(Failure::Runtime(format!("the register {} cannot be written", register.path().display()))),
    }
}

/// A token for one machine, for an hour: asked of the authority itself, before it serves anybody.
fn first_token(
    issuer: &SigningKey,
    register: &mut Register,
    random: &mut ChaCha20Rng,
) -> Result<tombolo_control::token::Token, Failure> {
    let snapshot = register.snapshot().map_err(failed)?;
    let mut authority =
        Authority::new(SigningKey::from_seed(*issuer.seed()), snapshot, now()).map_err(failed)?;
    let key = SigningKey::generate(random);
    let operation = Operation::TokenNew(TokenSpec::new(key.verifying_key()));
    let caller = Caller::Local { id: SessionId(1), who: user::shown(rustix::process::getuid().as_raw()) };
    authority.handle_request(caller, AdminRequest { id: 1, operation }, now(), random);
    while let Some(transaction) = authority.poll_store() {
        let outcome = commit(register, &transaction)?;
        authority.handle_store(transaction.id, outcome, now(), random);
    }
    match authority.poll_frame() {
        Some((_, Frame::AdminAnswer(answer))) => grant(answer.reply)?.into_token(key).map_err(failed),
        _ => Err(Failure::Runtime("the authority gave no token".to_owned())),
    }
}

/// What a token needs, or why there is none.
pub(super) fn grant(reply: Reply) -> Result<TokenGrant, Failure> {
    match reply {
        Reply::Granted(grant) => Ok(grant),
        Reply::Refused { detail, .. } => Err(Failure::Mistake(detail)),
        _ => other(),
    }
}

/// Whether it was started.
fn start(cli: &Cli, directories: &Directories, network: &str, arguments: &InitArgs) -> Result<bool, Failure> {
    if arguments.no_start {
        return Ok(false);
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("tombolo: note: only root can make the interface");
        return Ok(false);
    }
    if !arguments.no_enable {
        up::enable(directories, network, "enable")?;
    }
    up::start(cli, directories, network).map(|_| true)
}
