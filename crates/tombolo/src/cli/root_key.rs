//! The root key's file: opened only where something is to be signed, and written anew before that leaves.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use tombolo_control::root::RootKeys;
use tombolo_store::{Identity, Recipient};
use zeroize::Zeroizing;

use super::args::RootArgs;
use super::{Failure, failed};
use crate::atomic_file;

/// An open root key, and where it came from.
pub(super) struct RootFile {
    pub(super) keys: RootKeys,
    path: PathBuf,
    passphrase: Zeroizing<String>,
}

impl RootFile {
    pub(super) fn open(arguments: &RootArgs) -> Result<Self, Failure> {
        let path = match &arguments.root_key {
            Some(path) => path.clone(),
            None if io::stdin().is_terminal() => {
                eprint!("tombolo: file of the root key: ");
                let mut line = String::new();
                io::stdin().read_line(&mut line).map_err(|error| Failure::runtime("no answer", error))?;
                PathBuf::from(line.trim())
            }
            None => {
                return Err(Failure::Mistake(
                    "the root key must sign this: say where its file is with --root-key FILE".to_owned(),
                ));
            }
        };
        let sealed = fs::read(&path)
            .map_err(|error| Failure::Mistake(format!("{} cannot be read: {error}", path.display())))?;
        let passphrase =
            passphrase(arguments.root_passphrase_file.as_deref(), "Passphrase of the root key: ", false)?;
        let content = Identity::Passphrase(passphrase.clone())
            .open(&sealed)
            .map_err(|error| Failure::Mistake(format!("{}: {error}", path.display())))?;
        let keys = RootKeys::from_bytes(&content)
            .map_err(|error| Failure::Mistake(format!("{}: {error}", path.display())))?;
        Ok(Self { keys, path, passphrase })
    }

    /// Before what was signed is given away, so that no epoch is ever used twice.
    pub(super) fn write(&self) -> Result<(), Failure> {
        let sealed =
            Recipient::Passphrase(self.passphrase.clone()).seal(&self.keys.to_bytes()).map_err(failed)?;
        atomic_file::write(&self.path, &sealed, 0o600).map_err(|error| {
            Failure::runtime(
                format!("{} cannot be written, and nothing was signed", self.path.display()),
                error,
            )
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// From a file, or from the terminal without echo; `twice` where a new one is chosen.
pub(super) fn passphrase(
    file: Option<&Path>,
    prompt: &str,
    twice: bool,
) -> Result<Zeroizing<String>, Failure> {
    if let Some(file) = file {
        let text = fs::read_to_string(file)
            .map(Zeroizing::new)
            .map_err(|error| Failure::Mistake(format!("{} cannot be read: {error}", file.display())))?;
        let text = Zeroizing::new(text.trim_end_matches(['\n', '\r']).to_owned());
        return if text.is_empty() {
            Err(Failure::Mistake(format!("{} is empty", file.display())))
        } else {
            Ok(text)
        };
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Mistake(format!(
            "there is no terminal to ask at ({}): name a file with the passphrase instead; see --help",
            prompt.trim_end_matches([' ', ':'])
        )));
    }
    let first = super::prompt(prompt)?;
    if first.is_empty() {
        return Err(Failure::Mistake("the passphrase is empty".to_owned()));
    }
    if twice && *super::prompt("Once more: ")? != *first {
        return Err(Failure::Mistake("the passphrases differ; nothing was done".to_owned()));
    }
    Ok(first)
}
