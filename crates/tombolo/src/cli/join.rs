//! `join` and `leave`.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use tombolo_control::NodeName;
use tombolo_control::token::Token;
use tombolo_noise::PrivateKey;
use zeroize::Zeroizing;

use super::args::{Cli, DownArgs, JoinArgs, LeaveArgs};
use super::attempt::{self, Attempt};
use super::init::port_taken;
use super::{Failure, failed, print_line, status, up};
use crate::config::valid_name;
use crate::control::{Answer, Client, Request};
use crate::membership::create::{self, NewState, Overlap};
use crate::membership::{MembershipState, PendingJoin};
use crate::paths::Directories;
use crate::random;

/// The network's name on this machine where none is given.
const USUAL_NAME: &str = "tombolo";
/// Longer than any token.
const TOKEN_MAX: u64 = 16 << 10;
/// What every token begins with.
const TOKEN_PREFIX: &str = "tombolo1";
/// Names the file with the token.
const TOKEN_FILE: &str = "TOMBOLO_TOKEN_FILE";
/// The name that a machine would like to have.
const NODE_NAME: &str = "TOMBOLO_NODE_NAME";

/// The name of a network that is to be made here, and is not there yet.
pub(super) fn choose_name(cli: &Cli, directories: &Directories) -> Result<String, Failure> {
    let network = wished_network(cli)?;
    refuse_existing(directories, &network)?;
    Ok(network)
}

/// The name of a network that is to be made here.
fn wished_network(cli: &Cli) -> Result<String, Failure> {
    let network = cli.network.clone().unwrap_or_else(|| USUAL_NAME.to_owned());
    if !valid_name(&network) {
        return Err(Failure::Mistake(format!(
            "`{network}` cannot be the name of a network: 1 to 63 letters, digits and hyphens"
        )));
    }
    Ok(network)
}

fn refuse_existing(directories: &Directories, network: &str) -> Result<(), Failure> {
    let config = directories.config_file(network);
    if config.exists() {
        return Err(Failure::Mistake(format!(
            "this machine has a network `{network}` already ({}): see `tombolo status -n {network}`, or choose another \
             name with -n",
            config.display()
        )));
    }
    Ok(())
}

/// The machine's name as a node's, as far as it can be one.
pub(super) fn machine_name() -> Option<NodeName> {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_str().ok()?.split('.').next()?.to_lowercase();
    let name: String = host
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
        .collect();
    name.trim_matches('-').parse().ok()
}

/// The name that the machine would like to have.
fn wished_name(given: Option<&str>) -> Result<Option<NodeName>, Failure> {
    match given {
        Some(name) => name
            .parse()
            .map(Some)
            .map_err(|error| Failure::Mistake(format!("`{name}` cannot be a node's name: {error}"))),
        None => Ok(machine_name()),
    }
}

/// For `up -f` where nobody can be asked: writes what a join takes, by the token file that the environment names. A
/// machine whose state is there already, as in a container with a volume for it, only gets its configuration back.
/// Gives the network's name; none where there is neither state nor a token file.
pub(super) fn begin_unattended(cli: &Cli, directories: &Directories) -> Result<Option<String>, Failure> {
    let file = std::env::var_os(TOKEN_FILE).filter(|path| !path.is_empty());
    let network = wished_network(cli)?;
    let directory = directories.state_directory(&network);
    if file.is_none() && !directory.exists() {
        return Ok(None);
    }
    refuse_existing(directories, &network)?;
    let is_member = directory.exists() && MembershipState::open(&directory).map_err(failed)?.is_member();
    if !is_member {
        let Some(file) = file else { return Ok(None) };
        let name = std::env::var(NODE_NAME).ok().filter(|name| !name.is_empty());
        let text = read_named(Path::new(&file))?;
        let token = text.parse().map_err(|error| Failure::Mistake(format!("{error}")))?;
        prepare(directories, &network, &PendingJoin { token, name: wished_name(name.as_deref())? })?;
    }
    create::write_config(directories, &network, create::free_port(directories)).map_err(failed)?;
    Ok(Some(network))
}

/// After `up -f` was not let in: as if nothing had been. The key of a machine that was not answered stays.
pub(super) fn abandon_unattended(directories: &Directories, network: &str, failure: &Failure) {
    let directory = directories.state_directory(network);
    if MembershipState::open(&directory).is_ok_and(|state| state.is_member()) {
        return;
    }
    let _ = std::fs::remove_file(crate::membership::error_file(directories, network));
    let _ = std::fs::remove_file(directories.config_file(network));
    if matches!(failure, Failure::Mistake(_)) {
        let _ = std::fs::remove_dir_all(directory);
    }
}

pub(super) fn join(cli: &Cli, directories: &Directories, arguments: &JoinArgs) -> Result<(), Failure> {
    let network = wished_network(cli)?;
    if !attempt::is_unfinished(directories, &network) {
        refuse_existing(directories, &network)?;
    }
    let name = wished_name(arguments.name.as_deref())?;
    let token = read_token(arguments.token.as_deref())?;
    let attempt = Attempt::begin(directories, &network)?;
    refuse_existing(directories, &network)?;
    let port = arguments.port.unwrap_or_else(|| create::free_port(directories));
    if !create::port_is_free(port) {
        return Err(Failure::Mistake(port_taken(port)));
    }
    let pending = PendingJoin { token, name };
    prepare(directories, &network, &pending)?;
    create::write_config(directories, &network, port).map_err(failed)?;
    let error_file = crate::membership::error_file(directories, &network);
    let _ = std::fs::remove_file(&error_file);
    let started = up::start(cli, directories, &network);
    attempt.end();
    if let Err(error) = started {
        // A service manager would go on trying.
        let _ = up::enable(directories, &network, "stop");
        // There is no network of that name here. Key and token stay for another try where that makes sense.
        let _ = std::fs::remove_file(directories.config_file(&network));
        let Ok(reason) = std::fs::read_to_string(&error_file) else { return Err(error) };
        let _ = std::fs::remove_file(&error_file);
        let (again, text) = reason.split_once('\n').unwrap_or(("", &reason));
        if again == "refused" {
            let _ = std::fs::remove_dir_all(directories.state_directory(&network));
            return Err(Failure::Mistake(text.trim_end().to_owned()));
        }
        return Err(Failure::Runtime(text.trim_end().to_owned()));
    }
    if !arguments.no_enable {
        up::enable(directories, &network, "enable")?;
    }
    let report = status::ask(&Client::new(&directories.control_socket(&network)))?;
    let name = report.membership.as_ref().and_then(|membership| membership.name.clone()).unwrap_or_default();
    warn_of_cover(&report.guard.overlay);
    print_line(&format!(
        "this machine is the member `{name}` of `{network}`: {} on {}",
        report.interface.addresses.join(" and "),
        report.interface.name
    ))
}

/// Tells of a wider route, of which the overlay takes a part.
fn warn_of_cover(overlay: &[String]) {
    let routes = create::local_routes();
    for range in overlay.iter().filter_map(|range| range.parse().ok()) {
        if let Overlap::Covered(route) = create::overlap(&range, &routes) {
            eprintln!(
                "tombolo: warning: the overlay {range} lies in {route}, which this machine routes elsewhere: what is there is \
                 not reached any more"
            );
        }
    }
}

/// Writes key and token. A key that an earlier try has left stays: the token may have been spent with it.
fn prepare(directories: &Directories, network: &str, pending: &PendingJoin) -> Result<(), Failure> {
    let directory = directories.state_directory(network);
    if directory.exists() {
        let state = MembershipState::open(&directory).map_err(failed)?;
        if state.issuer().map_err(failed)?.is_some() {
            return Err(Failure::Mistake(format!(
                "{} holds a server's register: remove it first if it is of no use any more",
                directory.display()
            )));
        }
        if !state.is_member() && state.key().map_err(failed)?.is_some() {
            return state.set_pending_join(pending).map_err(failed);
        }
        if state.is_member() {
            return Ok(());
        }
        std::fs::remove_dir_all(&directory)
            .map_err(|error| Failure::runtime(format!("{} cannot be removed", directory.display()), error))?;
    }
    let mut generator = random::generator().map_err(failed)?;
    let new = NewState::create(directories, network).map_err(failed)?;
    let state = new.open().map_err(failed)?;
    state.set_key(&PrivateKey::generate(&mut generator)).map_err(failed)?;
    state.set_pending_join(pending).map_err(failed)?;
    new.place().map_err(failed)
}

/// From the file that is named, standard input, the environment, or a prompt without echo.
fn read_token(given: Option<&Path>) -> Result<Token, Failure> {
    let from_environment = std::env::var_os(TOKEN_FILE).filter(|path| !path.is_empty());
    let text = match (given, from_environment) {
        (Some(path), _) if path == Path::new("-") => read_all(std::io::stdin(), "standard input")?,
        (Some(path), _) => read_file(path)?,
        (None, Some(path)) => read_named(Path::new(&path))?,
        (None, None) if std::io::stdin().is_terminal() => super::prompt("Token: ")?,
        (None, None) => {
            return Err(Failure::Mistake(format!(
                "there is no token: give a file, - for standard input, or name a file in {TOKEN_FILE}"
            )));
        }
    };
    text.parse().map_err(|error| Failure::Mistake(format!("{error}")))
}

/// The file that the environment names.
fn read_named(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read_file(path).map_err(|failure| Failure::Mistake(format!("{TOKEN_FILE}: {failure}")))
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    if path.to_str().is_some_and(|text| text.starts_with(TOKEN_PREFIX)) && !path.exists() {
        return Err(Failure::Mistake(
            "a token does not belong on the command line, where every user of the machine and the shell's history see it: \
             run `tombolo join`, which asks for it, or give a file, or - for standard input"
                .to_owned(),
        ));
    }
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::Mistake(format!("{} cannot be read: {error}", path.display())))?;
    read_all(file, &path.display().to_string())
}

fn read_all(reader: impl std::io::Read, name: &str) -> Result<Zeroizing<String>, Failure> {
    // With room for all, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_MAX as usize));
    reader
        .take(TOKEN_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Mistake(format!("{name} cannot be read: {error}")))?;
    Ok(text)
}

pub(super) fn leave(cli: &Cli, directories: &Directories, arguments: &LeaveArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let config = crate::config::load(&directories.config_file(&network))?;
    if config.membership.is_none() {
        return Err(Failure::Mistake(format!(
            "`{network}` has static peers: there is no membership to end; `tombolo down --open` stops it"
        )));
    }
    let state = MembershipState::open(&directories.state_directory(&network)).map_err(failed)?;
    let is_server = state.issuer().map_err(failed)?.is_some();
    if is_server && !arguments.force {
        return Err(Failure::Mistake(
            "this machine is the network's server: without it nobody joins or renews; \
             --force removes register and issuer key for good"
                .to_owned(),
        ));
    }
    let told = Client::new(&directories.control_socket(&network)).ask(&Request::Leave);
    let reason = match told {
        Ok(Answer::Done) => None,
        Ok(answer) => Some(answer.complaint()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = reason.filter(|_| !is_server) {
        if !arguments.force {
            return Err(Failure::Runtime(format!(
                "the server could not be told ({reason}); --force leaves all the same, and `tombolo node revoke` on the server \
                 ends the membership"
            )));
        }
        eprintln!(
            "tombolo: note: no server was told ({reason}): name and addresses stay this node's until `tombolo node revoke` there"
        );
    }
    up::down(cli, directories, &DownArgs { open: true })?;
    up::enable(directories, &network, "disable")?;
    // As long as there is a configuration this can be run again.
    for path in [directories.state_directory(&network), directories.config_file(&network)] {
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(|error| Failure::runtime(format!("{} cannot be removed", path.display()), error))?;
    }
    print_line(&format!("this machine has left `{network}`"))
}
