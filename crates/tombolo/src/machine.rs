//! Which machine this is: a copied state directory is not to come up beside its original (control rule 19).
//!
//! Bound is to the machine's id (`/etc/machine-id`), and to the hardware's or virtual machine's (`product_uuid`), as far as
//! there are any. A container has neither of its own: there the volume with the state is the identity, and nothing is bound.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tombolo_control::DocumentHash;

use crate::atomic_file;

/// The file in the state directory: a line for each mark, its name and its hash.
const FILE: &str = "machine";

const MARKS: [(&str, &str); 2] =
    [("machine-id", "etc/machine-id"), ("product-uuid", "sys/class/dmi/id/product_uuid")];

/// Files that are there in a container.
const CONTAINERS: [&str; 3] = [".dockerenv", "run/.containerenv", "run/systemd/container"];

/// Why a state directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The file cannot be read or written.
    #[error("{} cannot be used: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It belongs to another machine.
    #[error(
        "this state is another machine's ({what} differs): two machines with one key would disturb each other. If this is a copy of \
         that machine, make it one of its own: `tombolo leave --force -n {network}`, then `tombolo join` with a new token. If it is \
         the same machine, and only its {what} has changed, remove {} and start again", path.display()
    )]
    Another {
        /// Which mark differs.
        what: String,
        /// The network.
        network: String,
        /// What binds the state.
        path: PathBuf,
    },
}

/// Whether this is a container, below `root`.
pub fn is_container(root: &Path) -> bool {
    CONTAINERS.iter().any(|file| root.join(file).exists())
}

/// What this machine is known by, below `root`: names with hashes, since others are not to learn a machine's id.
fn marks(root: &Path) -> Vec<(&'static str, String)> {
    let read = |(name, file): (&'static str, &str)| {
        let text = fs::read_to_string(root.join(file)).ok()?;
        let text = text.trim().to_lowercase();
        // An image before its first boot.
        if text.is_empty() || text == "uninitialized" {
            return None;
        }
        Some((name, DocumentHash::of(format!("tombolo machine v1 {name} {text}").as_bytes()).to_string()))
    };
    MARKS.into_iter().filter_map(read).collect()
}

/// Binds a state directory to the machine below `root`, or compares what binds it.
///
/// # Errors
/// [`MachineError`]. A mark that is not there any more is no other machine.
pub fn bind(directory: &Path, network: &str, root: &Path) -> Result<(), MachineError> {
    let path = directory.join(FILE);
    let failed = |error| MachineError::Io { path: path.clone(), error };
    let marks = marks(root);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let held = text.lines().filter_map(|line| line.split_once(' '));
            let other = held
                .filter(|(name, hash)| marks.iter().any(|(mark, now)| mark == name && now != hash))
                .map(|(name, _)| name.to_owned());
            match other.into_iter().next() {
                Some(what) => Err(MachineError::Another { what, network: network.to_owned(), path }),
                None => Ok(()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text: String = marks.iter().map(|(name, hash)| format!("{name} {hash}\n")).collect();
            atomic_file::write(&path, text.as_bytes(), 0o600).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, uuid: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::create_dir_all(root.path().join("sys/class/dmi/id")).unwrap();
        fs::write(root.path().join("etc/machine-id"), id).unwrap();
        if let Some(uuid) = uuid {
            fs::write(root.path().join("sys/class/dmi/id/product_uuid"), uuid).unwrap();
        }
        root
    }

    fn refused(state: &Path, root: &Path) -> Option<String> {
        bind(state, "prod", root).err().map(|error| error.to_string())
    }

    #[test]
    fn a_copied_state_directory_is_refused_with_the_mend_control_rule_19() {
        let state = tempfile::tempdir().unwrap();
        let original = machine("3d12\n", Some("AB-1\n"));
        assert_eq!(refused(state.path(), original.path()), None, "the first start binds");
        assert_eq!(refused(state.path(), original.path()), None);
        for copy in [machine("4e23\n", Some("ab-1\n")), machine("3d12\n", Some("cd-2\n"))] {
            let text = refused(state.path(), copy.path()).unwrap();
            assert!(text.contains("leave --force") && text.contains("tombolo join"), "{text}");
            assert!(text.contains(&state.path().join(FILE).display().to_string()), "{text}");
        }
        // The file is the mend for a machine that got another id.
        fs::remove_file(state.path().join(FILE)).unwrap();
        assert_eq!(refused(state.path(), machine("4e23\n", None).path()), None);
        assert!(!fs::read_to_string(state.path().join(FILE)).unwrap().contains("4e23"), "hashes only");
    }

    #[test]
    fn what_is_not_there_is_no_other_machine_control_rule_19() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(refused(state.path(), machine("3d12\n", Some("ab-1\n")).path()), None);
        assert_eq!(refused(state.path(), machine("uninitialized\n", None).path()), None);
        assert_eq!(refused(state.path(), tempfile::tempdir().unwrap().path()), None);
        let container = machine("", None);
        assert!(!is_container(container.path()));
        fs::write(container.path().join(".dockerenv"), "").unwrap();
        assert!(is_container(container.path()));
    }
}
