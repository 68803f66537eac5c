//! Network namespaces for tests, which need root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses some of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long a test waits for something that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test listens for something that must not happen. Being too short can only hide a
/// failure, which the counterpart of the same test, where it must happen, shows.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

/// Whether namespaces can be made. If not, says so, or fails where `TOMBOLO_TEST_REQUIRE_ROOT=1`.
#[must_use]
pub(crate) fn root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("TOMBOLO_TEST_REQUIRE_ROOT").is_none_or(|value| value != "1"),
        "{test} needs root, and TOMBOLO_TEST_REQUIRE_ROOT=1"
    );
    // Not by a macro: what those print, a passing test keeps to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: network namespaces need root");
    false
}

/// Prefixes from their texts.
pub(crate) fn networks(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|network| network.parse().unwrap()).collect()
}

/// A network namespace, deleted on drop.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    #[must_use]
    pub(crate) fn new(label: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tombolo-tun-{}-{number}-{label}", std::process::id());
        check("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        namespace.run("ip link set lo up");
        namespace
    }

    /// Runs a program inside, with arguments split at spaces, and gives what it printed.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.try_run(command);
        assert!(
            output.status.success(),
            "{command}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As `run`, whether it succeeds or not.
    pub(crate) fn try_run(&self, command: &str) -> Output {
        self.command(command).output().unwrap()
    }

    /// The command, to be started inside.
    #[must_use]
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name]).args(command.split_whitespace());
        inside
    }

    /// Starts tcpdump by this command line, and returns once it sees what passes.
    pub(crate) fn listen(&self, command: &str) -> Child {
        let mut tcpdump =
            self.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "no tcpdump");
        }
        tcpdump
    }

    /// Calls a function on a thread that lives in the namespace.
    pub(crate) fn enter<R: Send>(&self, function: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let path = format!("/run/netns/{}", self.name);
                    let namespace = std::fs::File::open(path).unwrap();
                    move_into_link_name_space(
                        std::os::fd::AsFd::as_fd(&namespace),
                        Some(LinkNameSpaceType::Network),
                    )
                    .unwrap();
                    function()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

fn check(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pair of virtual Ethernet devices that join two namespaces.
pub(crate) fn join(left: &Namespace, left_name: &str, right: &Namespace, right_name: &str) {
    left.run(&format!("ip link add {left_name} type veth peer name {right_name} netns {}", right.name));
    left.run(&format!("ip link set {left_name} up"));
    right.run(&format!("ip link set {right_name} up"));
}

/// Waits until a descriptor is readable (or in error); false after `patience`.
#[must_use]
pub(crate) fn wait_readable(fd: std::os::fd::BorrowedFd<'_>, patience: Duration) -> bool {
    let mut descriptors = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let patience = Timespec::try_from(patience).unwrap();
    poll(&mut descriptors, Some(&patience)).unwrap() > 0
}

/// A UDP socket that answers each datagram with the same, on a thread, until dropped.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    /// To be called in the namespace where the socket shall be.
    #[must_use]
    pub(crate) fn bind(address: SocketAddr) -> Self {
        let socket = std::net::UdpSocket::bind(address).unwrap();
        // To look at `stop` now and then: its interface may be gone, and nothing can wake it.
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends a datagram to an [`Echo`] until it answers or `patience` is over.
#[must_use]
pub(crate) fn echoes(from: SocketAddr, to: SocketAddr, patience: Duration) -> bool {
    let socket = std::net::UdpSocket::bind(from).unwrap();
    let pause = Duration::from_millis(100);
    socket.set_read_timeout(Some(pause)).unwrap();
    let attempts = patience.as_millis() / pause.as_millis();
    for _ in 0..attempts.max(1) {
        // An ICMP error from an earlier attempt may surface in either call.
        if socket.send_to(b"marker-of-the-overlay", to).is_ok() {
            let mut buffer = [0; 64];
            if socket.recv_from(&mut buffer).is_ok() {
                return true;
            }
        } else {
            std::thread::park_timeout(pause);
        }
    }
    false
}
