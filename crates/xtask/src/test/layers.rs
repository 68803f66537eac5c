//! Which crate may use which, and what the pure crates must not reach.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cargo;

/// The packages in the order of the design, each with those it may use; a dependency the other way
/// would make a cycle of thoughts, if not of crates.
const LAYERS: &[(&str, &[&str])] = &[
    ("tombolo-packet", &["tombolo-oracle"]),
    ("tombolo-noise", &["tombolo-packet"]),
    ("tombolo-route", &["tombolo-packet"]),
    ("tombolo-policy", &["tombolo-packet", "tombolo-route"]),
    ("tombolo-control", &["tombolo-packet", "tombolo-noise", "tombolo-route", "tombolo-policy"]),
    ("tombolo-tun", &["tombolo-packet"]),
    ("tombolo-udp", &["tombolo-packet"]),
    (
        "tombolo-engine",
        &[
            "tombolo-packet",
            "tombolo-noise",
            "tombolo-route",
            "tombolo-policy",
            "tombolo-tun",
            "tombolo-udp",
            "tombolo-oracle",
        ],
    ),
    ("tombolo-store", &["tombolo-noise", "tombolo-control"]),
    (
        "tombolo",
        &[
            "tombolo-packet",
            "tombolo-noise",
            "tombolo-route",
            "tombolo-policy",
            "tombolo-control",
            "tombolo-tun",
            "tombolo-udp",
            "tombolo-engine",
            "tombolo-store",
        ],
    ),
    ("tombolo-xtask", &["tombolo-tests"]),
];

/// Packages that stand outside of the layers: nothing that ships uses them.
const OUTSIDE: &[&str] = &["tombolo-tests", "tombolo-oracle", "tombolo-benches", "tombolo-fuzz"];

/// No clock, no socket, no file, no randomness of their own.
const PURE: &[&str] =
    &["tombolo-packet", "tombolo-noise", "tombolo-route", "tombolo-policy", "tombolo-control"];

/// What a pure crate must not reach through any number of dependencies.
const IMPURE: &[&str] =
    &["async-std", "getrandom", "libc", "mio", "nix", "rustix", "smol", "socket2", "tokio"];

/// Implementations that ours are held against: in tests and benchmarks, never in the binary.
const NEVER_SHIPPED: &[&str] = &["boringtun", "gotatun", "proptest", "tombolo-oracle"];

/// Checks the whole workspace.
///
/// # Errors
/// Names every edge that should not be.
pub(crate) fn check(metadata: &Value) -> Result<String> {
    let packages = metadata["packages"].as_array().context("packages")?;
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package's name")?;
        if OUTSIDE.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
            wrong.push(format!("{name} has no place in the layers"));
            continue;
        };
        let used = own_dependencies(package);
        wrong.extend(
            used.iter()
                .filter(|used| !allowed.contains(&used.as_str()))
                .map(|used| format!("{name} uses {used}")),
        );
    }
    let is_there = |name: &str| packages.iter().any(|package| package["name"] == name);
    for &name in PURE.iter().filter(|name| is_there(name)) {
        let reached = reach(name)?;
        wrong.extend(
            IMPURE
                .iter()
                .filter(|&&bad| reached.contains(bad))
                .map(|bad| format!("{name}, which is pure, reaches {bad}")),
        );
    }
    let shipped = if is_there("tombolo") { reach("tombolo")? } else { BTreeSet::new() };
    wrong.extend(
        NEVER_SHIPPED
            .iter()
            .filter(|&&bad| shipped.contains(bad))
            .map(|bad| format!("the binary contains {bad}")),
    );
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(String::new())
}

/// The workspace's packages that a package depends on, in any way.
fn own_dependencies(package: &Value) -> BTreeSet<String> {
    package["dependencies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|dependency| !dependency["path"].is_null())
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect()
}

/// The names of all packages that are linked into a package on Linux.
fn reach(package: &str) -> Result<BTreeSet<String>> {
    let arguments = [
        "tree",
        "--package",
        package,
        "--edges",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let output = cargo::cargo(&arguments).args(["--target", "x86_64-unknown-linux-gnu"]).output()?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workspace(name: &str, uses: &str) -> Value {
        json!({ "packages": [{ "name": name, "dependencies": [{ "name": uses, "path": "/somewhere", "kind": "dev" }] }] })
    }

    #[test]
    fn an_edge_against_the_direction_is_named() {
        let error = check(&workspace("tombolo-packet", "tombolo-noise")).expect_err("the wrong direction");
        assert!(error.to_string().contains("tombolo-packet uses tombolo-noise"), "{error}");
    }

    #[test]
    fn a_package_without_a_place_is_named() {
        let error = check(&workspace("tombolo-utils", "tombolo-packet")).expect_err("an unknown package");
        assert!(error.to_string().contains("tombolo-utils has no place"), "{error}");
    }

    #[test]
    fn each_layer_uses_only_earlier_ones() {
        for (position, (name, uses)) in LAYERS.iter().enumerate() {
            for used in *uses {
                let earlier = LAYERS[..position].iter().any(|(layer, _)| layer == used);
                assert!(earlier || OUTSIDE.contains(used), "{name} uses {used}");
            }
        }
    }
}
