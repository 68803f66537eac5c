//! Programs that run beside a test, and end with it.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Signal, kill_process};

use crate::{
    Result, Scene,
    command::{describe, kill_group, pid_of},
    wait::wait_for,
};

/// A running program. It is killed, by its number, when this value is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    description: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `NAME.log` in the scene's folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(scene: &Scene, name: &str, command: &mut Command) -> Result<Self> {
        let log = scene.path(&format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let description = describe(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {description}"))?;
        Ok(Self { child, description, log })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result {
        kill_process(pid_of(&self.child)?, signal).with_context(|| format!("signalling {}", self.description))
    }

    /// As `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be collected.
    pub fn kill(&mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM), and waits.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.is_running() {
            self.signal(Signal::TERM)?;
        }
        self.wait(limit)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.description);
        wait_for(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// Waits until `text` stands in the log, or an error as soon as the program has ended without it.
    ///
    /// # Errors
    /// When it does not appear within `limit`, with the log.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result {
        wait_for(&format!("{text:?} from {}", self.description), limit, || {
            let ended = !self.is_running();
            if self.log().contains(text) {
                return Ok(Some(()));
            }
            anyhow::ensure!(!ended, "{} ended before it wrote {text:?}", self.description);
            Ok(None)
        })
        .with_context(|| format!("its log:\n{}", tail(&self.log, 20)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// The last `count` lines of a file; empty when it cannot be read.
pub fn tail(path: &Path, count: usize) -> String {
    let contents = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&contents);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
