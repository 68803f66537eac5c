//! Where files are, and which networks there are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::config::valid_name;

/// The three directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// `/etc/tombolo`, or `TOMBOLO_CONFIG_DIR`.
    pub config: PathBuf,
    /// `/var/lib/tombolo`, or `TOMBOLO_STATE_DIR`.
    pub state: PathBuf,
    /// `/run/tombolo`, or `TOMBOLO_RUN_DIR`.
    pub run: PathBuf,
}

impl Directories {
    /// From the environment.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let directory = |name: &str, default: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Self {
            config: directory("TOMBOLO_CONFIG_DIR", "/etc/tombolo"),
            state: directory("TOMBOLO_STATE_DIR", "/var/lib/tombolo"),
            run: directory("TOMBOLO_RUN_DIR", "/run/tombolo"),
        }
    }

    /// Whether these are the directories that the systemd unit uses.
    pub fn are_default(&self) -> bool {
        *self == Self::from_variables(|_| None)
    }

    /// The configuration of a network.
    pub fn config_file(&self, network: &str) -> PathBuf {
        self.config.join(format!("{network}.toml"))
    }

    /// The state of a network.
    pub fn state_directory(&self, network: &str) -> PathBuf {
        self.state.join(network)
    }

    /// The control socket of a network.
    pub fn control_socket(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.sock"))
    }

    /// The lock that a network's daemon holds.
    pub fn lock_file(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.lock"))
    }

    /// The lock that `tombolo join` holds.
    pub fn join_lock_file(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.join.lock"))
    }

    /// The log of a daemon in the background without systemd.
    pub fn log_file(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.log"))
    }

    /// The names of all networks that have a configuration, sorted.
    pub fn networks(&self) -> Vec<String> {
        let mut networks: Vec<String> = std::fs::read_dir(&self.config)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| network_name(&entry.path()))
            .collect();
        networks.sort();
        networks
    }

    /// The network that was asked for, or the only one.
    ///
    /// # Errors
    /// A [`Failure::Mistake`] when the name cannot be one, when there are several networks or none.
    pub fn choose_network(&self, given: Option<&str>) -> Result<String, Failure> {
        if let Some(name) = given {
            if !valid_name(name) {
                return Err(Failure::Mistake(format!(
                    "`{name}` cannot be the name of a network: 1 to 63 letters, digits and hyphens"
                )));
            }
            // One whose file was removed can still be asked and stopped.
            if self.config_file(name).exists() || self.control_socket(name).exists() {
                return Ok(name.to_owned());
            }
            let others = match self.networks() {
                none if none.is_empty() => {
                    "there is none yet; `tombolo join` or `tombolo server init` makes one".to_owned()
                }
                some => format!("there are: {}", some.join(", ")),
            };
            return Err(Failure::Mistake(format!(
                "there is no network `{name}` on this machine (no {}); {others}",
                self.config_file(name).display()
            )));
        }
        let mut networks = self.networks();
        match networks.len() {
            1 => Ok(networks.remove(0)),
            0 => Err(Failure::Mistake(format!(
                "there is no network: no NETWORK.toml in {}; `tombolo join` or `tombolo server init` makes one, or write it \
                 by hand",
                self.config.display()
            ))),
            _ => Err(Failure::Mistake(format!(
                "there are several networks ({}); choose one with -n",
                networks.join(", ")
            ))),
        }
    }
}

/// `prod` of `/etc/tombolo/prod.toml`.
pub fn network_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
    valid_name(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_can_be_moved() {
        let directories = Directories::from_variables(|name| {
            (name == "TOMBOLO_RUN_DIR").then(|| OsString::from("/tmp/run"))
        });
        assert_eq!(directories.control_socket("prod"), Path::new("/tmp/run/prod.sock"));
        assert_eq!(directories.config_file("prod"), Path::new("/etc/tombolo/prod.toml"));
        assert!(!directories.are_default());
        assert!(Directories::from_variables(|_| Some(OsString::new())).are_default());
    }

    #[test]
    fn a_network_is_not_a_path() {
        assert_eq!(network_name(Path::new("/etc/tombolo/prod.toml")).as_deref(), Some("prod"));
        assert_eq!(network_name(Path::new("/etc/tombolo/.toml")), None);
        assert_eq!(network_name(Path::new("/etc/tombolo/prod.toml.bak")), None);
        let directories = Directories::from_variables(|_| None);
        assert!(matches!(directories.choose_network(Some("../etc/passwd")), Err(Failure::Mistake(_))));
    }
}
