//! `up` and `down`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::args::{Cli, DownArgs, LogFormat, UpArgs};
use super::{Failure, failed, join, logging, print_line};
use crate::background::{self, Outcome};
use crate::config::{self, NetworkConfig};
use crate::control::{Answer, Client, ClientError, Request};
use crate::daemon::{self, Waiting};
use crate::paths::Directories;

/// For a daemon to end after it was told to.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn up(cli: &Cli, directories: &Directories, arguments: &UpArgs) -> Result<(), Failure> {
    let exists = |network: &String| directories.config_file(network).exists();
    let network = match directories.choose_network(cli.network.as_deref()) {
        Ok(network) if exists(&network) => network,
        other if arguments.foreground => match join::begin_unattended(cli, directories)? {
            Some(network) => {
                logging::start(cli)?;
                let ended = daemon::run(directories.clone(), &network, Waiting::ServiceManager);
                if let Err(failure) = &ended {
                    join::abandon_unattended(directories, &network, failure);
                }
                return ended;
            }
            None => other?,
        },
        other => other?,
    };
    if arguments.background_child {
        background::leave_session();
    }
    if arguments.foreground {
        logging::start(cli)?;
        let waiting = if arguments.background_child { Waiting::Parent } else { Waiting::ServiceManager };
        return daemon::run(directories.clone(), &network, waiting);
    }
    // A mistake in the configuration is told here, where the user is, and not in a log.
    config::load_network(directories, &network)?;
    if Client::new(&directories.control_socket(&network)).ask(&Request::Status).is_ok() {
        return print_line(&format!("{network} is up already"));
    }
    print_line(&start(cli, directories, &network)?)
}

/// Starts the daemon of a network, and returns when it is ready, with a line that says so.
pub(super) fn start(cli: &Cli, directories: &Directories, network: &str) -> Result<String, Failure> {
    if directories.are_default() && unit_is_installed() {
        return systemctl("start", network).map(|()| format!("{network} is up"));
    }
    let log = directories.log_file(network);
    let format = match cli.log_format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    let child: Vec<String> = [
        "up",
        "--foreground",
        "--background-child",
        "-n",
        network,
        "--log-format",
        format,
        "--log",
        &cli.log,
    ]
    .map(str::to_owned)
    .to_vec();
    match background::start_with_log(&child, &log) {
        Ok(Outcome::Ready) => Ok(format!("{network} is up (log: {})", log.display())),
        Ok(Outcome::Ended(status, written)) => {
            let message = format!("{network} did not come up\n{}", written.trim_end());
            Err(if status.code() == Some(1) { Failure::Mistake(message) } else { Failure::Runtime(message) })
        }
        Err(error) => Err(Failure::runtime("the daemon cannot be started", error)),
    }
}

pub(super) fn down(cli: &Cli, directories: &Directories, arguments: &DownArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    // Whatever the file says now, a daemon that runs can be stopped.
    let config = config::load_network(directories, &network);
    halt(directories, &network)?;
    if arguments.open {
        open(&config?, directories, &network)?;
    }
    if let Err(error) = crate::hosts::update(Path::new(crate::hosts::HOSTS_FILE), &network, &[]) {
        eprintln!("tombolo: warning: {} cannot be written: {error}", crate::hosts::HOSTS_FILE);
    }
    if arguments.open {
        print_line(&format!("{network} is down; its addresses are no longer guarded"))
    } else {
        print_line(&format!("{network} is down; its addresses stay guarded (down --open removes the guard)"))
    }
}

pub(super) fn guard(cli: &Cli, directories: &Directories) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let config = config::load_network(directories, &network)?;
    daemon::guard(config, directories, &network)?;
    print_line(&format!("{network} is guarded"))
}

/// Stops a daemon that runs; interface and guard stay.
pub(super) fn halt(directories: &Directories, network: &str) -> Result<(), Failure> {
    if directories.are_default() && unit_is_installed() && unit_is_active(network) {
        systemctl("stop", network)
    } else {
        stop(directories, network)
    }
}

fn stop(directories: &Directories, network: &str) -> Result<(), Failure> {
    match Client::new(&directories.control_socket(network)).ask(&Request::Down) {
        // A daemon that stops at once may be gone before its answer is out; the lock tells.
        Ok(Answer::Done) | Err(ClientError::NotRunning(_) | ClientError::Ended | ClientError::Io(_)) => {}
        Ok(answer) => return Err(failed(answer.complaint())),
        Err(error) => return Err(failed(error)),
    }
    let lock = directories.lock_file(network);
    let deadline = now() + STOP_PATIENCE;
    while daemon::lock::Lock::is_held(&lock) {
        if now() > deadline {
            return Err(Failure::Runtime(format!("the daemon of {network} does not end")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Has the network started at boot, where systemd runs.
pub(super) fn enable(directories: &Directories, network: &str, verb: &str) -> Result<(), Failure> {
    if !directories.are_default() {
        return Ok(());
    }
    if unit_is_installed() {
        return systemctl(verb, network);
    }
    if verb == "enable" {
        let why = if Path::new("/run/systemd/system").is_dir() {
            "tombolo@.service is not installed (packaging/systemd)"
        } else {
            "systemd does not run here"
        };
        eprintln!(
            "tombolo: note: {why}, so nothing starts it at boot: have `tombolo up -n {network}` run then"
        );
    }
    Ok(())
}

fn open(config: &NetworkConfig, directories: &Directories, network: &str) -> Result<(), Failure> {
    daemon::remove_leftovers(config, &directories.state_directory(network))
}

#[expect(clippy::disallowed_methods, reason = "the command line is a shell")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Whether systemd runs this machine and has our unit.
fn unit_is_installed() -> bool {
    Path::new("/run/systemd/system").is_dir()
        && ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"]
            .iter()
            .any(|folder| Path::new(folder).join("tombolo@.service").exists())
}

fn unit_is_active(network: &str) -> bool {
    let status = Command::new("systemctl").args(["is-active", "--quiet", &unit(network)]).status();
    status.is_ok_and(|status| status.success())
}

fn unit(network: &str) -> String {
    format!("tombolo@{network}.service")
}

fn systemctl(verb: &str, network: &str) -> Result<(), Failure> {
    let unit = unit(network);
    let status = Command::new("systemctl")
        .args([verb, &unit])
        .status()
        .map_err(|error| Failure::runtime("systemctl cannot be started", error))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Runtime(format!("`systemctl {verb} {unit}` failed; see: journalctl -u {unit} -n 20")))
}
