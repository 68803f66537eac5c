//! A person at a terminal: a program that has one, what stands on its screen, and what is typed.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

use crate::{
    Result,
    command::kill_group,
    wait::{wait_for, wait_until},
};

/// A program that runs on a terminal of its own; killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts `setsid --ctty --wait PROGRAM …`, wherever that is to run: as what a person types after a login.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the program cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?;
        let terminal = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.as_bytes()))?;
        command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        let child = command.spawn().context("starting a program on a terminal")?;
        // It holds the terminal open, whose end the reader below waits for.
        drop(command);
        let keyboard = File::from(controller);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, seen) = (keyboard.try_clone()?, Arc::clone(&screen));
        thread::spawn(move || {
            let mut part = [0; 1024];
            // It fails when nobody has the terminal open any more.
            while let Ok(length @ 1..) = reader.read(&mut part) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&part[..length]);
            }
        });
        Ok(Self { child, keyboard, screen })
    }

    /// All that stood on the screen so far.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Waits until `question` is asked and what is typed is not shown, and types a line.
    ///
    /// # Errors
    /// When that does not happen in time: the error has the screen.
    pub fn answer_unseen(&mut self, question: &str, line: &str, limit: Duration) -> Result {
        wait_until(&format!("`{question}` without echo"), limit, || {
            let hidden = tcgetattr(&self.keyboard)
                .is_ok_and(|settings| !settings.local_modes.contains(LocalModes::ECHO));
            hidden && self.screen().trim_end().ends_with(question)
        })
        .with_context(|| self.screen())?;
        Ok(self.keyboard.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Waits for its end; gives how it ended, and the whole screen.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        let status = wait_for("the end of the program", limit, || Ok(self.child.try_wait()?))
            .with_context(|| self.screen())?;
        let settings = tcgetattr(&self.keyboard)?;
        ensure!(settings.local_modes.contains(LocalModes::ECHO), "what is typed later would not be shown");
        Ok((status, self.screen()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}
