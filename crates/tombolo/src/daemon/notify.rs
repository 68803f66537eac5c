//! Telling who started the daemon that it is ready: the service manager, or the `up` that waits.

use std::io::Write as _;
use std::time::Duration;

use sd_notify::NotifyState;

/// The word that a background daemon writes to the pipe on its standard output.
pub(crate) const READY_WORD: &str = "ready";

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Nobody but, perhaps, systemd.
    ServiceManager,
    /// A parent reads our standard output.
    Parent,
}

pub(crate) fn ready(waiting: Waiting, status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
    if waiting == Waiting::Parent {
        // If the parent has gone, nobody waits.
        let mut output = std::io::stdout().lock();
        let _ = writeln!(output, "{READY_WORD}").and_then(|()| output.flush());
        // The parent waits for one word; the pipe must not stay ours.
        if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdout(null);
        }
    }
}

pub(crate) fn reloading() {
    // systemd compares this with its own clock to know that the message is about this reload.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

pub(crate) fn reloaded(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(crate) fn stopping() {
    send(&[NotifyState::Stopping]);
}

pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] has to be called; `None` where nobody watches.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    // Half of what is allowed, as sd_watchdog_enabled(3) advises.
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}
