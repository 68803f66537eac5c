//! `server backup`: the register and the server's own key, encrypted, while the server runs.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use tombolo_noise::clock::UnixTime;
use tombolo_store::{FILE, Header, Recipient};
use zeroize::Zeroizing;

use super::args::{BackupArgs, Cli};
use super::root_key::passphrase;
use super::{Failure, failed, print_bytes};
use crate::atomic_file;
use crate::daemon::report::unix_now;
use crate::membership::MembershipState;
use crate::paths::Directories;

/// The state of a network whose server this machine is.
pub(super) fn server_state(directories: &Directories, network: &str) -> Result<MembershipState, Failure> {
    let directory = directories.state_directory(network);
    let other = || {
        Failure::Mistake(format!(
            "this machine is not the server of `{network}`: there is no register in {}",
            directory.display()
        ))
    };
    if !directory.join(FILE).exists() {
        return Err(other());
    }
    let state = MembershipState::open(&directory).map_err(failed)?;
    if state.issuer().map_err(failed)?.is_none() {
        return Err(other());
    }
    Ok(state)
}

pub(super) fn run(cli: &Cli, directories: &Directories, arguments: &BackupArgs) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let state = server_state(directories, &network)?;
    let to_output = arguments.file == Path::new("-");
    if to_output && std::io::stdout().is_terminal() {
        return Err(Failure::Mistake("a backup is not for a terminal: name a file".to_owned()));
    }
    if !to_output && arguments.file.exists() && !arguments.force {
        return Err(Failure::Mistake(format!(
            "{} is there already, and is not overwritten: choose another, or add --force",
            arguments.file.display()
        )));
    }
    let recipient = if arguments.recipient.is_empty() {
        let prompt = "Passphrase for the backup: ";
        Recipient::Passphrase(passphrase(arguments.passphrase_file.as_deref(), prompt, true)?)
    } else {
        Recipient::parse(&arguments.recipient).map_err(|error| Failure::Mistake(error.to_string()))?
    };
    let key =
        state.key().map_err(failed)?.ok_or_else(|| Failure::Runtime("the server has no key".to_owned()))?;
    let header = Header {
        created: UnixTime(Duration::from_secs(unix_now().as_secs())),
        key: Zeroizing::new(*key.as_bytes()),
        port: crate::config::load(&directories.config_file(&network))?.interface.listen_port,
        network: network.clone(),
    };
    let register = directories.state_directory(&network).join(FILE);
    let shows = std::io::stderr().is_terminal();
    let progress = |done: u32, all: u32| {
        if shows {
            let _ = write!(std::io::stderr(), "\rtombolo: {done} of {all} pages");
        }
    };
    let sealed = tombolo_store::backup(&register, &header, &recipient, progress).map_err(failed)?;
    if shows {
        eprintln!();
    }
    if to_output {
        print_bytes(&sealed)?;
    } else {
        atomic_file::write(&arguments.file, &sealed, 0o600).map_err(|error| {
            Failure::runtime(format!("{} cannot be written", arguments.file.display()), error)
        })?;
    }
    eprintln!(
        "tombolo: {} bytes, encrypted; to restore it takes what opens it, and the root key, which is not in it",
        sealed.len()
    );
    Ok(())
}
