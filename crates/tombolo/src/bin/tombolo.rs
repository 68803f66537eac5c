//! The `tombolo` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    tombolo::cli::main()
}
