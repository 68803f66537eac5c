//! What the other users of a machine may ask, and what `wg` may do there, in a network by membership (control rule 22).
//!
//! ```text
//!   server 192.0.2.10 ── router ── 198.51.100.10 alpha
//! ```

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result,
    command::{output, run},
    host::{Host, hosts},
    machine_wide,
    topology::Internet,
};

const LIMIT: Duration = Duration::from_secs(20);
/// A database's user, and the group that may look.
const USER: &str = "60123";
const GROUP: &str = "60124";

/// `tombolo` as another user, who is in one group.
fn as_user(host: &Host, group: &str, arguments: &[&str]) -> Command {
    let own = host.command(&[]);
    let mut command = host.namespace().command("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--groups", group]).arg(host.binary()).args(arguments);
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// What it says when it fails, and its exit code.
fn refusal(mut command: Command) -> Result<(i32, String)> {
    let said = output(&mut command, LIMIT)?;
    Ok((said.status.code().context("an exit code")?, String::from_utf8_lossy(&said.stderr).into_owned()))
}

/// Writes a line into the section `[interface]` of a member that is down.
fn set(host: &Host, line: &str) -> Result {
    let path = host.folder.join("config/tombolo.toml");
    let text = fs::read_to_string(&path)?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("control_group")).collect();
    Ok(fs::write(&path, kept.join("\n").replace("[interface]", &format!("[interface]\n{line}")))?)
}

#[test]
fn a_service_asks_who_is_behind_an_address_and_changes_nothing_control_rule_22() {
    machine_wide("a_service_asks_who_is_behind_an_address_and_changes_nothing_control_rule_22", |scene| {
        let mut internet = Internet::new()?;
        let [server, alpha]: [Host; 2] = hosts(scene, &mut internet)?;
        server.init(&["--name", "server"])?;
        server.run(&["network", "set", "--group", "databases", "--group", "staff"])?;
        alpha.join("alpha", &server.token(&["--group", "databases", "--group", "staff"])?)?;
        let address = alpha.address()?.to_string();
        let whois = ["whois", &address, "--json"];
        // Without the setting, root alone.
        let (code, said) = refusal(as_user(&server, GROUP, &whois))?;
        ensure!(code == 2 && said.contains("control_group"), "{code} {said}");
        server.run(&["down"])?;
        // A name of the machine's own list; one that is not there is told at the start.
        set(&server, "control_group = \"nobody-made-it\"")?;
        let (code, said) = refusal(server.command(&["up"]))?;
        ensure!(code == 1 && said.contains("nobody-made-it") && said.contains("groupadd"), "{code} {said}");
        let groups = server.namespace().hosts_file().with_file_name("group");
        fs::write(groups, format!("root:x:0:\nservices:x:{GROUP}:\n"))?;
        set(&server, "control_group = \"services\"")?;
        server.run(&["up"])?;
        server.reaches(&alpha, "alpha")?;
        let who: serde_json::Value = serde_json::from_str(&run(&mut as_user(&server, GROUP, &whois))?)?;
        ensure!(who["name"] == "alpha", "{who}");
        ensure!(who["groups"] == serde_json::json!(["databases", "staff"]), "{who}");
        for look in [
            &["status"][..],
            &["wait", "--timeout", "20s"],
            &["wait", "--peer", "alpha", "--timeout", "20s"],
            &["ping", "alpha"],
        ] {
            run(&mut as_user(&server, GROUP, look))?;
        }
        for change in
            [&["down"][..], &["token", "new"], &["node", "list"], &["leave", "--force"], &["rotate-key"]]
        {
            let (code, said) = refusal(as_user(&server, GROUP, change))?;
            ensure!(code != 0, "{change:?}: {said}");
        }
        let (_, said) = refusal(as_user(&server, USER, &whois))?;
        ensure!(said.contains("not permitted"), "others than the group: {said}");
        ensure!(server.membership_state().as_deref() == Some("valid"), "it stands as before");
        server.reaches(&alpha, "alpha")
    });
}

/// One operation on the socket of `wg`, and the whole answer.
fn ask(host: &Host, request: &str) -> Result<String> {
    let name = host.status()?["interface"]["name"].as_str().context("a name")?.to_owned();
    let mut stream = UnixStream::connect(host.folder.join("wireguard").join(format!("{name}.sock")))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(format!("{request}\n\n").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn wg_sees_members_without_the_private_key_and_changes_nothing_control_rule_22() {
    machine_wide("wg_sees_members_without_the_private_key_and_changes_nothing_control_rule_22", |scene| {
        let mut internet = Internet::new()?;
        let [server, alpha]: [Host; 2] = hosts(scene, &mut internet)?;
        alpha.join("alpha", &server.init(&["--name", "server"])?)?;
        alpha.reaches(&server, "server")?;
        let seen = ask(&alpha, "get=1")?;
        ensure!(seen.ends_with("errno=0\n\n") && seen.contains("\npublic_key="), "{seen}");
        ensure!(!seen.contains("private_key="), "{seen}");
        let zero = "0".repeat(64);
        ensure!(
            seen.lines().filter_map(|line| line.strip_prefix("preshared_key=")).all(|key| key == zero),
            "{seen}"
        );
        for change in [
            "private_key=".to_owned() + &"42".repeat(32),
            "listen_port=4242".to_owned(),
            "replace_peers=true".to_owned(),
            "public_key=".to_owned() + &"42".repeat(32),
        ] {
            let answer = ask(&alpha, &format!("set=1\n{change}"))?;
            ensure!(answer == "errno=-1\n\n", "{change}: {answer}");
        }
        let after = ask(&alpha, "get=1")?;
        let first =
            |text: &str, key: &str| text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        ensure!(!after.contains(&"42".repeat(32)), "{after}");
        for key in ["listen_port=", "public_key="] {
            ensure!(first(&after, key) == first(&seen, key), "{key} of {seen}{after}");
        }
        alpha.reaches(&server, "server")
    });
}
