//! Where `unsafe` may stand: in files called `sys.rs` of `tun` and `udp`, and of a test that counts allocations. And where
//! the root key may be opened: in commands that a person gives, never in the daemon (control rule 1).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::cargo;

/// The crates that talk to the kernel by hand, and a test with an allocator of its own.
const MAY_BE_UNSAFE: &[&str] = &["crates/tun", "crates/udp", "crates/engine/tests/allocations"];

/// The crates that promise to the compiler that they have none.
const FORBID_UNSAFE: &[&str] = &["crates/packet", "crates/noise", "crates/route", "crates/control"];

/// All that ships beside the root key's own file and the command line: the daemon, and what it stands on.
const NEVER_OPENS_ROOT: &[&str] = &[
    "crates/engine",
    "crates/store",
    "crates/control/src/authority",
    "crates/control/src/lighthouse",
    "crates/control/src/node",
    "crates/tombolo/src",
];
const COMMANDS: &str = "crates/tombolo/src/cli";

/// What opens the root key, or signs with it.
const ROOT: [&str; 3] = ["RootKeys", "RootFile", "root_key"];

/// Reads every source file of what the daemon is made of, without tests.
///
/// # Errors
/// Names every place where the root key could be loaded.
pub(crate) fn check_root_key() -> Result<String> {
    let root = cargo::root();
    let mut files = Vec::new();
    for folder in NEVER_OPENS_ROOT {
        collect(&root.join(folder), &mut files)?;
    }
    let mut wrong = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file);
        if name.starts_with(COMMANDS) || is_test(name) {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| opens_root(line));
        wrong.extend(lines.map(|(number, _)| format!("{}:{}", name.display(), number + 1)));
    }
    if !wrong.is_empty() {
        bail!("the daemon never loads the root key (control rule 1):\n{}", wrong.join("\n"));
    }
    Ok(String::new())
}

fn opens_root(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ROOT.iter().any(|what| code.contains(what))
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with("tests"))
}

/// Reads every source file of the workspace.
///
/// # Errors
/// Names every place that should not be.
pub(crate) fn check() -> Result<String> {
    let root = cargo::root();
    let mut wrong = Vec::new();
    for folder in FORBID_UNSAFE {
        if !root.join(folder).exists() {
            continue;
        }
        let path = root.join(folder).join("src/lib.rs");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        if !text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
            wrong.push(format!("{folder}/src/lib.rs does not forbid unsafe code"));
        }
    }
    let mut files = Vec::new();
    for folder in ["crates", "tests", "benches", "fuzz"] {
        collect(&root.join(folder), &mut files)?;
    }
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(&file);
        if may_be_unsafe(name) {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let lines = text.lines().enumerate().filter(|(_, line)| is_unsafe(line));
        wrong.extend(lines.map(|(number, _)| format!("{}:{}: unsafe", name.display(), number + 1)));
    }
    if !wrong.is_empty() {
        bail!("unsafe code belongs into sys.rs of tun and udp:\n{}", wrong.join("\n"));
    }
    Ok(String::new())
}

/// The source files of a folder and what is in it.
#[cfg(test)]
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    Ok(files)
}

fn may_be_unsafe(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "sys.rs")
        && MAY_BE_UNSAFE.iter().any(|folder| path.starts_with(folder))
}

/// Whether a line opens something unsafe: a block, a function, an implementation, an attribute.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["{", "fn ", "impl ", "trait ", "extern "]
        .iter()
        .any(|what| code.contains(&format!("{} {what}", "unsafe")))
        || code.contains(concat!("unsafe", "(no_mangle"))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_told_from_words_about_it() {
        assert!(is_unsafe(concat!("    let x = unsafe", " { read(p) };")));
        assert!(is_unsafe(concat!("pub unsafe", " fn read() {")));
        assert!(!is_unsafe("#![forbid(unsafe_code)]"));
        assert!(!is_unsafe(concat!("// an unsafe", " { block } would do")));
    }

    #[test]
    fn the_daemon_never_loads_the_root_key_control_rule_1() {
        assert!(opens_root("use tombolo_control::root::RootKeys;") && opens_root("super::root_key::open()"));
        assert!(!opens_root("// RootKeys are another's affair"));
        assert!(
            is_test(Path::new("crates/store/tests/register.rs")) && !is_test(Path::new("src/daemon/run.rs"))
        );
        check_root_key().expect("only commands open it");
        let commands = cargo::root().join(COMMANDS).join("root_key.rs");
        let text = fs::read_to_string(commands).expect("where it is opened");
        assert!(text.lines().any(opens_root), "what is looked for has another name now");
    }

    #[test]
    fn only_the_system_files_of_two_crates_are_excepted() {
        assert!(may_be_unsafe(Path::new("crates/tun/src/linux/sys.rs")));
        assert!(!may_be_unsafe(Path::new("crates/tun/src/device.rs")));
        assert!(!may_be_unsafe(Path::new("crates/engine/src/sys.rs")));
        assert!(!may_be_unsafe(Path::new("crates/engine/tests/support/sys.rs")));
        assert!(!may_be_unsafe(Path::new("crates/engine/tests/allocations.rs")));
    }
}
