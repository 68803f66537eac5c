//! A machine with Tombolo on it, as a user sets it up: a key, a TOML file, `tombolo up`.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use crate::{
    Result, Scene,
    command::{USUAL_LIMIT, describe, output, run},
    namespace::Namespace,
    process::Process,
    wireguard_go::{KeyPair, unique},
};

/// The UDP port of every node here: each has its own namespace.
pub const PORT: u16 = 8662;
/// The environment variable that names the folder of the executables to test.
pub const BINARIES: &str = "TOMBOLO_TEST_BINARIES";
/// The overlay of the tests, IPv4 and IPv6; node N has the address that ends with N.
pub const OVERLAY: &str = "10.62.0.0/24";
/// The IPv6 prefix of the overlay.
pub const OVERLAY6: &str = "fd62:626f:6c6f::/64";

/// The path of an executable of ours, `tombolo` or `tombolo-wireguard`: in the folder that the
/// environment names, or else where cargo put it, two folders above the running test.
///
/// # Errors
/// When it was not built.
pub fn executable(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os(BINARIES) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let test = std::env::current_exe()?;
            test.ancestors().nth(2).context("a test outside of any target folder")?.to_owned()
        }
    };
    let path = folder.join(name);
    ensure!(path.exists(), "{} does not exist: run `cargo build -p tombolo` first", path.display());
    Ok(path)
}

/// One node of a network.
#[derive(Debug)]
pub struct Node {
    /// What the other nodes call it.
    pub name: String,
    /// Where it runs.
    pub namespace: Namespace,
    /// Its key pair.
    pub keys: KeyPair,
    /// Its overlay address.
    pub address: Ipv4Addr,
    /// Its IPv6 overlay address.
    pub address6: Ipv6Addr,
    /// Its interface.
    pub interface: String,
    /// The running daemon.
    pub process: Option<Process>,
    /// Further variables of its commands' environment.
    pub environment: Vec<(&'static str, String)>,
    directory: PathBuf,
    log_name: String,
    binary: PathBuf,
}

/// How a node knows another.
#[derive(Debug, Clone)]
pub struct PeerEntry<'a> {
    /// The name of the peer.
    pub name: &'a str,
    /// Its public key.
    pub public_key: &'a str,
    /// Its networks.
    pub allowed_ips: Vec<String>,
    /// Its endpoint, where it is known.
    pub endpoint: Option<String>,
    /// Further lines of the section.
    pub extra: &'a str,
}

impl Node {
    /// A node with a key and no peers, number `number` of the overlay. It is not started.
    ///
    /// # Errors
    /// When the executable is missing.
    pub fn new(scene: &Scene, name: &str, namespace: &Namespace, number: u8) -> Result<Self> {
        Self::with_binary(scene, name, namespace, number, &executable("tombolo")?)
    }

    /// [`Node::new`] with another executable.
    ///
    /// # Errors
    /// When the folder of the node cannot be made, or the executable makes no keys.
    pub fn with_binary(
        scene: &Scene,
        name: &str,
        namespace: &Namespace,
        number: u8,
        binary: &Path,
    ) -> Result<Self> {
        let interface = unique("n");
        let directory = scene.path(name);
        for folder in ["config", "state", "run"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        let keys = KeyPair::generate_with(binary)?;
        let node = Self {
            name: name.to_owned(),
            namespace: namespace.clone(),
            keys,
            address: Ipv4Addr::new(10, 62, 0, number),
            address6: Ipv6Addr::new(0xfd62, 0x626f, 0x6c6f, 0, 0, 0, 0, u16::from(number)),
            interface,
            process: None,
            environment: Vec::new(),
            directory,
            log_name: format!("tombolo-{name}"),
            binary: binary.to_owned(),
        };
        node.write_private("config/private.key", &node.keys.private)?;
        Ok(node)
    }

    /// The path of its configuration.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("config/demo.toml")
    }

    /// The folder that holds its `config`, `state` and `run` folders.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// This node as the others enter it, reachable at `host`, where that is known.
    pub fn entry(&self, host: Option<String>) -> PeerEntry<'_> {
        PeerEntry {
            name: &self.name,
            public_key: &self.keys.public,
            allowed_ips: vec![format!("{}/32", self.address), format!("{}/128", self.address6)],
            endpoint: host.map(|host| format!("{host}:{PORT}")),
            extra: "",
        }
    }

    /// The text of a configuration with these peers; `extra` are further lines of `[interface]`.
    pub fn config(&self, extra: &str, peers: &[PeerEntry<'_>]) -> String {
        let mut text = format!(
            "[interface]\nname = \"{}\"\naddress = [\"{}/24\", \"{}/64\"]\nprivate_key_file = \"private.key\"\n\
             listen_port = {PORT}\n{extra}\n",
            self.interface, self.address, self.address6
        );
        for peer in peers {
            let allowed: Vec<String> =
                peer.allowed_ips.iter().map(|network| format!("{network:?}")).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "\n[[peer]]\nname = {:?}\npublic_key = {:?}\nallowed_ips = [{}]\n{}",
                peer.name,
                peer.public_key,
                allowed.join(", "),
                peer.extra
            );
            if let Some(endpoint) = &peer.endpoint {
                let _ = writeln!(text, "endpoint = {endpoint:?}");
            }
        }
        text
    }

    /// Writes the configuration of [`Node::config`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, extra: &str, peers: &[PeerEntry<'_>]) -> Result {
        self.write_private("config/demo.toml", &self.config(extra, peers))
    }

    /// Writes a file below the node's folder that only its owner can read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_private(&self, name: &str, contents: &str) -> Result {
        let path = self.directory.join(name);
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// A `tombolo` command of this node, in its namespace; options and subcommand are the caller's.
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = self.namespace.command(&self.binary);
        command
            .args([subcommand, "-n", "demo"])
            .env("TOMBOLO_CONFIG_DIR", self.directory.join("config"))
            .env("TOMBOLO_STATE_DIR", self.directory.join("state"))
            .env("TOMBOLO_RUN_DIR", self.directory.join("run"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the daemon and waits until its own address can be bound.
    ///
    /// # Errors
    /// When it ends instead, with its log.
    pub fn start(&mut self, scene: &Scene) -> Result {
        self.spawn(scene)?;
        self.wait(&["--timeout", "20s"])
    }

    /// Starts the daemon and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, scene: &Scene) -> Result {
        let mut command = self.command("up");
        self.process = Some(Process::spawn(scene, &self.log_name, command.arg("-f"))?);
        Ok(())
    }

    /// Runs `tombolo wait` with further options.
    ///
    /// # Errors
    /// When it does not end with exit code zero.
    pub fn wait(&self, options: &[&str]) -> Result {
        run(self.command("wait").args(options)).map(drop)
    }

    /// Waits, at most 20 s, until a peer answers through the tunnel.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_peer(&self, peer: &str) -> Result {
        self.wait(&["--peer", peer, "--timeout", "20s"])
    }

    /// `tombolo status --json`.
    ///
    /// # Errors
    /// When the daemon does not answer, or not with JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let text = run(self.command("status").arg("--json"))?;
        serde_json::from_str(&text).with_context(|| format!("the status {text}"))
    }

    /// The daemon.
    ///
    /// # Errors
    /// When it was not started.
    pub fn daemon(&mut self) -> Result<&mut Process> {
        match &mut self.process {
            Some(process) => Ok(process),
            None => bail!("{} was not started", self.name),
        }
    }

    /// Ends the daemon as `kill -9` does.
    ///
    /// # Errors
    /// When it was not started.
    pub fn kill(&mut self) -> Result {
        self.daemon()?.kill()
    }

    /// Runs a subcommand to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn outcome(&self, subcommand: &str, options: &[&str]) -> Result<Output> {
        output(self.command(subcommand).args(options), USUAL_LIMIT)
    }

    /// Runs a subcommand, and returns its standard output.
    ///
    /// # Errors
    /// When it does not end with exit code zero; the error holds what it said.
    pub fn run(&self, subcommand: &str, options: &[&str]) -> Result<String> {
        run(self.command(subcommand).args(options))
    }

    /// What the daemon says on standard error when it cannot start, with its exit code.
    ///
    /// # Errors
    /// When it does start.
    pub fn refusal(&self) -> Result<(i32, String)> {
        let mut command = self.command("up");
        command.arg("-f");
        let output = output(&mut command, Duration::from_secs(20))
            .with_context(|| format!("{} should have been refused", describe(&command)))?;
        let code = output.status.code().context("an exit code")?;
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// Makes every node a peer of every other; `hosts` are their public addresses, in the same order.
///
/// # Errors
/// When a configuration cannot be written.
pub fn mesh(nodes: &[&Node], hosts: &[String]) -> Result {
    for node in nodes {
        let others = nodes.iter().zip(hosts).filter(|(other, _)| other.name != node.name);
        let peers: Vec<PeerEntry<'_>> = others.map(|(other, host)| other.entry(Some(host.clone()))).collect();
        node.configure("", &peers)?;
    }
    Ok(())
}
