//! Who is compared, where their programs come from, and how they are started.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tombolo_tests::Scene;
use tombolo_tests::command::{is_installed, run, run_within};
use tombolo_tests::node::{BINARIES, Node, executable};
use tombolo_tests::process::Process;
use tombolo_tests::wait::{wait_for, wait_until};
use tombolo_tests::wireguard_go::{KeyPair, socket_of, unique};
use tombolo_tun::gso_max_size_for;

use crate::wire::{Host, Wire};
use crate::{Result, accounting};

/// The overlay's MTU: what all of them use on a wire of 1500.
pub const MTU: u32 = 1420;
/// The wire without a VPN.
pub const PLAIN: &str = "plain";
/// Our packet path without cryptography.
pub const FORWARDER: &str = "forwarder";
/// `tombolo-wireguard`, driven by `wg` as the others are.
pub const OURS: &str = "tombolo";
/// `tombolo up` with a configuration file.
pub const DAEMON: &str = "tombolo-daemon";
/// The userspace WireGuards that ours is held against.
pub const BORINGTUN: &str = "boringtun";
/// See [`BORINGTUN`].
pub const GOTATUN: &str = "gotatun";
/// Who takes part in a quick run.
pub const QUICK: [&str; 3] = [PLAIN, FORWARDER, OURS];
/// The UDP port of all of them.
pub const PORT: u16 = 51820;
const START_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);

/// Programs of others that cargo installs: name, package and version, executable.
const INSTALLED: [(&str, &str, &str); 2] =
    [(BORINGTUN, "boringtun-cli@0.7.1", "boringtun-cli"), (GOTATUN, "gotatun-cli@0.10.2", "gotatun")];

/// One of those that are compared.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name in the tables.
    pub name: String,
    kind: Kind,
}

/// A contender on a wire of its own. All of them run at the same time and are loaded in turn.
#[derive(Debug)]
pub struct Entrant {
    /// Its name.
    pub name: String,
    /// What runs.
    pub running: Running,
    /// The hosts on which it runs.
    pub wire: Wire,
    /// Where its files are.
    pub scene: Scene,
}

#[derive(Clone, Debug)]
enum Kind {
    /// No VPN: the wire itself.
    Plain,
    /// Our packet path without cryptography.
    Forwarder,
    /// The whole daemon, `tombolo up`, with a configuration file.
    Daemon {
        /// Further lines of `[interface]`.
        extra: &'static str,
    },
    /// A program that behaves as `wireguard-go` does.
    WireGuard(Source),
    /// Nebula, with `nebula-cert` beside it.
    Nebula(PathBuf),
}

#[derive(Clone, Debug)]
enum Source {
    Ours,
    Path(PathBuf),
    Cargo { package: &'static str, executable: &'static str },
}

/// A contender that runs on both hosts; it ends when this value is dropped.
#[derive(Debug)]
pub struct Running {
    /// The daemon of east, then that of west; none for the plain wire.
    pub daemons: Vec<Process>,
    /// Where west is reached.
    pub destination: Ipv4Addr,
    /// The public keys of east and west in base64, where they have any.
    pub public_keys: Option<[String; 2]>,
    /// The interfaces of east and west, where `wg` knows them.
    pub interfaces: Option<[String; 2]>,
    /// East and west, where `tombolo status` knows them.
    pub nodes: Vec<Node>,
}

impl Running {
    fn new(daemons: Vec<Process>, destination: Ipv4Addr) -> Self {
        Self { daemons, destination, public_keys: None, interfaces: None, nodes: Vec::new() }
    }

    /// The numbers of the daemons.
    pub fn pids(&self) -> Vec<u32> {
        self.daemons.iter().map(Process::id).collect()
    }

    /// The largest of a memory field over both daemons, in MB: see [`accounting::resident_megabytes`].
    ///
    /// # Errors
    /// When a daemon has ended.
    pub fn megabytes(&self, field: &str) -> Result<f64> {
        let each = self.daemons.iter().map(|daemon| accounting::resident_megabytes(daemon.id(), field));
        Ok(each.collect::<Result<Vec<f64>>>()?.into_iter().fold(0.0, f64::max))
    }
}

fn all() -> Vec<Contender> {
    let contender = |name: &str, kind| Contender { name: name.into(), kind };
    let mut all = vec![
        contender(PLAIN, Kind::Plain),
        contender(FORWARDER, Kind::Forwarder),
        contender(OURS, Kind::WireGuard(Source::Ours)),
        Contender::daemon(""),
    ];
    for (name, package, executable) in INSTALLED {
        all.push(contender(name, Kind::WireGuard(Source::Cargo { package, executable })));
    }
    all.push(contender("wireguard-go", Kind::WireGuard(Source::Path("wireguard-go".into()))));
    all
}

/// The contenders of these names, all without any, and `also` those given as `NAME=PROGRAM`. What is
/// not there yet is installed.
///
/// # Errors
/// An unknown name, or a program that is missing and cannot be installed.
pub fn find(names: &[String], also: &[String]) -> Result<Vec<Contender>> {
    let mut known = all();
    for entry in also {
        let (name, program) = entry.split_once('=').context("--also wants NAME=PROGRAM")?;
        let path = PathBuf::from(program);
        let kind = match path.file_name().is_some_and(|file| file == "nebula") {
            true => Kind::Nebula(path),
            false => Kind::WireGuard(Source::Path(path)),
        };
        known.push(Contender { name: name.into(), kind });
    }
    for name in names {
        ensure!(known.iter().any(|contender| contender.name == *name), "no contender is called {name}");
    }
    let chosen: Vec<Contender> =
        known.into_iter().filter(|contender| names.is_empty() || names.contains(&contender.name)).collect();
    for contender in &chosen {
        contender.provide()?;
    }
    Ok(chosen)
}

/// Prints what can be compared, and where it is.
///
/// # Errors
/// When an entry of `also` cannot be read.
pub fn list(also: &[String]) -> Result {
    for contender in all() {
        let place = match contender.program() {
            Ok(Some(program)) if program.components().count() == 1 || program.exists() => {
                program.display().to_string()
            }
            Ok(Some(program)) => format!("to be installed as {}", program.display()),
            Ok(None) => "built in".into(),
            Err(error) => format!("{error:#}"),
        };
        println!("{:14} {place}", contender.name);
    }
    also.iter().for_each(|entry| println!("{entry}"));
    Ok(())
}

/// A program of ours: in the folder that the environment names, or else beside this one.
fn own_program(name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name(name);
    if std::env::var_os(BINARIES).is_none() && beside.exists() {
        return Ok(beside);
    }
    executable(name)
}

/// Where cargo installs the programs of others: beside our own build.
fn install_root() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.ancestors().nth(2).context("an executable outside of any target folder")?.join("bench-programs"))
}

impl Contender {
    /// `tombolo up`, with further lines of `[interface]` at both ends.
    pub fn daemon(extra: &'static str) -> Self {
        Self { name: DAEMON.into(), kind: Kind::Daemon { extra } }
    }

    /// The program, where there is one of its own.
    fn program(&self) -> Result<Option<PathBuf>> {
        Ok(match &self.kind {
            Kind::Plain | Kind::Forwarder => None,
            Kind::Daemon { .. } => Some(own_program("tombolo")?),
            Kind::WireGuard(Source::Ours) => Some(own_program("tombolo-wireguard")?),
            Kind::WireGuard(Source::Path(path)) | Kind::Nebula(path) => Some(path.clone()),
            Kind::WireGuard(Source::Cargo { executable, .. }) => {
                Some(install_root()?.join("bin").join(executable))
            }
        })
    }

    fn provide(&self) -> Result {
        let Some(program) = self.program()? else { return Ok(()) };
        if let Kind::WireGuard(Source::Cargo { package, .. }) = &self.kind
            && !program.exists()
        {
            eprintln!("installing {package} (once)");
            let mut cargo = Command::new("cargo");
            cargo.args(["install", "--locked", "--quiet", "--root"]).arg(install_root()?).arg(package);
            // Each is built as its authors ship it.
            for variable in ["RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"] {
                cargo.env_remove(variable);
            }
            run_within(&mut cargo, INSTALL_LIMIT)?;
        }
        let there = if program.components().count() == 1 {
            is_installed(&program.to_string_lossy())
        } else {
            program.exists()
        };
        if !there {
            bail!("{} is not installed; leave {} out with --contenders", program.display(), self.name);
        }
        Ok(())
    }

    /// What the program says of its version; empty where it has none.
    pub fn version(&self) -> String {
        let Ok(Some(program)) = self.program() else { return String::new() };
        let text = run(Command::new(program).arg("--version")).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    }

    /// Starts it on a wire, and waits until west answers through it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn enter(&self, wire: Wire) -> Result<Entrant> {
        let scene = Scene::new()?;
        let running = self.start(&scene, &wire)?;
        Ok(Entrant { name: self.name.clone(), running, wire, scene })
    }

    fn start(&self, scene: &Scene, wire: &Wire) -> Result<Running> {
        let running = match &self.kind {
            Kind::Plain => Running::new(Vec::new(), wire.west.outer),
            Kind::Forwarder => Running::new(start_forwarders(scene, wire)?, wire.west.inner),
            Kind::Daemon { extra } => {
                let program = self.program()?.context("a daemon without a program")?;
                start_daemons(scene, wire, &program, extra)?
            }
            Kind::WireGuard(_) => {
                let program = self.program()?.context("a WireGuard without a program")?;
                start_wireguard(scene, wire, &program)?
            }
            Kind::Nebula(program) => start_nebula(scene, wire, program)?,
        };
        wait_for(&format!("an answer through {}", self.name), START_LIMIT, || {
            // Nobody listens there: a refusal is as good an answer as any.
            let target = SocketAddr::from((running.destination, 9));
            wire.east.namespace.enter(|| match TcpStream::connect_timeout(&target, ANSWER_LIMIT) {
                Ok(_) => Ok(Some(())),
                Err(error) => Ok((error.kind() == ErrorKind::ConnectionRefused).then_some(())),
            })
        })?;
        Ok(running)
    }
}

fn start_wireguard(scene: &Scene, wire: &Wire, program: &Path) -> Result<Running> {
    let keys = [KeyPair::generate()?, KeyPair::generate()?];
    let interfaces = [unique("e"), unique("w")];
    let mut daemons = Vec::new();
    for ((host, _), interface) in wire.sides().iter().zip(&interfaces) {
        let mut command = host.namespace.command(program.as_os_str());
        // Quiet, and with the privileges it has: what the programs have in common.
        command.args(["-f", interface]).env("LOG_LEVEL", "error").env("WG_SUDO", "true");
        let mut daemon = Process::spawn(scene, interface, &mut command)?;
        let socket = socket_of(interface);
        let name = program.display().to_string();
        wait_for(&format!("the control socket of {name}"), START_LIMIT, || {
            ensure!(daemon.is_running(), "{name} ended:\n{}", daemon.log());
            Ok(socket.exists().then_some(()))
        })?;
        daemons.push(daemon);
    }
    for (index, (host, other)) in wire.sides().into_iter().enumerate() {
        let key_file = scene.write(&format!("{}.key", interfaces[index]), &keys[index].private)?;
        let mut wg = host.namespace.command("wg");
        wg.args(["set", &interfaces[index], "listen-port", &PORT.to_string(), "private-key"]).arg(key_file);
        wg.args(["peer", &keys[1 - index].public, "allowed-ips", &format!("{}/32", other.inner)]);
        run(wg.args(["endpoint", &format!("{}:{PORT}", other.outer)]))?;
        address(host, &interfaces[index])?;
    }
    Ok(Running {
        public_keys: Some(keys.map(|keys| keys.public)),
        interfaces: Some(interfaces),
        ..Running::new(daemons, wire.west.inner)
    })
}

fn start_nebula(scene: &Scene, wire: &Wire, program: &Path) -> Result<Running> {
    let certify = |arguments: &[&str]| {
        let mut command = Command::new(program.with_file_name("nebula-cert"));
        run(command.args(arguments).current_dir(scene.directory())).map(drop)
    };
    certify(&["ca", "-name", "bench"])?;
    let mut daemons = Vec::new();
    for (host, other) in wire.sides() {
        let interface = unique("n");
        certify(&["sign", "-name", &interface, "-ip", &format!("{}/24", host.inner)])?;
        let file = |name: &str| scene.path(name).display().to_string();
        let (authority, certificate, key) =
            (file("ca.crt"), file(&format!("{interface}.crt")), file(&format!("{interface}.key")));
        let config = format!(
            "pki: {{ca: '{authority}', cert: '{certificate}', key: '{key}'}}\n\
             static_host_map: {{'{}': ['{}:{PORT}']}}\n\
             lighthouse: {{am_lighthouse: false}}\n\
             listen: {{host: 0.0.0.0, port: {PORT}}}\n\
             tun: {{dev: {interface}, mtu: {MTU}}}\n\
             logging: {{level: error}}\n\
             firewall:\n  outbound: [{{port: any, proto: any, host: any}}]\n  inbound: [{{port: any, proto: any, host: any}}]\n",
            other.inner, other.outer
        );
        let config = scene.write(&format!("{interface}.yml"), &config)?;
        let mut command = host.namespace.command(program.as_os_str());
        daemons.push(Process::spawn(scene, &interface, command.arg("-config").arg(config))?);
    }
    Ok(Running::new(daemons, wire.west.inner))
}

fn start_daemons(scene: &Scene, wire: &Wire, program: &Path, extra: &str) -> Result<Running> {
    let mut east = Node::with_binary(scene, "east", &wire.east.namespace, 1, program)?;
    let mut west = Node::with_binary(scene, "west", &wire.west.namespace, 2, program)?;
    east.configure(extra, &[west.entry(Some(wire.west.outer.to_string()))])?;
    west.configure(extra, &[east.entry(Some(wire.east.outer.to_string()))])?;
    east.start(scene)?;
    west.start(scene)?;
    let daemons = [&mut east, &mut west].into_iter().filter_map(|node| node.process.take()).collect();
    let running = Running::new(daemons, west.address);
    let public_keys = Some([&east, &west].map(|node| node.keys.public.clone()));
    Ok(Running { public_keys, nodes: vec![east, west], ..running })
}

fn start_forwarders(scene: &Scene, wire: &Wire) -> Result<Vec<Process>> {
    let mut daemons = Vec::new();
    for (host, other) in wire.sides() {
        let interface = unique("f");
        let mut command = host.namespace.command(std::env::current_exe()?);
        command.args(["forward", &interface, &PORT.to_string(), &format!("{}:{PORT}", other.outer)]);
        daemons.push(Process::spawn(scene, &interface, &mut command)?);
        wait_until(&format!("interface {interface}"), START_LIMIT, || {
            host.namespace.ip(&format!("link show {interface}")).is_ok()
        })?;
        address(host, &interface)?;
        // As our daemons do: no super-packet is longer than one send carries.
        host.namespace.ip(&format!("link set {interface} gso_max_size {}", gso_max_size_for(MTU)))?;
    }
    Ok(daemons)
}

fn address(host: &Host, interface: &str) -> Result {
    host.namespace.ip(&format!("address add {}/24 dev {interface}", host.inner))?;
    host.namespace.ip(&format!("link set {interface} mtu {MTU} up"))?;
    Ok(())
}
