//! Log lines, human or JSON, on standard error.

use tracing_subscriber::EnvFilter;

use super::Failure;
use super::args::{Cli, LogFormat};

/// Starts logging as the options say.
pub(super) fn start(cli: &Cli) -> Result<(), Failure> {
    // A name server that does not answer is told once, by the daemon, and not by every layer of the
    // resolver; who asks for more by name gets it.
    let quiet = if cli.log.contains("hickory") {
        ""
    } else {
        ",hickory_resolver=off,hickory_net=off,hickory_proto=off"
    };
    let filter = EnvFilter::try_new(format!("{}{quiet}", cli.log))
        .map_err(|error| Failure::Mistake(format!("`{}` is not a log filter: {error}", cli.log)))?;
    start_with(filter, cli.log_format);
    Ok(())
}

/// Starts logging with a filter. A log that cannot be written (a closed pipe) is no reason to stop.
pub(crate) fn start_with(filter: EnvFilter, format: LogFormat) {
    use std::io::IsTerminal as _;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .log_internal_errors(false);
    // It fails only when there is a logger already.
    let _ = match format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
