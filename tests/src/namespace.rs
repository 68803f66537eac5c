//! Network namespaces that end with their owner.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    Result,
    command::{ip, run},
    wait::wait_in_cleanup,
};

/// Every namespace of ours is called `tombolo-PID-SERIAL-LABEL`, PID being the process that made it.
const PREFIX: &str = "tombolo-";

/// Where the `ip` program keeps the names.
const FOLDER: &str = "/run/netns";

/// What lies in a folder of the namespace's name here, `ip netns exec` puts over the file in `/etc`.
const FILES: &str = "/etc/netns";

/// How long killed processes may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A handle of a network namespace. When the last handle is dropped, what still runs in the namespace is
/// killed, and the namespace is removed, links and all.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    name: String,
}

impl Namespace {
    /// A new namespace with loopback up, and IPv6 addresses usable at once (no duplicate detection).
    ///
    /// # Errors
    /// Without root, or without the `ip` program.
    pub fn create(label: &str) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{serial}-{label}", process::id());
        ip(&format!("netns add {name}"))?;
        let namespace = Self(Arc::new(Owned { name }));
        // What is written into the hosts file there stays there.
        fs::create_dir_all(Path::new(FILES).join(namespace.name()))?;
        fs::write(namespace.hosts_file(), "127.0.0.1 localhost\n")?;
        namespace.ip("link set lo up")?;
        for kind in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv6.conf.{kind}.accept_dad"), "0")?;
        }
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What programs inside have as `/etc/hosts`.
    pub fn hosts_file(&self) -> PathBuf {
        Path::new(FILES).join(self.name()).join("hosts")
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0.name]).arg(program);
        command
    }

    /// Runs the `ip` program for this namespace, its arguments split at white space.
    ///
    /// # Errors
    /// When it fails; the error holds its output.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        ip(&format!("-n {} {arguments}", self.0.name))
    }

    /// Runs the `nft` program in it, its arguments split at white space.
    ///
    /// # Errors
    /// When it fails.
    pub fn nft(&self, arguments: &str) -> Result {
        run(self.command("nft").args(arguments.split_whitespace())).map(drop)
    }

    /// Sets a kernel variable of the namespace, named as `sysctl` names it.
    ///
    /// # Errors
    /// When there is no such variable.
    pub fn sysctl(&self, variable: &str, value: &str) -> Result {
        run(self.command("sysctl").arg("-qw").arg(format!("{variable}={value}"))).map(drop)
    }

    /// A pair of joined links: `link` here and `other_link` in `other`, both up.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn join(&self, link: &str, other: &Self, other_link: &str) -> Result {
        self.ip(&format!("link add {link} type veth peer name {other_link} netns {}", other.0.name))?;
        self.ip(&format!("link set {link} up"))?;
        other.ip(&format!("link set {other_link} up")).map(drop)
    }

    /// Runs `job` on a thread of its own inside the namespace: sockets made there belong to it.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or with the error of the job.
    pub fn enter<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = Path::new(FOLDER).join(&self.0.name);
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .context("entering the namespace")?;
                    job()
                })
                .join()
                .map_err(|_| anyhow!("a job in {} panicked", self.0.name))?
        })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes the namespaces of processes that ended without removing them, kills what runs in them, and
/// removes their folders.
pub fn remove_stale() {
    for name in names_in(Path::new(FOLDER)) {
        remove(&name);
    }
    for name in names_in(&std::env::temp_dir()) {
        let _ = fs::remove_dir_all(std::env::temp_dir().join(name));
    }
}

/// The entries of a folder that carry our prefix and the number of a process that is no more.
fn names_in(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|owner| !process_exists(owner)))
        .collect()
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn process_exists(number: u32) -> bool {
    PathBuf::from(format!("/proc/{number}")).exists()
}

/// Kills what runs in a namespace and removes it: as far as possible, and also when everything else was
/// asked to stop.
fn remove(name: &str) {
    let ip = |verb: &str| Command::new("ip").args(["netns", verb, name]).stdin(Stdio::null()).output();
    let inside =
        || ip("pids").map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    wait_in_cleanup(KILL_LIMIT, || {
        let pids = inside();
        for pid in pids.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        pids.trim().is_empty()
    });
    let _ = ip("del");
    let _ = fs::remove_dir_all(Path::new(FILES).join(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_name_is_read_back() {
        assert_eq!(owner("tombolo-123-0-east"), Some(123));
        assert_eq!(owner("tombolo-123-7"), Some(123));
        assert_eq!(owner("tombolo-east"), None);
        assert_eq!(owner("other-123-0-east"), None);
    }

    #[test]
    fn our_own_process_exists() {
        assert!(process_exists(process::id()));
    }
}
