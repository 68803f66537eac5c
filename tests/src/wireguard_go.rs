//! The WireGuard implementation of Debian, driven by the standard `wg`, as the other end of a tunnel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context;

use crate::{
    Result, Scene,
    command::{run, run_with_input},
    namespace::Namespace,
    process::Process,
    wait::wait_until,
};

/// Where the standard control sockets are.
const SOCKETS: &str = "/var/run/wireguard";

/// A key pair, in base64.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

impl KeyPair {
    /// A new pair, made by `wg`.
    ///
    /// # Errors
    /// When `wg` is not installed.
    pub fn generate() -> Result<Self> {
        Self::generate_with("wg")
    }

    /// A new pair, made by the `genkey` and `pubkey` commands of `program`.
    ///
    /// # Errors
    /// When it cannot be started, or has no such commands.
    pub fn generate_with(program: impl AsRef<Path>) -> Result<Self> {
        let program = program.as_ref();
        let private = run(Command::new(program).arg("genkey"))?.trim().to_owned();
        let public = run_with_input(Command::new(program).arg("pubkey"), &format!("{private}\n"))?;
        Ok(Self { private, public: public.trim().to_owned() })
    }
}

/// A name that no other interface of this run has: control sockets are not part of a namespace.
/// At most 15 bytes, with a label of up to three.
pub fn unique(label: &str) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    format!("t{}x{}{label}", process::id(), SERIAL.fetch_add(1, Ordering::Relaxed))
}

/// A peer as `wg set` takes it.
#[derive(Debug, Clone, Default)]
pub struct Peer<'a> {
    /// Its public key.
    pub public_key: &'a str,
    /// Where it is, `ADDRESS:PORT`, where that is known.
    pub endpoint: Option<String>,
    /// What it may send and is sent: networks, separated by commas.
    pub allowed_ips: &'a str,
    /// A file with the preshared key.
    pub preshared_key: Option<&'a Path>,
    /// Seconds between persistent keepalives.
    pub keepalive: Option<u16>,
}

/// A running userspace implementation of WireGuard with an interface in a namespace: `wireguard-go`, or
/// another program with the same command line.
#[derive(Debug)]
pub struct WireGuard {
    /// Where its interface is.
    pub namespace: Namespace,
    /// The interface.
    pub interface: String,
    /// The running program.
    pub process: Process,
}

impl WireGuard {
    /// Starts `program -f INTERFACE` and waits for its control socket.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(scene: &Scene, namespace: &Namespace, program: impl AsRef<Path>) -> Result<Self> {
        let interface = unique("w");
        Self::start_as(scene, namespace, program, &interface)
    }

    /// [`WireGuard::start`] with a chosen interface name.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_as(
        scene: &Scene,
        namespace: &Namespace,
        program: impl AsRef<Path>,
        interface: &str,
    ) -> Result<Self> {
        let mut command = namespace.command(program.as_ref().as_os_str());
        command.args(["-f", interface]).env("LOG_LEVEL", "verbose").env("WG_PROCESS_FOREGROUND", "1");
        let mut process = Process::spawn(scene, interface, &mut command)?;
        let socket = socket_of(interface);
        wait_until(&format!("the control socket of {interface}"), Duration::from_secs(10), || {
            socket.exists() || !process.is_running()
        })?;
        anyhow::ensure!(
            process.is_running(),
            "{} did not start: {}",
            program.as_ref().display(),
            process.log()
        );
        Ok(Self { namespace: namespace.clone(), interface: interface.to_owned(), process })
    }

    /// Gives the interface its key, port and addresses, and sets it up.
    ///
    /// # Errors
    /// When a program refuses.
    pub fn configure(&self, scene: &Scene, keys: &KeyPair, port: u16, addresses: &[&str]) -> Result {
        let file = scene.write(&format!("{}.key", self.interface), &keys.private)?;
        run(self
            .namespace
            .command("wg")
            .args(["set", &self.interface, "listen-port", &port.to_string(), "private-key"])
            .arg(file))?;
        for address in addresses {
            self.namespace.ip(&format!("addr add {address} dev {}", self.interface))?;
        }
        self.namespace.ip(&format!("link set {} mtu 1420 up", self.interface)).map(drop)
    }

    /// Adds or changes a peer, and routes its networks into the interface.
    ///
    /// # Errors
    /// When a program refuses.
    pub fn set_peer(&self, peer: &Peer<'_>) -> Result {
        let mut command = self.namespace.command("wg");
        command.args(["set", &self.interface, "peer", peer.public_key, "allowed-ips", peer.allowed_ips]);
        if let Some(endpoint) = &peer.endpoint {
            command.args(["endpoint", endpoint]);
        }
        if let Some(file) = peer.preshared_key {
            command.arg("preshared-key").arg(file);
        }
        if let Some(seconds) = peer.keepalive {
            command.args(["persistent-keepalive", &seconds.to_string()]);
        }
        run(&mut command)?;
        for network in peer.allowed_ips.split(',').filter(|network| !network.is_empty()) {
            self.namespace.ip(&format!("route replace {network} dev {}", self.interface))?;
        }
        Ok(())
    }

    /// What `wg show INTERFACE FIELD` says of the peer.
    ///
    /// # Errors
    /// When `wg` fails or does not know the peer.
    pub fn field(&self, field: &str, public_key: &str) -> Result<String> {
        let table = run(self.namespace.command("wg").args(["show", &self.interface, field]))?;
        table
            .lines()
            .find_map(|line| line.strip_prefix(public_key))
            .map(|rest| rest.trim().to_owned())
            .with_context(|| format!("no {public_key} in {table}"))
    }

    /// The Unix time of the last handshake with the peer; zero when there was none.
    ///
    /// # Errors
    /// As [`WireGuard::field`].
    pub fn last_handshake(&self, public_key: &str) -> Result<u64> {
        Ok(self.field("latest-handshakes", public_key)?.parse()?)
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = fs::remove_file(socket_of(&self.interface));
    }
}

/// The standard control socket of an interface.
pub fn socket_of(interface: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{interface}.sock"))
}
