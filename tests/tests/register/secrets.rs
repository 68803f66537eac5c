//! What the server's owner keeps for himself.

use std::path::{Path, PathBuf};

use tombolo_tests::{Result, Scene, host::Host};

use super::text;

const ROOT_PASSPHRASE: &str = "correct horse battery staple";

/// Files that commands are given: the root key, its passphrase, the backup's.
pub(crate) struct Secrets {
    pub(crate) root_key: PathBuf,
    root_passphrase: PathBuf,
    pub(crate) backup_passphrase: PathBuf,
}

impl Secrets {
    pub(crate) fn new(scene: &Scene, server: &Host) -> Result<Self> {
        Ok(Self {
            root_key: server.folder.join("root.age"),
            root_passphrase: scene.write("root-passphrase", &format!("{ROOT_PASSPHRASE}\n"))?,
            backup_passphrase: scene.write("backup-passphrase", "another one\n")?,
        })
    }

    /// `server init`, with the passphrase; gives the first token.
    pub(crate) fn init(&self, server: &Host) -> Result<String> {
        server.init(&["--name", "server", "--root-passphrase-file", text(&self.root_passphrase)?])
    }

    pub(crate) fn root_arguments(&self) -> Result<[&str; 4]> {
        Ok(["--root-key", text(&self.root_key)?, "--root-passphrase-file", text(&self.root_passphrase)?])
    }

    pub(crate) fn trust(&self, server: &Host, arguments: &[&str]) -> Result<String> {
        let root = self.root_arguments()?;
        server.run(&[&["server", "trust"][..], arguments, &root].concat())
    }

    pub(crate) fn backup(&self, server: &Host, file: &Path) -> Result<String> {
        server.run(&["server", "backup", text(file)?, "--passphrase-file", text(&self.backup_passphrase)?])
    }
}
