//! Where `unsafe` may stand: in files called `sys.rs` of `tun` and `udp`, and of a test that counts allocations.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::cargo;

/// The crates that talk to the kernel by hand, and a test with an allocator of its own.
const MAY_BE_UNSAFE: &[&str] = &["crates/tun", "crates/udp", "crates/engine/tests/allocations"];

/// The crates that promise to the compiler that they have none.
const FORBID_UNSAFE: &[&str] =
    &["crates/packet", "crates/noise", "crates/route", "crates/policy", "crates/control"];

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
    fn only_the_system_files_of_two_crates_are_excepted() {
        assert!(may_be_unsafe(Path::new("crates/tun/src/linux/sys.rs")));
        assert!(!may_be_unsafe(Path::new("crates/tun/src/device.rs")));
        assert!(!may_be_unsafe(Path::new("crates/engine/src/sys.rs")));
        assert!(!may_be_unsafe(Path::new("crates/engine/tests/support/sys.rs")));
        assert!(!may_be_unsafe(Path::new("crates/engine/tests/allocations.rs")));
    }
}
