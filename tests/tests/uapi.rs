//! The standard control socket, spoken to by the real `wg` and by hand.
//!
//! ```text
//!   one namespace: tombolo-wireguard, and `wg` beside it
//! ```

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, ensure};
use tombolo_tests::{
    Result, Scene,
    command::{output, run},
    machine_wide,
    namespace::Namespace,
    node::executable,
    tunnel::{Options, Tunnel},
    wait::wait_for,
    wireguard_go::{KeyPair, WireGuard, socket_of},
};

const LIMIT: Duration = Duration::from_secs(20);
/// `EINVAL`, as the protocol gives it.
const INVALID: &str = "errno=-22";

/// A daemon alone in a namespace.
fn alone(name: &str, test: impl FnOnce(&Scene, &WireGuard) -> Result) {
    machine_wide(name, |scene| {
        let namespace = Namespace::create("alone")?;
        let wireguard = WireGuard::start(scene, &namespace, executable("tombolo-wireguard")?)?;
        test(scene, &wireguard)
    });
}

/// One operation by hand: what is sent, without the empty line that ends it, and the whole answer.
fn ask(wireguard: &WireGuard, request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket_of(&wireguard.interface))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(format!("{request}\n\n").as_bytes())?;
    let mut answer = String::new();
    let mut byte = [0];
    while !answer.ends_with("\n\n") {
        ensure!(stream.read(&mut byte)? == 1, "the answer ended early: {answer:?}");
        answer.push(char::from(byte[0]));
    }
    Ok(answer)
}

fn lines<'a>(answer: &'a str, key: &str) -> Vec<&'a str> {
    let prefix = format!("{key}=");
    answer.lines().filter_map(|line| line.strip_prefix(&prefix)).collect()
}

/// A public key in hexadecimal, different for each number.
fn hexadecimal_key(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

#[test]
fn wg_sets_and_shows_everything() {
    alone("wg_sets_and_shows_everything", |scene, wireguard| {
        let (own, first, second) = (KeyPair::generate()?, KeyPair::generate()?, KeyPair::generate()?);
        let preshared = run(std::process::Command::new("wg").arg("genpsk"))?;
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 41414\nFwMark = 0x2a\n\n[Peer]\nPublicKey = {}\n\
             PresharedKey = {preshared}AllowedIPs = 10.1.0.0/16, fd01::/64\nEndpoint = 192.0.2.7:7\n\n[Peer]\n\
             PublicKey = {}\nAllowedIPs = 10.2.0.1/32\nEndpoint = [2001:db8::7]:8\nPersistentKeepalive = 25\n",
            own.private, first.public, second.public
        );
        let file = scene.write("wg.conf", &text)?;
        let wg = |arguments: &[&str]| run(wireguard.namespace.command("wg").args(arguments));
        let (interface, path) = (wireguard.interface.as_str(), file.to_str().context("a path")?);
        wg(&["setconf", interface, path])?;

        let dump = wg(&["show", interface, "dump"])?;
        let rows: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows[0], [own.private.as_str(), &own.public, "41414", "0x2a"]);
        assert_eq!(rows.len(), 3, "{dump}");
        assert_eq!(
            rows[1][..4],
            [first.public.as_str(), preshared.trim(), "192.0.2.7:7", "10.1.0.0/16,fd01::/64"]
        );
        assert_eq!(rows[2][..4], [second.public.as_str(), "(none)", "[2001:db8::7]:8", "10.2.0.1/32"]);
        assert_eq!(rows[1][4..], ["0", "0", "0", "off"]);
        assert_eq!(rows[2][4..], ["0", "0", "0", "25"]);

        let shown = wg(&["showconf", interface])?;
        let again = scene.write("again.conf", &shown)?;
        wg(&["syncconf", interface, again.to_str().context("a path")?])?;
        assert_eq!(wg(&["showconf", interface])?, shown, "showconf, syncconf, showconf");

        wg(&["set", interface, "peer", &first.public, "remove"])?;
        wg(&[
            "set",
            interface,
            "peer",
            &second.public,
            "allowed-ips",
            "10.3.0.0/24",
            "persistent-keepalive",
            "off",
        ])?;
        let dump = wg(&["show", interface, "dump"])?;
        let rows: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows.len(), 2, "{dump}");
        assert_eq!(rows[1][3], "10.3.0.0/24");
        assert_eq!(rows[1][7], "off");

        wg(&["addconf", interface, path])?;
        assert_eq!(wg(&["show", interface, "peers"])?.lines().count(), 2);
        Ok(())
    });
}

/// Requirement 26.
#[test]
fn get_returns_peers_in_the_order_of_their_insertion_and_the_private_key() {
    alone("get_returns_peers_in_the_order_of_their_insertion", |_, wireguard| {
        // With the bits that X25519 sets set, and those that it clears cleared.
        let private = format!("{}58", "18".repeat(31));
        let mut request = format!("set=1\nprivate_key={private}");
        let numbers = [9, 3, 7, 1, 8];
        for number in numbers {
            request += &format!("\npublic_key={}\nallowed_ip=10.{number}.0.0/16", hexadecimal_key(number));
        }
        assert_eq!(ask(wireguard, &request)?, "errno=0\n\n");
        let answer = ask(wireguard, "get=1")?;
        assert_eq!(lines(&answer, "private_key"), [private]);
        assert_eq!(lines(&answer, "public_key"), numbers.map(hexadecimal_key));
        assert_eq!(lines(&answer, "protocol_version"), ["1"; 5]);
        assert!(answer.ends_with("errno=0\n\n"), "{answer}");
        Ok(())
    });
}

/// Requirement 26: a minus sign removes one allowed address and leaves the others.
#[test]
fn one_allowed_address_can_be_removed() {
    alone("one_allowed_address_can_be_removed", |_, wireguard| {
        let key = hexadecimal_key(5);
        let add = format!("set=1\npublic_key={key}\nallowed_ip=10.1.0.0/16\nallowed_ip=10.2.0.0/16");
        assert_eq!(ask(wireguard, &add)?, "errno=0\n\n");
        let remove = format!("set=1\npublic_key={key}\nupdate_only=true\nallowed_ip=-10.1.0.0/16");
        assert_eq!(ask(wireguard, &remove)?, "errno=0\n\n");
        assert_eq!(lines(&ask(wireguard, "get=1")?, "allowed_ip"), ["10.2.0.0/16"]);
        Ok(())
    });
}

#[test]
fn an_allowed_address_moves_to_the_last_peer_that_claims_it() {
    alone("an_allowed_address_moves_to_the_last_peer_that_claims_it", |_, wireguard| {
        let (first, second) = (hexadecimal_key(1), hexadecimal_key(3));
        for key in [&first, &second] {
            assert_eq!(
                ask(wireguard, &format!("set=1\npublic_key={key}\nallowed_ip=10.1.0.0/16"))?,
                "errno=0\n\n"
            );
        }
        let answer = ask(wireguard, "get=1")?;
        assert_eq!(lines(&answer, "allowed_ip"), ["10.1.0.0/16"]);
        let position = answer.find("allowed_ip=").context("an allowed address")?;
        assert!(answer[..position].contains(&second), "it belongs to the second: {answer}");
        Ok(())
    });
}

/// Requirement 25: one's own key as a peer is removed.
#[test]
fn our_own_key_is_no_peer() {
    alone("our_own_key_is_no_peer", |scene, wireguard| {
        let keys = KeyPair::generate()?;
        let file = scene.write("own.key", &keys.private)?;
        let wg = |arguments: &[&str]| run(wireguard.namespace.command("wg").args(arguments));
        let (interface, path) = (wireguard.interface.as_str(), file.to_str().context("a path")?);
        wg(&["set", interface, "private-key", path, "peer", &keys.public, "allowed-ips", "10.1.0.0/16"])?;
        assert_eq!(wg(&["show", interface, "peers"])?.trim(), "");
        Ok(())
    });
}

#[test]
fn wrong_requests_change_nothing_and_are_told_so() {
    alone("wrong_requests_change_nothing", |_, wireguard| {
        let key = hexadecimal_key(5);
        ask(wireguard, &format!("set=1\npublic_key={key}\nallowed_ip=10.1.0.0/16"))?;
        let peers =
            |answer: &str| lines(answer, "public_key").join(" ") + &lines(answer, "allowed_ip").join(" ");
        let before = peers(&ask(wireguard, "get=1")?);
        for wrong in [
            "listen_port=70000".to_owned(),
            "private_key=abcd".to_owned(),
            "fwmark=-1".to_owned(),
            "colour=blue".to_owned(),
            "public_key=zz".to_owned(),
            format!("public_key={key}\nallowed_ip=10.1.0.0/33"),
            format!("public_key={key}\nallowed_ip=fd00::/129"),
            format!("public_key={key}\nendpoint=nowhere"),
            format!("public_key={key}\npersistent_keepalive_interval=65536"),
            format!("public_key={key}\npreshared_key=00"),
            format!("public_key={key}\nprotocol_version=2"),
        ] {
            let answer = ask(wireguard, &format!("set=1\n{wrong}"))?;
            assert!(answer.starts_with("errno=-"), "{wrong:?} was answered {answer:?}");
        }
        assert_eq!(ask(wireguard, "set=1\nlisten_port=x")?.trim(), INVALID);
        assert_eq!(peers(&ask(wireguard, "get=1")?), before);
        Ok(())
    });
}

/// Garbage ends the connection or is answered with an error; the daemon goes on.
#[test]
fn garbage_on_the_socket_is_survived() {
    alone("garbage_on_the_socket_is_survived", |_, wireguard| {
        for garbage in [&b"\xff\xfe\n\n"[..], b"\n\n", b"get=1", b"set=1\n=\n\n", &[b'a'; 100_000]] {
            let mut stream = UnixStream::connect(socket_of(&wireguard.interface))?;
            // The daemon may hang up before it has read everything.
            let _ = stream.write_all(garbage);
        }
        assert!(ask(wireguard, "get=1")?.ends_with("errno=0\n\n"));
        Ok(())
    });
}

/// Requirement 26: whatever runs at the same time, an answer is one state: here, either peer but never
/// both and never none.
#[test]
fn get_while_set_runs_is_consistent() {
    alone("get_while_set_runs_is_consistent", |_, wireguard| {
        let request = |number| format!("set=1\nreplace_peers=true\npublic_key={}", hexadecimal_key(number));
        ask(wireguard, &request(1))?;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| -> Result {
                for round in 0..200 {
                    ensure!(ask(wireguard, &request(1 + round % 2 * 2))? == "errno=0\n\n");
                }
                Ok(())
            });
            while !writer.is_finished() {
                let answer = ask(wireguard, "get=1")?;
                ensure!(lines(&answer, "public_key").len() == 1, "{answer}");
            }
            writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
        })
    });
}

/// Requirement 26: `last_handshake_time` is Unix time, not an age.
#[test]
fn the_last_handshake_is_unix_time() {
    machine_wide("the_last_handshake_is_unix_time", |scene| {
        let ours = executable("tombolo-wireguard")?;
        let options = Options { knows_endpoint: [true, false], ..Options::default() };
        let tunnel = Tunnel::new(scene, &ours, &ours, &options)?;
        let before: u64 = run(std::process::Command::new("date").arg("+%s"))?.trim().parse()?;
        tunnel.east.reaches(&tunnel.west, 0, LIMIT)?;
        let found = wait_for("a handshake", LIMIT, || {
            Ok(Some(tunnel.east.wireguard.last_handshake(&tunnel.west.keys.public)?).filter(|time| *time > 0))
        })?;
        assert!((before..before + 60).contains(&found), "{found} at {before}");
        Ok(())
    });
}

/// The socket opens the tunnel's keys: nobody else may speak to it.
#[test]
fn the_socket_is_for_its_owner_alone() {
    alone("the_socket_is_for_its_owner_alone", |_, wireguard| {
        let mut stranger = wireguard.namespace.command("setpriv");
        stranger.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "wg",
            "show",
            &wireguard.interface,
        ]);
        let outcome = output(&mut stranger, LIMIT)?;
        assert!(!outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stdout));
        Ok(())
    });
}

#[test]
fn the_daemon_ends_when_its_interface_or_its_socket_is_removed() {
    for removed in ["interface", "socket"] {
        alone("the_daemon_ends_when_its_interface_or_its_socket_is_removed", |_, wireguard| {
            match removed {
                "interface" => {
                    wireguard.namespace.ip(&format!("link del {}", wireguard.interface)).map(drop)?
                }
                _ => fs::remove_file(socket_of(&wireguard.interface))?,
            }
            let path = format!("/proc/{}/stat", wireguard.process.id());
            wait_for(&format!("the end after the {removed} was removed"), LIMIT, || {
                let stat = fs::read_to_string(&path).unwrap_or_default();
                // A process that ended and was not yet collected is in state Z.
                Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
            })
        });
    }
}

#[test]
fn super_packets_are_limited_to_what_one_send_carries_at_every_mtu_and_bursts_may_wait() {
    alone("super-packets", |_, wireguard| {
        let (namespace, interface) = (&wireguard.namespace, &wireguard.interface);
        let shown = |what: &str| -> Result<u32> {
            let shown = namespace.ip(&format!("-d link show {interface}"))?;
            let mut words = shown.split_whitespace().skip_while(|word| *word != what).skip(1);
            Ok(words.next().with_context(|| format!("no {what} is shown"))?.parse()?)
        };
        wait_for("the longer queue", LIMIT, || Ok((shown("qlen")? == 2000).then_some(())))?;
        namespace.ip(&format!("link set {interface} txqueuelen 700"))?;
        for mtu in [1420_u32, 1280, 8920] {
            namespace.ip(&format!("link set {interface} mtu {mtu}"))?;
            // 65,507 bytes of datagrams, each with the 32 bytes of a sealed message, and no second one for a remainder.
            let fits = |size: u32| size <= 65_507 / (mtu.next_multiple_of(16) + 32) * mtu && size > 50_000;
            wait_for("the limit of super-packets", LIMIT, || Ok(fits(shown("gso_max_size")?).then_some(())))?;
        }
        ensure!(shown("qlen")? == 700, "a length that somebody has set was changed");
        Ok(())
    });
}
