//! What goes wrong around a daemon, and what it says and does then.
//!
//! ```text
//!   east 192.0.2.10 ── router ── 198.51.100.10 west
//!   overlay 10.62.0.1            overlay 10.62.0.2
//! ```

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use tombolo_tests::{
    Result, Scene,
    command::{output, run},
    machine_wide,
    namespace::Namespace,
    node::{Node, PORT},
    process::Process,
    site::{sites, start_all},
    transfer::{self, Conversation},
    wait::wait_for,
};

const LIMIT: Duration = Duration::from_secs(20);

/// A node alone in a namespace, with a peer that it will never see.
fn lonely(scene: &Scene) -> Result<Node> {
    let namespace = Namespace::create("lonely")?;
    let node = Node::new(scene, "lonely", &namespace, 1)?;
    let other = Node::new(scene, "other", &namespace, 2)?;
    node.configure("", &[other.entry(Some("192.0.2.99".to_owned()))])?;
    Ok(node)
}

/// That the daemon ends by itself with this exit code, and says each of these words.
fn refuses(node: &Node, code: i32, words: &[&str]) -> Result {
    let (found, message) = node.refusal()?;
    ensure!(found == code, "exit code {found}, not {code}: {message}");
    for word in words {
        ensure!(message.contains(word), "no {word:?} in: {message}");
    }
    ensure!(!message.contains("panicked"), "{message}");
    Ok(())
}

fn faulty(name: &str, test: impl FnOnce(&Scene, &mut Node) -> Result) {
    machine_wide(name, |scene| test(scene, &mut lonely(scene)?));
}

#[test]
fn the_name_of_the_interface_is_taken() {
    faulty("the_name_of_the_interface_is_taken", |_, node| {
        node.namespace.ip(&format!("link add {} type bridge", node.interface))?;
        refuses(node, 2, &[&node.interface])
    });
}

#[test]
fn the_port_is_taken() {
    faulty("the_port_is_taken", |_, node| {
        let _taken = node.namespace.enter(|| Ok(UdpSocket::bind(("0.0.0.0", PORT))?))?;
        refuses(node, 2, &[&PORT.to_string()])
    });
}

#[test]
fn the_ipv6_port_alone_is_taken() {
    faulty("the_ipv6_port_alone_is_taken", |_, node| {
        let _taken = node.namespace.enter(|| Ok(UdpSocket::bind(("::1", PORT))?))?;
        refuses(node, 2, &[&PORT.to_string()])
    });
}

#[test]
fn there_is_no_tun_device() {
    faulty("there_is_no_tun_device", |_, node| {
        // Another file system lies over /dev/net, seen by the daemon alone.
        let daemon = node.command("up");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"]);
        command.arg(daemon.get_program()).args(daemon.get_args()).arg("-f").envs(environment(&daemon));
        let outcome = output(&mut command, LIMIT)?;
        let message = String::from_utf8_lossy(&outcome.stderr).into_owned();
        ensure!(outcome.status.code() == Some(2), "{}: {message}", outcome.status);
        ensure!(message.contains("/dev/net/tun"), "{message}");
        Ok(())
    });
}

#[test]
fn there_are_no_privileges() {
    faulty("there_are_no_privileges", |_, node| {
        run(Command::new("chown").args(["-R", "65534:65534"]).arg(node.directory()))?;
        let daemon = node.command("up");
        let mut arguments = daemon.get_args();
        let mut command = Command::new(daemon.get_program());
        // `ip netns exec NAME`, which needs root, and then the daemon without it.
        command.args(arguments.by_ref().take(3));
        command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.args(arguments).arg("-f").envs(environment(&daemon));
        let outcome = output(&mut command, LIMIT)?;
        let message = String::from_utf8_lossy(&outcome.stderr).into_owned();
        ensure!(outcome.status.code() == Some(2), "{}: {message}", outcome.status);
        ensure!(message.contains("CAP_NET_ADMIN") || message.contains("root"), "{message}");
        Ok(())
    });
}

fn environment(command: &Command) -> impl Iterator<Item = (&std::ffi::OsStr, &std::ffi::OsStr)> {
    command.get_envs().filter_map(|(name, value)| Some((name, value?)))
}

#[test]
fn two_daemons_want_one_interface() {
    faulty("two_daemons_want_one_interface", |scene, node| {
        node.start(scene)?;
        // The same network a second time.
        refuses(node, 2, &["another daemon"])?;
        // Another network with the same interface.
        let mut second = Node::new(scene, "second", &node.namespace, 3)?;
        second.interface.clone_from(&node.interface);
        second.configure("", &[])?;
        let text =
            fs::read_to_string(second.config_path())?.replace("listen_port = 8662", "listen_port = 8663");
        second.write_private("config/demo.toml", &text)?;
        refuses(&second, 2, &[&node.interface])?;
        ensure!(node.daemon()?.is_running(), "the first daemon ended");
        node.wait(&["--timeout", "5s"])
    });
}

/// The interface is taken away by force: the daemon makes it anew, or ends with a word about it. It
/// must not go on as if nothing had happened.
#[test]
fn the_interface_is_removed_under_us() {
    machine_wide("the_interface_is_removed_under_us", |scene| {
        let (_internet, mut sites) = sites::<2>(scene)?;
        start_all(scene, &mut sites)?;
        let [mut east, west] = sites;
        let namespace = east.machine.namespace.clone();
        namespace.ip(&format!("link del {}", east.node.interface))?;
        let process = east.node.daemon()?;
        let ended = wait_for("the daemon to end", LIMIT, || Ok((!process.is_running()).then_some(())));
        if ended.is_ok() {
            let log = process.log();
            ensure!(!log.contains("panicked"), "{log}");
            east.node.start(scene)?;
        }
        transfer::reach(&namespace, &west.machine.namespace, west.node.address.into(), LIMIT).map(drop)
    });
}

/// Malformed and oversized datagrams of every type from strangers and from the address of a peer: the
/// tunnel goes on, the daemon goes on, and the drops are counted.
#[test]
fn malformed_datagrams_are_dropped_and_counted() {
    machine_wide("malformed_datagrams_are_dropped_and_counted", |scene| {
        let (internet, mut sites) = sites::<2>(scene)?;
        start_all(scene, &mut sites)?;
        let [mut east, west] = sites;
        let (here, there) = (east.machine.namespace.clone(), west.machine.namespace.clone());
        let mut talk = Conversation::open(&here, &there, west.node.address.into())?;
        talk.speak(LIMIT)?;
        let before = drops(&east.node)?;
        for (from, target) in [
            (&internet.router, IpAddr::from(east.machine.address)),
            (&there, east.machine.address.into()),
            (&there, east.machine.address6.into()),
        ] {
            from.enter(|| send_garbage(SocketAddr::new(target, PORT)))?;
        }
        talk.speak(LIMIT)?;
        wait_for(
            "the drops to be counted",
            LIMIT,
            || Ok((drops(&east.node)? >= before + 100).then_some(())),
        )?;
        ensure!(east.node.daemon()?.is_running(), "the daemon ended");
        Ok(())
    });
}

/// Every type, known and unknown, with reserved bytes set and not, in every length that is special.
fn send_garbage(target: SocketAddr) -> Result {
    let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    let mut noise = transfer::Noise::new(8662);
    for kind in [0, 1, 2, 3, 4, 5, 255_u8] {
        for reserved in [0, 1] {
            for length in
                [0, 1, 3, 4, 15, 16, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1452, 9000, 65_400]
            {
                let mut datagram = vec![0; length];
                noise.fill(&mut datagram);
                if length >= 4 {
                    datagram[..4].copy_from_slice(&[kind, 0, reserved, 0]);
                }
                // A full queue of the sender loses one; there are enough others.
                let _ = socket.send_to(&datagram, target);
            }
        }
    }
    Ok(())
}

/// The sum of all numbers under `drops` in the status.
fn drops(node: &Node) -> Result<u64> {
    fn sum(value: &serde_json::Value) -> u64 {
        match value {
            serde_json::Value::Number(number) => number.as_u64().unwrap_or(0),
            serde_json::Value::Object(fields) => fields.values().map(sum).sum(),
            serde_json::Value::Array(items) => items.iter().map(sum).sum(),
            _ => 0,
        }
    }
    let status = node.status()?;
    ensure!(!status["drops"].is_null(), "no drops in {status}");
    Ok(sum(&status["drops"]))
}

/// An idle daemon with one peer stays small: 12 MB of resident memory at most. Held against the build
/// that is tested; the release binary is smaller.
#[test]
fn an_idle_daemon_is_small() {
    faulty("an_idle_daemon_is_small", |scene, node| {
        node.start(scene)?;
        let status = fs::read_to_string(format!("/proc/{}/status", node.daemon()?.id()))?;
        // Its own memory: how much of the executable's file is mapped around what runs is the kernel's choice.
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default().to_owned();
        let kilobytes: u64 = line.split_whitespace().nth(1).unwrap_or_default().parse()?;
        scene.say(&format!("an idle daemon's own memory: {kilobytes} kB"));
        ensure!((1..8_000).contains(&kilobytes), "{line}");
        Ok(())
    });
}

/// Privileges end after the start: what is left is what putting things back needs.
#[test]
fn privileges_are_reduced_after_the_start() {
    faulty("privileges_are_reduced_after_the_start", |scene, node| {
        node.start(scene)?;
        let status = fs::read_to_string(format!("/proc/{}/status", node.daemon()?.id()))?;
        let line = status.lines().find(|line| line.starts_with("CapEff:")).unwrap_or_default();
        let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap_or_default(), 16)?;
        const CAP_NET_ADMIN: u64 = 1 << 12;
        const CAP_SYS_ADMIN: u64 = 1 << 21;
        ensure!(mask & CAP_NET_ADMIN != 0, "nothing could be put back: {line}");
        ensure!(mask & CAP_SYS_ADMIN == 0, "more than is needed: {line}");
        Ok(())
    });
}

/// The daemon runs in a namespace, its interface is moved to another while it is down, and the socket
/// stays where the daemon was started.
#[test]
fn the_interface_of_tombolo_wireguard_may_move_to_another_namespace() {
    use tombolo_tests::{
        node::executable,
        tunnel::{Options, Tunnel},
    };
    machine_wide("the_interface_of_tombolo_wireguard_may_move", |scene| {
        let options = Options { knows_endpoint: [true, false], ..Options::default() };
        let ours = executable("tombolo-wireguard")?;
        let tunnel = Tunnel::new(scene, &ours, &ours, &options)?;
        tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
        let (interface, inside) = (&tunnel.east.wireguard.interface, Namespace::create("inside")?);
        let outside = &tunnel.east.machine.namespace;
        outside.ip(&format!("link set {interface} down"))?;
        outside.ip(&format!("link set {interface} netns {}", inside.name()))?;
        inside.ip(&format!("addr add {}/32 dev {interface}", tunnel.east.inside[0]))?;
        inside.ip(&format!("link set {interface} up"))?;
        inside.ip(&format!("route add {}/32 dev {interface}", tunnel.west.inside[0]))?;
        let (west, address) = (&tunnel.west.machine.namespace, tunnel.west.inside[0]);
        transfer::reach(&inside, west, address, LIMIT).map(drop)
    });
}

/// A daemon that was told to end does so soon, whatever it is doing.
#[test]
fn an_orderly_end_is_quick_and_clean() {
    faulty("an_orderly_end_is_quick_and_clean", |scene, node| {
        node.start(scene)?;
        let process: &mut Process = node.daemon()?;
        let status = process.terminate(Duration::from_secs(5))?;
        ensure!(status.success(), "{status}: {}", process.log());
        Ok(())
    });
}
