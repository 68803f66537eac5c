//! `config check`.

use std::path::Path;

use super::args::Cli;
use super::{Failure, print_line};
use crate::config;
use crate::paths::Directories;

pub(super) fn run(cli: &Cli, directories: &Directories, file: Option<&Path>) -> Result<(), Failure> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => directories.config_file(&directories.choose_network(cli.network.as_deref())?),
    };
    match config::load(&path) {
        Ok(config) => print_line(&format!("{}: ok, {} peers", path.display(), config.peers.len())),
        Err(error) => {
            let count = error.problems.len();
            let plural = if count == 1 { "problem" } else { "problems" };
            Err(Failure::Mistake(format!("{count} {plural}\n{error}")))
        }
    }
}
