//! A machine with the usual directories, as far as `tombolo` can see: folders of its own lie over /etc, /run and /var/lib, and
//! programs of its own come first on the path. Its `systemctl` writes down what it is asked, starts the daemon as the unit
//! does, and says when it is ready.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{
    Result, Scene,
    command::{output, run},
    namespace::Namespace,
    node::executable,
    topology::Machine,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Where the units are that are shipped.
pub const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd");

/// What stands for systemd: `$1` is the verb, the unit comes last, `$BOOT` is a folder of its own.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >> "$BOOT/calls"
for unit; do :; done
network=${unit#tombolo@}
network=${network%.service}
process=$(cat "$BOOT/$network.pid" 2>/dev/null)
runs() { test -n "$process" && kill -0 "$process" 2>/dev/null; }
case $1 in
start)
    setsid "$TOMBOLO" up -f -n "$network" > "$BOOT/$network.log" 2>&1 < /dev/null &
    process=$!
    echo $process > "$BOOT/$network.pid"
    while runs; do
        "$TOMBOLO" status -n "$network" --json 2>/dev/null | grep -q '"state": *"valid"' && exit 0
        sleep 0.1
    done
    exit 1 ;;
stop)
    runs && kill "$process"
    while runs; do sleep 0.05; done ;;
is-active) runs ;;
esac
"#;

/// A machine that systemd runs, as far as `tombolo` can see.
#[derive(Debug)]
pub struct Booted {
    /// The machine.
    pub machine: Machine,
    /// What it has as `etc`, `run` and `lib` (which is /var/lib), and `bin`.
    pub folder: PathBuf,
    binary: PathBuf,
}

impl Booted {
    /// With systemd and the units, and no network yet.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn new(scene: &Scene, machine: Machine, name: &str) -> Result<Self> {
        let folder = scene.path(name);
        fs::create_dir_all(folder.join("run/systemd/system"))?;
        fs::create_dir_all(folder.join("lib"))?;
        fs::create_dir_all(folder.join("bin"))?;
        run(Command::new("cp").args(["-a", "/etc"]).arg(folder.join("etc")))?;
        fs::create_dir_all(folder.join("etc/systemd/system"))?;
        for unit in ["tombolo@.service", "tombolo-guard@.service"] {
            fs::copy(Path::new(UNITS).join(unit), folder.join("etc/systemd/system").join(unit))?;
        }
        let booted = Self { machine, folder, binary: executable("tombolo")? };
        booted.install("systemctl", SYSTEMCTL)?;
        Ok(booted)
    }

    /// Puts a program before all others; `$BOOT` is the machine's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install(&self, name: &str, script: &str) -> Result {
        let program = self.folder.join("bin").join(name);
        fs::write(&program, script)?;
        Ok(fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?)
    }

    /// Where it runs.
    pub fn namespace(&self) -> &Namespace {
        &self.machine.namespace
    }

    /// A `tombolo` command with the usual directories.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mount = "for place in etc run var/lib; do mount --bind \"$BOOT/$(basename $place)\" /$place; done; exec \"$@\"";
        let mut command = self.namespace().command("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-ec", mount, "sh"]).arg(&self.binary);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .args(arguments)
            .env("BOOT", &self.folder)
            .env("TOMBOLO", &self.binary)
            .env("PATH", format!("{}:{path}", self.folder.join("bin").display()));
        command
    }

    /// What a command says on both outputs when it succeeds.
    ///
    /// # Errors
    /// When it does not; the error holds them too.
    pub fn run(&self, arguments: &[&str]) -> Result<(String, String)> {
        let said = output(&mut self.command(arguments), LIMIT)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (out, errors) = (text(said.stdout), text(said.stderr));
        ensure!(said.status.success(), "{arguments:?}: {} {out}{errors}", said.status);
        Ok((out, errors))
    }

    /// `server init` of a network; gives its token and what it said on standard error.
    ///
    /// # Errors
    /// When it is refused.
    pub fn init(&self, network: &str, options: &[&str]) -> Result<(String, String)> {
        let root = self.folder.join(format!("{network}.age"));
        let endpoint = self.machine.address.to_string();
        let usual = ["-n", network, "server", "init", "--json", "--endpoint", &endpoint, "--root-key"];
        let arguments = [&usual[..], &[root.to_str().context("a path")?], options].concat();
        let (made, errors) = self.run(&arguments)?;
        let made: serde_json::Value = serde_json::from_str(&made).with_context(|| made.clone())?;
        Ok((made["token"].as_str().context("a token")?.to_owned(), errors))
    }

    /// Writes a token to where the machine can read it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, token: &str) -> Result<String> {
        let path = self.folder.join("token");
        fs::write(&path, token)?;
        Ok(path.to_str().context("a path")?.to_owned())
    }

    /// What `systemctl` was asked since the last look, without questions.
    ///
    /// # Errors
    /// When that cannot be forgotten.
    pub fn calls(&self) -> Result<Vec<String>> {
        let path = self.folder.join("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, "")?;
        Ok(text.lines().filter(|line| !line.starts_with("is-active")).map(str::to_owned).collect())
    }
}
