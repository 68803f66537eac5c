//! A machine in a region that makes a network or joins one, as a user does: `server init`, `join`, and the
//! commands of every day. Its daemon runs in the background, as `tombolo up` leaves it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    Result, Scene,
    command::{output, run, run_with_input},
    namespace::Namespace,
    node::executable,
    topology::{Internet, Machine},
    transfer,
    wait::wait_until,
};

/// How long something may take that should take a moment.
const LIMIT: Duration = Duration::from_secs(20);

/// Hosts called `server`, `alpha`, `beta` and `gamma`, as many of them as are wanted, each in a region of its own.
///
/// # Errors
/// When one cannot be made, or more than four are wanted.
pub fn hosts<const N: usize>(scene: &Scene, internet: &mut Internet) -> Result<[Host; N]> {
    let all = [
        ("server", [192, 0, 2, 0]),
        ("alpha", [198, 51, 100, 0]),
        ("beta", [203, 0, 113, 0]),
        ("gamma", [100, 70, 1, 0]),
    ];
    let mut made = Vec::new();
    for (name, subnet) in all.into_iter().take(N) {
        made.push(Host::new(scene, internet, name, subnet)?);
    }
    made.try_into().ok().context("that many hosts")
}

/// A machine as it comes: nothing but the program.
#[derive(Debug)]
pub struct Host {
    /// The machine.
    pub machine: Machine,
    /// The folder that holds its `config`, `state` and `run` folders.
    pub folder: PathBuf,
    /// By how many seconds its wall clock is ahead of the true time, for programs built as the tests are.
    pub clock_ahead: i64,
    binary: PathBuf,
}

impl Host {
    /// A machine called `name`, in a region of its own, with the executable under test.
    ///
    /// # Errors
    /// When the executable is missing, or the region cannot be made.
    pub fn new(scene: &Scene, internet: &mut Internet, name: &str, subnet: [u8; 4]) -> Result<Self> {
        let machine = internet.region(name, subnet)?;
        Self::on(scene, machine, name, &executable("tombolo")?)
    }

    /// A host on a machine that stands already, with `binary` as its `tombolo`.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn on(scene: &Scene, machine: Machine, name: &str, binary: &Path) -> Result<Self> {
        let folder = scene.path(name);
        fs::create_dir_all(&folder)?;
        Ok(Self { machine, folder, clock_ahead: 0, binary: binary.to_owned() })
    }

    /// Where it runs.
    pub fn namespace(&self) -> &Namespace {
        &self.machine.namespace
    }

    /// The executable.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A `tombolo` command on this machine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace().command(&self.binary);
        command
            .args(arguments)
            .env("TOMBOLO_CONFIG_DIR", self.folder.join("config"))
            .env("TOMBOLO_STATE_DIR", self.folder.join("state"))
            .env("TOMBOLO_RUN_DIR", self.folder.join("run"))
            // Sockets are not part of a network namespace.
            .env("TOMBOLO_UAPI_DIR", self.folder.join("wireguard"));
        if self.clock_ahead != 0 {
            command.env("TOMBOLO_TEST_CLOCK_AHEAD", self.clock_ahead.to_string());
        }
        command
    }

    /// Runs a command, and returns its standard output.
    ///
    /// # Errors
    /// When it does not end with exit code zero; the error holds what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    /// [`Host::run`], for commands that print JSON.
    ///
    /// # Errors
    /// As [`Host::run`], or when it prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let text = self.run(arguments)?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// `server init` with further options, reachable at the machine's address; gives the first token. The root key
    /// is `root.age` in the host's folder.
    ///
    /// # Errors
    /// When it is refused, or did not start the daemon.
    pub fn init(&self, options: &[&str]) -> Result<String> {
        let root = self.folder.join("root.age");
        let endpoint = self.machine.address.to_string();
        let root = root.to_str().context("a path in UTF-8")?;
        let usual = ["server", "init", "--endpoint", &endpoint, "--root-key", root, "--json"];
        let made = self.json(&[&usual[..], options].concat())?;
        ensure!(made["started"] == true, "{made}");
        Ok(made["token"].as_str().context("a token")?.to_owned())
    }

    /// `token new`, on a server.
    ///
    /// # Errors
    /// As [`Host::json`].
    pub fn token(&self, options: &[&str]) -> Result<String> {
        let made = self.json(&[&["token", "new", "--json"], options].concat())?;
        Ok(made["token"].as_str().context("a token")?.to_owned())
    }

    /// Joins with a token, given on standard input.
    ///
    /// # Errors
    /// When it is refused; the error holds what it said.
    pub fn join(&self, name: &str, token: &str) -> Result<String> {
        run_with_input(&mut self.command(&["join", "--name", name, "-"]), token)
    }

    /// What `join` says when it is refused, and its exit code.
    ///
    /// # Errors
    /// When it does not end.
    pub fn refusal(&self, name: &str, token: &str) -> Result<(i32, String)> {
        let file = self.folder.join("token");
        fs::write(&file, token)?;
        let mut command = self.command(&["join", "--name", name]);
        // Who is not answered gives up after some seconds by itself; on a busy machine that is told late.
        let output = output(command.arg(&file), 3 * LIMIT)?;
        let code = output.status.code().context("an exit code")?;
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Its first overlay address, which is the IPv4 one.
    ///
    /// # Errors
    /// When its daemon does not answer.
    pub fn address(&self) -> Result<IpAddr> {
        self.addresses()?.first().copied().context("an address")
    }

    /// All its overlay addresses.
    ///
    /// # Errors
    /// When its daemon does not answer.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        let status = self.json(&["status", "--json"])?;
        let listed = status["interface"]["addresses"].as_array().context("addresses")?;
        listed
            .iter()
            .map(|address| {
                let text = address.as_str().context("an address")?;
                Ok(text.split('/').next().unwrap_or_default().parse()?)
            })
            .collect()
    }

    /// What the name server of this machine says of a member's name: the response code, and the first IPv4 address
    /// (RFC 1035 §4.1). Asked in raw bytes, as an application's resolver would.
    ///
    /// # Errors
    /// When nothing answers.
    pub fn resolve(&self, name: &str) -> Result<(u8, Option<Ipv4Addr>)> {
        let own = self.address()?;
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [name, "tombolo", "internal"] {
            query.push(u8::try_from(label.len())?);
            query.extend(label.bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let socket = self.namespace().enter(|| Ok(UdpSocket::bind((own, 0))?))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.send_to(&query, (own, 53))?;
        let mut answer = [0; 512];
        let (length, _) = socket.recv_from(&mut answer).context("an answer of the name server")?;
        ensure!(length >= query.len() && answer[..2] == query[..2], "{:?}", &answer[..length]);
        let address = answer[..length].last_chunk::<4>().filter(|_| answer[7] == 1);
        Ok((answer[3] & 0x0f, address.map(|bytes| Ipv4Addr::from(*bytes))))
    }

    /// Sends to a member until it answers: first to its address, when nobody has asked for the tunnel yet, then by name.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn reaches(&self, other: &Self, name: &str) -> Result {
        transfer::reach(self.namespace(), other.namespace(), other.address()?, LIMIT)?;
        self.wait_for_peer(name)
    }

    /// Waits, at most 20 s, until a member answers through the tunnel.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_peer(&self, name: &str) -> Result {
        self.run(&["wait", "--peer", name, "--timeout", "20s"]).map(drop)
    }

    /// How it reaches a member, as `status` has it: `direct`, `relayed`, or nothing where there is no tunnel.
    pub fn path(&self, name: &str) -> Option<String> {
        let status = self.json(&["status", "--json"]).ok()?;
        let peer = status["peers"].as_array()?.iter().find(|peer| peer["name"] == name)?;
        Some(peer["path"].as_str()?.to_owned())
    }

    /// What `status` says.
    ///
    /// # Errors
    /// When its daemon does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        self.json(&["status", "--json"])
    }

    /// How its membership stands, as `status` has it.
    pub fn membership_state(&self) -> Option<String> {
        Some(self.status().ok()?["membership"]["state"].as_str()?.to_owned())
    }

    /// Whether `status` warns with these words.
    pub fn warns_of(&self, words: &str) -> bool {
        self.status().is_ok_and(|status| status["warnings"].to_string().contains(words))
    }

    /// How many packets it has dropped for a reason.
    ///
    /// # Errors
    /// When its daemon does not answer, or there is no such reason.
    pub fn dropped(&self, reason: &str) -> Result<u64> {
        self.status()?["drops"][reason].as_u64().with_context(|| format!("the reason {reason}"))
    }

    /// Stops and starts the daemon.
    ///
    /// # Errors
    /// When one of both is refused.
    pub fn restart(&self) -> Result {
        self.run(&["down"])?;
        self.run(&["up"]).map(drop)
    }

    /// Has the daemon read its file anew, as `systemctl reload` does; it takes a moment.
    ///
    /// # Errors
    /// When there is none.
    pub fn reload(&self) -> Result {
        Ok(kill_process(self.daemon()?, Signal::HUP)?)
    }

    fn daemon(&self) -> Result<Pid> {
        let status = self.json(&["status", "--json"])?;
        let number = status["pid"].as_i64().context("the daemon's process")?;
        Pid::from_raw(i32::try_from(number)?).context("the number of a process")
    }

    /// Megabytes of memory that its daemon takes now.
    ///
    /// # Errors
    /// When there is none.
    pub fn megabytes(&self) -> Result<u64> {
        let process = self.status()?["pid"].as_u64().context("the daemon's process")?;
        let text = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a size")?;
        Ok(line.split_whitespace().next().context("a number")?.parse::<u64>()? / 1024)
    }

    /// Ends the daemon as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self) -> Result {
        let daemon = self.daemon()?;
        kill_process(daemon, Signal::KILL)?;
        wait_until("the daemon is gone", LIMIT, || test_kill_process(daemon).is_err())
    }
}
