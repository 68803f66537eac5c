//! Secrets that a person types: asked for at the terminal, and not shown there (control rules 1 and 15).
//!
//! ```text
//!   server 192.0.2.10 ── router ── 198.51.100.10 alpha, 203.0.113.10 beta
//! ```

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result,
    command::run,
    host::{Host, hosts},
    machine_wide,
    terminal::Terminal,
    topology::Internet,
};

const LIMIT: Duration = Duration::from_secs(60);
const PASSPHRASE: &str = "correct horse battery staple";

fn at_terminal(host: &Host, arguments: &[&str]) -> Result<Terminal> {
    let own = host.command(&[]);
    let mut command = host.namespace().command("setsid");
    command.args(["--ctty", "--wait"]).arg(host.binary()).args(arguments);
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Terminal::start(command)
}

#[test]
fn a_token_is_typed_unseen_or_read_from_the_file_that_the_environment_names_control_rule_15() {
    machine_wide(
        "a_token_is_typed_unseen_or_read_from_the_file_that_the_environment_names_control_rule_15",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta]: [Host; 3] = hosts(scene, &mut internet)?;
            let token = server.init(&["--name", "server"])?;
            let mut terminal = at_terminal(&alpha, &["join", "--name", "alpha"])?;
            terminal.answer_unseen("Token:", &token, LIMIT)?;
            let (status, screen) = terminal.end(LIMIT)?;
            ensure!(status.success() && screen.contains("this machine is the member `alpha`"), "{screen}");
            ensure!(!screen.contains(&token[..20]), "the token was shown: {screen}");
            alpha.reaches(&server, "server")?;
            // What is no token is told, and not repeated.
            let mut terminal = at_terminal(&beta, &["join", "--name", "beta"])?;
            terminal.answer_unseen("Token:", "tombolo1mistyped", LIMIT)?;
            let (status, screen) = terminal.end(LIMIT)?;
            ensure!(status.code() == Some(1) && !screen.contains("mistyped"), "{screen}");
            ensure!(!beta.folder.join("config/tombolo.toml").exists());
            let file = beta.folder.join("token");
            fs::write(&file, format!("{}\n", server.token(&[])?))?;
            run(beta.command(&["join", "--name", "beta"]).env("TOMBOLO_TOKEN_FILE", &file))?;
            beta.reaches(&alpha, "alpha")
        },
    );
}

#[test]
fn the_passphrase_of_the_root_key_is_typed_unseen_twice_and_opens_it_control_rule_1() {
    machine_wide(
        "the_passphrase_of_the_root_key_is_typed_unseen_twice_and_opens_it_control_rule_1",
        |scene| {
            let mut internet = Internet::new()?;
            let [server]: [Host; 1] = hosts(scene, &mut internet)?;
            let root = server.folder.join("root.age");
            let path = root.to_str().context("a path")?;
            let init = ["server", "init", "--endpoint", "192.0.2.10", "--root-key", path];
            let ask = |second: &str| -> Result<_> {
                let mut terminal = at_terminal(&server, &init)?;
                terminal.answer_unseen("one is made and shown):", PASSPHRASE, LIMIT)?;
                terminal.answer_unseen("Once more:", second, LIMIT)?;
                terminal.end(LIMIT)
            };
            let (status, screen) = ask("something else")?;
            ensure!(status.code() == Some(1) && screen.contains("the passphrases differ"), "{screen}");
            ensure!(!root.exists() && !server.folder.join("config/tombolo.toml").exists());
            let (status, screen) = ask(PASSPHRASE)?;
            ensure!(status.success() && !screen.contains(PASSPHRASE), "{screen}");
            ensure!(!screen.contains("Its passphrase"), "none was made: {screen}");
            // The daemon runs without it, wherever it is: nothing of it lies where the daemon reads, and it starts again.
            let kept = server.folder.join("elsewhere.age");
            fs::rename(&root, &kept)?;
            server.restart()?;
            ensure!(server.membership_state().as_deref() == Some("valid"));
            fs::rename(&kept, &root)?;
            let rotate = ["server", "trust", "rotate-root", "--root-key", path];
            for (typed, opens) in [("wrong", false), (PASSPHRASE, true)] {
                let mut terminal = at_terminal(&server, &rotate)?;
                terminal.answer_unseen("Passphrase of the root key:", typed, LIMIT)?;
                let (status, screen) = terminal.end(LIMIT)?;
                ensure!(status.success() == opens && !screen.contains(typed), "{typed}: {status} {screen}");
            }
            Ok(())
        },
    );
}
