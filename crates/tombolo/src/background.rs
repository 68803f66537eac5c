//! Going to the background: the program starts itself again in a session of its own, and waits until
//! that process says that it is ready.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::daemon::notify::READY_WORD;

/// How a background process came up.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It runs.
    Ready,
    /// It ended instead; what it had written until then.
    Ended(ExitStatus, String),
}

/// Starts this program with `arguments` and its standard error in a log file.
///
/// # Errors
/// The program cannot be started or its log not be opened.
pub(crate) fn start_with_log(arguments: &[String], log: &Path) -> io::Result<Outcome> {
    let mut file = open_log(log)?;
    let start = file.seek(SeekFrom::End(0))?;
    let mut child = command(arguments)?.stdout(Stdio::piped()).stderr(file.try_clone()?).spawn()?;
    if is_ready(&mut child)? {
        return Ok(Outcome::Ready);
    }
    let status = child.wait()?;
    let mut written = String::new();
    let mut reader = File::open(log)?;
    reader.seek(SeekFrom::Start(start))?;
    // The last words are what matters; a log is text, but nobody promises it.
    let mut bytes = Vec::new();
    reader.take(64 << 10).read_to_end(&mut bytes)?;
    written.push_str(&String::from_utf8_lossy(&bytes));
    Ok(Outcome::Ended(status, written))
}

/// Starts this program with `arguments`; what it writes to standard error until it is ready is passed on.
///
/// # Errors
/// The program cannot be started.
pub(crate) fn start_relayed(arguments: &[String], variables: &[(&str, &str)]) -> io::Result<Outcome> {
    let mut command = command(arguments)?;
    command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if is_ready(&mut child)? {
        return Ok(Outcome::Ready);
    }
    let mut written = String::new();
    if let Some(mut errors) = child.stderr.take() {
        let mut bytes = Vec::new();
        errors.read_to_end(&mut bytes)?;
        written.push_str(&String::from_utf8_lossy(&bytes));
    }
    Ok(Outcome::Ended(child.wait()?, written))
}

fn command(arguments: &[String]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    // The child calls setsid(2) itself: see `leave_session`.
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

fn open_log(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// Reads the child's standard output until it says that it is ready, or closes it.
fn is_ready(child: &mut Child) -> io::Result<bool> {
    let Some(output) = child.stdout.take() else { return Ok(false) };
    for line in BufReader::new(output).lines() {
        if line? == READY_WORD {
            return Ok(true);
        }
    }
    Ok(false)
}

/// In the child: out of the session and the terminal of the one who typed the command.
pub(crate) fn leave_session() {
    // It fails only for the leader of a process group, which a child never is.
    let _ = rustix::process::setsid();
    // Nor does the daemon keep a directory in use.
    let _ = std::env::set_current_dir("/");
}

/// In the child, once ready: standard error goes nowhere from now on.
pub(crate) fn silence() {
    let _ = std::io::stderr().flush();
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stderr(null);
    }
}
