//! `cargo xtask test`: every check, one after the other; what failed is named at the end.

mod count;
mod deny;
mod layers;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Result, bail};
use tombolo_tests::{interrupt, node, wait};

use crate::{cargo, packages};
use count::Count;

/// The package whose tests change the machine.
const MACHINE_WIDE: &str = "tombolo-tests";

/// Packages of which the tests draw many cases, or simulate weeks: with `--long` once more, optimised, with all that is
/// ignored otherwise.
const LONG: [&str; 7] = [
    "tombolo-packet",
    "tombolo-route",
    "tombolo-noise",
    "tombolo-control",
    "tombolo-engine",
    "tombolo-store",
    "tombolo-fuzz",
];

/// Cases of each property test then.
const LONG_CASES: &str = "5000";

/// How much goes wrong then while connections go on (`tests/tests/chaos.rs`).
const LONG_EVENTS: &str = "100";

/// The checks so far.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    took: Duration,
    outcome: std::result::Result<String, String>,
}

impl Steps {
    /// Runs one check. A failure is kept for the end, and the next check runs all the same.
    fn run(&mut self, name: &'static str, check: impl FnOnce() -> Result<String>) {
        if interrupt::requested() {
            return;
        }
        println!("\n==> {name}");
        let start = wait::now();
        let outcome = check().map_err(|error| format!("{error:#}"));
        match &outcome {
            Ok(note) if note.is_empty() => {}
            Ok(note) => println!("{note}"),
            Err(error) => println!("FAILED {name}: {error}"),
        }
        self.done.push(Step { name, took: wait::now() - start, outcome });
    }

    fn failed(&self) -> Vec<&'static str> {
        self.done.iter().filter(|step| step.outcome.is_err()).map(|step| step.name).collect()
    }
}

/// Runs all checks, and says whether all passed. `long` adds the tests that are ignored otherwise, and more cases.
///
/// # Errors
/// When cargo itself cannot be asked about the workspace.
pub(crate) fn run(long: bool) -> Result<bool> {
    let start = wait::now();
    let metadata = cargo::metadata()?;
    let (usual, machine_wide) = test_targets(&metadata);
    let count = Count::default();
    let skipped = AtomicUsize::new(0);
    let mut steps = Steps::default();

    steps.run("system packages", || packages::provide(&[]));
    steps.run("formatting", || plain(&["fmt", "--all", "--check"]));
    steps.run("lints", || plain(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    steps.run("documentation", || {
        let mut command = cargo::cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
        cargo::run(command.env("RUSTDOCFLAGS", "-D warnings")).map(|()| String::new())
    });
    steps.run("layers of crates", || layers::check(&metadata));
    steps.run("unsafe code", sources::check);
    steps.run("the daemon never loads the root key", sources::check_root_key);
    steps.run("one version of each shipped dependency", one_version);
    steps.run("licences, bans, sources", deny::check);
    steps.run("advisories", deny::check_advisories);
    // One build for everything below: the same packages and features, so that nothing is compiled twice.
    steps.run("build", || plain(&["build", "--workspace", "--lib", "--bins", "--tests", "--examples"]));
    steps.run("tests", || {
        let mut arguments = vec!["--lib", "--bins", "--examples"];
        arguments.extend(usual.iter().flat_map(|name| ["--test", name.as_str()]));
        tests(&arguments, &[], &count, &skipped)
    });
    steps.run("documentation examples", || tests(&["--doc"], &[], &count, &skipped));
    if !machine_wide.is_empty() {
        steps.run("machine-wide tests", || {
            let arguments: Vec<&str> =
                machine_wide.iter().flat_map(|name| ["--test", name.as_str()]).collect();
            // Most of them take turns, by a lock of their own; those that only wait do so together.
            tests(&arguments, &["--test-threads=3"], &count, &skipped)
        });
    }
    if long {
        steps.run("long tests", || long_tests(&count));
        steps.run("what goes wrong for minutes", || {
            let mut command = test_command(&["--test", "chaos"], &["--nocapture"])?;
            command.env("TOMBOLO_TEST_EVENTS", LONG_EVENTS);
            cargo::run_watched(&mut command, |line| count.add(line)).map(|()| String::new())
        });
    }

    close(&steps, &count, skipped.into_inner(), wait::now() - start);
    Ok(steps.failed().is_empty() && !interrupt::requested())
}

fn plain(arguments: &[&str]) -> Result<String> {
    cargo::run(&mut cargo::cargo(arguments)).map(|()| String::new())
}

/// `cargo test` for the workspace, with the executables that it builds.
fn test_command(arguments: &[&str], harness: &[&str]) -> Result<Command> {
    let mut command = cargo::cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.args(arguments).arg("--").args(harness);
    command.env(node::BINARIES, cargo::target_directory()?.join("debug"));
    Ok(command)
}

/// Runs `cargo test` for the workspace with further arguments, and counts.
fn tests(arguments: &[&str], harness: &[&str], count: &Count, skipped: &AtomicUsize) -> Result<String> {
    let mut command = test_command(arguments, harness)?;
    let skipped_before = skipped.load(Ordering::Relaxed);
    cargo::run_watched(&mut command, |line| {
        count.add(line);
        if line.starts_with("SKIPPED ") {
            skipped.fetch_add(1, Ordering::Relaxed);
        }
    })?;
    Ok(match skipped.load(Ordering::Relaxed) - skipped_before {
        0 => String::new(),
        number => format!("{number} SKIPPED: they need root"),
    })
}

/// One after the other, as some measure memory and time, and with what they print: they take minutes each.
fn long_tests(count: &Count) -> Result<String> {
    let mut command = cargo::cargo(&["test", "--profile", "long", "--no-fail-fast", "--lib", "--tests"]);
    command.args(LONG.iter().flat_map(|package| ["--package", package]));
    command.args(["--", "--include-ignored", "--nocapture", "--test-threads=1"]);
    if std::env::var_os("PROPTEST_CASES").is_none() {
        command.env("PROPTEST_CASES", LONG_CASES);
    }
    cargo::run_watched(&mut command, |line| count.add(line))?;
    Ok(String::new())
}

/// The names of the integration tests: those of ordinary packages, and those that change the machine.
/// A name that stands in both is run with the latter.
fn test_targets(metadata: &serde_json::Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut usual, mut machine_wide) = (BTreeSet::new(), BTreeSet::new());
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let names = if package["name"] == MACHINE_WIDE { &mut machine_wide } else { &mut usual };
        for target in package["targets"].as_array().into_iter().flatten() {
            if target["kind"][0] == "test" {
                names.extend(target["name"].as_str().map(str::to_owned));
            }
        }
    }
    usual.retain(|name| !machine_wide.contains(name));
    (usual, machine_wide)
}

/// What may bring versions of its own along: it encrypts the root key and backups, in a format that others
/// read too, and its cryptography is behind ours in releases.
const MAY_REPEAT: [&str; 1] = ["age"];

/// Two versions of one crate in the binary mean two copies of its code, and two sets of its faults.
fn one_version() -> Result<String> {
    let arguments = ["tree", "--package", "tombolo", "--edges", "normal,no-proc-macro", "--prefix", "none"];
    let mut command = cargo::cargo(&arguments);
    command.args(["--format", "{p}", "--target", "x86_64-unknown-linux-gnu"]);
    let output = command.args(MAY_REPEAT.iter().flat_map(|name| ["--prune", name])).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let tree = String::from_utf8_lossy(&output.stdout);
    let repeated = repeated(&tree);
    if !repeated.is_empty() {
        bail!("more than one version in the binary: {}", repeated.join(", "));
    }
    Ok(format!("but for what only {} needs", MAY_REPEAT.join(", ")))
}

/// `NAME VERSION, VERSION` for each package that stands in the lines `NAME VERSION …` with several.
fn repeated(tree: &str) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    several.map(|(name, versions)| format!("{name} {}", Vec::from_iter(versions).join(" and "))).collect()
}

fn close(steps: &Steps, count: &Count, skipped: usize, took: Duration) {
    println!();
    for step in &steps.done {
        let (word, note) = match &step.outcome {
            Ok(note) => ("ok", note.as_str()),
            Err(_) => ("FAILED", ""),
        };
        println!("{word:<7} {:<40} {:>6.1} s  {note}", step.name, step.took.as_secs_f64());
    }
    if skipped > 0 {
        println!("SKIPPED {skipped} machine-wide tests, which need root");
    }
    let failed = steps.failed();
    let ok = failed.is_empty() && !interrupt::requested();
    println!("\n{}", count.line(ok, took));
    if interrupt::requested() {
        println!("interrupted");
    } else if !ok {
        println!("failed: {}", failed.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_two_versions_is_named() {
        let tree =
            "tombolo v0.1.0 (/somewhere)\nsha2 v0.11.1\naead v0.6.1\nsha2 v0.10.9 (*)\naead v0.6.1 (*)\n\n";
        assert_eq!(repeated(tree), ["sha2 v0.10.9 and v0.11.1"]);
    }

    #[test]
    fn no_ignored_test_is_forgotten_by_the_long_run() {
        let metadata = cargo::metadata().expect("the workspace");
        let mark = concat!("#[", "ignore");
        for package in metadata["packages"].as_array().expect("packages") {
            let name = package["name"].as_str().expect("a name");
            let manifest = std::path::Path::new(package["manifest_path"].as_str().expect("a path"));
            let folder = manifest.parent().expect("a folder");
            let ignored = sources::files(folder).expect("read").into_iter().any(|file| {
                std::fs::read_to_string(file).expect("read").lines().any(|line| line.trim().starts_with(mark))
            });
            assert!(!ignored || LONG.contains(&name), "{name} has ignored tests");
        }
    }
}
