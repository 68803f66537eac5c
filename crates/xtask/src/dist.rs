//! The static release binary: what ships, what the demonstration shows and what is measured.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use crate::cargo;

/// The target that is named, so that the static C runtime is not asked of build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// `cargo xtask dist`.
///
/// # Errors
/// When the build fails.
pub(crate) fn run() -> Result<bool> {
    for path in build()? {
        let size = fs::metadata(&path)?.len();
        println!("{}  {:.1} MiB ({size} bytes), static", path.display(), size as f64 / f64::from(1 << 20));
    }
    Ok(true)
}

/// Builds the executables and returns their paths, `tombolo` first.
///
/// # Errors
/// When the build fails, or an executable is not static.
pub(crate) fn build() -> Result<Vec<PathBuf>> {
    cargo::run(&mut cargo(&["build", "--release", "--package", "tombolo"])).context("the release build")?;
    let folder = cargo::target_directory()?.join(TARGET).join("release");
    let paths: Vec<PathBuf> = ["tombolo", "tombolo-wireguard"].iter().map(|name| folder.join(name)).collect();
    for path in &paths {
        let contents = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(!has_interpreter(&contents), "{} is not static: it asks for a loader", path.display());
    }
    Ok(paths)
}

/// A cargo command that builds as what ships is built: what is measured beside it has the same flags.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = cargo::cargo(arguments);
    command.args(["--target", TARGET]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    command
}

/// Whether an ELF file of 64 bits has a program header of type `PT_INTERP` (System V ABI, chapter 5).
fn has_interpreter(contents: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |offset: usize, length: usize| {
        let bytes = contents.get(offset..offset + length).unwrap_or_default();
        bytes.iter().rev().fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|index| number(start + index * size, 4) == PT_INTERP as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_told_from_one_without() {
        let own = fs::read(std::env::current_exe().expect("a running test")).expect("our own executable");
        assert!(has_interpreter(&own), "tests are linked dynamically");
        assert!(!has_interpreter(&own[..64]), "a file that ends after its header");
    }
}
