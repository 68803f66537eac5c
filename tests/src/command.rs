//! Running other programs to their end.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Result, wait::wait_for};

/// How long a program may take when the caller does not say.
pub const USUAL_LIMIT: Duration = Duration::from_secs(60);

/// Runs `command` to its end and returns all that came of it, whatever its exit code.
///
/// # Errors
/// When it cannot be started, or not ended within `limit`; it is killed then, with its children.
pub fn output(command: &mut Command, limit: Duration) -> Result<Output> {
    output_with(command, Stdio::null(), limit)
}

fn output_with(command: &mut Command, input: Stdio, limit: Duration) -> Result<Output> {
    let description = describe(command);
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {description}"))?;
    let stdout = child.stdout.take().map(read_in_background);
    let stderr = child.stderr.take().map(read_in_background);
    let status = match wait_for(&format!("the end of {description}"), limit, || Ok(child.try_wait()?)) {
        Ok(status) => status,
        Err(error) => {
            kill_group(&mut child);
            return Err(error);
        }
    };
    let collect = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        reader.and_then(|thread| thread.join().ok()).unwrap_or_default()
    };
    Ok(Output { status, stdout: collect(stdout), stderr: collect(stderr) })
}

/// Runs `command` and returns its standard output.
///
/// # Errors
/// As [`output`], and when the exit code is not zero: the error holds both outputs then.
pub fn run(command: &mut Command) -> Result<String> {
    run_within(command, USUAL_LIMIT)
}

/// [`run`] with another limit than the usual one.
///
/// # Errors
/// As [`run`].
pub fn run_within(command: &mut Command, limit: Duration) -> Result<String> {
    checked(output(command, limit)?, command)
}

fn checked(output: Output, command: &Command) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}\n{stdout}{stderr}", describe(command), output.status);
    }
    Ok(stdout)
}

/// [`run`] with `input` on standard input: for inputs of a few lines, which a pipe holds at once.
///
/// # Errors
/// As [`run`].
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(input.as_bytes())?;
    drop(writer);
    checked(output_with(command, Stdio::from(reader), USUAL_LIMIT)?, command)
}

/// Whether `command` ends with exit code zero.
///
/// # Errors
/// As [`output`].
pub fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(output(command, USUAL_LIMIT)?.status.success())
}

/// Runs the `ip` program with `arguments`, split at white space.
///
/// # Errors
/// As [`run`].
pub fn ip(arguments: &str) -> Result<String> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Whether there is an executable file of this name on the path.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// The command as a person would type it.
pub fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The number of a child, in the form that signals want it.
///
/// # Errors
/// Never for a child that was started; a zero would address our own group.
pub fn pid_of(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("a child without a number"))
}

/// Kills a child that leads a process group, with its group, and collects it.
pub fn kill_group(child: &mut Child) {
    if let Ok(pid) = pid_of(child) {
        // The group may be gone already; then there is nothing left to do.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn read_in_background(mut source: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut contents = Vec::new();
        // A broken pipe ends the output; what came before it is still worth showing.
        let _ = source.read_to_end(&mut contents);
        contents
    })
}
