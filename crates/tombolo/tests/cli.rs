//! The command line as a user types it: output and exit codes, without root.

// Everything here is a test, helpers included.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// A machine with nothing of Tombolo on it.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config", "state", "run"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn network(&self, name: &str) {
        self.write("config/prod.key", KEY);
        let text = "[interface]\naddress = \"10.66.0.1/16\"\nprivate_key_file = \"prod.key\"\n";
        self.write(&format!("config/{name}.toml"), text);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tombolo"));
        command
            .args(arguments)
            .env("TOMBOLO_CONFIG_DIR", self.path("config"))
            .env("TOMBOLO_STATE_DIR", self.path("state"))
            .env("TOMBOLO_RUN_DIR", self.path("run"))
            .env_remove("TOMBOLO_NETWORK")
            .stdin(Stdio::null());
        command
    }

    /// Exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        told(&self.command(arguments).output().unwrap())
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        told(&child.wait_with_output().unwrap())
    }
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_made_and_their_public_half_is_told() {
    let machine = Machine::new();
    let (code, key, errors) = machine.run(&["genkey"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(key.len(), 45, "{key}");
    assert_ne!(machine.run(&["genkey"]).1, key);
    // RFC 7748, section 6.1: Alice's keys.
    let private = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n";
    let public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n";
    assert_eq!(machine.run_with_input(&["pubkey"], private), (0, public.to_owned(), String::new()));
    let (code, output, errors) = machine.run_with_input(&["pubkey"], "hello\n");
    assert_eq!((code, output.as_str()), (1, ""));
    assert_eq!(
        errors,
        "tombolo: standard input holds no private key: a key is 44 characters of base64, the last of them `=`\n"
    );
}

#[test]
fn config_check_prints_every_problem() {
    let machine = Machine::new();
    machine.network("prod");
    let file = machine.path("config/prod.toml");
    let (code, output, errors) = machine.run(&["config", "check"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(output, format!("{}: ok, 0 peers\n", file.display()));
    machine.write("config/prod.toml", "[interface]\nadress = 1\nprivate_key_file = \"prod.key\"\nmtu = 3\n");
    let (code, output, errors) = machine.run(&["config", "check"]);
    assert_eq!((code, output.as_str()), (1, ""));
    let file = file.display();
    assert_eq!(
        errors,
        format!(
            "tombolo: 3 problems\n\
             {file}:1:1: [interface] needs `address`, such as \"10.66.0.1/16\"\n\
             {file}:2:1: unknown key `adress` in [interface]; did you mean `address`?\n\
             {file}:4:7: `mtu` in [interface] must be from 576 to 65455 (IPv4 needs 576; a datagram holds 65535 less 80 for the tunnel), not 3\n"
        )
    );
}

#[test]
fn a_network_is_chosen_when_there_is_one() {
    let machine = Machine::new();
    let (code, _, errors) = machine.run(&["status"]);
    assert_eq!(code, 1);
    assert!(errors.starts_with("tombolo: there is no network: no NETWORK.toml in "), "{errors}");
    machine.network("prod");
    let (code, _, errors) = machine.run(&["status"]);
    assert_eq!(code, 2);
    assert!(errors.starts_with("tombolo: the network is not up (no daemon at "), "{errors}");
    machine.network("staging");
    let (code, _, errors) = machine.run(&["status"]);
    assert_eq!(code, 1);
    assert_eq!(errors, "tombolo: there are several networks (prod, staging); choose one with -n\n");
    assert_eq!(machine.run(&["status", "-n", "prod"]).0, 2);
    assert_eq!(machine.run(&["status", "-n", "../prod"]).0, 1);
}

#[test]
fn exit_codes_tell_who_can_mend_it() {
    let machine = Machine::new();
    machine.network("prod");
    for (arguments, wanted) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["help", "wait"], 0),
        (&[], 1),
        (&["nonsense"], 1),
        (&["wait", "--timeout", "soon"], 1),
        (&["wait", "--tcp", "0"], 1),
        (&["up", "-n", "elsewhere"], 1),
        (&["up", "-f", "-n", "elsewhere"], 1),
        (&["ping", "db-2"], 2),
        (&["wait", "--timeout", "10ms"], 3),
    ] {
        let (code, _, errors) = machine.run(arguments);
        assert_eq!(code, wanted, "tombolo {}: {errors}", arguments.join(" "));
    }
}

#[test]
fn a_network_that_is_not_there_is_told_with_those_that_are() {
    let machine = Machine::new();
    for command in ["status", "down", "leave", "doctor", "up", "ping x"] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["-n", "elsewhere"]);
        let (code, _, errors) = machine.run(&arguments);
        assert_eq!(code, 1, "{command}: {errors}");
        assert!(errors.contains("no network `elsewhere`") && errors.contains("tombolo join"), "{errors}");
    }
    machine.network("prod");
    let (_, _, errors) = machine.run(&["status", "-n", "elsewhere"]);
    assert!(errors.ends_with("there are: prod\n"), "{errors}");
    let (_, _, errors) = machine.run(&["status"]);
    assert!(errors.ends_with("`tombolo up -n prod` starts it\n"), "{errors}");
}

#[test]
fn a_token_on_the_command_line_is_refused_and_not_repeated() {
    let machine = Machine::new();
    let (code, _, errors) = machine.run(&["join", "tombolo1aaaabbbb"]);
    assert_eq!(code, 1);
    assert!(errors.contains("command line") && !errors.contains("aaaabbbb"), "{errors}");
    assert!(!machine.path("state/tombolo").exists(), "nothing is made for it");
}

#[test]
fn server_init_refuses_what_cannot_work_and_leaves_nothing() {
    let machine = Machine::new();
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let root = machine.path("root.age");
    let root = root.to_str().unwrap();
    let usual = ["server", "init", "--no-start", "--endpoint", "192.0.2.1", "--root-key", root];
    for (options, wanted) in [
        (&["--cidr", "127.0.0.0/16"][..], "cannot have addresses of this range"),
        (&["--cidr", "127.0.0.1/32"], "cannot have addresses of this range"),
        (&["--cidr", "10.5.0.0/31"], "no room"),
        (&["--cidr", "10.9.0.0/16", "--cidr", "10.9.1.0/24"], "leave one of them out"),
        (&["--port", port.as_str()], "is taken"),
        (&["--port", "0"], "0 is not in 1..=65535"),
        (&["--name", "A_B"], "cannot be a node's name"),
        (&["--domain", "com"], "cannot be a domain"),
        (&["--endpoint", "a:99999"], "a port of 1 to 65535"),
        (&["--root-passphrase-file", "/no/such/file"], "cannot be read"),
    ] {
        let (code, _, errors) = machine.run(&[&usual[..], options].concat());
        assert_eq!(code, 1, "{options:?}: {errors}");
        assert!(errors.contains(wanted), "{options:?}: {errors}");
        assert!(!machine.path("config/tombolo.toml").exists() && !machine.path("root.age").exists());
    }
}

#[test]
fn what_was_never_up_can_be_taken_down() {
    let machine = Machine::new();
    machine.network("prod");
    let (code, output, errors) = machine.run(&["down"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(output, "prod is down; its addresses stay guarded (down --open removes the guard)\n");
}

#[test]
fn a_wg_quick_file_is_imported_with_a_closed_key_file() {
    let machine = Machine::new();
    machine.write(
        "wg0.conf",
        &format!("[Interface]\nAddress = 10.66.0.1/16\nPrivateKey = {KEY}\nListenPort = 1\nDNS = 1.1.1.1\n"),
    );
    let file = machine.path("wg0.conf");
    let file = file.to_str().unwrap();
    let (code, output, errors) = machine.run(&["import", file]);
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("line 5: `DNS = 1.1.1.1` is not supported: "), "{errors}");
    assert!(output.contains("wrote "), "{output}");
    assert_eq!(fs::read_to_string(machine.path("config/wg0.key")).unwrap(), format!("{KEY}\n"));
    assert_eq!(mode(&machine.path("config/wg0.key")), 0o600);
    assert_eq!(machine.run(&["config", "check", "-n", "wg0"]).0, 0);
    let (code, _, errors) = machine.run(&["import", file]);
    assert_eq!(code, 1);
    assert!(errors.contains("is there already; --force overwrites it"), "{errors}");
    assert_eq!(machine.run(&["import", "--force", file]).0, 0);
}

#[test]
fn help_has_examples_and_everything_is_generated_from_it() {
    let machine = Machine::new();
    assert!(machine.run(&["--help"]).1.contains("umask 077; tombolo genkey"));
    assert!(machine.run(&["wait", "--help"]).1.contains("--quorum 1"));
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = machine.run(&["completions", shell]);
        assert!(code == 0 && script.contains("tombolo") && script.contains("genkey"), "{shell}");
    }
    let (code, page, _) = machine.run(&["man"]);
    assert!(code == 0 && page.contains(".TH"), "{page}");
    let pages = machine.path("pages");
    fs::create_dir(&pages).unwrap();
    assert_eq!(machine.run(&["man", "--directory", pages.to_str().unwrap()]).0, 0);
    assert!(pages.join("tombolo-wait.1").exists());
}

#[test]
fn tombolo_wireguard_refuses_what_is_no_interface() {
    let outcome = |arguments: &[&str]| {
        told(&Command::new(env!("CARGO_BIN_EXE_tombolo-wireguard")).args(arguments).output().unwrap())
    };
    assert_eq!(outcome(&[]).0, 1);
    assert_eq!(outcome(&["--help"]).0, 0);
    for arguments in [&["-f", "../etc"][..], &["a-name-that-is-too-long"]] {
        let (code, _, errors) = outcome(arguments);
        assert_eq!(code, 1, "{errors}");
        assert!(errors.contains("cannot be the name of an interface"), "{errors}");
    }
}
