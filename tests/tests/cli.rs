//! The command line as a user types it. Most of it needs no root.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, ensure};
use tombolo_tests::{
    Result, Scene,
    command::{self, run, run_with_input},
    machine_wide,
    node::executable,
    site::{sites, start_all},
};

/// The base64 text of a key, different for each letter.
fn key(letter: char) -> String {
    // 43 characters and a padding sign are 32 bytes; the last character must end in two zero bits.
    format!("{}{}=", letter.to_string().repeat(42), 'A')
}

/// A scene with a folder for configurations, and the command line pointed at it.
struct Desk {
    scene: Scene,
}

impl Desk {
    fn new() -> Result<Self> {
        let desk = Self { scene: Scene::new()? };
        for folder in ["config", "state", "run"] {
            fs::create_dir(desk.scene.path(folder))?;
        }
        desk.put("demo.key", &format!("{}\n", key('C')), 0o600)?;
        Ok(desk)
    }

    fn put(&self, name: &str, contents: &str, mode: u32) -> Result<PathBuf> {
        let path = self.scene.path("config").join(name);
        fs::write(&path, contents)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    }

    fn tombolo(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(executable("tombolo")?);
        command.args(arguments);
        for (variable, folder) in
            [("TOMBOLO_CONFIG_DIR", "config"), ("TOMBOLO_STATE_DIR", "state"), ("TOMBOLO_RUN_DIR", "run")]
        {
            command.env(variable, self.scene.path(folder));
        }
        command::output(&mut command, Duration::from_secs(30))
    }

    /// That `config check` refuses this text with exit code 1 and says each of these words.
    fn refuses(&self, text: &str, words: &[&str]) -> Result {
        self.put("demo.toml", text, 0o600)?;
        let outcome = self.tombolo(&["config", "check", "-n", "demo"])?;
        let message = String::from_utf8_lossy(&outcome.stderr) + String::from_utf8_lossy(&outcome.stdout);
        ensure!(outcome.status.code() == Some(1), "{} for\n{text}\n{message}", outcome.status);
        for word in words {
            ensure!(message.contains(word), "no {word:?} in: {message}");
        }
        Ok(())
    }
}

const INTERFACE: &str = "[interface]\naddress = [\"10.62.0.1/24\"]\nprivate_key_file = \"demo.key\"\n";

fn peer(name: &str, letter: char, allowed: &str) -> String {
    format!("\n[[peer]]\nname = {name:?}\npublic_key = {:?}\nallowed_ips = [{allowed:?}]\n", key(letter))
}

#[test]
fn keys_agree_with_those_of_wg() -> Result {
    let tombolo = executable("tombolo")?;
    let private = run(Command::new(&tombolo).arg("genkey"))?;
    assert_eq!(private.trim().len(), 44);
    assert_ne!(private, run(Command::new(&tombolo).arg("genkey"))?, "two equal keys");
    let public = run_with_input(Command::new(&tombolo).arg("pubkey"), &private)?;
    if command::is_installed("wg") {
        assert_eq!(public, run_with_input(Command::new("wg").arg("pubkey"), &private)?);
    }
    let refused = run_with_input(Command::new(&tombolo).arg("pubkey"), "not a key\n");
    assert!(refused.is_err(), "a wrong key has a public key: {refused:?}");
    Ok(())
}

#[test]
fn a_good_configuration_passes() -> Result {
    let desk = Desk::new()?;
    let text =
        format!("{INTERFACE}{}{}", peer("west", 'D', "10.62.0.2/32"), peer("north", 'E', "10.62.0.3/32"));
    desk.put("demo.toml", &text, 0o600)?;
    let outcome = desk.tombolo(&["config", "check", "-n", "demo"])?;
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    // With one network its name may be left out.
    assert!(desk.tombolo(&["config", "check"])?.status.success());
    Ok(())
}

#[test]
fn mistakes_in_a_configuration_are_named_with_their_line() -> Result {
    let desk = Desk::new()?;
    let west = peer("west", 'D', "10.62.0.2/32");
    desk.refuses(&INTERFACE.replace("address =", "adress ="), &["demo.toml:2", "adress", "address"])?;
    desk.refuses(&format!("{INTERFACE}lisen_port = 1\n"), &["demo.toml:4", "lisen_port", "listen_port"])?;
    desk.refuses(&format!("{INTERFACE}{west}colour = 1\n"), &["demo.toml:9", "colour"])?;
    desk.refuses(
        &format!("{INTERFACE}{west}{}", peer("north", 'E', "10.62.0.2/32")),
        &["west", "north", "10.62.0.2/32"],
    )?;
    desk.refuses(
        &format!("{INTERFACE}{west}{}", peer("north", 'D', "10.62.0.3/32")),
        &["west", "north", "public key"],
    )?;
    desk.refuses(&format!("{INTERFACE}{}", west.replace(&key('D'), "####")), &["public_key", "west"])?;
    desk.refuses(&format!("{INTERFACE}mtu = 100\n"), &["mtu", "576"])?;
    desk.refuses(&format!("{INTERFACE}mtu = 70000\n"), &["mtu"])?;
    desk.refuses(&INTERFACE.replace("demo.key", "missing.key"), &["missing.key"])?;
    desk.refuses("[interface\n", &["demo.toml:1"])
}

#[test]
fn a_private_key_that_others_can_read_is_refused_with_the_mend() -> Result {
    let desk = Desk::new()?;
    desk.put("demo.key", &key('C'), 0o644)?;
    desk.refuses(INTERFACE, &["demo.key", "chmod 600"])?;
    // So it is when the key stands in the configuration itself.
    let inline =
        INTERFACE.replace("private_key_file = \"demo.key\"", &format!("private_key = {:?}", key('C')));
    desk.put("demo.toml", &inline, 0o644)?;
    let outcome = desk.tombolo(&["config", "check", "-n", "demo"])?;
    let message = String::from_utf8_lossy(&outcome.stderr) + String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(outcome.status.code(), Some(1), "{message}");
    assert!(message.contains("chmod 600"), "{message}");
    Ok(())
}

#[test]
fn secrets_are_not_repeated_in_messages() -> Result {
    let desk = Desk::new()?;
    let secret = "c2VjcmV0LXRoYXQtbXVzdC1ub3QtYmUtc2hvd24h";
    desk.put(
        "demo.toml",
        &INTERFACE.replace("private_key_file = \"demo.key\"", &format!("private_key = {secret:?}")),
        0o600,
    )?;
    let outcome = desk.tombolo(&["config", "check", "-n", "demo"])?;
    let message = String::from_utf8_lossy(&outcome.stderr) + String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(outcome.status.code(), Some(1), "{message}");
    assert!(!message.contains(secret), "{message}");
    Ok(())
}

#[test]
fn a_wg_quick_file_is_imported_and_what_is_left_out_is_told() -> Result {
    let desk = Desk::new()?;
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.62.0.1/24, fd62::1/64\nListenPort = 51820\nMTU = 1380\n\
         DNS = 10.62.0.53\nPostUp = touch /tmp/never\n\n[Peer]\n# west\nPublicKey = {}\nPresharedKey = {}\n\
         AllowedIPs = 10.62.0.2/32, fd62::2/128\nEndpoint = west.example.org:51820\nPersistentKeepalive = 25\n",
        key('C'),
        key('D'),
        key('E')
    );
    let file = desk.scene.write("wg0.conf", &text)?;
    let outcome = desk.tombolo(&["import", "-n", "office", file.to_str().context("a path")?])?;
    let message = String::from_utf8_lossy(&outcome.stderr) + String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success(), "{message}");
    assert!(message.contains("DNS"), "the name server is left out without a word: {message}");
    assert!(message.contains("PostUp"), "a command is left out without a word: {message}");

    let written = fs::read_to_string(desk.scene.path("config/office.toml"))?;
    for wanted in [
        "10.62.0.1/24",
        "fd62::1/64",
        "51820",
        "1380",
        &key('D'),
        "10.62.0.2/32",
        "west.example.org:51820",
        "25",
    ] {
        assert!(written.contains(wanted), "no {wanted} in\n{written}");
    }
    assert!(!written.contains(&key('C')), "the private key stands in the file that people show around");
    for entry in fs::read_dir(desk.scene.path("config"))?.flatten() {
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(name.ends_with(".toml") || mode == 0o600, "{name} has mode {mode:o}");
    }
    let checked = desk.tombolo(&["config", "check", "-n", "office"])?;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    Ok(())
}

/// 0 success, 1 the user's mistake, 2 a failure at run time, 3 the time of a wait ran out.
#[test]
fn exit_codes_tell_who_can_mend_it() -> Result {
    let desk = Desk::new()?;
    desk.put("demo.toml", INTERFACE, 0o600)?;
    for (arguments, expected) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["wait", "--help"], 0),
        (&["no-such-command"], 1),
        (&["status", "--no-such-option"], 1),
        (&["up", "-f", "-n", "elsewhere"], 1),
        (&["up", "-f", "-n", "../demo"], 1),
        (&["wait", "-n", "elsewhere", "--timeout", "100ms"], 1),
        (&["status", "-n", "demo"], 2),
        (&["ping", "-n", "demo", "west"], 2),
        (&["wait", "-n", "demo", "--timeout", "100ms"], 3),
    ] {
        let outcome = desk.tombolo(arguments)?;
        let message = String::from_utf8_lossy(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(expected), "tombolo {}: {message}", arguments.join(" "));
    }
    Ok(())
}

#[test]
fn running_nodes_answer_status_ping_and_wait() {
    machine_wide("running_nodes_answer_status_ping_and_wait", |scene| {
        let (_internet, mut sites) = sites::<2>(scene)?;
        start_all(scene, &mut sites)?;
        let [mut east, west] = sites;
        let text = |subcommand: &str, options: &[&str]| -> Result<(Option<i32>, String)> {
            let outcome = east.node.outcome(subcommand, options)?;
            let text = String::from_utf8_lossy(&outcome.stdout) + String::from_utf8_lossy(&outcome.stderr);
            Ok((outcome.status.code(), text.into_owned()))
        };
        let (code, answer) = text("ping", &["west", "-c", "2"])?;
        ensure!(code == Some(0) && answer.contains("ms"), "ping: {code:?} {answer}");
        let (code, answer) = text("status", &[])?;
        let endpoint = format!("{}:8662", west.machine.address);
        ensure!(code == Some(0) && answer.contains("west") && answer.contains(&endpoint), "status: {answer}");
        let json = east.node.status()?.to_string();
        ensure!(json.contains(&endpoint) && json.contains(&west.node.keys.public), "status --json: {json}");
        ensure!(!json.contains(&east.node.keys.private), "the status shows the private key");

        let (code, answer) = text("wait", &["--peer", "nobody"])?;
        ensure!(code == Some(1) && answer.contains("nobody"), "wait for nobody: {code:?} {answer}");
        let (code, _) = text("wait", &["--tcp", "5432", "--peer", "west", "--timeout", "500ms"])?;
        ensure!(code == Some(3), "wait for a closed port: {code:?}");
        let service = (west.node.address, 5432);
        let _service = west.machine.namespace.enter(|| Ok(std::net::TcpListener::bind(service)?))?;
        let (code, answer) = text("wait", &["--tcp", "5432", "--quorum", "1", "--timeout", "10s"])?;
        ensure!(code == Some(0), "wait for an open port: {code:?} {answer}");

        let (code, _) = text("down", &[])?;
        ensure!(code == Some(0), "down: {code:?}");
        ensure!(east.node.daemon()?.wait(Duration::from_secs(10))?.success(), "the daemon's own exit code");
        Ok(())
    });
}

#[test]
fn up_without_foreground_returns_when_it_is_ready() {
    machine_wide("up_without_foreground_returns_when_it_is_ready", |scene| {
        let (_internet, sites) = sites::<2>(scene)?;
        let [east, _west] = sites;
        let outcome = east.node.outcome("up", &[])?;
        ensure!(outcome.status.success(), "up: {}", String::from_utf8_lossy(&outcome.stderr));
        let address = east.node.address;
        let bound = east.machine.namespace.enter(|| Ok(std::net::TcpListener::bind((address, 0)).is_ok()))?;
        ensure!(bound, "`up` returned before the address could be bound");
        east.node.run("down", &["--open"])?;
        let links = east.machine.namespace.ip("link show")?;
        ensure!(!links.contains(&east.node.interface), "the interface is still there: {links}");
        Ok(())
    });
}
