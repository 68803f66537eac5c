//! `server init`: a network from nothing.

mod wishes;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use rand_chacha::ChaCha20Rng;
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
use tombolo_control::{Domain, HostEndpoint, NodeId, SigningKey};
use tombolo_engine::now;
use tombolo_noise::PrivateKey;
use tombolo_noise::clock::UnixTime;
use tombolo_store::{Recipient, Register};
use zeroize::Zeroizing;

use super::admin::other;
use super::args::{Cli, InitArgs};
use super::join::choose_name;
use super::{Failure, failed, print_line, up};
use crate::membership::create::{self, NewState};
use crate::paths::Directories;
use crate::random;
use crate::user;

use wishes::{Wishes, passphrase, wishes};
pub(super) use wishes::{endpoint, port_taken};

/// How long the first issuer key is good: the root key signs another before.
const ISSUER_LIFETIME: Duration = Duration::from_secs(5 * 366 * 86_400);
/// Longest life of a membership that the issuer may give.
const MEMBERSHIP_LIFETIME_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Subnets that the issuer may let gateways route: private ones (RFC 1918, RFC 6598, RFC 4193).
const ROUTABLE: [&str; 5] = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

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
