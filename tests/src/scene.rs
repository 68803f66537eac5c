//! One machine-wide test: whether it may run here, a folder for its files, and its logs on failure.

use std::{
    fs::{self, File},
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context;

use crate::{Result, namespace, process::tail};

/// How many lines of each log are shown when a test fails.
const SHOWN_LINES: usize = 60;

/// A folder that ends with the test, and a voice that the test harness does not swallow.
#[derive(Debug)]
pub struct Scene {
    directory: PathBuf,
}

impl Scene {
    /// A folder of its own under the system's temporary folder; readable by all, because databases
    /// run as other users.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let name = format!("tombolo-{}-{}", process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file into the folder and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, contents: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// A line on standard error, past the harness, which keeps the output of tests to itself.
    pub fn say(&self, line: &str) {
        say(line);
    }

    /// The last lines of every log in the folder and those below it.
    pub fn logs(&self) -> String {
        let mut logs = Vec::new();
        collect_logs(&self.directory, &mut logs);
        logs.sort();
        logs.iter()
            .filter_map(|path| {
                let lines = tail(path, SHOWN_LINES);
                (!lines.is_empty()).then(|| format!("--- {}\n{lines}\n", path.display()))
            })
            .collect()
    }
}

fn collect_logs(folder: &Path, logs: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_logs(&path, logs);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            logs.push(path);
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Left behind, it would only take space.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs a test that changes the machine (namespaces, interfaces, databases), if that is possible here.
///
/// Without root it says SKIPPED and returns; with `CI=true` or `TOMBOLO_TEST_REQUIRE_ROOT=1` in the
/// environment it fails instead. It has the machine to itself among such tests, whatever runs them: they share the
/// processor, and some watch the clock.
///
/// # Panics
/// When the test fails: with its error, after the last lines of every `*.log` of its folder.
pub fn machine_wide(name: &str, test: impl FnOnce(&Scene) -> Result) {
    take_part(name, File::lock, test);
}

/// As [`machine_wide`], but beside others of this kind: it waits more than it works, and nothing that it claims
/// depends on how soon something happens.
///
/// # Panics
/// As [`machine_wide`].
pub fn machine_wide_and_patient(name: &str, test: impl FnOnce(&Scene) -> Result) {
    take_part(name, File::lock_shared, test);
}

fn take_part(name: &str, lock: fn(&File) -> io::Result<()>, test: impl FnOnce(&Scene) -> Result) {
    if !rustix::process::geteuid().is_root() {
        let required = |variable, value| std::env::var(variable).is_ok_and(|found| found == value);
        if required("CI", "true") || required("TOMBOLO_TEST_REQUIRE_ROOT", "1") {
            panic!("{name} needs root, and this run requires that it is not skipped");
        }
        say(&format!("SKIPPED {name}: it makes network namespaces, which needs root"));
        return;
    }
    let _turn = take_turn(lock).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    namespace::remove_stale();
    let scene = Scene::new().unwrap_or_else(|error| panic!("{name}: {error:#}"));
    match catch_unwind(AssertUnwindSafe(|| test(&scene))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{name}: {error:#}\n{}", scene.logs()),
        Err(panic) => {
            say(&scene.logs());
            resume_unwind(panic)
        }
    }
}

/// A lock on a file, released when the returned value is dropped or the process ends.
fn take_turn(lock: fn(&File) -> io::Result<()>) -> Result<File> {
    let path = std::env::temp_dir().join("tombolo-machine-wide.lock");
    let file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    lock(&file).context("waiting for other machine-wide tests")?;
    Ok(file)
}

fn say(line: &str) {
    // Straight to the descriptor: the harness captures what `eprintln!` writes.
    let _ = writeln!(std::io::stderr(), "{line}");
}
