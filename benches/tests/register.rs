//! A server that is killed while two hundred machines join: what it said holds, and nothing is given twice.
//!
//! ```text
//!   server 192.0.2.10 ── router ── 198.51.100.10 alpha, with a machine on each address of 198.18.0.0/15
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tombolo_benches::joining::{Answer, SOURCES, Swarm, register};
use tombolo_control::frame::JoinRefusal;
use tombolo_tests::host::Host;
use tombolo_tests::topology::Internet;
use tombolo_tests::{Result, machine_wide, wait::wait_until};

const TOKENS: usize = 200;
/// Tokens that a second machine tries too.
const CONTESTED: usize = 40;
const LIMIT: Duration = Duration::from_secs(90);

fn process(server: &Host) -> Result<Pid> {
    let number = server.json(&["status", "--json"])?["pid"].as_i64().context("the daemon's process")?;
    Pid::from_raw(i32::try_from(number)?).context("the number of a process")
}

/// As `kill -9` does, at once: nothing is asked of the server before.
fn kill_and_start(server: &Host, daemon: Pid) -> Result<Pid> {
    kill_process(daemon, Signal::KILL)?;
    wait_until("the server is gone", LIMIT, || test_kill_process(daemon).is_err())?;
    server.run(&["up"])?;
    process(server)
}

#[test]
fn a_server_killed_in_the_middle_of_200_joins_keeps_its_word_and_gives_nothing_twice_control_rule_21() {
    let name =
        "a_server_killed_in_the_middle_of_200_joins_keeps_its_word_and_gives_nothing_twice_control_rule_21";
    machine_wide(name, |scene| {
        let mut internet = Internet::new()?;
        let server = Host::new(scene, &mut internet, "server", [192, 0, 2, 0])?;
        let alpha = Host::new(scene, &mut internet, "alpha", [198, 51, 100, 0])?;
        internet.router.ip(&format!("route add {SOURCES} via {}", alpha.machine.address))?;
        alpha.namespace().ip(&format!("route add local {SOURCES} dev lo"))?;
        let root = server.folder.join("root.age");
        let (root, endpoint) =
            (root.to_str().context("a path in UTF-8")?, server.machine.address.to_string());
        let init =
            ["server", "init", "--endpoint", &endpoint, "--name", "server", "--root-key", root, "--no-start"];
        server.run(&init)?;
        let (tokens, _) = register::fill(&server.folder.join("state/tombolo"), TOKENS, 0)?;
        server.run(&["up"])?;
        let contested: Vec<_> = tokens.iter().take(CONTESTED).cloned().collect();
        let machines = tokens.into_iter().chain(contested).map(|token| (token, None));
        let mut swarm = Swarm::new(7, machines);
        let mut daemon = process(&server)?;
        let mut answered = 0;
        let mut failure = None;
        alpha.namespace().enter(|| {
            swarm.join(TOKENS + CONTESTED, LIMIT, |_, _| {
                answered += 1;
                // Twice, each time with many under way: what they were answered meanwhile they have not read yet.
                if answered == TOKENS / 10 || answered == TOKENS / 2 {
                    match kill_and_start(&server, daemon) {
                        Ok(next) => daemon = next,
                        Err(error) => failure = Some(error),
                    }
                }
            })
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        // Of two machines with one token one was let in, and the other heard why not.
        let answers: Vec<Answer> = swarm.answers().flatten().cloned().collect();
        ensure!(answers.len() == TOKENS + CONTESTED);
        let joined = |number: usize| matches!(answers[number], Answer::Joined(_));
        for number in 0..TOKENS {
            let second = (number < CONTESTED).then_some(TOKENS + number);
            match second {
                Some(second) => {
                    ensure!(joined(number) != joined(second), "token {number}: {:?}", answers[second])
                }
                None => ensure!(joined(number), "token {number}: {:?}", answers[number]),
            }
        }
        let spent = |answer: &&Answer| **answer == Answer::Refused(JoinRefusal::Spent);
        ensure!(answers.iter().filter(spent).count() == CONTESTED);
        // The register has exactly these, each with a name and addresses of its own.
        let nodes = server.json(&["node", "list", "--json"])?;
        let nodes = nodes.as_array().context("a list")?.clone();
        ensure!(nodes.len() == TOKENS + 1, "{} nodes", nodes.len());
        let addresses: Vec<String> = nodes
            .iter()
            .flat_map(|node| node["addresses"].as_array().cloned().unwrap_or_default())
            .map(|one| one.to_string())
            .collect();
        let unique: BTreeSet<&String> = addresses.iter().collect();
        ensure!(
            unique.len() == addresses.len() && addresses.len() == 2 * nodes.len(),
            "an address was given twice"
        );
        let listed = server.json(&["token", "list", "--json"])?;
        let uses: BTreeMap<String, u64> = listed
            .as_array()
            .context("a list")?
            .iter()
            .map(|token| (token["token"].to_string(), token["uses_left"].as_u64().unwrap_or(1)))
            .collect();
        // One that `server init` has printed is left.
        ensure!(uses.values().filter(|left| **left == 0).count() == TOKENS, "{uses:?}");
        // Whoever was let in is so still: the same key and token give the same membership.
        swarm.restart();
        alpha.namespace().enter(|| swarm.join(TOKENS + CONTESTED, LIMIT, |_, _| ()))?;
        let again: Vec<Answer> = swarm.answers().flatten().cloned().collect();
        ensure!(again == answers, "an acknowledged join does not hold");
        server.run(&["down"]).map(drop)
    });
}
