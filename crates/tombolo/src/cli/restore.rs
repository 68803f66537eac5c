//! `server restore`: the server again, from a backup or from the root key alone (control rule 21).

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use tombolo_control::authority::audit::Actor;
use tombolo_control::authority::{Authority, Genesis, Restoration, Server, without_backup};
use tombolo_control::document::{Issuer, Membership};
use tombolo_control::node::Save;
use tombolo_control::{HostEndpoint, SigningKey};
use tombolo_engine::now;
use tombolo_noise::PrivateKey;
use tombolo_noise::clock::UnixTime;
use tombolo_store::{Header, Identity, Register};
use zeroize::Zeroizing;

use super::args::{Cli, RestoreArgs};
use super::init::{commit, endpoint, issuer_limits};
use super::root_key::{RootFile, passphrase};
use super::trust::{install_trust, save_documents};
use super::{Failure, failed, print_line, up};
use crate::config::valid_name;
use crate::daemon::lock::Lock;
use crate::membership::create::{self, NewState};
use crate::paths::Directories;
use crate::random;

/// Larger than the register of any network that one server holds.
const BACKUP_MAX: u64 = 4 << 30;
/// The network's name where neither `-n` nor a backup says one.
const USUAL_NAME: &str = "tombolo";

/// What is restored, before it is put in its place.
struct Restored {
    register: Register,
    key: PrivateKey,
    issuer: SigningKey,
    /// The server's own membership, of whatever age.
    own: Vec<u8>,
}

pub(super) fn run(cli: &Cli, directories: &Directories, arguments: &RestoreArgs) -> Result<(), Failure> {
    let mut random = random::generator().map_err(failed)?;
    let backup = match &arguments.file {
        Some(file) => Some((read(file)?, identity(arguments)?)),
        None => None,
    };
    let mut root = RootFile::open(&arguments.root)?;
    // Before anything is written: whose it is, and whether there is room for it.
    let header = match &backup {
        Some((sealed, identity)) => {
            let content = identity.open(sealed).map_err(|error| Failure::Mistake(error.to_string()))?;
            Some(Header::read(&content).map_err(|error| Failure::Mistake(error.to_string()))?.0)
        }
        None => None,
    };
    let network = cli.network.clone().or_else(|| header.as_ref().map(|header| header.network.clone()));
    let network = network.unwrap_or_else(|| USUAL_NAME.to_owned());
    if !valid_name(&network) {
        return Err(Failure::Mistake(format!(
            "`{network}` cannot be the name of a network: choose one with -n"
        )));
    }
    let place = directories.state_directory(&network);
    let config = directories.config_file(&network);
    if (place.exists() || config.exists()) && !arguments.replace {
        return Err(Failure::Mistake(format!(
            "this machine has a network `{network}` already ({}): choose another name with -n, or add --replace, which \
             moves its state aside",
            place.display()
        )));
    }
    if Lock::is_held(&directories.lock_file(&network)) {
        return Err(Failure::Mistake(format!(
            "`{network}` runs: stop it first, with `tombolo down -n {network}`"
        )));
    }
    let port = arguments.port.or(header.as_ref().map(|header| header.port));
    let port = port.unwrap_or_else(|| create::free_port(directories));
    let endpoints: Vec<HostEndpoint> =
        arguments.endpoint.iter().map(|text| endpoint(text, port)).collect::<Result<_, _>>()?;
    let new = NewState::create(directories, &network).map_err(failed)?;
    let mut state = new.open().map_err(failed)?;
    let restored = match &backup {
        Some(backup) => from_backup(backup, new.directory(), &mut root, arguments, endpoints, &mut random)?,
        None => from_root(new.directory(), &mut root, arguments, endpoints, &mut random)?,
    };
    let Restored { register, key, issuer, own } = restored;
    state.set_key(&key).map_err(failed)?;
    state.set_issuer(&issuer).map_err(failed)?;
    let authority = Authority::new(issuer, register.snapshot().map_err(failed)?, now()).map_err(failed)?;
    save_documents(&mut state, &authority)?;
    state.save(Save::Membership(own)).map_err(failed)?;
    let nodes = authority.nodes().count();
    drop((register, state));
    let aside = set_aside(&place, new.directory())?;
    new.place().map_err(failed)?;
    if !config.exists() {
        create::write_config(directories, &network, port).map_err(failed)?;
    }
    print_line(&format!(
        "the server of `{network}` is restored, with {nodes} nodes. All tokens are void. For {} s it listens to what the \
         nodes have, and issues nothing; `tombolo status` shows when that is over.",
        arguments.gather.as_secs()
    ))?;
    if let Some(aside) = aside {
        print_line(&format!("What was here is in {}.", aside.display()))?;
    }
    start(cli, directories, &network, arguments)
}

fn start(
    cli: &Cli,
    directories: &Directories,
    network: &str,
    arguments: &RestoreArgs,
) -> Result<(), Failure> {
    if arguments.no_start || !rustix::process::geteuid().is_root() {
        return print_line(&format!("It is not started; `tombolo up -n {network}` does that."));
    }
    if !arguments.no_enable {
        up::enable(directories, network, "enable")?;
    }
    up::start(cli, directories, network).map(drop)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error| Failure::Mistake(format!("{} cannot be read: {error}", file.display()));
    let mut sealed = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().take(BACKUP_MAX).read_to_end(&mut sealed).map_err(unreadable)?;
    } else {
        let opened = fs::File::open(file).map_err(unreadable)?;
        opened.take(BACKUP_MAX).read_to_end(&mut sealed).map_err(unreadable)?;
    }
    Ok(sealed)
}

fn identity(arguments: &RestoreArgs) -> Result<Identity, Failure> {
    let Some(file) = &arguments.identity else {
        let prompt = "Passphrase of the backup: ";
        return passphrase(arguments.passphrase_file.as_deref(), prompt, false).map(Identity::Passphrase);
    };
    let text = fs::read_to_string(file)
        .map(Zeroizing::new)
        .map_err(|error| Failure::Mistake(format!("{} cannot be read: {error}", file.display())))?;
    Identity::parse(&text).map_err(|error| Failure::Mistake(format!("{}: {error}", file.display())))
}

fn who() -> Actor {
    Actor::Local(crate::user::shown(rustix::process::getuid().as_raw()))
}

fn whole_now() -> UnixTime {
    UnixTime(Duration::from_secs(now().wall.0.as_secs()))
}

/// The root key names a new issuer beside those whose memberships nodes have.
fn name_issuer(
    root: &mut RootFile,
    cidrs: impl IntoIterator<Item = ipnet::IpNet>,
    random: &mut ChaCha20Rng,
) -> Result<SigningKey, Failure> {
    let issuer = SigningKey::generate(random);
    let time = whole_now();
    let added = Issuer { key: issuer.verifying_key(), limits: issuer_limits(cidrs, time) };
    root.keys.reissue(|held| held.limits.expires > time, vec![added], time).map_err(failed)?;
    root.write()?;
    Ok(issuer)
}

fn from_backup(
    (sealed, identity): &(Vec<u8>, Identity),
    directory: &Path,
    root: &mut RootFile,
    arguments: &RestoreArgs,
    endpoints: Vec<HostEndpoint>,
    random: &mut ChaCha20Rng,
) -> Result<Restored, Failure> {
    let restoration = |header: &Header| Restoration {
        actor: who(),
        gathering: arguments.gather,
        moved: (!endpoints.is_empty()).then(|| (PrivateKey::from_bytes(*header.key).public(), endpoints)),
    };
    let (header, mut register) =
        tombolo_store::restore(sealed, identity, directory, restoration, now().wall).map_err(failed)?;
    let key = PrivateKey::from_bytes(*header.key);
    // Of an issuer that is named nowhere: only to read what there is.
    let snapshot = register.snapshot().map_err(failed)?;
    let before = Authority::new(SigningKey::generate(random), snapshot, now()).map_err(failed)?;
    if root.keys.network() != before.settings().network {
        return Err(Failure::Mistake(format!(
            "{} is the root key of another network than the backup's",
            root.path().display()
        )));
    }
    root.keys.learn(before.trust().encoded()).map_err(failed)?;
    let own = before.nodes().find(|node| node.key == key.public()).map(|node| node.membership.clone());
    let own =
        own.ok_or_else(|| Failure::Runtime("the backup does not know the server's own node".to_owned()))?;
    let issuer = name_issuer(root, before.settings().cidrs.iter().copied(), random)?;
    let trust = root.keys.trust().ok_or_else(|| Failure::Runtime("nothing was signed".to_owned()))?;
    let snapshot = register.snapshot().map_err(failed)?;
    let mut authority = Authority::new(issuer.clone(), snapshot, now()).map_err(failed)?;
    install_trust(&mut authority, trust, &mut register)?;
    Ok(Restored { register, key, issuer, own })
}

fn from_root(
    directory: &Path,
    root: &mut RootFile,
    arguments: &RestoreArgs,
    endpoints: Vec<HostEndpoint>,
    random: &mut ChaCha20Rng,
) -> Result<Restored, Failure> {
    let Some(known) = root.keys.server().cloned() else {
        return Err(Failure::Mistake(format!(
            "{} does not say which server the nodes know: without a backup it cannot be made again",
            root.path().display()
        )));
    };
    let trust =
        root.keys.trust().ok_or_else(|| Failure::Mistake("this root key has signed nothing".to_owned()))?;
    let cidrs = Membership::verify(&known.membership, trust).map_err(failed).and_then(|own| {
        let issuer = trust.issuer(own.signer()).ok_or_else(|| failed("its issuer is dropped"))?;
        Ok(issuer.limits.addresses.clone())
    })?;
    let issuer = name_issuer(root, cidrs.iter().copied(), random)?;
    let trust = root.keys.trust().ok_or_else(|| Failure::Runtime("nothing was signed".to_owned()))?.clone();
    let own = Membership::verify(&known.membership, &trust).map_err(failed)?;
    let key = PrivateKey::from_bytes(*known.key);
    let genesis = Genesis {
        issuer: issuer.clone(),
        trust,
        cidrs,
        domain: known.domain.clone(),
        server: Server {
            node: own.node,
            key: key.public(),
            name: own.name.clone(),
            roles: own.roles,
            endpoints: if endpoints.is_empty() { known.endpoints.clone() } else { endpoints },
        },
        actor: who(),
    };
    let transaction =
        without_backup(&genesis, Some(&known.membership), arguments.gather, now()).map_err(failed)?;
    let mut register = Register::create(directory).map_err(failed)?;
    commit(&mut register, &transaction)?;
    Ok(Restored { register, key, issuer, own: known.membership })
}

/// Moves a state directory aside. The new one keeps the interface's name: the interface may still be there.
fn set_aside(place: &Path, new: &Path) -> Result<Option<PathBuf>, Failure> {
    if !place.exists() {
        return Ok(None);
    }
    let interface = place.join("interface");
    if interface.exists() {
        fs::copy(&interface, new.join("interface"))
            .map_err(|error| Failure::runtime(format!("{} cannot be copied", interface.display()), error))?;
    }
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-{}", whole_now().0.as_secs()));
    let aside = place.with_file_name(name);
    fs::rename(place, &aside)
        .map_err(|error| Failure::runtime(format!("{} cannot be moved aside", place.display()), error))?;
    Ok(Some(aside))
}
