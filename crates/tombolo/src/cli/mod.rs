//! What a user types.

mod admin;
pub mod args;
mod attempt;
mod audit;
mod backup;
mod bugreport;
mod check;
mod doctor;
mod doctor_register;
mod failure;
mod generate;
mod import;
mod init;
mod join;
pub(crate) mod logging;
mod restore;
mod root_key;
mod rotate;
mod servers;
mod status;
mod trust;
mod up;
mod wait;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

pub(crate) use audit::utc;
pub use failure::Failure;
pub(crate) use failure::failed;

use crate::paths::Directories;
use args::{Cli, Command, ConfigCommand, ServerCommand};

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistakes; everything else is the user's (exit code 1, not clap's 2).
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            let _ = writeln!(std::io::stderr(), "tombolo: {text}");
            if !rustix::process::geteuid().is_root() && text.contains("ermission denied") {
                let _ = writeln!(
                    std::io::stderr(),
                    "tombolo: this wants root, as with sudo; only `server init` can be tried without, in folders of your own: \
                     TOMBOLO_CONFIG_DIR, TOMBOLO_STATE_DIR, TOMBOLO_RUN_DIR"
                );
            }
            failure.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let directories = Directories::from_environment();
    match &cli.command {
        Command::Genkey => generate::private_key(),
        Command::Genpsk => generate::preshared_key(),
        Command::Pubkey => generate::public_key(),
        Command::Config(ConfigCommand::Check { file }) => check::run(&cli, &directories, file.as_deref()),
        Command::Import(arguments) => import::run(&cli, &directories, arguments),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "tombolo", &mut text);
            print_bytes(&text)
        }
        Command::Man { directory } => manual(directory.as_deref()),
        Command::Up(arguments) => up::up(&cli, &directories, arguments),
        Command::Server(ServerCommand::Init(arguments)) => init::run(&cli, &directories, arguments),
        Command::Server(ServerCommand::Backup(arguments)) => backup::run(&cli, &directories, arguments),
        Command::Server(ServerCommand::Restore(arguments)) => restore::run(&cli, &directories, arguments),
        Command::Server(ServerCommand::Trust(command)) => trust::run(&cli, &directories, command),
        Command::Join(arguments) => join::join(&cli, &directories, arguments),
        Command::RotateKey => rotate::run(&cli, &directories),
        Command::Leave(arguments) => join::leave(&cli, &directories, arguments),
        Command::Token(command) => admin::token(&cli, &directories, command),
        Command::Node(command) => admin::node(&cli, &directories, command),
        Command::Net(command) => admin::network(&cli, &directories, command),
        Command::Audit(arguments) => audit::run(&cli, &directories, arguments),
        Command::Whois(arguments) => admin::whois(&cli, &directories, arguments),
        Command::Down(arguments) => up::down(&cli, &directories, arguments),
        Command::Guard => up::guard(&cli, &directories),
        Command::Status(arguments) => status::run(&cli, &directories, arguments),
        Command::Wait(arguments) => wait::wait(&cli, &directories, arguments),
        Command::Ping(arguments) => wait::ping(&cli, &directories, arguments),
        Command::Doctor => doctor::run(&cli, &directories),
        Command::Bugreport => bugreport::run(&cli, &directories),
    }
}

fn manual(directory: Option<&std::path::Path>) -> Result<(), Failure> {
    if let Some(directory) = directory {
        return clap_mangen::generate_to(Cli::command(), directory)
            .map_err(|error| Failure::runtime(format!("cannot write into {}", directory.display()), error));
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut text)
        .map_err(|error| Failure::runtime("cannot make the page", error))?;
    print_bytes(&text)
}

/// Asks without echo.
///
/// # Errors
/// When nobody answers.
fn prompt(question: &str) -> Result<zeroize::Zeroizing<String>, Failure> {
    rpassword::prompt_password(question).map(zeroize::Zeroizing::new).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Failure::Mistake("nothing was typed; nothing was done".to_owned())
        }
        _ => Failure::runtime("the terminal cannot be read", error),
    })
}

/// Writes to standard output. A reader that went away (`| head`) is not a failure.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}

/// Writes one line to standard output.
fn print_line(text: &str) -> Result<(), Failure> {
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(text.len() + 1));
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    print_bytes(&line)
}
